// Kernels of pooling over one NHWC image. Rows of the result are independent: a call makes rows [begin, end) of its
// output (y, or dx), with every pointer at the start of the image.
#pragma once

#include <stdint.h>

namespace fastbn {

struct PoolingShape {
  int64_t height, width, channels, pool_height, pool_width, stride_height, stride_width;
  int64_t pad_top, pad_left, out_height, out_width;
};

struct PoolingKernels {
  // The maximum of each window's cells inside the image, the first in row-major order, a NaN before all; then relu if
  // asked for. index (bytes, or int32 with wide_index; may be NULL) is its place in the window, ky * pool_width + kx.
  void (*max_forward)(const PoolingShape& s, const float* x, int32_t relu, float* y, void* index, int32_t wide_index,
                      int64_t begin, int64_t end);
  // dx = sum of dy over the windows whose maximum the cell is, windows in row-major order. y (NULL: no relu) masks dy.
  void (*max_backward)(const PoolingShape& s, const float* dy, const void* index, int32_t wide_index, const float* y,
                       float* dx, int64_t begin, int64_t end);
  // The mean of each window's cells inside the image.
  void (*average_forward)(const PoolingShape& s, const float* x, float* y, int64_t begin, int64_t end);
  void (*average_backward)(const PoolingShape& s, const float* dy, float* dx, int64_t begin, int64_t end);
  // y[c] = mean over pixels; dx[pixel][c] = dy[c] / pixels
  void (*global_average_forward)(int64_t pixels, int64_t channels, const float* x, float* y);
  void (*global_average_backward)(int64_t pixels, int64_t channels, const float* dy, float* dx);
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_pooling(PoolingKernels& kernels);
}
#endif

}  // namespace fastbn
