// Contract of the gemm kernels.
#pragma once

#include <stdint.h>

namespace fastbn {

struct GemmKernels {};

}  // namespace fastbn
