#include "conv2d_choice.hpp"

namespace fastbn {

AnyCorrelation::Algorithm AnyCorrelation::choose(const Conv2dGeometry& g, bool backward, int32_t /*algorithm*/) {
  if (narrow_correlation_pays(g, backward)) return NarrowCorrelation(g, backward);
  return DirectCorrelation(g, backward);
}

AnyFilterGradient::Algorithm AnyFilterGradient::choose(const Conv2dGeometry& g, int32_t /*algorithm*/, bool joined,
                                                       int64_t images) {
  if (narrow_filter_gradient_pays(g)) return NarrowFilterGradient(g);
  return DirectFilterGradient(g, joined, images);
}

AnyCorrelation::AnyCorrelation(const Conv2dGeometry& g, bool backward, int32_t algorithm)
    : c_(choose(g, backward, algorithm)) {}

AnyFilterGradient::AnyFilterGradient(const Conv2dGeometry& g, int32_t algorithm, bool joined, int64_t images)
    : f_(choose(g, algorithm, joined, images)) {}

}  // namespace fastbn
