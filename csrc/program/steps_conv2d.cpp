// Steps of convolutions.
#include <algorithm>

#include "operators/conv2d.hpp"
#include "planner.hpp"

namespace fastbn {

void Planner::forward_conv2d(const Op& op) {
  fbn_conv2d d = node(op).layer.conv;
  d.activation = op.activation;
  d.alpha = op.alpha;
  d.algorithm = request_.conv_algorithm;
  const Conv2dPlan plan(name(op).c_str(), d);
  const Conv2dGeometry g = plan.geometry();
  const Weights w = weights(op);
  begin(Domain::samples);
  const int x = use(values_.at(op.inputs[0]));
  const int y = values_[op.output] = floats(name(op), g.out_size());
  Step s = step(op, "forward", FBN_FORWARD, {x}, {y});
  s.multiply_adds = g.multiply_adds();
  s.fixed_bytes = plan.packed_forward_size() * 4;
  s.scratch_floats = plan.forward_scratch();
  s.note = plan.forward_algorithm();
  s.run = [plan, w, x, y](const StepContext& c) {
    plan.forward(c.at(x), w.kernel, w.bias, c.at(y), c.count, c.scratch);
  };
  emit(std::move(s));
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
    s.block_grain = plan.images_of_granule();
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

}  // namespace fastbn
