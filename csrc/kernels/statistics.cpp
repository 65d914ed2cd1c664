// What follows from the sums of batch_norm, a vector of channels at a time.
#include "statistics.hpp"

#include "simd.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

constexpr int kHalf = kLanes / 2;  // doubles to a vector

// body(c, n) for vectors of n channels, the last one a part.
template <class Body>
FASTBN_INLINE void for_channels(int64_t channels, Body body) {
  for (int64_t c = 0; c < channels; c += kHalf) body(c, channels - c < kHalf ? channels - c : kHalf);
}
FASTBN_INLINE vdouble load_channels(const double* p, int64_t n) {
  return n == kHalf ? load_vdouble(p) : load_vdouble_partial(p, n);
}
FASTBN_INLINE vdouble load_channels(const float* p, int64_t n) {
  if (n == kHalf) return load_double(p);
  vhalf h{};
  for (int64_t i = 0; i < n; ++i) h[i] = p[i];
  return to_double(h);
}
FASTBN_INLINE void store_channels(double* p, vdouble v, int64_t n) {
  if (n == kHalf) return store_vdouble(p, v);
  for (int64_t i = 0; i < n; ++i) p[i] = v[i];
}

void moments(int64_t channels, int64_t rows, const float* shift, const double* sum, const double* square, double* mean,
             double* m2) {
  const double count = (double)rows;
  for_channels(
      channels, [&](int64_t c, int64_t n) __attribute__((always_inline)) {
        const vdouble s = load_channels(sum + c, n), q = load_channels(square + c, n);
        const vdouble base = finite_or_zero(load_channels(shift + c, n)), spread = q - s * s / count;
        store_channels(mean + c, base + s / count, n);
        store_channels(m2 + c, spread < vdouble{} ? vdouble{} : spread, n);
      });
}

void scale(int64_t channels, const double* variance, double epsilon, const float* gamma, double* scale) {
  for_channels(
      channels, [&](int64_t c, int64_t n) __attribute__((always_inline)) {
        const vdouble rstd = 1.0 / square_root(load_channels(variance + c, n) + epsilon);
        store_channels(scale + c, gamma ? load_channels(gamma + c, n) * rstd : rstd, n);
      });
}

void backward(int64_t channels, int64_t rows, const double* variance, double epsilon, const double* sum_dy,
              const double* sum_dy_xc, double* dy_mean, double* xc_factor) {
  const double count = (double)rows;
  for_channels(
      channels, [&](int64_t c, int64_t n) __attribute__((always_inline)) {
        store_channels(dy_mean + c, load_channels(sum_dy + c, n) / count, n);
        const vdouble spread = count * (load_channels(variance + c, n) + epsilon);
        store_channels(xc_factor + c, load_channels(sum_dy_xc + c, n) / spread, n);
      });
}

void gamma_gradient(int64_t channels, const double* variance, double epsilon, const double* sum_dy_xc, float* dgamma) {
  for_channels(
      channels, [&](int64_t c, int64_t n) __attribute__((always_inline)) {
        const vdouble rstd = 1.0 / square_root(load_channels(variance + c, n) + epsilon);
        const vhalf gradient = to_float(load_channels(sum_dy_xc + c, n) * rstd);
        for (int64_t i = 0; i < n; ++i) dgamma[c + i] = gradient[i];
      });
}

}  // namespace

void fill_statistics(StatisticsKernels& kernels) { kernels = {moments, scale, backward, gamma_gradient}; }

}  // namespace FASTBN_ISA
}  // namespace fastbn
