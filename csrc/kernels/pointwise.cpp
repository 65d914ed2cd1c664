#include "pointwise.hpp"

#include "softmax.hpp"
#include "vector_math.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

// body(offset, n) for every vector of a region; n < kLanes at the end of a row only. Regions without gaps are
// one long row.
template <class Body>
FASTBN_INLINE void for_each_vector(int64_t rows, int64_t columns, int64_t stride, Body body) {
  if (stride == columns) {
    columns *= rows;
    rows = 1;
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t begin = r * stride;
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) body(begin + c, Constant<kLanes>{});
    if (c < columns) body(begin + c, columns - c);
  }
}
// Whole vectors carry their length as a type.
FASTBN_INLINE vfloat load_n(const float* p, Constant<kLanes>) { return load(p); }
FASTBN_INLINE vfloat load_n(const float* p, int64_t n) { return load_partial(p, n); }
FASTBN_INLINE void store_n(float* p, vfloat v, Constant<kLanes>) { store(p, v); }
FASTBN_INLINE void store_n(float* p, vfloat v, int64_t n) { store_partial(p, v, n); }

void activation_forward(int64_t rows, int64_t columns, int64_t stride, int32_t activation, float alpha, const float* x,
                        float* y) {
  const vfloat slope = broadcast(alpha);
  with_activation(activation, alpha, [&](auto a) {
    for_each_vector(rows, columns, stride,
                    [&](int64_t i, auto n) { store_n(y + i, activate<a.value>(load_n(x + i, n), slope), n); });
  });
}

void activation_backward(int64_t rows, int64_t columns, int64_t stride, int32_t activation, float alpha,
                         const float* dy, const float* y, float* dx) {
  const vfloat slope = broadcast(alpha);
  with_activation(activation, alpha, [&](auto a) {
    for_each_vector(rows, columns, stride, [&](int64_t i, auto n) {
      store_n(dx + i, activate_gradient<a.value>(load_n(dy + i, n), load_n(y + i, n), slope), n);
    });
  });
}

void softmax_forward(int64_t rows, int64_t columns, int64_t stride, const float* x, float* y) {
  for (int64_t r = 0; r < rows; ++r, x += stride, y += stride) {
    if (columns <= kLanes) {
      vfloat e;
      const SoftmaxRow row = softmax_narrow(load_partial(x, columns), columns, &e);
      store_partial(y, e / row.sum, columns);
      continue;
    }
    const vfloat factor = 1.0f / row_exp(x, columns, row_max(x, columns), y);
    for_each_vector(1, columns, columns, [&](int64_t i, auto n) { store_n(y + i, load_n(y + i, n) * factor, n); });
  }
}

void softmax_backward(int64_t rows, int64_t columns, int64_t stride, const float* dy, const float* y, float* dx) {
  for (int64_t r = 0; r < rows; ++r, dy += stride, y += stride, dx += stride) {
    vfloat sum{};
    for_each_vector(1, columns, columns,
                    [&](int64_t i, auto n) { sum = fma(load_n(dy + i, n), load_n(y + i, n), sum); });
    sum = fold_sum(sum);
    for_each_vector(1, columns, columns,
                    [&](int64_t i, auto n) { store_n(dx + i, load_n(y + i, n) * (load_n(dy + i, n) - sum), n); });
  }
}

// Philox with one counter to a 64-bit lane. Every word of the state stands in the low half of its lane; the high
// half may hold anything, since the multiplication reads low halves only and the rest is exclusive or.
typedef uint64_t vlong __attribute__((vector_size(FASTBN_LANES * 4)));
constexpr int kCounters = kLanes / 2;

FASTBN_INLINE vlong multiply_low(vlong a, uint32_t b) {
#if defined(__AVX512F__)
  return (vlong)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64(b));
#elif defined(__AVX2__)
  return (vlong)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__aarch64__)
  return (vlong)vmull_u32(vmovn_u64((uint64x2_t)a), vdup_n_u32(b));
#elif defined(__SSE2__)
  return (vlong)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
  return (a & 0xffffffffu) * (uint64_t)b;
#endif
}

// Words of 4 * kCounters consecutive numbers, beginning with word 0 of `counter`.
FASTBN_INLINE void philox_words(uint64_t key, uint64_t counter, vuint* first, vuint* second) {
  vlong c0;
  for (int i = 0; i < kCounters; ++i) c0[i] = (uint64_t)i;
  c0 += counter;
  vlong c1 = c0 >> 32, c2{}, c3{};
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const vlong p0 = multiply_low(c0, 0xD2511F53u), p1 = multiply_low(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ (vlong{} + k0);
    c2 = (p0 >> 32) ^ c3 ^ (vlong{} + k1);
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const vlong low = (c0 & 0xffffffffu) | (c1 << 32), high = (c2 & 0xffffffffu) | (c3 << 32);
#if FASTBN_LANES == 16
  *first = (vuint)__builtin_shufflevector(low, high, 0, 8, 1, 9, 2, 10, 3, 11);
  *second = (vuint)__builtin_shufflevector(low, high, 4, 12, 5, 13, 6, 14, 7, 15);
#elif FASTBN_LANES == 8
  *first = (vuint)__builtin_shufflevector(low, high, 0, 4, 1, 5);
  *second = (vuint)__builtin_shufflevector(low, high, 2, 6, 3, 7);
#else
  *first = (vuint)__builtin_shufflevector(low, high, 0, 2);
  *second = (vuint)__builtin_shufflevector(low, high, 1, 3);
#endif
}

void dropout_row(int64_t columns, uint32_t threshold, float scale, uint64_t seed, uint64_t number, const float* x,
                 float* y) {
  const vuint limit = vuint{} + threshold;
  int64_t c = -(int64_t)(number % 4);  // where the counter's first word falls
  for (uint64_t counter = number / 4; c < columns; c += 2 * kLanes, counter += kCounters) {
    vuint words[2];
    philox_words(seed, counter, &words[0], &words[1]);
    if (c >= 0 && c + 2 * kLanes <= columns) {
      const vfloat a = load(x + c), b = load(x + c + kLanes);
      store(y + c, words[0] >= limit ? a * scale : vfloat{});
      store(y + c + kLanes, words[1] >= limit ? b * scale : vfloat{});
      continue;
    }
    uint32_t word[2 * kLanes];
    memcpy(word, words, sizeof word);
    for (int64_t i = c < 0 ? -c : 0; i < 2 * kLanes && c + i < columns; ++i)
      y[c + i] = word[i] >= threshold ? x[c + i] * scale : 0.0f;
  }
}

void dropout(int64_t rows, int64_t columns, int64_t stride, uint32_t threshold, float scale, uint64_t seed,
             uint64_t first, int64_t pitch, const float* x, float* y) {
  if (stride == columns && pitch == columns) {
    columns *= rows;
    rows = columns > 0;
  }
  for (int64_t r = 0; r < rows; ++r)
    dropout_row(columns, threshold, scale, seed, first + (uint64_t)(r * pitch), x + r * stride, y + r * stride);
}

void add(int64_t rows, int64_t columns, int64_t stride, const float* a, const float* b, float* sum) {
  for_each_vector(rows, columns, stride,
                  [&](int64_t i, auto n) { store_n(sum + i, load_n(a + i, n) + load_n(b + i, n), n); });
}

void rescale(int64_t rows, int64_t columns, int64_t stride, const float* x, float scale, float offset, float* y) {
  for_each_vector(rows, columns, stride,
                  [&](int64_t i, auto n) { store_n(y + i, load_n(x + i, n) * scale + offset, n); });
}

void rescale_u8(int64_t size, const uint8_t* x, float scale, float offset, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes)
    store(y + i, __builtin_convertvector(load_bytes(x + i), vfloat) * scale + offset);
  for (; i < size; ++i) y[i] = (float)x[i] * scale + offset;
}

}  // namespace

void fill_pointwise(PointwiseKernels& kernels) {
  kernels = {activation_forward, activation_backward, softmax_forward, softmax_backward, dropout, add, rescale,
             rescale_u8};
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
