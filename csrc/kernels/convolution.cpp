// Depthwise convolution, vectors along the channels.
#include "convolution.hpp"

#include <fastbn/fastbn.h>

#include "vector_math.hpp"

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

// body(whole, c, lanes) for the vectors of all channels. NumPy's arrays begin 16 bytes into a cache line: where there
// are enough channels to make up for it, the first vector is a part that ends where a line of `p` does, so that none of
// the others lies on two.
template <class Body>
FASTBN_INLINE void for_channels(const float* p, int64_t channels, Body body) {
  constexpr int64_t kWorthAligning = 8 * kLanes;
  const int64_t past = (int64_t)((uintptr_t)p / sizeof(float) % kLanes);
  int64_t lanes = channels < kLanes ? channels : kLanes;
  if (channels >= kWorthAligning && channels % kLanes == 0) lanes -= past;
  for (int64_t c = 0; c < channels;) {
    if (lanes == kLanes) {
      body(Constant<1>{}, c, lanes);
    } else {
      body(Constant<0>{}, c, lanes);
    }
    c += lanes;
    lanes = channels - c < kLanes ? channels - c : kLanes;
  }
}

// Columns are taken in runs, all channels of a run before the next, so that memory is read and written in order.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;  // 32 of them
#else
constexpr bool kManyRegisters = false;
#endif
constexpr int kColumns = kManyRegisters ? 8 : 4;
constexpr int kFilterColumns = 16;

template <bool Whole, int Columns, class Args>
FASTBN_INLINE void finish_columns(const Args& g, vfloat (&sum)[Columns], float* y, int64_t c, int64_t lanes) {
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

// body(i) for i = 0 .. Count - 1 as constants: what they index stays in registers whatever the compiler makes of loops.
template <int Count, int First = 0, class Body>
FASTBN_INLINE void for_each_constant(Body body) {
  if constexpr (First < Count) {
    body(Constant<First>{});
    for_each_constant<Count, First + 1>(body);
  }
}

// Sources that so many outputs of three taps read.
constexpr int reach(int stride, int outputs) { return (outputs - 1) * stride + 3; }

// A vector of channels of Rows x Columns outputs: their sums and the nine taps stay in registers (where there are 32),
// and a source that is read serves up to nine outputs. Bits of `up` and `along`: sources that are not padding.
template <int Stride, int Rows, int Columns, bool Whole>
FASTBN_INLINE void block_channels(const DepthwiseBlockArgs& g, const float* x, int64_t at, float* y, unsigned up,
                                  unsigned along, int64_t c, int64_t lanes) {
  vfloat w[3][3], sum[Rows][Columns];
  FASTBN_UNROLL
  for (int u = 0; u < 3; ++u) {
    FASTBN_UNROLL
    for (int v = 0; v < 3; ++v) w[u][v] = load_channels<Whole>(g.w + (3 * u + v) * g.channels + c, lanes);
  }
  FASTBN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FASTBN_UNROLL
    for (int i = 0; i < Columns; ++i) sum[r][i] = vfloat{};
  }
  for_each_constant<reach(Stride, Rows)>([&](auto row) __attribute__((always_inline)) {
    if ((up >> row.value & 1) == 0) return;
    for_each_constant<reach(Stride, Columns)>([&](auto column) __attribute__((always_inline)) {
      if ((along >> column.value & 1) == 0) return;
      const float* p = x + (at + row.value * g.x_up + column.value * g.channels + c);
      const vfloat source = load_channels<Whole>(p, lanes);
      // What the rows below this block will read: many rows side by side are more than hardware follows from memory.
      if constexpr (row.value >= 3 - Stride && column.value >= 3 - Stride)
        __builtin_prefetch(p + Rows * Stride * g.x_up, 0, 2);
      for_each_constant<9>([&](auto tap) __attribute__((always_inline)) {
        constexpr int kUp = row.value - tap.value / 3, kAlong = column.value - tap.value % 3;
        constexpr int r = kUp / Stride, i = kAlong / Stride;
        if constexpr (kUp >= 0 && kAlong >= 0 && r * Stride == kUp && i * Stride == kAlong && r < Rows && i < Columns)
          sum[r][i] = fma(source, w[tap.value / 3][tap.value % 3], sum[r][i]);
      });
    });
  });
  FASTBN_UNROLL
  for (int r = 0; r < Rows; ++r) finish_columns<Whole>(g, sum[r], y + r * g.y_up, c, lanes);
}

// Bits of the sources first .. first + count - 1 that lie in [begin, end).
FASTBN_INLINE unsigned inside(int64_t first, int count, int64_t begin, int64_t end) {
  unsigned bits = 0;
  for (int i = 0; i < count; ++i) bits |= (unsigned)(first + i >= begin && first + i < end) << i;
  return bits;
}

template <int Stride, int Rows, int Columns>
FASTBN_INLINE void block_part(const DepthwiseBlockArgs& g, int64_t r, int64_t i) {
  const unsigned up = inside(r * Stride, reach(Stride, Rows), g.row_begin, g.row_end);
  const unsigned along = inside(i * Stride, reach(Stride, Columns), g.column_begin, g.column_end);
  const int64_t at = g.origin + Stride * (r * g.x_up + i * g.channels);
  float* y = g.y + r * g.y_up + i * g.y_step;
  for_channels(
      g.x, g.channels, [&](auto whole, int64_t c, int64_t lanes) __attribute__((always_inline)) {
        block_channels<Stride, Rows, Columns, whole.value != 0>(g, g.x, at, y, up, along, c, lanes);
      });
}

// The last block of an axis reaches back over outputs that are already there, and computes them again.
template <int Stride, int Rows>
FASTBN_INLINE void block_rows(const DepthwiseBlockArgs& g, int64_t r) {
  constexpr int kWide = 4;
  if (g.columns < kWide) {
    for (int64_t i = 0; i < g.columns; ++i) block_part<Stride, Rows, 1>(g, r, i);
    return;
  }
  for (int64_t i = 0; i < g.columns; i += kWide)
    block_part<Stride, Rows, kWide>(g, r, i + kWide <= g.columns ? i : g.columns - kWide);
}

template <int Stride>
void depthwise_blocks(const DepthwiseBlockArgs& g) {
  constexpr int kHigh = kManyRegisters ? 4 : 2;
  if (g.rows < kHigh) {
    for (int64_t r = 0; r < g.rows; ++r) block_rows<Stride, 1>(g, r);
    return;
  }
  for (int64_t r = 0; r < g.rows; r += kHigh) block_rows<Stride, kHigh>(g, r + kHigh <= g.rows ? r : g.rows - kHigh);
}

void depthwise_block(const DepthwiseBlockArgs& g) { g.stride == 1 ? depthwise_blocks<1>(g) : depthwise_blocks<2>(g); }

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

// A window of three columns of sources slides along by the stride: a column is read once.
template <int Stride, int Rows>
struct Window {
  vfloat column[3][reach(Stride, Rows)];
};
// The columns v >= First of a window whose column 0 stands at column[Oldest].
template <int Stride, int Rows, bool Whole, int Oldest, int First>
FASTBN_INLINE void read_columns(const DepthwiseFilterBlockArgs& g, unsigned up, int64_t at, int64_t lanes,
                                Window<Stride, Rows>& window) {
  for_each_constant<reach(Stride, Rows)>([&](auto row) __attribute__((always_inline)) {
    if ((up >> row.value & 1) == 0) return;
    for_each_constant<3, First>([&](auto v) __attribute__((always_inline)) {
      const float* p = g.x + (at + row.value * g.x_up + v.value * g.channels);
      window.column[(Oldest + v.value) % 3][row.value] = load_channels<Whole>(p, lanes);
    });
  });
}

template <int Stride, int Rows, bool Whole, int Oldest>
FASTBN_INLINE void multiply_window(const DepthwiseFilterBlockArgs& g, unsigned up, const float* dy, int64_t lanes,
                                   const Window<Stride, Rows>& window, vfloat (&sum)[3][3]) {
  FASTBN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    const vfloat d = load_channels<Whole>(dy + r * g.dy_up, lanes);
    FASTBN_UNROLL
    for (int u = 0; u < 3; ++u) {
      if ((up >> (r * Stride + u) & 1) == 0) continue;
      FASTBN_UNROLL
      for (int v = 0; v < 3; ++v) sum[u][v] = fma(window.column[(Oldest + v) % 3][r * Stride + u], d, sum[u][v]);
    }
  }
}

template <int Stride, int Rows, bool Whole>
FASTBN_INLINE void filter_window(const DepthwiseFilterBlockArgs& g, unsigned up, int64_t c, int64_t lanes) {
  vfloat sum[3][3];
  FASTBN_UNROLL
  for (int u = 0; u < 3; ++u) {
    FASTBN_UNROLL
    for (int v = 0; v < 3; ++v) sum[u][v] = load_channels<Whole>(g.dw + (3 * u + v) * g.channels + c, lanes);
  }
  const float* dy = g.dy + c;
  int64_t at = g.origin + c;
  Window<Stride, Rows> window{};
  read_columns<Stride, Rows, Whole, 0, 0>(g, up, at, lanes, window);
  multiply_window<Stride, Rows, Whole, 0>(g, up, dy, lanes, window, sum);
  const auto step = [&](auto times) __attribute__((always_inline)) {
    constexpr int kOldest = times.value * Stride % 3;
    at += Stride * g.channels;
    dy += g.channels;
    read_columns<Stride, Rows, Whole, kOldest, 3 - Stride>(g, up, at, lanes, window);
    multiply_window<Stride, Rows, Whole, kOldest>(g, up, dy, lanes, window, sum);
  };
  int64_t i = 1;
  for (; i + 3 <= g.columns; i += 3) {
    step(Constant<1>{});
    step(Constant<2>{});
    step(Constant<3>{});
  }
  if (i < g.columns) step(Constant<1>{});
  if (i + 1 < g.columns) step(Constant<2>{});
  FASTBN_UNROLL
  for (int u = 0; u < 3; ++u) {
    FASTBN_UNROLL
    for (int v = 0; v < 3; ++v) store_channels<Whole>(g.dw + (3 * u + v) * g.channels + c, sum[u][v], lanes);
  }
}

template <int Stride, int Rows>
FASTBN_INLINE void filter_rows(const DepthwiseFilterBlockArgs& g) {
  const unsigned up = inside(0, reach(Stride, Rows), g.row_begin, g.row_end);
  for_channels(
      g.x, g.channels, [&](auto whole, int64_t c, int64_t lanes) __attribute__((always_inline)) {
        filter_window<Stride, Rows, whole.value != 0>(g, up, c, lanes);
      });
}

constexpr int kFilterRows = kManyRegisters ? 2 : 0;  // sixteen registers do not hold nine sums and a window

template <int Stride>
void filter_blocks(const DepthwiseFilterBlockArgs& g) {
  if (g.rows == kFilterRows) {
    filter_rows<Stride, kFilterRows>(g);
  } else {
    filter_rows<Stride, 1>(g);
  }
}

void depthwise_filter_block(const DepthwiseFilterBlockArgs& g) {
  if constexpr (kFilterRows > 0) g.stride == 1 ? filter_blocks<1>(g) : filter_blocks<2>(g);
}

}  // namespace

void fill_convolution(ConvolutionKernels& table) {
  table.depthwise_row = depthwise_row;
  table.depthwise_block = depthwise_block;
  table.depthwise_filter_row = depthwise_filter_row;
  table.depthwise_filter_block = depthwise_filter_block;
  table.filter_rows = kFilterRows;
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
