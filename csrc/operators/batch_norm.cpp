#include "batch_norm.hpp"

#include <algorithm>
#include <cmath>

#include "checks.hpp"
#include "kernels/kernel_table.hpp"
#include "runtime/cpu.hpp"
#include "runtime/executor.hpp"
#include "runtime/memory.hpp"

namespace fastbn {
namespace {

NormalizationFactors factors(const BatchNormCoefficients& c) {
  return {c.mean, c.scale, c.shift, c.dy_mean, c.xc_factor};
}

}  // namespace

BatchNormCoefficients batch_norm_coefficients(double* storage, int64_t channels) {
  return {storage, storage + channels, storage + 2 * channels, storage + 3 * channels, storage + 4 * channels};
}
BatchNormCoefficients BatchNormCoefficients::from(int64_t channel) const {
  return {mean + channel, scale + channel, shift + channel, dy_mean + channel, xc_factor + channel};
}

void batch_norm_sums(const float* x, int64_t stride, int64_t rows, int64_t channels, const float* shift, double* sum,
                     double* square) noexcept {
  kernels().normalization.sums(rows, channels, stride, x, shift, sum, square);
}

void batch_norm_moments(int64_t rows, int64_t channels, const float* shift, const double* sum, const double* square,
                        double* mean, double* m2) noexcept {
  if (rows > 0) return kernels().statistics.moments(channels, rows, shift, sum, square, mean, m2);
  std::fill_n(mean, channels, 0.0);
  std::fill_n(m2, channels, 0.0);
}

void batch_norm_merge(int64_t channels, int64_t count, double* mean, double* m2, int64_t other_count,
                      const double* other_mean, const double* other_m2) noexcept {
  if (other_count == 0) return;
  if (count == 0) {
    std::copy_n(other_mean, channels, mean);
    std::copy_n(other_m2, channels, m2);
    return;
  }
  const double total = static_cast<double>(count) + static_cast<double>(other_count);
  const double share = static_cast<double>(other_count) / total, weight = static_cast<double>(count) * share;
  for (int64_t c = 0; c < channels; ++c) {
    const double delta = other_mean[c] - mean[c];
    // The difference of two equal infinities is not their mean.
    mean[c] = std::isfinite(delta) ? mean[c] + delta * share : mean[c] + other_mean[c];
    m2[c] += other_m2[c] + delta * delta * weight;
  }
}

void batch_norm_forward_coefficients(int64_t channels, const double* mean, const double* variance, double epsilon,
                                     const float* gamma, const float* beta, BatchNormCoefficients out) noexcept {
  kernels().statistics.scale(channels, variance, epsilon, gamma, out.scale);
  for (int64_t c = 0; c < channels; ++c) {
    out.mean[c] = mean[c];
    out.shift[c] = beta != nullptr ? static_cast<double>(beta[c]) : 0;
  }
}

void batch_norm_backward_coefficients(int64_t channels, int64_t count, const double* variance, double epsilon,
                                      const double* sum_dy, const double* sum_dy_xc,
                                      BatchNormCoefficients out) noexcept {
  kernels().statistics.backward(channels, count, variance, epsilon, sum_dy, sum_dy_xc, out.dy_mean, out.xc_factor);
}

void batch_norm_parameter_gradients(int64_t channels, const double* variance, double epsilon, const double* sum_dy,
                                    const double* sum_dy_xc, float* dgamma, float* dbeta) noexcept {
  if (dgamma != nullptr) kernels().statistics.gamma_gradient(channels, variance, epsilon, sum_dy_xc, dgamma);
  for (int64_t c = 0; dbeta != nullptr && c < channels; ++c) dbeta[c] = static_cast<float>(sum_dy[c]);
}

void batch_norm_apply(BatchNormMatrix m, const float* x, BatchNormCoefficients c, const float* residual,
                      int32_t activation, float alpha, float* y) noexcept {
  kernels().normalization.apply(m.rows, m.channels, m.stride, x, factors(c), residual, activation, alpha, y, m.large);
}

void batch_norm_backward_sums(BatchNormMatrix m, const float* dy, const float* x, const float* y,
                              BatchNormCoefficients c, int32_t activation, float alpha, double* sum_dy,
                              double* sum_dy_xc) noexcept {
  kernels().normalization.backward_sums(m.rows, m.channels, m.stride, dy, x, y, factors(c), activation, alpha, sum_dy,
                                        sum_dy_xc);
}

void batch_norm_backward_apply(BatchNormMatrix m, const float* dy, const float* x, const float* y,
                               BatchNormCoefficients c, bool frozen, int32_t activation, float alpha, float* dx,
                               float* dresidual) noexcept {
  if (frozen) c.dy_mean = c.xc_factor = nullptr;
  kernels().normalization.backward_apply(m.rows, m.channels, m.stride, dy, x, y, factors(c), activation, alpha, dx,
                                         dresidual, m.large);
}

namespace {

// How the sums of one call are cut. Chunks of rows are part of the numeric plan: they depend on the shape alone, and
// their partial sums are merged pairwise in a fixed tree. Slices of channels are independent of each other.
class Parts {
 public:
  // `rows` of a batch of `total`: a shard is cut as the batch is.
  Parts(int64_t rows, int64_t total, int64_t channels)
      : rows_(rows), channels_(channels), chunk_(chunk_rows(total, channels)) {
    chunks_ = std::max<int64_t>(ceil_div(rows, chunk_), 1);
    slices_ = ceil_div(channels, kSlice);
  }
  // Enough rows in a chunk that its partial sums (float64) are small beside its data.
  static int64_t chunk_rows(int64_t total, int64_t channels) {
    return std::max({total / kMaxChunks + (total % kMaxChunks != 0), int64_t{64}, kChunkElements / channels});
  }
  int64_t chunks() const { return chunks_; }
  int64_t slices() const { return slices_; }
  Range rows(int64_t chunk) const { return {chunk * chunk_, std::min((chunk + 1) * chunk_, rows_)}; }
  Range channels(int64_t slice) const { return {slice * kSlice, std::min((slice + 1) * kSlice, channels_)}; }

 private:
  static constexpr int64_t kMaxChunks = 64, kChunkElements = 16384, kSlice = 256;
  int64_t rows_, channels_, chunk_, chunks_, slices_;
};

// As merge_tree, over parts that come one after the other: merge(part, later) adds what follows to a part.
template <class Part>
class TreeSum {
 public:
  template <class Merge>
  void add(const Part& part, Merge merge) {
    parts_[size_] = part;
    levels_[size_++] = 0;
    while (size_ > 1 && levels_[size_ - 1] == levels_[size_ - 2]) {
      join(merge);
      ++levels_[size_ - 1];
    }
  }
  template <class Merge>
  const Part& total(Merge merge) {
    while (size_ > 1) join(merge);
    return parts_[0];
  }

 private:
  template <class Merge>
  void join(Merge merge) {
    --size_;
    merge(parts_[size_ - 1], parts_[size_]);
  }
  Part parts_[65];  // a tree over 2^63 parts
  int levels_[65];
  int size_ = 0;
};

// merge(into, from) over the fixed tree: neighbours first, then neighbours of those, into chunk 0.
template <class Merge>
void merge_tree(int64_t chunks, Merge merge) {
  for (int64_t step = 1; step < chunks; step *= 2) {
    for (int64_t i = 0; i + step < chunks; i += 2 * step) merge(i, i + step);
  }
}

int64_t check_descriptor(const char* operation, const fbn_batch_norm* d) {
  require_descriptor(operation, d);
  require_size(operation, "rows", d->rows, 0);
  require_size(operation, "channels", d->channels, 1);
  require(d->epsilon >= 0 && std::isfinite(d->epsilon), operation,
          ": epsilon must be finite and not negative. Received: epsilon=", d->epsilon);
  require_activation(operation, d->activation, d->alpha);
  checked_product(operation, {d->channels, 64, 4});  // the partial sums
  return checked_product(operation, {d->rows, d->channels});
}

// Rows of the whole batch that x is a shard of.
int64_t check_total(const char* operation, const fbn_batch_norm& d, int64_t total_rows) {
  require(total_rows == 0 || total_rows >= d.rows, operation,
          ": total_rows must count the rows of all shards, at least ", "this one's ", d.rows,
          ". Received: total_rows=", total_rows);
  return total_rows == 0 ? d.rows : total_rows;
}

void check_residual(const char* operation, const fbn_batch_norm& d, const float* residual, int64_t size) {
  if (d.has_residual) return require_array(operation, "residual", residual, size);
  require(residual == nullptr, operation, ": residual needs has_residual in the descriptor. Received: has_residual=0");
}

// The inputs of a backward function.
struct Backward {
  const fbn_batch_norm& d;
  const float *dy, *x, *gamma, *beta;
  const double *mean, *variance;
  const float* y;
};

void check_backward(const char* operation, const Backward& b, int64_t size) {
  require_array(operation, "dy", b.dy, size);
  require_array(operation, "x", b.x, size);
  require_array(operation, "mean", b.mean, b.d.channels);
  require_array(operation, "variance", b.variance, b.d.channels);
  if (b.d.activation == FBN_LINEAR || size == 0) return;
  require(b.y != nullptr || (b.beta != nullptr && !b.d.has_residual), operation,
          ": with an activation y is needed, or, without residual, beta. Received: neither");
}

// Runs body(begin, rows) over blocks of rows in tasks whose number leaves the bits alone.
template <class Body>
auto row_task(int64_t rows, int64_t tasks, Body body) {
  return [=](int64_t i, int) {
    const Range part = part_of(rows, tasks, i);
    body(part.begin, part.size());
  };
}

// Mean and m2 of the batch into partial arrays (chunk 0 of each), in two phases.
class Statistics {
 public:
  Statistics(const fbn_batch_norm& d, const float* x, int64_t total_rows, Workspace& workspace)
      : d_(d),
        x_(x),
        parts_(d.rows, total_rows, d.channels),
        mean_at_(workspace.reserve<double>(parts_.chunks() * d.channels)),
        m2_at_(workspace.reserve<double>(parts_.chunks() * d.channels)) {}
  void bind(const Workspace& workspace) {
    mean_ = workspace.at<double>(mean_at_);
    m2_ = workspace.at<double>(m2_at_);
  }
  const Parts& parts() const { return parts_; }
  int64_t chunk_tasks() const { return parts_.chunks() * parts_.slices(); }
  void chunk_task(int64_t task) const {
    const int64_t chunk = task / parts_.slices();
    const Range rows = parts_.rows(chunk), channels = parts_.channels(task % parts_.slices());
    const float* x = x_ + rows.begin * d_.channels + channels.begin;
    double* mean = mean_ + chunk * d_.channels + channels.begin;  // the sums first, then the moments in their place
    double* m2 = m2_ + chunk * d_.channels + channels.begin;
    std::fill_n(mean, channels.size(), 0.0);
    std::fill_n(m2, channels.size(), 0.0);
    if (rows.size() == 0) return;
    batch_norm_sums(x, d_.channels, rows.size(), channels.size(), x, mean, m2);
    batch_norm_moments(rows.size(), channels.size(), x, mean, m2, mean, m2);
  }
  // Merges the chunks of one slice; results stand in chunk 0.
  Range merge_task(int64_t slice) const {
    const Range channels = parts_.channels(slice);
    int64_t span = 0;  // chunks already merged into each, to know their rows
    merge_tree(parts_.chunks(), [&](int64_t into, int64_t from) {
      span = from - into;
      const int64_t last = std::min(from + span, parts_.chunks()) - 1;
      const int64_t count = parts_.rows(from).begin - parts_.rows(into).begin;
      const int64_t other = parts_.rows(last).end - parts_.rows(from).begin;
      batch_norm_merge(channels.size(), count, mean(into, channels), m2(into, channels), other, mean(from, channels),
                       m2(from, channels));
    });
    return channels;
  }
  double* mean(int64_t chunk, Range channels) const { return mean_ + chunk * d_.channels + channels.begin; }
  double* m2(int64_t chunk, Range channels) const { return m2_ + chunk * d_.channels + channels.begin; }

 private:
  const fbn_batch_norm& d_;
  const float* x_;
  Parts parts_;
  size_t mean_at_, m2_at_;
  double *mean_ = nullptr, *m2_ = nullptr;
};

// sum dy' and sum dy' xc of the batch, the same way.
class BackwardSums {
 public:
  BackwardSums(const Backward& b, int64_t total_rows, Workspace& workspace)
      : b_(b),
        parts_(b.d.rows, total_rows, b.d.channels),
        dy_at_(workspace.reserve<double>(parts_.chunks() * b.d.channels)),
        xc_at_(workspace.reserve<double>(parts_.chunks() * b.d.channels)) {}
  void bind(const Workspace& workspace, BatchNormCoefficients coefficients) {
    dy_ = workspace.at<double>(dy_at_);
    xc_ = workspace.at<double>(xc_at_);
    coefficients_ = coefficients;
  }
  const Parts& parts() const { return parts_; }
  int64_t chunk_tasks() const { return parts_.chunks() * parts_.slices(); }
  void chunk_task(int64_t task) const {
    const int64_t chunk = task / parts_.slices(), stride = b_.d.channels;
    const Range rows = parts_.rows(chunk), channels = parts_.channels(task % parts_.slices());
    const int64_t at = rows.begin * stride + channels.begin;
    const BatchNormCoefficients c = coefficients_.from(channels.begin);
    double* dy = sum_dy(chunk, channels);
    double* xc = sum_dy_xc(chunk, channels);
    std::fill_n(dy, channels.size(), 0.0);
    std::fill_n(xc, channels.size(), 0.0);
    if (rows.size() == 0) return;
    batch_norm_backward_sums({rows.size(), channels.size(), stride}, b_.dy + at, b_.x + at,
                             b_.y != nullptr ? b_.y + at : nullptr, c, b_.d.activation, b_.d.alpha, dy, xc);
  }
  Range merge_task(int64_t slice) const {
    const Range channels = parts_.channels(slice);
    merge_tree(parts_.chunks(), [&](int64_t into, int64_t from) {
      double *a = sum_dy(into, channels), *b = sum_dy_xc(into, channels);
      const double *other_a = sum_dy(from, channels), *other_b = sum_dy_xc(from, channels);
      for (int64_t c = 0; c < channels.size(); ++c) {
        a[c] += other_a[c];
        b[c] += other_b[c];
      }
    });
    return channels;
  }
  double* sum_dy(int64_t chunk, Range channels) const { return dy_ + chunk * b_.d.channels + channels.begin; }
  double* sum_dy_xc(int64_t chunk, Range channels) const { return xc_ + chunk * b_.d.channels + channels.begin; }

 private:
  const Backward& b_;
  Parts parts_;
  size_t dy_at_, xc_at_;
  double *dy_ = nullptr, *xc_ = nullptr;
  BatchNormCoefficients coefficients_{};
};

const float* at_or_null(const float* array, int64_t i) { return array != nullptr ? array + i : nullptr; }
float* at_or_null(float* array, int64_t i) { return array != nullptr ? array + i : nullptr; }

}  // namespace
}  // namespace fastbn

using namespace fastbn;

fbn_status fbn_batch_norm_forward(const fbn_batch_norm* d, const float* x, const float* gamma, const float* beta,
                                  const float* residual, float* y, double* mean, double* variance,
                                  const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "batch_norm_forward";
    const int64_t size = check_descriptor(operation, d);
    require(d->rows > 0, operation, ": statistics need at least one row. Received: rows=0");
    require_array(operation, "x", x, size);
    check_residual(operation, *d, residual, size);
    require_array(operation, "y", y, size);
    require_array(operation, "mean", mean, d->channels);
    require_array(operation, "variance", variance, d->channels);
    const Exec how = resolve_exec(operation, exec, [&] { return concatenate(d->rows, "x", d->channels); });
    Workspace workspace(operation, how);
    Statistics statistics(*d, x, d->rows, workspace);
    const size_t storage = workspace.reserve<double>(d->channels * kBatchNormCoefficientArrays);
    if (workspace.commit()) return;
    statistics.bind(workspace);
    const BatchNormCoefficients coefficients = batch_norm_coefficients(workspace.at<double>(storage), d->channels);

    const auto sum = [&](int64_t i, int) { statistics.chunk_task(i); };
    const auto merge = [&](int64_t i, int) {
      const Range c = statistics.merge_task(i);
      const double *m = statistics.mean(0, c), *m2 = statistics.m2(0, c);
      for (int64_t k = 0; k < c.size(); ++k) {
        mean[c.begin + k] = m[k];
        variance[c.begin + k] = m2[k] / static_cast<double>(d->rows);
      }
      batch_norm_forward_coefficients(c.size(), mean + c.begin, variance + c.begin, d->epsilon,
                                      at_or_null(gamma, c.begin), at_or_null(beta, c.begin),
                                      coefficients.from(c.begin));
    };
    const int64_t tasks = task_count(size);
    const bool large = exceed_caches(size, {x, residual}, {y});
    const auto apply = row_task(d->rows, tasks, [&](int64_t begin, int64_t rows) {
      const int64_t at = begin * d->channels;
      batch_norm_apply({rows, d->channels, d->channels, large}, x + at, coefficients, at_or_null(residual, at),
                       d->activation, d->alpha, y + at);
    });
    execute(how, {Phase{statistics.chunk_tasks(), sum}, Phase{statistics.parts().slices(), merge}, Phase{tasks, apply}},
            static_cast<double>(size) * 12);
  });
}

fbn_status fbn_batch_norm_inference(const fbn_batch_norm* d, const float* x, const float* gamma, const float* beta,
                                    const double* mean, const double* variance, const float* residual, float* y,
                                    const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "batch_norm_inference";
    const int64_t size = check_descriptor(operation, d);
    require_array(operation, "x", x, size);
    require_array(operation, "mean", mean, d->channels);
    require_array(operation, "variance", variance, d->channels);
    check_residual(operation, *d, residual, size);
    require_array(operation, "y", y, size);
    const Exec how = resolve_exec(operation, exec, [&] { return concatenate(d->rows, "x", d->channels); });
    Workspace workspace(operation, how);
    const size_t storage = workspace.reserve<double>(d->channels * kBatchNormCoefficientArrays);
    if (workspace.commit()) return;

    const BatchNormCoefficients coefficients = batch_norm_coefficients(workspace.at<double>(storage), d->channels);
    batch_norm_forward_coefficients(d->channels, mean, variance, d->epsilon, gamma, beta, coefficients);
    const int64_t tasks = task_count(size);
    const bool large = exceed_caches(size, {x, residual}, {y});
    const auto apply = row_task(d->rows, tasks, [&](int64_t begin, int64_t rows) {
      const int64_t at = begin * d->channels;
      batch_norm_apply({rows, d->channels, d->channels, large}, x + at, coefficients, at_or_null(residual, at),
                       d->activation, d->alpha, y + at);
    });
    execute(how, {Phase{tasks, apply}}, static_cast<double>(size) * 8);
  });
}

fbn_status fbn_batch_norm_chunk_rows(int64_t total_rows, int64_t channels, int64_t* chunk_rows) {
  return guard([&] {
    const char* operation = "batch_norm_chunk_rows";
    require_size(operation, "total_rows", total_rows, 0);
    require_size(operation, "channels", channels, 1);
    require_array(operation, "chunk_rows", chunk_rows, 1);
    *chunk_rows = Parts::chunk_rows(total_rows, channels);
  });
}

fbn_status fbn_batch_norm_partial(const fbn_batch_norm* d, const float* x, int64_t total_rows, double* mean, double* m2,
                                  const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "batch_norm_partial";
    const int64_t size = check_descriptor(operation, d);
    const int64_t total = check_total(operation, *d, total_rows);
    require_array(operation, "x", x, size);
    require_array(operation, "mean", mean, d->channels);
    require_array(operation, "m2", m2, d->channels);
    const Exec how = resolve_exec(operation, exec, [&] { return concatenate(d->rows, "x", d->channels); });
    Workspace workspace(operation, how);
    Statistics statistics(*d, x, total, workspace);
    if (workspace.commit()) return;
    statistics.bind(workspace);

    const auto sum = [&](int64_t i, int) { statistics.chunk_task(i); };
    const auto merge = [&](int64_t i, int) {
      const Range c = statistics.merge_task(i);
      std::copy_n(statistics.mean(0, c), c.size(), mean + c.begin);
      std::copy_n(statistics.m2(0, c), c.size(), m2 + c.begin);
    };
    execute(how, {Phase{statistics.chunk_tasks(), sum}, Phase{statistics.parts().slices(), merge}},
            static_cast<double>(size) * 8);
  });
}

fbn_status fbn_batch_norm_merge(int64_t shards, int64_t channels, const int64_t* counts, const double* means,
                                const double* m2s, double* mean, double* variance) {
  return guard([&] {
    const char* operation = "batch_norm_merge";
    require_size(operation, "shards", shards, 1);
    require_size(operation, "channels", channels, 1);
    const int64_t size = checked_product(operation, {shards, channels, 2});
    require_array(operation, "counts", counts, shards);
    require_array(operation, "means", means, size);
    require_array(operation, "m2s", m2s, size);
    require_array(operation, "mean", mean, channels);
    require_array(operation, "variance", variance, channels);
    int64_t total = 0;
    for (int64_t s = 0; s < shards; ++s) {
      require(counts[s] >= 0 && counts[s] <= INT64_MAX - total, operation,
              ": counts must be row numbers, not negative, that add up. Received: ", counts[s], " for shard ", s);
      total += counts[s];
    }
    require(total > 0, operation, ": statistics need at least one row. Received: counts that are all 0");
    struct Part {
      int64_t count;
      double mean, m2;
    };
    const auto merge = [](Part& a, const Part& b) {
      batch_norm_merge(1, a.count, &a.mean, &a.m2, b.count, &b.mean, &b.m2);
      a.count += b.count;
    };
    for (int64_t c = 0; c < channels; ++c) {
      TreeSum<Part> sum;
      for (int64_t s = 0; s < shards; ++s)
        if (counts[s] > 0) sum.add({counts[s], means[s * channels + c], m2s[s * channels + c]}, merge);
      const Part& all = sum.total(merge);
      mean[c] = all.mean;
      variance[c] = all.m2 / static_cast<double>(total);
    }
  });
}

fbn_status fbn_batch_norm_backward(const fbn_batch_norm* d, const float* dy, const float* x, const float* gamma,
                                   const float* beta, const double* mean, const double* variance, const float* y,
                                   float* dx, float* dgamma, float* dbeta, float* dresidual, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "batch_norm_backward";
    const int64_t size = check_descriptor(operation, d);
    const Backward inputs{*d, dy, x, gamma, beta, mean, variance, y};
    check_backward(operation, inputs, size);
    require(dresidual == nullptr || d->has_residual, operation,
            ": dresidual needs has_residual in the descriptor. Received: has_residual=0");
    const Exec how = resolve_exec(operation, exec, [&] { return concatenate(d->rows, "x", d->channels); });
    Workspace workspace(operation, how);
    BackwardSums sums(inputs, d->rows, workspace);
    const size_t storage = workspace.reserve<double>(d->channels * kBatchNormCoefficientArrays);
    if (workspace.commit()) return;
    const BatchNormCoefficients coefficients = batch_norm_coefficients(workspace.at<double>(storage), d->channels);
    sums.bind(workspace, coefficients);
    batch_norm_forward_coefficients(d->channels, mean, variance, d->epsilon, gamma, beta, coefficients);

    const bool any_sum = dgamma != nullptr || dbeta != nullptr || (dx != nullptr && !d->frozen);
    const auto sum = [&](int64_t i, int) { sums.chunk_task(i); };
    const auto merge = [&](int64_t i, int) {
      const Range c = sums.merge_task(i);
      const double *s = sums.sum_dy(0, c), *q = sums.sum_dy_xc(0, c);
      batch_norm_parameter_gradients(c.size(), variance + c.begin, d->epsilon, s, q, at_or_null(dgamma, c.begin),
                                     at_or_null(dbeta, c.begin));
      batch_norm_backward_coefficients(c.size(), d->rows, variance + c.begin, d->epsilon, s, q,
                                       coefficients.from(c.begin));
    };
    const int64_t tasks = dx != nullptr || dresidual != nullptr ? task_count(size) : 0;
    const bool large = exceed_caches(size, {dy, x, y}, {dx, dresidual});
    const auto apply = row_task(d->rows, tasks, [&](int64_t begin, int64_t rows) {
      const int64_t at = begin * d->channels;
      batch_norm_backward_apply({rows, d->channels, d->channels, large}, dy + at, x + at, at_or_null(y, at),
                                coefficients, d->frozen != 0, d->activation, d->alpha, at_or_null(dx, at),
                                at_or_null(dresidual, at));
    });
    execute(how,
            {Phase{any_sum ? sums.chunk_tasks() : 0, sum}, Phase{any_sum ? sums.parts().slices() : 0, merge},
             Phase{tasks, apply}},
            static_cast<double>(size) * 20);
  });
}

fbn_status fbn_batch_norm_backward_partial(const fbn_batch_norm* d, const float* dy, const float* x, const float* gamma,
                                           const float* beta, const double* mean, const double* variance,
                                           const float* y, int64_t total_rows, double* sum_dy, double* sum_dy_xc,
                                           const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "batch_norm_backward_partial";
    const int64_t size = check_descriptor(operation, d);
    const int64_t total = check_total(operation, *d, total_rows);
    const Backward inputs{*d, dy, x, gamma, beta, mean, variance, y};
    check_backward(operation, inputs, size);
    require_array(operation, "sum_dy", sum_dy, d->channels);
    require_array(operation, "sum_dy_xc", sum_dy_xc, d->channels);
    const Exec how = resolve_exec(operation, exec, [&] { return concatenate(d->rows, "x", d->channels); });
    Workspace workspace(operation, how);
    BackwardSums sums(inputs, total, workspace);
    const size_t storage = workspace.reserve<double>(d->channels * kBatchNormCoefficientArrays);
    if (workspace.commit()) return;
    const BatchNormCoefficients coefficients = batch_norm_coefficients(workspace.at<double>(storage), d->channels);
    sums.bind(workspace, coefficients);
    batch_norm_forward_coefficients(d->channels, mean, variance, d->epsilon, gamma, beta, coefficients);

    const auto sum = [&](int64_t i, int) { sums.chunk_task(i); };
    const auto merge = [&](int64_t i, int) {
      const Range c = sums.merge_task(i);
      std::copy_n(sums.sum_dy(0, c), c.size(), sum_dy + c.begin);
      std::copy_n(sums.sum_dy_xc(0, c), c.size(), sum_dy_xc + c.begin);
    };
    execute(how, {Phase{sums.chunk_tasks(), sum}, Phase{sums.parts().slices(), merge}}, static_cast<double>(size) * 12);
  });
}

fbn_status fbn_batch_norm_backward_merge(int64_t shards, int64_t channels, const double* sums_dy,
                                         const double* sums_dy_xc, double* sum_dy, double* sum_dy_xc) {
  return guard([&] {
    const char* operation = "batch_norm_backward_merge";
    require_size(operation, "shards", shards, 1);
    require_size(operation, "channels", channels, 1);
    const int64_t size = checked_product(operation, {shards, channels, 2});
    require_array(operation, "sums_dy", sums_dy, size);
    require_array(operation, "sums_dy_xc", sums_dy_xc, size);
    require_array(operation, "sum_dy", sum_dy, channels);
    require_array(operation, "sum_dy_xc", sum_dy_xc, channels);
    struct Part {
      double dy, dy_xc;
    };
    const auto merge = [](Part& a, const Part& b) {
      a.dy += b.dy;
      a.dy_xc += b.dy_xc;
    };
    for (int64_t c = 0; c < channels; ++c) {
      TreeSum<Part> sum;
      for (int64_t s = 0; s < shards; ++s) sum.add({sums_dy[s * channels + c], sums_dy_xc[s * channels + c]}, merge);
      const Part& all = sum.total(merge);
      sum_dy[c] = all.dy;
      sum_dy_xc[c] = all.dy_xc;
    }
  });
}

fbn_status fbn_batch_norm_backward_apply(const fbn_batch_norm* d, const float* dy, const float* x, const float* gamma,
                                         const float* beta, const double* mean, const double* variance, const float* y,
                                         const double* sum_dy, const double* sum_dy_xc, int64_t total_rows, float* dx,
                                         float* dresidual, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "batch_norm_backward_apply";
    const int64_t size = check_descriptor(operation, d);
    check_backward(operation, {*d, dy, x, gamma, beta, mean, variance, y}, size);
    require_array(operation, "sum_dy", sum_dy, d->channels);
    require_array(operation, "sum_dy_xc", sum_dy_xc, d->channels);
    require(total_rows >= d->rows, operation, ": total_rows must count the rows of all shards, at least this one's ",
            d->rows, ". Received: total_rows=", total_rows);
    require(dresidual == nullptr || d->has_residual, operation,
            ": dresidual needs has_residual in the descriptor. Received: has_residual=0");
    const Exec how = resolve_exec(operation, exec, [&] { return concatenate(d->rows, "x", d->channels); });
    Workspace workspace(operation, how);
    const size_t storage = workspace.reserve<double>(d->channels * kBatchNormCoefficientArrays);
    if (workspace.commit()) return;
    const BatchNormCoefficients coefficients = batch_norm_coefficients(workspace.at<double>(storage), d->channels);
    batch_norm_forward_coefficients(d->channels, mean, variance, d->epsilon, gamma, beta, coefficients);
    batch_norm_backward_coefficients(d->channels, total_rows, variance, d->epsilon, sum_dy, sum_dy_xc, coefficients);
    const int64_t tasks = dx != nullptr || dresidual != nullptr ? task_count(size) : 0;
    const bool large = exceed_caches(size, {dy, x, y}, {dx, dresidual});
    const auto apply = row_task(d->rows, tasks, [&](int64_t begin, int64_t rows) {
      const int64_t at = begin * d->channels;
      batch_norm_backward_apply({rows, d->channels, d->channels, large}, dy + at, x + at, at_or_null(y, at),
                                coefficients, d->frozen != 0, d->activation, d->alpha, at_or_null(dx, at),
                                at_or_null(dresidual, at));
    });
    execute(how, {Phase{tasks, apply}}, static_cast<double>(size) * 16);
  });
}
