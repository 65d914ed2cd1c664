// From fused operators to steps, from steps to phases, from phases to memory.
//
// The planner walks the operators forward, then backward, and appends steps to the current phase. A new phase is
// begun where the partition axis changes or where a step needs the whole of something that the current phase is
// still writing (begin()). A value read in a later phase than the one that made it is stored for the whole batch,
// unless it is cheap to make again from what is stored (use()).
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "fusion.hpp"
#include "operators/batch_norm.hpp"
#include "operators/conv2d.hpp"
#include "operators/dense.hpp"
#include "operators/losses.hpp"
#include "operators/pointwise.hpp"
#include "operators/pooling.hpp"
#include "plan.hpp"
#include "runtime/random.hpp"
#include "runtime/status.hpp"

namespace fastbn {
namespace {

// Parts of the numeric plan: they decide bits, so they depend on nothing that is measured.
constexpr int64_t kChunks = 16;               // of a batch: tasks of a samples phase, and partial weight gradients
constexpr int64_t kSlices = 16;               // of a feature axis
constexpr int64_t kSmallKernelBytes = 65536;  // a dense kernel that a chunk may stream without a thought
constexpr int64_t kCacheAdvantage = 8;        // a byte from the cache costs an eighth of one from memory

constexpr int64_t kUpdateTile = 8192;   // floats of weight gradient that are updated while in the cache
constexpr int64_t kUpdateTask = 16384;  // floats of a task of the update phase

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

int64_t l2_cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return 1 << 20;
}

class Planner {
 public:
  Planner(const PlanRequest& request, ParameterStore& store)
      : request_(request), graph_(*request.graph), store_(store), training_(request.mode == Mode::train) {}

  std::unique_ptr<Plan> make();

 private:
  // ------------------------------------------------------------ phases, values, steps
  PhasePlan& phase() { return plan_->phases.back(); }
  int phase_index() const { return static_cast<int>(plan_->phases.size()) - 1; }
  bool in_features(int64_t columns, int64_t rows) {
    const PhasePlan& p = phase();
    return p.domain == Domain::features && p.columns == columns && p.rows_per_sample == rows;
  }
  bool written_here(int value) const { return plan_->values[static_cast<size_t>(value)].phase == phase_index(); }

  // Makes the current phase one where a step of this domain may be put that needs all of `whole`.
  void begin(Domain domain, const std::vector<int>& whole = {}, int64_t columns = 0, int64_t rows = 0) {
    bool same = phase().domain == domain;
    if (domain == Domain::features) same = same && phase().columns == columns && phase().rows_per_sample == rows;
    for (const int value : whole) same = same && !written_here(value);
    if (same) return;
    PhasePlan next;
    next.domain = domain;
    next.columns = columns;
    next.rows_per_sample = rows;
    if (domain == Domain::features) {
      const int64_t grain = DensePlan::column_grain();
      next.slice = round_up((columns + kSlices - 1) / kSlices, grain);
    }
    plan_->phases.push_back(std::move(next));
  }

  int new_value(std::string name, int64_t sample_bytes) {
    Value value;
    value.name = std::move(name);
    value.sample_bytes = sample_bytes;
    plan_->values.push_back(std::move(value));
    return static_cast<int>(plan_->values.size()) - 1;
  }
  int new_global(std::string name, int64_t bytes) {
    const int value = new_value(std::move(name), 0);
    plan_->values.back().bytes = bytes;
    plan_->values.back().storage = Storage::global;
    return value;
  }
  int floats(const std::string& name, int64_t count) { return new_value(name, count * 4); }

  // The value to read in the current phase.
  int use(int value) {
    Value& v = plan_->values[static_cast<size_t>(value)];
    if (v.sample_bytes == 0 || v.phase == phase_index() || v.crosses) return value;
    if (v.remake && phase().domain == Domain::samples) {
      const auto key = std::make_pair(value, phase_index());
      const auto found = remade_.find(key);
      if (found != remade_.end()) return found->second;
      const auto remake = v.remake;  // a copy: making steps moves the values
      const int again = remake();
      plan_->steps.back().note = "made again instead of stored";
      return remade_[key] = again;
    }
    v.crosses = true;
    return value;
  }

  Step& emit(Step step) {
    const int index = static_cast<int>(plan_->steps.size());
    for (const int value : step.writes) {
      Value& v = plan_->values[static_cast<size_t>(value)];
      if (v.phase >= 0 && v.phase != phase_index()) v.crosses = true;
      v.phase = phase_index();
    }
    phase().steps.push_back(index);
    plan_->steps.push_back(std::move(step));
    return plan_->steps.back();
  }
  // A single step that needs nothing of this replay: goes to the first phase.
  void emit_prologue(Step step) {
    for (const int value : step.writes) plan_->values[static_cast<size_t>(value)].phase = 0;
    plan_->phases.front().steps.push_back(static_cast<int>(plan_->steps.size()));
    plan_->steps.push_back(std::move(step));
  }

  Step step(const Op& op, const char* operation, int32_t direction, std::vector<int> reads, std::vector<int> writes) {
    Step s;
    s.node = op.node;
    s.operation = operation;
    s.direction = direction;
    s.reads = std::move(reads);
    s.writes = std::move(writes);
    return s;
  }

  // ------------------------------------------------------------ operators
  struct Matrix {  // a value as (rows per sample, columns)
    int64_t rows, columns;
    int64_t size() const { return rows * columns; }
  };
  Matrix matrix_of(const Node& node) const { return {node.size() / node.channels(), node.channels()}; }
  const Node& node(const Op& op) const { return graph_.node(op.node); }
  const Node& output_node(const Op& op) const {
    return graph_.node(op.output < static_cast<int>(graph_.nodes().size()) ? op.output : op.node);
  }
  std::string name(const Op& op) const { return graph_.node(op.node).name; }

  // A step that works on rows and columns alike goes where the phase is: columns of a features phase that has
  // just made its input, else samples.
  Domain flexible(Matrix m, const std::vector<int>& inputs) {
    bool here = in_features(m.columns, m.rows);
    for (const int value : inputs)
      here = here && (written_here(value) || plan_->values[static_cast<size_t>(value)].crosses);
    const Domain domain = here && written_here(inputs[0]) ? Domain::features : Domain::samples;
    if (domain == Domain::samples) begin(Domain::samples);
    return domain;
  }
  // The part of a matrix value that a flexible step is to work on: region and offset of its first element.
  struct Part {
    Region region;
    int64_t offset;
  };
  static Part part(const StepContext& c, Matrix m) {
    const Range columns = c.columns(m.columns);
    return {{c.count * m.rows, columns.size(), m.columns}, columns.begin};
  }

  void forward(const Op& op);
  void forward_input(const Op& op);
  void forward_conv2d(const Op& op);
  void forward_dense(const Op& op, bool feeds_loss);
  void forward_batch_norm(const Op& op);
  void forward_pointwise(const Op& op);
  void forward_pool(const Op& op);
  void forward_merge(const Op& op);
  void loss();

  void backward(const Op& op);
  void backward_conv2d(const Op& op, int dy);
  void backward_dense(const Op& op, int dy);
  void backward_batch_norm(const Op& op, int dy);
  void backward_pointwise(const Op& op, int dy);
  void backward_pool(const Op& op, int dy);
  void backward_merge(const Op& op, int dy);
  int backward_activation(const Op& op, Matrix m, int dy);
  void updates();

  bool needs_gradient(int graph_value) const { return differentiable_.count(graph_value) != 0; }
  void contribute(int graph_value, int gradient) {
    if (needs_gradient(graph_value)) gradients_[graph_value].push_back(gradient);
  }
  int gradient_of(const Op& op);
  bool dense_in_blocks(const Op& op) const;
  bool feeds_batch_norm(const Op& op) const;
  int64_t partial_gradient(const Parameter& p);

  // Gradient of a parameter, to be updated at the end of the step.
  struct PendingUpdate {
    Parameter* parameter;
    int gradient;  // global: [parts][size] floats
    bool chunked;  // parts = chunks of the batch, to be merged; else one
  };

  void coefficients_from_moving_statistics(const Op& op, int coefficients);
  std::string describe_op(const Op& op) const;
  void allocate();

  const PlanRequest& request_;
  const Graph& graph_;
  ParameterStore& store_;
  const bool training_;
  std::unique_ptr<Plan> plan_ = std::make_unique<Plan>();
  FusedGraph fused_;
  std::map<int, int> values_;  // graph value -> plan value
  std::map<std::pair<int, int>, int> remade_;
  std::map<int, std::vector<int>> gradients_;  // graph value -> contributions
  std::map<int, bool> differentiable_;
  std::map<int, int> pool_index_;  // node -> plan value
  struct BatchNormState {
    int statistics, coefficients;
  };
  std::map<int, BatchNormState> batch_norm_;  // node ->
  std::map<int, bool> dense_forward_in_blocks_;
  std::vector<PendingUpdate> pending_;
  int loss_gradient_ = -1;
};

// ---------------------------------------------------------------- forward

void Planner::forward(const Op& op) {
  switch (op.kind) {
    case OpKind::input:
      return forward_input(op);
    case OpKind::conv2d:
      return forward_conv2d(op);
    case OpKind::dense:
      return forward_dense(op, op.output == fused_.output && request_.mode != Mode::predict);
    case OpKind::batch_norm:
      return forward_batch_norm(op);
    case OpKind::max_pool2d:
    case OpKind::avg_pool2d:
    case OpKind::global_avg_pool2d:
      return forward_pool(op);
    case OpKind::add:
    case OpKind::concatenate:
      return forward_merge(op);
    case OpKind::activation:
    case OpKind::dropout:
    case OpKind::rescaling:
      return forward_pointwise(op);
  }
}

// Gathers the shuffled rows of the batch.
void Planner::forward_input(const Op& op) {
  const int64_t row_bytes = node(op).size() * (node(op).dtype == FBN_UINT8 ? 1 : 4);
  const auto gather = [this, op, row_bytes]() -> int {
    begin(Domain::samples);
    const int out = new_value(name(op), row_bytes);
    Step s = step(op, "gather", FBN_FORWARD, {}, {out});
    s.run = [out, row_bytes](const StepContext& c) {
      char* to = c.at<char>(out);
      const char* from = static_cast<const char*>(c.run->x);
      for (int64_t i = 0; i < c.count; ++i)
        std::memcpy(to + i * row_bytes, from + c.run->row(c.first + i) * row_bytes, static_cast<size_t>(row_bytes));
    };
    emit(std::move(s));
    return out;
  };
  const int out = values_[op.output] = gather();
  plan_->values[static_cast<size_t>(out)].remake = gather;
}

void Planner::forward_conv2d(const Op& op) {
  fbn_conv2d d = node(op).layer.conv;
  d.activation = op.activation;
  d.alpha = op.alpha;
  d.algorithm = request_.conv_algorithm;
  const Conv2dPlan plan(name(op).c_str(), d);
  const Conv2dGeometry g = plan.geometry();
  const PackedKernel& packed = store_.packed.at(op.node);
  const Parameter* bias = store_.find(op.node, ParameterRole::bias);
  begin(Domain::samples);
  const int x = use(values_.at(op.inputs[0]));
  const int y = values_[op.output] = floats(name(op), g.out_size());
  Step s = step(op, "forward", FBN_FORWARD, {x}, {y});
  s.multiply_adds = g.multiply_adds();
  s.fixed_bytes = plan.packed_forward_size() * 4;
  s.scratch_floats = plan.forward_scratch();
  s.note = plan.forward_algorithm();
  s.run = [plan, &packed, bias, x, y](const StepContext& c) {
    plan.forward(c.at(x), packed.forward.floats(), bias != nullptr ? bias->value.floats() : nullptr, c.at(y), c.count,
                 c.scratch);
  };
  emit(std::move(s));
}

// A chunk of the batch streams the kernel once; a features phase makes everything before it cross memory.
// True where the first costs less: behind convolutions, with a kernel that is small beside their activations.
bool Planner::dense_in_blocks(const Op& op) const {
  int64_t crossing = 0;  // bytes a sample that a phase boundary here would store and read again
  for (const Op& other : fused_.ops) {
    if (&other == &op || other.output == op.output) break;
    if (other.kind == OpKind::batch_norm && training_ && !node(other).layer.frozen) crossing = 0;  // cut there anyway
    if (other.kind == OpKind::conv2d || other.kind == OpKind::max_pool2d || other.kind == OpKind::avg_pool2d)
      crossing += 2 * 4 * output_node(other).size();
  }
  const int64_t kernel_bytes = element_count(node(op).parameters[0].shape) * 4;
  return kernel_bytes * kChunks * (training_ ? 4 : 1) <= kCacheAdvantage * crossing * request_.capacity;
}

bool Planner::feeds_batch_norm(const Op& op) const {
  for (const Op& other : fused_.ops)
    if (other.kind == OpKind::batch_norm && other.inputs[0] == op.output && training_ && !node(other).layer.frozen)
      return true;
  return false;
}

void Planner::forward_dense(const Op& op, bool feeds_loss) {
  const Matrix in = {node(op).size() / node(op).layer.units, node(op).parameters[0].shape[0]};
  const Matrix out = {in.rows, node(op).layer.units};
  const DensePlan plan(in.columns, out.columns);
  const Parameter* kernel = store_.find(op.node, ParameterRole::kernel);
  const Parameter* bias = store_.find(op.node, ParameterRole::bias);
  const bool small = kernel->size * 4 <= kSmallKernelBytes;
  const bool blocks = feeds_loss && small ? true : !feeds_batch_norm(op) && (small || dense_in_blocks(op));
  dense_forward_in_blocks_[op.node] = blocks;
  int x = values_.at(op.inputs[0]);
  if (blocks) {
    begin(Domain::samples);
  } else {
    begin(Domain::features, {x}, out.columns, out.rows);
  }
  x = use(x);
  const int y = values_[op.output] = floats(name(op), out.size());
  Step s = step(op, "forward", FBN_FORWARD, {x}, {y});
  s.multiply_adds = node(op).multiply_adds;
  s.fixed_bytes = kernel->size * 4;
  s.whole_chunk = blocks;
  s.scratch_floats = blocks ? plan.scratch(plan_->chunk * in.rows, out.columns)
                            : plan.scratch(request_.capacity * in.rows, phase().slice);
  s.run = [plan, kernel, bias, op, in, out, x, y](const StepContext& c) {
    const Range columns = c.columns(out.columns);
    plan.forward(c.at(x), in.columns, c.count * in.rows, kernel->value.floats(),
                 bias != nullptr ? bias->value.floats() : nullptr, op.activation, op.alpha, c.at(y), out.columns,
                 columns.begin, columns.end, c.scratch);
  };
  emit(std::move(s));
}

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
    const BatchNormCoefficients k = batch_norm_coefficients(c.at(coefficients), channels);
    batch_norm_forward_coefficients(channels, m, m + channels, epsilon, gamma ? gamma->value.floats() : nullptr,
                                    beta ? beta->value.floats() : nullptr, k);
    std::fill_n(k.dy_mean, channels, 0.0f);  // frozen statistics: dx = gamma rstd dy
    std::fill_n(k.xc_factor, channels, 0.0f);
  };
  emit_prologue(std::move(s));
}

// The columns from `begin` of per-channel coefficients.
BatchNormCoefficients columns_of(BatchNormCoefficients k, int64_t begin) {
  return {k.mean_hi + begin, k.mean_lo + begin, k.scale + begin,
          k.shift + begin,   k.dy_mean + begin, k.xc_factor + begin};
}

// moving = moving * momentum + batch * (1 - momentum)
void move_statistics(float* moving, const double* batch, double momentum, int64_t size) {
  for (int64_t i = 0; i < size; ++i)
    moving[i] = static_cast<float>(static_cast<double>(moving[i]) * momentum + batch[i] * (1 - momentum));
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
  const int coefficients = new_global(name(op) + " coefficients", kBatchNormCoefficientArrays * channels * 4);
  const bool batch_statistics = training_ && !layer.frozen;
  int input = values_.at(op.inputs[0]);

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
                       columns_of(batch_norm_coefficients(c.at(coefficients), m.columns), p.offset),
                       residual >= 0 ? c.at(residual) + p.offset : nullptr, op.activation, op.alpha,
                       c.at(y) + p.offset);
    };
    emit(std::move(s));
    return y;
  };
  const auto residual_here = [this, &op] { return op.residual >= 0 ? use(values_.at(op.residual)) : -1; };

  if (!batch_statistics) {
    coefficients_from_moving_statistics(op, coefficients);
    batch_norm_[op.node] = {-1, coefficients};
    flexible(m, {input});
    const int x = use(input);
    values_[op.output] = apply(x, residual_here());
    return;
  }

  // statistics: mean and variance [channels] each, then per chunk shift (float), sum and square
  const int64_t chunk_bytes = round_up(channels * 4, 8) + channels * 16;
  const int statistics = new_global(name(op) + " statistics", channels * 16 + kChunks * chunk_bytes);
  batch_norm_[op.node] = {statistics, coefficients};
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
                                    columns_of(batch_norm_coefficients(c.at(coefficients), channels), begin));
    move_statistics(moving_mean->value.floats() + begin, mean, momentum, end - begin);
    move_statistics(moving_variance->value.floats() + begin, variance, momentum, end - begin);
  };

  if (in_features(m.columns, m.rows) && written_here(input)) {
    // Every task has all rows of its columns: statistics and normalisation without a new phase.
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
    values_[op.output] = apply(input, residual_here());
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

  begin(Domain::single, {statistics});
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
  emit(std::move(merge));

  const auto apply_again = [this, op, input, apply] {
    begin(Domain::samples);
    const int again = use(input);
    return apply(again, op.residual >= 0 ? use(values_.at(op.residual)) : -1);
  };
  const int y = values_[op.output] = apply_again();
  // A residual sum has two readers and would pull in the chain before it: it is stored.
  if (op.residual < 0) plan_->values[static_cast<size_t>(y)].remake = apply_again;
}

void Planner::forward_pointwise(const Op& op) {
  const Matrix m = matrix_of(graph_.node(op.output));
  const int input = values_.at(op.inputs[0]);
  const fbn_layer layer = node(op).layer;
  const uint64_t seed =
      layer.seed != 0 ? layer.seed : derive_seed(request_.seed, 0x10000u + static_cast<uint64_t>(op.node));
  const bool bytes = op.kind == OpKind::rescaling && graph_.node(node(op).inputs[0]).dtype == FBN_UINT8;
  const auto make = [this, op, m, input, layer, seed, bytes](bool anew) {
    if (anew || op.activation == FBN_SOFTMAX || bytes) {
      begin(Domain::samples);
    } else {
      flexible(m, {input});
    }
    const int x = use(input);
    const int y = floats(name(op), m.size());
    Step s = step(op, "forward", FBN_FORWARD, {x}, {y});
    if (!bytes) s.in_place_out = y, s.in_place_in = x;
    s.run = [=](const StepContext& c) {
      const Part p = part(c, m);
      float* to = c.at(y) + p.offset;
      if (op.kind == OpKind::rescaling) {
        const float scale = static_cast<float>(layer.scale_factor), offset = static_cast<float>(layer.offset);
        if (bytes) {
          rescale_u8(c.count * m.size(), c.at<uint8_t>(x), scale, offset, to);
        } else {
          rescale(p.region, c.at(x) + p.offset, scale, offset, to);
        }
      } else if (op.kind == OpKind::dropout) {
        dropout_apply(p.region, layer.rate, derive_seed(seed, c.run->iteration),
                      static_cast<uint64_t>(c.first * m.size() + p.offset), m.columns, c.at(x) + p.offset, to);
      } else if (op.activation == FBN_SOFTMAX) {
        softmax_forward(p.region, c.at(x) + p.offset, to);
      } else {
        activation_forward(p.region, op.activation, op.alpha, c.at(x) + p.offset, to);
      }
    };
    emit(std::move(s));
    return y;
  };
  const int y = values_[op.output] = make(false);
  if (op.kind == OpKind::rescaling) plan_->values[static_cast<size_t>(y)].remake = [make] { return make(true); };
}

void Planner::forward_pool(const Op& op) {
  const Node& input = graph_.node(node(op).inputs[0]);
  const int64_t channels = input.channels(), pixels = input.size() / channels;
  const Pool2dGeometry g = node(op).pool;
  begin(Domain::samples);
  const int x = use(values_.at(op.inputs[0]));
  const int y = values_[op.output] = floats(name(op), output_node(op).size());
  Step s = step(op, "forward", FBN_FORWARD, {x}, {y});
  if (op.kind == OpKind::max_pool2d) {
    const bool indexed = training_ && needs_gradient(op.inputs[0]);
    const int index = indexed ? new_value(name(op) + " index", g.index_bytes()) : -1;
    if (indexed) s.writes.push_back(pool_index_[op.node] = index);
    s.run = [g, op, x, y, index](const StepContext& c) {
      max_pool2d_forward(g, c.at(x), op.activation, c.at(y), index >= 0 ? c.at<void>(index) : nullptr, c.count);
    };
  } else if (op.kind == OpKind::avg_pool2d) {
    s.run = [g, x, y](const StepContext& c) { avg_pool2d_forward(g, c.at(x), c.at(y), c.count); };
  } else {
    s.run = [=](const StepContext& c) { global_avg_pool2d_forward(pixels, channels, c.at(x), c.at(y), c.count); };
  }
  emit(std::move(s));
}

void Planner::forward_merge(const Op& op) {
  const Matrix m = matrix_of(node(op));
  begin(Domain::samples);
  std::vector<int> inputs;
  std::vector<int64_t> widths;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    inputs.push_back(use(values_.at(op.inputs[i])));
    widths.push_back(graph_.node(node(op).inputs[i]).channels());
  }
  const int y = values_[op.output] = floats(name(op), m.size());
  Step s = step(op, "forward", FBN_FORWARD, inputs, {y});
  if (op.kind == OpKind::add) {
    s.run = [=](const StepContext& c) {
      const Region all{c.count * m.rows, m.columns, m.columns};
      add(all, c.at(inputs[0]), c.at(inputs[1]), c.at(y));
      for (size_t i = 2; i < inputs.size(); ++i) add(all, c.at(y), c.at(inputs[i]), c.at(y));
    };
  } else {
    s.run = [=](const StepContext& c) {
      int64_t offset = 0;
      for (size_t i = 0; i < inputs.size(); ++i) {
        copy({c.count * m.rows, widths[i], m.columns}, c.at(inputs[i]), widths[i], c.at(y) + offset);
        offset += widths[i];
      }
    };
  }
  emit(std::move(s));
}

// ---------------------------------------------------------------- loss

void Planner::loss() {
  const Node& out = graph_.node(request_.output);
  const Matrix m = matrix_of(out);
  const bool entropy = request_.loss == FBN_LOSS_SOFTMAX_CROSS_ENTROPY;
  const bool classes = request_.labels_dtype == FBN_INT32;
  const int64_t loss_rows = entropy ? m.rows : 1;
  const int64_t label_bytes = 4 * (classes ? m.rows : m.size());
  plan_->loss_rows = loss_rows;
  plan_->loss = new_global("loss", request_.capacity * loss_rows * 4);
  plan_->correct = new_global("correct", request_.capacity * loss_rows);
  plan_->absolute = new_global("absolute error", request_.capacity * 4);

  begin(Domain::samples);
  const int labels = new_value("labels", label_bytes);
  Step gather;
  gather.operation = "gather labels";
  gather.writes = {labels};
  gather.run = [=](const StepContext& c) {
    const char* from = static_cast<const char*>(c.run->y);
    for (int64_t i = 0; i < c.count; ++i)
      std::memcpy(c.at<char>(labels) + i * label_bytes, from + c.run->row(c.first + i) * label_bytes,
                  static_cast<size_t>(label_bytes));
  };
  emit(std::move(gather));

  const int p = use(values_.at(fused_.output));
  const int dp = training_ ? floats("loss gradient", m.size()) : -1;
  loss_gradient_ = dp;
  Step s;
  s.operation = entropy ? "softmax cross-entropy" : "mean squared error";
  s.reads = {p, labels};
  s.writes = {plan_->loss, plan_->correct, plan_->absolute};
  if (dp >= 0) s.writes.push_back(dp);
  const int loss = plan_->loss, correct = plan_->correct, absolute = plan_->absolute;
  const int32_t dtype = request_.labels_dtype;
  s.run = [=](const StepContext& c) {
    const float scale = 1.0f / static_cast<float>(c.run->batch * loss_rows);
    float* gradient = dp >= 0 ? c.at(dp) : nullptr;
    if (entropy) {
      softmax_cross_entropy(c.count * m.rows, m.columns, c.at(p), c.at<void>(labels), dtype, scale,
                            c.at(loss) + c.first * loss_rows, nullptr, gradient,
                            c.at<uint8_t>(correct) + c.first * loss_rows);
    } else {
      mean_squared_error(c.count, m.size(), c.at(p), c.at(labels), scale, c.at(loss) + c.first,
                         c.at(absolute) + c.first, gradient);
    }
  };
  emit(std::move(s));
}

// ---------------------------------------------------------------- backward

// The sum of what the readers of op's output contributed; -1 if nothing did.
int Planner::gradient_of(const Op& op) {
  const auto found = gradients_.find(op.output);
  if (found == gradients_.end()) return -1;
  std::vector<int> parts = found->second;
  if (parts.size() == 1) return parts[0];
  const int64_t size = output_node(op).size();
  begin(Domain::samples);
  for (int& part : parts) part = use(part);
  const int sum = floats("gradient of " + name(op), size);
  Step s = step(op, "sum of gradients", FBN_BACKWARD, parts, {sum});
  s.run = [=](const StepContext& c) {
    const Region all{c.count, size, size};
    add(all, c.at(parts[0]), c.at(parts[1]), c.at(sum));
    for (size_t i = 2; i < parts.size(); ++i) add(all, c.at(sum), c.at(parts[i]), c.at(sum));
  };
  emit(std::move(s));
  return sum;
}

void Planner::backward(const Op& op) {
  if (op.kind == OpKind::input || !needs_gradient(op.output)) return;
  const int dy = gradient_of(op);
  if (dy < 0) return;
  switch (op.kind) {
    case OpKind::conv2d:
      return backward_conv2d(op, dy);
    case OpKind::dense:
      return backward_dense(op, dy);
    case OpKind::batch_norm:
      return backward_batch_norm(op, dy);
    case OpKind::max_pool2d:
    case OpKind::avg_pool2d:
    case OpKind::global_avg_pool2d:
      return backward_pool(op, dy);
    case OpKind::add:
    case OpKind::concatenate:
      return backward_merge(op, dy);
    case OpKind::activation:
    case OpKind::dropout:
    case OpKind::rescaling:
      return backward_pointwise(op, dy);
    case OpKind::input:
      return;
  }
}

// dz = dy act'(y), where conv or dense had an activation fused
int Planner::backward_activation(const Op& op, Matrix m, int dy) {
  if (op.activation == FBN_LINEAR) return dy;
  const int y_stored = values_.at(op.output);
  if (!(in_features(m.columns, m.rows) && written_here(dy))) begin(Domain::samples);
  const int y = use(y_stored);
  dy = use(dy);
  const int dz = floats("gradient of " + name(op), m.size());
  Step s = step(op, "backward_activation", FBN_BACKWARD, {dy, y}, {dz});
  s.in_place_out = dz;
  s.in_place_in = dy;
  s.run = [=](const StepContext& c) {
    const Part p = part(c, m);
    activation_backward(p.region, op.activation, op.alpha, c.at(dy) + p.offset, c.at(y) + p.offset,
                        c.at(dz) + p.offset);
  };
  emit(std::move(s));
  return dz;
}

void Planner::backward_conv2d(const Op& op, int dy) {
  const PackedKernel& packed = store_.packed.at(op.node);
  const Conv2dPlan plan = packed.plan;
  const Conv2dGeometry g = plan.geometry();
  Parameter* kernel = store_.find(op.node, ParameterRole::kernel);
  Parameter* bias = store_.find(op.node, ParameterRole::bias);
  int dz = backward_activation(op, {g.out_height * g.out_width, g.out_channels}, dy);
  begin(Domain::samples);
  dz = use(dz);

  if (bias != nullptr && bias->spec.trainable) {
    const int partial = new_global(bias->spec.name + " partial gradients", kChunks * bias->size * 4);
    Step s = step(op, "backward_bias", FBN_BACKWARD, {dz}, {partial});
    s.run = [plan, bias, dz, partial](const StepContext& c) {
      float* sums = c.at(partial) + c.chunk * bias->size;
      if (c.chunk_start) std::fill_n(sums, bias->size, 0.0f);
      plan.backward_bias(c.at(dz), sums, c.count);
    };
    emit(std::move(s));
    pending_.push_back({bias, partial, true});
  }
  if (kernel->spec.trainable) {
    const int x = use(values_.at(op.inputs[0]));
    const int partial = new_global(kernel->spec.name + " partial gradients", kChunks * kernel->size * 4);
    Step s = step(op, "backward_filter", FBN_BACKWARD, {x, dz}, {partial});
    s.multiply_adds = g.multiply_adds();
    s.fixed_bytes = kernel->size * 8;
    s.scratch_floats = plan.backward_filter_scratch();
    s.note = plan.backward_filter_algorithm();
    s.run = [plan, kernel, x, dz, partial](const StepContext& c) {
      float* sums = c.at(partial) + c.chunk * kernel->size;
      if (c.chunk_start) std::fill_n(sums, kernel->size, 0.0f);
      plan.backward_filter(c.at(x), c.at(dz), sums, c.count, c.scratch);
    };
    emit(std::move(s));
    pending_.push_back({kernel, partial, true});
  }
  if (needs_gradient(op.inputs[0])) {
    const int dx = floats("gradient into " + name(op), g.in_size());
    Step s = step(op, "backward_data", FBN_BACKWARD, {dz}, {dx});
    s.multiply_adds = g.multiply_adds();
    s.fixed_bytes = plan.packed_backward_size() * 4;
    s.scratch_floats = plan.backward_data_scratch();
    s.note = plan.backward_data_algorithm();
    s.run = [plan, &packed, dz, dx](const StepContext& c) {
      plan.backward_data(c.at(dz), packed.backward.floats(), c.at(dx), c.count, c.scratch);
    };
    emit(std::move(s));
    contribute(op.inputs[0], dx);
  }
}

void Planner::backward_dense(const Op& op, int dy) {
  const Matrix in = {node(op).size() / node(op).layer.units, node(op).parameters[0].shape[0]};
  const Matrix out = {in.rows, node(op).layer.units};
  const DensePlan plan(in.columns, out.columns);
  Parameter* kernel = store_.find(op.node, ParameterRole::kernel);
  Parameter* bias = store_.find(op.node, ParameterRole::bias);
  ParameterStore* store = &store_;
  const bool trains_kernel = kernel->spec.trainable;
  const bool trains_bias = bias != nullptr && bias->spec.trainable;
  const bool data = needs_gradient(op.inputs[0]);
  int dz = backward_activation(op, out, dy);

  if (dense_in_blocks(op) && dense_forward_in_blocks_.at(op.node)) {
    begin(Domain::samples);
    dz = use(dz);
    if (trains_bias) {
      const int partial = new_global(bias->spec.name + " partial gradients", kChunks * bias->size * 4);
      Step s = step(op, "backward_bias", FBN_BACKWARD, {dz}, {partial});
      s.whole_chunk = true;
      s.scratch_floats = 2 * bias->size;
      s.run = [=](const StepContext& c) {
        double* sums = reinterpret_cast<double*>(c.scratch);
        column_sums(c.at(dz), out.columns, c.count * out.rows, out.columns, sums, false);
        std::copy_n(sums, bias->size, c.at(partial) + c.chunk * bias->size);
      };
      emit(std::move(s));
      pending_.push_back({bias, partial, true});
    }
    if (trains_kernel) {
      const int x = use(values_.at(op.inputs[0]));
      const int partial = new_global(kernel->spec.name + " partial gradients", kChunks * kernel->size * 4);
      Step s = step(op, "backward_filter", FBN_BACKWARD, {x, dz}, {partial});
      s.whole_chunk = true;
      s.multiply_adds = node(op).multiply_adds;
      s.fixed_bytes = kernel->size * 4;
      s.scratch_floats = plan.scratch(plan_->chunk * in.rows, in.columns);
      s.run = [=](const StepContext& c) {
        plan.backward_filter(c.at(x), in.columns, c.at(dz), out.columns, c.count * in.rows,
                             c.at(partial) + c.chunk * kernel->size, 0, in.columns, false, c.scratch);
      };
      emit(std::move(s));
      pending_.push_back({kernel, partial, true});
    }
    if (data) {
      const int dx = floats("gradient into " + name(op), in.size());
      Step s = step(op, "backward_data", FBN_BACKWARD, {dz}, {dx});
      s.whole_chunk = true;
      s.multiply_adds = node(op).multiply_adds;
      s.fixed_bytes = kernel->size * 4;
      s.scratch_floats = plan.scratch(plan_->chunk * in.rows, in.columns);
      s.run = [=](const StepContext& c) {
        plan.backward_data(c.at(dz), out.columns, c.count * in.rows, kernel->value.floats(), c.at(dx), in.columns, 0,
                           in.columns, c.scratch);
      };
      emit(std::move(s));
      contribute(op.inputs[0], dx);
    }
    return;
  }

  // The bias belongs to columns of dz: with the phase that makes them, else to the first task of the next one.
  const auto bias_step = [&](bool solo) {
    Step s = step(op, "backward_bias", FBN_BACKWARD, {dz}, {});
    s.solo = solo;
    s.note = "updated here";
    s.scratch_floats = 3 * bias->size;
    s.run = [=](const StepContext& c) {
      const int64_t first = solo ? 0 : c.begin, columns = solo ? out.columns : c.end - c.begin;
      double* sums = reinterpret_cast<double*>(c.scratch);
      float* gradient = c.scratch + 2 * columns;
      column_sums(c.at(dz) + first, out.columns, c.count * out.rows, columns, sums, false);
      std::copy_n(sums, columns, gradient);
      update_parameter(*store, c.run->rule, *bias, gradient, first, columns);
    };
    emit(std::move(s));
  };
  const bool with_columns = in_features(out.columns, out.rows) && written_here(dz);
  if (trains_bias && with_columns) bias_step(false);

  if (trains_kernel || data || (trains_bias && !with_columns)) begin(Domain::features, {dz}, in.columns, in.rows);
  dz = use(dz);
  if (trains_bias && !with_columns) bias_step(true);
  const int64_t scratch = plan.scratch(request_.capacity * in.rows, phase().slice);
  if (data) {  // before the weights of these rows change
    const int dx = floats("gradient into " + name(op), in.size());
    Step s = step(op, "backward_data", FBN_BACKWARD, {dz}, {dx});
    s.multiply_adds = node(op).multiply_adds;
    s.fixed_bytes = kernel->size * 4;
    s.scratch_floats = scratch;
    s.run = [=](const StepContext& c) {
      plan.backward_data(c.at(dz), out.columns, c.count * in.rows, kernel->value.floats(), c.at(dx), in.columns,
                         c.begin, c.end, c.scratch);
    };
    emit(std::move(s));
    contribute(op.inputs[0], dx);
  }
  if (trains_kernel) {
    const int x = use(values_.at(op.inputs[0]));
    const int64_t tile_rows = std::max<int64_t>(1, kUpdateTile / out.columns);
    const int64_t tile = std::min(tile_rows, phase().slice) * out.columns;
    Step s = step(op, "backward_filter", FBN_BACKWARD, {x, dz}, {});
    s.note = "updated here";
    s.multiply_adds = node(op).multiply_adds;
    s.fixed_bytes = kernel->size * 4 * (2 + 2 * store->slot_count);
    s.scratch_floats = round_up(tile, 16) + scratch;
    s.run = [=](const StepContext& c) {
      for (int64_t k = c.begin; k < c.end; k += tile_rows) {
        const int64_t end = std::min(k + tile_rows, c.end);
        plan.backward_filter(c.at(x), in.columns, c.at(dz), out.columns, c.count * in.rows, c.scratch, k, end, false,
                             c.scratch + round_up(tile, 16));
        update_parameter(*store, c.run->rule, *kernel, c.scratch, k * out.columns, (end - k) * out.columns);
      }
    };
    emit(std::move(s));
  }
}

void Planner::backward_batch_norm(const Op& op, int dy) {
  const Matrix m = matrix_of(node(op));
  const int64_t channels = m.columns;
  const double epsilon = node(op).layer.epsilon;
  const bool frozen = node(op).layer.frozen != 0;
  const BatchNormState state = batch_norm_.at(op.node);
  Parameter* gamma = store_.find(op.node, ParameterRole::gamma);
  Parameter* beta = store_.find(op.node, ParameterRole::beta);
  if (gamma != nullptr && !gamma->spec.trainable) gamma = nullptr;
  if (beta != nullptr && !beta->spec.trainable) beta = nullptr;
  const bool data = needs_gradient(op.inputs[0]);
  const bool to_residual = op.residual >= 0 && needs_gradient(op.residual);
  const bool y_needed = op.activation != FBN_LINEAR && op.residual >= 0;  // else recomputed from x
  const int x_stored = values_.at(op.inputs[0]);
  const int y_stored = values_.at(op.output);

  const auto apply = [&](int g, int x, int y) {
    const int dx = data ? floats("gradient into " + name(op), m.size()) : -1;
    const int dr =
        to_residual && op.activation != FBN_LINEAR ? floats("residual gradient of " + name(op), m.size()) : -1;
    if (dx < 0 && dr < 0) return;
    std::vector<int> reads = {g, x, state.coefficients}, writes;
    if (y >= 0) reads.push_back(y);
    if (dx >= 0) writes.push_back(dx);
    if (dr >= 0) writes.push_back(dr);
    const int target = dx >= 0 ? dx : dr;
    Step s = step(op, "backward_apply", FBN_BACKWARD, reads, writes);
    if (dx >= 0) s.in_place_out = dx, s.in_place_in = g;
    s.run = [=](const StepContext& c) {
      const Part p = part(c, m);
      batch_norm_backward_apply({p.region.rows, p.region.columns, p.region.stride}, c.at(g) + p.offset,
                                c.at(x) + p.offset, y >= 0 ? c.at(y) + p.offset : nullptr,
                                columns_of(batch_norm_coefficients(c.at(state.coefficients), channels), p.offset),
                                op.activation, op.alpha, c.at(target) + p.offset,
                                dr >= 0 && dr != target ? c.at(dr) + p.offset : nullptr);
    };
    emit(std::move(s));
    if (dx >= 0) contribute(op.inputs[0], dx);
    if (dr >= 0) contribute(op.residual, dr);
  };
  if (to_residual && op.activation == FBN_LINEAR) contribute(op.residual, dy);  // the sum passes its gradient on

  if (frozen) {
    if (!(in_features(m.columns, m.rows) && written_here(dy))) begin(Domain::samples);
    const int y = y_needed ? use(y_stored) : -1;
    const int x = use(x_stored);
    apply(use(dy), x, y);
    return;
  }

  const int sums = new_global(name(op) + " backward sums", kChunks * channels * 16);
  ParameterStore* store = &store_;
  // dgamma = rstd sum dy' xc, dbeta = sum dy', for columns [begin, end)
  const auto gradients = [=](const StepContext& c, const double* sum_dy, const double* sum_dy_xc, int64_t begin,
                             int64_t end, float* dgamma, float* dbeta) {
    const double* variance = c.at<double>(state.statistics) + channels;
    for (int64_t i = begin; i < end; ++i) {
      dgamma[i - begin] = static_cast<float>(sum_dy_xc[i] / std::sqrt(variance[i] + epsilon));
      dbeta[i - begin] = static_cast<float>(sum_dy[i]);
    }
  };

  if (in_features(m.columns, m.rows) && written_here(dy)) {
    const int x = use(x_stored);
    const int y = y_needed ? use(y_stored) : -1;
    Step s = step(op, "backward_sums", FBN_BACKWARD, {dy, x, state.statistics, state.coefficients}, {sums});
    if (y >= 0) s.reads.push_back(y);
    s.note = "gamma and beta updated here";
    s.scratch_floats = 2 * channels;
    s.run = [=](const StepContext& c) {
      const Part p = part(c, m);
      const int64_t columns = c.end - c.begin;
      double* sum_dy = c.at<double>(sums);
      double* sum_dy_xc = sum_dy + channels;
      std::fill_n(sum_dy + c.begin, columns, 0.0);
      std::fill_n(sum_dy_xc + c.begin, columns, 0.0);
      const BatchNormCoefficients k = columns_of(batch_norm_coefficients(c.at(state.coefficients), channels), c.begin);
      batch_norm_backward_sums({p.region.rows, columns, m.columns}, c.at(dy) + p.offset, c.at(x) + p.offset,
                               y >= 0 ? c.at(y) + p.offset : nullptr, k, op.activation, op.alpha, sum_dy + c.begin,
                               sum_dy_xc + c.begin);
      batch_norm_backward_coefficients(columns, p.region.rows, c.at<double>(state.statistics) + channels + c.begin,
                                       epsilon, sum_dy + c.begin, sum_dy_xc + c.begin, false, k);
      gradients(c, sum_dy, sum_dy_xc, c.begin, c.end, c.scratch, c.scratch + columns);
      if (gamma != nullptr) update_parameter(*store, c.run->rule, *gamma, c.scratch, c.begin, columns);
      if (beta != nullptr) update_parameter(*store, c.run->rule, *beta, c.scratch + columns, c.begin, columns);
    };
    emit(std::move(s));
    apply(dy, x, y);
    return;
  }

  begin(Domain::samples);
  {
    const int y = y_needed ? use(y_stored) : -1;
    const int x = use(x_stored);
    const int g = use(dy);
    Step s = step(op, "backward_sums", FBN_BACKWARD, {g, x, state.coefficients}, {sums});
    if (y >= 0) s.reads.push_back(y);
    s.run = [=](const StepContext& c) {
      double* sum_dy = c.at<double>(sums) + c.chunk * 2 * channels;
      double* sum_dy_xc = sum_dy + channels;
      if (c.chunk_start) std::fill_n(sum_dy, 2 * channels, 0.0);
      const BatchNormCoefficients k = batch_norm_coefficients(c.at(state.coefficients), channels);
      for (int64_t i = 0; i < c.count; ++i) {
        const int64_t offset = i * m.size();
        batch_norm_backward_sums({m.rows, channels, channels}, c.at(g) + offset, c.at(x) + offset,
                                 y >= 0 ? c.at(y) + offset : nullptr, k, op.activation, op.alpha, sum_dy, sum_dy_xc);
      }
    };
    emit(std::move(s));
  }
  begin(Domain::single, {sums});
  const int dgamma = new_global(name(op) + " gamma gradient", channels * 4);
  const int dbeta = new_global(name(op) + " beta gradient", channels * 4);
  Step merge = step(op, "backward_merge", FBN_BACKWARD, {sums, state.statistics}, {state.coefficients, dgamma, dbeta});
  merge.run = [=](const StepContext& c) {
    double* total = c.at<double>(sums);
    const int64_t chunks = c.run->plan->chunks(c.run->batch);
    for (int64_t chunk = 1; chunk < chunks; ++chunk)
      for (int64_t i = 0; i < 2 * channels; ++i) total[i] += total[chunk * 2 * channels + i];
    batch_norm_backward_coefficients(channels, c.run->batch * m.rows, c.at<double>(state.statistics) + channels,
                                     epsilon, total, total + channels, false,
                                     batch_norm_coefficients(c.at(state.coefficients), channels));
    gradients(c, total, total + channels, 0, channels, c.at(dgamma), c.at(dbeta));
  };
  emit(std::move(merge));
  if (gamma != nullptr) pending_.push_back({gamma, dgamma, false});
  if (beta != nullptr) pending_.push_back({beta, dbeta, false});
  if (!data && !to_residual) return;
  begin(Domain::samples);
  const int y = y_needed ? use(y_stored) : -1;
  const int x = use(x_stored);
  apply(use(dy), x, y);
}

void Planner::backward_pointwise(const Op& op, int dy) {
  if (!needs_gradient(op.inputs[0])) return;
  const Matrix m = matrix_of(graph_.node(op.output));
  const fbn_layer layer = node(op).layer;
  const uint64_t seed =
      layer.seed != 0 ? layer.seed : derive_seed(request_.seed, 0x10000u + static_cast<uint64_t>(op.node));
  const bool columns = op.activation != FBN_SOFTMAX && in_features(m.columns, m.rows) && written_here(dy);
  if (!columns) begin(Domain::samples);
  const int y = op.kind == OpKind::activation ? use(values_.at(op.output)) : -1;
  dy = use(dy);
  const int dx = floats("gradient into " + name(op), m.size());
  Step s = step(op, "backward", FBN_BACKWARD, {dy}, {dx});
  if (y >= 0) s.reads.push_back(y);
  s.in_place_out = dx;
  s.in_place_in = dy;
  s.run = [=](const StepContext& c) {
    const Part p = part(c, m);
    const float* from = c.at(dy) + p.offset;
    float* to = c.at(dx) + p.offset;
    if (op.kind == OpKind::rescaling) {
      rescale(p.region, from, static_cast<float>(layer.scale_factor), 0, to);
    } else if (op.kind == OpKind::dropout) {
      dropout_apply(p.region, layer.rate, derive_seed(seed, c.run->iteration),
                    static_cast<uint64_t>(c.first * m.size() + p.offset), m.columns, from, to);
    } else if (op.activation == FBN_SOFTMAX) {
      softmax_backward(p.region, from, c.at(y) + p.offset, to);
    } else {
      activation_backward(p.region, op.activation, op.alpha, from, c.at(y) + p.offset, to);
    }
  };
  emit(std::move(s));
  contribute(op.inputs[0], dx);
}

void Planner::backward_pool(const Op& op, int dy) {
  if (!needs_gradient(op.inputs[0])) return;
  const Node& input = graph_.node(node(op).inputs[0]);
  const int64_t channels = input.channels(), pixels = input.size() / channels;
  const Pool2dGeometry g = node(op).pool;
  begin(Domain::samples);
  const int y = op.activation == FBN_RELU ? use(values_.at(op.output)) : -1;
  const int index = op.kind == OpKind::max_pool2d ? use(pool_index_.at(op.node)) : -1;
  dy = use(dy);
  const int dx = floats("gradient into " + name(op), input.size());
  Step s = step(op, "backward", FBN_BACKWARD, {dy}, {dx});
  if (y >= 0) s.reads.push_back(y);
  if (index >= 0) s.reads.push_back(index);
  if (op.kind == OpKind::max_pool2d) {
    s.run = [=](const StepContext& c) {
      max_pool2d_backward(g, c.at(dy), c.at<void>(index), op.activation, y >= 0 ? c.at(y) : nullptr, c.at(dx), c.count);
    };
  } else if (op.kind == OpKind::avg_pool2d) {
    s.run = [=](const StepContext& c) { avg_pool2d_backward(g, c.at(dy), c.at(dx), c.count); };
  } else {
    s.run = [=](const StepContext& c) { global_avg_pool2d_backward(pixels, channels, c.at(dy), c.at(dx), c.count); };
  }
  emit(std::move(s));
  contribute(op.inputs[0], dx);
}

void Planner::backward_merge(const Op& op, int dy) {
  if (op.kind == OpKind::add) {
    for (const int input : op.inputs) contribute(input, dy);
    return;
  }
  const Matrix m = matrix_of(node(op));
  begin(Domain::samples);
  dy = use(dy);
  int64_t offset = 0;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const int64_t width = graph_.node(node(op).inputs[i]).channels();
    if (needs_gradient(op.inputs[i])) {
      const int dx = floats("gradient into " + name(op), m.rows * width);
      Step s = step(op, "backward", FBN_BACKWARD, {dy}, {dx});
      s.run = [=](const StepContext& c) {
        copy({c.count * m.rows, width, width}, c.at(dy) + offset, m.columns, c.at(dx));
      };
      emit(std::move(s));
      contribute(op.inputs[i], dx);
    }
    offset += width;
  }
}

// Merges the chunks' gradients in a fixed tree and updates, slice by slice.
void Planner::updates() {
  for (const PendingUpdate& pending : pending_) {
    begin(Domain::single, {pending.gradient});
    Parameter* p = pending.parameter;
    const int gradient = pending.gradient;
    const bool chunked = pending.chunked;
    ParameterStore* store = &store_;
    Step s;
    for (size_t i = 0; i + 1 < store_.first_of_node.size(); ++i)
      if (p >= &store_.parameters[static_cast<size_t>(store_.first_of_node[i])]) s.node = static_cast<int>(i);
    s.operation = "update";
    s.direction = FBN_UPDATE;
    s.reads = {gradient};
    s.tasks = (p->size + kUpdateTask - 1) / kUpdateTask;
    s.fixed_bytes = p->size * 4 * (3 + 2 * store->slot_count);
    s.note = p->spec.name;
    s.run = [=](const StepContext& c) {
      const int64_t first = c.task * kUpdateTask, size = std::min(kUpdateTask, p->size - first);
      float* g = c.at(gradient) + first;
      const int64_t chunks = chunked ? c.run->plan->chunks(c.run->batch) : 1;
      for (int64_t stride = 1; stride < chunks; stride *= 2)
        for (int64_t i = 0; i + stride < chunks; i += 2 * stride)
          add({1, size, size}, g + i * p->size, g + (i + stride) * p->size, g + i * p->size);
      update_parameter(*store, c.run->rule, *p, g, first, size);
    };
    emit(std::move(s));
  }
}

// ---------------------------------------------------------------- the whole plan

std::string Planner::describe_op(const Op& op) const {
  static constexpr const char* kNames[] = {"input",      "conv2d",     "dense",      "batch_norm",
                                           "activation", "max_pool2d", "avg_pool2d", "global_avg_pool2d",
                                           "dropout",    "rescaling",  "add",        "concatenate"};
  std::string text = concatenate(kNames[static_cast<int>(op.kind)], " ", name(op));
  for (const std::string& other : op.fused) text += " + " + other;
  return text;
}

std::unique_ptr<Plan> Planner::make() {
  plan_->capacity = request_.capacity;
  plan_->chunk = (request_.capacity + kChunks - 1) / kChunks;
  fused_ = fuse(graph_, request_.output, training_, request_.mode == Mode::predict ? FBN_LOSS_NONE : request_.loss);

  // A value needs a gradient when a trainable parameter lies at or before it.
  if (training_) {
    for (const Op& op : fused_.ops) {
      bool needed = op.residual >= 0 && needs_gradient(op.residual);
      for (const int input : op.inputs) needed = needed || needs_gradient(input);
      const int first = store_.first_of_node[static_cast<size_t>(op.node)];
      const int last = store_.first_of_node[static_cast<size_t>(op.node) + 1];
      const bool owner = op.kind == OpKind::conv2d || op.kind == OpKind::dense || op.kind == OpKind::batch_norm;
      for (int i = first; owner && i < last; ++i)
        needed = needed || store_.parameters[static_cast<size_t>(i)].spec.trainable;
      if (needed) differentiable_[op.output] = true;
    }
  }

  PhasePlan prologue;
  prologue.domain = Domain::single;
  plan_->phases.push_back(std::move(prologue));
  if (training_) {
    for (auto& [packed_node, packed] : store_.packed) {
      PackedKernel* target = &packed;
      Step s;
      s.node = packed_node;
      s.operation = "pack";
      s.direction = FBN_UPDATE;
      s.fixed_bytes = target->kernel->size * 12;
      s.run = [target](const StepContext&) {
        target->plan.pack_forward(target->kernel->value.floats(), target->forward.floats());
        target->plan.pack_backward(target->kernel->value.floats(), target->backward.floats());
      };
      emit_prologue(std::move(s));
    }
  }

  for (const Op& op : fused_.ops) {
    if (!op.fused.empty()) plan_->fusions.push_back(describe_op(op));
    forward(op);
  }
  if (request_.mode == Mode::predict) {
    begin(Domain::samples);
    const int y = use(values_.at(fused_.output));
    const int64_t bytes = graph_.node(request_.output).size() * 4;
    Step s;
    s.node = request_.output;
    s.operation = "output";
    s.reads = {y};
    s.run = [y, bytes](const StepContext& c) {
      std::memcpy(reinterpret_cast<char*>(c.run->out) + c.first * bytes, c.at<char>(y),
                  static_cast<size_t>(c.count * bytes));
    };
    emit(std::move(s));
  } else {
    loss();
  }
  if (training_) {
    gradients_[fused_.output].push_back(loss_gradient_);
    for (size_t i = fused_.ops.size(); i-- > 0;) backward(fused_.ops[i]);
    updates();
  }
  allocate();
  return std::move(plan_);
}

// ---------------------------------------------------------------- memory

// First-fit over intervals [from, to] in the order of `from`: offsets of blocks that do not overlap while alive.
class IntervalAllocator {
 public:
  int64_t place(int64_t size, int from, int to) {
    std::erase_if(live_, [from](const Live& l) { return l.to < from; });
    std::sort(live_.begin(), live_.end(), [](const Live& a, const Live& b) { return a.offset < b.offset; });
    int64_t offset = 0;
    for (const Live& l : live_) {
      if (offset + size <= l.offset) break;
      offset = std::max(offset, l.offset + l.size);
    }
    live_.push_back({offset, size, to});
    peak_ = std::max(peak_, offset + size);
    return offset;
  }
  // A block that ends with its reader may go on under another value.
  void extend(int64_t offset, int to) {
    for (Live& l : live_)
      if (l.offset == offset) l.to = std::max(l.to, to);
  }
  int64_t peak() const { return peak_; }

 private:
  struct Live {
    int64_t offset, size;
    int to;
  };
  std::vector<Live> live_;
  int64_t peak_ = 0;
};

void Planner::allocate() {
  auto& values = plan_->values;
  struct Life {
    int phase = -1, first = -1, last = -1;  // steps, in execution order
    int first_phase = -1, last_phase = -1;
    int segment = -1;
    bool one_segment = true;
  };
  std::vector<Life> lives(values.size());
  std::vector<int> order;  // steps in execution order
  int segment = -1;
  for (size_t p = 0; p < plan_->phases.size(); ++p) {
    PhasePlan& current = plan_->phases[p];
    ++segment;
    for (const int index : current.steps) {
      Step& s = plan_->steps[static_cast<size_t>(index)];
      const int place = static_cast<int>(order.size());
      order.push_back(index);
      if (current.domain == Domain::samples) {
        if (current.segments.empty() || current.segments.back().whole_chunk != s.whole_chunk) {
          ++segment;
          current.segments.push_back({place, place, s.whole_chunk, plan_->chunk});
        }
        current.segments.back().last_step = place;
      }
      for (const auto* list : {&s.reads, &s.writes})
        for (const int v : *list) {
          Life& life = lives[static_cast<size_t>(v)];
          if (life.first < 0) {
            life.first = place;
            life.first_phase = static_cast<int>(p);
            life.segment = segment;
          }
          life.last = place;
          life.last_phase = static_cast<int>(p);
          life.one_segment = life.one_segment && life.segment == segment;
        }
      plan_->scratch_bytes = std::max(plan_->scratch_bytes, round_up(s.scratch_floats * 4, 64));
    }
  }

  // Globals live as long as the plan; whole-batch values over the phases that use them.
  int64_t arena = 0;
  for (Value& v : values)
    if (v.sample_bytes == 0) {
      v.offset = arena;
      arena += round_up(v.bytes, 64);
    }
  IntervalAllocator whole_batch;
  std::vector<size_t> by_start(values.size());
  for (size_t i = 0; i < values.size(); ++i) by_start[i] = i;
  std::stable_sort(by_start.begin(), by_start.end(),
                   [&](size_t a, size_t b) { return lives[a].first < lives[b].first; });
  for (const size_t i : by_start) {
    Value& v = values[i];
    const Life& life = lives[i];
    if (v.sample_bytes == 0 || life.first < 0) continue;
    const bool samples = plan_->phases[static_cast<size_t>(life.first_phase)].domain == Domain::samples;
    if (samples && life.first_phase == life.last_phase) {
      v.storage = life.one_segment ? Storage::block : Storage::chunk;
      continue;
    }
    v.storage = Storage::arena;
    v.offset =
        arena + whole_batch.place(round_up(v.sample_bytes * plan_->capacity, 64), life.first_phase, life.last_phase);
  }
  plan_->arena_bytes = arena + whole_batch.peak();

  // Lane scratch of samples phases: values of a chunk, then values of a block; offsets in bytes a sample.
  const int64_t budget = request_.block_bytes > 0 ? request_.block_bytes : l2_cache_bytes() * 3 / 4;
  int64_t lane = 0;
  for (size_t p = 0; p < plan_->phases.size(); ++p) {
    PhasePlan& current = plan_->phases[p];
    if (current.domain != Domain::samples) continue;
    IntervalAllocator chunk_values;
    for (const size_t i : by_start)
      if (values[i].storage == Storage::chunk && lives[i].first_phase == static_cast<int>(p))
        values[i].offset = chunk_values.place(round_up(values[i].sample_bytes, 64), lives[i].first, lives[i].last);
    current.chunk_region = chunk_values.peak() * plan_->chunk;
    int64_t block_region = 0;
    for (Segment& s : current.segments) {
      IntervalAllocator block_values;
      int64_t fixed = 0;
      for (int place = s.first_step; place <= s.last_step; ++place) {
        const Step& step = plan_->steps[static_cast<size_t>(order[static_cast<size_t>(place)])];
        fixed = std::max(fixed, step.scratch_floats * 4 + step.fixed_bytes);
        for (const size_t i : by_start) {
          Value& v = values[i];
          if (v.storage != Storage::block || lives[i].first != place || lives[i].first_phase != static_cast<int>(p))
            continue;
          const int64_t size = round_up(v.sample_bytes, 64);
          if (step.in_place_out == static_cast<int>(i)) {
            const size_t in = static_cast<size_t>(step.in_place_in);
            if (values[in].storage == Storage::block && lives[in].last == place &&
                round_up(values[in].sample_bytes, 64) == size) {
              v.offset = values[in].offset;
              block_values.extend(v.offset, lives[i].last);
              continue;
            }
          }
          v.offset = block_values.place(size, lives[i].first, lives[i].last);
        }
      }
      s.block_sample_bytes = block_values.peak();
      if (!s.whole_chunk)
        s.block = std::clamp<int64_t>((budget - fixed) / std::max<int64_t>(s.block_sample_bytes, 1), 1, plan_->chunk);
      block_region = std::max(block_region, s.block * s.block_sample_bytes);
    }
    lane = std::max(lane, current.chunk_region + block_region);
  }
  plan_->lane_bytes = round_up(plan_->scratch_bytes + lane, 4096);

  for (const Step& s : plan_->steps) {
    double bytes = 0;
    for (const auto* list : {&s.reads, &s.writes})
      for (const int v : *list) bytes += static_cast<double>(values[static_cast<size_t>(v)].sample_bytes);
    plan_->work_per_sample += std::max(2.0 * static_cast<double>(s.multiply_adds) / 16, bytes);
    plan_->work_fixed += static_cast<double>(s.fixed_bytes);
  }
}

}  // namespace

std::unique_ptr<Plan> make_plan(const PlanRequest& request, ParameterStore& store) {
  return Planner(request, store).make();
}

}  // namespace fastbn
