// Contract of the convolution kernels.
#pragma once

#include <stdint.h>

namespace fastbn {

struct ConvolutionKernels {};

}  // namespace fastbn
