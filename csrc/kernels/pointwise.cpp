#include "pointwise.hpp"

#include "lengths.hpp"
#include "softmax.hpp"

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

void activation_forward(int64_t rows, int64_t columns, int64_t stride, int32_t activation, float alpha, const float* x,
                        float* y, bool large) {
  const vfloat slope = broadcast(alpha);
  with_activation(activation, alpha, [&](auto a) {
    with_streams<true>(large && may_stream(y, stride), [&](auto streams) {
      for_each_vector(rows, columns, stride, [&](int64_t i, auto n) {
        put<streams.value != 0>(y + i, activate<a.value>(load_n(x + i, n), slope), n);
      });
    });
  });
}

void activation_backward(int64_t rows, int64_t columns, int64_t stride, int32_t activation, float alpha,
                         const float* dy, const float* y, float* dx, bool large) {
  const vfloat slope = broadcast(alpha);
  with_activation(activation, alpha, [&](auto a) {
    with_streams<true>(large && may_stream(dx, stride), [&](auto streams) {
      for_each_vector(rows, columns, stride, [&](int64_t i, auto n) {
        put<streams.value != 0>(dx + i, activate_gradient<a.value>(load_n(dy + i, n), load_n(y + i, n), slope), n);
      });
    });
  });
}

void softmax_forward(int64_t rows, int64_t columns, int64_t stride, const float* x, float* y) {
  if (columns <= kMostAcross) {
    for (int64_t r = 0; r < rows; r += kLanes) {
      const int64_t block = rows - r < kLanes ? rows - r : kLanes;
      vfloat e[kMostAcross];
      read_across(x + r * stride, stride, block, columns, e);
      const vfloat factor = 1.0f / exp_across(e, columns, max_across(e, columns));
      for (int64_t c = 0; c < columns; ++c) e[c] *= factor;
      write_across(e, y + r * stride, stride, block, columns);
    }
    return;
  }
  for (int64_t r = 0; r < rows; ++r, x += stride, y += stride) {
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

// Philox4x32 with seven rounds, the fewest that pass every battery in the paper (runtime/random.hpp names it), one
// counter to a 64-bit lane. Every word of the state stands in the low half of its lane; the high half may hold
// anything, since the multiplication reads low halves only and the rest is exclusive or.
typedef uint64_t vlong __attribute__((vector_size(FASTBN_LANES * 4)));
constexpr int kCounters = kLanes / 2, kRounds = 7;

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

// A block: 64 elements, 8 counters, 16 bits to an element. Element i has 16 bits of word i / 32 * 2 + i / 2 % 2 of
// counter i / 4 % 8, its low half where i is even: the order in which vectors of any length store their lanes.
constexpr int kBlock = 64, kBlockCounters = 8;

// Vectors of counters go through the rounds kSide at a time, since a round waits for the one before it. The first
// counters of two blocks are `step` apart.
template <int Blocks>
FASTBN_INLINE void philox_blocks(uint64_t key, uint64_t counter, uint64_t step, uint64_t counter_high, uint16_t* bits) {
  constexpr int kVectors = Blocks * kBlockCounters / kCounters, kSide = kVectors < 4 ? kVectors : 4;
  vlong lane;
  for (int i = 0; i < kCounters; ++i) lane[i] = (uint64_t)i;
  for (int first = 0; first < kVectors; first += kSide) {
    vlong c0[kSide], c1[kSide], c2[kSide], c3[kSide];
#pragma GCC unroll 4
    for (int v = 0; v < kSide; ++v) {
      const int at = (first + v) * kCounters;
      c0[v] = lane + (counter + (uint64_t)(at / kBlockCounters) * step + (uint64_t)(at % kBlockCounters));
      c1[v] = c0[v] >> 32;
      c2[v] = vlong{} + counter_high;
      c3[v] = vlong{};
    }
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
#pragma GCC unroll 7
    for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 4
      for (int v = 0; v < kSide; ++v) {
        const vlong p0 = multiply_low(c0[v], 0xD2511F53u), p1 = multiply_low(c2[v], 0xCD9E8D57u);
        c0[v] = (p1 >> 32) ^ c1[v] ^ (vlong{} + k0);
        c2[v] = (p0 >> 32) ^ c3[v] ^ (vlong{} + k1);
        c1[v] = p1;
        c3[v] = p0;
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
#pragma GCC unroll 4
    for (int v = 0; v < kSide; ++v) {
      const vlong low = (c0[v] & 0xffffffffu) | (c1[v] << 32), high = (c2[v] & 0xffffffffu) | (c3[v] << 32);
      const int at = (first + v) * kCounters;
      uint16_t* to = bits + at / kBlockCounters * kBlock + at % kBlockCounters * 4;
      memcpy(to, &low, sizeof low);
      memcpy(to + kBlock / 2, &high, sizeof high);
    }
  }
}

FASTBN_INLINE bool block_contains(const uint16_t* bits, uint16_t value) {
#if defined(__AVX512F__)
  const __m512i v = _mm512_set1_epi16((int16_t)value);
  return (_mm512_cmpeq_epi16_mask(_mm512_loadu_si512(bits), v) |
          _mm512_cmpeq_epi16_mask(_mm512_loadu_si512(bits + kBlock / 2), v)) != 0;
#else
  typedef uint16_t vword __attribute__((vector_size(FASTBN_LANES * 4)));
  vlong found{};
  for (int i = 0; i < kBlock; i += 2 * kLanes) {
    vword v;
    memcpy(&v, bits + i, sizeof v);
    found |= (vlong)(v == value);
  }
  uint64_t any = 0;
  for (int i = 0; i < kCounters; ++i) any |= found[i];
  return any != 0;
#endif
}

// The upper half of the threshold decides; where an element's 16 bits equal it, 16 more, drawn for that alone.
struct Dropout {
  uint64_t seed;
  uint16_t upper, lower;
  float scale;
};

// Elements begin <= i < end of a block, one by one; x and y belong to its first element.
__attribute__((noinline)) void dropout_part(const Dropout& d, uint64_t counter, int64_t begin, int64_t end,
                                            const float* x, float* y) {
  uint16_t bits[kBlock], more[kBlock];
  philox_blocks<1>(d.seed, counter, 0, 0, bits);
  if (d.lower != 0) philox_blocks<1>(d.seed, counter, 0, 1, more);
  for (int64_t i = begin; i < end; ++i) {
    const bool keep = bits[i] > d.upper || (bits[i] == d.upper && (d.lower == 0 || more[i] >= d.lower));
    y[i] = keep ? x[i] * d.scale : 0.0f;
  }
}

// Elements begin <= i < end of each block, by vectors. Blocks are `step` counters and `apart` elements from each other.
template <int Blocks, bool Streams>
FASTBN_INLINE void dropout_vectors(const Dropout& d, uint64_t counter, uint64_t step, int64_t begin, int64_t end,
                                   const float* x, float* y, int64_t apart) {
  uint16_t bits[Blocks * kBlock + kLanes];  // the last vector may reach beyond the block
  philox_blocks<Blocks>(d.seed, counter, step, 0, bits);
  const vint limit = broadcast_int(d.upper);
  for (int b = 0; b < Blocks; ++b, counter += step, x += apart, y += apart) {
    if (d.lower != 0 && block_contains(bits + b * kBlock, d.upper)) {
      dropout_part(d, counter, begin, end, x, y);
      continue;
    }
    const auto vector = [&](int64_t i, auto n) __attribute__((always_inline)) {
      const vfloat v = load_n(x + i, n) * d.scale;
      put<Streams>(y + i, load_words(bits + b * kBlock + i) >= limit ? v : vfloat{}, n);
    };
    int64_t i = begin;
#pragma GCC unroll 4
    for (; i + kLanes <= end; i += kLanes) vector(i, Constant<kLanes>{});
    if (i < end) vector(i, end - i);
  }
}

template <bool Streams>
void dropout_row(int64_t columns, const Dropout& d, uint64_t number, const float* x, float* y) {
  int64_t c = -(int64_t)(number % kBlock);  // where the block's first element falls
  uint64_t counter = number / kBlock * kBlockCounters;
  for (; c < columns; c += kBlock, counter += kBlockCounters) {
    for (; c >= 0 && c + 4 * kBlock <= columns; c += 4 * kBlock, counter += 4 * kBlockCounters)
      dropout_vectors<4, Streams>(d, counter, kBlockCounters, 0, kBlock, x + c, y + c, kBlock);
    if (c >= columns) break;
    const int64_t begin = c < 0 ? -c : 0, end = columns - c < kBlock ? columns - c : kBlock;
    dropout_vectors<1, Streams>(d, counter, 0, begin, end, x + c, y + c, 0);
  }
}

// Four rows of a few columns, which begin where a block does.
template <bool Streams>
void dropout_rows(int64_t columns, int64_t stride, const Dropout& d, uint64_t number, uint64_t pitch, const float* x,
                  float* y) {
  uint64_t counter = number / kBlock * kBlockCounters;
  for (int64_t c = 0; c < columns; c += kBlock, counter += kBlockCounters) {
    const int64_t end = columns - c < kBlock ? columns - c : kBlock;
    dropout_vectors<4, Streams>(d, counter, pitch / kBlock * kBlockCounters, 0, end, x + c, y + c, stride);
  }
}

void dropout(int64_t rows, int64_t columns, int64_t stride, uint32_t threshold, float scale, uint64_t seed,
             uint64_t first, int64_t pitch, const float* x, float* y, bool large) {
  if (stride == columns && pitch == columns) {
    columns *= rows;
    rows = columns > 0;
  }
  const Dropout d{seed, (uint16_t)(threshold >> 16), (uint16_t)threshold, scale};
  const bool whole = first % kBlock == 0 && pitch % kBlock == 0;  // else vectors begin anywhere in a row
  with_streams<true>(large && whole && may_stream(y, stride), [&](auto streams) {
    int64_t r = 0;
    for (; whole && columns < 4 * kBlock && r + 4 <= rows; r += 4)
      dropout_rows<streams.value != 0>(columns, stride, d, first + (uint64_t)(r * pitch), (uint64_t)pitch,
                                       x + r * stride, y + r * stride);
    for (; r < rows; ++r)
      dropout_row<streams.value != 0>(columns, d, first + (uint64_t)(r * pitch), x + r * stride, y + r * stride);
  });
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
