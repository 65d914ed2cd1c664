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

// Bits of the sources first .. first + count - 1 that lie in [begin, end).
FASTBN_INLINE unsigned inside(int64_t first, int count, int64_t begin, int64_t end) {
  unsigned bits = 0;
  for (int i = 0; i < count; ++i) bits |= (unsigned)(first + i >= begin && first + i < end) << i;
  return bits;
}

// Rows of outputs that one row of sources reaches. Output row r keeps its vectors in slot r % slots(stride).
constexpr int slots(int stride) { return stride == 1 ? 3 : 2; }
// Source rows after which the slots repeat.
constexpr int period(int stride) { return slots(stride) * stride; }

// body(u, v, slot, i) for the taps (u, v) by which the source at this row of a period and this column of a strip
// reaches the outputs i of the rows in `slot`; all four are constants.
template <int Stride, int Columns, int Row, int Column, class Body>
FASTBN_INLINE void for_reached(Body body) {
  for_each_constant<9>([&](auto tap) __attribute__((always_inline)) {
    constexpr int u = tap.value / 3, v = tap.value % 3;
    constexpr int kUp = Row - u + period(Stride), kAlong = Column - v;
    if constexpr (kUp % Stride == 0 && kAlong >= 0 && kAlong % Stride == 0 && kAlong / Stride < Columns)
      body(Constant<u>{}, Constant<v>{}, Constant<kUp / Stride % slots(Stride)>{}, Constant<kAlong / Stride>{});
  });
}

// What a strip reads next comes from further on than hardware looks: the vectors of the next channels where a pixel has
// many, else the rows below.
constexpr int64_t kManyChannels = 128;
FASTBN_INLINE int64_t ahead(const DepthwiseBlockArgs& g, int64_t rows) {
  return g.channels >= kManyChannels ? 2 * kLanes : rows * g.stride * g.x_up;
}

// A vector of channels of a strip, `rows` x Columns outputs, from its first row to its last: the sums of the rows that
// a source row reaches and the nine taps stay in registers (where there are 32), and each source is read once.
// Bits of `along`: columns that are not padding.
template <int Stride, int Columns, bool Whole>
FASTBN_INLINE void walk_strip(const DepthwiseBlockArgs& g, int64_t r, int64_t rows, int64_t at, float* y,
                              unsigned along, int64_t c, int64_t lanes) {
  vfloat w[3][3], sum[slots(Stride)][Columns];
  FASTBN_UNROLL
  for (int u = 0; u < 3; ++u) {
    FASTBN_UNROLL
    for (int v = 0; v < 3; ++v) w[u][v] = load_channels<Whole>(g.w + (3 * u + v) * g.channels + c, lanes);
  }
  for_each_constant<slots(Stride) * Columns>([&](auto i) __attribute__((always_inline)) {
    sum[i.value / Columns][i.value % Columns] = vfloat{};
  });
  const int64_t count = (rows - 1) * Stride + 3, begin = g.row_begin - r * Stride, end = g.row_end - r * Stride;
  const int64_t next = ahead(g, rows);
  for (int64_t first = 0; first < count; first += period(Stride)) {
    for_each_constant<period(Stride)>([&](auto step) __attribute__((always_inline)) {
      constexpr int row = step.value, done = row + period(Stride) - 2;
      const int64_t source_row = first + row;
      if (source_row >= count) return;
      if constexpr (row % Stride == 0) {
        FASTBN_UNROLL
        for (int i = 0; i < Columns; ++i) sum[row / Stride % slots(Stride)][i] = vfloat{};
      }
      if (source_row >= begin && source_row < end) {
        for_each_constant<reach(Stride, Columns)>([&](auto column) __attribute__((always_inline)) {
          if ((along >> column.value & 1) == 0) return;
          const float* p = g.x + (at + column.value * g.channels);
          const vfloat source = load_channels<Whole>(p, lanes);
          __builtin_prefetch(p + next, 0, 2);
          for_reached<Stride, Columns, row, column.value>([&](auto u, auto v, auto slot, auto i)
                                                              __attribute__((always_inline)) {
                                                                vfloat& to = sum[slot.value][i.value];
                                                                to = fma(source, w[u.value][v.value], to);
                                                              });
        });
      }
      at += g.x_up;
      if constexpr (done % Stride == 0) {
        if (source_row < 2) return;
        finish_columns<Whole>(g, sum[done / Stride % slots(Stride)], y, c, lanes);
        y += g.y_up;
      }
    });
  }
}

template <int Stride, int Columns>
FASTBN_INLINE void strip_channels(const DepthwiseBlockArgs& g, int64_t r, int64_t rows, int64_t i) {
  const unsigned along = inside(i * Stride, reach(Stride, Columns), g.column_begin, g.column_end);
  const int64_t at = g.origin + Stride * (r * g.x_up + i * g.channels);
  float* y = g.y + r * g.y_up + i * g.y_step;
  // A store to two lines costs more than a load from two, unless there are four times as many of these.
  for_channels(
      Stride == 1 ? y : g.x, g.channels, [&](auto whole, int64_t c, int64_t lanes) __attribute__((always_inline)) {
        walk_strip<Stride, Columns, whole.value != 0>(g, r, rows, at + c, y, along, c, lanes);
      });
}

// Strips are short, so that the pages of their pixels, which are as many as the pixels where there are 1024 channels,
// fit the first translation buffer. The last strip of a row reaches back over outputs that are already there, and
// computes them again.
constexpr int64_t kHigh = 4;
constexpr int kWide = kManyRegisters ? 7 : 3;
constexpr int kNarrow = kManyRegisters ? 4 : 3;

template <int Stride>
void depthwise_strips(const DepthwiseBlockArgs& g) {
  for (int64_t r = 0; r < g.rows; r += kHigh) {
    const int64_t rows = g.rows - r < kHigh ? g.rows - r : kHigh;
    for (int64_t i = 0; i < g.columns;) {
      const int64_t left = g.columns - i;
      if (g.columns < kNarrow) {
        strip_channels<Stride, 1>(g, r, rows, i);
        i += 1;
      } else if (left <= kNarrow || left == 2 * kNarrow || g.columns < kWide) {
        strip_channels<Stride, kNarrow>(g, r, rows, left < kNarrow ? g.columns - kNarrow : i);
        i += kNarrow;
      } else {
        strip_channels<Stride, kWide>(g, r, rows, left < kWide ? g.columns - kWide : i);
        i += kWide;
      }
    }
  }
}

void depthwise_block(const DepthwiseBlockArgs& g) { g.stride == 1 ? depthwise_strips<1>(g) : depthwise_strips<2>(g); }

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
// The columns v >= First of a window whose column 0 stands at column[Oldest]. Edge: those of `along` only.
template <int Stride, int Rows, bool Whole, int Oldest, int First, bool Edge>
FASTBN_INLINE void read_columns(const DepthwiseFilterBlockArgs& g, unsigned up, unsigned along, int64_t at,
                                int64_t lanes, Window<Stride, Rows>& window) {
  for_each_constant<reach(Stride, Rows)>([&](auto row) __attribute__((always_inline)) {
    if ((up >> row.value & 1) == 0) return;
    for_each_constant<3, First>([&](auto v) __attribute__((always_inline)) {
      if (Edge && (along >> v.value & 1) == 0) return;
      const float* p = g.x + (at + row.value * g.x_up + v.value * g.channels);
      window.column[(Oldest + v.value) % 3][row.value] = load_channels<Whole>(p, lanes);
    });
  });
}

template <int Stride, int Rows, bool Whole, int Oldest, bool Edge>
FASTBN_INLINE void multiply_window(const DepthwiseFilterBlockArgs& g, unsigned up, unsigned along, const float* dy,
                                   int64_t lanes, const Window<Stride, Rows>& window, vfloat (&sum)[3][3]) {
  FASTBN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    const vfloat d = load_channels<Whole>(dy + r * g.dy_up, lanes);
    FASTBN_UNROLL
    for (int u = 0; u < 3; ++u) {
      if ((up >> (r * Stride + u) & 1) == 0) continue;
      for_each_constant<3>([&](auto v) __attribute__((always_inline)) {
        if (Edge && (along >> v.value & 1) == 0) return;
        sum[u][v.value] = fma(window.column[(Oldest + v.value) % 3][r * Stride + u], d, sum[u][v.value]);
      });
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
  Window<Stride, Rows> window{};
  // Column i of the gradient, i modulo 3 a constant: only the first and the last one have padding beside them.
  const auto step = [&](int64_t i, auto times, auto first, auto edge) __attribute__((always_inline)) {
    constexpr int kOldest = times.value * Stride % 3;
    constexpr bool kEdge = edge.value != 0;
    const int64_t at = g.origin + i * Stride * g.channels + c;
    const float* dy = g.dy + i * g.channels + c;
    const unsigned along = kEdge ? inside(i * Stride, 3, g.column_begin, g.column_end) : 7;
    read_columns<Stride, Rows, Whole, kOldest, first.value, kEdge>(g, up, along, at, lanes, window);
    multiply_window<Stride, Rows, Whole, kOldest, kEdge>(g, up, along, dy, lanes, window, sum);
  };
  constexpr Constant<3 - Stride> kNew{};  // columns of a window before it were in the one to the left
  step(0, Constant<0>{}, Constant<0>{}, Constant<1>{});
  int64_t i = 1;
  for (; i + 3 < g.columns; i += 3) {
    step(i, Constant<1>{}, kNew, Constant<0>{});
    step(i + 1, Constant<2>{}, kNew, Constant<0>{});
    step(i + 2, Constant<3>{}, kNew, Constant<0>{});
  }
  if (i < g.columns) step(i, Constant<1>{}, kNew, Constant<1>{});
  if (i + 1 < g.columns) step(i + 1, Constant<2>{}, kNew, Constant<1>{});
  if (i + 2 < g.columns) step(i + 2, Constant<3>{}, kNew, Constant<1>{});
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
