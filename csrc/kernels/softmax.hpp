// Softmax of one row, shared by the activation and the loss; included by kernel bodies only.
#pragma once

#include "vector_math.hpp"

namespace fastbn {
namespace FASTBN_ISA {

struct SoftmaxRow {
  vfloat max;  // in every lane, NaN left out
  vfloat sum;  // of exp(x - max), in every lane
};

// Rows of at most kLanes columns: e = exp(x - max), 0 past the end.
FASTBN_INLINE SoftmaxRow softmax_narrow(vfloat x, int64_t columns, vfloat* e) {
  const vint inside = first_lanes(columns);
  x = inside ? x : broadcast(-__builtin_inff());
  const vfloat max = fold_max(x);
  const vfloat value = exp(x - max);
  *e = inside ? value : vfloat{};
  return {max, fold_sum(*e)};
}

// The greatest element of a row, in every lane; NaN left out.
FASTBN_INLINE vfloat row_max(const float* x, int64_t columns) {
  vfloat max = broadcast(-__builtin_inff());
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const vfloat v = load(x + c);
    max = v > max ? v : max;
  }
  if (c < columns) {
    const vfloat v = load_partial_or(x + c, columns - c, -__builtin_inff());
    max = v > max ? v : max;
  }
  return fold_max(max);
}

// The sum of exp(x - max) in every lane; the exponentials go to e where it is not NULL (e may be x).
FASTBN_INLINE vfloat row_exp(const float* x, int64_t columns, vfloat max, float* e) {
  constexpr int64_t kBlock = 32 * kLanes;  // added up apart: short chains, little rounding
  vfloat sum{};
  int64_t c = 0;
  while (c + kLanes <= columns) {
    const int64_t end = columns - c < kBlock ? columns - kLanes : c + kBlock - kLanes;
    vfloat block{};
    for (; c <= end; c += kLanes) {
      const vfloat v = exp(load(x + c) - max);
      if (e) store(e + c, v);
      block += v;
    }
    sum += block;
  }
  if (c < columns) {
    const vfloat v = exp(load_partial_or(x + c, columns - c, -__builtin_inff()) - max);
    if (e) store_partial(e + c, v, columns - c);
    sum += first_lanes(columns - c) ? v : vfloat{};
  }
  return fold_sum(sum);
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
