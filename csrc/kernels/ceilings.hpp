// What the machine can do at most: loops that do nothing else.
#pragma once

#include <stdint.h>

namespace fastbn {

struct CeilingKernels {
  // `rounds` rounds of `multiply_adds_of_a_round` independent multiply-adds, all in registers; their sum, so that none
  // is left out.
  float (*multiply_adds)(int64_t rounds, float factor);
  int64_t multiply_adds_of_a_round;
  // x = x * factor, in place. size: a multiple of 64.
  void (*scale)(float* x, int64_t size, float factor);
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_ceilings(CeilingKernels& kernels);
}
#endif

}  // namespace fastbn
