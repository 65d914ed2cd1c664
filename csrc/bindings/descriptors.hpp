// Descriptors of the C interface from what Python passes, for bindings of arrays and of addresses alike.
#pragma once

#include "arrays.hpp"

namespace fastbn_python {

// x: (batch, height, width, channels); kernel: (height, width, channels / groups, filters).
inline fbn_conv2d conv2d_descriptor(const int64_t* x, const int64_t* kernel, Pair strides, Pair dilation,
                                    int64_t groups, int32_t padding, Pads pads, int32_t activation, float alpha,
                                    int32_t algorithm) {
  fbn_conv2d d{};
  d.struct_size = sizeof d;
  d.batch = x[0];
  d.height = x[1];
  d.width = x[2];
  d.in_channels = x[3];
  d.kernel_height = kernel[0];
  d.kernel_width = kernel[1];
  d.out_channels = kernel[3];
  d.stride_height = strides[0];
  d.stride_width = strides[1];
  d.dilation_height = dilation[0];
  d.dilation_width = dilation[1];
  d.groups = groups;
  d.padding = padding;
  d.pad_top = pads[0];
  d.pad_bottom = pads[1];
  d.pad_left = pads[2];
  d.pad_right = pads[3];
  d.activation = activation;
  d.alpha = alpha;
  d.algorithm = algorithm;
  return d;
}

// kernel: (in_features, out_features).
inline fbn_dense dense_descriptor(int64_t rows, const int64_t* kernel, int32_t activation, float alpha) {
  fbn_dense d{};
  d.struct_size = sizeof d;
  d.rows = rows;
  d.in_features = kernel[0];
  d.out_features = kernel[1];
  d.activation = activation;
  d.alpha = alpha;
  return d;
}

// x: (rows, channels).
inline fbn_batch_norm batch_norm_descriptor(const int64_t* x, double epsilon, int32_t activation, float alpha,
                                            bool residual, bool frozen) {
  fbn_batch_norm d{};
  d.struct_size = sizeof d;
  d.rows = x[0];
  d.channels = x[1];
  d.epsilon = epsilon;
  d.activation = activation;
  d.alpha = alpha;
  d.has_residual = residual ? 1 : 0;
  d.frozen = frozen ? 1 : 0;
  return d;
}

}  // namespace fastbn_python
