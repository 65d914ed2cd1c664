// Softmax of rows, shared by the activation and the loss; included by kernel bodies only.
#pragma once

#include "shuffles.hpp"
#include "vector_math.hpp"

namespace fastbn {
namespace FASTBN_ISA {

// Rows of so few columns are taken kLanes at a time, each in a lane of its own ("across" the vectors): one vector for
// each column, and nothing to fold.
inline constexpr int64_t kMostAcross = 4 * kLanes;

FASTBN_INLINE vfloat max_across(const vfloat* x, int64_t columns) {
  vfloat max = broadcast(-__builtin_inff());
  for (int64_t c = 0; c < columns; ++c) max = x[c] > max ? x[c] : max;
  return max;
}
// x = exp(x - max); the sum.
FASTBN_INLINE vfloat exp_across(vfloat* x, int64_t columns, vfloat max) {
  vfloat sum{};
  for (int64_t c = 0; c < columns; ++c) {
    x[c] = exp_of_negative(x[c] - max);
    sum += x[c];
  }
  return sum;
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
      const vfloat v = exp_of_negative(load(x + c) - max);
      if (e) store(e + c, v);
      block += v;
    }
    sum += block;
  }
  if (c < columns) {
    const vfloat v = exp_of_negative(load_partial_or(x + c, columns - c, -__builtin_inff()) - max);
    if (e) store_partial(e + c, v, columns - c);
    sum += first_lanes(columns - c) ? v : vfloat{};
  }
  return fold_sum(sum);
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
