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

// Columns are taken in runs, all channels of a run before the next, so that memory is read and written in order.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kColumns = 8;
#else
constexpr int kColumns = 4;
#endif
constexpr int kFilterColumns = 16;

template <bool Whole, int Columns>
FASTBN_INLINE void finish_columns(const DepthwiseArgs& g, vfloat (&sum)[Columns], float* y, int64_t c, int64_t lanes) {
  if (g.bias) {
    const vfloat bias = load_channels<Whole>(g.bias + c, lanes);
    FASTBN_UNROLL
    for (int i = 0; i < Columns; ++i) sum[i] += bias;
  }
  if (g.activation != FBN_LINEAR) {
    const vfloat slope = broadcast(g.activation == FBN_LEAKY_RELU ? g.alpha : 0.0f);
    FASTBN_UNROLL
    for (int i = 0; i < Columns; ++i) {
      const vfloat below = g.activation == FBN_LEAKY_RELU ? slope * sum[i] : vfloat{};
      sum[i] = sum[i] < vfloat{} ? below : sum[i];
    }
  }
  FASTBN_UNROLL
  for (int i = 0; i < Columns; ++i) store_channels<Whole>(y + i * g.y_step + c, sum[i], lanes);
}

template <int Columns, bool Whole>
FASTBN_INLINE void depthwise_columns(const DepthwiseArgs& g, const float* x, float* y, int64_t c, int64_t lanes) {
  vfloat sum[Columns];
  FASTBN_UNROLL
  for (int i = 0; i < Columns; ++i) sum[i] = vfloat{};
  for (int64_t u = 0; u < g.taps_up; ++u) {
    const float* row = x + u * g.x_up + c;
    const float* w = g.w + u * g.w_up + c;
    for (int64_t v = 0; v < g.taps_along; ++v) {
      const vfloat tap = load_channels<Whole>(w, lanes);
      FASTBN_UNROLL
      for (int i = 0; i < Columns; ++i) {
        sum[i] = fma(load_channels<Whole>(row + i * g.x_step, lanes), tap, sum[i]);
      }
      row += g.x_along;
      w += g.channels;
    }
  }
  finish_columns<Whole>(g, sum, y, c, lanes);
}

// Three taps at stride 1: a column that is read serves three outputs.
template <int Columns, bool Whole>
FASTBN_INLINE void three_taps_along(const DepthwiseArgs& g, const float* x, float* y, int64_t c, int64_t lanes) {
  vfloat sum[Columns];
  FASTBN_UNROLL
  for (int i = 0; i < Columns; ++i) sum[i] = vfloat{};
  for (int64_t u = 0; u < g.taps_up; ++u) {
    const float* row = x + u * g.x_up + c;
    const float* w = g.w + u * g.w_up + c;
    vfloat column[Columns + 2];
    FASTBN_UNROLL
    for (int i = 0; i < Columns + 2; ++i) column[i] = load_channels<Whole>(row + i * g.x_step, lanes);
    FASTBN_UNROLL
    for (int v = 0; v < 3; ++v) {
      const vfloat tap = load_channels<Whole>(w + v * g.channels, lanes);
      FASTBN_UNROLL
      for (int i = 0; i < Columns; ++i) sum[i] = fma(column[i + v], tap, sum[i]);
    }
  }
  finish_columns<Whole>(g, sum, y, c, lanes);
}

template <int Columns, bool Three>
FASTBN_INLINE void all_channels(const DepthwiseArgs& g, int64_t i) {
  const float* x = g.x + i * g.x_step;
  float* y = g.y + i * g.y_step;
  int64_t c = 0;
  for (; c + kLanes <= g.channels; c += kLanes) {
    if constexpr (Three) {
      three_taps_along<Columns, true>(g, x, y, c, kLanes);
    } else {
      depthwise_columns<Columns, true>(g, x, y, c, kLanes);
    }
  }
  if (c < g.channels) depthwise_columns<Columns, false>(g, x, y, c, g.channels - c);
}

template <bool Three>
FASTBN_INLINE void all_columns(const DepthwiseArgs& g) {
  int64_t i = 0;
  for (; i + kColumns <= g.columns; i += kColumns) all_channels<kColumns, Three>(g, i);
  for (; i + 3 <= g.columns; i += 3) all_channels<3, Three>(g, i);
  for (; i < g.columns; ++i) all_channels<1, false>(g, i);
}

void depthwise_row(const DepthwiseArgs& g) {
  if (g.taps_along == 3 && g.x_along == g.x_step) {
    all_columns<true>(g);
  } else {
    all_columns<false>(g);
  }
}

template <int Up, int Along, bool Whole>
FASTBN_INLINE void filter_taps(const DepthwiseFilterArgs& g, const float* x, const float* dy, float* dw,
                               int64_t columns, int64_t lanes) {
  vfloat sum[Up][Along];
  FASTBN_UNROLL
  for (int u = 0; u < Up; ++u) {
    FASTBN_UNROLL
    for (int v = 0; v < Along; ++v) sum[u][v] = load_channels<Whole>(dw + u * g.dw_up + v * g.channels, lanes);
  }
  for (int64_t i = 0; i < columns; ++i) {
    const vfloat d = load_channels<Whole>(dy, lanes);
    FASTBN_UNROLL
    for (int u = 0; u < Up; ++u) {
      FASTBN_UNROLL
      for (int v = 0; v < Along; ++v) {
        sum[u][v] = fma(load_channels<Whole>(x + u * g.x_up + v * g.x_along, lanes), d, sum[u][v]);
      }
    }
    x += g.x_step;
    dy += g.channels;
  }
  FASTBN_UNROLL
  for (int u = 0; u < Up; ++u) {
    FASTBN_UNROLL
    for (int v = 0; v < Along; ++v) store_channels<Whole>(dw + u * g.dw_up + v * g.channels, sum[u][v], lanes);
  }
}

// Up x Along taps of all channels for a run of columns.
template <int Up, int Along>
void filter_block(const DepthwiseFilterArgs& g, const float* x, const float* dy, float* dw, int64_t columns) {
  int64_t c = 0;
  for (; c + kLanes <= g.channels; c += kLanes) {
    filter_taps<Up, Along, true>(g, x + c, dy + c, dw + c, columns, kLanes);
  }
  if (c < g.channels) filter_taps<Up, Along, false>(g, x + c, dy + c, dw + c, columns, g.channels - c);
}

using FilterBlock = void (*)(const DepthwiseFilterArgs&, const float*, const float*, float*, int64_t);
constexpr FilterBlock kFilterBlocks[3][3] = {{filter_block<1, 1>, filter_block<1, 2>, filter_block<1, 3>},
                                             {filter_block<2, 1>, filter_block<2, 2>, filter_block<2, 3>},
                                             {filter_block<3, 1>, filter_block<3, 2>, filter_block<3, 3>}};

void depthwise_filter_row(const DepthwiseFilterArgs& g) {
  for (int64_t i = 0; i < g.columns; i += kFilterColumns) {
    const int64_t columns = g.columns - i < kFilterColumns ? g.columns - i : kFilterColumns;
    for (int64_t u = 0; u < g.taps_up; u += 3) {
      const int64_t up = g.taps_up - u < 3 ? g.taps_up - u : 3;
      for (int64_t v = 0; v < g.taps_along; v += 3) {
        const int64_t along = g.taps_along - v < 3 ? g.taps_along - v : 3;
        kFilterBlocks[up - 1][along - 1](g, g.x + i * g.x_step + u * g.x_up + v * g.x_along, g.dy + i * g.channels,
                                         g.dw + u * g.dw_up + v * g.channels, columns);
      }
    }
  }
}

}  // namespace

void fill_convolution(ConvolutionKernels& table) {
  table.depthwise_row = depthwise_row;
  table.depthwise_filter_row = depthwise_filter_row;
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
