// Convolutions as matrix products read in place (direct), for any geometry.
#pragma once

#include <algorithm>
#include <cstdint>

#include "conv2d_passes.hpp"
#include "kernels/kernel_table.hpp"
#include "packed_rows.hpp"

namespace fastbn {

// Block sizes; they leave the bits alone.
inline constexpr int64_t kBandFloats = 96 * 1024;  // source rows of one block: with the weights of a panel they fit L2
inline constexpr int64_t kWrittenFloats = 48 * 1024;  // written by a block of a convolution with small weights
inline constexpr int64_t kSmallWeights = 64 * 1024;
inline constexpr int64_t kFewTerms = 36;    // products of an output that are taken without tiles
inline constexpr int64_t kBlockImages = 8;  // most images that share one pass over the weights
// Reduction order of backward_filter: sums over this many pixels are chains, then added up.
inline constexpr int64_t kChainPixels = 512;
inline constexpr int64_t kTilesInPlace = 5;  // of rows that meet a gradient which is not packed

// One axis of a correlation: output q in [0, count) stands at first + q * step and is the sum over taps t of source
// q * stride + base + t * delta times the kernel at tap_first + t * tap_step.
struct Axis {
  int64_t first, step, count, stride, base, delta, taps, tap_first, tap_step;
  int64_t lowest() const { return base; }
  int64_t highest() const { return (count - 1) * stride + base + (taps - 1) * delta; }
  bool reads() const { return count > 0 && taps > 0; }
};

// Of the forward pass, and of those inputs of the backward pass that lie at `phase` within the stride.
Axis forward_axis(int64_t out, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad);
Axis backward_axis(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad, int64_t phase);

// Every phase (one in forward, one for each offset within the stride in backward) is a correlation of the source with
// its own taps.
class DirectCorrelation final : public Correlation {
 public:
  DirectCorrelation(const Conv2dGeometry& geometry, bool backward);

  const char* name() const override;
  std::string tile() const override;
  int64_t rows() const override { return q_rows; }
  int64_t row_pixels() const override { return to_width; }
  int64_t units() const override { return g.groups * panels(); }
  int64_t packed_size() const override { return round_up(std::max<int64_t>(1, taps_y * taps_x * packed_width()), 16); }
  int64_t scratch() const override { return table_floats() + (padded ? block_images() * copy_floats() : 0); }
  void pack(const float* kernel, float* packed, Range units) const override;
  void run(const float* source, const float* packed, const float* bias, int32_t activation, float alpha, float* to,
           Range images, Range q, Range units, float* scratch) const override;

 private:
  friend class DirectFilterGradient;

  Conv2dGeometry g;
  bool backward;
  int64_t height, width, channels;           // of the source
  int64_t to_height, to_width, to_channels;  // of the destination
  int64_t depth, outputs;                    // channels of one group: summed over, produced
  int64_t phases_y, phases_x;
  int64_t low_y, high_y, ext_y;  // source rows relative to q * stride_y; ext_y is the height that one q needs
  int64_t q_rows;                // most of a phase
  int64_t stride_y;
  int64_t pad_left, pad_right;
  bool padded;
  int64_t taps_y, taps_x;  // of all phases
  bool gaps;               // some phase has no taps: its outputs are zero
  bool few_terms;          // an output is a sum of so few products that they are taken one by one
  int64_t panel, lanes;

  Axis axis_y(int64_t phase) const {
    return backward ? backward_axis(g.height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top, phase)
                    : forward_axis(g.out_height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top);
  }
  Axis axis_x(int64_t phase) const {
    return backward ? backward_axis(g.width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left, phase)
                    : forward_axis(g.out_width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left);
  }

  // Units are the panels of all groups; every phase has the same.
  int64_t panels() const { return ceil_div(outputs, panel); }
  int64_t packed_width() const { return g.groups * round_up(outputs, lanes) * depth; }

  // The channels that units [begin, end) produce.
  Range unit_channels(Range of) const {
    const auto first = [&](int64_t unit) {
      return unit == units() ? to_channels : unit / panels() * outputs + unit % panels() * panel;
    };
    return {first(of.begin), first(of.end)};
  }
  // Taps along a row and their channels are one contiguous run of the source.
  bool merged(const Axis& x) const { return g.groups == 1 && (x.delta == 1 || x.taps == 1); }

  int64_t pitch() const { return (padded ? pad_left + width + pad_right : width) * channels; }
  int64_t source_rows(int64_t count) const { return (count - 1) * stride_y + ext_y; }
  // q rows of a block. Where the weights are small, what a block writes should stay in L2 too: each panel writes a few
  // channels of every pixel.
  int64_t band_rows() const {
    const int64_t fit = kBandFloats / pitch();
    int64_t most = fit > ext_y ? (fit - ext_y) / stride_y + 1 : 1;
    if (packed_size() <= kSmallWeights) {
      const int64_t written = (backward ? g.stride_height : 1) * to_width * to_channels;
      const int64_t least = ceil_div(4 * kernels().gemm.tile_rows, to_width);
      most = std::min(most, std::max(kWrittenFloats / written, least));
    }
    const int64_t bands = parts_of_at_most(q_rows, most);
    return ceil_div(q_rows, bands);
  }
  int64_t block_images() const {
    if (band_rows() < q_rows) return 1;
    return std::clamp<int64_t>(2 * kBandFloats / (source_rows(q_rows) * pitch()), 1, kBlockImages);
  }
  int64_t table_entries() const { return g.kernel_height * g.kernel_width * (few_terms ? depth : 1); }
  int64_t table_floats() const { return round_up(table_entries() * 4, 16); }  // two tables of int64
  int64_t copy_floats() const { return round_up(source_rows(band_rows()) * pitch(), 16); }

  void copy_rows(const float* source, int64_t first, int64_t count, float* to) const;
};

// backward_filter. A granule is what one chain sums over: a band of rows of one image, or several small images.
class DirectFilterGradient final : public FilterGradient {
 public:
  // `images`: most that a granule may join.
  DirectFilterGradient(const Conv2dGeometry& geometry, int64_t images);

  const char* name() const override { return source.name(); }
  std::string tile() const override { return text(kernels().gemm.tile(std::min(panel, outputs))); }
  int64_t granules(int64_t images) const override { return ceil_div(images, images_joined) * bands(); }
  int64_t images_of_granule() const override { return images_joined; }
  int64_t units() const override { return g.groups * panels(); }
  int64_t rows() const override { return g.kernel_height * g.kernel_width * depth; }  // of the gradient matrix
  int64_t row_grain() const override { return kernels().gemm.tile_rows; }
  // Each of the tasks side by side packs its rows, and each of those below each other its units.
  int64_t unit_parts(int64_t tasks) const override {
    if (!packs(units())) return tasks;
    int64_t best = 1;
    for (int64_t parts = 1; parts <= tasks; parts *= 2) {
      const auto packed = [&](int64_t side) { return side * rows() + tasks / side * g.out_channels; };
      if (packed(parts) < packed(best)) best = parts;
    }
    return best;
  }
  int64_t scratch(int64_t unit_count) const override {
    return table_floats() + (source.padded ? images_joined * copy_floats() : 0) + gradient_floats(unit_count) +
           (packs(unit_count) ? kTilesOfBlock * packed_tile(chain_pixels()) : 0);
  }
  void run(const float* x, const float* dy, float* dkernel, int64_t images, Range granule, Range units,
           Range rows_of_kernel, bool fresh, float* scratch) const override;

 private:
  Conv2dGeometry g;
  DirectCorrelation source;  // the forward one: its padding, pitch and copies
  int64_t images_joined;
  int64_t depth, outputs, panel, lanes;

  int64_t band_rows() const {
    const int64_t parts = parts_of_at_most(g.out_height, std::max<int64_t>(1, kChainPixels / g.out_width));
    return ceil_div(g.out_height, parts);
  }
  int64_t bands() const { return ceil_div(g.out_height, band_rows()); }
  int64_t panels() const { return ceil_div(outputs, panel); }

  // Whole output rows follow each other in the source without a gap.
  bool gapless() const { return g.stride_height * source.pitch() == g.out_width * g.stride_width * g.in_channels; }
  int64_t table_entries() const { return images_joined * band_rows(); }
  int64_t table_floats() const { return round_up(4 * table_entries(), 16); }
  int64_t copy_floats() const { return round_up(source.source_rows(band_rows()) * source.pitch(), 16); }
  int64_t chain_pixels() const { return images_joined * band_rows() * g.out_width; }
  int64_t gradient_floats(int64_t unit_count) const { return round_up(chain_pixels() * panel * unit_count, 16); }
  int64_t unit_outputs(int64_t unit) const { return std::min(panel, outputs - unit % panels() * panel); }
  // Whether the sources are packed for so many panels.
  bool packs(int64_t unit_count) const { return g.groups == 1 && packs_rows(unit_count); }
};

}  // namespace fastbn
