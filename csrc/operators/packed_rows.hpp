// An A whose rows lie side by side (x in backward_filter), packed tile by tile for the panels that meet it. Low tiles
// would read each of its lines several times, and where its columns are apart by a power of two, as pixels often are,
// these fall into few sets of the first cache.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/kernel_table.hpp"
#include "runtime/ranges.hpp"

namespace fastbn {

inline constexpr int64_t kTilesOfBlock = 8;  // that are packed at once, and share the packed B
inline constexpr int64_t kPanelsWorthPacking = 4;
// Columns of A, and rows of B, that are packed for all tiles and panels before the next ones: where each tile read all
// of them, every line would come from a page of its own.
inline constexpr int64_t kPackedAtOnce = 16;

inline bool packs_rows(int64_t panels) { return kernels().gemm.low_tiles && panels >= kPanelsWorthPacking; }

// Rows of even blocks of at most kTilesOfBlock tiles.
inline int64_t block_of_rows(int64_t rows) {
  const int64_t tile = kernels().gemm.tile_rows, most = kTilesOfBlock * tile;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(rows, most)), even = ceil_div(rows, blocks);
  return round_up(even, tile);
}

// Floats of a packed tile of `depth` columns, with room for what is written behind them.
inline int64_t packed_tile(int64_t depth) {
  const int64_t floats = kernels().gemm.tile_rows * depth + kernels().vector_floats;
  return round_up(floats, 16);
}

// run(first, count) for the parts of [0, total) in order.
template <class Run>
void for_parts(int64_t total, Run run) {
  for (int64_t p = 0; p < total; p += kPackedAtOnce) run(p, std::min(kPackedAtOnce, total - p));
}

// Columns [first, first + columns) of m rows: source[p * column + i] is row i of column first + p.
inline void pack_rows(const float* source, int64_t column, int64_t first, int64_t columns, int64_t m, int64_t tile,
                      float* packed) {
  const GemmKernels& k = kernels().gemm;
  for_parts(columns, [&](int64_t p, int64_t part) {
    k.pack_rows(source + p * column, column, part, m, tile, packed + (first + p) * k.tile_rows);
  });
}

// Lets a product read `depth` packed columns of A for rows of C that are c_row apart.
inline void read_packed_rows(GemmArgs* g, const float* packed, int64_t tile, int64_t depth) {
  const int64_t rows = kernels().gemm.tile_rows;
  g->a = packed;
  g->inner = g->a_col = rows;
  g->a_outer = tile;
  g->a_row = 1;
  g->c_outer = rows * g->c_row;
  g->first_row = 0;
  g->k = depth;
  g->batch = 1;
  g->a_offset = g->b_offset = nullptr;
}

}  // namespace fastbn
