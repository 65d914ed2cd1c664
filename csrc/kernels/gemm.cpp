// Batch-reduce matrix product on register tiles of MR rows by NV vectors, packing, column sums.
#include "gemm.hpp"

#include <fastbn/fastbn.h>

#include "simd.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

// The accumulators, one row of B and a broadcast element of A share the vector registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif
constexpr int kMaxRows = 14;  // taller tiles of one vector are slower: more broadcasts for each row of B
constexpr int kMaxVectors = 4;

constexpr int tile_rows(int vectors) {
  const int rows = (kRegisters - vectors - 1 - (FASTBN_HAS_FMA ? 0 : 1)) / vectors;
  return rows < kMaxRows ? rows : kMaxRows;
}

// [0, full) lanes of p; the others, if any, are read as zero or left alone.
FASTBN_INLINE vfloat load_lanes(const float* p, int64_t lanes) {
  return lanes == kLanes ? load(p) : load_partial(p, lanes);
}
FASTBN_INLINE void store_lanes(float* p, vfloat v, int64_t lanes) {
  if (lanes == kLanes) {
    store(p, v);
  } else {
    store_partial(p, v, lanes);
  }
}

// Rows [first, first + MR) of C, all n columns, n in ((NV - 1) * kLanes, NV * kLanes].
// Not inlined: the caller's loop would let the compiler hoist epilogue constants into vector registers and spill
// accumulators.
template <int MR, int NV>
__attribute__((noinline)) void tile(const GemmArgs& g, int64_t first) {
  int64_t a_at[MR], c_at[MR];
  {
    int64_t outer = first / g.inner, in = first - outer * g.inner;
    for (int i = 0; i < MR; ++i) {
      a_at[i] = (outer * g.a_outer + in * g.a_row) * (int64_t)sizeof(float);
      c_at[i] = outer * g.c_outer + in * g.c_row;
      if (++in == g.inner) {
        in = 0;
        ++outer;
      }
    }
  }
  const int64_t tail = g.n - (NV - 1) * kLanes;

  vfloat sum[MR][NV];
  if (g.start == GemmStart::kChain) {
    for (int i = 0; i < MR; ++i) {
      for (int v = 0; v < NV; ++v) sum[i][v] = load_lanes(g.c + c_at[i] + v * kLanes, v + 1 < NV ? kLanes : tail);
    }
  } else {
    for (int i = 0; i < MR; ++i) {
      for (int v = 0; v < NV; ++v) sum[i][v] = vfloat{};
    }
  }

  const int64_t a_step = g.a_col * (int64_t)sizeof(float), b_step = g.b_row;
  for (int64_t e = 0; e < g.batch; ++e) {
    const char* a = (const char*)(g.a_offset ? g.a + g.a_offset[e] : g.a);
    const float* b = g.b_offset ? g.b + g.b_offset[e] : g.b;
    for (int64_t p = g.k; p > 0; --p) {
      vfloat row[NV];
      for (int v = 0; v < NV; ++v) row[v] = load(b + v * kLanes);
      for (int i = 0; i < MR; ++i) {
        const vfloat element = broadcast(*(const float*)(a + a_at[i]));
        for (int v = 0; v < NV; ++v) sum[i][v] = fma(element, row[v], sum[i][v]);
      }
      a += a_step;
      b += b_step;
    }
  }

  if (g.start == GemmStart::kAdd) {
    for (int i = 0; i < MR; ++i) {
      for (int v = 0; v < NV; ++v) sum[i][v] += load_lanes(g.c + c_at[i] + v * kLanes, v + 1 < NV ? kLanes : tail);
    }
  }
  if (g.bias) {
    for (int v = 0; v < NV; ++v) {
      const vfloat bias = load_lanes(g.bias + v * kLanes, v + 1 < NV ? kLanes : tail);
      for (int i = 0; i < MR; ++i) sum[i][v] += bias;
    }
  }
  if (g.activation == FBN_RELU) {
    for (int i = 0; i < MR; ++i) {
      for (int v = 0; v < NV; ++v) sum[i][v] = sum[i][v] < vfloat{} ? vfloat{} : sum[i][v];
    }
  } else if (g.activation == FBN_LEAKY_RELU) {
    const vfloat alpha = broadcast(g.alpha);
    for (int i = 0; i < MR; ++i) {
      for (int v = 0; v < NV; ++v) sum[i][v] = sum[i][v] < vfloat{} ? alpha * sum[i][v] : sum[i][v];
    }
  }
  if (tail == kLanes) {
    for (int i = 0; i < MR; ++i) {
      for (int v = 0; v < NV; ++v) store(g.c + c_at[i] + v * kLanes, sum[i][v]);
    }
  } else {
    for (int i = 0; i < MR; ++i) {
      for (int v = 0; v + 1 < NV; ++v) store(g.c + c_at[i] + v * kLanes, sum[i][v]);
      store_partial(g.c + c_at[i] + (NV - 1) * kLanes, sum[i][NV - 1], tail);
    }
  }
}

using Tile = void (*)(const GemmArgs&, int64_t);

template <int NV, int MR>
constexpr Tile tile_or_none() {
  if constexpr (MR <= tile_rows(NV)) {
    return tile<MR, NV>;
  } else {
    return nullptr;
  }
}

#define FASTBN_TILES(NV)                                                                                 \
  {                                                                                                      \
    nullptr, tile_or_none<NV, 1>(), tile_or_none<NV, 2>(), tile_or_none<NV, 3>(), tile_or_none<NV, 4>(), \
        tile_or_none<NV, 5>(), tile_or_none<NV, 6>(), tile_or_none<NV, 7>(), tile_or_none<NV, 8>(),      \
        tile_or_none<NV, 9>(), tile_or_none<NV, 10>(), tile_or_none<NV, 11>(), tile_or_none<NV, 12>(),   \
        tile_or_none<NV, 13>(), tile_or_none<NV, 14>()                                                   \
  }
constexpr Tile kTiles[kMaxVectors][kMaxRows + 1] = {FASTBN_TILES(1), FASTBN_TILES(2), FASTBN_TILES(3), FASTBN_TILES(4)};
#undef FASTBN_TILES
constexpr int kTileRows[kMaxVectors] = {tile_rows(1), tile_rows(2), tile_rows(3), tile_rows(4)};

// Cuts the rows evenly, so that no tile is much lower than the others.
void gemm(const GemmArgs& g) {
  if (g.m <= 0 || g.n <= 0) return;
  const int64_t vectors = (g.n + kLanes - 1) / kLanes;
  const int64_t most = kTileRows[vectors - 1];
  const int64_t tiles = (g.m + most - 1) / most, height = g.m / tiles, higher = g.m % tiles;
  int64_t row = g.first_row;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t rows = height + (t < higher);
    kTiles[vectors - 1][rows](g, row);
    row += rows;
  }
}

void pack(const float* source, int64_t row, int64_t k, int64_t n, int64_t width, float* packed) {
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t p = 0; p < k; ++p) {
    int64_t j = 0;
    for (; j < whole; j += kLanes) store(packed + j, load(source + j));
    if (j < n) {
      store(packed + j, load_partial(source + j, n - j));
      j += kLanes;
    }
    for (; j < width; j += kLanes) store(packed + j, vfloat{});
    source += row;
    packed += width;
  }
}

// Element q of the result is element q / 2 of a (q even) or b (q odd), counted from the middle where High.
template <bool High>
FASTBN_INLINE vfloat interleave(vfloat a, vfloat b) {
#if FASTBN_LANES == 16
  return High ? __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
              : __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif FASTBN_LANES == 8
  return High ? __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
              : __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return High ? __builtin_shufflevector(a, b, 2, 6, 3, 7) : __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}

// Each pass interleaves rows i and i + kLanes / 2, which rotates the bits of (row, lane) by one; after log2(kLanes)
// passes row and lane have changed places.
FASTBN_INLINE void transpose(vfloat (&rows)[kLanes]) {
  for (int lanes = 1; lanes < kLanes; lanes *= 2) {
    vfloat next[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave<false>(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = interleave<true>(rows[i], rows[i + kLanes / 2]);
    }
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

void pack_transposed(const float* source, int64_t row, int64_t k, int64_t n, int64_t width, float* packed) {
  for (int64_t p = 0; p < k; p += kLanes) {
    const int64_t depth = k - p < kLanes ? k - p : kLanes;
    for (int64_t j = 0; j < width; j += kLanes) {
      vfloat block[kLanes];
      if (depth == kLanes && j + kLanes <= n) {
        for (int i = 0; i < kLanes; ++i) block[i] = load(source + (j + i) * row + p);
      } else {
        for (int i = 0; i < kLanes; ++i) {
          block[i] = j + i < n ? load_partial(source + (j + i) * row + p, depth) : vfloat{};
        }
      }
      transpose(block);
      if (depth == kLanes) {
        for (int i = 0; i < kLanes; ++i) store(packed + (p + i) * width + j, block[i]);
      } else {
        for (int i = 0; i < kLanes; ++i) {
          if (i < depth) store(packed + (p + i) * width + j, block[i]);
        }
      }
    }
  }
}

void column_sums(const float* m, int64_t stride, int64_t rows, int64_t columns, double* sums, bool accumulate) {
  constexpr int64_t kChain = 64;
  constexpr int kVectors = 4;
  if (!accumulate) {
    for (int64_t c = 0; c < columns; ++c) sums[c] = 0;
  }
  for (int64_t c = 0; c < columns; c += kVectors * kLanes) {
    const int64_t width = columns - c < kVectors * kLanes ? columns - c : kVectors * kLanes;
    for (int64_t begin = 0; begin < rows; begin += kChain) {
      const int64_t end = begin + kChain < rows ? begin + kChain : rows;
      vfloat sum[kVectors] = {};
      if (width == kVectors * kLanes) {
        for (int64_t r = begin; r < end; ++r) {
          for (int v = 0; v < kVectors; ++v) sum[v] += load(m + r * stride + c + v * kLanes);
        }
      } else {
        for (int v = 0; v * kLanes < width; ++v) {
          const int64_t lanes = width - v * kLanes < kLanes ? width - v * kLanes : kLanes;
          for (int64_t r = begin; r < end; ++r) sum[v] += load_lanes(m + r * stride + c + v * kLanes, lanes);
        }
      }
      float chain[kVectors * kLanes];
      for (int v = 0; v < kVectors; ++v) store(chain + v * kLanes, sum[v]);
      for (int64_t j = 0; j < width; ++j) sums[c + j] += (double)chain[j];
    }
  }
}

}  // namespace

void fill_gemm(GemmKernels& table) {
  table.panel_floats = 2 * kLanes;
  table.wide_floats = kMaxVectors * kLanes;
  table.wide_rows = kTileRows[kMaxVectors - 1];
  table.tile_rows = kTileRows[1];
  table.gemm = gemm;
  table.pack = pack;
  table.pack_transposed = pack_transposed;
  table.column_sums = column_sums;
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
