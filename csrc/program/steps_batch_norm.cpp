// Steps of batch-norm: column by column where a features phase has all rows, else statistics, merge, normalise.
#include <algorithm>

#include "operators/batch_norm.hpp"
#include "planner.hpp"

namespace fastbn {

namespace {

// moving = moving * momentum + batch * (1 - momentum)
void move_statistics(float* moving, const double* batch, double momentum, int64_t size) {
  for (int64_t i = 0; i < size; ++i)
    moving[i] = static_cast<float>(static_cast<double>(moving[i]) * momentum + batch[i] * (1 - momentum));
}

}  // namespace

void Planner::coefficients_from_moving_statistics(const Op& op, int coefficients) {
  const int64_t channels = node(op).channels();
  const double epsilon = node(op).layer.epsilon;
  const Parameter* gamma = store_.find(op.node, ParameterRole::gamma);
  const Parameter* beta = store_.find(op.node, ParameterRole::beta);
  const Parameter* mean = store_.find(op.node, ParameterRole::moving_mean);
  const Parameter* variance = store_.find(op.node, ParameterRole::moving_variance);
  const int moments = new_global(name(op) + " moments", channels * 16);
  Step s = step(op, "coefficients", FBN_FORWARD, {}, {coefficients, moments});
  s.run = [=](const StepContext& c) {
    double* m = c.at<double>(moments);
    std::copy_n(mean->value.floats(), channels, m);
    std::copy_n(variance->value.floats(), channels, m + channels);
    const BatchNormCoefficients k = batch_norm_coefficients(c.at<double>(coefficients), channels);
    batch_norm_forward_coefficients(channels, m, m + channels, epsilon, gamma ? gamma->value.floats() : nullptr,
                                    beta ? beta->value.floats() : nullptr, k);
  };
  emit_prologue(std::move(s));
}

void Planner::forward_batch_norm(const Op& op) {
  const Matrix m = matrix_of(node(op));
  const int64_t channels = m.columns;
  const fbn_layer& layer = node(op).layer;
  const double epsilon = layer.epsilon, momentum = layer.momentum;
  const Parameter* gamma = store_.find(op.node, ParameterRole::gamma);
  const Parameter* beta = store_.find(op.node, ParameterRole::beta);
  Parameter* moving_mean = store_.find(op.node, ParameterRole::moving_mean);
  Parameter* moving_variance = store_.find(op.node, ParameterRole::moving_variance);
  const int coefficients = new_global(name(op) + " coefficients", kBatchNormCoefficientArrays * channels * 8);
  const bool batch_statistics = training_ && !layer.frozen;
  const int input = values_.at(op.inputs[0]);

  // y = act((x - mean) scale + shift + residual), on whatever part of the matrix the phase works on
  const auto apply = [this, op, m, coefficients](int x, int residual) {
    const int y = floats(name(op), m.size());
    std::vector<int> reads = {x, coefficients};
    if (residual >= 0) reads.push_back(residual);
    Step s = step(op, "normalise", FBN_FORWARD, reads, {y});
    s.in_place_out = y;
    s.in_place_in = residual >= 0 ? residual : x;
    s.run = [op, m, coefficients, x, residual, y](const StepContext& c) {
      const Part p = part(c, m);
      batch_norm_apply({p.region.rows, p.region.columns, p.region.stride}, c.at(x) + p.offset,
                       batch_norm_coefficients(c.at<double>(coefficients), m.columns).from(p.offset),
                       residual >= 0 ? c.at(residual) + p.offset : nullptr, op.activation, op.alpha,
                       c.at(y) + p.offset);
    };
    emit(std::move(s));
    return y;
  };
  const auto residual_here = [this, op] { return op.residual >= 0 ? use(values_.at(op.residual)) : -1; };
  // The same at the beginning of a phase of its own, or behind what was made in this one.
  const auto normalise = [this, op, input, apply, residual_here] {
    begin(Domain::samples);
    const int x = use(input);
    return apply(x, residual_here());
  };
  const auto normalise_later = [this, op, normalise] { values_[op.output] = normalise(); };

  if (!batch_statistics) {
    coefficients_from_moving_statistics(op, coefficients);
    batch_norm_[op.node] = {-1, coefficients, {}, {}, {}, {}};
    if (op.residual >= 0) settle(values_.at(op.residual));
    flexible(m, {input});
    const int x = use(input);
    values_[op.output] = apply(x, residual_here());
    return;
  }

  // Every task of a features phase has all rows of its columns: statistics and normalisation without a new phase.
  const bool by_columns = in_features(m.columns, m.rows) && written_here(input);
  // statistics: mean and variance [channels] each, then per chunk shift (float), sum and square
  const int64_t chunk_bytes = round_up(channels * 4, 8) + channels * 16;
  const int statistics = new_global(name(op) + " statistics", channels * 16 + (by_columns ? 1 : kChunks) * chunk_bytes);
  BatchNormState& state = batch_norm_[op.node] = {statistics, coefficients, {}, {}, {}, {}};
  struct ChunkSums {
    float* shift;
    double *sum, *square;
  };
  const auto chunk_sums = [channels, chunk_bytes](char* base, int64_t chunk) {
    char* p = base + channels * 16 + chunk * chunk_bytes;
    double* sum = reinterpret_cast<double*>(p + round_up(channels * 4, 8));
    return ChunkSums{reinterpret_cast<float*>(p), sum, sum + channels};
  };
  const auto finish = [=](const StepContext& c, int64_t begin, int64_t end) {  // from mean and variance in statistics
    const double* mean = c.at<double>(statistics) + begin;
    const double* variance = mean + channels;
    batch_norm_forward_coefficients(end - begin, mean, variance, epsilon,
                                    gamma ? gamma->value.floats() + begin : nullptr,
                                    beta ? beta->value.floats() + begin : nullptr,
                                    batch_norm_coefficients(c.at<double>(coefficients), channels).from(begin));
    move_statistics(moving_mean->value.floats() + begin, mean, momentum, end - begin);
    move_statistics(moving_variance->value.floats() + begin, variance, momentum, end - begin);
  };

  if (by_columns) {
    Step s = step(op, "statistics", FBN_FORWARD, {input}, {statistics, coefficients});
    s.run = [=](const StepContext& c) {
      const int64_t rows = c.count * m.rows, columns = c.end - c.begin;
      const float* x = c.at(input) + c.begin;
      const ChunkSums all = chunk_sums(c.at<char>(statistics), 0);
      std::copy_n(x, columns, all.shift + c.begin);
      std::fill_n(all.sum + c.begin, columns, 0.0);
      std::fill_n(all.square + c.begin, columns, 0.0);
      batch_norm_sums(x, m.columns, rows, columns, all.shift + c.begin, all.sum + c.begin, all.square + c.begin);
      double* mean = c.at<double>(statistics) + c.begin;
      double* variance = mean + channels;
      batch_norm_moments(rows, columns, all.shift + c.begin, all.sum + c.begin, all.square + c.begin, mean, variance);
      for (int64_t i = 0; i < columns; ++i) variance[i] /= static_cast<double>(rows);
      finish(c, c.begin, c.end);
    };
    emit(std::move(s));
    const auto residual = values_.find(op.residual);
    if (op.residual >= 0 && (residual == values_.end() || !is_made(residual->second))) {  // its operator comes later
      state.normalise = normalise_later;
    } else {
      values_[op.output] = apply(input, residual_here());
    }
    return;
  }

  begin(Domain::samples);
  int x = use(input);
  Step sums = step(op, "statistics", FBN_FORWARD, {x}, {statistics});
  sums.run = [=](const StepContext& c) {
    const ChunkSums s = chunk_sums(c.at<char>(statistics), c.chunk);
    if (c.chunk_start) {
      std::copy_n(c.at(x), channels, s.shift);
      std::fill_n(s.sum, channels, 0.0);
      std::fill_n(s.square, channels, 0.0);
    }
    for (int64_t i = 0; i < c.count; ++i)  // image by image, so that blocks of any size give the same bits
      batch_norm_sums(c.at(x) + i * m.size(), channels, m.rows, channels, s.shift, s.sum, s.square);
  };
  emit(std::move(sums));

  const int merged = new_global(name(op) + " moments of a chunk", channels * 16);
  Step merge = step(op, "merge", FBN_FORWARD, {statistics}, {coefficients, merged});
  merge.run = [=](const StepContext& c) {
    char* base = c.at<char>(statistics);
    double* mean = c.at<double>(statistics);
    double* m2 = mean + channels;
    double* other = c.at<double>(merged);
    int64_t rows = 0;
    for (int64_t i = 0; i < c.run->plan->chunks(c.run->batch); ++i) {
      const int64_t count = c.run->plan->chunk_size(c.run->batch, i) * m.rows;
      const ChunkSums s = chunk_sums(base, i);
      batch_norm_moments(count, channels, s.shift, s.sum, s.square, i == 0 ? mean : other,
                         i == 0 ? m2 : other + channels);
      if (i > 0) batch_norm_merge(channels, rows, mean, m2, count, other, other + channels);
      rows += count;
    }
    for (int64_t i = 0; i < channels; ++i) m2[i] /= static_cast<double>(rows);  // now the variance
    finish(c, 0, channels);
  };
  state.merge = [this, merge, statistics] {
    begin(Domain::single, {statistics});
    emit(merge);
  };
  // A residual has two readers and would pull in the chain before it; a chain of batch-norms would be made again from
  // its beginning by each of its readers.
  const int remakes = plan_->values[static_cast<size_t>(input)].remakes + 1;
  if (op.residual >= 0 || remakes > kMostRemakes) {
    state.normalise = normalise_later;
  } else {  // made in each phase that reads it
    Value& y = plan_->values[static_cast<size_t>(values_[op.output] = floats(name(op), m.size()))];
    y.remake = normalise;
    y.remakes = remakes;
  }
}

void Planner::backward_batch_norm(const Op& op, int dy) {
  const Matrix m = matrix_of(node(op));
  const int64_t channels = m.columns;
  const double epsilon = node(op).layer.epsilon;
  const bool frozen = node(op).layer.frozen != 0;
  BatchNormState& state = batch_norm_.at(op.node);
  const int statistics = state.statistics, coefficients = state.coefficients;
  Parameter* gamma = store_.find(op.node, ParameterRole::gamma);
  Parameter* beta = store_.find(op.node, ParameterRole::beta);
  if (gamma != nullptr && !gamma->spec.trainable) gamma = nullptr;
  if (beta != nullptr && !beta->spec.trainable) beta = nullptr;
  const bool data = needs_gradient(op.inputs[0]);
  const int x_stored = values_.at(op.inputs[0]);
  // The activation behind a residual sum needs y; its gradient dy' is also the residual's, so it is made once and
  // kept. Without a residual the activation's argument comes from x, in each pass over it.
  const int32_t activation = op.residual >= 0 ? FBN_LINEAR : op.activation;
  if (op.residual >= 0) {
    dy = backward_activation(op, m, dy);
    contribute(op.residual, dy);
  }

  const auto apply = [=, this](int g, int x) {
    const int dx = floats("gradient into " + name(op), m.size());
    Step s = step(op, "backward_apply", FBN_BACKWARD, {g, x, coefficients}, {dx});
    s.in_place_out = dx;
    s.in_place_in = g;
    s.run = [=](const StepContext& c) {
      const Part p = part(c, m);
      batch_norm_backward_apply({p.region.rows, p.region.columns, p.region.stride}, c.at(g) + p.offset,
                                c.at(x) + p.offset, nullptr,
                                batch_norm_coefficients(c.at<double>(coefficients), channels).from(p.offset), frozen,
                                activation, op.alpha, c.at(dx) + p.offset, nullptr);
    };
    emit(std::move(s));
    contribute(op.inputs[0], dx);
  };

  if (frozen) {
    if (!data) return;
    if (!(in_features(m.columns, m.rows) && written_here(dy))) begin(Domain::samples);
    const int x = use(x_stored);
    apply(use(dy), x);
    return;
  }

  const bool by_columns = in_features(m.columns, m.rows) && written_here(dy);
  const int sums = new_global(name(op) + " backward sums", (by_columns ? 1 : kChunks) * channels * 16);
  ParameterStore* store = &store_;
  // dgamma = rstd sum dy' xc, dbeta = sum dy', for columns [begin, end)
  const auto gradients = [=](const StepContext& c, const double* sum_dy, const double* sum_dy_xc, int64_t begin,
                             int64_t end, float* dgamma, float* dbeta) {
    const double* variance = c.at<double>(statistics) + channels;
    batch_norm_parameter_gradients(end - begin, variance + begin, epsilon, sum_dy + begin, sum_dy_xc + begin, dgamma,
                                   dbeta);
  };

  if (by_columns) {
    const int x = use(x_stored);
    Step s = step(op, "backward_sums", FBN_BACKWARD, {dy, x, statistics, coefficients}, {sums});
    s.note = "gamma and beta updated here";
    s.scratch_floats = 2 * channels;
    s.run = [=](const StepContext& c) {
      const Part p = part(c, m);
      const int64_t columns = c.end - c.begin;
      double* sum_dy = c.at<double>(sums);
      double* sum_dy_xc = sum_dy + channels;
      std::fill_n(sum_dy + c.begin, columns, 0.0);
      std::fill_n(sum_dy_xc + c.begin, columns, 0.0);
      const BatchNormCoefficients k = batch_norm_coefficients(c.at<double>(coefficients), channels).from(c.begin);
      batch_norm_backward_sums({p.region.rows, columns, m.columns}, c.at(dy) + p.offset, c.at(x) + p.offset, nullptr, k,
                               activation, op.alpha, sum_dy + c.begin, sum_dy_xc + c.begin);
      batch_norm_backward_coefficients(columns, p.region.rows, c.at<double>(statistics) + channels + c.begin, epsilon,
                                       sum_dy + c.begin, sum_dy_xc + c.begin, k);
      gradients(c, sum_dy, sum_dy_xc, c.begin, c.end, c.scratch, c.scratch + columns);
      if (gamma != nullptr) update_parameter(*store, c.run->rule, *gamma, c.scratch, c.begin, columns);
      if (beta != nullptr) update_parameter(*store, c.run->rule, *beta, c.scratch + columns, c.begin, columns);
    };
    emit(std::move(s));
    if (data) apply(dy, x);
    return;
  }

  begin(Domain::samples);
  {
    const int x = use(x_stored);
    const int g = use(dy);
    Step s = step(op, "backward_sums", FBN_BACKWARD, {g, x, coefficients}, {sums});
    s.run = [=](const StepContext& c) {
      double* sum_dy = c.at<double>(sums) + c.chunk * 2 * channels;
      double* sum_dy_xc = sum_dy + channels;
      if (c.chunk_start) std::fill_n(sum_dy, 2 * channels, 0.0);
      const BatchNormCoefficients k = batch_norm_coefficients(c.at<double>(coefficients), channels);
      for (int64_t i = 0; i < c.count; ++i) {
        const int64_t offset = i * m.size();
        batch_norm_backward_sums({m.rows, channels, channels}, c.at(g) + offset, c.at(x) + offset, nullptr, k,
                                 activation, op.alpha, sum_dy, sum_dy_xc);
      }
    };
    emit(std::move(s));
  }
  const int dgamma = new_global(name(op) + " gamma gradient", channels * 4);
  const int dbeta = new_global(name(op) + " beta gradient", channels * 4);
  Step merge = step(op, "backward_merge", FBN_BACKWARD, {sums, statistics}, {coefficients, dgamma, dbeta});
  merge.run = [=](const StepContext& c) {
    double* total = c.at<double>(sums);
    const int64_t chunks = c.run->plan->chunks(c.run->batch);
    for (int64_t chunk = 1; chunk < chunks; ++chunk)
      for (int64_t i = 0; i < 2 * channels; ++i) total[i] += total[chunk * 2 * channels + i];
    batch_norm_backward_coefficients(channels, c.run->batch * m.rows, c.at<double>(statistics) + channels, epsilon,
                                     total, total + channels,
                                     batch_norm_coefficients(c.at<double>(coefficients), channels));
    gradients(c, total, total + channels, 0, channels, c.at(dgamma), c.at(dbeta));
  };
  state.backward_merge = [this, merge, sums] {
    begin(Domain::single, {sums});
    emit(merge);
  };
  if (gamma != nullptr) pending_.push_back({gamma, dgamma, false});
  if (beta != nullptr) pending_.push_back({beta, dbeta, false});
  if (!data) return;
  state.backward_apply = [=, this] {
    begin(Domain::samples);
    const int x = use(x_stored);
    apply(use(dy), x);
  };
}

}  // namespace fastbn
