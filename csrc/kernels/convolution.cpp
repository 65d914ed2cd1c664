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

#if defined(__AVX512F__) || defined(__aarch64__)
#define FASTBN_MANY_REGISTERS 1  // 32 of them
#else
#define FASTBN_MANY_REGISTERS 0
#endif

// Columns are taken in runs, all channels of a run before the next, so that memory is read and written in order.
constexpr int kColumns = FASTBN_MANY_REGISTERS ? 8 : 4;
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

#if FASTBN_MANY_REGISTERS

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

// What a strip reads next comes from further on than hardware looks: the vectors of the next channels and after them
// the first ones of the next strip, `to_next` floats from this one, where a pixel has many channels; else the rows
// below, or the next strip where those are more than the second cache would keep until they are read.
constexpr int64_t kManyChannels = 128;
constexpr int64_t kFloatsBelow = 24 << 10;
FASTBN_INLINE int64_t ahead(int64_t c, int64_t channels, int64_t to_next, int64_t to_below) {
  constexpr int64_t kAhead = 2 * kLanes;
  if (channels < kManyChannels) return to_below <= kFloatsBelow ? to_below : to_next;
  return c + kAhead < channels ? kAhead : to_next + kAhead - channels;
}

// From a strip at column i to the one that is walked after it, in an array of which it takes `width` columns.
FASTBN_INLINE int64_t to_next_strip(bool last, int64_t i, int64_t width, int64_t channels, int64_t to_below) {
  return last ? to_below - i * channels : width * channels;
}

// A vector of channels of a strip, `rows` x Columns outputs, from its first row to its last: the sums of the rows that
// a source row reaches and the nine taps stay in registers (where there are 32), and each source is read once.
// Bits of `along`: columns that are not padding.
template <int Stride, int Columns, bool Whole>
FASTBN_INLINE void walk_strip(const DepthwiseBlockArgs& g, int64_t r, int64_t rows, int64_t at, float* y,
                              unsigned along, int64_t next, int64_t c, int64_t lanes) {
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
  const int64_t to_below = rows * Stride * g.x_up;
  const int64_t to_next = to_next_strip(i + Columns >= g.columns, i * Stride, Columns * Stride, g.channels, to_below);
  // A store to two lines costs more than a load from two, unless there are four times as many of these.
  for_channels(
      Stride == 1 ? y : g.x, g.channels, [&](auto whole, int64_t c, int64_t lanes) __attribute__((always_inline)) {
        const int64_t next = ahead(c, g.channels, to_next, to_below);
        walk_strip<Stride, Columns, whole.value != 0>(g, r, rows, at + c, y, along, next, c, lanes);
      });
}

// Strips are short, so that the pages of their pixels, which are as many as the pixels where there are 1024 channels,
// fit the first translation buffer. The last strip of a row reaches back over outputs that are already there, and
// computes them again.
constexpr int64_t kHigh = 4;
constexpr int kWide = 7;
constexpr int kNarrow = 4;

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

#else  // few registers

// Where registers are few: four outputs of one row and two vectors of channels, with AVX2 a line, so that where pixels
// lie a power of two apart no line is needed twice. A row of taps at a time is in registers, and each source is read
// once for it.
constexpr int kRowColumns = 4;

// What the products of a row need of its arguments, copied: as far as the compiler knows, stores of vectors change what
// a reference refers to.
struct RowSteps {
  int64_t channels, x_up, y_step;
};

// Skips: whether the first and the last source column are padding. Far: what the next outputs read first and write is
// fetched.
template <int Stride, int Columns, bool SkipFirst, bool SkipLast, bool Far, int Vectors, bool Whole>
FASTBN_INLINE void row_sums(const DepthwiseBlockArgs& g, RowSteps s, const float* x, const float* w, float* y,
                            int64_t taps_up, int64_t c, int64_t lanes) {
  constexpr int kReach = reach(Stride, Columns);
  vfloat sum[Vectors][Columns];
  for_each_constant<Vectors * Columns>([&](auto i) __attribute__((always_inline)) {
    sum[i.value / Columns][i.value % Columns] = vfloat{};
  });
  for (int64_t u = 0; u < taps_up; ++u) {
    for_each_constant<Vectors>([&](auto vector) __attribute__((always_inline)) {
      constexpr int j = vector.value;
      vfloat tap[3];
      for_each_constant<3>([&](auto v) __attribute__((always_inline)) {
        tap[v.value] = load_channels<Whole>(w + v.value * s.channels + j * kLanes, lanes);
      });
      for_each_constant<kReach>([&](auto column) __attribute__((always_inline)) {
        constexpr int k = column.value;
        if constexpr ((SkipFirst && k == 0) || (SkipLast && k == kReach - 1)) return;
        // A pointer to every third column: the others are one and two times the same distance away.
        const float* third = x + k / 3 * 3 * s.channels;
        const vfloat source = load_channels<Whole>(third + k % 3 * s.channels + j * kLanes, lanes);
        for_each_constant<3>([&](auto tap_along) __attribute__((always_inline)) {
          constexpr int v = tap_along.value;
          if constexpr (k >= v && (k - v) % Stride == 0 && (k - v) / Stride < Columns) {
            vfloat& to = sum[j][(k - v) / Stride];
            to = fma(source, tap[v], to);
          }
        });
      });
    });
    x += s.x_up;
    w += 3 * s.channels;
  }
  if constexpr (Far) {
    for_each_constant<Columns * Stride>([&](auto k) __attribute__((always_inline)) {
      for (int u = 1; u <= Stride; ++u) __builtin_prefetch(x - u * s.x_up + (kReach + k.value) * s.channels, 0, 2);
    });
    for_each_constant<Columns>([&](auto i) __attribute__((always_inline)) {
      __builtin_prefetch(y + (Columns + i.value) * s.y_step, 1);
    });
  }
  if (g.bias == nullptr && g.activation == FBN_LINEAR) {
    for_each_constant<Columns>([&](auto i) __attribute__((always_inline)) {
      for_each_constant<Vectors>([&](auto j) __attribute__((always_inline)) {
        store_channels<Whole>(y + i.value * s.y_step + j.value * kLanes, sum[j.value][i.value], lanes);
      });
    });
    return;
  }
  FASTBN_UNROLL
  for (int j = 0; j < Vectors; ++j) finish_columns<Whole>(g, sum[j], y - c, c + j * kLanes, lanes);
}

template <int Stride, int Columns, bool SkipFirst, bool SkipLast, bool Far>
void row_channels(const DepthwiseBlockArgs& g, const float* x, const float* w, float* y, int64_t taps_up) {
  const RowSteps steps{g.channels, g.x_up, g.y_step};
  const auto sums = [&](int64_t c, auto vectors, auto whole, int64_t lanes) __attribute__((always_inline)) {
    row_sums<Stride, Columns, SkipFirst, SkipLast, Far, vectors.value, whole.value != 0>(g, steps, x + c, w + c, y + c,
                                                                                         taps_up, c, lanes);
  };
  int64_t c = 0;
  for (; c + 2 * kLanes <= steps.channels; c += 2 * kLanes) sums(c, Constant<2>{}, Constant<1>{}, kLanes);
  for (; c + kLanes <= steps.channels; c += kLanes) sums(c, Constant<1>{}, Constant<1>{}, kLanes);
  if (c < steps.channels) sums(c, Constant<1>{}, Constant<0>{}, steps.channels - c);
}

using RowChannels = void (*)(const DepthwiseBlockArgs&, const float*, const float*, float*, int64_t);
template <int Stride, bool SkipFirst, bool SkipLast, bool Far>
constexpr RowChannels kRowChannels[kRowColumns] = {
    row_channels<Stride, 1, SkipFirst, SkipLast, Far>, row_channels<Stride, 2, SkipFirst, SkipLast, Far>,
    row_channels<Stride, 3, SkipFirst, SkipLast, Far>, row_channels<Stride, 4, SkipFirst, SkipLast, Far>};

template <int Stride, bool Far>
void depthwise_rows(const DepthwiseBlockArgs& g) {
  for (int64_t r = 0; r < g.rows; ++r) {
    const int64_t up = r * Stride, u0 = up < g.row_begin ? g.row_begin - up : 0;
    const int64_t u1 = g.row_end - up < 3 ? g.row_end - up : 3;
    const float* x = g.x + (g.origin + (up + u0) * g.x_up);
    const float* w = g.w + 3 * u0 * g.channels;
    float* y = g.y + r * g.y_up;
    for (int64_t i = 0, columns; i < g.columns; i += columns) {
      columns = g.columns - i < kRowColumns ? g.columns - i : kRowColumns;
      const bool first = i * Stride < g.column_begin;
      const bool last = (i + columns - 1) * Stride + 3 > g.column_end;
      const RowChannels* run = kRowChannels<Stride, false, false, Far>;
      if (first && last) {
        run = kRowChannels<Stride, true, true, Far>;
      } else if (first) {
        run = kRowChannels<Stride, true, false, Far>;
      } else if (last) {
        run = kRowChannels<Stride, false, true, Far>;
      }
      run[columns - 1](g, x + i * Stride * g.channels, w, y + i * g.y_step, u1 - u0);
    }
  }
}

// Whether what is read of an image, so many floats for each source, comes from beyond the second cache.
template <class Args>
bool is_far(const Args& g, double per_source) {
  return per_source * (double)((g.row_end - g.row_begin) * g.x_up) > (double)(1 << 18);
}

void depthwise_block(const DepthwiseBlockArgs& g) {
  if (is_far(g, 1)) {
    g.stride == 1 ? depthwise_rows<1, true>(g) : depthwise_rows<2, true>(g);
  } else {
    g.stride == 1 ? depthwise_rows<1, false>(g) : depthwise_rows<2, false>(g);
  }
}

#endif  // FASTBN_MANY_REGISTERS

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

#if FASTBN_MANY_REGISTERS

// A source row of a strip times the row of the gradient that it reaches by the taps of row `Up`.
template <int Stride, int Columns, int Row, int Up, bool Whole>
FASTBN_INLINE void multiply_row(const DepthwiseFilterBlockArgs& g, int64_t at, unsigned along, int64_t next,
                                int64_t lanes, const vfloat (&d)[slots(Stride)][Columns], vfloat (&sum)[3][3]) {
  for_each_constant<reach(Stride, Columns)>([&](auto column) __attribute__((always_inline)) {
    if ((along >> column.value & 1) == 0) return;
    const float* p = g.x + (at + column.value * g.channels);
    const vfloat source = load_channels<Whole>(p, lanes);
    __builtin_prefetch(p + next, 0, 2);
    for_reached<Stride, Columns, Row, column.value>([&](auto u, auto v, auto slot, auto i)
                                                        __attribute__((always_inline)) {
                                                          if constexpr (Up == u.value) {
                                                            vfloat& to = sum[u.value][v.value];
                                                            to = fma(source, d[slot.value][i.value], to);
                                                          }
                                                        });
  });
}

// As walk_strip, with the rows of the gradient that a source row reaches in the place of its sums.
template <int Stride, int Columns, bool Whole>
FASTBN_INLINE void walk_filter_strip(const DepthwiseFilterBlockArgs& g, int64_t r, int64_t rows, int64_t at,
                                     const float* dy, unsigned along, int64_t x_next, int64_t dy_next, int64_t c,
                                     int64_t lanes) {
  vfloat sum[3][3], d[slots(Stride)][Columns] = {};
  FASTBN_UNROLL
  for (int u = 0; u < 3; ++u) {
    FASTBN_UNROLL
    for (int v = 0; v < 3; ++v) sum[u][v] = load_channels<Whole>(g.dw + (3 * u + v) * g.channels + c, lanes);
  }
  const int64_t last = (rows - 1) * Stride;  // source row at which the last row of the gradient begins
  const int64_t begin = g.row_begin - r * Stride, end = g.row_end - r * Stride;
  for (int64_t first = 0; first < last + 3; first += period(Stride)) {
    for_each_constant<period(Stride)>([&](auto step) __attribute__((always_inline)) {
      constexpr int row = step.value;
      const int64_t source_row = first + row;
      if (source_row >= last + 3) return;
      if (row % Stride == 0 && source_row <= last) {
        FASTBN_UNROLL
        for (int i = 0; i < Columns; ++i) {
          const float* p = dy + i * g.channels;
          d[row / Stride % slots(Stride)][i] = load_channels<Whole>(p, lanes);
          __builtin_prefetch(p + dy_next, 0, 2);
        }
        dy += g.dy_up;
      }
      if (source_row >= begin && source_row < end) {
        for_each_constant<3>([&](auto u) __attribute__((always_inline)) {
          if (u.value > source_row || source_row - u.value > last) return;
          multiply_row<Stride, Columns, row, u.value, Whole>(g, at, along, x_next, lanes, d, sum);
        });
      }
      at += g.x_up;
    });
  }
  FASTBN_UNROLL
  for (int u = 0; u < 3; ++u) {
    FASTBN_UNROLL
    for (int v = 0; v < 3; ++v) store_channels<Whole>(g.dw + (3 * u + v) * g.channels + c, sum[u][v], lanes);
  }
}

template <int Stride, int Columns>
FASTBN_INLINE void filter_strip(const DepthwiseFilterBlockArgs& g, int64_t r, int64_t rows, int64_t i) {
  const unsigned along = inside(i * Stride, reach(Stride, Columns), g.column_begin, g.column_end);
  const int64_t at = g.origin + Stride * (r * g.x_up + i * g.channels);
  const float* dy = g.dy + r * g.dy_up + i * g.channels;
  const bool last = i + Columns >= g.columns;
  const int64_t x_below = rows * Stride * g.x_up, dy_below = rows * g.dy_up;
  const int64_t x_strip = to_next_strip(last, i * Stride, Columns * Stride, g.channels, x_below);
  const int64_t dy_strip = to_next_strip(last, i, Columns, g.channels, dy_below);
  for_channels(
      g.x, g.channels, [&](auto whole, int64_t c, int64_t lanes) __attribute__((always_inline)) {
        const int64_t x_next = ahead(c, g.channels, x_strip, x_below);
        const int64_t dy_next = ahead(c, g.channels, dy_strip, dy_below);
        walk_filter_strip<Stride, Columns, whole.value != 0>(g, r, rows, at + c, dy + c, along, x_next, dy_next, c,
                                                             lanes);
      });
}

// Higher than the strips of outputs: each reads and writes its nine sums.
constexpr int64_t kFilterHigh = 14;
constexpr int kFilterNarrow = 3;

template <int Stride>
void filter_strips(const DepthwiseFilterBlockArgs& g) {
  const int64_t strips = (g.rows + kFilterHigh - 1) / kFilterHigh, height = (g.rows + strips - 1) / strips;
  for (int64_t r = 0; r < g.rows; r += height) {
    const int64_t rows = g.rows - r < height ? g.rows - r : height;
    int64_t i = 0;
    for (; i + kWide <= g.columns; i += kWide) filter_strip<Stride, kWide>(g, r, rows, i);
    for (; i + kFilterNarrow <= g.columns; i += kFilterNarrow) filter_strip<Stride, kFilterNarrow>(g, r, rows, i);
    for (; i < g.columns; ++i) filter_strip<Stride, 1>(g, r, rows, i);
  }
}

void depthwise_filter_block(const DepthwiseFilterBlockArgs& g) {
  g.stride == 1 ? filter_strips<1>(g) : filter_strips<2>(g);
}

#else  // few registers

// Where registers are few: a run of columns of one row, for two vectors of channels, with AVX2 a line, and two of the
// three rows of taps, then the third.
struct GradientRun {
  int64_t channels, x_up, dy_up, columns;
  bool skip_first, skip_last;  // source columns that are padding
};

// Far: the sources and the gradient one row below are fetched.
template <int Stride, int Up, bool Far, int Vectors, bool Whole>
FASTBN_INLINE void row_gradient(GradientRun g, const float* x, const float* dy, float* dw, int64_t lanes) {
  vfloat sum[Up][3][Vectors];
  const auto for_sums = [&](auto body) __attribute__((always_inline)) {
    for_each_constant<Up * 3 * Vectors>([&](auto i) __attribute__((always_inline)) {
      constexpr int j = i.value % Vectors, v = i.value / Vectors % 3, u = i.value / Vectors / 3;
      body(sum[u][v][j], dw + (3 * u + v) * g.channels + j * kLanes);
    });
  };
  for_sums([&](vfloat & to, const float* from)
               __attribute__((always_inline)) { to = load_channels<Whole>(from, lanes); });
  // Taps [first, end) of one column.
  const auto column = [&](auto first, auto end) __attribute__((always_inline)) {
    for_each_constant<Vectors>([&](auto j) __attribute__((always_inline)) {
      const vfloat d = load_channels<Whole>(dy + j.value * kLanes, lanes);
      for_each_constant<Up>([&](auto u) __attribute__((always_inline)) {
        for_each_constant<end.value, first.value>([&](auto v) __attribute__((always_inline)) {
          const float* from = x + u.value * g.x_up + v.value * g.channels + j.value * kLanes;
          vfloat& to = sum[u.value][v.value][j.value];
          to = fma(load_channels<Whole>(from, lanes), d, to);
        });
      });
    });
    if constexpr (Far) {
      for_each_constant<Stride>([&](auto i) __attribute__((always_inline)) {
        __builtin_prefetch(x + (Up - 1 + Stride) * g.x_up + (1 + i.value) * g.channels, 0, 2);
      });
      if constexpr (Up == 1) __builtin_prefetch(dy + g.dy_up, 0, 2);
    }
    x += Stride * g.channels;
    dy += g.channels;
  };
  int64_t i = g.skip_first, end = g.columns - g.skip_last;
  if (g.skip_first && g.skip_last && g.columns == 1) {
    column(Constant<1>{}, Constant<2>{});
  } else {
    if (g.skip_first) column(Constant<1>{}, Constant<3>{});
    for (; i < end; ++i) column(Constant<0>{}, Constant<3>{});
    if (g.skip_last) column(Constant<0>{}, Constant<2>{});
  }
  for_sums([&](vfloat from, float* to) __attribute__((always_inline)) { store_channels<Whole>(to, from, lanes); });
}

template <int Stride, int Up, bool Far>
void gradient_channels(GradientRun g, const float* x, const float* dy, float* dw) {
  const auto run = [&](int64_t c, auto vectors, auto whole, int64_t lanes) __attribute__((always_inline)) {
    row_gradient<Stride, Up, Far, vectors.value, whole.value != 0>(g, x + c, dy + c, dw + c, lanes);
  };
  int64_t c = 0;
  for (; c + 2 * kLanes <= g.channels; c += 2 * kLanes) run(c, Constant<2>{}, Constant<1>{}, kLanes);
  for (; c + kLanes <= g.channels; c += kLanes) run(c, Constant<1>{}, Constant<1>{}, kLanes);
  if (c < g.channels) run(c, Constant<1>{}, Constant<0>{}, g.channels - c);
}

template <int Stride, bool Far>
void gradient_rows(const DepthwiseFilterBlockArgs& g) {
  for (int64_t r = 0; r < g.rows; ++r) {
    const int64_t up = r * Stride, u0 = up < g.row_begin ? g.row_begin - up : 0;
    const int64_t taps_up = (g.row_end - up < 3 ? g.row_end - up : 3) - u0;
    for (int64_t i = 0; i < g.columns; i += kFilterColumns) {
      GradientRun run{g.channels, g.x_up, g.dy_up, 0, false, false};
      run.columns = g.columns - i < kFilterColumns ? g.columns - i : kFilterColumns;
      run.skip_first = i * Stride < g.column_begin;
      run.skip_last = (i + run.columns - 1) * Stride + 3 > g.column_end;
      const float* x = g.x + (g.origin + (up + u0) * g.x_up + i * Stride * g.channels);
      const float* dy = g.dy + r * g.dy_up + i * g.channels;
      float* dw = g.dw + 3 * u0 * g.channels;
      if (taps_up >= 2) {
        gradient_channels<Stride, 2, false>(run, x, dy, dw);
        x += 2 * g.x_up;
        dw += 6 * g.channels;
      }
      if (taps_up == 1 || taps_up == 3) gradient_channels<Stride, 1, Far>(run, x, dy, dw);
    }
  }
}

void depthwise_filter_block(const DepthwiseFilterBlockArgs& g) {
  if (is_far(g, 1 + 1.0 / (double)(g.stride * g.stride))) {
    g.stride == 1 ? gradient_rows<1, true>(g) : gradient_rows<2, true>(g);
  } else {
    g.stride == 1 ? gradient_rows<1, false>(g) : gradient_rows<2, false>(g);
  }
}

#endif  // FASTBN_MANY_REGISTERS

}  // namespace

void fill_convolution(ConvolutionKernels& table) {
  table.depthwise_row = depthwise_row;
  table.depthwise_block = depthwise_block;
  table.depthwise_spread = depthwise_spread;
  table.depthwise_filter_row = depthwise_filter_row;
  table.depthwise_filter_block = depthwise_filter_block;
  table.columns_outside = FASTBN_MANY_REGISTERS ? INT64_MAX : 1;
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
