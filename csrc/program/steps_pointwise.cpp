// Steps of activations, dropout and rescaling.
#include "operators/pointwise.hpp"
#include "planner.hpp"
#include "runtime/random.hpp"

namespace fastbn {

// The layer's own seed, or a stream of the program's; each step derives its key from it.
uint64_t Planner::dropout_seed(const Op& op) const {
  const uint64_t own = node(op).layer.seed;
  return own != 0 ? own : derive_seed(request_.seed, 0x10000u + static_cast<uint64_t>(op.node));
}

void Planner::forward_pointwise(const Op& op) {
  const Matrix m = matrix_of(graph_.node(op.output));
  const int input = values_.at(op.inputs[0]);
  const fbn_layer layer = node(op).layer;
  const uint64_t seed = dropout_seed(op);
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

void Planner::backward_pointwise(const Op& op, int dy) {
  if (!needs_gradient(op.inputs[0])) return;
  const Matrix m = matrix_of(graph_.node(op.output));
  const fbn_layer layer = node(op).layer;
  const uint64_t seed = dropout_seed(op);
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

}  // namespace fastbn
