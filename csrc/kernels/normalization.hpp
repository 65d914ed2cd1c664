// Kernels of batch_norm: passes over (rows, channels) matrices with a row stride. Sums run over the rows in order, one
// float64 chain a channel, so that a pass over some rows followed by one over the next gives the bits of one over all.
#pragma once

#include <stdint.h>

namespace fastbn {

// Arrays of `channels` factors; a pass reads those that it names.
struct NormalizationFactors {
  const double *mean, *scale, *shift, *dy_mean, *xc_factor;
};

struct NormalizationKernels {
  // sum += x - shift, square += (x - shift)^2; a shift that is not finite counts as 0.
  void (*sums)(int64_t rows, int64_t channels, int64_t stride, const float* x, const float* shift, double* sum,
               double* square);
  // y = act((x - mean) * scale + shift + residual), in float64, rounded once before the activation; residual may be
  // NULL. y may be x or residual. `large`: arrays that no cache holds, results among them, which overlap nothing then.
  void (*apply)(int64_t rows, int64_t channels, int64_t stride, const float* x, NormalizationFactors k,
                const float* residual, int32_t activation, float alpha, float* y, bool large);
  // With xc = x - mean and dy' = dy * act'(y), y NULL meaning act(xc * scale + shift):
  // sum_dy += dy', sum_dy_xc += dy' xc
  void (*backward_sums)(int64_t rows, int64_t channels, int64_t stride, const float* dy, const float* x, const float* y,
                        NormalizationFactors k, int32_t activation, float alpha, double* sum_dy, double* sum_dy_xc);
  // dx = (dy' - dy_mean - xc * xc_factor) * scale, dresidual = dy'; either may be NULL, dx may be dy. Without xc_factor
  // (NULL) dx = dy' * scale: x does not count, NaN or not.
  void (*backward_apply)(int64_t rows, int64_t channels, int64_t stride, const float* dy, const float* x,
                         const float* y, NormalizationFactors k, int32_t activation, float alpha, float* dx,
                         float* dresidual, bool large);
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_normalization(NormalizationKernels& kernels);
}
#endif

}  // namespace fastbn
