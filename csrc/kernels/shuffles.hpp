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

#if FASTBN_LANES == 8
// A move within each half of a vector is one instruction, one across halves as a rule two, so transposes move within
// halves and join halves once.
//
// The lower elements of each half of a and b, High: the upper ones, interleaved one by one or, Pairs, two by two.
template <bool Pairs, bool High>
FASTBN_INLINE vfloat interleave_in_halves(vfloat a, vfloat b) {
  if constexpr (Pairs) {
    return High ? __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
                : __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
  } else {
    return High ? __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
                : __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
  }
}
// The lower (High: upper) half of a, then that of b.
template <bool High>
FASTBN_INLINE vfloat join_halves(vfloat a, vfloat b) {
  return High ? __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
              : __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
}

// In each half, row and lane change places.
FASTBN_INLINE void transpose_halves(vfloat& a, vfloat& b, vfloat& c, vfloat& d) {
  const vfloat ab = interleave_in_halves<false, false>(a, b), ab_high = interleave_in_halves<false, true>(a, b);
  const vfloat cd = interleave_in_halves<false, false>(c, d), cd_high = interleave_in_halves<false, true>(c, d);
  a = interleave_in_halves<true, false>(ab, cd);
  b = interleave_in_halves<true, true>(ab, cd);
  c = interleave_in_halves<true, false>(ab_high, cd_high);
  d = interleave_in_halves<true, true>(ab_high, cd_high);
}
#endif

// Columns of kLanes rows that are taken at once.
#if FASTBN_LANES == 8
inline constexpr int kColumnsAtOnce = 4;
#else
inline constexpr int kColumnsAtOnce = kLanes;
#endif

// Element q of the sequence of N vectors that results is element q / N of vector q % N; N is a power of two, at most
// kLanes. Each pass interleaves rows i and i + N / 2, which rotates the bits of (row, lane) by one.
template <int N>
FASTBN_INLINE void interleave_all(vfloat (&rows)[N]) {
#if FASTBN_LANES == 8
  if constexpr (N == 8) {
    for (int i = 0; i < 4; ++i) {
      const vfloat upper = join_halves<true>(rows[i], rows[i + 4]);
      rows[i] = join_halves<false>(rows[i], rows[i + 4]);
      rows[i + 4] = upper;
    }
    transpose_halves(rows[0], rows[1], rows[2], rows[3]);
    transpose_halves(rows[4], rows[5], rows[6], rows[7]);
    return;
  }
#endif
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

// from + floats, computed where it is used: with a register for each of so many rows the compiler would run out of
// them.
FASTBN_INLINE const float* apart(const float* from, int64_t floats) {
  from += floats;
  asm("" : "+r"(from));
  return from;
}

// columns[q][l] = from[l * row + q].
FASTBN_INLINE void load_columns(const float* from, int64_t row, vfloat (&columns)[kColumnsAtOnce]) {
#if FASTBN_LANES == 8
  const float* upper = apart(from, 4 * row);
  for (int q = 0; q < 4; ++q) {
    const __m256 lower = _mm256_castps128_ps256(_mm_loadu_ps(from + q * row));
    columns[q] = (vfloat)_mm256_insertf128_ps(lower, _mm_loadu_ps(upper + q * row), 1);
  }
  transpose_halves(columns[0], columns[1], columns[2], columns[3]);
#else
  for (int l = 0; l < kLanes; ++l) columns[l] = load(from + l * row);
  transpose(columns);
#endif
}
// The same of the first `rows` rows and `depth` columns; the other lanes and columns are anything.
FASTBN_INLINE void load_columns_partial(const float* from, int64_t row, int64_t rows, int64_t depth,
                                        vfloat (&columns)[kColumnsAtOnce]) {
  const auto at = [&](int64_t l) { return from + (l < rows ? l : rows - 1) * row; };
#if FASTBN_LANES == 8
  const __m128i mask = _mm256_castsi256_si128((__m256i)first_lanes(depth));
  for (int q = 0; q < 4; ++q) {
    const __m256 lower = _mm256_castps128_ps256(_mm_maskload_ps(at(q), mask));
    columns[q] = (vfloat)_mm256_insertf128_ps(lower, _mm_maskload_ps(at(q + 4), mask), 1);
  }
  transpose_halves(columns[0], columns[1], columns[2], columns[3]);
#else
  for (int l = 0; l < kLanes; ++l) columns[l] = load_partial(at(l), depth);
  transpose(columns);
#endif
}

// to[l * row + q] = columns[q][l]; the columns are shuffled on the way.
FASTBN_INLINE void store_columns(float* to, int64_t row, vfloat (&columns)[kColumnsAtOnce]) {
#if FASTBN_LANES == 8
  transpose_halves(columns[0], columns[1], columns[2], columns[3]);
  for (int l = 0; l < 4; ++l) {
    const __m256 both = (__m256)columns[l];
    _mm_storeu_ps(to + l * row, _mm256_castps256_ps128(both));
    _mm_storeu_ps(to + (l + 4) * row, _mm256_extractf128_ps(both, 1));
  }
#else
  transpose(columns);
  for (int l = 0; l < kLanes; ++l) store(to + l * row, columns[l]);
#endif
}
// The first `rows` rows and `depth` columns of them; other memory is not touched.
FASTBN_INLINE void store_columns_partial(float* to, int64_t row, int64_t rows, int64_t depth,
                                         vfloat (&columns)[kColumnsAtOnce]) {
#if FASTBN_LANES == 8
  transpose_halves(columns[0], columns[1], columns[2], columns[3]);
  for (int64_t l = 0; l < rows; ++l) {
    const vfloat both = columns[l % 4];
    store_partial(to + l * row, l < 4 ? both : join_halves<true>(both, both), depth);
  }
#else
  transpose(columns);
  for (int64_t l = 0; l < rows; ++l) store_partial(to + l * row, columns[l], depth);
#endif
}

// across[q][l] = from[l * row + q], of `rows` rows, at most kLanes, and `columns` columns; the lanes of other rows are
// anything. There is room for the last kColumnsAtOnce columns to be whole.
FASTBN_INLINE void read_across(const float* from, int64_t row, int64_t rows, int64_t columns, vfloat* across) {
  for (int64_t q = 0; q < columns; q += kColumnsAtOnce) {
    vfloat next[kColumnsAtOnce];
    int64_t at = q;
    if (rows == kLanes && columns >= kColumnsAtOnce) {
      if (q + kColumnsAtOnce > columns) at = columns - kColumnsAtOnce;  // some of them again
      load_columns(from + at, row, next);
    } else {
      const int64_t depth = columns - q < kColumnsAtOnce ? columns - q : kColumnsAtOnce;
      load_columns_partial(from + q, row, rows, depth, next);
    }
    for (int i = 0; i < kColumnsAtOnce; ++i) across[at + i] = next[i];
  }
}
// The inverse of read_across; memory of other rows is not touched.
FASTBN_INLINE void write_across(const vfloat* across, float* to, int64_t row, int64_t rows, int64_t columns) {
  for (int64_t q = 0; q < columns; q += kColumnsAtOnce) {
    const bool whole = rows == kLanes && columns >= kColumnsAtOnce;
    const int64_t at = whole && q + kColumnsAtOnce > columns ? columns - kColumnsAtOnce : q;
    vfloat next[kColumnsAtOnce];
    for (int i = 0; i < kColumnsAtOnce; ++i) next[i] = across[at + i];
    if (whole) {
      store_columns(to + at, row, next);
    } else {
      store_columns_partial(to + q, row, rows, columns - q < kColumnsAtOnce ? columns - q : kColumnsAtOnce, next);
    }
  }
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
