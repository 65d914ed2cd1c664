// Contract of the normalization kernels.
#pragma once

#include <stdint.h>

namespace fastbn {

struct NormalizationKernels {};

}  // namespace fastbn
