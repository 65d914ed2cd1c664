// Contract of the kernels for few channels: vectors along the pixels of planes, one plane for each channel, weights as
// broadcast scalars.
#pragma once

#include <stdint.h>

#include "register_tile.hpp"

namespace fastbn {

// y[j * y_plane + q] = act(bias[j] + sum_k x[offset[k] + q] w[k * w_row + j]), j in [0, outputs), q in [0, count).
// Every element is one chain over k in order, the bias first. Reads x and writes y up to the next whole vector.
struct PlanarArgs {
  const float* x;
  const int64_t* offset;
  const float* w;
  float* y;
  int64_t terms, w_row;
  int64_t outputs, y_plane, count;
  const float* bias;   // NULL: none
  int32_t activation;  // FBN_LINEAR, FBN_RELU or FBN_LEAKY_RELU
  float alpha;
};

// dw[k * dw_row + j] += sum_q x[offset[k] + q] dy[j * dy_plane + q] over the q in [0, count) with live[q] all ones,
// where dy is zero elsewhere. Each lane of a vector is a chain over q; the lanes are added up as a binary tree. Reads
// x, dy and live up to the next whole vector: there, too, live and dy are zero.
struct PlanarFilterArgs {
  const float* x;
  const int64_t* offset;
  const float* dy;
  const int32_t* live;
  float* dw;
  int64_t terms, outputs, dy_plane, count, dw_row;
};

// planes[p * plane + r * plane_row + i] = pixels[r * pixel_row + i * planes + p], r in [0, rows), i in [0, count),
// p in [0, planes). Nothing else is touched.
struct PlaneRows {
  int64_t rows, count, planes;
  int64_t pixel_row, plane_row, plane;  // floats from one to the next
};

struct PlanarKernels {
  // Outputs by pixels of correlate, terms by outputs of filter, where there are so many outputs.
  RegisterTile (*tile)(int64_t outputs);
  RegisterTile (*filter_tile)(int64_t outputs);

  void (*correlate)(const PlanarArgs& args);
  void (*filter)(const PlanarFilterArgs& args);
  // Pixels into planes, and back.
  void (*to_planes)(const PlaneRows& rows, const float* pixels, float* planes);
  void (*from_planes)(const PlaneRows& rows, const float* planes, float* pixels);
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_planar(PlanarKernels& kernels);
}
#endif

}  // namespace fastbn
