#include "normalization.hpp"

#include "lengths.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

constexpr int kHalf = kLanes / 2;  // doubles to a vector
// Vectors of channels whose sums stay in registers together, and the rows taken at a time where there are more
// channels than that, so that factors and sums are loaded less often than data.
constexpr int kSumVectors = kLanes == 16 ? 4 : 2;
constexpr int kBackwardSumVectors = kLanes == 16 ? 2 : 1;
constexpr int64_t kSumRows = 16;
constexpr int64_t kBackwardSumRows = 8;
constexpr int64_t kApplyRows = 4;

// Taking a few rows at a time reads memory out of order, which hardware prefetchers follow badly: each element asks
// for the one that lies as many rows ahead, and no less than a page's worth of floats. Long rows are followed well, and
// as many of them ahead would be more than the first cache holds: there it asks for the next columns. Prefetching never
// faults.
FASTBN_INLINE void prefetch(const float* p) { __builtin_prefetch(p); }
FASTBN_INLINE int64_t prefetch_distance(int64_t rows, int64_t stride) {
  constexpr int64_t kLong = 512, kColumns = 64, kPage = 1024;
  if (stride >= kLong) return kColumns;
  return rows * stride < kPage ? kPage : rows * stride;
}

// A vector of floats as two of doubles.
struct Doubles {
  vdouble low, high;
};
FASTBN_INLINE Doubles widen(vfloat v) { return {to_double(low_half(v)), to_double(high_half(v))}; }
FASTBN_INLINE Doubles load_wide(const float* p, Constant<kLanes>) { return {load_double(p), load_double(p + kHalf)}; }
FASTBN_INLINE Doubles load_wide(const float* p, int64_t n) { return widen(load_partial(p, n)); }
FASTBN_INLINE Doubles load_sums(const double* p, Constant<kLanes>) {
  return {load_vdouble(p), load_vdouble(p + kHalf)};
}
FASTBN_INLINE Doubles load_sums(const double* p, int64_t n) {
  if (n <= kHalf) return {load_vdouble_partial(p, n), vdouble{}};
  return {load_vdouble(p), load_vdouble_partial(p + kHalf, n - kHalf)};
}
FASTBN_INLINE void store_sums(double* p, Doubles s, Constant<kLanes>) {
  store_vdouble(p, s.low);
  store_vdouble(p + kHalf, s.high);
}
FASTBN_INLINE void store_sums(double* p, Doubles s, int64_t n) {
  double all[kLanes];
  store_sums(all, s, Constant<kLanes>{});
  for (int64_t i = 0; i < n; ++i) p[i] = all[i];
}

// body(first_row, rows, channel, vectors, n): groups of `Vectors` vectors of channels, then single ones, then a part.
template <int Vectors, int64_t Rows, class Body>
FASTBN_INLINE void for_each_group(int64_t rows, int64_t channels, Body body) {
  const int64_t step = channels <= Vectors * kLanes ? rows : Rows;
  for (int64_t r = 0; r < rows; r += step) {
    const int64_t count = rows - r < step ? rows - r : step;
    int64_t c = 0;
    for (; c + Vectors * kLanes <= channels; c += Vectors * kLanes)
      body(r, count, c, Constant<Vectors>{}, Constant<kLanes>{});
    if constexpr (Vectors > 1) {
      for (; c + kLanes <= channels; c += kLanes) body(r, count, c, Constant<1>{}, Constant<kLanes>{});
    }
    if (c < channels) body(r, count, c, Constant<1>{}, channels - c);
  }
}

void sums(int64_t rows, int64_t channels, int64_t stride, const float* x, const float* shift, double* sum,
          double* square) {
  const int64_t ahead = prefetch_distance(channels <= kSumVectors * kLanes ? 1 : kSumRows, stride);
  for_each_group<kSumVectors, kSumRows>(
      rows, channels, [&](int64_t first, int64_t count, int64_t c, auto vectors, auto n) {
        constexpr int kVectors = vectors.value;
        Doubles s[kVectors], q[kVectors], base[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const int64_t at = c + v * kLanes;
          const vfloat value = load_n(shift + at, n);
          base[v] = widen(value - value == vfloat{} ? value : vfloat{});
          s[v] = load_sums(sum + at, n);
          q[v] = load_sums(square + at, n);
        }
        const float* p = x + first * stride + c;
        for (int64_t r = 0; r < count; ++r, p += stride) {
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            prefetch(p + v * kLanes + ahead);
            const Doubles value = load_wide(p + v * kLanes, n);
            const vdouble low = value.low - base[v].low, high = value.high - base[v].high;
            s[v].low += low;
            s[v].high += high;
            q[v].low = fma(low, low, q[v].low);
            q[v].high = fma(high, high, q[v].high);
          }
        }
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          store_sums(sum + c + v * kLanes, s[v], n);
          store_sums(square + c + v * kLanes, q[v], n);
        }
      });
}

// What is normalised is computed in float64 and rounded once: differences of nearly equal numbers, factors beyond
// float32's range and the mean of dy cost no digits.
FASTBN_INLINE vfloat narrow(Doubles v) { return join(to_float(v.low), to_float(v.high)); }
FASTBN_INLINE Doubles operator+(Doubles a, Doubles b) { return {a.low + b.low, a.high + b.high}; }
FASTBN_INLINE Doubles operator-(Doubles a, Doubles b) { return {a.low - b.low, a.high - b.high}; }
FASTBN_INLINE Doubles operator*(Doubles a, Doubles b) { return {a.low * b.low, a.high * b.high}; }
FASTBN_INLINE Doubles multiply_add(Doubles a, Doubles b, Doubles c) {
  return {fma(a.low, b.low, c.low), fma(a.high, b.high, c.high)};
}

// c - a b
FASTBN_INLINE Doubles negative_multiply_add(Doubles a, Doubles b, Doubles c) {
  return {fma(-a.low, b.low, c.low), fma(-a.high, b.high, c.high)};
}

// Factors of one vector of channels.
struct Factors {
  Doubles mean, scale, shift;
};
template <class N>
FASTBN_INLINE Factors load_factors(const NormalizationFactors& k, int64_t c, N n) {
  return {load_sums(k.mean + c, n), load_sums(k.scale + c, n), load_sums(k.shift + c, n)};
}
template <class N>
FASTBN_INLINE Doubles centred(const float* x, const Factors& f, N n) {
  return load_wide(x, n) - f.mean;
}

// Whether y is an argument of a backward pass or computed again from x.
constexpr bool kGiven = true, kRecomputed = false;

// dy through the activation.
template <int Activation, bool Y, class N>
FASTBN_INLINE Doubles through_activation(const float* dy, Doubles xc, const Factors& f, const float* y, vfloat alpha,
                                         N n) {
  if constexpr (Activation == kLinear) return load_wide(dy, n);
  if constexpr (Activation == kRelu) {
    if constexpr (Y == kRecomputed) {
      const Doubles value = multiply_add(xc, f.scale, f.shift), d = load_wide(dy, n);
      return {where_positive(value.low, d.low), where_positive(value.high, d.high)};
    }
  }
  const vfloat value =
      Y == kGiven ? load_n(y, n) : activate<Activation>(narrow(multiply_add(xc, f.scale, f.shift)), alpha);
  return widen(activate_gradient<Activation>(load_n(dy, n), value, alpha));
}

template <int Activation, bool Y>
FASTBN_INLINE void backward_sums_pass(int64_t rows, int64_t channels, int64_t stride, const float* dy, const float* x,
                                      const float* y, const NormalizationFactors& k, float alpha, double* sum_dy,
                                      double* sum_dy_xc) {
  const vfloat slope = broadcast(alpha);
  const int64_t ahead = prefetch_distance(channels <= kBackwardSumVectors * kLanes ? 1 : kBackwardSumRows, stride);
  for_each_group<kBackwardSumVectors, kBackwardSumRows>(
      rows, channels, [&](int64_t first, int64_t count, int64_t c, auto vectors, auto n) {
        constexpr int kVectors = vectors.value;
        Doubles s[kVectors], q[kVectors];
        Factors f[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const int64_t at = c + v * kLanes;
          f[v] = load_factors(k, at, n);
          s[v] = load_sums(sum_dy + at, n);
          q[v] = load_sums(sum_dy_xc + at, n);
        }
        int64_t i = first * stride + c;
        for (int64_t r = 0; r < count; ++r, i += stride) {
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            const int64_t at = i + v * kLanes;
            prefetch(x + at + ahead);
            prefetch(dy + at + ahead);
            if constexpr (Y == kGiven) prefetch(y + at + ahead);
            const Doubles xc = centred(x + at, f[v], n);
            const Doubles d = through_activation<Activation, Y>(dy + at, xc, f[v], Y ? y + at : y, slope, n);
            s[v] = s[v] + d;
            q[v] = multiply_add(d, xc, q[v]);
          }
        }
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          store_sums(sum_dy + c + v * kLanes, s[v], n);
          store_sums(sum_dy_xc + c + v * kLanes, q[v], n);
        }
      });
}

void backward_sums(int64_t rows, int64_t channels, int64_t stride, const float* dy, const float* x, const float* y,
                   NormalizationFactors k, int32_t activation, float alpha, double* sum_dy, double* sum_dy_xc) {
  with_activation(activation, alpha, [&](auto a) {
    if (a.value != kLinear && y) {
      backward_sums_pass<a.value, kGiven>(rows, channels, stride, dy, x, y, k, alpha, sum_dy, sum_dy_xc);
    } else {
      backward_sums_pass<a.value, kRecomputed>(rows, channels, stride, dy, x, y, k, alpha, sum_dy, sum_dy_xc);
    }
  });
}

// The elementwise passes: body(channel, n, each) loads the factors of a vector of channels and calls each(element),
// which calls element(offset) for the rows. Factors are captured by reference: g++ copies closures that hold them in
// pieces of half a vector, by way of memory.
template <class Body>
FASTBN_INLINE void for_each_element(int64_t rows, int64_t channels, int64_t stride, Body body) {
  for (int64_t first = 0; first < rows; first += kApplyRows) {
    const int64_t count = rows - first < kApplyRows ? rows - first : kApplyRows;
    const auto column = [&](int64_t c, auto n) __attribute__((always_inline)) {
      body(
          c, n, [&](auto element) __attribute__((always_inline)) {
            for (int64_t r = 0, i = first * stride + c; r < count; ++r, i += stride) element(i);
          });
    };
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) column(c, Constant<kLanes>{});
    if (c < channels) column(c, channels - c);
  }
}

// Fewer channels than lanes, without gaps: kLanes rows make one row of kLanes * channels columns, with the factors
// repeated. The rows that are left are taken as they are.
struct RepeatedFactors {
  double values[5][kLanes * kLanes];
};
FASTBN_INLINE bool repeats(int64_t rows, int64_t channels, int64_t stride) {
  return channels < kLanes && stride == channels && rows >= 2 * kLanes;
}
FASTBN_INLINE NormalizationFactors repeat_factors(const NormalizationFactors& k, int64_t channels,
                                                  RepeatedFactors& out) {
  const double* from[5] = {k.mean, k.scale, k.shift, k.dy_mean, k.xc_factor};
  for (int a = 0; a < 5; ++a) {
    if (!from[a]) continue;
    for (int64_t i = 0; i < channels; ++i) {
      for (int64_t r = 0; r < kLanes; ++r) out.values[a][r * channels + i] = from[a][i];
    }
  }
  return {out.values[0], out.values[1], out.values[2], k.dy_mean ? out.values[3] : nullptr,
          k.xc_factor ? out.values[4] : nullptr};
}

template <int Activation, bool Residual, bool Streams>
FASTBN_INLINE void apply_pass(int64_t rows, int64_t channels, int64_t stride, const float* x,
                              const NormalizationFactors& k, const float* residual, float alpha, float* y) {
  const vfloat slope = broadcast(alpha);
  const int64_t ahead = prefetch_distance(kApplyRows, stride);
  for_each_element(
      rows, channels, stride, [&](int64_t c, auto n, auto each) __attribute__((always_inline)) {
        const Factors f = load_factors(k, c, n);
        each([&](int64_t i) __attribute__((always_inline)) {
          prefetch(x + i + ahead);
          if constexpr (Residual) prefetch(residual + i + ahead);
          Doubles value = multiply_add(centred(x + i, f, n), f.scale, f.shift);
          if constexpr (Residual) value = value + load_wide(residual + i, n);
          put<Streams>(y + i, activate<Activation>(narrow(value), slope), n);
        });
      });
}

void apply(int64_t rows, int64_t channels, int64_t stride, const float* x, NormalizationFactors k,
           const float* residual, int32_t activation, float alpha, float* y, bool large) {
  if (repeats(rows, channels, stride)) {
    RepeatedFactors repeated;
    k.dy_mean = k.xc_factor = nullptr;
    const NormalizationFactors wide = repeat_factors(k, channels, repeated);
    const int64_t width = channels * kLanes, whole = rows / kLanes, done = whole * width;
    apply(whole, width, width, x, wide, residual, activation, alpha, y, large);
    return apply(rows % kLanes, channels, stride, x + done, k, residual ? residual + done : residual, activation, alpha,
                 y + done, large);
  }
  with_activation(activation, alpha, [&](auto a) {
    with_streams<a.value <= kRelu>(large && may_stream(y, stride), [&](auto streams) {
      if (residual) {
        apply_pass<a.value, true, streams.value != 0>(rows, channels, stride, x, k, residual, alpha, y);
      } else {
        apply_pass<a.value, false, streams.value != 0>(rows, channels, stride, x, k, residual, alpha, y);
      }
    });
  });
}

template <int Activation, bool Y, bool Frozen, bool Dx, bool Dresidual, bool Streams>
FASTBN_INLINE void backward_apply_pass(int64_t rows, int64_t channels, int64_t stride, const float* dy, const float* x,
                                       const float* y, const NormalizationFactors& k, float alpha, float* dx,
                                       float* dresidual) {
  const vfloat slope_below = broadcast(alpha);
  const int64_t ahead = prefetch_distance(kApplyRows, stride);
  for_each_element(
      rows, channels, stride, [&](int64_t c, auto n, auto each) __attribute__((always_inline)) {
        const Factors f = load_factors(k, c, n);
        Doubles slope{}, dy_mean{};  // dx = (d - dy_mean) scale - xc slope
        if constexpr (!Frozen) {
          slope = f.scale * load_sums(k.xc_factor + c, n);
          dy_mean = load_sums(k.dy_mean + c, n);
        }
        each([&](int64_t i) __attribute__((always_inline)) {
          prefetch(x + i + ahead);
          prefetch(dy + i + ahead);
          if constexpr (Y == kGiven) prefetch(y + i + ahead);
          const Doubles xc = centred(x + i, f, n);
          const Doubles d = through_activation<Activation, Y>(dy + i, xc, f, Y ? y + i : y, slope_below, n);
          if constexpr (Dresidual) put<Streams>(dresidual + i, narrow(d), n);
          if constexpr (Dx && Frozen) put<Streams>(dx + i, narrow(d * f.scale), n);
          if constexpr (Dx && !Frozen)
            put<Streams>(dx + i, narrow(negative_multiply_add(xc, slope, (d - dy_mean) * f.scale)), n);
        });
      });
}

void backward_apply(int64_t rows, int64_t channels, int64_t stride, const float* dy, const float* x, const float* y,
                    NormalizationFactors k, int32_t activation, float alpha, float* dx, float* dresidual, bool large) {
  if (repeats(rows, channels, stride)) {
    RepeatedFactors repeated;
    const NormalizationFactors wide = repeat_factors(k, channels, repeated);
    const int64_t width = channels * kLanes, whole = rows / kLanes, done = whole * width;
    backward_apply(whole, width, width, dy, x, y, wide, activation, alpha, dx, dresidual, large);
    return backward_apply(rows % kLanes, channels, stride, dy + done, x + done, y ? y + done : y, k, activation, alpha,
                          dx ? dx + done : dx, dresidual ? dresidual + done : dresidual, large);
  }
  with_activation(activation, alpha, [&](auto a) {
    const auto with_outputs = [&](auto given, auto frozen) __attribute__((always_inline)) {
      constexpr bool kY = given.value != 0, kFrozen = frozen.value != 0;
      const auto pass = [&](auto to_x, auto to_residual) __attribute__((always_inline)) {
        with_streams<a.value <= kRelu>(
            large && may_stream(dx, stride) && may_stream(dresidual, stride), [&](auto streams) {
              backward_apply_pass<a.value, kY, kFrozen, to_x.value != 0, to_residual.value != 0, streams.value != 0>(
                  rows, channels, stride, dy, x, y, k, alpha, dx, dresidual);
            });
      };
      if (!dresidual) return pass(Constant<1>{}, Constant<0>{});
      if (!dx) return pass(Constant<0>{}, Constant<1>{});
      pass(Constant<1>{}, Constant<1>{});
    };
    const auto with_frozen = [&](auto given) __attribute__((always_inline)) {
      if (k.xc_factor) return with_outputs(given, Constant<0>{});
      with_outputs(given, Constant<1>{});
    };
    if (a.value != kLinear && y) return with_frozen(Constant<1>{});
    with_frozen(Constant<0>{});
  });
}

}  // namespace

void fill_normalization(NormalizationKernels& kernels) { kernels = {sums, apply, backward_sums, backward_apply}; }

}  // namespace FASTBN_ISA
}  // namespace fastbn
