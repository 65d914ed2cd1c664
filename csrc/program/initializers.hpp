// Initial values of parameters.
#pragma once

#include "graph.hpp"

namespace fastbn {

// Fills `values`. Element i depends on (seed, i) alone. Variance scaling as Keras: uniform limits
// sqrt(3 s / n), truncated normals with standard deviation sqrt(s / n) / 0.8796..., n a fan or their mean.
void initialize(const ParameterSpec& spec, uint64_t seed, float* values);

}  // namespace fastbn
