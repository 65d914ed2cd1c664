// Which algorithm a pass of a convolution is given: by its shape alone, so that bits never depend on a measurement.
#pragma once

#include <variant>

#include "conv2d_depthwise.hpp"
#include "conv2d_direct.hpp"
#include "conv2d_narrow.hpp"
#include "conv2d_passes.hpp"
#include "conv2d_winograd.hpp"

namespace fastbn {

inline constexpr int64_t kAnyImages = INT64_MAX;

// Kernels so small that partial gradients of runs of granules are worth their memory.
inline bool sums_in_parts(const Conv2dGeometry& g) { return g.kernel_size() <= 128 * 1024; }

class AnyCorrelation {
 public:
  AnyCorrelation(const Conv2dGeometry& g, bool backward, int32_t algorithm) : c_(choose(g, backward, algorithm)) {}
  const Correlation* operator->() const {
    return std::visit([](const auto& c) -> const Correlation* { return &c; }, c_);
  }
  const Correlation& operator*() const { return *operator->(); }

 private:
  using Algorithm = std::variant<DirectCorrelation, DepthwiseCorrelation, NarrowCorrelation, WinogradCorrelation>;
  static Algorithm choose(const Conv2dGeometry& g, bool backward, int32_t algorithm);
  Algorithm c_;
};

class AnyFilterGradient {
 public:
  // `images`: of the whole call, or kAnyImages for a program, which hands over a batch in parts.
  AnyFilterGradient(const Conv2dGeometry& g, int32_t algorithm, int64_t images) : f_(choose(g, algorithm, images)) {}
  const FilterGradient* operator->() const {
    return std::visit([](const auto& f) -> const FilterGradient* { return &f; }, f_);
  }

 private:
  using Algorithm =
      std::variant<DirectFilterGradient, DepthwiseFilterGradient, NarrowFilterGradient, WinogradFilterGradient>;
  static Algorithm choose(const Conv2dGeometry& g, int32_t algorithm, int64_t images);
  Algorithm f_;
};

}  // namespace fastbn
