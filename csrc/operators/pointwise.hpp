// Activations, dropout, softmax, sums and conversions over (rows, columns) regions with a row stride.
// Block functions: calling thread, no allocation, no throw. x == y is allowed everywhere.
#pragma once

#include <fastbn/fastbn.h>

#include <cstdint>

namespace fastbn {

struct Region {  // rows x columns, every array of the call has this row stride
  int64_t rows, columns, stride;
  bool large = false;  // part of arrays that exceed the caches; what is written is none of what is read
};

// The activation that a product's kernel applies as it stores its sums; those it does not take a pass of their own.
inline bool is_fused(int32_t activation) {
  return activation == FBN_LINEAR || activation == FBN_RELU || activation == FBN_LEAKY_RELU;
}
inline int32_t fused(int32_t activation, float alpha) {
  if (activation == FBN_LEAKY_RELU && alpha == 0) return FBN_RELU;  // 0 * -infinity would be NaN
  return is_fused(activation) ? activation : FBN_LINEAR;
}

void activation_forward(Region m, int32_t activation, float alpha, const float* x, float* y) noexcept;  // not softmax
// dx = dy * act'(x), from y = act(x).
void activation_backward(Region m, int32_t activation, float alpha, const float* dy, const float* y,
                         float* dx) noexcept;
void softmax_forward(Region m, const float* x, float* y) noexcept;
void softmax_backward(Region m, const float* dy, const float* y, float* dx) noexcept;

// Element (r, c) of the region is number first + r * pitch + c of the stream `seed`: kept or dropped by that
// number alone. rate in [0, 1].
void dropout_apply(Region m, double rate, uint64_t seed, uint64_t first, int64_t pitch, const float* x,
                   float* y) noexcept;

void add(Region m, const float* a, const float* b, float* sum) noexcept;   // sum = a + b; may be a or b
void copy(Region m, const float* x, int64_t x_stride, float* y) noexcept;  // y has m.stride
void rescale(Region m, const float* x, float scale, float offset, float* y) noexcept;
void rescale_u8(int64_t size, const uint8_t* x, float scale, float offset, float* y) noexcept;
void convert_u8(int64_t size, const uint8_t* x, float* y) noexcept;

}  // namespace fastbn
