// e^x of negative x, sigmoid and tanh of one instruction set against float64, over every `stride`-th float32 (1: all of
// them; the stride is the argument): at most 2 units in the last place where argument and result are normal. The float
// modes are those of a task: denormals are zero.
#include "kernels/vector_math.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fastbn {
namespace FASTBN_ISA {
namespace {

constexpr double kLeastNormal = 0x1p-126;

double units_off(float found, double expected) {
  if (std::isnan(expected)) return std::isnan(found) ? 0 : INFINITY;
  const float rounded = static_cast<float>(expected);
  if (std::isinf(rounded) || std::isinf(found)) return found == rounded ? 0 : INFINITY;
  if (std::fabs(expected) < kLeastNormal) return std::fabs(found) <= 2 * kLeastNormal ? 0 : INFINITY;
  int exponent = 0;
  std::frexp(expected, &exponent);
  return std::fabs(static_cast<double>(found) - expected) / std::ldexp(1.0, exponent - 24);
}

struct Function {
  const char* name;
  vfloat (*vector)(vfloat);
  double (*exact)(double);
};

bool check(const Function& f, uint64_t stride) {
  double worst = 0;
  float at = 0;
  uint64_t bits_of[kLanes];
  int filled = 0;
  const auto flush = [&] {
    vfloat x{};
    for (int i = 0; i < filled; ++i) {
      const uint32_t word = static_cast<uint32_t>(bits_of[i]);
      float value;
      std::memcpy(&value, &word, sizeof value);
      x[i] = value;
    }
    const vfloat y = f.vector(x);
    for (int i = 0; i < filled; ++i) {
      if (std::fabs(x[i]) < static_cast<float>(kLeastNormal)) continue;  // not normal (NaN is looked at)
      const double off = units_off(y[i], f.exact(static_cast<double>(x[i])));
      if (off > worst) worst = off, at = x[i];
    }
    filled = 0;
  };
  for (uint64_t word = 0; word < (uint64_t{1} << 32); word += stride) {
    bits_of[filled++] = word;
    if (filled == kLanes) flush();
  }
  flush();
  std::printf("%s %s: at most %.3f units in the last place, at %a\n", FASTBN_ISA_NAME, f.name, worst,
              static_cast<double>(at));
  return worst <= 2;
}

int run(uint64_t stride) {
  const Function functions[] = {
      {"exp of negative", [](vfloat x) { return exp_of_negative(x > vfloat{} ? -x : x); },
       [](double x) { return std::exp(-std::fabs(x)); }},
      {"sigmoid", [](vfloat x) { return sigmoid(x); },
       [](double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }},
      {"tanh", [](vfloat x) { return tanh(x); }, [](double x) { return std::tanh(x); }}};
  bool good = true;
  for (const Function& f : functions) good = check(f, stride) && good;
  return good ? 0 : 1;
}

}  // namespace
}  // namespace FASTBN_ISA
}  // namespace fastbn

int main(int count, char** arguments) {
#if defined(__AVX512F__)
  if (!__builtin_cpu_supports("avx512f")) return 0;
#elif defined(__AVX2__)
  if (!__builtin_cpu_supports("avx2")) return 0;
#endif
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
  return fastbn::FASTBN_ISA::run(count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1);
}
