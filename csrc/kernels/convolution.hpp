// Contract of the convolution kernels that are not products of matrices: depthwise (one input channel for each output
// channel), with the vectors along the channels.
#pragma once

#include <stdint.h>

namespace fastbn {

// One row of outputs: y[i * y_step + c] = act(bias[c] + sum_{u,v} x[i * x_step + u * x_up + v * x_along + c] w[u * w_up
// + v * channels + c]), i in [0, columns), c in [0, channels), taps u in [0, taps_up), v in [0, taps_along). Each
// element is one chain over (u, v) in order, the bias added last.
struct DepthwiseArgs {
  const float* x;
  const float* w;
  float* y;
  int64_t columns, channels;
  int64_t x_step, y_step;
  int64_t taps_up, taps_along;
  int64_t x_up, x_along, w_up;
  const float* bias;   // NULL: none
  int32_t activation;  // FBN_LINEAR, FBN_RELU or FBN_LEAKY_RELU
  float alpha;
};

// One row of the gradient: dw[u * dw_up + v * channels + c] goes on as a chain over i in order, x[i * x_step + u * x_up
// + v * x_along + c] dy[i * channels + c].
struct DepthwiseFilterArgs {
  const float* x;
  const float* dy;
  float* dw;
  int64_t columns, channels;
  int64_t x_step;
  int64_t taps_up, taps_along;
  int64_t x_up, x_along, dw_up;
};

struct ConvolutionKernels {
  void (*depthwise_row)(const DepthwiseArgs& args);
  void (*depthwise_filter_row)(const DepthwiseFilterArgs& args);
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_convolution(ConvolutionKernels& kernels);
}
#endif

}  // namespace fastbn
