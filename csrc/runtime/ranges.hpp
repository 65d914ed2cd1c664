// Parts of a range of whole numbers, and sizes in whole blocks.
#pragma once

#include <cstdint>

namespace fastbn {

// The blocks of `size` that n takes, rounded up, and what these hold; n and size in any integer types.
template <class N, class Size>
constexpr auto ceil_div(N n, Size size) {
  return (n + size - 1) / size;
}
template <class N, class Size>
constexpr auto round_up(N n, Size size) {
  return ceil_div(n, size) * size;
}

// Half-open range.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Part i of n equal parts of [0, total), boundaries multiples of `grain`.
inline Range part_of(int64_t total, int64_t parts, int64_t i, int64_t grain = 1) {
  const int64_t grains = ceil_div(total, grain);
  const int64_t begin = grains * i / parts * grain, end = grains * (i + 1) / parts * grain;
  return {begin < total ? begin : total, end < total ? end : total};
}

}  // namespace fastbn
