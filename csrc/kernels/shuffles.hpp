// Vectors interleaved, taken apart and transposed. Included by kernel bodies only.
#pragma once

#include "simd.hpp"

namespace fastbn {
namespace FASTBN_ISA {

// Element q of the result is element q / 2 of a (q even) or b (q odd), counted from the middle where High.
template <bool High>
FASTBN_INLINE vfloat interleave(vfloat a, vfloat b) {
#if FASTBN_LANES == 16
  return High ? __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
              : __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif FASTBN_LANES == 8
  return High ? __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
              : __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return High ? __builtin_shufflevector(a, b, 2, 6, 3, 7) : __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}

// The even elements (Odd: the odd ones) of a, then those of b.
template <bool Odd>
FASTBN_INLINE vfloat take_apart(vfloat a, vfloat b) {
#if FASTBN_LANES == 16
  return Odd ? __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
             : __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#elif FASTBN_LANES == 8
  return Odd ? __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15)
             : __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
#else
  return Odd ? __builtin_shufflevector(a, b, 1, 3, 5, 7) : __builtin_shufflevector(a, b, 0, 2, 4, 6);
#endif
}

// Element q of the sequence of N vectors that results is element q / N of vector q % N; N is a power of two, at most
// kLanes. Each pass interleaves rows i and i + N / 2, which rotates the bits of (row, lane) by one.
template <int N>
FASTBN_INLINE void interleave_all(vfloat (&rows)[N]) {
  for (int passes = 1; passes < N; passes *= 2) {
    vfloat next[N];
    for (int i = 0; i < N / 2; ++i) {
      next[2 * i] = interleave<false>(rows[i], rows[i + N / 2]);
      next[2 * i + 1] = interleave<true>(rows[i], rows[i + N / 2]);
    }
    for (int i = 0; i < N; ++i) rows[i] = next[i];
  }
}

// The inverse of interleave_all.
template <int N>
FASTBN_INLINE void take_all_apart(vfloat (&rows)[N]) {
  for (int passes = 1; passes < N; passes *= 2) {
    vfloat next[N];
    for (int i = 0; i < N / 2; ++i) {
      next[i] = take_apart<false>(rows[2 * i], rows[2 * i + 1]);
      next[i + N / 2] = take_apart<true>(rows[2 * i], rows[2 * i + 1]);
    }
    for (int i = 0; i < N; ++i) rows[i] = next[i];
  }
}

// With as many rows as lanes, row and lane change places.
FASTBN_INLINE void transpose(vfloat (&rows)[kLanes]) { interleave_all<kLanes>(rows); }

}  // namespace FASTBN_ISA
}  // namespace fastbn
