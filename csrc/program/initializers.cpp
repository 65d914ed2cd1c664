#include "initializers.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "runtime/random.hpp"
#include "runtime/status.hpp"

namespace fastbn {
namespace {

struct Stream {
  uint64_t seed;
  double uniform(int64_t i, uint64_t attempt) const {
    const auto bits = philox(seed, static_cast<uint64_t>(i), attempt);
    const uint64_t wide = uint64_t{bits[0]} << 32 | bits[1];
    return static_cast<double>(wide >> 11) * 0x1.0p-53;
  }
  double normal(int64_t i, uint64_t attempt) const {  // Box-Muller
    const auto bits = philox(seed, static_cast<uint64_t>(i), attempt);
    const double u = (static_cast<double>(bits[0]) + 1.0) * 0x1.0p-32, v = static_cast<double>(bits[1]) * 0x1.0p-32;
    return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
  }
  double truncated_normal(int64_t i) const {
    for (uint64_t attempt = 0;; ++attempt) {
      const double z = normal(i, attempt);
      if (std::abs(z) <= 2) return z;
    }
  }
};

enum class Distribution { uniform, normal, truncated_normal };

// Standard deviation of a unit normal cut at two: the factor that keeps the wanted variance.
constexpr double kTruncatedDeviation = 0.87962566103423978;

void fill(const Stream& stream, Distribution distribution, double a, double b, int64_t size, float* values) {
  for (int64_t i = 0; i < size; ++i) {
    switch (distribution) {
      case Distribution::uniform:
        values[i] = static_cast<float>(a + (b - a) * stream.uniform(i, 0));
        break;
      case Distribution::normal:
        values[i] = static_cast<float>(a + b * stream.normal(i, 0));
        break;
      case Distribution::truncated_normal:
        values[i] = static_cast<float>(a + b * stream.truncated_normal(i));
        break;
    }
  }
}

int32_t default_kind(ParameterRole role) {
  switch (role) {
    case ParameterRole::kernel:
      return FBN_INIT_GLOROT_UNIFORM;
    case ParameterRole::gamma:
    case ParameterRole::moving_variance:
      return FBN_INIT_ONES;
    default:
      return FBN_INIT_ZEROS;
  }
}

}  // namespace

void initialize(const ParameterSpec& spec, uint64_t seed, float* values) {
  const fbn_initializer& init = spec.initializer;
  const int32_t kind = init.kind == FBN_INIT_DEFAULT ? default_kind(spec.role) : init.kind;
  const int64_t size = element_count(spec.shape);
  const Stream stream{init.seed != 0 ? init.seed : seed};
  const double fan_in = static_cast<double>(std::max<int64_t>(spec.fan_in, 1));
  const double fan_mean = std::max((fan_in + static_cast<double>(spec.fan_out)) / 2, 1.0);
  const auto scaled_uniform = [&](double scale, double n) {
    const double limit = std::sqrt(3 * scale / n);
    fill(stream, Distribution::uniform, -limit, limit, size, values);
  };
  const auto scaled_normal = [&](double scale, double n) {
    fill(stream, Distribution::truncated_normal, 0, std::sqrt(scale / n) / kTruncatedDeviation, size, values);
  };
  switch (kind) {
    case FBN_INIT_ZEROS:
      return std::fill_n(values, size, 0.0f), void();
    case FBN_INIT_ONES:
      return std::fill_n(values, size, 1.0f), void();
    case FBN_INIT_CONSTANT:
      return std::fill_n(values, size, static_cast<float>(init.a)), void();
    case FBN_INIT_RANDOM_UNIFORM:
      return fill(stream, Distribution::uniform, init.a, init.b, size, values);
    case FBN_INIT_RANDOM_NORMAL:
      return fill(stream, Distribution::normal, init.a, init.b, size, values);
    case FBN_INIT_TRUNCATED_NORMAL:
      return fill(stream, Distribution::truncated_normal, init.a, init.b, size, values);
    case FBN_INIT_GLOROT_UNIFORM:
      return scaled_uniform(1, fan_mean);
    case FBN_INIT_GLOROT_NORMAL:
      return scaled_normal(1, fan_mean);
    case FBN_INIT_HE_UNIFORM:
      return scaled_uniform(2, fan_in);
    case FBN_INIT_HE_NORMAL:
      return scaled_normal(2, fan_in);
    case FBN_INIT_LECUN_UNIFORM:
      return scaled_uniform(1, fan_in);
    case FBN_INIT_LECUN_NORMAL:
      return scaled_normal(1, fan_in);
    default:
      fail(FBN_INVALID_VALUE, spec.name, ": unknown initializer. Received: ", init.kind);
  }
}

}  // namespace fastbn
