// batch_norm over (rows, channels) matrices with a row stride: the passes that ops and programs are made of.
//
// Forward   statistics -> mean, variance; coefficients; y = act((x - mean) * a + beta + residual)
// Backward  with dy' = dy * act'(y), xc = x - mean, r = 1 / sqrt(variance + epsilon), n = rows of the batch:
//             dbeta = sum dy'      dgamma = r * sum dy' xc
//             dx = gamma r (dy' - sum dy' / n - xc r^2 sum(dy' xc) / n)      (frozen: dx = gamma r dy')
// All passes run on the calling thread, neither allocate nor throw, and add row by row in order, so that
// splitting rows over calls leaves the bits alone. Sums are float64 of values taken relative to a shift.
#pragma once

#include <fastbn/fastbn.h>

#include <cstdint>

namespace fastbn {

// Per-channel factors of the forward and backward passes; five arrays of `channels` float64 each, since the passes
// compute in float64 and round their results once.
struct BatchNormCoefficients {
  double* mean;
  double* scale;      // gamma / sqrt(variance + epsilon)
  double* shift;      // beta, or zeros
  double* dy_mean;    // sum dy' / n
  double* xc_factor;  // sum(dy' xc) / (n (variance + epsilon))

  BatchNormCoefficients from(int64_t channel) const;  // those of the channels from this one on
};
inline constexpr int kBatchNormCoefficientArrays = 5;
// Views five consecutive arrays of `channels` numbers.
BatchNormCoefficients batch_norm_coefficients(double* storage, int64_t channels);

// Sums of a part of the rows: (x - shift) and its square, each channel in float64, added to sum and square.
// shift[c]: a value near the channel's (the first row of the part); all three arrays of `channels`.
void batch_norm_sums(const float* x, int64_t stride, int64_t rows, int64_t channels, const float* shift, double* sum,
                     double* square) noexcept;
// mean and m2 = sum (x - mean)^2 of a part from its sums (mean may be sum, and m2 square, in place); then parts are
// merged pairwise (Chan).
void batch_norm_moments(int64_t rows, int64_t channels, const float* shift, const double* sum, const double* square,
                        double* mean, double* m2) noexcept;
// (count, mean, m2) <- (count, mean, m2) merged with another part; either may be empty.
void batch_norm_merge(int64_t channels, int64_t count, double* mean, double* m2, int64_t other_count,
                      const double* other_mean, const double* other_m2) noexcept;

// Fills mean, scale, shift. gamma, beta may be NULL.
void batch_norm_forward_coefficients(int64_t channels, const double* mean, const double* variance, double epsilon,
                                     const float* gamma, const float* beta, BatchNormCoefficients out) noexcept;
// Fills dy_mean, xc_factor; count is at least 1.
void batch_norm_backward_coefficients(int64_t channels, int64_t count, const double* variance, double epsilon,
                                      const double* sum_dy, const double* sum_dy_xc,
                                      BatchNormCoefficients out) noexcept;

// dgamma = sum_dy_xc / sqrt(variance + epsilon), dbeta = sum_dy; either may be NULL.
void batch_norm_parameter_gradients(int64_t channels, const double* variance, double epsilon, const double* sum_dy,
                                    const double* sum_dy_xc, float* dgamma, float* dbeta) noexcept;

struct BatchNormMatrix {  // a region: rows x channels, one stride for every array of the pass
  int64_t rows, channels, stride;
  bool large = false;  // part of arrays that exceed the caches; what is written is none of what is read
};

void batch_norm_apply(BatchNormMatrix m, const float* x, BatchNormCoefficients c, const float* residual,
                      int32_t activation, float alpha, float* y) noexcept;
// sum_dy += dy', sum_dy_xc += dy' xc. With an activation: y, or NULL to recompute it from x (no residual).
void batch_norm_backward_sums(BatchNormMatrix m, const float* dy, const float* x, const float* y,
                              BatchNormCoefficients c, int32_t activation, float alpha, double* sum_dy,
                              double* sum_dy_xc) noexcept;
// dx, and dresidual = dy' where not NULL. dx may be dy. `frozen`: mean and variance are constants.
void batch_norm_backward_apply(BatchNormMatrix m, const float* dy, const float* x, const float* y,
                               BatchNormCoefficients c, bool frozen, int32_t activation, float alpha, float* dx,
                               float* dresidual) noexcept;

}  // namespace fastbn
