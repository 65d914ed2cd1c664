// exp, log, sigmoid, tanh, the fused activations and horizontal sums on vectors; see simd.hpp for the rules.
//
// Polynomials are weighted least-maximum fits of the relative error. Their error, and that of the argument
// reduction, lies well below half a unit in the last place; what is left is the rounding of the last steps:
// at most 2 ulp for normal arguments and results.
#pragma once

#include "simd.hpp"

namespace fastbn {
namespace FASTBN_ISA {

FASTBN_INLINE vfloat from_bits(vint v) { return (vfloat)v; }
FASTBN_INLINE vint bits(vfloat v) { return (vint)v; }
FASTBN_INLINE vfloat absolute(vfloat v) { return from_bits(bits(v) & broadcast_int(0x7fffffff)); }

// e^x = (1 + t) power, where power = 2^n with whole n and t in [-0.3, 0.42]; x in [-87.5, 88] or NaN.
struct Reduced {
  vfloat t, power;
};
FASTBN_INLINE Reduced exp_reduced(vfloat x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: a sum with it is whole, and its lowest bits are the number's
  const vfloat shifted = fma(x, broadcast(1.44269504f), broadcast(kMagic)), n = shifted - kMagic;
  // x - n ln 2 with ln 2 in two parts; the first has 9 significant bits, so that its product with n is exact.
  const vfloat r = fma(n, broadcast(2.12194440e-4f), fma(n, broadcast(-0.693359375f), x));
  vfloat q = broadcast(0x1.6a2318p-10f);
  q = fma(q, r, broadcast(0x1.123a8ep-7f));
  q = fma(q, r, broadcast(0x1.5558f6p-5f));
  q = fma(q, r, broadcast(0x1.555490p-3f));
  q = fma(q, r, broadcast(0x1.fffffcp-2f));
  return {fma(r * r, q, r), (vfloat)(((vuint)shifted << 23) + (127u << 23))};
}

// e^x for x <= 0 or NaN; 0 where that is subnormal.
FASTBN_INLINE vfloat exp_of_negative(vfloat x) {
  constexpr float kLeast = -87.33654f;
  const Reduced e = exp_reduced(at_least(x, kLeast));
  return x < broadcast(kLeast) ? vfloat{} : (e.t + 1.0f) * e.power;
}

FASTBN_INLINE vfloat log(vfloat x) {
  const vint subnormal = x < broadcast(0x1p-126f);
  const vfloat scaled = subnormal ? x * 0x1p24f : x;
  // scaled = 2^e m with m in [sqrt(1/2), sqrt(2))
  const vint shifted = bits(scaled) - 0x3f3504f3;
  const vfloat e = __builtin_convertvector(shifted >> 23, vfloat) - (subnormal ? broadcast(24.0f) : vfloat{});
  const vfloat m = from_bits((shifted & 0x007fffff) + 0x3f3504f3);
  const vfloat f = m - 1.0f;
  vfloat r = broadcast(0x1.14631ep-4f);
  r = fma(r, f, broadcast(-0x1.de4facp-4f));
  r = fma(r, f, broadcast(0x1.e6f608p-4f));
  r = fma(r, f, broadcast(-0x1.fc1f6ap-4f));
  r = fma(r, f, broadcast(0x1.2336e2p-3f));
  r = fma(r, f, broadcast(-0x1.555c5ap-3f));
  r = fma(r, f, broadcast(0x1.99a4bcp-3f));
  r = fma(r, f, broadcast(-0x1.000006p-2f));
  r = fma(r, f, broadcast(0x1.555548p-2f));
  const vfloat square = f * f;
  // e ln 2 + f - f^2 / 2 + f^3 r, small parts first
  vfloat y = fma(e, broadcast(-2.12194440e-4f), square * f * r);
  y = fma(square, broadcast(-0.5f), y) + f;
  y = fma(e, broadcast(0.693359375f), y);
  const vfloat infinity = broadcast(__builtin_inff()), nan = broadcast(__builtin_nanf(""));
  y = x == infinity ? infinity : y;
  y = x == vfloat{} ? -infinity : y;
  return (x >= vfloat{}) ? y : nan;
}

// 1 / (1 + e^-x) with e^-x = 2^n (1 + t). The sum is 1 + 2^n, exact for |n| < 24, and 2^n t. What its two roundings
// lost is known, and with FMA the quotient's, too; both are given back to first order.
FASTBN_INLINE vfloat sigmoid(vfloat x) {
  // Beyond these the result is subnormal, which tasks flush where a processor can, or 1; NaN stays.
  const Reduced e = exp_reduced(-at_most(at_least(x, -87.5f), 87.0f));
  const vfloat whole = e.power + 1.0f, sum = fma(e.power, e.t, whole);
  const vfloat rest = fma(e.power, e.t, whole - sum) + (1.0f - (whole - e.power));
  const vfloat y = 1.0f / sum;
  vfloat correction = -rest * y;
#if FASTBN_HAS_FMA
  correction += fma(-sum, y, broadcast(1.0f));
#endif
  return fma(y, correction, y);
}

FASTBN_INLINE vfloat tanh(vfloat x) {
  const vfloat a = absolute(x), u = x * x;
  vfloat p = broadcast(-0x1.7515f0p-8f);
  p = fma(p, u, broadcast(0x1.51fab8p-6f));
  p = fma(p, u, broadcast(-0x1.b835eap-5f));
  p = fma(p, u, broadcast(0x1.1106f8p-3f));
  p = fma(p, u, broadcast(-0x1.555532p-2f));
  const vfloat small = fma(a * u, p, a);
  const Reduced e = exp_reduced(at_most(a + a, 87.0f));  // 1 beyond
  const vfloat large = 1.0f - 2.0f / ((e.t + 1.0f) * e.power + 1.0f);
  const vint sign = bits(x) & broadcast_int(INT32_MIN);
  return from_bits(bits(a < broadcast(0.625f) ? small : large) | sign);
}

// Activations by number, as fbn_activation has them. kRelu and the slope keep NaN.
enum { kLinear = 0, kRelu = 1, kLeakyRelu = 2, kSigmoid = 3, kTanh = 4 };

template <int Activation>
FASTBN_INLINE vfloat activate(vfloat x, [[maybe_unused]] vfloat alpha) {
  if constexpr (Activation == kRelu) return positive_part(x);
  if constexpr (Activation == kLeakyRelu) return x > vfloat{} ? x : x * alpha;
  if constexpr (Activation == kSigmoid) return sigmoid(x);
  if constexpr (Activation == kTanh) return tanh(x);
  return x;
}
// dy * act'(x) from y = act(x); at 0 the slope is that of the negative side.
template <int Activation>
FASTBN_INLINE vfloat activate_gradient(vfloat dy, [[maybe_unused]] vfloat y, [[maybe_unused]] vfloat alpha) {
  if constexpr (Activation == kRelu) return y > vfloat{} ? dy : vfloat{};
  if constexpr (Activation == kLeakyRelu) return y > vfloat{} ? dy : dy * alpha;
  if constexpr (Activation == kSigmoid) return dy * y * (1.0f - y);
  // 1 - y^2; where a product is rounded by itself, that of two numbers near 1 would cost the digits of the difference.
  if constexpr (Activation == kTanh)
    return dy * (FASTBN_HAS_FMA ? fma(-y, y, broadcast(1.0f)) : (1.0f - y) * (1.0f + y));
  return dy;
}

// A compile-time number as an argument, to choose a template by a run-time activation:
//   with_activation(activation, alpha, [&](auto a) { body<a.value>(...); });
template <int Value>
struct Constant {
  static constexpr int value = Value;
  constexpr operator int64_t() const { return Value; }
};
template <class Body>
FASTBN_INLINE void with_activation(int32_t activation, float alpha, Body body) {
  if (activation == kLeakyRelu && alpha == 0.0f) activation = kRelu;  // 0 * -infinity would be NaN
  switch (activation) {
    case kRelu:
      return body(Constant<kRelu>{});
    case kLeakyRelu:
      return body(Constant<kLeakyRelu>{});
    case kSigmoid:
      return body(Constant<kSigmoid>{});
    case kTanh:
      return body(Constant<kTanh>{});
    default:
      return body(Constant<kLinear>{});
  }
}

#if FASTBN_LANES == 16
#define FASTBN_ROTATE8(v) __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define FASTBN_ROTATE4(v) __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
#define FASTBN_ROTATE2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
#define FASTBN_ROTATE1(v) __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)
#elif FASTBN_LANES == 8
#define FASTBN_ROTATE4(v) __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3)
#define FASTBN_ROTATE2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5)
#define FASTBN_ROTATE1(v) __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6)
#else
#define FASTBN_ROTATE2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1)
#define FASTBN_ROTATE1(v) __builtin_shufflevector(v, v, 1, 0, 3, 2)
#endif

// Folds all lanes with combine(a, b), halves first; the result is in every lane.
template <class Vector, class Combine>
FASTBN_INLINE Vector fold(Vector v, Combine combine) {
#if FASTBN_LANES >= 16
  v = combine(v, FASTBN_ROTATE8(v));
#endif
#if FASTBN_LANES >= 8
  v = combine(v, FASTBN_ROTATE4(v));
#endif
  v = combine(v, FASTBN_ROTATE2(v));
  return combine(v, FASTBN_ROTATE1(v));
}
FASTBN_INLINE vfloat fold_sum(vfloat v) {
  return fold(v, [](vfloat a, vfloat b) { return a + b; });
}
// The greatest lane; NaN lanes lose.
FASTBN_INLINE vfloat fold_max(vfloat v) {
  v = v == v ? v : broadcast(-__builtin_inff());
  return fold(v, [](vfloat a, vfloat b) { return a > b ? a : b; });
}
FASTBN_INLINE vint fold_min(vint v) {
  return fold(v, [](vint a, vint b) { return a < b ? a : b; });
}

// load_partial with `rest` in the lanes past n.
FASTBN_INLINE vfloat load_partial_or(const float* p, int64_t n, float rest) {
  return first_lanes(n) ? load_partial(p, n) : broadcast(rest);
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
