// Convolutions of few channels: the channels of the destination would fill a small part of a vector, so pixels do.
// Images are taken apart into planes, one for each channel (and each offset within the stride), in scratch; the rows of
// a plane follow each other, so that vectors run on from row to row and shorter rows cost a few unused pixels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "conv2d_direct.hpp"
#include "conv2d_passes.hpp"

namespace fastbn {

// Whether narrow kernels need fewer cycles than direct ones, by a count of vector operations.
bool narrow_correlation_pays(const Conv2dGeometry& g, bool backward);
bool narrow_filter_gradient_pays(const Conv2dGeometry& g);

inline constexpr int64_t kMostLanes = 16;  // kernels run on to the next whole vector

// A band of rows of an image as planes. Output (row, column) q of an axis reads source q * stride + low + relative,
// relative in [0, reach).
struct PlanarSource {
  int64_t height, width, channels;
  int64_t stride_y, stride_x, low_y, low_x, reach_y;
  int64_t pitch;  // pixels of a row of a plane

  int64_t lines() const { return stride_x * channels; }
  int64_t plane_rows(int64_t rows) const { return rows + (reach_y - 1) / stride_y; }
  int64_t plane(int64_t rows) const;
  int64_t floats(int64_t rows) const { return stride_y * lines() * plane(rows); }
  int64_t row_floats() const { return pitch * lines(); }
  int64_t copied_rows() const;  // that are taken apart together
  int64_t copy_floats() const { return copied_rows() * row_floats(); }
  // Columns of a row of planes that lie left of the source, in it and right of it.
  int64_t left() const { return std::clamp<int64_t>(-low_x, 0, pitch * stride_x); }
  int64_t middle() const { return std::clamp<int64_t>(width - from(), 0, pitch * stride_x - left()); }
  int64_t right() const { return pitch * stride_x - left() - middle(); }
  int64_t from() const { return std::max<int64_t>(0, low_x); }  // the first column of the source that is read
  // Rows are taken apart where they lie. Short ones are copied, since kernels take whole vectors, and pixels of more
  // channels than a vector has lanes, which are read several times.
  bool straight() const {
    return stride_x == 1 && stride_y == 1 && middle() >= kMostLanes && channels <= kernels().vector_floats;
  }

  int64_t offset(int64_t y, int64_t x, int64_t channel, int64_t plane_size) const {
    return (y % stride_y * lines() + x % stride_x * channels + channel) * plane_size + y / stride_y * pitch +
           x / stride_x;
  }
  // Zeros beside the source, and behind the rows, where products read on to the next whole vector: what is finite
  // there does not matter, what is not costs time.
  void clear(int64_t rows, int64_t plane_size, float* planes) const;
  // The planes, cleared before, of output rows [first, first + rows), zero where there is no source: in `planes`, or
  // where the image lies, if that is one plane without padding and `behind` floats follow it, which kernels may read.
  const float* fill(const float* image, int64_t behind, int64_t first, int64_t rows, int64_t plane_size, float* planes,
                    float* copy) const;
};

class NarrowCorrelation final : public Correlation {
 public:
  NarrowCorrelation(const Conv2dGeometry& geometry, bool backward);

  const char* name() const override { return "narrow"; }
  std::string tile() const override { return text(kernels().planar.tile(outputs)) + " pixels"; }
  int64_t rows() const override { return q_rows; }
  int64_t row_pixels() const override { return to_width; }
  int64_t units() const override { return 1; }
  int64_t packed_size() const override { return round_up(std::max<int64_t>(1, terms_of_all * to_channels), 16); }
  int64_t scratch() const override;
  void pack(const float* kernel, float* packed, Range units) const override;
  void run(const float* source, const float* packed, const float* bias, int32_t activation, float alpha, float* to,
           Range images, Range q, Range units, float* scratch) const override;

  double cost() const;  // of one image, in vector multiply-adds

 private:
  Conv2dGeometry g;
  bool backward;
  int64_t to_height, to_width, to_channels;
  int64_t depth, outputs;  // channels of one group: summed over, produced
  int64_t phases_y, phases_x;
  int64_t q_rows;
  int64_t terms_of_all;  // of every phase
  PlanarSource source;
  int64_t band_rows;  // rows whose planes stay in the second cache

  Axis axis_y(int64_t phase) const {
    return backward ? backward_axis(g.height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top, phase)
                    : forward_axis(g.out_height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top);
  }
  Axis axis_x(int64_t phase) const {
    return backward ? backward_axis(g.width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left, phase)
                    : forward_axis(g.out_width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left);
  }
  int64_t to_plane(int64_t rows) const;
  int64_t to_floats(int64_t rows) const { return phases_x * to_channels * to_plane(rows); }
  int64_t table_floats() const { return round_up(2 * terms_of_all, 16); }  // int64
  void write_rows(const float* planes, int64_t plane_size, const Axis& y, Range band, float* to) const;
};

class NarrowFilterGradient final : public FilterGradient {
 public:
  explicit NarrowFilterGradient(const Conv2dGeometry& geometry);

  const char* name() const override { return "narrow"; }
  std::string tile() const override { return text(kernels().planar.filter_tile(outputs)) + " sums along pixels"; }
  int64_t granules(int64_t images) const override { return images * bands(); }
  int64_t units() const override { return 1; }
  int64_t rows() const override { return 1; }
  int64_t row_grain() const override { return 1; }
  int64_t scratch(int64_t unit_count) const override;
  void run(const float* x, const float* dy, float* dkernel, int64_t images, Range granule, Range units, Range rows,
           bool fresh, float* scratch) const override;

  double cost() const;  // of one image, in vector multiply-adds

 private:
  Conv2dGeometry g;
  int64_t depth, outputs;
  PlanarSource source;
  int64_t band_rows;

  int64_t terms() const { return g.kernel_height * g.kernel_width * depth; }
  int64_t count(int64_t rows) const { return round_up((rows - 1) * source.pitch + g.out_width, 16); }
  int64_t dy_plane(int64_t rows) const;
  int64_t bands() const { return ceil_div(g.out_height, band_rows); }
};

}  // namespace fastbn
