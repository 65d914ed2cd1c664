// Max, average and global average pooling over NHWC images; block functions on whole images.
#pragma once

#include <fastbn/fastbn.h>

#include <cstdint>

namespace fastbn {

struct Pool2dGeometry {
  int64_t height, width, channels, pool_height, pool_width, stride_height, stride_width;
  int64_t pad_top, pad_bottom, pad_left, pad_right, out_height, out_width;
  bool wide_index;  // int32 instead of uint8
  int64_t in_size() const { return height * width * channels; }
  int64_t out_size() const { return out_height * out_width * channels; }
  int64_t index_bytes() const { return out_size() * (wide_index ? 4 : 1); }  // of one image
};

Pool2dGeometry resolve_pool2d(const char* operation, const fbn_pool2d& d);

// y = max over each window, then act (linear or relu: relu commutes with max). index may be NULL.
void max_pool2d_forward(const Pool2dGeometry& g, const float* x, int32_t activation, float* y, void* index,
                        int64_t images) noexcept;
// Writes all of dx. With relu, y (the forward result) masks dy; otherwise y may be NULL.
void max_pool2d_backward(const Pool2dGeometry& g, const float* dy, const void* index, int32_t activation,
                         const float* y, float* dx, int64_t images) noexcept;
void avg_pool2d_forward(const Pool2dGeometry& g, const float* x, float* y, int64_t images) noexcept;
void avg_pool2d_backward(const Pool2dGeometry& g, const float* dy, float* dx, int64_t images) noexcept;
void global_avg_pool2d_forward(int64_t pixels, int64_t channels, const float* x, float* y, int64_t images) noexcept;
void global_avg_pool2d_backward(int64_t pixels, int64_t channels, const float* dy, float* dx, int64_t images) noexcept;

}  // namespace fastbn
