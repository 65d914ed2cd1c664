// Contract of the Winograd kernels: the transforms around the products of F(4x4, 3x3) and F(2x2, 3x3), and of their
// transposes for the weight gradient.
//
// With n = tile + 2 points in each direction, a tile of outputs is Y = A' [(G g G') * (B' d B)] A, where d is the n x n
// patch of the source, g the 3x3 kernel and * the product of each of the n * n elements, summed over channels. The
// weight gradient is A3' [(B' d B) * (G4 dy G4')] A3 with the same B, so the source is transformed alike in both.
// Points: 0, +-sqrt(1/2), +-sqrt(2), infinity for tile 4; 0, +-1, infinity for tile 2. (Toom and Cook's interpolation,
// in Winograd's order; Lavin and Gray 2015. Balanced around 1, these points halve the rounding of 0, +-1, +-2.)
#pragma once

#include <stdint.h>

namespace fastbn {

// A patch read from an image and its transform: v[(i * n + j) * point + c], c in [0, width), where width is `channels`
// rounded up to whole vectors (the additional ones are zero). Pixels of the patch outside of [y_begin, y_end) x
// [x_begin, x_end) are zero and not read.
struct WinogradPatch {
  const float* image;  // where pixel (0, 0) of the patch is, or would be
  const float* next;   // the same of the patch that follows, which is fetched meanwhile; not read
  int64_t row, pixel;  // floats from one to the next
  int64_t y_begin, y_end, x_begin, x_end;
  int64_t channels;
  float* v;
  int64_t point;
};

// A tile of outputs from its products: m[(i * n + j) * point + c], readable in whole vectors.
struct WinogradTile {
  const float* m;
  int64_t point;
  float* y;
  const float* next;  // y of a tile that follows, which is fetched meanwhile; not read or written
  int64_t row, pixel;
  int64_t rows, columns;  // of the tile that are stored
  int64_t channels;
  const float* bias;   // NULL: none
  int32_t activation;  // FBN_LINEAR, FBN_RELU or FBN_LEAKY_RELU
  float alpha;
};

struct WinogradForm {
  int tile;                                      // outputs of a tile in each direction
  int points;                                    // n = tile + 2
  void (*source)(const WinogradPatch& patch);    // B' d B of an n x n patch
  void (*gradient)(const WinogradPatch& patch);  // G4 dy G4' of a tile x tile patch of the gradient
  void (*result)(const WinogradTile& tile);      // act(A' m A + bias)
  // u[(i * n + j) * point + c] = G g G', g[ky][kx][c] = taps[(ky * 3 + kx) * tap + c], c in [0, count), whole vectors.
  void (*kernel)(const float* taps, int64_t tap, float* u, int64_t point, int64_t count);
  // dw[(ky * 3 + kx) * tap + c] = or += A3' m A3, c in [0, count); m readable in whole vectors.
  void (*filter)(const float* m, int64_t point, float* dw, int64_t tap, int64_t count, bool add);
};

struct WinogradKernels {
  WinogradForm form[2];  // tile 4, tile 2
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_winograd(WinogradKernels& kernels);
}
#endif

}  // namespace fastbn
