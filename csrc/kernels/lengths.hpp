// Loads and stores of a vector of n floats, where whole vectors carry their length as a type, and of results that go
// past the caches.
#pragma once

#include "vector_math.hpp"

namespace fastbn {
namespace FASTBN_ISA {

FASTBN_INLINE vfloat load_n(const float* p, Constant<kLanes>) { return load(p); }
FASTBN_INLINE vfloat load_n(const float* p, int64_t n) { return load_partial(p, n); }
FASTBN_INLINE void store_n(float* p, vfloat v, Constant<kLanes>) { store(p, v); }
FASTBN_INLINE void store_n(float* p, vfloat v, int64_t n) { store_partial(p, v, n); }

template <bool Streams>
FASTBN_INLINE void put(float* p, vfloat v, Constant<kLanes>) {
  if constexpr (Streams) {
    stream(p, v);
  } else {
    store(p, v);
  }
}
template <bool Streams>
FASTBN_INLINE void put(float* p, vfloat v, int64_t n) {
  store_partial(p, v, n);
}

// pass(Constant<1>) where results stream, for put<1>, else pass(Constant<0>). Worthwhile = false: they never do.
template <bool Worthwhile, class Pass>
FASTBN_INLINE void with_streams(bool streams, Pass pass) {
  if constexpr (Worthwhile) {
    if (streams) {
      pass(Constant<1>{});
      return streamed();
    }
  }
  pass(Constant<0>{});
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
