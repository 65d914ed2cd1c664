// conv2d: geometry, numeric plan and the block functions that ops and programs are made of.
//
// Block functions work on whole images on the calling thread; they neither allocate nor throw. Their bits
// depend on the shapes and the instruction set alone: not on how many images a call holds, nor on scratch (the parts
// that backward_filter is called for begin at multiples of images_of_granule()).
#pragma once

#include <fastbn/fastbn.h>

#include <cstdint>
#include <memory>
#include <string>

namespace fastbn {

// A validated fbn_conv2d with padding resolved to numbers and the output size.
struct Conv2dGeometry {
  int64_t height, width, in_channels, out_channels, kernel_height, kernel_width;
  int64_t stride_height, stride_width, dilation_height, dilation_width, groups;
  int64_t pad_top, pad_bottom, pad_left, pad_right, out_height, out_width;
  int64_t in_size() const { return height * width * in_channels; }
  int64_t out_size() const { return out_height * out_width * out_channels; }
  int64_t kernel_size() const { return kernel_height * kernel_width * (in_channels / groups) * out_channels; }
  int64_t multiply_adds() const { return out_height * out_width * kernel_size(); }  // of one image, forward
};

// Throws INVALID_VALUE, naming `operation`. The batch is checked (>= 0) but not kept.
Conv2dGeometry resolve_conv2d(const char* operation, const fbn_conv2d& d);

enum class ConvPass {
  forward = FBN_CONV2D_FORWARD,
  backward_data = FBN_CONV2D_BACKWARD_DATA,
  backward_filter = FBN_CONV2D_BACKWARD_FILTER
};

// The kernel that a pass gets, and why no better one.
const char* algorithm_name(const Conv2dGeometry& g, ConvPass pass, int32_t algorithm);
std::string algorithm_reason(const Conv2dGeometry& g, ConvPass pass, int32_t algorithm);

class Conv2dPlan {
 public:
  Conv2dPlan() = default;
  Conv2dPlan(const char* operation, const fbn_conv2d& d);

  const Conv2dGeometry& geometry() const { return g_; }
  // Name of the kernel that each pass was given, for reports: "direct", "winograd4", "depthwise", ...
  const char* forward_algorithm() const;
  const char* backward_data_algorithm() const;
  const char* backward_filter_algorithm() const;

  // Kernel weights in the order the passes read them; sizes in floats, packed buffers 64-aligned.
  int64_t packed_forward_size() const;
  int64_t packed_backward_size() const;
  void pack_forward(const float* kernel, float* packed) const noexcept;
  void pack_backward(const float* kernel, float* packed) const noexcept;

  // backward_filter is called for parts of a batch that begin at multiples of this many images.
  int64_t images_of_granule() const;

  int64_t forward_scratch() const;  // floats; the same for any number of images
  int64_t backward_data_scratch() const;
  int64_t backward_filter_scratch() const;

  // y = act(conv(x) + bias); bias may be NULL. act and alpha are the descriptor's.
  void forward(const float* x, const float* packed, const float* bias, float* y, int64_t images,
               float* scratch) const noexcept;
  // dx = the transposed convolution of dy (dy already through the activation); writes all of dx.
  void backward_data(const float* dy, const float* packed, float* dx, int64_t images, float* scratch) const noexcept;
  // dkernel (HWIO) += one image's gradient after the other, in order.
  void backward_filter(const float* x, const float* dy, float* dkernel, int64_t images, float* scratch) const noexcept;
  // dbias += one image's column sums after the other.
  void backward_bias(const float* dy, float* dbias, int64_t images) const noexcept;

 private:
  struct Passes;
  Conv2dGeometry g_{};
  int32_t activation_ = FBN_LINEAR;
  float alpha_ = 0;
  std::shared_ptr<const Passes> passes_;
};

}  // namespace fastbn
