// Kernels of the optimizers: one pass over weights, gradient and slots, elementwise. Constants are the rule's.
#pragma once

#include <stdint.h>

namespace fastbn {

struct UpdateConstants {
  float learning_rate;
  float decay;  // weight_decay * learning_rate: w -= w * decay comes first
  float epsilon;
};

struct UpdateKernels {
  // velocity NULL: w -= lr g. Else v = mu v - lr g, then w += v, or w += mu v - lr g with nesterov.
  void (*sgd)(int64_t size, UpdateConstants k, float momentum, int32_t nesterov, float* w, const float* g,
              float* velocity);
  // v = rho v + (1 - rho) g^2; a = rho a + (1 - rho) g where a is not NULL; step = lr g / sqrt(v - a^2 + epsilon);
  // m = mu m + step, w -= m where m is not NULL, else w -= step
  void (*rmsprop)(int64_t size, UpdateConstants k, float rho, float one_minus_rho, float momentum, float* w,
                  const float* g, float* velocity, float* m, float* average);
  // m += (g - m) c1; v += (g^2 - v) c2; vh = max(vh, v) where vh is not NULL; w -= alpha m / (sqrt(vh or v) + epsilon)
  void (*adam)(int64_t size, UpdateConstants k, float beta_1_complement, float beta_2_complement, float alpha, float* w,
               const float* g, float* m, float* v, float* vh);
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_updates(UpdateKernels& kernels);
}
#endif

}  // namespace fastbn
