// Softmax cross-entropy and mean squared error over rows; block functions.
#pragma once

#include <fastbn/fastbn.h>

#include <cstdint>

namespace fastbn {

// labels: int32 class numbers (rows) or float32 (rows, classes). Any of loss, probabilities, dlogits may be
// NULL. dlogits = (p sum(t) - t) * scale. correct[r] (may be NULL) = 1 where the first arg-max of the logits is
// the label's (first arg-max of one-hot labels), else 0. Stable for logits of any size.
void softmax_cross_entropy(int64_t rows, int64_t classes, const float* logits, const void* labels, int32_t labels_dtype,
                           float scale, float* loss, float* probabilities, float* dlogits, uint8_t* correct) noexcept;
// Throws INVALID_VALUE when an int32 label is outside [0, classes).
void check_labels(const char* operation, const int32_t* labels, int64_t rows, int64_t classes);
// loss[r] = mean_k (p - t)^2, absolute[r] = mean_k |p - t| (may be NULL), dp = 2 (p - t) / columns * scale (may be
// NULL).
void mean_squared_error(int64_t rows, int64_t columns, const float* p, const float* t, float scale, float* loss,
                        float* absolute, float* dp) noexcept;

}  // namespace fastbn
