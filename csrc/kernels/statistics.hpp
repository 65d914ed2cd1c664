// Kernels of batch_norm over channels: what follows from the sums of a pass. float64, a few divisions and a root each.
#pragma once

#include <stdint.h>

namespace fastbn {

struct StatisticsKernels {
  // mean = base + sum / rows, m2 = square - sum^2 / rows and not below 0, base = shift or 0 where that is not finite;
  // mean may be sum, and m2 square. rows is at least 1.
  void (*moments)(int64_t channels, int64_t rows, const float* shift, const double* sum, const double* square,
                  double* mean, double* m2);
  // scale = gamma / sqrt(variance + epsilon), gamma NULL: ones.
  void (*scale)(int64_t channels, const double* variance, double epsilon, const float* gamma, double* scale);
  // dy_mean = sum_dy / rows, xc_factor = sum_dy_xc / (rows (variance + epsilon)).
  void (*backward)(int64_t channels, int64_t rows, const double* variance, double epsilon, const double* sum_dy,
                   const double* sum_dy_xc, double* dy_mean, double* xc_factor);
  // dgamma = sum_dy_xc / sqrt(variance + epsilon), rounded.
  void (*gamma_gradient)(int64_t channels, const double* variance, double epsilon, const double* sum_dy_xc,
                         float* dgamma);
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_statistics(StatisticsKernels& kernels);
}
#endif

}  // namespace fastbn
