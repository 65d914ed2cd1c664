// Contract of the pooling kernels.
#pragma once

#include <stdint.h>

namespace fastbn {

struct PoolingKernels {};

}  // namespace fastbn
