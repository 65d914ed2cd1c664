// One vector type per instruction set. Included by kernel bodies only, which are compiled once per set with
// -DFASTBN_ISA=<name>; everything here lives in namespace fastbn::FASTBN_ISA, so that no inline function of
// one set can be linked into another (one-definition rule). No STL in here or in kernel bodies.
//
// Arithmetic, comparison (all-ones masks) and `mask ? a : b` are the compilers' vector extensions; what they
// lack, or what must be one instruction (fused multiply-add), is below. Contraction is off: a * b + c is two
// roundings, fma(a, b, c) one where the set has it (FASTBN_HAS_FMA) and two where it has not.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define FASTBN_LANES 16
#define FASTBN_HAS_FMA 1
#elif defined(__AVX2__)
#include <immintrin.h>
#define FASTBN_LANES 8
#define FASTBN_HAS_FMA 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#define FASTBN_LANES 4
#define FASTBN_HAS_FMA 1
#elif defined(__SSE2__)
#include <emmintrin.h>
#define FASTBN_LANES 4
#define FASTBN_HAS_FMA 0
#else
#define FASTBN_LANES 4
#define FASTBN_HAS_FMA 0
#endif

#define FASTBN_INLINE static inline __attribute__((always_inline))

// The loops over a tile are unrolled before g++ decides what lives in registers; left to itself it does so later and
// keeps the accumulators in memory outside the innermost loop.
#if defined(__clang__)
#define FASTBN_UNROLL _Pragma("unroll")
#else
#define FASTBN_UNROLL _Pragma("GCC unroll 16")
#endif

namespace fastbn {
namespace FASTBN_ISA {

inline constexpr int kLanes = FASTBN_LANES;

typedef float vfloat __attribute__((vector_size(FASTBN_LANES * 4)));
typedef int32_t vint __attribute__((vector_size(FASTBN_LANES * 4)));
typedef uint32_t vuint __attribute__((vector_size(FASTBN_LANES * 4)));
typedef double vdouble __attribute__((vector_size(FASTBN_LANES * 4)));  // half as many lanes
typedef float vhalf __attribute__((vector_size(FASTBN_LANES * 2)));     // as many lanes as a vdouble
typedef uint8_t vbyte __attribute__((vector_size(FASTBN_LANES)));

FASTBN_INLINE vfloat broadcast(float s) { return s - vfloat{}; }
FASTBN_INLINE vint broadcast_int(int32_t s) { return s - vint{}; }

FASTBN_INLINE vfloat load(const float* p) {
  vfloat v;
  memcpy(&v, p, sizeof v);
  return v;
}
FASTBN_INLINE void store(float* p, vfloat v) { memcpy(p, &v, sizeof v); }
// Stores past the caches, which are kept for what is read again: four floats at a time, so that p may be any multiple
// of 16 bytes. Whoever has streamed calls streamed() before another thread may read.
#if defined(__SSE2__)
FASTBN_INLINE bool may_stream(const float* p, int64_t stride) { return (uintptr_t)p % 16 == 0 && stride % 4 == 0; }
FASTBN_INLINE void stream(float* p, vfloat v) {
  _mm_stream_ps(p, (__m128)__builtin_shufflevector(v, v, 0, 1, 2, 3));
#if FASTBN_LANES >= 8
  _mm_stream_ps(p + 4, (__m128)__builtin_shufflevector(v, v, 4, 5, 6, 7));
#endif
#if FASTBN_LANES >= 16
  _mm_stream_ps(p + 8, (__m128)__builtin_shufflevector(v, v, 8, 9, 10, 11));
  _mm_stream_ps(p + 12, (__m128)__builtin_shufflevector(v, v, 12, 13, 14, 15));
#endif
}
FASTBN_INLINE void streamed() { _mm_sfence(); }
#else
FASTBN_INLINE bool may_stream(const float*, int64_t) { return false; }
FASTBN_INLINE void stream(float* p, vfloat v) { store(p, v); }
FASTBN_INLINE void streamed() {}
#endif

FASTBN_INLINE vint load_int(const int32_t* p) {
  vint v;
  memcpy(&v, p, sizeof v);
  return v;
}

// 0, 1, 2, ...
FASTBN_INLINE vint lane_numbers() {
  vint v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}
// All ones in the first n lanes.
FASTBN_INLINE vint first_lanes(int64_t n) { return lane_numbers() < broadcast_int((int32_t)n); }

// The first n lanes, 0 <= n <= kLanes; the others are zero, and memory past n is not touched.
FASTBN_INLINE vfloat load_partial(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
#elif defined(__AVX2__)
  return (vfloat)_mm256_maskload_ps(p, (__m256i)first_lanes(n));
#else
  vfloat v{};
  for (int64_t i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}
// v, in a register from here on: the compiler loads what memory holds again for each use.
FASTBN_INLINE vfloat held(vfloat v) {
#if defined(__aarch64__)
  asm("" : "+w"(v));
#else
  asm("" : "+v"(v));
#endif
  return v;
}
// The lanes where `live` is all ones; the others are zero whatever memory holds there.
FASTBN_INLINE vfloat load_live(const float* p, vint live) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_maskz_loadu_ps(_mm512_test_epi32_mask((__m512i)live, (__m512i)live), p);
#else
  return (vfloat)((vint)load(p) & live);
#endif
}
FASTBN_INLINE void store_partial(float* p, vfloat v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
#elif defined(__AVX2__)
  // In halves, quarters and lanes: some processors take forty instructions for a masked store.
  if (n >= kLanes) return store(p, v);
  __m128 part = (__m128)__builtin_shufflevector(v, v, 0, 1, 2, 3);
  if ((n & 4) != 0) {
    _mm_storeu_ps(p, part);
    part = (__m128)__builtin_shufflevector(v, v, 4, 5, 6, 7);
    p += 4;
  }
  if ((n & 2) != 0) {
    _mm_storel_pi((__m64*)p, part);
    part = _mm_movehl_ps(part, part);
    p += 2;
  }
  if ((n & 1) != 0) _mm_store_ss(p, part);
#else
  for (int64_t i = 0; i < n; ++i) p[i] = v[i];
#endif
}

// a * b + c
FASTBN_INLINE vfloat fma(vfloat a, vfloat b, vfloat c) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (vfloat)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (vfloat)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
FASTBN_INLINE vdouble fma(vdouble a, vdouble b, vdouble c) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__)
  return (vdouble)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
  return (vdouble)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

// The greater, and the smaller, of v and a limit; NaN stays NaN: the instructions return their second operand where one
// is NaN.
FASTBN_INLINE vfloat at_least(vfloat v, float limit) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_maskz_max_ps(0xffff, (__m512)broadcast(limit), (__m512)v);
#elif defined(__AVX2__)
  return (vfloat)_mm256_max_ps((__m256)broadcast(limit), (__m256)v);
#elif defined(__SSE2__)
  return (vfloat)_mm_max_ps((__m128)broadcast(limit), (__m128)v);
#else
  return v < broadcast(limit) ? broadcast(limit) : v;
#endif
}
FASTBN_INLINE vfloat at_most(vfloat v, float limit) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_maskz_min_ps(0xffff, (__m512)broadcast(limit), (__m512)v);
#elif defined(__AVX2__)
  return (vfloat)_mm256_min_ps((__m256)broadcast(limit), (__m256)v);
#elif defined(__SSE2__)
  return (vfloat)_mm_min_ps((__m128)broadcast(limit), (__m128)v);
#else
  return v > broadcast(limit) ? broadcast(limit) : v;
#endif
}
FASTBN_INLINE vfloat positive_part(vfloat v) { return at_least(v, 0.0f); }

FASTBN_INLINE vfloat square_root(vfloat v) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_maskz_sqrt_ps(0xffff, (__m512)v);  // the unmasked form warns under g++ 12
#elif defined(__AVX2__)
  return (vfloat)_mm256_sqrt_ps((__m256)v);
#elif defined(__aarch64__)
  return (vfloat)vsqrtq_f32((float32x4_t)v);
#elif defined(__SSE2__)
  return (vfloat)_mm_sqrt_ps((__m128)v);
#else
  for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

// g++ 12 makes wide conversions by __builtin_convertvector from narrower ones, by way of memory: named instructions
// instead.
FASTBN_INLINE vdouble to_double(vhalf v) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_maskz_cvtps_pd(0xff, (__m256)v);
#elif defined(__AVX2__)
  return (vdouble)_mm256_cvtps_pd((__m128)v);
#elif defined(__SSE2__)
  return (vdouble)_mm_cvtps_pd((__m128)_mm_loadl_epi64((const __m128i*)&v));
#else
  return __builtin_convertvector(v, vdouble);
#endif
}
FASTBN_INLINE vhalf to_float(vdouble v) {
#if defined(__AVX512F__)
  return (vhalf)_mm512_maskz_cvtpd_ps(0xff, (__m512d)v);
#elif defined(__AVX2__)
  return (vhalf)_mm256_cvtpd_ps((__m256d)v);
#else
  return __builtin_convertvector(v, vhalf);
#endif
}
// A vector as two halves and back; in registers, not by way of memory.
#if FASTBN_LANES == 16
FASTBN_INLINE vhalf low_half(vfloat v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7); }
FASTBN_INLINE vhalf high_half(vfloat v) { return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15); }
FASTBN_INLINE vfloat join(vhalf low, vhalf high) {  // g++ 12 copies both halves before it shuffles them
  return (vfloat)_mm512_insertf32x8(_mm512_castps256_ps512((__m256)low), (__m256)high, 1);
}
#elif FASTBN_LANES == 8
FASTBN_INLINE vhalf low_half(vfloat v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3); }
FASTBN_INLINE vhalf high_half(vfloat v) { return __builtin_shufflevector(v, v, 4, 5, 6, 7); }
FASTBN_INLINE vfloat join(vhalf low, vhalf high) { return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7); }
#else
FASTBN_INLINE vhalf low_half(vfloat v) { return __builtin_shufflevector(v, v, 0, 1); }
FASTBN_INLINE vhalf high_half(vfloat v) { return __builtin_shufflevector(v, v, 2, 3); }
FASTBN_INLINE vfloat join(vhalf low, vhalf high) { return __builtin_shufflevector(low, high, 0, 1, 2, 3); }
#endif
// Half of the lanes of a vector as doubles, read from memory.
FASTBN_INLINE vdouble load_double(const float* p) {
  vhalf h;
  memcpy(&h, p, sizeof h);
  return to_double(h);
}
// kLanes 16-bit words as integers.
FASTBN_INLINE vint load_words(const uint16_t* p) {
#if defined(__AVX512F__)
  return (vint)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
  return (vint)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
#elif defined(__SSE2__)
  return (vint)_mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i*)p), _mm_setzero_si128());
#else
  uint16_t v __attribute__((vector_size(FASTBN_LANES * 2)));
  memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, vint);
#endif
}
// kLanes bytes as integers, and back (values 0 to 255).
FASTBN_INLINE vint load_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
  return (vint)_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
  return (vint)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
  vbyte v;
  memcpy(&v, p, sizeof v);
#if defined(__SSE2__)
  const __m128i zero = _mm_setzero_si128();
  uint32_t word;
  memcpy(&word, &v, sizeof word);
  return (vint)_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128((int)word), zero), zero);
#else
  return __builtin_convertvector(v, vint);
#endif
#endif
}
FASTBN_INLINE void store_bytes(uint8_t* p, vint v) {
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)p, _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)v));
#elif defined(__AVX2__)
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packus_epi16(words, words));
#elif defined(__SSE2__)
  const __m128i words = _mm_packs_epi32((__m128i)v, (__m128i)v);
  const int32_t word = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
  memcpy(p, &word, sizeof word);
#else
  const vbyte b = __builtin_convertvector(v, vbyte);
  memcpy(p, &b, sizeof b);
#endif
}
// The first n of them; the others are 0, and memory past n is not touched.
FASTBN_INLINE vint load_bytes_partial(const uint8_t* p, int64_t n) {
#if defined(__AVX512F__)
  const __mmask16 lanes = (__mmask16)((1u << n) - 1u);
  return (vint)_mm512_maskz_cvtepu8_epi32(lanes, _mm_maskz_loadu_epi8(lanes, p));
#else
  uint8_t all[FASTBN_LANES] = {};
  for (int64_t i = 0; i < n; ++i) all[i] = p[i];
  return load_bytes(all);
#endif
}
FASTBN_INLINE void store_bytes_partial(uint8_t* p, vint v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_cvtepi32_storeu_epi8(p, (__mmask16)((1u << n) - 1u), (__m512i)v);
#else
  uint8_t all[FASTBN_LANES];
  store_bytes(all, v);
  for (int64_t i = 0; i < n; ++i) p[i] = all[i];
#endif
}

FASTBN_INLINE vdouble load_vdouble(const double* p) {
  vdouble v;
  memcpy(&v, p, sizeof v);
  return v;
}
FASTBN_INLINE void store_vdouble(double* p, vdouble v) { memcpy(p, &v, sizeof v); }
// The first n lanes; the others are zero, and memory past n is not touched.
FASTBN_INLINE vdouble load_vdouble_partial(const double* p, int64_t n) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1u), p);
#else
  vdouble v{};
  for (int64_t i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}
FASTBN_INLINE vdouble square_root(vdouble v) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_maskz_sqrt_pd(0xff, (__m512d)v);
#elif defined(__AVX2__)
  return (vdouble)_mm256_sqrt_pd((__m256d)v);
#elif defined(__aarch64__)
  return (vdouble)vsqrtq_f64((float64x2_t)v);
#elif defined(__SSE2__)
  return (vdouble)_mm_sqrt_pd((__m128d)v);
#else
  for (int i = 0; i < kLanes / 2; ++i) v[i] = __builtin_sqrt(v[i]);
  return v;
#endif
}
FASTBN_INLINE vdouble finite_or_zero(vdouble v) { return v - v == vdouble{} ? v : vdouble{}; }
// v where `value` rounded to float is greater than 0, else 0.
FASTBN_INLINE vdouble where_positive(vdouble value, vdouble v) {
  typedef int64_t vlong __attribute__((vector_size(FASTBN_LANES * 4)));
  return (vdouble)((vlong)v & (value >= (vdouble{} + 0x1p-126)));
}

// Scalar fused multiply-add with the rounding of the vector one, for tails that must agree with it.
FASTBN_INLINE float fma_scalar(float a, float b, float c) {
#if FASTBN_HAS_FMA
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
