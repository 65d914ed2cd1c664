#include "conv2d_winograd.hpp"

#include <bit>

#include "pointwise.hpp"

namespace fastbn {
namespace {

constexpr int64_t kBlockFloats = 128 * 1024;        // patches and products of a block of tiles, beside weights in L2
constexpr int64_t kCachedWeights = 256 * 1024;      // floats: beyond them L2 does not hold the transformed weights
constexpr int64_t kEarlyWeights = 4 * 1024 * 1024;  // nor does L3, beside all else
constexpr int64_t kLeastTiles = 28;                 // of a block: the weights are read once for each
constexpr int64_t kMostTiles = 56;
constexpr int64_t kTapsDepth = 16;  // channels whose taps lie side by side
// Reduction order of the weight gradient: tiles of a chain.
constexpr int64_t kChainTiles = 128;
constexpr int64_t kMostImages = 8;

const WinogradForm& form_of(int tile) { return kernels().winograd.form[tile == 4 ? 0 : 1]; }

// The patch of `size` x `size` pixels whose first is (y, x), which may lie outside of the image.
WinogradPatch patch_at(const float* image, int64_t height, int64_t width, int64_t channels, int64_t y, int64_t x) {
  WinogradPatch p{};
  p.row = width * channels;
  p.pixel = channels;
  p.image = image + y * p.row + x * p.pixel;
  p.y_begin = -y;
  p.y_end = height - y;
  p.x_begin = -x;
  p.x_end = width - x;
  p.channels = channels;
  return p;
}

}  // namespace

bool winograd_fits(const Conv2dGeometry& g) {
  return g.kernel_height == 3 && g.kernel_width == 3 && g.stride_height == 1 && g.stride_width == 1 &&
         g.dilation_height == 1 && g.dilation_width == 1 && g.groups == 1;
}

WinogradCorrelation::WinogradCorrelation(const Conv2dGeometry& g, bool backward_, int tile)
    : form(&form_of(tile)),
      backward(backward_),
      depth(backward ? g.out_channels : g.in_channels),
      outputs(backward ? g.in_channels : g.out_channels),
      height(backward ? g.out_height : g.height),
      width(backward ? g.out_width : g.width),
      to_height(backward ? g.height : g.out_height),
      to_width(backward ? g.width : g.out_width),
      pad_top(backward ? 2 - g.pad_top : g.pad_top),
      pad_left(backward ? 2 - g.pad_left : g.pad_left),
      tiles_y(ceil_div(to_height, tile)),
      tiles_x(ceil_div(to_width, tile)),
      panel(kernels().gemm.panel_floats),
      lanes(kernels().vector_floats),
      late(points() * depth * outputs > kEarlyWeights) {}

int64_t WinogradCorrelation::block_tiles() const {
  if (points() * depth * outputs > kCachedWeights) return kMostTiles;
  return std::clamp(kBlockFloats / (points() * (round_up(depth, lanes) + panel)), kLeastTiles, kMostTiles);
}

void WinogradCorrelation::pack(const float* kernel, float* packed, Range units_) const {
  constexpr int64_t kWidest = 32;
  alignas(64) float own[9 * kTapsDepth * kWidest];
  const GemmKernels& k = kernels().gemm;
  const int64_t row = backward ? depth : outputs;  // of the kernel's (in, out) matrix of a tap
  const int64_t tap = depth * outputs;
  for (int64_t unit = units_.begin; unit < units_.end; ++unit) {
    const int64_t j = unit * panel, n = std::min(panel, outputs - j), wide = round_up(n, lanes);
    float* u = packed + unit * unit_floats();
    for (int64_t c = 0; c < depth; c += kTapsDepth) {
      const int64_t deep = std::min(kTapsDepth, depth - c);
      float* taps = late ? u + 9 * c * wide : own;
      for (int64_t t = 0; t < 9; ++t) {
        float* to = taps + t * deep * wide;
        if (backward) {  // turned by 180 degrees
          k.pack_transposed(kernel + (8 - t) * tap + j * row + c, row, deep, n, wide, to);
        } else {
          k.pack(kernel + t * tap + c * row + j, row, deep, n, wide, to);
        }
      }
      if (!late) form->kernel(taps, deep * wide, u + c * wide, kernel_point(depth), deep * wide);
    }
  }
}

void WinogradCorrelation::run(const float* source, const float* packed, const float* bias, int32_t activation,
                              float alpha, float* to, Range images, Range rows_, Range units_, float* scratch) const {
  const int64_t of_image = rows_.size() * tiles_x, total = images.size() * of_image;
  if (total <= 0) return;
  const int64_t most = block_tiles(), blocks = parts_of_at_most(total, most);
  const int64_t chunk = chunk_depth(), chunks = parts_of_at_most(depth, chunk);
  float* v = scratch;
  float* m = v + chunks * points() * patch_point(most);
  float* own_u = m + points() * panel_point(most);
  const int64_t size = form->tile;
  const bool afterwards = !is_fused(activation);
  struct Tile {
    int64_t image, y, x;
  };
  const auto tile_at = [&](int64_t index) {
    const int64_t in_image = index % of_image;
    return Tile{images.begin + index / of_image, (rows_.begin + in_image / tiles_x) * size, in_image % tiles_x * size};
  };
  const auto patch_of = [&](int64_t i) {
    const Tile at = tile_at(i);
    return patch_at(source + at.image * height * width * depth, height, width, depth, at.y - pad_top, at.x - pad_left);
  };
  for (int64_t block = 0; block < blocks; ++block) {
    const Range tiles = part_of(total, blocks, block);
    for (int64_t i = tiles.begin; i < tiles.end; ++i) {
      WinogradPatch p = patch_of(i);
      p.next = patch_of(std::min(i + 1, total - 1)).image;
      p.point = patch_point(most);
      for (int64_t c = 0; c < depth; c += chunk) {
        p.channels = std::min(chunk, depth - c);
        p.v = v + c / chunk * points() * p.point + (i - tiles.begin) * round_up(p.channels, lanes);
        form->source(p);
        p.image += chunk;
        p.next += chunk;
      }
    }
    for (int64_t unit = units_.begin; unit < units_.end; ++unit) {
      const int64_t j = unit * panel, n = std::min(panel, outputs - j), wide = round_up(n, lanes);
      GemmArgs a{};
      a.m = tiles.size();
      a.n = wide;
      a.inner = a.m;
      a.a_col = 1;
      a.b_row = wide;
      a.c_row = wide;
      a.batch = 1;
      for (int64_t c = 0; c < depth; c += chunk) {
        a.k = std::min(chunk, depth - c);
        a.a_row = round_up(a.k, lanes);
        a.start = c > 0 ? GemmStart::kChain : GemmStart::kZero;
        const float* u = packed + unit * unit_floats();
        if (late) {
          transform_taps(u + 9 * c * wide, a.k, wide, own_u);
          u = own_u;
        }
        for (int64_t point = 0; point < points(); ++point) {
          a.a = v + (c / chunk * points() + point) * patch_point(most);
          a.b = u + point * kernel_point(a.k);
          a.c = m + point * panel_point(most);
          kernels().gemm.gemm(a);
        }
      }
      for (int64_t i = tiles.begin; i < tiles.end; ++i) {
        const Tile at = tile_at(i);
        WinogradTile t{};
        t.m = m + (i - tiles.begin) * wide;
        t.point = panel_point(most);
        t.row = to_width * outputs;
        t.pixel = outputs;
        const auto result_at = [&](const Tile& tile) {
          return to + tile.image * to_height * to_width * outputs + tile.y * t.row + tile.x * t.pixel + j;
        };
        t.y = result_at(at);
        t.next = result_at(tile_at(std::min(i + 1, total - 1)));
        t.rows = std::min(size, to_height - at.y);
        t.columns = std::min(size, to_width - at.x);
        t.channels = n;
        t.bias = bias ? bias + j : nullptr;
        t.activation = fused(activation, alpha);
        t.alpha = alpha;
        form->result(t);
        if (afterwards) {
          for (int64_t r = 0; r < t.rows; ++r) {
            float* y = t.y + r * t.row;
            activation_forward({t.columns, n, outputs}, activation, alpha, y, y);
          }
        }
      }
    }
  }
}

void WinogradCorrelation::transform_taps(const float* taps, int64_t count, int64_t wide, float* u) const {
  for (int64_t c = 0; c < count; c += kTapsDepth) {
    const int64_t deep = std::min(kTapsDepth, count - c);
    form->kernel(taps + 9 * c * wide, deep * wide, u + c * wide, kernel_point(count), deep * wide);
  }
}

WinogradFilterGradient::WinogradFilterGradient(const Conv2dGeometry& geometry, int tile, int64_t images)
    : g(geometry),
      form(&form_of(tile)),
      tiles_y(ceil_div(g.out_height, tile)),
      tiles_x(ceil_div(g.out_width, tile)),
      images_joined(1),
      panel(kernels().gemm.panel_floats),
      lanes(kernels().vector_floats) {
  if (bands() == 1) {  // a power of two, so that all layers of a program agree on the parts of a batch
    const int64_t most = std::clamp<int64_t>(images, 1, kMostImages);
    images_joined = static_cast<int64_t>(
        std::bit_floor(static_cast<uint64_t>(std::clamp<int64_t>(kChainTiles / (tiles_y * tiles_x), 1, most))));
  }
}

int64_t WinogradFilterGradient::band_rows() const {
  const int64_t parts = parts_of_at_most(tiles_y, std::max<int64_t>(1, kChainTiles / tiles_x));
  return ceil_div(tiles_y, parts);
}

int64_t WinogradFilterGradient::scratch(int64_t) const {
  return points() * (patch_point() + gradient_point() + product_point());
}

void WinogradFilterGradient::run(const float* x, const float* dy, float* dkernel, int64_t images, Range granule,
                                 Range units_, Range rows_, bool fresh, float* scratch) const {
  float* v = scratch;
  float* w = v + points() * patch_point();
  float* m = w + points() * gradient_point();
  const int64_t size = form->tile, tap = g.in_channels * g.out_channels, deep = round_up(rows_.size(), lanes);
  if (fresh && granule.size() <= 0) {
    for (int64_t r = 0; r < 9; ++r) {
      for (int64_t c = rows_.begin; c < rows_.end; ++c) {
        const int64_t begin = units_.begin * panel, end = std::min(g.out_channels, units_.end * panel);
        std::fill_n(dkernel + r * tap + c * g.out_channels + begin, end - begin, 0.0f);
      }
    }
  }
  for (int64_t at = granule.begin; at < granule.end; ++at) {
    const int64_t image = at / bands() * images_joined, count = std::min(images_joined, images - image);
    const int64_t first_row = at % bands() * band_rows(), rows_here = std::min(band_rows(), tiles_y - first_row);
    const int64_t of_image = rows_here * tiles_x, tiles = count * of_image;
    // Transforms the patches that patch_of(image, y, x) finds for all tiles.
    const auto transform = [&](void (*form_patch)(const WinogradPatch&), float* to, int64_t wide, int64_t point,
                               auto&& patch_of) {
      const auto patch = [&](int64_t i) {
        return patch_of(image + i / of_image, (first_row + i % of_image / tiles_x) * size, i % tiles_x * size);
      };
      WinogradPatch p = patch(0);
      for (int64_t i = 0; i < tiles; ++i) {
        const WinogradPatch next = patch(std::min(i + 1, tiles - 1));
        p.next = next.image;
        p.v = to + i * wide;
        p.point = point;
        form_patch(p);
        p = next;
      }
    };
    transform(form->source, v, deep, patch_point(), [&](int64_t of, int64_t y, int64_t column) {
      WinogradPatch p =
          patch_at(x + of * g.in_size(), g.height, g.width, g.in_channels, y - g.pad_top, column - g.pad_left);
      p.image += rows_.begin;
      p.channels = rows_.size();
      return p;
    });
    const bool add = !fresh || at > granule.begin;
    for (int64_t unit = units_.begin; unit < units_.end; ++unit) {
      const int64_t j = unit * panel, n = std::min(panel, g.out_channels - j), wide = round_up(n, lanes);
      transform(form->gradient, w, wide, gradient_point(), [&](int64_t of, int64_t y, int64_t column) {
        WinogradPatch p = patch_at(dy + of * g.out_size(), g.out_height, g.out_width, g.out_channels, y, column);
        p.image += j;
        p.channels = n;
        return p;
      });
      GemmArgs a{};
      a.m = rows_.size();
      a.n = wide;
      a.k = tiles;
      a.inner = a.m;
      a.a_row = 1;
      a.a_col = deep;
      a.b_row = wide;
      a.c_row = wide;
      a.batch = 1;
      for (int64_t point = 0; point < points(); ++point) {
        a.a = v + point * patch_point();
        a.b = w + point * gradient_point();
        a.c = m + point * product_point();
        kernels().gemm.gemm(a);
      }
      for (int64_t c = 0; c < rows_.size(); ++c) {
        form->filter(m + c * wide, product_point(), dkernel + (rows_.begin + c) * g.out_channels + j, tap, n, add);
      }
    }
  }
}

}  // namespace fastbn
