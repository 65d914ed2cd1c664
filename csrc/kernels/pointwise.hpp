// Contract of the pointwise kernels.
#pragma once

#include <stdint.h>

namespace fastbn {

struct PointwiseKernels {};

}  // namespace fastbn
