// Which algorithm a pass of a convolution is given: by its shape alone, so that bits never depend on a measurement.
#pragma once

#include <variant>

#include "conv2d_direct.hpp"
#include "conv2d_narrow.hpp"
#include "conv2d_passes.hpp"

namespace fastbn {

class AnyCorrelation {
 public:
  AnyCorrelation(const Conv2dGeometry& g, bool backward, int32_t algorithm);
  const Correlation* operator->() const {
    return std::visit([](const auto& c) -> const Correlation* { return &c; }, c_);
  }
  const Correlation& operator*() const { return *operator->(); }

 private:
  using Algorithm = std::variant<DirectCorrelation, NarrowCorrelation>;
  static Algorithm choose(const Conv2dGeometry& g, bool backward, int32_t algorithm);
  Algorithm c_;
};

class AnyFilterGradient {
 public:
  // joined: several small images may share a chain; `images` is then their number in the whole call.
  AnyFilterGradient(const Conv2dGeometry& g, int32_t algorithm, bool joined, int64_t images);
  const FilterGradient* operator->() const {
    return std::visit([](const auto& f) -> const FilterGradient* { return &f; }, f_);
  }

 private:
  using Algorithm = std::variant<DirectFilterGradient, NarrowFilterGradient>;
  static Algorithm choose(const Conv2dGeometry& g, int32_t algorithm, bool joined, int64_t images);
  Algorithm f_;
};

}  // namespace fastbn
