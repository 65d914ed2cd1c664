#include "conv2d_choice.hpp"

namespace fastbn {

AnyCorrelation::AnyCorrelation(const Conv2dGeometry& g, bool backward, int32_t /*algorithm*/)
    : c_(DirectCorrelation(g, backward)) {}

AnyFilterGradient::AnyFilterGradient(const Conv2dGeometry& g, int32_t /*algorithm*/, bool joined, int64_t images)
    : f_(DirectFilterGradient(g, joined, images)) {}

}  // namespace fastbn
