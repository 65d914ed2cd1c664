// The walk over the operators that makes a plan.
#include "planner.hpp"

#include <algorithm>
#include <cstring>

#include "operators/conv2d.hpp"
#include "runtime/status.hpp"
#include "runtime/verbose.hpp"

namespace fastbn {

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

// Phases are cut where a batch-norm needs all rows, so operators go by level, the number of such cuts before them:
// branches that run beside each other share the phases, and their merges stand together. Backward is the reverse.
std::vector<Planner::Scheduled> Planner::schedule() const {
  std::vector<Scheduled> order;
  std::map<int, int> levels;  // of a graph value
  for (const Op& op : fused_.ops) {
    int level = 0;
    for (const int input : op.inputs) level = std::max(level, levels.at(input));
    if (over_the_batch(op)) {
      order.push_back({&op, Stage::statistics, level});
      order.push_back({&op, Stage::merge, ++level});
    }
    if (op.residual >= 0) level = std::max(level, levels.at(op.residual));
    order.push_back({&op, over_the_batch(op) ? Stage::normalise : Stage::whole, level});
    levels[op.output] = level;
  }
  std::stable_sort(order.begin(), order.end(), [](const Scheduled& a, const Scheduled& b) {
    if (a.level != b.level) return a.level < b.level;
    return a.stage == Stage::merge && b.stage != Stage::merge;
  });
  return order;
}

Planner::Weights Planner::weights(const Op& op) {
  if (op.folded >= 0) {
    const FoldedLayer& folded = store_.folded.get(graph_, store_, op.node, op.folded);
    return {folded.kernel.floats(), folded.bias.floats()};
  }
  const Parameter* kernel = store_.find(op.node, ParameterRole::kernel);
  const Parameter* bias = store_.find(op.node, ParameterRole::bias);
  const Buffer& values = op.kind == OpKind::conv2d ? store_.packed.at(op.node).forward : kernel->value;
  return {values.floats(), bias != nullptr ? bias->value.floats() : nullptr};
}

std::string Planner::describe_op(const Op& op) const {
  static constexpr const char* kNames[] = {"input",      "conv2d",     "dense",      "batch_norm",
                                           "activation", "max_pool2d", "avg_pool2d", "global_avg_pool2d",
                                           "dropout",    "rescaling",  "add",        "concatenate"};
  std::string text = concatenate(kNames[static_cast<int>(op.kind)], " ", name(op));
  for (const std::string& other : op.fused) text += " + " + other;
  return text;
}

// A phase split by samples begins where the one before it has ended: what that wrote or read last is still in the
// caches. Where phases are split by columns, a thread's weights are what counts.
void Planner::go_back_and_forth() {
  bool backwards = false;
  for (PhasePlan& phase : plan_->phases) {
    if (phase.steps.empty() || phase.domain != Domain::samples) continue;
    phase.backwards = backwards;
    backwards = !backwards;
  }
}

std::unique_ptr<Plan> Planner::make() {
  plan_->capacity = request_.capacity;
  plan_->chunk = ceil_div(request_.capacity, kChunks);
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
    if (!op.fused.empty()) {
      std::string partners;
      for (const std::string& other : op.fused) partners += (partners.empty() ? "" : ", ") + other;
      plan_->fusions.push_back({op.node, std::move(partners), describe_op(op)});
    }
  }
  const std::vector<Scheduled> order = schedule();
  const auto emit_stage = [](const std::function<void()>& steps) {
    if (steps) steps();
  };
  for (const Scheduled& s : order) {
    if (s.stage == Stage::merge) {
      emit_stage(batch_norm_.at(s.op->node).merge);
    } else if (s.stage == Stage::normalise) {
      emit_stage(batch_norm_.at(s.op->node).normalise);
    } else {
      forward(*s.op);
    }
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
    for (size_t i = order.size(); i-- > 0;) {
      if (order[i].stage == Stage::merge) {
        emit_stage(batch_norm_.at(order[i].op->node).backward_merge);
      } else if (order[i].stage == Stage::statistics) {
        emit_stage(batch_norm_.at(order[i].op->node).backward_apply);
      } else {
        backward(*order[i].op);
      }
    }
    updates();
  }
  go_back_and_forth();
  allocate();
  return std::move(plan_);
}

namespace {

// Everything that a plan counts, bytes and multiply-adds alike, then stays far below 2^63: a value is stored a few
// times at most, a parameter has kChunks partial gradients.
void check_extent(const PlanRequest& request) {
  double bytes = 0, multiply_adds = 0;
  for (const Node& node : request.graph->nodes()) {
    bytes += 4.0 * static_cast<double>(node.size()) * static_cast<double>(request.capacity);
    multiply_adds += static_cast<double>(node.multiply_adds) * static_cast<double>(request.capacity);
    for (const ParameterSpec& spec : node.parameters)
      bytes += 4.0 * kChunks * static_cast<double>(element_count(spec.shape));
  }
  constexpr double kMost = 1e17;
  if (bytes > kMost || multiply_adds > kMost)
    fail(FBN_OUT_OF_MEMORY, "program: a step must stay below 1e17 bytes and multiply-adds. Received: ", bytes,
         " bytes and ", multiply_adds, " multiply-adds with max_batch=", request.capacity);
}

}  // namespace

std::unique_ptr<Plan> make_plan(const PlanRequest& request, ParameterStore& store) {
  check_extent(request);
  auto plan = Planner(request, store).make();
  if (verbose()) say(summary(request, *plan));
  return plan;
}

}  // namespace fastbn
