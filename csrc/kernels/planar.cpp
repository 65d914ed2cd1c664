// Few channels: tiles of outputs by vectors of pixels; pixels into planes and back.
#include "planar.hpp"

#include <fastbn/fastbn.h>

#include "shuffles.hpp"
#include "simd.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

// Accumulators, a vector of each input and a broadcast weight (without fused multiply-add: and a product) share the
// registers.
#if defined(__AVX512F__)
constexpr int kFree = 31;
#elif defined(__aarch64__)
constexpr int kFree = 28;
#elif FASTBN_HAS_FMA
constexpr int kFree = 15;
#else
constexpr int kFree = 14;
#endif

constexpr int at_most(int a, int b) { return a < b ? a : b; }

constexpr int kOutputs = 8;  // most of a tile
constexpr int kVectors = 8;
constexpr int vectors_beside(int outputs) {
  const int n = at_most(kFree / (outputs + 1), kVectors);
  return n < 1 ? 1 : n;
}

// Not inlined, and every case of the end by itself: see the tiles of gemm.cpp.
template <int J, int V>
__attribute__((noinline)) void tile(const PlanarArgs& g, const float* x, const float* w, const float* bias, float* y) {
  vfloat sum[J][V];
  FASTBN_UNROLL
  for (int j = 0; j < J; ++j) {
    const vfloat start = bias ? broadcast(bias[j]) : vfloat{};
    FASTBN_UNROLL
    for (int v = 0; v < V; ++v) sum[j][v] = start;
  }
  const int64_t* offset = g.offset;
  const int64_t w_row = g.w_row;
  for (int64_t k = g.terms; k > 0; --k) {
    const float* from = x + *offset++;
    vfloat pixels[V];
    FASTBN_UNROLL
    for (int v = 0; v < V; ++v) pixels[v] = load(from + v * kLanes);
    FASTBN_UNROLL
    for (int j = 0; j < J; ++j) {
      const vfloat weight = broadcast(w[j]);
      FASTBN_UNROLL
      for (int v = 0; v < V; ++v) sum[j][v] = fma(weight, pixels[v], sum[j][v]);
    }
    w += w_row;
  }
  if (g.activation == FBN_LINEAR) {
    FASTBN_UNROLL
    for (int j = 0; j < J; ++j) {
      FASTBN_UNROLL
      for (int v = 0; v < V; ++v) store(y + j * g.y_plane + v * kLanes, sum[j][v]);
    }
  } else {
    const bool leaky = g.activation == FBN_LEAKY_RELU;
    const vfloat slope = broadcast(leaky ? g.alpha : 0.0f);
    FASTBN_UNROLL
    for (int j = 0; j < J; ++j) {
      FASTBN_UNROLL
      for (int v = 0; v < V; ++v) {
        const vfloat below = leaky ? slope * sum[j][v] : vfloat{};
        store(y + j * g.y_plane + v * kLanes, sum[j][v] < vfloat{} ? below : sum[j][v]);
      }
    }
  }
}

using Tile = void (*)(const PlanarArgs&, const float*, const float*, const float*, float*);
template <int J, int V>
constexpr Tile tile_or_none() {
  if constexpr (V <= vectors_beside(J)) {
    return tile<J, V>;
  } else {
    return nullptr;
  }
}
#define FASTBN_TILES(J)                                                                              \
  {                                                                                                  \
    nullptr, tile_or_none<J, 1>(), tile_or_none<J, 2>(), tile_or_none<J, 3>(), tile_or_none<J, 4>(), \
        tile_or_none<J, 5>(), tile_or_none<J, 6>(), tile_or_none<J, 7>(), tile_or_none<J, 8>()       \
  }
constexpr Tile kTiles[kOutputs][kVectors + 1] = {FASTBN_TILES(1), FASTBN_TILES(2), FASTBN_TILES(3), FASTBN_TILES(4),
                                                 FASTBN_TILES(5), FASTBN_TILES(6), FASTBN_TILES(7), FASTBN_TILES(8)};
#undef FASTBN_TILES
constexpr int kTileVectors[kOutputs] = {vectors_beside(1), vectors_beside(2), vectors_beside(3), vectors_beside(4),
                                        vectors_beside(5), vectors_beside(6), vectors_beside(7), vectors_beside(8)};

// Part i of `count` things cut evenly into `parts` ends here.
FASTBN_INLINE int64_t end_of(int64_t count, int64_t parts, int64_t i) {
  const int64_t size = count / parts, larger = count % parts;
  return (i + 1) * size + (i < larger ? i + 1 : larger);
}

RegisterTile tile_of(int64_t outputs) {
  const int64_t blocks = (outputs + kOutputs - 1) / kOutputs;
  const int most = (int)end_of(outputs, blocks, 0);
  return {most, kTileVectors[most - 1] * kLanes};
}

void correlate(const PlanarArgs& g) {
  const int64_t vectors = (g.count + kLanes - 1) / kLanes, blocks = (g.outputs + kOutputs - 1) / kOutputs;
  int64_t j = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t j_end = end_of(g.outputs, blocks, b), outputs = j_end - j;
    const int64_t most = kTileVectors[outputs - 1], tiles = (vectors + most - 1) / most;
    int64_t v = 0;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t v_end = end_of(vectors, tiles, t);
      kTiles[outputs - 1][v_end - v](g, g.x + v * kLanes, g.w + j, g.bias ? g.bias + j : nullptr,
                                     g.y + j * g.y_plane + v * kLanes);
      v = v_end;
    }
    j = j_end;
  }
}

constexpr int kFilterOutputs = 4;
constexpr int kFilterRows = 12;
// With few registers most of dy's vectors stay in them beside the accumulators, and x passes through one; the rest are
// operands in memory, and so is all of dy where registers are many: its rows are high.
constexpr bool kFewRegisters = kFree < 16;
constexpr int rows_beside(int outputs) {
  return at_most((kFewRegisters ? kFree - 3 : kFree - 2 - outputs) / outputs, kFilterRows);
}
constexpr int held_of(int rows, int outputs) {
  if (!kFewRegisters) return 0;
  const int free = kFree - rows * outputs;
  return outputs < free ? outputs : at_most(outputs - 1, free);
}

// sums[i] = the lanes of vectors[i] added up as a tree; i in [0, kLanes).
FASTBN_INLINE vfloat lane_sums(const vfloat* vectors) {
  vfloat rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = vectors[i];
  for (int half = kLanes / 2; half >= 1; half /= 2) {
    for (int i = 0; i < half; ++i) {
      rows[i] = interleave<false>(rows[i], rows[i + half]) + interleave<true>(rows[i], rows[i + half]);
    }
  }
  return rows[0];
}

// sums[r * J + j] = sum_q x_r[q] dy_j[q], and whether all of them are finite. Masked: where g.live is, else everywhere.
template <int R, int J, bool Masked>
FASTBN_INLINE bool filter_sums(const PlanarFilterArgs& g, const int64_t* offset, const float* dy, float* sums) {
  vfloat sum[R][J];
  FASTBN_UNROLL
  for (int r = 0; r < R; ++r) {
    FASTBN_UNROLL
    for (int j = 0; j < J; ++j) sum[r][j] = vfloat{};
  }
  const float* x[R];
  FASTBN_UNROLL
  for (int r = 0; r < R; ++r) x[r] = g.x + offset[r];
  for (int64_t q = 0; q < g.count; q += kLanes) {
    vfloat d[J];
    FASTBN_UNROLL
    for (int j = 0; j < J; ++j) {
      d[j] = load(dy + j * g.dy_plane + q);
      if (j < held_of(R, J)) d[j] = held(d[j]);
    }
    FASTBN_UNROLL
    for (int r = 0; r < R; ++r) {
      const vfloat pixels = Masked ? load_live(x[r] + q, load_int(g.live + q)) : load(x[r] + q);
      FASTBN_UNROLL
      for (int j = 0; j < J; ++j) sum[r][j] = fma(pixels, d[j], sum[r][j]);
    }
  }
  constexpr int kGroups = (R * J + kLanes - 1) / kLanes;
  vfloat all[kGroups * kLanes] = {};
  FASTBN_UNROLL
  for (int r = 0; r < R; ++r) {
    FASTBN_UNROLL
    for (int j = 0; j < J; ++j) all[r * J + j] = sum[r][j];
  }
  vfloat zero{};  // of what is finite
  for (int i = 0; i < kGroups; ++i) {
    const vfloat group = lane_sums(all + i * kLanes);
    zero += group - group;
    store(sums + i * kLanes, group);
  }
  float zeros[kLanes];
  store(zeros, zero);
  bool finite = true;
  for (int l = 0; l < kLanes; ++l) finite &= zeros[l] == 0;
  return finite;
}

// Where dy is zero because there is no output, x may be infinite or not a number: then the sums are, and are taken
// again without it. All other x leave them as they are.
template <int R, int J>
__attribute__((noinline)) void filter_tile(const PlanarFilterArgs& g, const int64_t* offset, const float* dy,
                                           float* dw) {
  float sums[R * J + kLanes];
  if (!filter_sums<R, J, false>(g, offset, dy, sums)) filter_sums<R, J, true>(g, offset, dy, sums);
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < J; ++j) dw[r * g.dw_row + j] += sums[r * J + j];
  }
}

using FilterTile = void (*)(const PlanarFilterArgs&, const int64_t*, const float*, float*);
template <int R, int J>
constexpr FilterTile filter_or_none() {
  if constexpr (R <= rows_beside(J)) {
    return filter_tile<R, J>;
  } else {
    return nullptr;
  }
}
#define FASTBN_TILES(J)                                                                                      \
  {                                                                                                          \
    nullptr, filter_or_none<1, J>(), filter_or_none<2, J>(), filter_or_none<3, J>(), filter_or_none<4, J>(), \
        filter_or_none<5, J>(), filter_or_none<6, J>(), filter_or_none<7, J>(), filter_or_none<8, J>(),      \
        filter_or_none<9, J>(), filter_or_none<10, J>(), filter_or_none<11, J>(), filter_or_none<12, J>()    \
  }
constexpr FilterTile kFilterTiles[kFilterOutputs][kFilterRows + 1] = {FASTBN_TILES(1), FASTBN_TILES(2), FASTBN_TILES(3),
                                                                      FASTBN_TILES(4)};
#undef FASTBN_TILES
constexpr int kFilterTileRows[kFilterOutputs] = {rows_beside(1), rows_beside(2), rows_beside(3), rows_beside(4)};

RegisterTile filter_tile_of(int64_t outputs) {
  const int64_t blocks = (outputs + kFilterOutputs - 1) / kFilterOutputs;
  const int most = (int)end_of(outputs, blocks, 0);
  return {kFilterTileRows[most - 1], most};
}

void filter(const PlanarFilterArgs& g) {
  const int64_t blocks = (g.outputs + kFilterOutputs - 1) / kFilterOutputs;
  int64_t j = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t j_end = end_of(g.outputs, blocks, b), outputs = j_end - j;
    const int64_t most = kFilterTileRows[outputs - 1], tiles = (g.terms + most - 1) / most;
    int64_t k = 0;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t k_end = end_of(g.terms, tiles, t);
      kFilterTiles[outputs - 1][k_end - k](g, g.offset + k, g.dy + j * g.dy_plane, g.dw + k * g.dw_row + j);
      k = k_end;
    }
    j = j_end;
  }
}

// body(from, to, i) for blocks of kLanes pixels from i on of each row; the last overlaps the one before it, so that
// nothing else is touched.
template <class Body>
FASTBN_INLINE void for_each_block(const PlaneRows& layout, const float* from, int64_t from_row, float* to,
                                  int64_t to_row, Body body) {
  const int64_t rows = layout.rows, count = layout.count;
  for (int64_t r = 0; r < rows; ++r, from += from_row, to += to_row) {
    for (int64_t i = 0; i < count; i += kLanes) body(from, to, i + kLanes <= count ? i : count - kLanes);
  }
}

template <int N>
void to_few_planes(const PlaneRows& layout, const float* pixels, float* planes) {
  for_each_block(
      layout, pixels, layout.pixel_row, planes,
      layout.plane_row, [&](const float* from, float* to, int64_t i) __attribute__((always_inline)) {
        vfloat rows[N];
        if constexpr (N == kColumnsAtOnce) {
          load_columns(from + i * N, N, rows);
        } else {
          for (int v = 0; v < N; ++v) rows[v] = load(from + i * N + v * kLanes);
          take_all_apart<N>(rows);
        }
        for (int p = 0; p < N; ++p) store(to + p * layout.plane + i, rows[p]);
      });
}
template <int N>
void from_few_planes(const PlaneRows& layout, const float* planes, float* pixels) {
  for_each_block(
      layout, planes, layout.plane_row, pixels,
      layout.pixel_row, [&](const float* from, float* to, int64_t i) __attribute__((always_inline)) {
        vfloat rows[N];
        for (int p = 0; p < N; ++p) rows[p] = load(from + p * layout.plane + i);
        if constexpr (N == kColumnsAtOnce) {
          store_columns(to + i * N, N, rows);
        } else {
          interleave_all<N>(rows);
          for (int v = 0; v < N; ++v) store(to + i * N + v * kLanes, rows[v]);
        }
      });
}

// Any number of planes, kLanes at a time.
void to_many_planes(const PlaneRows& layout, const float* pixels, float* planes) {
  const int64_t channels = layout.planes, plane = layout.plane;
  for (int64_t p = 0; p < channels; p += kLanes) {
    const int64_t here = channels - p < kLanes ? channels - p : kLanes;
    for_each_block(
        layout, pixels + p, layout.pixel_row, planes + p * plane,
        layout.plane_row, [&](const float* from, float* to, int64_t i) __attribute__((always_inline)) {
          vfloat rows[kLanes];
          for (int v = 0; v < kLanes; ++v) rows[v] = load_partial(from + (i + v) * channels, here);
          transpose(rows);
          for (int v = 0; v < kLanes; ++v) {
            if (v < here) store(to + v * plane + i, rows[v]);
          }
        });
  }
}
void from_many_planes(const PlaneRows& layout, const float* planes, float* pixels) {
  const int64_t channels = layout.planes, plane = layout.plane;
  for (int64_t p = 0; p < channels; p += kLanes) {
    const int64_t here = channels - p < kLanes ? channels - p : kLanes;
    for_each_block(
        layout, planes + p * plane, layout.plane_row, pixels + p,
        layout.pixel_row, [&](const float* from, float* to, int64_t i) __attribute__((always_inline)) {
          vfloat rows[kLanes];
          for (int v = 0; v < kLanes; ++v) rows[v] = v < here ? load(from + v * plane + i) : vfloat{};
          transpose(rows);
          for (int v = 0; v < kLanes; ++v) store_partial(to + (i + v) * channels, rows[v], here);
        });
  }
}

void to_planes(const PlaneRows& layout, const float* pixels, float* planes) {
  if (layout.planes == 1) {
    for (int64_t r = 0; r < layout.rows; ++r)
      memcpy(planes + r * layout.plane_row, pixels + r * layout.pixel_row, (size_t)layout.count * sizeof(float));
  } else if (layout.count < kLanes) {
    for (int64_t r = 0; r < layout.rows; ++r, pixels += layout.pixel_row, planes += layout.plane_row) {
      for (int64_t i = 0; i < layout.count; ++i) {
        for (int64_t p = 0; p < layout.planes; ++p) planes[p * layout.plane + i] = pixels[i * layout.planes + p];
      }
    }
  } else if (layout.planes == 2) {
    to_few_planes<2>(layout, pixels, planes);
  } else if (layout.planes == 4) {
    to_few_planes<4>(layout, pixels, planes);
  } else {
    to_many_planes(layout, pixels, planes);
  }
}

void from_planes(const PlaneRows& layout, const float* planes, float* pixels) {
  if (layout.planes == 1) {
    for (int64_t r = 0; r < layout.rows; ++r)
      memcpy(pixels + r * layout.pixel_row, planes + r * layout.plane_row, (size_t)layout.count * sizeof(float));
  } else if (layout.count < kLanes) {
    for (int64_t r = 0; r < layout.rows; ++r, pixels += layout.pixel_row, planes += layout.plane_row) {
      for (int64_t i = 0; i < layout.count; ++i) {
        for (int64_t p = 0; p < layout.planes; ++p) pixels[i * layout.planes + p] = planes[p * layout.plane + i];
      }
    }
  } else if (layout.planes == 2) {
    from_few_planes<2>(layout, planes, pixels);
  } else if (layout.planes == 4) {
    from_few_planes<4>(layout, planes, pixels);
  } else {
    from_many_planes(layout, planes, pixels);
  }
}

}  // namespace

void fill_planar(PlanarKernels& table) {
  table.tile = tile_of;
  table.filter_tile = filter_tile_of;
  table.correlate = correlate;
  table.filter = filter;
  table.to_planes = to_planes;
  table.from_planes = from_planes;
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
