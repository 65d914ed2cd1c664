// Rules that several operators share. Each throws INVALID_VALUE, naming the operation.
#pragma once

#include <fastbn/fastbn.h>

#include <cmath>
#include <cstdint>

#include "runtime/ranges.hpp"
#include "runtime/status.hpp"

namespace fastbn {

// An array of `size` elements may be NULL only when it is empty.
inline void require_array(const char* operation, const char* name, const void* array, int64_t size) {
  require(array != nullptr || size == 0, operation, ": ", name, " must be an array of ", size,
          " elements. Received: NULL");
}

inline void require_size(const char* operation, const char* name, int64_t value, int64_t least) {
  require(value >= least, operation, ": ", name, " must be at least ", least, ". Received: ", value);
}

inline void require_activation(const char* operation, int32_t activation, float alpha, bool softmax = false) {
  require(activation >= FBN_LINEAR && activation <= (softmax ? FBN_SOFTMAX : FBN_TANH), operation,
          ": activation must be linear, relu, leaky_relu, sigmoid", softmax ? ", tanh or softmax" : " or tanh",
          ". Received: activation=", activation);
  require(activation != FBN_LEAKY_RELU || (std::isfinite(alpha) && alpha >= 0), operation,
          ": the slope of leaky_relu must be finite and not negative. Received: alpha=", alpha);
}

// The number of tasks that `total` elements are cut into when nothing but speed depends on it.
inline int64_t task_count(int64_t total) {
  constexpr int64_t kTaskElements = 16384;
  return ceil_div(total, kTaskElements);
}

// Tasks to cut `work` floating-point operations into where any cut gives the same bits: `a_lane` for each of several
// lanes, and none so long (some ten milliseconds) that an interrupt would wait for its end.
inline int64_t wanted_tasks(double work, int lanes, int64_t a_lane) {
  constexpr double kTaskWork = 1e9;
  return std::max(lanes > 1 ? a_lane * lanes : 1, static_cast<int64_t>(std::min(work / kTaskWork, 1e6)));
}

}  // namespace fastbn
