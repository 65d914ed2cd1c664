// Depthwise convolution with 3x3 taps where there are 32 registers: strips that are walked down, and their gradient.
// Included by kernel bodies only.
#pragma once

#include "convolution.hpp"
#include "depthwise_channels.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {  // included once: compiled as a part of convolution.cpp

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
constexpr RegisterTile kBlockTile = {kWide, kLanes}, kFilterBlockTile = {9, kLanes};

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

}  // namespace
}  // namespace FASTBN_ISA
}  // namespace fastbn
