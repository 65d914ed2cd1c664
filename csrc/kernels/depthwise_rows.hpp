// Depthwise convolution with 3x3 taps where registers are few: rows of outputs, and their gradient. Included by kernel
// bodies only.
#pragma once

#include "convolution.hpp"
#include "depthwise_channels.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {  // included once: compiled as a part of convolution.cpp

// Four outputs of one row and two vectors of channels, with AVX2 a line, so that where pixels
// lie a power of two apart no line is needed twice. A row of taps at a time is in registers, and each source is read
// once for it.
constexpr int kRowColumns = 4;
constexpr RegisterTile kBlockTile = {kRowColumns, 2 * kLanes}, kFilterBlockTile = {6, 2 * kLanes};

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

// The gradient: a run of columns of one row, for two vectors of channels, with AVX2 a line, and two of the
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

}  // namespace
}  // namespace FASTBN_ISA
}  // namespace fastbn
