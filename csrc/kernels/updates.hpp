// Contract of the updates kernels.
#pragma once

#include <stdint.h>

namespace fastbn {

struct UpdateKernels {};

}  // namespace fastbn
