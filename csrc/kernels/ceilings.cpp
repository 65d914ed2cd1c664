#include "ceilings.hpp"

#include "simd.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

// Enough chains to cover the latency of two multiply-adds a cycle, few enough to stay in sixteen registers.
constexpr int kChains = 12;

float multiply_adds(int64_t rounds, float factor) {
  vfloat a[kChains];
  for (int i = 0; i < kChains; ++i) a[i] = broadcast((float)i);
  const vfloat f = broadcast(factor), one = broadcast(1.0f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) a[i] = fma(a[i], f, one);
  }
  vfloat sum{};
  for (int i = 0; i < kChains; ++i) sum += a[i];
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += sum[i];
  return total;
}

void scale(float* x, int64_t size, float factor) {
  const vfloat f = broadcast(factor);
  for (int64_t i = 0; i < size; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) store(x + i + j * kLanes, load(x + i + j * kLanes) * f);
  }
}

}  // namespace

void fill_ceilings(CeilingKernels& kernels) {
  kernels.multiply_adds = multiply_adds;
  kernels.multiply_adds_of_a_round = kChains * kLanes;
  kernels.scale = scale;
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
