// Kernels of the losses, row by row.
#pragma once

#include <stdint.h>

namespace fastbn {

struct LossKernels {
  // Exactly one of classes (int32 class numbers) and targets (rows x columns) is given. loss, probabilities, dlogits
  // and correct may be NULL. dlogits = (p sum(t) - t) * scale; correct = the first arg-max of logits (the first NaN if
  // there is one) is the class, or the first arg-max of the targets. A number that is no class makes the row's loss NaN
  // and is no column's target.
  void (*softmax_cross_entropy)(int64_t rows, int64_t columns, const float* logits, const int32_t* classes,
                                const float* targets, float scale, float* loss, float* probabilities, float* dlogits,
                                uint8_t* correct);
  // dlogits from probabilities that are known.
  void (*softmax_cross_entropy_backward)(int64_t rows, int64_t columns, const float* probabilities,
                                         const int32_t* classes, const float* targets, float scale, float* dlogits);
  // loss = mean (p - t)^2, absolute = mean |p - t|, dp = (p - t) * (2 scale / columns); each may be NULL.
  void (*mean_squared_error)(int64_t rows, int64_t columns, const float* p, const float* t, float scale, float* loss,
                             float* absolute, float* dp);
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_losses(LossKernels& kernels);
}
#endif

}  // namespace fastbn
