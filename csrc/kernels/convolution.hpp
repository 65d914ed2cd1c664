// Contract of the convolution kernels that are not products of matrices: depthwise (one input channel for each
// output channel), with the vectors along the channels.
#pragma once

#include <stdint.h>

namespace fastbn {

// One row of outputs: y[i * y_step + c] = act(bias[c] + sum_{u,v} x[i * x_step + u * x_up + v * x_along + c] w[u, v,
// c]), i in [0, columns), c in [0, channels), taps u in [0, taps_up), v in [0, taps_along); w is (u, v, channels). Each
// element is one chain over (u, v) in order.
struct DepthwiseArgs {
  const float* x;
  const float* w;
  float* y;
  int64_t columns, channels;
  int64_t x_step, y_step;
  int64_t taps_up, taps_along;
  int64_t x_up, x_along;
  const float* bias;   // NULL: none
  int32_t activation;  // FBN_LINEAR, FBN_RELU or FBN_LEAKY_RELU
  float alpha;
};

// dw[u, v, c] += sum_{r,i} x[r * x_row + i * x_step + u * x_up + v * x_along + c] dy[r * dy_row + i * channels + c];
// the sum is one chain over (r, i) in order, from zero.
struct DepthwiseFilterArgs {
  const float* x;
  const float* dy;
  float* dw;
  int64_t rows, columns, channels;
  int64_t x_row, x_step, dy_row;
  int64_t taps_up, taps_along;
  int64_t x_up, x_along;
};

struct ConvolutionKernels {
  void (*depthwise_row)(const DepthwiseArgs& args);
  void (*depthwise_filter)(const DepthwiseFilterArgs& args);
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_convolution(ConvolutionKernels& kernels);
}
#endif

}  // namespace fastbn
