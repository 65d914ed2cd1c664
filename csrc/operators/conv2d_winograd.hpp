// 3x3 convolutions of stride 1 with fewer multiplications: Winograd's F(4x4, 3x3) and F(2x2, 3x3) in all three passes.
//
// Tiles of outputs are transformed, multiplied point by point as matrices (tiles x channels) and transformed back, a
// block of tiles at a time. A tile's bits depend on its own patch alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "conv2d_passes.hpp"
#include "kernels/kernel_table.hpp"

namespace fastbn {

bool winograd_fits(const Conv2dGeometry& g);  // 3x3, stride 1, no dilation, no groups

class WinogradCorrelation final : public Correlation {
 public:
  WinogradCorrelation(const Conv2dGeometry& geometry, bool backward, int tile);

  const char* name() const override { return form->tile == 4 ? "winograd4" : "winograd2"; }
  std::string tile() const override { return text(kernels().gemm.tile(std::min(panel, outputs))); }
  int64_t rows() const override { return tiles_y; }
  int64_t row_pixels() const override { return form->tile * to_width; }
  int64_t units() const override { return ceil_div(outputs, panel); }
  int64_t packed_size() const override { return units() * unit_floats(); }
  int64_t scratch() const override {
    return points() * (parts_of_at_most(depth, chunk_depth()) * patch_point(block_tiles()) +
                       panel_point(block_tiles()) + (late ? kernel_point(chunk_depth()) : 0));
  }
  void pack(const float* kernel, float* packed, Range units) const override;
  void run(const float* source, const float* packed, const float* bias, int32_t activation, float alpha, float* to,
           Range images, Range rows, Range units, float* scratch) const override;

 private:
  const WinogradForm* form;
  bool backward;
  int64_t depth, outputs;  // channels: summed over, produced
  int64_t height, width, to_height, to_width;
  int64_t pad_top, pad_left;
  int64_t tiles_y, tiles_x;
  int64_t panel, lanes;
  bool late;

  int64_t points() const { return int64_t{form->points} * form->points; }
  // Weights that no cache holds beside all else once they are transformed (kEarlyWeights) are packed as taps and
  // transformed late, for each block of tiles: so many channels at a time, which the second cache does hold.
  static constexpr int64_t kLateDepth = 64;
  int64_t chunk_depth() const { return late ? std::min(kLateDepth, depth) : depth; }
  int64_t block_tiles() const;
  int64_t unit_floats() const { return late ? 9 * depth * panel : points() * kernel_point(depth); }
  // Floats from one point to the next of `tiles` transformed patches, of one panel of products and of `count` channels
  // of a panel of weights. The additional ones keep the points from falling into the same lines of the cache.
  int64_t patch_point(int64_t tiles) const { return tiles * round_up(chunk_depth(), lanes) + 16; }
  int64_t panel_point(int64_t tiles) const { return tiles * panel + 16; }
  int64_t kernel_point(int64_t count) const { return count * panel + 16; }
  // u = the points of `count` channels of a panel, whose taps lie as pack() leaves them.
  void transform_taps(const float* taps, int64_t count, int64_t wide, float* u) const;
};

// A granule is a band of rows of tiles of one image, or several small images; its products are one chain for each
// point, transformed back at its end.
class WinogradFilterGradient final : public FilterGradient {
 public:
  // `images`: most that a granule may join.
  WinogradFilterGradient(const Conv2dGeometry& geometry, int tile, int64_t images);

  const char* name() const override { return form->tile == 4 ? "winograd4" : "winograd2"; }
  std::string tile() const override { return text(kernels().gemm.tile(std::min(panel, g.out_channels))); }
  int64_t granules(int64_t images) const override { return parts_of_at_most(images, images_joined) * bands(); }
  int64_t images_of_granule() const override { return images_joined; }
  int64_t units() const override { return ceil_div(g.out_channels, panel); }
  int64_t rows() const override { return g.in_channels; }
  int64_t row_grain() const override { return 4 * kernels().gemm.tile_rows; }
  int64_t scratch(int64_t unit_count) const override;
  void run(const float* x, const float* dy, float* dkernel, int64_t images, Range granule, Range units, Range rows,
           bool fresh, float* scratch) const override;

 private:
  Conv2dGeometry g;
  const WinogradForm* form;
  int64_t tiles_y, tiles_x, images_joined;
  int64_t panel, lanes;

  int64_t points() const { return int64_t{form->points} * form->points; }
  int64_t band_rows() const;
  int64_t bands() const { return ceil_div(tiles_y, band_rows()); }
  int64_t granule_tiles() const { return images_joined * band_rows() * tiles_x; }
  int64_t patch_point() const { return granule_tiles() * round_up(g.in_channels, lanes) + 16; }
  int64_t gradient_point() const { return granule_tiles() * panel + 16; }
  int64_t product_point() const { return g.in_channels * panel + 16; }
};

}  // namespace fastbn
