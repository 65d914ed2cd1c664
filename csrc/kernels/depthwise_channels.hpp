// What depthwise kernels share: vectors along the channels, ends of outputs. Included by kernel bodies only.
#pragma once

#include <fastbn/fastbn.h>

#include "vector_math.hpp"

namespace fastbn {
namespace FASTBN_ISA {

template <bool Whole>
FASTBN_INLINE vfloat load_channels(const float* p, int64_t lanes) {
  if constexpr (Whole) {
    (void)lanes;
    return load(p);
  } else {
    return load_partial(p, lanes);
  }
}
template <bool Whole>
FASTBN_INLINE void store_channels(float* p, vfloat v, int64_t lanes) {
  if constexpr (Whole) {
    (void)lanes;
    store(p, v);
  } else {
    store_partial(p, v, lanes);
  }
}

// body(whole, c, lanes) for the vectors of all channels. NumPy's arrays begin 16 bytes into a cache line: where there
// are enough channels to make up for it, the first vector is a part that ends where a line of `p` does, so that none of
// the others lies on two.
template <class Body>
FASTBN_INLINE void for_channels(const float* p, int64_t channels, Body body) {
  constexpr int64_t kWorthAligning = 8 * kLanes;
  const int64_t past = (int64_t)((uintptr_t)p / sizeof(float) % kLanes);
  int64_t lanes = channels < kLanes ? channels : kLanes;
  if (channels >= kWorthAligning && channels % kLanes == 0) lanes -= past;
  for (int64_t c = 0; c < channels;) {
    if (lanes == kLanes) {
      body(Constant<1>{}, c, lanes);
    } else {
      body(Constant<0>{}, c, lanes);
    }
    c += lanes;
    lanes = channels - c < kLanes ? channels - c : kLanes;
  }
}

template <bool Whole, int Columns, class Args>
FASTBN_INLINE void finish_columns(const Args& g, vfloat (&sum)[Columns], float* y, int64_t c, int64_t lanes) {
  if (g.bias) {
    const vfloat bias = load_channels<Whole>(g.bias + c, lanes);
    FASTBN_UNROLL
    for (int i = 0; i < Columns; ++i) sum[i] += bias;
  }
  if (g.activation != FBN_LINEAR) {
    const vfloat slope = broadcast(g.activation == FBN_LEAKY_RELU ? g.alpha : 0.0f);
    FASTBN_UNROLL
    for (int i = 0; i < Columns; ++i) {
      const vfloat below = g.activation == FBN_LEAKY_RELU ? slope * sum[i] : vfloat{};
      sum[i] = sum[i] < vfloat{} ? below : sum[i];
    }
  }
  FASTBN_UNROLL
  for (int i = 0; i < Columns; ++i) store_channels<Whole>(y + i * g.y_step + c, sum[i], lanes);
}

// body(i) for i = 0 .. Count - 1 as constants: what they index stays in registers whatever the compiler makes of loops.
template <int Count, int First = 0, class Body>
FASTBN_INLINE void for_each_constant(Body body) {
  if constexpr (First < Count) {
    body(Constant<First>{});
    for_each_constant<Count, First + 1>(body);
  }
}

// Columns of the gradient that are taken for all channels before the next.
constexpr int kFilterColumns = 16;

// Sources that so many outputs of three taps read.
constexpr int reach(int stride, int outputs) { return (outputs - 1) * stride + 3; }

}  // namespace FASTBN_ISA
}  // namespace fastbn
