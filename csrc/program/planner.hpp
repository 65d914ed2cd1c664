// The planner: from fused operators to steps, from steps to phases, from phases to memory. Internal to csrc/program.
//
// It puts the operators into an order with few phases (schedule()), walks it forward, then backward, and appends steps
// to the current phase. A new phase is begun where the partition axis changes or where a step needs the whole of
// something that the current phase is still writing (begin()). A value read in a later phase than the one that made it
// is stored for the whole batch, unless it is cheap to make again from what is stored (use()). The steps of each
// operator, forward and backward, are in steps_<operator>.cpp.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fusion.hpp"
#include "operators/dense.hpp"
#include "operators/pointwise.hpp"
#include "plan.hpp"

namespace fastbn {

// Parts of the numeric plan: they decide bits, so they depend on nothing that is measured.
inline constexpr int64_t kChunks = 16;  // of a batch: tasks of a samples phase, and partial weight gradients
// An eighth of a feature axis to a slice, and at most so many columns: enough tasks for some threads.
inline constexpr int64_t kSlices = 8, kWidestSlice = 128;
inline constexpr int64_t kSmallKernelBytes = 65536;  // a dense kernel that a chunk may stream without a thought
inline constexpr int64_t kCacheAdvantage = 8;        // a byte from the cache costs an eighth of one from memory

inline constexpr int64_t kUpdateTask = 16384;  // floats of a task of the update phase
inline constexpr int kMostRemakes = 2;         // batch-norms in a row that are made again instead of stored

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
  int64_t widest_task() { return std::min(round_up(phase().columns, kDensePanel), kWidestTask); }
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
      next.slice = std::min(round_up(ceil_div(columns, kSlices), kDensePanel), kWidestSlice);
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

  // The value to read in the current phase: itself, or a copy made here. A value with `remake` that no step has
  // written is made where it is read first.
  int use(int value) {
    const Value& v = plan_->values[static_cast<size_t>(value)];
    if (v.sample_bytes == 0 || v.phase == phase_index() || v.crosses) return value;
    const auto copy = copies_.find(value);
    if (copy != copies_.end() &&
        (written_here(copy->second) || plan_->values[static_cast<size_t>(copy->second)].crosses))
      return copy->second;
    if (v.remake && phase().domain == Domain::samples) {
      const bool first = v.phase < 0 && copy == copies_.end();
      const auto remake = v.remake;  // a copy: making steps moves the values
      const int made = remake();
      if (!first) {
        plan_->steps.back().again = true;
        plan_->steps.back().note = "made again instead of stored";
      }
      return copies_[value] = made;
    }
    const int stored = v.phase < 0 ? copies_.at(value) : value;
    plan_->values[static_cast<size_t>(stored)].crosses = true;
    return stored;
  }
  // Whether a step has written this value, or a copy of it.
  bool is_made(int value) const {
    return plan_->values[static_cast<size_t>(value)].phase >= 0 || copies_.count(value) != 0;
  }
  // Before a features phase reads a value: one that waits for its first reader is made now.
  void settle(int value) {
    if (is_made(value)) return;
    begin(Domain::samples);
    use(value);
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
  // What the forward step of a conv2d (packed) or dense (in panels) reads; bias may be nullptr.
  struct Weights {
    const float *kernel, *bias;
  };
  Weights weights(const Op& op);

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

  // A part of an operator. Batch-norm over the batch has three, since all rows must be seen between them.
  enum class Stage { whole, statistics, merge, normalise };
  struct Scheduled {
    const Op* op;
    Stage stage;
    int level;
  };
  std::vector<Scheduled> schedule() const;
  bool over_the_batch(const Op& op) const {
    return op.kind == OpKind::batch_norm && training_ && node(op).layer.frozen == 0;
  }

  void forward(const Op& op);
  void forward_input(const Op& op);
  void forward_conv2d(const Op& op);
  void forward_dense(const Op& op, bool feeds_loss);
  void forward_batch_norm(const Op& op);
  uint64_t dropout_seed(const Op& op) const;
  void forward_pointwise(const Op& op);
  void forward_pool(const Op& op);
  void forward_merge(const Op& op);
  void loss();

  void backward(const Op& op);
  void backward_conv2d(const Op& op, int dy);
  void backward_dense(const Op& op, int dy);
  void emit_dense_filter(const Op& op, const DensePlan& plan, int x, int dz, bool by_outputs);
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
  void go_back_and_forth();
  void allocate();

  const PlanRequest& request_;
  const Graph& graph_;
  ParameterStore& store_;
  const bool training_;
  std::unique_ptr<Plan> plan_ = std::make_unique<Plan>();
  FusedGraph fused_;
  std::map<int, int> values_;                  // graph value -> plan value
  std::map<int, int> copies_;                  // value with remake -> where it was made last
  std::map<int, std::vector<int>> gradients_;  // graph value -> contributions
  std::map<int, bool> differentiable_;
  std::map<int, int> pool_index_;  // node -> plan value
  struct BatchNormState {
    int statistics, coefficients;
    // What is left to emit after the sums over the chunks; empty where a features phase did all at once.
    std::function<void()> merge, normalise, backward_merge, backward_apply;
  };
  std::map<int, BatchNormState> batch_norm_;  // node ->
  std::map<int, bool> dense_forward_in_blocks_;
  std::vector<PendingUpdate> pending_;
  int loss_gradient_ = -1;
};

}  // namespace fastbn
