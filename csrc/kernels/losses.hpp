// Contract of the losses kernels.
#pragma once

#include <stdint.h>

namespace fastbn {

struct LossKernels {};

}  // namespace fastbn
