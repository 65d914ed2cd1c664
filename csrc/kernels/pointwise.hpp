// Kernels over (rows, columns) regions with a row stride: activations, softmax, dropout, sums, rescaling.
// In and out may be the same array, but for those of `large` regions: parts of arrays that exceed the caches.
// `activation` is a fbn_activation other than softmax.
#pragma once

#include <stdint.h>

namespace fastbn {

struct PointwiseKernels {
  void (*activation_forward)(int64_t rows, int64_t columns, int64_t stride, int32_t activation, float alpha,
                             const float* x, float* y, bool large);
  // dx = dy * act'(x), from y = act(x)
  void (*activation_backward)(int64_t rows, int64_t columns, int64_t stride, int32_t activation, float alpha,
                              const float* dy, const float* y, float* dx, bool large);
  void (*softmax_forward)(int64_t rows, int64_t columns, int64_t stride, const float* x, float* y);
  void (*softmax_backward)(int64_t rows, int64_t columns, int64_t stride, const float* dy, const float* y, float* dx);
  // Element (r, c) is number i = first + r * pitch + c and has 32 bits of Philox(seed, .), a function of i alone;
  // y = x * scale where they are at least `threshold`, else 0.
  void (*dropout)(int64_t rows, int64_t columns, int64_t stride, uint32_t threshold, float scale, uint64_t seed,
                  uint64_t first, int64_t pitch, const float* x, float* y, bool large);
  void (*add)(int64_t rows, int64_t columns, int64_t stride, const float* a, const float* b, float* sum);
  void (*rescale)(int64_t rows, int64_t columns, int64_t stride, const float* x, float scale, float offset, float* y);
  void (*rescale_u8)(int64_t size, const uint8_t* x, float scale, float offset, float* y);
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_pointwise(PointwiseKernels& kernels);
}
#endif

}  // namespace fastbn
