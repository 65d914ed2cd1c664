// Contract of the convolution kernels that are not products of matrices: depthwise (one input channel for each output
// channel), with the vectors along the channels.
#pragma once

#include <stdint.h>

#include "register_tile.hpp"

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

// A block of outputs with 3x3 taps, no dilation, stride s of 1 or 2: y[r * y_up + i * y_step + c], r in [0, rows), i in
// [0, columns), is the chain over (u, v) of x[(r s + u) * x_up + (i s + v) * channels + c] w[(3 u + v) * channels + c],
// and as above from there. Sources whose row r s + u lies outside [row_begin, row_end), or whose column i s + v lies
// outside [column_begin, column_end), are padding: left out, and never read; at most `columns_outside` on either
// side. x counts from `origin`, which need not be inside.
struct DepthwiseBlockArgs {
  const float* x;
  int64_t origin;
  const float* w;
  float* y;
  int64_t rows, columns, channels, stride;
  int64_t x_up, y_up, y_step;
  int64_t row_begin, row_end, column_begin, column_end;
  const float* bias;
  int32_t activation;
  float alpha;
};

// Rows 2 j and 2 j + 1 of the gradient to the source of 3x3 taps with stride 2, the padding counted: dx[2 j + s][2 i +
// t] is the chain over (u, v) = (s, t), .. (2, 2) in steps of two of dy[j - u / 2][i - v / 2] w[(3 u + v) * channels +
// c]. What lies outside dy's columns or rows is left out and never read; column 0 of dx is number `pad_left` with the
// padding, and columns outside [0, dx_columns) are not written.
struct DepthwiseSpreadArgs {
  const float* above;  // row j - 1 of dy; NULL: there is none
  const float* below;  // row j
  const float* w;
  float* even;  // row 2 j of dx; NULL: padding
  float* odd;   // row 2 j + 1
  int64_t dy_columns, dx_columns, pad_left, channels;
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

// A band of the gradient of 3x3 taps, no dilation, stride s of 1 or 2: dw[(3 u + v) * channels + c] goes on by
// x[(r s + u) * x_up + (i s + v) * channels + c] dy[r * dy_up + i * channels + c], r in [0, rows), i in [0, columns),
// in an order that depends on the extents alone. Padding as above.
struct DepthwiseFilterBlockArgs {
  const float* x;
  int64_t origin;
  const float* dy;
  float* dw;
  int64_t rows, columns, channels, stride;
  int64_t x_up, dy_up;
  int64_t row_begin, row_end, column_begin, column_end;
};

struct ConvolutionKernels {
  void (*depthwise_row)(const DepthwiseArgs& args);
  void (*depthwise_block)(const DepthwiseBlockArgs& args);
  void (*depthwise_spread)(const DepthwiseSpreadArgs& args);
  void (*depthwise_filter_row)(const DepthwiseFilterArgs& args);
  void (*depthwise_filter_block)(const DepthwiseFilterBlockArgs& args);
  int64_t columns_outside;                     // of padding on either side of a block, at most
  RegisterTile block_tile, filter_block_tile;  // columns of a row, or taps, by channels
};

#ifdef FASTBN_ISA
namespace FASTBN_ISA {
void fill_convolution(ConvolutionKernels& kernels);
}
#endif

}  // namespace fastbn
