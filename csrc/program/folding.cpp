#include "folding.hpp"

#include <algorithm>

#include "graph.hpp"
#include "operators/batch_norm.hpp"
#include "parameters.hpp"

namespace fastbn {

int64_t FoldedLayer::outputs() const { return source->spec.shape.back(); }

void FoldedLayer::make(float* rows) noexcept {
  const int64_t out = outputs();
  double* moments = static_cast<double*>(factors.data());
  std::copy_n(mean->value.floats(), channels, moments);
  std::copy_n(variance->value.floats(), channels, moments + channels);
  const BatchNormCoefficients norm = batch_norm_coefficients(moments + 2 * channels, channels);
  batch_norm_forward_coefficients(channels, moments, moments + channels, epsilon,
                                  gamma != nullptr ? gamma->value.floats() : nullptr,
                                  beta != nullptr ? beta->value.floats() : nullptr, norm);
  double* s = moments + (2 + kBatchNormCoefficientArrays) * channels;
  for (int64_t o = 0; o < out; ++o) {
    const int64_t c = o % channels;
    s[o] = norm.scale[c];
    const double own = source_bias != nullptr ? static_cast<double>(source_bias->value.floats()[o]) : 0;
    bias.floats()[o] = static_cast<float>((own - norm.mean[c]) * norm.scale[c] + norm.shift[c]);
  }
  const auto scaled = [](const float* w, const double* by, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(static_cast<double>(w[i]) * by[i]);
  };
  const float* w = source->value.floats();
  if (conv != nullptr) {  // (tap, input of the group, output)
    for (int64_t at = 0; at < source->size; at += out) scaled(w + at, s, out, rows + at);
    return conv->plan.pack_forward(rows, kernel.floats());
  }
  const DensePlan plan = source->dense();
  for (int64_t o = 0; o < out; o += kDensePanel) {
    const int64_t wide = plan.kernel_stride(o);
    for (int64_t k = 0; k < plan.in_features(); ++k)
      scaled(w + plan.kernel_at(k, o), s + o, std::min(wide, out - o), kernel.floats() + plan.kernel_at(k, o));
  }
}

const FoldedLayer& FoldedLayers::get(const Graph& graph, ParameterStore& store, int node, int norm) {
  const auto found = layers_.find({node, norm});
  if (found != layers_.end()) return found->second;
  const auto packed = store.packed.find(node);
  FoldedLayer layer{store.find(node, ParameterRole::kernel),
                    store.find(node, ParameterRole::bias),
                    packed != store.packed.end() ? &packed->second : nullptr,
                    graph.node(norm).channels(),
                    graph.node(norm).layer.epsilon,
                    store.find(norm, ParameterRole::gamma),
                    store.find(norm, ParameterRole::beta),
                    store.find(norm, ParameterRole::moving_mean),
                    store.find(norm, ParameterRole::moving_variance),
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
  const int64_t factors = (2 + kBatchNormCoefficientArrays) * layer.channels + layer.outputs();
  layer.factors = Buffer(static_cast<size_t>(factors) * sizeof(double));
  return layers_.emplace(std::pair(node, norm), std::move(layer)).first->second;
}

void FoldedLayers::renew(bool weights_changed) noexcept {
  for (auto& [key, layer] : layers_) {
    if (!weights_changed && layer.made) continue;
    layer.make(rows_.floats());
    layer.made = true;
  }
}

}  // namespace fastbn
