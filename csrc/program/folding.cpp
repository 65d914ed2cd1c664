#include "folding.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "graph.hpp"
#include "parameters.hpp"

namespace fastbn {
namespace {

FoldedNorm norm_of(const Graph& graph, ParameterStore& store, int node) {
  if (node < 0) return {};
  return {graph.node(node).channels(),
          graph.node(node).layer.epsilon,
          store.find(node, ParameterRole::gamma),
          store.find(node, ParameterRole::beta),
          store.find(node, ParameterRole::moving_mean),
          store.find(node, ParameterRole::moving_variance)};
}

// Weights from one input to `count` outputs: the input's s and t, the outputs' s'; sums gather t W.
void fold_row(const float* w, int64_t count, double scale, double shift, const double* out_scale, double* sums,
              float* to) noexcept {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(scale * static_cast<double>(w[i]) * out_scale[i]);
  if (shift == 0) return;
  for (int64_t i = 0; i < count; ++i) sums[i] += shift * static_cast<double>(w[i]);
}

}  // namespace

void FoldedNorm::write(int64_t count, double* scale, double* shift) const noexcept {
  for (int64_t i = 0; i < count; ++i) {
    scale[i] = 1;
    shift[i] = 0;
    if (channels == 0) continue;
    const int64_t c = i % channels;
    scale[i] = 1 / std::sqrt(static_cast<double>(variance->value.floats()[c]) + epsilon);
    if (gamma != nullptr) scale[i] *= static_cast<double>(gamma->value.floats()[c]);
    shift[i] = -static_cast<double>(mean->value.floats()[c]) * scale[i];
    if (beta != nullptr) shift[i] += static_cast<double>(beta->value.floats()[c]);
  }
}

int64_t FoldedLayer::inputs() const {
  return conv != nullptr ? conv->plan.geometry().in_channels : source->spec.shape[0];
}
int64_t FoldedLayer::outputs() const { return source->spec.shape.back(); }

void FoldedLayer::make(float* rows) noexcept {
  const int64_t in = inputs(), out = outputs();
  double* in_scale = static_cast<double*>(factors.data());
  double *in_shift = in_scale + in, *out_scale = in_shift + in, *out_shift = out_scale + out, *sums = out_shift + out;
  before.write(in, in_scale, in_shift);
  after.write(out, out_scale, out_shift);
  for (int64_t o = 0; o < out; ++o)
    sums[o] = source_bias != nullptr ? static_cast<double>(source_bias->value.floats()[o]) : 0;

  const float* w = source->value.floats();
  if (conv != nullptr) {  // (tap, input of the group, output), outputs group by group
    const Conv2dGeometry g = conv->plan.geometry();
    const int64_t group_in = in / g.groups, group_out = out / g.groups;
    for (int64_t row = 0; row < source->size / out; ++row) {
      for (int64_t group = 0; group < g.groups; ++group) {
        const int64_t k = group * group_in + row % group_in, o = group * group_out, at = row * out + o;
        fold_row(w + at, group_out, in_scale[k], in_shift[k], out_scale + o, sums + o, rows + at);
      }
    }
    conv->plan.pack_forward(rows, kernel.floats());
  } else {
    const DensePlan plan = source->dense();
    for (int64_t o = 0; o < out; o += kDensePanel) {
      for (int64_t k = 0; k < in; ++k) {
        const int64_t at = plan.kernel_at(k, o);
        fold_row(w + at, plan.kernel_stride(o), in_scale[k], in_shift[k], out_scale + o, sums + o,
                 kernel.floats() + at);
      }
    }
  }
  for (int64_t o = 0; o < out; ++o) bias.floats()[o] = static_cast<float>(sums[o] * out_scale[o] + out_shift[o]);
  made = true;
}

const FoldedLayer& FoldedLayers::get(const Graph& graph, ParameterStore& store, int node, int before, int after) {
  const std::lock_guard lock(mutex_);
  const auto found = layers_.find({node, before, after});
  if (found != layers_.end()) return found->second;
  const auto packed = store.packed.find(node);
  FoldedLayer layer{store.find(node, ParameterRole::kernel),
                    store.find(node, ParameterRole::bias),
                    packed != store.packed.end() ? &packed->second : nullptr,
                    norm_of(graph, store, before),
                    norm_of(graph, store, after),
                    {},
                    {},
                    {}};
  const auto floats = [](int64_t count) { return Buffer(static_cast<size_t>(count) * sizeof(float)); };
  const Parameter& source = *layer.source;
  if (layer.conv == nullptr) {
    layer.kernel = parameter_buffer(source);
  } else {
    layer.kernel = floats(layer.conv->plan.packed_forward_size());
    const size_t needed = static_cast<size_t>(source.size) * sizeof(float);
    if (rows_.size() < needed) rows_ = Buffer(needed);
  }
  layer.bias = floats(layer.outputs());
  layer.factors = Buffer(static_cast<size_t>(2 * layer.inputs() + 3 * layer.outputs()) * sizeof(double));
  return layers_.emplace(std::tuple(node, before, after), std::move(layer)).first->second;
}

void FoldedLayers::renew(bool weights_changed) noexcept {
  const std::lock_guard lock(mutex_);
  for (auto& [key, layer] : layers_)
    if (weights_changed || !layer.made) layer.make(rows_.floats());
}

}  // namespace fastbn
