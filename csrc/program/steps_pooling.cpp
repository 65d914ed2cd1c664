// Steps of pooling.
#include "operators/pooling.hpp"
#include "planner.hpp"

namespace fastbn {

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

}  // namespace fastbn
