#include "conv2d_choice.hpp"

#include <algorithm>
#include <cstdio>

#include "runtime/status.hpp"

namespace fastbn {
namespace {

// Time of a pass over one image, in vector multiply-adds. The constants are fixed, so that a shape gets the same
// algorithm on every machine. Transforms count by the loads, stores and sums of a vector of a tile. A vector of weights
// (of products, in backward_filter) that does not stay in the cache is written and read once for each group of images:
// nine vectors of taps are read for 16 of tile 2, and for 36 of tile 4. Fitted to 3x3 layers of 16 to 512 channels on
// images of 4x4 to 56x56.
constexpr double kSource[2] = {420, 200};  // of tile 4, of tile 2
constexpr double kResult[2] = {320, 150};  // or the gradient, in backward_filter
constexpr double kCached = 8, kWeights[2] = {12, 45}, kDirectWeights = 12, kSums = 28;
constexpr double kCacheBytes = 1 << 20;
constexpr double kImages = 8;       // of a group
constexpr double kAdvantage = 0.9;  // of the direct time: less is not worth the rounding

constexpr int kTiles[2] = {4, 2};

// Times of both forms, as parts of the direct kernel's.
struct Shares {
  double of[2];
};

Shares winograd_shares(int64_t in, int64_t out, int64_t height, int64_t width, bool filter) {
  const int64_t lanes = kernels().vector_floats;
  const double in_vectors = double(parts_of_at_most(in, lanes)), out_vectors = double(parts_of_at_most(out, lanes));
  const double pairs = double(in) * out_vectors;
  const auto weights = [&](int64_t points, double passing, double images) {
    const double vectors = double(points) * pairs, bytes = vectors * double(lanes) * sizeof(float);
    return vectors * (bytes <= kCacheBytes ? kCached : filter ? kSums : passing) / images;
  };
  const double direct = double(height * width) * 9 * pairs + weights(9, kDirectWeights, kImages);
  Shares shares{};
  for (int form = 0; form < 2; ++form) {
    const int tile = kTiles[form], points = (tile + 2) * (tile + 2);
    const double tiles = double(parts_of_at_most(height, tile) * parts_of_at_most(width, tile));
    const double images = filter ? std::clamp(128 / tiles, 1.0, kImages) : kImages;
    const double time = tiles * (points * pairs + kSource[form] * in_vectors + kResult[form] * out_vectors) +
                        weights(points, kWeights[form], images);
    shares.of[form] = time / direct;
  }
  return shares;
}

Shares winograd_shares(const Conv2dGeometry& g, ConvPass pass) {
  if (pass == ConvPass::backward_data) return winograd_shares(g.out_channels, g.in_channels, g.height, g.width, false);
  return winograd_shares(g.in_channels, g.out_channels, g.out_height, g.out_width, pass == ConvPass::backward_filter);
}

// Outputs of a tile of the cheapest Winograd form, 0 where the direct kernel is cheaper.
int choose_tile(const Conv2dGeometry& g, ConvPass pass, int32_t algorithm) {
  if (algorithm != FBN_ALGORITHM_AUTO || !winograd_fits(g)) return 0;
  const Shares shares = winograd_shares(g, pass);
  const int form = shares.of[1] < shares.of[0] ? 1 : 0;
  return shares.of[form] < kAdvantage ? kTiles[form] : 0;
}

bool narrow_pays(const Conv2dGeometry& g, ConvPass pass) {
  if (pass == ConvPass::backward_filter) return narrow_filter_gradient_pays(g);
  return narrow_correlation_pays(g, pass == ConvPass::backward_data);
}

}  // namespace

AnyCorrelation::Algorithm AnyCorrelation::choose(const Conv2dGeometry& g, bool backward, int32_t algorithm) {
  if (is_depthwise(g)) return DepthwiseCorrelation(g, backward);
  if (narrow_correlation_pays(g, backward)) return NarrowCorrelation(g, backward);
  const int tile = choose_tile(g, backward ? ConvPass::backward_data : ConvPass::forward, algorithm);
  if (tile != 0) return WinogradCorrelation(g, backward, tile);
  return DirectCorrelation(g, backward);
}

AnyFilterGradient::Algorithm AnyFilterGradient::choose(const Conv2dGeometry& g, int32_t algorithm, int64_t images) {
  if (is_depthwise(g)) return DepthwiseFilterGradient(g);
  if (narrow_filter_gradient_pays(g)) return NarrowFilterGradient(g);
  const int tile = choose_tile(g, ConvPass::backward_filter, algorithm);
  if (tile != 0) return WinogradFilterGradient(g, tile, images);
  return DirectFilterGradient(g, sums_in_parts(g) || images == kAnyImages ? 1 : images);
}

const char* algorithm_name(const Conv2dGeometry& g, ConvPass pass, int32_t algorithm) {
  if (pass == ConvPass::backward_filter) return AnyFilterGradient(g, algorithm, kAnyImages)->name();
  return AnyCorrelation(g, pass == ConvPass::backward_data, algorithm)->name();
}

namespace {

std::string refused(const Conv2dGeometry& g, ConvPass pass, int32_t algorithm) {
  if (is_depthwise(g)) return "one channel a group";
  const int64_t lanes = kernels().vector_floats;
  const int64_t channels = (pass == ConvPass::backward_data ? g.in_channels : g.out_channels) / g.groups;
  const std::string vectors = concatenate(channels, channels == 1 ? " channel" : " channels", ", vectors of ", lanes);
  if (narrow_pays(g, pass)) return vectors + ": pixels fill them";
  std::string text =
      concatenate("not narrow: ", vectors, channels < lanes ? ", and planes would count more work" : "", "; ");
  if (algorithm == FBN_ALGORITHM_DIRECT) return text + "not winograd: direct was asked for";
  if (!winograd_fits(g)) return text + "not winograd: that is for 3x3, stride 1, no dilation, one group";
  const Shares shares = winograd_shares(g, pass);
  char counted[96];
  std::snprintf(counted, sizeof counted, "by count winograd4 takes %.2f and winograd2 %.2f of direct's time",
                shares.of[0], shares.of[1]);
  text += counted;
  if (choose_tile(g, pass, algorithm) == 0) text += ", too little gained";
  return text;
}

}  // namespace

std::string algorithm_reason(const Conv2dGeometry& g, ConvPass pass, int32_t algorithm) {
  const std::string tile = pass == ConvPass::backward_filter
                               ? AnyFilterGradient(g, algorithm, kAnyImages)->tile()
                               : AnyCorrelation(g, pass == ConvPass::backward_data, algorithm)->tile();
  return tile + "; " + refused(g, pass, algorithm);
}

}  // namespace fastbn
