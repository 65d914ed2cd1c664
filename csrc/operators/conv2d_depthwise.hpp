// Depthwise convolutions: one input channel for each output channel. Images are read in place; taps that fall into the
// padding are left out.
#pragma once

#include <cstdint>

#include "conv2d_direct.hpp"
#include "conv2d_passes.hpp"

namespace fastbn {

bool is_depthwise(const Conv2dGeometry& g);

class DepthwiseCorrelation final : public Correlation {
 public:
  DepthwiseCorrelation(const Conv2dGeometry& geometry, bool backward);

  const char* name() const override { return "depthwise"; }
  std::string tile() const override;
  int64_t rows() const override { return phase_rows; }
  int64_t row_pixels() const override { return to_width; }
  int64_t units() const override { return 1; }
  int64_t packed_size() const override { return round_up(std::max<int64_t>(1, taps * g.in_channels), 16); }
  int64_t scratch() const override;
  void pack(const float* kernel, float* packed, Range units) const override;
  void run(const float* source, const float* packed, const float* bias, int32_t activation, float alpha, float* to,
           Range images, Range q, Range units, float* scratch) const override;

 private:
  Conv2dGeometry g;
  bool backward;
  bool blocks;                                 // one phase that the block kernels take
  bool slices;                                 // whose sources are copied
  bool spreads;                                // the gradient of a stride of 2, all its phases in one pass
  int64_t height, width, to_height, to_width;  // of the source and the destination
  int64_t phases_y, phases_x;
  int64_t phase_rows, taps;  // most rows of a phase; taps of all phases

  void run_slices(DepthwiseBlockArgs block, const float* from, const float* packed, const float* bias, float* to,
                  Range q, float* scratch) const;
  void spread(const float* dy, const float* kernel, float* dx, Range images, Range pairs) const;

  Axis axis_y(int64_t phase) const {
    return backward ? backward_axis(g.height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top, phase)
                    : forward_axis(g.out_height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top);
  }
  Axis axis_x(int64_t phase) const {
    return backward ? backward_axis(g.width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left, phase)
                    : forward_axis(g.out_width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left);
  }
};

class DepthwiseFilterGradient final : public FilterGradient {
 public:
  explicit DepthwiseFilterGradient(const Conv2dGeometry& geometry) : g(geometry) {}

  const char* name() const override { return "depthwise"; }
  std::string tile() const override;
  int64_t granules(int64_t images) const override { return images * bands(); }
  int64_t units() const override { return 1; }
  int64_t rows() const override { return 1; }
  int64_t row_grain() const override { return 1; }
  int64_t scratch(int64_t unit_count) const override;
  void run(const float* x, const float* dy, float* dkernel, int64_t images, Range granule, Range units, Range rows,
           bool fresh, float* scratch) const override;

 private:
  Conv2dGeometry g;

  bool blocks() const;  // the block kernels take it
  bool slices() const;  // and sources and dy are copied
  void run_slices(const float* x, const float* dy, float* dkernel, Range rows, bool fresh, float* scratch) const;

  Axis axis_y() const {
    return forward_axis(g.out_height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top);
  }
  Axis axis_x() const {
    return forward_axis(g.out_width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left);
  }

  int64_t band_rows() const {
    const int64_t parts = parts_of_at_most(g.out_height, std::max<int64_t>(1, kChainPixels / g.out_width));
    return ceil_div(g.out_height, parts);
  }
  int64_t bands() const { return ceil_div(g.out_height, band_rows()); }
};

}  // namespace fastbn
