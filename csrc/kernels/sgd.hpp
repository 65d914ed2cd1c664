// A step of SGD on a vector of weights: for the pass over a gradient and for the product that ends in its update.
#pragma once

#include "simd.hpp"

namespace fastbn {
namespace FASTBN_ISA {

// w -= w decay, w -= rate g
FASTBN_INLINE vfloat sgd_step(float rate, float decay, vfloat w, vfloat gradient) {
  return fma(-broadcast(rate), gradient, fma(-w, broadcast(decay), w));
}

// w -= w decay, v = momentum v - rate g; w += v, or momentum v - rate g with nesterov
FASTBN_INLINE vfloat sgd_step(float rate, float decay, float momentum, bool nesterov, vfloat w, vfloat gradient,
                              vfloat& velocity) {
  const vfloat kept = fma(-w, broadcast(decay), w), mu = broadcast(momentum), step = broadcast(rate) * gradient;
  velocity = fma(mu, velocity, -step);
  return kept + (nesterov ? fma(mu, velocity, -step) : velocity);
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
