// Depthwise convolution, vectors along the channels.
#include "convolution.hpp"

#include <fastbn/fastbn.h>

#include "simd.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

template <bool Whole>
FASTBN_INLINE vfloat load_channels(const float* p, int64_t lanes) {
  if constexpr (Whole) {
    (void)lanes;
    return load(p);
  } else {
    return load_partial(p, lanes);
  }
}
template <bool Whole>
FASTBN_INLINE void store_channels(float* p, vfloat v, int64_t lanes) {
  if constexpr (Whole) {
    (void)lanes;
    store(p, v);
  } else {
    store_partial(p, v, lanes);
  }
}

// Columns are taken in runs of this many, to hide the latency of the chains.
constexpr int kColumns = 8;

template <int Columns, bool Whole>
FASTBN_INLINE void depthwise_columns(const DepthwiseArgs& g, const float* x, float* y, int64_t c, int64_t lanes) {
  vfloat sum[Columns];
  for (int i = 0; i < Columns; ++i) sum[i] = vfloat{};
  const float* w = g.w + c;
  for (int64_t u = 0; u < g.taps_up; ++u) {
    const float* row = x + u * g.x_up + c;
    for (int64_t v = 0; v < g.taps_along; ++v) {
      const vfloat tap = load_channels<Whole>(w, lanes);
      for (int i = 0; i < Columns; ++i) {
        sum[i] = fma(load_channels<Whole>(row + i * g.x_step, lanes), tap, sum[i]);
      }
      row += g.x_along;
      w += g.channels;
    }
  }
  if (g.bias) {
    const vfloat bias = load_channels<Whole>(g.bias + c, lanes);
    for (int i = 0; i < Columns; ++i) sum[i] += bias;
  }
  if (g.activation != FBN_LINEAR) {
    const vfloat slope = broadcast(g.activation == FBN_LEAKY_RELU ? g.alpha : 0.0f);
    for (int i = 0; i < Columns; ++i) {
      const vfloat below = g.activation == FBN_LEAKY_RELU ? slope * sum[i] : vfloat{};
      sum[i] = sum[i] < vfloat{} ? below : sum[i];
    }
  }
  for (int i = 0; i < Columns; ++i) store_channels<Whole>(y + i * g.y_step + c, sum[i], lanes);
}

template <bool Whole>
FASTBN_INLINE void depthwise_channels(const DepthwiseArgs& g, int64_t c, int64_t lanes) {
  int64_t i = 0;
  for (; i + kColumns <= g.columns; i += kColumns) {
    depthwise_columns<kColumns, Whole>(g, g.x + i * g.x_step, g.y + i * g.y_step, c, lanes);
  }
  for (; i < g.columns; ++i) depthwise_columns<1, Whole>(g, g.x + i * g.x_step, g.y + i * g.y_step, c, lanes);
}

void depthwise_row(const DepthwiseArgs& g) {
  int64_t c = 0;
  for (; c + kLanes <= g.channels; c += kLanes) depthwise_channels<true>(g, c, kLanes);
  if (c < g.channels) depthwise_channels<false>(g, c, g.channels - c);
}

template <int Taps, bool Whole>
FASTBN_INLINE void filter_taps(const DepthwiseFilterArgs& g, const float* x, float* dw, int64_t c, int64_t lanes) {
  vfloat sum[Taps];
  for (int v = 0; v < Taps; ++v) sum[v] = vfloat{};
  for (int64_t r = 0; r < g.rows; ++r) {
    const float* row = x + r * g.x_row + c;
    const float* gradient = g.dy + r * g.dy_row + c;
    for (int64_t i = 0; i < g.columns; ++i) {
      const vfloat d = load_channels<Whole>(gradient, lanes);
      for (int v = 0; v < Taps; ++v) sum[v] = fma(load_channels<Whole>(row + v * g.x_along, lanes), d, sum[v]);
      row += g.x_step;
      gradient += g.channels;
    }
  }
  for (int v = 0; v < Taps; ++v) {
    float* at = dw + v * g.channels + c;
    store_channels<Whole>(at, load_channels<Whole>(at, lanes) + sum[v], lanes);
  }
}

template <bool Whole>
FASTBN_INLINE void filter_channels(const DepthwiseFilterArgs& g, int64_t c, int64_t lanes) {
  for (int64_t u = 0; u < g.taps_up; ++u) {
    const float* x = g.x + u * g.x_up;
    float* dw = g.dw + u * g.taps_along * g.channels;
    for (int64_t v = 0; v < g.taps_along;) {
      const int64_t left = g.taps_along - v;
      const float* at = x + v * g.x_along;
      float* to = dw + v * g.channels;
      if (left >= 5) {
        filter_taps<5, Whole>(g, at, to, c, lanes);
        v += 5;
      } else if (left >= 3) {
        filter_taps<3, Whole>(g, at, to, c, lanes);
        v += 3;
      } else {
        filter_taps<1, Whole>(g, at, to, c, lanes);
        v += 1;
      }
    }
  }
}

void depthwise_filter(const DepthwiseFilterArgs& g) {
  int64_t c = 0;
  for (; c + kLanes <= g.channels; c += kLanes) filter_channels<true>(g, c, kLanes);
  if (c < g.channels) filter_channels<false>(g, c, g.channels - c);
}

}  // namespace

void fill_convolution(ConvolutionKernels& table) {
  table.depthwise_row = depthwise_row;
  table.depthwise_filter = depthwise_filter;
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
