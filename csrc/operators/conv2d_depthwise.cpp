#include "conv2d_depthwise.hpp"

#include <algorithm>
#include <cstring>

#include "kernels/kernel_table.hpp"
#include "pointwise.hpp"

namespace fastbn {
namespace {

// The taps t of output q of an axis whose source q * stride + base + t * delta lies in [0, extent).
Range taps_inside(const Axis& axis, int64_t q, int64_t extent) {
  const int64_t at = q * axis.stride + axis.base;
  const int64_t begin = at >= 0 ? 0 : ceil_div(-at, axis.delta);
  const int64_t end = at >= extent ? 0 : (extent - 1 - at) / axis.delta + 1;
  return {std::min(begin, axis.taps), std::clamp(end, std::min(begin, axis.taps), axis.taps)};
}

// Calls run(first, count, taps) for the columns of an axis from left to right: those with all their taps inside as one.
template <class Run>
void for_columns(const Axis& axis, int64_t extent, Run run) {
  if (axis.count <= 0 || axis.taps <= 0) return;
  const int64_t reach = axis.base + (axis.taps - 1) * axis.delta;
  const int64_t first = std::min(axis.count, axis.base >= 0 ? 0 : ceil_div(-axis.base, axis.stride));
  const int64_t end = std::clamp(reach >= extent ? 0 : (extent - 1 - reach) / axis.stride + 1, first, axis.count);
  for (int64_t q = 0; q < first; ++q) run(q, 1, taps_inside(axis, q, extent));
  if (end > first) run(first, end - first, Range{0, axis.taps});
  for (int64_t q = end; q < axis.count; ++q) run(q, 1, taps_inside(axis, q, extent));
}

// What the block kernels take: three taps side by side, at every source or every other one, and not too much padding
// beside a row of `width` sources.
bool takes_blocks(const Axis& y, const Axis& x, int64_t width) {
  const auto three = [](const Axis& axis) { return axis.taps == 3 && axis.delta == 1; };
  const int64_t outside = std::max(-x.base, (x.count - 1) * x.stride + x.base + 3 - width);
  return three(y) && three(x) && y.stride == x.stride && y.stride <= 2 &&
         outside <= kernels().convolution.columns_outside;
}

// Pixels that lie a multiple of 2 KiB apart fall into few sets of the caches, and rows of them drive each other out.
// They are copied, a slice of their channels at a time, to where they lie side by side, as many rows as stay in the
// cache.
constexpr int64_t kSlice = 64, kSliceFloats = 1 << 14;

std::string slices_text() { return concatenate(", slices of ", kSlice, " channels copied"); }

bool copies_slices(int64_t channels) { return channels * int64_t{sizeof(float)} % 2048 == 0; }

int64_t source_rows(int64_t rows, int64_t stride) { return (rows - 1) * stride + 3; }

// Output rows whose sources, and `beside` more pixels for each row, are copied at once. Each takes stride rows of
// sources, and all of them 3 - stride more.
int64_t rows_of_slice(int64_t width, int64_t stride, int64_t beside) {
  const int64_t pixels = kSliceFloats / kSlice - (3 - stride) * width;
  return std::max<int64_t>(1, pixels / (stride * width + beside));
}
int64_t slice_floats(int64_t width, int64_t stride, int64_t beside) {
  const int64_t rows = rows_of_slice(width, stride, beside);
  return (source_rows(rows, stride) * width + rows * beside + 9) * kSlice;  // and a slice of the taps
}

void copy_slice(const float* from, int64_t channels, int64_t pixels, float* to) {
  for (int64_t i = 0; i < pixels; ++i) std::copy_n(from + i * channels, kSlice, to + i * kSlice);
}

// Copies a slice of the sources of output rows `q`, those inside the image, and lets a block read it.
template <class Block>
float* copy_sources(const float* x, int64_t channels, const Axis& up, const Axis& along, int64_t height, int64_t width,
                    Range q, float* to, Block* block) {
  const int64_t first = q.begin * up.stride + up.base, end = first + source_rows(q.size(), up.stride);
  const int64_t begin = std::clamp<int64_t>(first, 0, height), inside = std::clamp(end, begin, height) - begin;
  copy_slice(x + begin * width * channels, channels, inside * width, to);
  block->x = to;
  block->channels = kSlice;
  block->x_up = width * kSlice;
  block->origin = (first - begin) * block->x_up + along.base * kSlice;
  block->rows = q.size();
  block->row_begin = -first;
  block->row_end = height - first;
  return to + inside * width * kSlice;
}

}  // namespace

bool is_depthwise(const Conv2dGeometry& g) {
  return g.groups > 1 && g.groups == g.in_channels && g.groups == g.out_channels;
}

DepthwiseCorrelation::DepthwiseCorrelation(const Conv2dGeometry& geometry, bool backward_)
    : g(geometry), backward(backward_) {
  height = backward ? g.out_height : g.height;
  width = backward ? g.out_width : g.width;
  to_height = backward ? g.height : g.out_height;
  to_width = backward ? g.width : g.out_width;
  phases_y = backward ? std::min(g.stride_height, g.height) : 1;
  phases_x = backward ? std::min(g.stride_width, g.width) : 1;
  spreads = backward && g.kernel_height == 3 && g.kernel_width == 3 && g.stride_height == 2 && g.stride_width == 2 &&
            g.dilation_height == 1 && g.dilation_width == 1;
  blocks = phases_y == 1 && phases_x == 1 && takes_blocks(axis_y(0), axis_x(0), width);
  slices = blocks && copies_slices(g.in_channels);
  if (spreads) {
    phase_rows = (g.height + g.pad_top + 1) / 2 - g.pad_top / 2;
    taps = 9;
    return;
  }
  phase_rows = 0;
  int64_t taps_y = 0, taps_x = 0;
  for (int64_t p = 0; p < phases_y; ++p) {
    phase_rows = std::max(phase_rows, axis_y(p).count);
    taps_y += axis_y(p).taps;
  }
  for (int64_t p = 0; p < phases_x; ++p) taps_x += axis_x(p).taps;
  taps = taps_y * taps_x;
}

std::string DepthwiseCorrelation::tile() const {
  if (spreads) return "two rows at a time";
  if (!blocks) return "row by row";
  return text(kernels().convolution.block_tile) + (slices ? slices_text() : "");
}

// Phase by phase: (tap, channel).
void DepthwiseCorrelation::pack(const float* kernel, float* packed, Range /*units*/) const {
  if (spreads) {
    std::copy_n(kernel, taps * g.in_channels, packed);
    return;
  }
  for (int64_t py = 0; py < phases_y; ++py) {
    for (int64_t px = 0; px < phases_x; ++px) {
      const Axis y = axis_y(py), x = axis_x(px);
      for (int64_t ty = 0; ty < y.taps; ++ty) {
        for (int64_t tx = 0; tx < x.taps; ++tx) {
          const int64_t tap = (y.tap_first + ty * y.tap_step) * g.kernel_width + x.tap_first + tx * x.tap_step;
          std::memcpy(packed, kernel + tap * g.in_channels, static_cast<size_t>(g.in_channels) * sizeof(float));
          packed += g.in_channels;
        }
      }
    }
  }
}

// Pairs of rows of dx, an even and an odd one with the padding counted.
void DepthwiseCorrelation::spread(const float* dy, const float* kernel, float* dx, Range images, Range pairs) const {
  const int64_t channels = g.in_channels, pitch = g.out_width * channels, to_pitch = g.width * channels;
  DepthwiseSpreadArgs a{};
  a.w = kernel;
  a.dy_columns = g.out_width;
  a.dx_columns = g.width;
  a.pad_left = g.pad_left;
  a.channels = channels;
  for (int64_t image = images.begin; image < images.end; ++image) {
    const float* from = dy + image * g.out_size();
    float* to = dx + image * g.in_size();
    const auto row_from = [&](int64_t i) { return i >= 0 && i < g.out_height ? from + i * pitch : nullptr; };
    const auto row_to = [&](int64_t i) { return i >= 0 && i < g.height ? to + i * to_pitch : nullptr; };
    for (int64_t i = pairs.begin; i < pairs.end; ++i) {
      const int64_t j = i + g.pad_top / 2;
      a.above = row_from(j - 1);
      a.below = row_from(j);
      a.even = row_to(2 * j - g.pad_top);
      a.odd = row_to(2 * j + 1 - g.pad_top);
      kernels().convolution.depthwise_spread(a);
    }
  }
}

void DepthwiseCorrelation::run(const float* source, const float* packed, const float* bias, int32_t activation,
                               float alpha, float* to, Range images, Range q, Range /*units*/, float* scratch) const {
  if (spreads) return spread(source, packed, to, images, q);
  const int64_t channels = g.in_channels, pitch = width * channels, to_pitch = to_width * channels;
  DepthwiseArgs a{};
  a.channels = channels;
  a.x_up = 0;
  a.bias = bias;
  a.activation = fused(activation, alpha);
  a.alpha = alpha;
  const Axis first_y = axis_y(0), first_x = axis_x(0);
  for (int64_t image = images.begin; image < images.end; ++image) {
    const float* from = source + image * height * pitch;
    float* image_to = to + image * to_height * to_pitch;
    if (blocks) {
      DepthwiseBlockArgs block{};
      block.x = from;
      block.origin = (q.begin * first_y.stride + first_y.base) * pitch + first_x.base * channels;
      block.w = packed;
      block.y = image_to + q.begin * to_pitch;
      block.rows = q.size();
      block.columns = first_x.count;
      block.channels = channels;
      block.stride = first_y.stride;
      block.x_up = pitch;
      block.y_up = to_pitch;
      block.y_step = channels;
      block.row_begin = -(q.begin * first_y.stride + first_y.base);
      block.row_end = height + block.row_begin;
      block.column_begin = -first_x.base;
      block.column_end = width - first_x.base;
      block.bias = bias;
      block.activation = a.activation;
      block.alpha = alpha;
      if (slices) {
        run_slices(block, from, packed, bias, image_to, q, scratch);
      } else {
        kernels().convolution.depthwise_block(block);
      }
    }
    for (int64_t i = q.begin; !blocks && i < q.end; ++i) {
      const float* phase = packed;
      for (int64_t py = 0; py < phases_y; ++py) {
        const Axis y = axis_y(py);
        const Range up = taps_inside(y, i, height);
        for (int64_t px = 0; px < phases_x; ++px) {
          const Axis x = axis_x(px);
          float* row = image_to + (y.first + i * y.step) * to_pitch + x.first * channels;
          a.x_step = x.stride * channels;
          a.y_step = x.step * channels;
          a.taps_up = up.size();
          a.x_up = y.delta * pitch;
          a.x_along = x.delta * channels;
          a.w_up = x.taps * channels;
          const auto columns = [&](int64_t first, int64_t count, Range along) {
            a.x = from + (i * y.stride + y.base + up.begin * y.delta) * pitch +
                  (first * x.stride + x.base + along.begin * x.delta) * channels;
            a.w = phase + (up.begin * x.taps + along.begin) * channels;
            a.y = row + first * a.y_step;
            a.columns = count;
            a.taps_along = along.size();
            kernels().convolution.depthwise_row(a);
          };
          if (i < y.count) {
            if (x.taps > 0) {
              for_columns(x, width, columns);
            } else {
              columns(0, x.count, Range{0, 0});
            }
          }
          phase += y.taps * x.taps * channels;
        }
      }
    }
    if (a.activation != activation) {  // forward only: one phase
      float* at = image_to + q.begin * to_pitch;
      activation_forward({q.size() * to_width, channels, channels}, activation, alpha, at, at);
    }
  }
}

// block: all but what belongs to a slice.
void DepthwiseCorrelation::run_slices(DepthwiseBlockArgs block, const float* from, const float* packed,
                                      const float* bias, float* to, Range q, float* scratch) const {
  const Axis up = axis_y(0), along = axis_x(0);
  const int64_t channels = g.in_channels, most = rows_of_slice(width, up.stride, 0);
  for (int64_t c = 0; c < channels; c += kSlice) {
    copy_slice(packed + c, channels, 9, scratch);
    for (Range rows{q.begin, 0}; rows.begin < q.end; rows.begin = rows.end) {
      rows.end = std::min(q.end, rows.begin + most);
      copy_sources(from + c, channels, up, along, height, width, rows, scratch + 9 * kSlice, &block);
      block.w = scratch;
      block.y = to + rows.begin * block.y_up + c;
      block.bias = bias ? bias + c : nullptr;
      kernels().convolution.depthwise_block(block);
    }
  }
}

int64_t DepthwiseCorrelation::scratch() const { return slices ? slice_floats(width, axis_y(0).stride, 0) : 0; }

std::string DepthwiseFilterGradient::tile() const {
  if (!blocks()) return "row by row";
  return text(kernels().convolution.filter_block_tile) + (slices() ? slices_text() : "");
}

// A granule is a band of rows of one image; its sums are chains of their own, then added.
void DepthwiseFilterGradient::run(const float* x, const float* dy, float* dkernel, int64_t /*images*/, Range granule,
                                  Range /*units*/, Range /*rows*/, bool fresh, float* scratch) const {
  const int64_t channels = g.in_channels, pitch = g.width * channels;
  const Axis up = axis_y(), along = axis_x();
  const bool blocks = this->blocks(), slices = this->slices();
  DepthwiseFilterArgs a{};
  a.channels = channels;
  a.x_step = along.stride * channels;
  a.x_up = up.delta * pitch;
  a.x_along = along.delta * channels;
  a.dw_up = g.kernel_width * channels;
  for (int64_t at = granule.begin; at < granule.end; ++at) {
    const int64_t image = at / bands(), y0 = at % bands() * band_rows();
    const float* from = x + image * g.in_size();
    const float* gradient = dy + image * g.out_size();
    const bool first_sums = fresh && at == granule.begin;
    const int64_t y1 = std::min(g.out_height, y0 + band_rows());
    if (slices) {
      run_slices(from, gradient, dkernel, {y0, y1}, first_sums, scratch);
      continue;
    }
    float* sums = first_sums ? dkernel : scratch;
    std::fill_n(sums, g.kernel_size(), 0.0f);
    const auto row_part = [&](int64_t i, int64_t first, int64_t count, Range v) {
      const Range u = taps_inside(up, i, g.height);
      if (u.size() <= 0) return;
      a.taps_up = u.size();
      a.x = from + (i * up.stride + up.base + u.begin * up.delta) * pitch +
            (first * along.stride + along.base + v.begin * along.delta) * channels;
      a.dy = gradient + (i * g.out_width + first) * channels;
      a.dw = sums + (u.begin * g.kernel_width + v.begin) * channels;
      a.columns = count;
      a.taps_along = v.size();
      kernels().convolution.depthwise_filter_row(a);
    };
    if (blocks) {
      DepthwiseFilterBlockArgs block{};
      block.x = from;
      block.dw = sums;
      block.columns = g.out_width;
      block.channels = channels;
      block.stride = up.stride;
      block.x_up = pitch;
      block.dy_up = g.out_width * channels;
      block.column_begin = -along.base;
      block.column_end = g.width - along.base;
      block.origin = (y0 * up.stride + up.base) * pitch + along.base * channels;
      block.dy = gradient + y0 * block.dy_up;
      block.rows = y1 - y0;
      block.row_begin = -(y0 * up.stride + up.base);
      block.row_end = g.height + block.row_begin;
      kernels().convolution.depthwise_filter_block(block);
    }
    for (int64_t i = y0; !blocks && i < y1; ++i) {
      for_columns(along, g.width, [&](int64_t first, int64_t count, Range v) { row_part(i, first, count, v); });
    }
    for (int64_t j = 0; sums != dkernel && j < g.kernel_size(); ++j) dkernel[j] += sums[j];
  }
}

void DepthwiseFilterGradient::run_slices(const float* x, const float* dy, float* dkernel, Range rows, bool fresh,
                                         float* scratch) const {
  const Axis up = axis_y(), along = axis_x();
  const int64_t channels = g.in_channels, most = rows_of_slice(g.width, up.stride, g.out_width);
  DepthwiseFilterBlockArgs block{};
  block.dw = scratch;
  block.columns = g.out_width;
  block.stride = up.stride;
  block.dy_up = g.out_width * kSlice;
  block.column_begin = -along.base;
  block.column_end = g.width - along.base;
  for (int64_t c = 0; c < channels; c += kSlice) {
    std::fill_n(block.dw, 9 * kSlice, 0.0f);
    for (Range part{rows.begin, 0}; part.begin < rows.end; part.begin = part.end) {
      part.end = std::min(rows.end, part.begin + most);
      float* gradient = copy_sources(x + c, channels, up, along, g.height, g.width, part, scratch + 9 * kSlice, &block);
      copy_slice(dy + part.begin * g.out_width * channels + c, channels, part.size() * g.out_width, gradient);
      block.dy = gradient;
      kernels().convolution.depthwise_filter_block(block);
    }
    for (int64_t tap = 0; tap < 9; ++tap) {
      float* to = dkernel + tap * channels + c;
      const float* sums = block.dw + tap * kSlice;
      for (int64_t j = 0; j < kSlice; ++j) to[j] = fresh ? sums[j] : to[j] + sums[j];
    }
  }
}

int64_t DepthwiseFilterGradient::scratch(int64_t unit_count) const {
  const int64_t sums = unit_count * round_up(g.kernel_size(), 16);
  return slices() ? slice_floats(g.width, g.stride_height, g.out_width) : sums;
}

bool DepthwiseFilterGradient::blocks() const { return takes_blocks(axis_y(), axis_x(), g.width); }
bool DepthwiseFilterGradient::slices() const { return blocks() && copies_slices(g.in_channels); }

}  // namespace fastbn
