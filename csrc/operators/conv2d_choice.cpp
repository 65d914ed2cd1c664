#include "conv2d_choice.hpp"

#include <algorithm>

namespace fastbn {
namespace {

// Time of a pass over one image, in vector multiply-adds. The constants are fixed, so that a shape gets the same
// algorithm on every machine. Transforms count by the loads, stores and sums of a vector of a tile. A vector of weights
// (of products, in backward_filter) that does not stay in the cache is written and read once for each group of images.
// Fitted to the 3x3 layers of ResNets with 16 to 512 channels.
constexpr double kSource[2] = {300, 86};  // of tile 4, of tile 2
constexpr double kResult[2] = {220, 64};  // or the gradient, in backward_filter
constexpr double kCached = 8, kWeights = 110, kSums = 28;
constexpr double kCacheBytes = 1 << 20;
constexpr double kImages = 8;       // of a group
constexpr double kAdvantage = 0.9;  // of the direct time: less is not worth the rounding

// Outputs of a tile of the cheapest Winograd form, 0 where the direct kernel is cheaper.
int choose_tile(int64_t in, int64_t out, int64_t height, int64_t width, bool filter) {
  const int64_t lanes = kernels().vector_floats;
  const double in_vectors = double((in + lanes - 1) / lanes), out_vectors = double((out + lanes - 1) / lanes);
  const double pairs = double(in) * out_vectors;
  const auto weights = [&](int64_t points, double images) {
    const double vectors = double(points) * pairs, bytes = vectors * double(lanes) * sizeof(float);
    return vectors * (bytes <= kCacheBytes ? kCached : filter ? kSums : kWeights) / images;
  };
  double least = kAdvantage * (double(height * width) * 9 * pairs + weights(9, kImages));
  int best = 0;
  for (const int tile : {4, 2}) {
    const int form = tile == 4 ? 0 : 1, points = (tile + 2) * (tile + 2);
    const double tiles = double((height + tile - 1) / tile * ((width + tile - 1) / tile));
    const double images = filter ? std::clamp(128 / tiles, 1.0, kImages) : kImages;
    const double time =
        tiles * (points * pairs + kSource[form] * in_vectors + kResult[form] * out_vectors) + weights(points, images);
    if (time < least) {
      least = time;
      best = tile;
    }
  }
  return best;
}

}  // namespace

AnyCorrelation::Algorithm AnyCorrelation::choose(const Conv2dGeometry& g, bool backward, int32_t algorithm) {
  if (is_depthwise(g)) return DepthwiseCorrelation(g, backward);
  if (narrow_correlation_pays(g, backward)) return NarrowCorrelation(g, backward);
  if (algorithm == FBN_ALGORITHM_AUTO && winograd_fits(g)) {
    const int tile = backward ? choose_tile(g.out_channels, g.in_channels, g.height, g.width, false)
                              : choose_tile(g.in_channels, g.out_channels, g.out_height, g.out_width, false);
    if (tile != 0) return WinogradCorrelation(g, backward, tile);
  }
  return DirectCorrelation(g, backward);
}

AnyFilterGradient::Algorithm AnyFilterGradient::choose(const Conv2dGeometry& g, int32_t algorithm, int64_t images) {
  if (is_depthwise(g)) return DepthwiseFilterGradient(g);
  if (narrow_filter_gradient_pays(g)) return NarrowFilterGradient(g);
  if (algorithm == FBN_ALGORITHM_AUTO && winograd_fits(g)) {
    const int tile = choose_tile(g.in_channels, g.out_channels, g.out_height, g.out_width, true);
    if (tile != 0) return WinogradFilterGradient(g, tile, images);
  }
  return DirectFilterGradient(g, sums_in_parts(g) || images == kAnyImages ? 1 : images);
}

}  // namespace fastbn
