// conv2d: geometry, the passes as loops around the gemm and depthwise kernels, and the C functions over them.
#include "conv2d.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "checks.hpp"
#include "dense.hpp"
#include "kernels/kernel_table.hpp"
#include "pointwise.hpp"
#include "runtime/executor.hpp"
#include "runtime/memory.hpp"
#include "runtime/status.hpp"

namespace fastbn {
namespace {

// Block sizes; those of the first group leave the bits alone.
constexpr int64_t kBandFloats = 96 * 1024;     // source rows of one block: with the weights of a panel they fit into L2
constexpr int64_t kWrittenFloats = 48 * 1024;  // written by a block of a convolution with small weights
constexpr int64_t kSmallWeights = 64 * 1024;
constexpr int64_t kBlockImages = 8;   // most images that share one pass over the weights
constexpr int64_t kTilesOfBlock = 8;  // tiles of rows that share the packed gradient in backward_filter
// Reduction order of backward_filter: sums over this many pixels are chains, then added up.
constexpr int64_t kChainPixels = 512;
constexpr int64_t kFilterChunks = 16;           // partial sums of a whole call
constexpr int64_t kPartialFloats = 128 * 1024;  // of a kernel that is worth partial sums
constexpr int64_t kBiasChunks = 16;

constexpr int64_t kLongestExtent = int64_t{1} << 31;  // of any size in the descriptor, so that sums cannot overflow

int64_t round_up(int64_t n, int64_t grain) { return (n + grain - 1) / grain * grain; }
int64_t parts_of_at_most(int64_t total, int64_t most) { return std::max<int64_t>(1, (total + most - 1) / most); }

int32_t fused(int32_t activation) {
  return activation == FBN_RELU || activation == FBN_LEAKY_RELU ? activation : FBN_LINEAR;
}

// One axis of a correlation: output q in [0, count) stands at first + q * step and is the sum over taps t of source
// q * stride + base + t * delta times the kernel at tap_first + t * tap_step.
struct Axis {
  int64_t first, step, count, stride, base, delta, taps, tap_first, tap_step;
  int64_t lowest() const { return base; }
  int64_t highest() const { return (count - 1) * stride + base + (taps - 1) * delta; }
  bool reads() const { return count > 0 && taps > 0; }
};

Axis forward_axis(int64_t out, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad) {
  return {0, 1, out, stride, -pad, dilation, kernel, 0, 1};
}

// Inputs at phase + q * stride meet the taps k with phase + pad - k * dilation = stride * (output), that is every
// stride / gcd(stride, dilation)-th one, in falling order; taken in rising order of the output.
Axis backward_axis(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad, int64_t phase) {
  Axis axis{phase, stride, (in - phase + stride - 1) / stride, 1, 0, 1, 0, 0, 0};
  const int64_t common = std::gcd(stride, dilation), period = stride / common;
  for (int64_t k = 0; k < std::min(kernel, period); ++k) {
    if ((phase + pad - k * dilation) % stride != 0) continue;
    axis.taps = (kernel - 1 - k) / period + 1;
    axis.tap_first = k + (axis.taps - 1) * period;
    axis.tap_step = -period;
    axis.base = (phase + pad - axis.tap_first * dilation) / stride;
    axis.delta = dilation / common;
    break;
  }
  return axis;
}

// What forward and backward_data have in common: every phase (one in forward, one for each offset within the stride in
// backward) is a correlation of the source with its own taps.
struct Correlation {
  Conv2dGeometry g;
  bool backward;
  bool depthwise;
  int64_t height, width, channels;           // of the source
  int64_t to_height, to_width, to_channels;  // of the destination
  int64_t depth, outputs;                    // channels of one group: summed over, produced
  int64_t phases_y, phases_x;
  int64_t low_y, high_y, ext_y;  // source rows relative to q * stride_y; ext_y is the height that one q needs
  int64_t rows;                  // most q rows of a phase
  int64_t stride_y;
  int64_t pad_left, pad_right;
  bool padded;
  int64_t taps_y, taps_x;  // of all phases
  bool gaps;               // some phase has no taps: its outputs are zero
  int64_t panel, lanes;

  Correlation(const Conv2dGeometry& geometry, bool backward_, bool depthwise_)
      : g(geometry), backward(backward_), depthwise(depthwise_) {
    height = backward ? g.out_height : g.height;
    width = backward ? g.out_width : g.width;
    channels = backward ? g.out_channels : g.in_channels;
    to_height = backward ? g.height : g.out_height;
    to_width = backward ? g.width : g.out_width;
    to_channels = backward ? g.in_channels : g.out_channels;
    depth = channels / g.groups;
    outputs = to_channels / g.groups;
    phases_y = backward ? std::min(g.stride_height, g.height) : 1;
    phases_x = backward ? std::min(g.stride_width, g.width) : 1;
    stride_y = backward ? 1 : g.stride_height;
    panel = kernels().gemm.panel_floats;
    lanes = kernels().vector_floats;
    rows = 0;
    taps_y = taps_x = 0;
    gaps = false;
    bool any = false;
    int64_t lowest_y = 0, highest_y = 0;
    low_y = high_y = 0;
    for (int64_t p = 0; p < phases_y; ++p) {
      const Axis y = axis_y(p);
      rows = std::max(rows, y.count);
      taps_y += y.taps;
      gaps = gaps || y.taps == 0;
      if (!y.reads()) continue;
      const int64_t last_tap = y.base + (y.taps - 1) * y.delta;
      low_y = any ? std::min(low_y, y.base) : y.base;
      high_y = any ? std::max(high_y, last_tap) : last_tap;
      lowest_y = any ? std::min(lowest_y, y.lowest()) : y.lowest();
      highest_y = any ? std::max(highest_y, y.highest()) : y.highest();
      any = true;
    }
    ext_y = high_y - low_y + 1;
    int64_t lowest_x = 0, highest_x = 0;
    for (int64_t p = 0; p < phases_x; ++p) {
      const Axis x = axis_x(p);
      taps_x += x.taps;
      gaps = gaps || x.taps == 0;
      if (!x.reads()) continue;
      lowest_x = std::min(lowest_x, x.lowest());
      highest_x = std::max(highest_x, x.highest());
    }
    pad_left = -lowest_x;
    pad_right = std::max<int64_t>(0, highest_x - (width - 1));
    padded = pad_left > 0 || pad_right > 0 || lowest_y < 0 || highest_y > height - 1;
  }

  Axis axis_y(int64_t phase) const {
    return backward ? backward_axis(g.height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top, phase)
                    : forward_axis(g.out_height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top);
  }
  Axis axis_x(int64_t phase) const {
    return backward ? backward_axis(g.width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left, phase)
                    : forward_axis(g.out_width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left);
  }

  // Units are the panels of all groups; every phase has the same.
  int64_t panels() const { return depthwise ? 1 : (outputs + panel - 1) / panel; }
  int64_t units() const { return depthwise ? 1 : g.groups * panels(); }
  int64_t packed_width() const { return depthwise ? channels : g.groups * round_up(outputs, lanes) * depth; }
  int64_t packed_size() const { return round_up(std::max<int64_t>(1, taps_y * taps_x * packed_width()), 16); }

  // The channels that units [begin, end) produce.
  Range unit_channels(Range of) const {
    const auto first = [&](int64_t unit) {
      return unit == units() ? to_channels : unit / panels() * outputs + unit % panels() * panel;
    };
    return depthwise ? Range{0, to_channels} : Range{first(of.begin), first(of.end)};
  }
  // Taps along a row and their channels are one contiguous run of the source.
  bool merged(const Axis& x) const { return g.groups == 1 && (x.delta == 1 || x.taps == 1); }

  int64_t pitch() const { return (padded ? pad_left + width + pad_right : width) * channels; }
  int64_t source_rows(int64_t q_rows) const { return (q_rows - 1) * stride_y + ext_y; }
  // q rows of a block. Where the weights are small, what a block writes should stay in L2 too: each panel writes a few
  // channels of every pixel.
  int64_t band_rows() const {
    const int64_t fit = kBandFloats / pitch();
    int64_t most = fit > ext_y ? (fit - ext_y) / stride_y + 1 : 1;
    if (packed_size() <= kSmallWeights) {
      const int64_t written = (backward ? g.stride_height : 1) * to_width * to_channels;
      const int64_t least = (4 * kernels().gemm.tile_rows + to_width - 1) / to_width;
      most = std::min(most, std::max(kWrittenFloats / written, least));
    }
    const int64_t bands = parts_of_at_most(rows, most);
    return (rows + bands - 1) / bands;
  }
  int64_t block_images() const {
    if (band_rows() < rows) return 1;
    return std::clamp<int64_t>(2 * kBandFloats / (source_rows(rows) * pitch()), 1, kBlockImages);
  }
  int64_t table_entries() const { return g.kernel_height * g.kernel_width; }
  int64_t table_floats() const { return round_up(table_entries() * 4, 16); }  // two tables of int64
  int64_t copy_floats() const { return round_up(source_rows(band_rows()) * pitch(), 16); }
  int64_t scratch() const { return table_floats() + (padded ? block_images() * copy_floats() : 0); }

  void pack(const float* kernel, float* packed, int64_t unit_begin, int64_t unit_end) const;
  void copy_rows(const float* source, int64_t first, int64_t count, float* to) const;
  void run(const float* source, const float* packed, const float* bias, int32_t activation, float alpha, float* to,
           Range images, Range q, Range units, float* scratch) const;
  void run_depthwise(const float* source, const float* packed, const float* bias, int32_t activation, float alpha,
                     float* to, Range q, int64_t copied_from) const;
};

void Correlation::pack(const float* kernel, float* packed, int64_t unit_begin, int64_t unit_end) const {
  const GemmKernels& k = kernels().gemm;
  float* phase = packed;
  for (int64_t py = 0; py < phases_y; ++py) {
    for (int64_t px = 0; px < phases_x; ++px) {
      const Axis y = axis_y(py), x = axis_x(px);
      const int64_t taps = y.taps * x.taps;
      for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
        const int64_t group = unit / panels(), j = unit % panels() * panel;
        const int64_t n = std::min(panel, outputs - j), wide = round_up(n, lanes);
        float* at = depthwise ? phase : phase + taps * depth * (group * round_up(outputs, lanes) + j);
        for (int64_t ty = 0; ty < y.taps; ++ty) {
          for (int64_t tx = 0; tx < x.taps; ++tx) {
            const int64_t tap = (y.tap_first + ty * y.tap_step) * g.kernel_width + x.tap_first + tx * x.tap_step;
            const float* from = kernel + tap * (g.in_channels / g.groups) * g.out_channels;
            if (depthwise) {
              std::memcpy(at, from, static_cast<size_t>(channels) * sizeof(float));
              at += channels;
            } else if (backward) {
              k.pack_transposed(from + j * g.out_channels + group * depth, g.out_channels, depth, n, wide, at);
              at += depth * wide;
            } else {
              k.pack(from + group * outputs + j, g.out_channels, depth, n, wide, at);
              at += depth * wide;
            }
          }
        }
      }
      phase += taps * packed_width();
    }
  }
}

// Source rows [first, first + count) with their padding, zero where there is no source.
void Correlation::copy_rows(const float* source, int64_t first, int64_t count, float* to) const {
  const int64_t left = pad_left * channels, middle = width * channels, right = pad_right * channels;
  for (int64_t r = first; r < first + count; ++r) {
    if (r < 0 || r >= height) {
      std::fill_n(to, left + middle + right, 0.0f);
    } else {
      std::fill_n(to, left, 0.0f);
      std::memcpy(to + left, source + r * middle, static_cast<size_t>(middle) * sizeof(float));
      std::fill_n(to + left + middle, right, 0.0f);
    }
    to += left + middle + right;
  }
}

void Correlation::run_depthwise(const float* source, const float* packed, const float* bias, int32_t activation,
                                float alpha, float* to, Range q, int64_t copied_from) const {
  const float* phase = packed;
  for (int64_t py = 0; py < phases_y; ++py) {
    for (int64_t px = 0; px < phases_x; ++px) {
      const Axis y = axis_y(py), x = axis_x(px);
      if (y.taps * x.taps == 0) continue;
      for (int64_t i = q.begin; i < std::min(q.end, y.count); ++i) {
        DepthwiseArgs a{};
        a.x = source + (i * y.stride + y.base - copied_from) * pitch() + (x.base + pad_left) * channels;
        a.w = phase;
        a.y = to + ((y.first + i * y.step) * to_width + x.first) * to_channels;
        a.columns = x.count;
        a.channels = channels;
        a.x_step = x.stride * channels;
        a.y_step = x.step * channels;
        a.taps_up = y.taps;
        a.taps_along = x.taps;
        a.x_up = y.delta * pitch();
        a.x_along = x.delta * channels;
        a.bias = bias;
        a.activation = activation;
        a.alpha = alpha;
        kernels().convolution.depthwise_row(a);
      }
      phase += y.taps * x.taps * packed_width();
    }
  }
}

// Rows q of every phase, the channels of `units`, of images [begin, end).
void Correlation::run(const float* source, const float* packed, const float* bias, int32_t activation, float alpha,
                      float* to, Range images, Range q, Range units, float* scratch) const {
  const GemmKernels& k = kernels().gemm;
  const int64_t source_size = height * width * channels, to_size = to_height * to_width * to_channels;
  int64_t* a_offset = reinterpret_cast<int64_t*>(scratch);
  int64_t* b_offset = a_offset + table_entries();
  float* copies = scratch + table_floats();
  const int64_t copy_size = copy_floats();
  const int64_t most_rows = band_rows(), most_images = block_images();
  const Range columns = unit_channels(units);
  for (int64_t image = images.begin; image < images.end; image += most_images) {
    const int64_t count = std::min(most_images, images.end - image);
    for (int64_t q0 = q.begin; q0 < q.end; q0 += most_rows) {
      const Range band{q0, std::min(q.end, q0 + most_rows)};
      const int64_t copied_from = padded ? band.begin * stride_y + low_y : 0;
      if (padded) {
        for (int64_t i = 0; i < count; ++i) {
          copy_rows(source + (image + i) * source_size, copied_from, source_rows(band.size()), copies + i * copy_size);
        }
      }
      if (gaps) {  // zeros in order, instead of with the stride of each empty phase
        const int64_t row = band.begin * axis_y(0).step, end = std::min(to_height, band.end * axis_y(0).step);
        for (int64_t i = 0; i < count; ++i) {
          float* at = to + (image + i) * to_size + row * to_width * to_channels;
          const int64_t pixels = (end - row) * to_width;
          if (columns.size() == to_channels) {
            std::fill_n(at, pixels * to_channels, 0.0f);
          } else {
            for (int64_t p = 0; p < pixels; ++p) {
              std::fill_n(at + p * to_channels + columns.begin, columns.size(), 0.0f);
            }
          }
        }
      }
      const auto image_source = [&](int64_t i) {
        return padded ? copies + i * copy_size : source + (image + i) * source_size;
      };
      if (depthwise) {
        for (int64_t i = 0; i < count; ++i) {
          run_depthwise(image_source(i), packed, bias, fused(activation), alpha, to + (image + i) * to_size, band,
                        copied_from);
        }
      } else {
        const float* phase = packed;
        for (int64_t py = 0; py < phases_y; ++py) {
          for (int64_t px = 0; px < phases_x; ++px) {
            const Axis y = axis_y(py), x = axis_x(px);
            const int64_t taps = y.taps * x.taps;
            if (taps == 0) continue;
            const int64_t rows_here = std::min(band.end, y.count) - band.begin;
            const bool one_run = merged(x);
            const int64_t along = one_run ? 1 : x.taps;
            GemmArgs a{};
            a.m = std::max<int64_t>(0, rows_here) * x.count;
            a.k = one_run ? x.taps * depth : depth;
            a.inner = std::max<int64_t>(1, x.count);
            a.a_outer = y.stride * pitch();
            a.a_row = x.stride * channels;
            a.a_col = 1;
            a.c_outer = y.step * to_width * to_channels;
            a.c_row = x.step * to_channels;
            a.batch = y.taps * along;
            a.a_offset = a_offset;
            a.b_offset = b_offset;
            a.activation = fused(activation);
            a.alpha = alpha;
            for (int64_t e = 0; e < a.batch; ++e) {
              a_offset[e] = e / along * y.delta * pitch() + e % along * x.delta * channels;
            }
            for (int64_t unit = units.begin; unit < units.end; ++unit) {
              const int64_t group = unit / panels(), j = unit % panels() * panel;
              a.n = std::min(panel, outputs - j);
              a.b_row = round_up(a.n, lanes);
              a.b = phase + taps * depth * (group * round_up(outputs, lanes) + j);
              for (int64_t e = 0; e < a.batch; ++e) b_offset[e] = e * a.k * a.b_row;
              a.bias = bias ? bias + group * outputs + j : nullptr;
              for (int64_t i = 0; i < count; ++i) {
                a.a = image_source(i) + (band.begin * y.stride + y.base - copied_from) * pitch() +
                      (x.base + pad_left) * channels + group * depth;
                a.c = to + (image + i) * to_size + group * outputs + j +
                      ((y.first + band.begin * y.step) * to_width + x.first) * to_channels;
                k.gemm(a);
              }
            }
            phase += taps * packed_width();
          }
        }
      }
      if (fused(activation) != activation) {  // forward only: one phase, all columns
        for (int64_t i = 0; i < count; ++i) {
          float* at = to + (image + i) * to_size + band.begin * to_width * to_channels + columns.begin;
          activation_forward({band.size() * to_width, columns.size(), to_channels}, activation, alpha, at, at);
        }
      }
    }
  }
}

// backward_filter. A granule is what one chain sums over: a band of rows of one image, or several small images.
struct FilterGradient {
  Conv2dGeometry g;
  Correlation source;  // the forward one: its padding, pitch and copies
  bool depthwise;
  int64_t images_joined;
  int64_t depth, outputs, panel, lanes;

  // joined: several small images may share a chain; `images` is then their number in the whole call.
  FilterGradient(const Conv2dGeometry& geometry, bool depthwise_, bool joined, int64_t images)
      : g(geometry),
        source(geometry, false, depthwise_),
        depthwise(depthwise_),
        images_joined(1),
        depth(g.in_channels / g.groups),
        outputs(g.out_channels / g.groups),
        panel(kernels().gemm.panel_floats),
        lanes(kernels().vector_floats) {
    if (joined && !depthwise && bands() == 1) {
      const int64_t by_length = kChainPixels / (g.out_height * g.out_width);
      const int64_t by_bytes = 2 * kBandFloats / (source.source_rows(g.out_height) * source.pitch());
      images_joined = std::clamp<int64_t>(std::min(by_length, by_bytes), 1, std::max<int64_t>(1, images));
    }
  }

  int64_t band_rows() const {
    const int64_t parts = parts_of_at_most(g.out_height, std::max<int64_t>(1, kChainPixels / g.out_width));
    return (g.out_height + parts - 1) / parts;
  }
  int64_t bands() const { return (g.out_height + band_rows() - 1) / band_rows(); }
  int64_t granules(int64_t images) const { return (images + images_joined - 1) / images_joined * bands(); }
  int64_t panels() const { return (outputs + panel - 1) / panel; }
  int64_t units() const { return depthwise ? 1 : g.groups * panels(); }
  int64_t kernel_rows() const { return g.kernel_height * g.kernel_width * depth; }  // rows of the gradient matrix

  // Whole output rows follow each other in the source without a gap.
  bool gapless() const { return g.stride_height * source.pitch() == g.out_width * g.stride_width * g.in_channels; }
  int64_t table_entries() const { return images_joined * band_rows(); }
  int64_t table_floats() const { return round_up(4 * table_entries(), 16); }
  int64_t copy_floats() const { return round_up(source.source_rows(band_rows()) * source.pitch(), 16); }
  int64_t gradient_floats(int64_t unit_count) const {
    return depthwise ? 0 : round_up(images_joined * band_rows() * g.out_width * panel * unit_count, 16);
  }
  int64_t scratch(int64_t unit_count) const {
    return table_floats() + (source.padded ? images_joined * copy_floats() : 0) + gradient_floats(unit_count);
  }

  void run(const float* x, const float* dy, float* dkernel, int64_t images, Range granule, Range units,
           Range rows_of_kernel, bool fresh, float* scratch) const;
};

// dkernel (+)= granules [begin, end), one after the other; the first overwrites where `fresh`.
void FilterGradient::run(const float* x, const float* dy, float* dkernel, int64_t images, Range granule, Range units,
                         Range rows_of_kernel, bool fresh, float* scratch) const {
  const GemmKernels& k = kernels().gemm;
  int64_t* a_offset = reinterpret_cast<int64_t*>(scratch);
  int64_t* b_offset = a_offset + table_entries();
  float* copies = scratch + table_floats();
  const int64_t copy_size = copy_floats(), pitch = source.pitch();
  float* gradient = copies + (source.padded ? images_joined * copy_size : 0);
  const bool one_run = g.groups == 1 && (g.dilation_width == 1 || g.kernel_width == 1);
  if (fresh && (depthwise || granule.size() <= 0)) {
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      const int64_t j = unit / panels() * outputs + unit % panels() * panel;
      const int64_t n = depthwise ? g.out_channels : std::min(panel, outputs - unit % panels() * panel);
      for (int64_t r = rows_of_kernel.begin; r < rows_of_kernel.end; ++r) {
        std::fill_n(dkernel + r * g.out_channels + j, n, 0.0f);
      }
    }
  }
  for (int64_t at = granule.begin; at < granule.end; ++at) {
    const int64_t image = at / bands() * images_joined;
    const int64_t count = std::min(images_joined, images - image);
    const int64_t y0 = at % bands() * band_rows(), rows = std::min(band_rows(), g.out_height - y0);
    const int64_t copied_from = source.padded ? y0 * g.stride_height - g.pad_top : 0;
    if (source.padded) {
      for (int64_t i = 0; i < count; ++i) {
        source.copy_rows(x + (image + i) * g.in_size(), copied_from, source.source_rows(rows), copies + i * copy_size);
      }
    }
    const int64_t image_pitch = source.padded ? copy_size : g.in_size();
    const float* first = (source.padded ? copies : x + image * g.in_size()) +
                         (y0 * g.stride_height - g.pad_top - copied_from) * pitch +
                         (source.pad_left - g.pad_left) * g.in_channels;
    const float* first_dy = dy + image * g.out_size() + y0 * g.out_width * g.out_channels;
    if (depthwise) {
      DepthwiseFilterArgs a{};
      a.x = first;
      a.dy = first_dy;
      a.dw = dkernel;
      a.rows = rows;
      a.columns = g.out_width;
      a.channels = g.out_channels;
      a.x_row = g.stride_height * pitch;
      a.x_step = g.stride_width * g.in_channels;
      a.dy_row = g.out_width * g.out_channels;
      a.taps_up = g.kernel_height;
      a.taps_along = g.kernel_width;
      a.x_up = g.dilation_height * pitch;
      a.x_along = g.dilation_width * g.in_channels;
      kernels().convolution.depthwise_filter(a);
      continue;
    }
    // The gradient of each unit as one packed panel: images, rows, columns.
    const int64_t pixels = rows * g.out_width;
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      const int64_t group = unit / panels(), j = unit % panels() * panel, n = std::min(panel, outputs - j);
      float* to = gradient + (unit - units.begin) * images_joined * band_rows() * g.out_width * panel;
      for (int64_t i = 0; i < count; ++i) {
        k.pack(first_dy + i * g.out_size() + group * outputs + j, g.out_channels, pixels, n, round_up(n, lanes),
               to + i * pixels * round_up(n, lanes));
      }
    }
    GemmArgs a{};
    const int64_t rows_apart = gapless() ? 1 : rows;
    a.k = gapless() ? pixels : g.out_width;
    a.batch = count * rows_apart;
    a.a_row = 1;
    a.a_col = g.stride_width * g.in_channels;
    a.a_offset = a_offset;
    a.b_offset = b_offset;
    a.c_row = g.out_channels;
    a.start = fresh && at == granule.begin ? GemmStart::kZero : GemmStart::kAdd;
    for (int64_t e = 0; e < a.batch; ++e) {
      a_offset[e] = e / rows_apart * image_pitch + e % rows_apart * g.stride_height * pitch;
    }
    // Where a row of taps is one run, rows of the gradient matrix are (ky, (kx, c)); else (kx, c) for each ky.
    const int64_t run_rows = one_run ? kernel_rows() : g.kernel_width * depth;
    a.inner = one_run ? g.kernel_width * depth : depth;
    a.a_outer = one_run ? g.dilation_height * pitch : g.dilation_width * g.in_channels;
    a.c_outer = a.inner * g.out_channels;
    for (int64_t run_begin = 0; run_begin < kernel_rows(); run_begin += run_rows) {
      const int64_t row_begin = std::max(run_begin, rows_of_kernel.begin);
      const int64_t row_end = std::min(run_begin + run_rows, rows_of_kernel.end);
      for (int64_t row = row_begin; row < row_end; row += kTilesOfBlock * k.tile_rows) {
        a.first_row = row - run_begin;
        a.m = std::min<int64_t>(kTilesOfBlock * k.tile_rows, row_end - row);
        for (int64_t unit = units.begin; unit < units.end; ++unit) {
          const int64_t group = unit / panels(), j = unit % panels() * panel;
          a.n = std::min(panel, outputs - j);
          a.b_row = round_up(a.n, lanes);
          for (int64_t e = 0; e < a.batch; ++e) b_offset[e] = e * a.k * a.b_row;
          a.a = first + group * depth + (one_run ? 0 : run_begin / run_rows * g.dilation_height * pitch);
          a.b = gradient + (unit - units.begin) * images_joined * band_rows() * g.out_width * panel;
          a.c = dkernel + run_begin * g.out_channels + group * outputs + j;
          k.gemm(a);
        }
      }
    }
  }
}

bool is_depthwise(const Conv2dGeometry& g) {
  return g.groups > 1 && g.groups == g.in_channels && g.groups == g.out_channels;
}

const char* algorithm_name(const Conv2dGeometry& g) {
  if (is_depthwise(g)) return "depthwise";
  const bool padded = g.pad_top > 0 || g.pad_bottom > 0 || g.pad_left > 0 || g.pad_right > 0;
  return g.kernel_height == 1 && g.kernel_width == 1 && !padded ? "pointwise" : "direct";
}

void require_extent(const char* operation, const char* name, int64_t value, int64_t least) {
  require(value >= least && value < kLongestExtent, operation, ": ", name, " must lie in [", least, ", ",
          kLongestExtent, "). Received: ", value);
}

// Output size along one axis; sets the padding of "same".
int64_t resolve_axis(const char* operation, const char* name, int32_t padding, int64_t in, int64_t kernel,
                     int64_t stride, int64_t dilation, int64_t& before, int64_t& after) {
  const int64_t extent = checked_product(operation, {kernel - 1, dilation}) + 1;
  if (padding == FBN_PADDING_SAME) {
    const int64_t out = (in + stride - 1) / stride;
    const int64_t total = std::max<int64_t>(0, (out - 1) * stride + extent - in);
    before = total / 2;
    after = total - before;
    return out;
  }
  if (padding == FBN_PADDING_VALID) before = after = 0;
  const int64_t padded = in + before + after;
  require(padded >= extent, operation, ": the dilated kernel must fit into the padded image along the ", name,
          ". Received: ", name, " ", in, ", padding (", before, ", ", after, "), kernel ", kernel, ", dilation ",
          dilation);
  return (padded - extent) / stride + 1;
}

}  // namespace

Conv2dGeometry resolve_conv2d(const char* operation, const fbn_conv2d& d) {
  require_extent(operation, "batch", d.batch, 0);
  require_extent(operation, "height", d.height, 1);
  require_extent(operation, "width", d.width, 1);
  require_extent(operation, "in_channels", d.in_channels, 1);
  require_extent(operation, "out_channels", d.out_channels, 1);
  require_extent(operation, "kernel_height", d.kernel_height, 1);
  require_extent(operation, "kernel_width", d.kernel_width, 1);
  require_extent(operation, "stride_height", d.stride_height, 1);
  require_extent(operation, "stride_width", d.stride_width, 1);
  require_extent(operation, "dilation_height", d.dilation_height, 1);
  require_extent(operation, "dilation_width", d.dilation_width, 1);
  require_extent(operation, "groups", d.groups, 1);
  require(d.in_channels % d.groups == 0 && d.out_channels % d.groups == 0, operation,
          ": groups must divide in_channels and out_channels. Received: groups ", d.groups, ", in_channels ",
          d.in_channels, ", out_channels ", d.out_channels);
  require(d.padding >= FBN_PADDING_VALID && d.padding <= FBN_PADDING_EXPLICIT, operation,
          ": padding must be valid, same or explicit. Received: ", d.padding);
  require_activation(operation, d.activation, d.alpha);
  require(d.algorithm == FBN_ALGORITHM_AUTO || d.algorithm == FBN_ALGORITHM_DIRECT, operation,
          ": algorithm must be auto or direct. Received: ", d.algorithm);
  Conv2dGeometry g{};
  g.height = d.height;
  g.width = d.width;
  g.in_channels = d.in_channels;
  g.out_channels = d.out_channels;
  g.kernel_height = d.kernel_height;
  g.kernel_width = d.kernel_width;
  g.stride_height = d.stride_height;
  g.stride_width = d.stride_width;
  g.dilation_height = d.dilation_height;
  g.dilation_width = d.dilation_width;
  g.groups = d.groups;
  if (d.padding == FBN_PADDING_EXPLICIT) {
    require_extent(operation, "pad_top", d.pad_top, 0);
    require_extent(operation, "pad_bottom", d.pad_bottom, 0);
    require_extent(operation, "pad_left", d.pad_left, 0);
    require_extent(operation, "pad_right", d.pad_right, 0);
    g.pad_top = d.pad_top;
    g.pad_bottom = d.pad_bottom;
    g.pad_left = d.pad_left;
    g.pad_right = d.pad_right;
  }
  g.out_height = resolve_axis(operation, "height", d.padding, d.height, d.kernel_height, d.stride_height,
                              d.dilation_height, g.pad_top, g.pad_bottom);
  g.out_width = resolve_axis(operation, "width", d.padding, d.width, d.kernel_width, d.stride_width, d.dilation_width,
                             g.pad_left, g.pad_right);
  const int64_t batch = std::max<int64_t>(1, d.batch);
  checked_product(operation, {batch, d.height, d.width, d.in_channels});
  checked_product(operation, {batch, g.out_height, g.out_width, d.out_channels});
  checked_product(operation, {d.kernel_height, d.kernel_width, d.in_channels / d.groups, d.out_channels});
  checked_product(operation, {d.height + g.pad_top + g.pad_bottom, d.width + g.pad_left + g.pad_right, d.in_channels});
  return g;
}

Conv2dPlan::Conv2dPlan(const char* operation, const fbn_conv2d& d)
    : g_(resolve_conv2d(operation, d)), activation_(d.activation), alpha_(d.alpha), algorithm_(d.algorithm) {}

const char* Conv2dPlan::forward_algorithm() const { return algorithm_name(g_); }
const char* Conv2dPlan::backward_data_algorithm() const { return algorithm_name(g_); }
const char* Conv2dPlan::backward_filter_algorithm() const { return algorithm_name(g_); }

int64_t Conv2dPlan::packed_forward_size() const { return Correlation(g_, false, is_depthwise(g_)).packed_size(); }
int64_t Conv2dPlan::packed_backward_size() const { return Correlation(g_, true, is_depthwise(g_)).packed_size(); }

void Conv2dPlan::pack_forward(const float* kernel, float* packed) const noexcept {
  const Correlation c(g_, false, is_depthwise(g_));
  c.pack(kernel, packed, 0, c.units());
}
void Conv2dPlan::pack_backward(const float* kernel, float* packed) const noexcept {
  const Correlation c(g_, true, is_depthwise(g_));
  c.pack(kernel, packed, 0, c.units());
}

int64_t Conv2dPlan::forward_scratch() const { return Correlation(g_, false, is_depthwise(g_)).scratch(); }
int64_t Conv2dPlan::backward_data_scratch() const { return Correlation(g_, true, is_depthwise(g_)).scratch(); }
int64_t Conv2dPlan::backward_filter_scratch() const {
  const FilterGradient f(g_, is_depthwise(g_), false, 1);
  return f.scratch(f.units());
}

void Conv2dPlan::forward(const float* x, const float* packed, const float* bias, float* y, int64_t images,
                         float* scratch) const noexcept {
  const Correlation c(g_, false, is_depthwise(g_));
  c.run(x, packed, bias, activation_, alpha_, y, {0, images}, {0, c.rows}, {0, c.units()}, scratch);
}

void Conv2dPlan::backward_data(const float* dy, const float* packed, float* dx, int64_t images,
                               float* scratch) const noexcept {
  const Correlation c(g_, true, is_depthwise(g_));
  c.run(dy, packed, nullptr, FBN_LINEAR, 0, dx, {0, images}, {0, c.rows}, {0, c.units()}, scratch);
}

void Conv2dPlan::backward_filter(const float* x, const float* dy, float* dkernel, int64_t images,
                                 float* scratch) const noexcept {
  const FilterGradient f(g_, is_depthwise(g_), false, 1);
  f.run(x, dy, dkernel, images, {0, f.granules(images)}, {0, f.units()}, {0, f.kernel_rows()}, false, scratch);
}

void Conv2dPlan::backward_bias(const float* dy, float* dbias, int64_t images) const noexcept {
  constexpr int64_t kColumns = 256;
  double sums[kColumns];
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t c = 0; c < g_.out_channels; c += kColumns) {
      const int64_t columns = std::min(kColumns, g_.out_channels - c);
      column_sums(dy + i * g_.out_size() + c, g_.out_channels, g_.out_height * g_.out_width, columns, sums, false);
      for (int64_t j = 0; j < columns; ++j) dbias[c + j] += static_cast<float>(sums[j]);
    }
  }
}

namespace {

// The tasks of one correlation over a batch; any cut gives the same bits.
struct Split {
  int64_t images, rows, units;
  int64_t image_parts = 1, row_parts = 1, unit_parts = 1;
  Split(const Correlation& c, int64_t images_, int lanes) : images(images_), rows(c.rows), units(c.units()) {
    const int64_t wanted = lanes > 1 ? 4 * int64_t{lanes} : 1;
    if (c.packed_size() > 2 * kBandFloats && units >= lanes) {  // every task should read its own weights only
      unit_parts = std::min<int64_t>(units, lanes > 1 ? 2 * lanes : 1);
      return;
    }
    image_parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, images));
    const int64_t pixels = rows * c.to_width;
    row_parts = std::min((wanted + image_parts - 1) / image_parts, std::clamp<int64_t>(pixels / 64, 1, rows));
    unit_parts = std::min((wanted + image_parts * row_parts - 1) / (image_parts * row_parts), units);
  }
  int64_t tasks() const { return images > 0 ? image_parts * row_parts * unit_parts : 0; }
  Range image_range(int64_t task) const { return part_of(images, image_parts, task / row_parts % image_parts); }
  Range row_range(int64_t task) const { return part_of(rows, row_parts, task % row_parts); }
  Range unit_range(int64_t task) const { return part_of(units, unit_parts, task / (row_parts * image_parts)); }
};

// sum over i of parts[i * size + at], as a binary tree in place, into `to`.
void merge_parts(float* parts, int64_t count, int64_t size, Range range, float* to) {
  for (int64_t apart = 1; apart < count; apart *= 2) {
    for (int64_t i = 0; i + apart < count; i += 2 * apart) {
      float* sum = parts + i * size;
      const float* other = parts + (i + apart) * size;
      for (int64_t j = range.begin; j < range.end; ++j) sum[j] += other[j];
    }
  }
  std::memcpy(to + range.begin, parts + range.begin, static_cast<size_t>(range.size()) * sizeof(float));
}

}  // namespace
}  // namespace fastbn

using namespace fastbn;

fbn_status fbn_conv2d_output_size(const fbn_conv2d* d, int64_t* out_height, int64_t* out_width) {
  return guard([&] {
    const char* operation = "conv2d_output_size";
    require_descriptor(operation, d);
    require_array(operation, "out_height", out_height, 1);
    require_array(operation, "out_width", out_width, 1);
    const Conv2dGeometry g = resolve_conv2d(operation, *d);
    *out_height = g.out_height;
    *out_width = g.out_width;
  });
}

fbn_status fbn_conv2d_forward(const fbn_conv2d* d, const float* x, const float* kernel, const float* bias, float* y,
                              const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "conv2d_forward";
    require_descriptor(operation, d);
    const Conv2dGeometry g = resolve_conv2d(operation, *d);
    const Exec run = resolve_exec(operation, exec);
    const int64_t images = d->batch;
    if (!run.workspace_query) {
      require_array(operation, "x", x, images * g.in_size());
      require_array(operation, "kernel", kernel, images > 0 ? g.kernel_size() : 0);
      require_array(operation, "y", y, images * g.out_size());
    }
    const Correlation c(g, false, is_depthwise(g));
    const int64_t lane_scratch = round_up(c.scratch(), 16);
    Workspace workspace(operation, run);
    const size_t packed_at = workspace.reserve<float>(c.packed_size());
    const size_t scratch_at = workspace.reserve<float>(checked_product(operation, {lane_scratch, run.lanes}));
    if (workspace.commit() || images == 0) return;
    float* packed = workspace.at<float>(packed_at);
    float* scratch = workspace.at<float>(scratch_at);
    const Split split(c, images, run.lanes);
    const auto pack = [&](int64_t unit, int) { c.pack(kernel, packed, unit, unit + 1); };
    const auto task = [&](int64_t i, int lane) {
      c.run(x, packed, bias, d->activation, d->alpha, y, split.image_range(i), split.row_range(i), split.unit_range(i),
            scratch + lane * lane_scratch);
    };
    execute(run, {{c.units(), pack}, {split.tasks(), task}}, 2.0 * double(images) * double(g.multiply_adds()));
  });
}

fbn_status fbn_conv2d_backward(const fbn_conv2d* d, const float* dy, const float* x, const float* kernel,
                               const float* y, float* dx, float* dkernel, float* dbias, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "conv2d_backward";
    require_descriptor(operation, d);
    const Conv2dGeometry g = resolve_conv2d(operation, *d);
    const Exec run = resolve_exec(operation, exec);
    const int64_t images = d->batch;
    const bool through = d->activation != FBN_LINEAR;
    if (!run.workspace_query) {
      require_array(operation, "dy", dy, images * g.out_size());
      require_array(operation, "x", x, dkernel ? images * g.in_size() : 0);
      require_array(operation, "kernel", kernel, dx && images > 0 ? g.kernel_size() : 0);
      require_array(operation, "y", y, through ? images * g.out_size() : 0);
    }
    const bool depthwise = is_depthwise(g);
    const Correlation c(g, true, depthwise);
    const Split data(c, images, run.lanes);
    const int64_t data_tasks = dx ? data.tasks() : 0;

    // Small kernels: partial sums of runs of granules, merged in a tree; large ones: each task owns whole sums.
    const bool partial = g.kernel_size() <= kPartialFloats;
    const FilterGradient f(g, depthwise, !partial, images);
    const int64_t granules = f.granules(images);
    const int64_t chunks = partial ? std::clamp<int64_t>(granules, 1, kFilterChunks) : 1;
    const int64_t wanted = run.lanes > 1 ? 2 * int64_t{run.lanes} : 1;
    const int64_t unit_parts = partial ? 1 : std::min(f.units(), wanted);
    const int64_t row_parts =
        partial ? 1
                : std::clamp<int64_t>((wanted + unit_parts - 1) / unit_parts, 1,
                                      std::max<int64_t>(1, f.kernel_rows() / kernels().gemm.tile_rows));
    const int64_t filter_tasks = !dkernel ? 0 : partial ? chunks : unit_parts * row_parts;
    const int64_t filter_units = (f.units() + unit_parts - 1) / unit_parts;

    const int64_t bias_rows = images * g.out_height * g.out_width;
    const int64_t bias_chunks = !dbias ? 0 : std::clamp<int64_t>(bias_rows / 64, 1, kBiasChunks);

    const int64_t lane_scratch =
        round_up(std::max(dx ? c.scratch() : 0, dkernel ? f.scratch(filter_units) : int64_t{0}), 16);
    Workspace workspace(operation, run);
    const size_t packed_at = workspace.reserve<float>(dx ? c.packed_size() : 0);
    const size_t scratch_at = workspace.reserve<float>(checked_product(operation, {lane_scratch, run.lanes}));
    const size_t through_at = workspace.reserve<float>(through ? bias_rows * g.out_channels : 0);
    const int64_t part_size = round_up(g.kernel_size(), 16);
    const size_t parts_at = workspace.reserve<float>(dkernel && chunks > 1 ? chunks * part_size : 0);
    const size_t sums_at = workspace.reserve<double>(bias_chunks * g.out_channels);
    if (workspace.commit()) return;
    float* packed = workspace.at<float>(packed_at);
    float* scratch = workspace.at<float>(scratch_at);
    float* dy_through = workspace.at<float>(through_at);
    float* parts = workspace.at<float>(parts_at);
    double* sums = workspace.at<double>(sums_at);
    const float* gradient = through ? dy_through : dy;

    const int64_t pack_tasks = dx && images > 0 ? c.units() : 0;
    const int64_t through_tasks = through ? std::min<int64_t>(bias_rows, 4 * run.lanes) : 0;
    const auto prepare = [&](int64_t i, int) {
      if (i < pack_tasks) return c.pack(kernel, packed, i, i + 1);
      const Range r = part_of(bias_rows, through_tasks, i - pack_tasks);
      const int64_t at = r.begin * g.out_channels;
      activation_backward({r.size(), g.out_channels, g.out_channels}, d->activation, d->alpha, dy + at, y + at,
                          dy_through + at);
    };
    const auto gradients = [&](int64_t i, int lane) {
      float* own = scratch + lane * lane_scratch;
      if (i < data_tasks) {
        return c.run(gradient, packed, nullptr, FBN_LINEAR, 0, dx, data.image_range(i), data.row_range(i),
                     data.unit_range(i), own);
      }
      i -= data_tasks;
      if (i < filter_tasks) {
        if (partial) {
          return f.run(x, gradient, chunks > 1 ? parts + i * part_size : dkernel, images, part_of(granules, chunks, i),
                       {0, f.units()}, {0, f.kernel_rows()}, true, own);
        }
        return f.run(x, gradient, dkernel, images, {0, granules}, part_of(f.units(), unit_parts, i / row_parts),
                     part_of(f.kernel_rows(), row_parts, i % row_parts), true, own);
      }
      i -= filter_tasks;
      const Range r = part_of(bias_rows, bias_chunks, i, 64);
      column_sums(gradient + r.begin * g.out_channels, g.out_channels, r.size(), g.out_channels,
                  sums + i * g.out_channels, false);
    };
    const int64_t merge_tasks = dkernel && chunks > 1 ? parts_of_at_most(g.kernel_size(), 4096) : 0;
    const auto merge = [&](int64_t i, int) {
      if (i < merge_tasks)
        return merge_parts(parts, chunks, part_size, part_of(g.kernel_size(), merge_tasks, i), dkernel);
      for (int64_t j = 0; j < g.out_channels; ++j) {
        double sum = 0;
        for (int64_t chunk = 0; chunk < bias_chunks; ++chunk) sum += sums[chunk * g.out_channels + j];
        dbias[j] = static_cast<float>(sum);
      }
    };
    const double product = 2.0 * double(images) * double(g.multiply_adds());
    execute(run,
            {{pack_tasks + through_tasks, prepare},
             {data_tasks + filter_tasks + bias_chunks, gradients},
             {merge_tasks + (dbias ? 1 : 0), merge}},
            ((dx ? 1 : 0) + (dkernel ? 1 : 0)) * product + double(bias_rows) * double(g.out_channels));
  });
}
