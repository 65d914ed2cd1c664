// Contract of the gemm kernels: the batch-reduce matrix product that dense layers and convolutions are loops
// around, the packing that it wants, and column sums.
#pragma once

#include <stdint.h>

#include "register_tile.hpp"

namespace fastbn {

// Where the accumulators of a product begin.
enum class GemmStart : int32_t {
  kZero,   // the bias (or zero) is the first term
  kChain,  // C's old value is the first term: cutting k over several calls leaves the bits alone; no bias
  kAdd     // C's old value is added to the sum; no activation
};

// A step of SGD in the place of the product, as `updates.hpp` has it: the product is the gradient, C the weights, and
// velocity, where it is not NULL, lies as C does.
struct GemmUpdate {
  float rate, decay, momentum;
  bool nesterov;
  float* velocity;
};

// Half a line of memory: faster than whole ones for half the time, or more of them than there are lines.
inline constexpr int64_t kNextFloats = 8;

// Floats between rows of B in the weights of a program's dense layers, which a product may know.
inline constexpr int64_t kWidePanel = 32;

// Most rows of A that `dots` takes.
inline constexpr int64_t kMostDots = 8;

// C[i][j] = act(start + sum_e sum_p A_e[i][p] B_e[p][j]), i in [first_row, first_row + m), j in [0, n).
//
// A_e = a + a_offset[e], B_e = b + b_offset[e], e in [0, batch); without tables there is one pair. batch or k may be 0.
//   A_e[i][p] = A_e[(i / inner) * a_outer + (i % inner) * a_row + p * a_col]
//   B_e[p][j] = B_e[p * b_row + j]; n <= wide_floats. Rows are read in whole vectors: of the last one, too, n floats
//               rounded up to these are readable
//   C[i][j]   = c[(i / inner) * c_outer + (i % inner) * c_row + j]
//
// Every element is one chain over (e, p) in order: its bits do not depend on m, n, first_row or the tiling.
struct GemmArgs {
  const float* a;
  const float* b;
  float* c;
  int64_t first_row, m, n, k;
  int64_t inner;
  int64_t a_outer, a_row, a_col;
  int64_t b_row;
  int64_t c_outer, c_row;
  int64_t batch;
  const int64_t* a_offset;
  const int64_t* b_offset;
  GemmStart start;
  const float* bias;   // NULL: none
  int32_t activation;  // FBN_LINEAR, FBN_RELU or FBN_LEAKY_RELU
  float alpha;
  // Read after this call, `next_floats` of it: fetched meanwhile, kNextFloats to each p of a tile; some of these, as
  // many as the tile has rows, fetch C instead, and their share is left out.
  const float* next;
  int64_t next_floats;
  const GemmUpdate* update;  // NULL: none; with kZero, no activation
};

struct GemmKernels {
  int panel_floats;  // width of a packed panel (two vectors); a last narrow one is one vector wide
  int wide_floats;   // n up to this is fastest for at most wide_rows rows
  int wide_rows;
  int tile_rows;  // most rows of one register tile
  // Whether tiles are so low that several of them read each line of an A whose rows lie side by side (a_row 1): packing
  // it pays where many panels follow.
  bool low_tiles;
  // Rows and floats of C in registers where it has so many columns.
  RegisterTile (*tile)(int64_t columns);

  void (*gemm)(const GemmArgs& args);

  // As gemm, for so few terms that a tile would take longer to begin and to end: batch pairs of k = 1, those of B b_row
  // apart, without b_offset; n up to wide_floats; kZero; nothing is fetched for later.
  void (*few_terms)(const GemmArgs& args);

  // c[i * c_row + j] = sum_p a[p * a_col + i] b[p * b_row + j], i in [0, m), j in [0, n), a chain over p in [0, k), or
  // `update` with it as GemmArgs has it: for so few p that a tile would take longer to begin and to end.
  void (*outer)(const float* a, int64_t a_col, const float* b, int64_t b_row, int64_t m, int64_t n, int64_t k, float* c,
                int64_t c_row, const GemmUpdate* update);
  // c[i * c_row + j] = sum_p a[i * a_row + p] b[j * b_row + p], i in [0, m), j in [0, n), m in [1, kMostDots], a chain
  // over p in [0, k) that begins with zero or, where `chain`, with C: for so few rows of A that packing B would take
  // longer.
  void (*dots)(const float* a, int64_t a_row, const float* b, int64_t b_row, int64_t m, int64_t n, int64_t k, float* c,
               int64_t c_row, bool chain);
  // packed[p * width + j] = source[p * row + j], j in [0, n); zero for j in [n, width).
  void (*pack)(const float* source, int64_t row, int64_t k, int64_t n, int64_t width, float* packed);
  // packed[p * width + j] = source[j * row + p], the same tail of less than a vector.
  void (*pack_transposed)(const float* source, int64_t row, int64_t k, int64_t n, int64_t width, float* packed);
  // packed[i / tile_rows * tile + p * tile_rows + i % tile_rows] = source[p * row + i], i in [0, m), p in [0, k): an A
  // with inner = a_col = tile_rows, a_outer = tile, a_row = 1. Behind the last p up to a vector is written.
  void (*pack_rows)(const float* source, int64_t row, int64_t k, int64_t m, int64_t tile, float* packed);
  // sums[c] (+)= sum_r m[r * stride + c], c in [0, columns): chains of at most 64 terms in float, added up in double.
  void (*column_sums)(const float* m, int64_t stride, int64_t rows, int64_t columns, double* sums, bool accumulate);
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_gemm(GemmKernels& kernels);
}
#endif

}  // namespace fastbn
