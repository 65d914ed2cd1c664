// Depthwise convolution, vectors along the channels: any geometry, the gradient of strided images, and the kernels of
// 3x3 taps that fit the registers.
#include "convolution.hpp"

#include "depthwise_channels.hpp"

#if defined(__AVX512F__) || defined(__aarch64__)
#define FASTBN_MANY_REGISTERS 1  // 32 of them
#include "depthwise_strips.hpp"
#else
#define FASTBN_MANY_REGISTERS 0
#include "depthwise_rows.hpp"
#endif

namespace fastbn {
namespace FASTBN_ISA {
namespace {

// Columns are taken in runs, all channels of a run before the next, so that memory is read and written in order.
constexpr int kColumns = FASTBN_MANY_REGISTERS ? 8 : 4;

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

template <int Columns>
FASTBN_INLINE void all_channels(const DepthwiseArgs& g, int64_t i) {
  const float* x = g.x + i * g.x_step;
  float* y = g.y + i * g.y_step;
  for_channels(
      x, g.channels, [&](auto whole, int64_t c, int64_t lanes) __attribute__((always_inline)) {
        depthwise_columns<Columns, whole.value != 0>(g, x, y, c, lanes);
      });
}

void depthwise_row(const DepthwiseArgs& g) {
  int64_t i = 0;
  for (; i + kColumns <= g.columns; i += kColumns) all_channels<kColumns>(g, i);
  for (; i + 3 <= g.columns; i += 3) all_channels<3>(g, i);
  for (; i < g.columns; ++i) all_channels<1>(g, i);
}

// What a row of cells needs of its arguments, copied for the compiler's sake. A cell is what one position of dy's grid,
// counted with the row above and the column before, reaches of dx: two columns of an even row and of an odd one.
struct SpreadRows {
  const float* above;  // of dy; NULL: none
  const float* below;
  const float* w;
  float* even;  // of dx; NULL: padding
  float* odd;
  int64_t channels;
};

// Cells whose columns of dy and dx all exist. `at` and `to`: the column of dy before the first cell and its even column
// of dx, in floats. No tap is part of both rows of dx.
template <int Cells, bool Above, bool Below, bool Whole>
FASTBN_INLINE void spread_cells(SpreadRows g, int64_t at, int64_t to, int64_t c, int64_t lanes) {
  vfloat above[Cells + 1], below[Cells + 1];
  for_each_constant<Cells + 1>([&](auto k) __attribute__((always_inline)) {
    if constexpr (Above) above[k.value] = load_channels<Whole>(g.above + at + k.value * g.channels + c, lanes);
    if constexpr (Below) below[k.value] = load_channels<Whole>(g.below + at + k.value * g.channels + c, lanes);
  });
  const auto tap = [&](int u, int v) __attribute__((always_inline)) {
    return load_channels<Whole>(g.w + (3 * u + v) * g.channels + c, lanes);
  };
  vfloat sum[2 * Cells];
  const auto clear = [&]() __attribute__((always_inline)) {
    for_each_constant<2 * Cells>([&](auto i) __attribute__((always_inline)) { sum[i.value] = vfloat{}; });
  };
  // The even columns are reached by taps 0 and 2, the odd ones by tap 1.
  const auto add = [&](const vfloat(&d)[Cells + 1], int u) __attribute__((always_inline)) {
    const vfloat first = tap(u, 0), middle = tap(u, 1), last = tap(u, 2);
    for_each_constant<Cells>([&](auto i) __attribute__((always_inline)) {
      constexpr int k = i.value;
      sum[2 * k] = fma(d[k + 1], first, sum[2 * k]);
      sum[2 * k] = fma(d[k], last, sum[2 * k]);
      sum[2 * k + 1] = fma(d[k + 1], middle, sum[2 * k + 1]);
    });
  };
  const auto finish = [&](float* row) __attribute__((always_inline)) {
    for_each_constant<2 * Cells>([&](auto i) __attribute__((always_inline)) {
      store_channels<Whole>(row + to + i.value * g.channels + c, sum[i.value], lanes);
    });
  };
  if (g.even) {
    clear();
    if constexpr (Below) add(below, 0);
    if constexpr (Above) add(above, 2);
    finish(g.even);
  }
  if (g.odd) {
    clear();
    if constexpr (Below) add(below, 1);
    finish(g.odd);
  }
}

// One cell at an end of a row: `before` and `here`, whether its columns of dy exist, `first` and `second` those of dx.
template <bool Whole>
FASTBN_INLINE void spread_end(SpreadRows g, int64_t at, int64_t to, bool before, bool here, bool first, bool second,
                              int64_t c, int64_t lanes) {
  const auto row = [&](float* row_to, const float* d0, int u0, const float* d1, int u1) __attribute__((always_inline)) {
    vfloat even{}, odd{};
    const auto add = [&](const float* d, int u) __attribute__((always_inline)) {
      const float* w = g.w + 3 * u * g.channels + c;
      if (here) {
        const vfloat source = load_channels<Whole>(d + at + g.channels + c, lanes);
        even = fma(source, load_channels<Whole>(w, lanes), even);
        odd = fma(source, load_channels<Whole>(w + g.channels, lanes), odd);
      }
      if (before) {
        const vfloat source = load_channels<Whole>(d + at + c, lanes);
        even = fma(source, load_channels<Whole>(w + 2 * g.channels, lanes), even);
      }
    };
    if (d0) add(d0, u0);
    if (d1) add(d1, u1);
    if (first) store_channels<Whole>(row_to + to + c, even, lanes);
    if (second) store_channels<Whole>(row_to + to + g.channels + c, odd, lanes);
  };
  if (g.even) row(g.even, g.below, 0, g.above, 2);
  if (g.odd) row(g.odd, g.below, 1, nullptr, 0);
}

template <int Cells, bool Above, bool Below>
void spread_channels(SpreadRows g, int64_t at, int64_t to) {
  for_channels((g.even ? g.even : g.odd) + to,
               g.channels, [&](auto whole, int64_t c, int64_t lanes) __attribute__((always_inline)) {
                 spread_cells<Cells, Above, Below, whole.value != 0>(g, at, to, c, lanes);
               });
}

void depthwise_spread(const DepthwiseSpreadArgs& g) {
  const SpreadRows rows{g.above, g.below, g.w, g.even, g.odd, g.channels};
  const auto run = g.above == nullptr   ? spread_channels<2, false, true>
                   : g.below == nullptr ? spread_channels<2, true, false>
                                        : spread_channels<2, true, true>;
  const bool any = g.above != nullptr || g.below != nullptr;
  for (int64_t i = g.pad_left / 2; 2 * i - g.pad_left < g.dx_columns;) {
    const int64_t column = 2 * i - g.pad_left;  // of dx
    const int64_t at = (i - 1) * g.channels, to = column * g.channels;
    if (any && i >= 1 && i + 1 < g.dy_columns && column >= 0 && column + 4 <= g.dx_columns) {
      run(rows, at, to);
      i += 2;
      continue;
    }
    const bool before = i >= 1 && i - 1 < g.dy_columns, here = i < g.dy_columns;
    const bool first = column >= 0, second = column + 1 < g.dx_columns;
    for_channels((g.even ? g.even : g.odd) + to,
                 g.channels, [&](auto whole, int64_t c, int64_t lanes) __attribute__((always_inline)) {
                   spread_end<whole.value != 0>(rows, at, to, before, here, first, second, c, lanes);
                 });
    ++i;
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
  for_channels(
      x, g.channels, [&](auto whole, int64_t c, int64_t lanes) __attribute__((always_inline)) {
        filter_taps<Up, Along, whole.value != 0>(g, x + c, dy + c, dw + c, columns, lanes);
      });
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
  table.depthwise_block = depthwise_block;
  table.depthwise_spread = depthwise_spread;
  table.depthwise_filter_row = depthwise_filter_row;
  table.depthwise_filter_block = depthwise_filter_block;
  table.columns_outside = FASTBN_MANY_REGISTERS ? INT64_MAX : 1;
  table.block_tile = kBlockTile;
  table.filter_block_tile = kFilterBlockTile;
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
