// The passes of direct convolutions as loops around the gemm kernels.
#include "conv2d_direct.hpp"

#include <cstring>
#include <numeric>

#include "pointwise.hpp"

namespace fastbn {
namespace {

// What the next block reads, fetched with the products of this one: what hardware fetches for itself neither crosses
// pages nor follows the steps from pixel to pixel.
class NextBlock {
 public:
  void add(const float* from, int64_t floats) { runs_[count_++] = {from, floats}; }

  // Lets a product fetch about as much as it has time for.
  void share(GemmArgs* a) {
    const int64_t tile_rows = kernels().gemm.tile_rows;
    a->next_floats = 0;
    if (at_ == count_) return;
    Run& run = runs_[at_];
    const int64_t some = std::min(run.floats, ceil_div(a->m, tile_rows) * a->k * a->batch * kNextFloats);
    a->next = run.from;
    a->next_floats = some;
    run.from += some;
    run.floats -= some;
    if (run.floats == 0) ++at_;
  }

 private:
  struct Run {
    const float* from;
    int64_t floats;
  };
  Run runs_[2];
  int count_ = 0, at_ = 0;
};

}  // namespace

Axis forward_axis(int64_t out, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad) {
  return {0, 1, out, stride, -pad, dilation, kernel, 0, 1};
}

// Inputs at phase + q * stride meet the taps k with phase + pad - k * dilation = stride * (output), that is every
// stride / gcd(stride, dilation)-th one, in falling order; taken in rising order of the output.
Axis backward_axis(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad, int64_t phase) {
  Axis axis{phase, stride, ceil_div(in - phase, stride), 1, 0, 1, 0, 0, 0};
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

DirectCorrelation::DirectCorrelation(const Conv2dGeometry& geometry, bool backward_)
    : g(geometry), backward(backward_) {
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
  lanes = kernels().vector_floats;
  q_rows = 0;
  taps_y = taps_x = 0;
  gaps = false;
  bool any = false;
  int64_t lowest_y = 0, highest_y = 0;
  low_y = high_y = 0;
  for (int64_t p = 0; p < phases_y; ++p) {
    const Axis y = axis_y(p);
    q_rows = std::max(q_rows, y.count);
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
  few_terms = g.kernel_height * g.kernel_width * depth <= kFewTerms;
  panel = few_terms ? kernels().gemm.wide_floats : kernels().gemm.panel_floats;
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

const char* DirectCorrelation::name() const {
  const bool pads = g.pad_top > 0 || g.pad_bottom > 0 || g.pad_left > 0 || g.pad_right > 0;
  return g.kernel_height == 1 && g.kernel_width == 1 && !pads ? "pointwise" : "direct";
}

std::string DirectCorrelation::tile() const {
  const RegisterTile tile = kernels().gemm.tile(std::min(panel, outputs));
  return few_terms ? concatenate("term by term, ", tile.columns, " channels at a time") : text(tile);
}

void DirectCorrelation::pack(const float* kernel, float* packed, Range units) const {
  const GemmKernels& k = kernels().gemm;
  float* phase = packed;
  for (int64_t py = 0; py < phases_y; ++py) {
    for (int64_t px = 0; px < phases_x; ++px) {
      const Axis y = axis_y(py), x = axis_x(px);
      const int64_t taps = y.taps * x.taps;
      for (int64_t unit = units.begin; unit < units.end; ++unit) {
        const int64_t group = unit / panels(), j = unit % panels() * panel;
        const int64_t n = std::min(panel, outputs - j), wide = round_up(n, lanes);
        float* at = phase + taps * depth * (group * round_up(outputs, lanes) + j);
        for (int64_t ty = 0; ty < y.taps; ++ty) {
          for (int64_t tx = 0; tx < x.taps; ++tx) {
            const int64_t tap = (y.tap_first + ty * y.tap_step) * g.kernel_width + x.tap_first + tx * x.tap_step;
            const float* from = kernel + tap * (g.in_channels / g.groups) * g.out_channels;
            if (backward) {
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
void DirectCorrelation::copy_rows(const float* source, int64_t first, int64_t count, float* to) const {
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

// Rows q of every phase, the channels of `units`, of images [begin, end).
void DirectCorrelation::run(const float* source, const float* packed, const float* bias, int32_t activation,
                            float alpha, float* to, Range images, Range q, Range units, float* scratch) const {
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
      const int64_t row = width * channels;
      NextBlock next;
      if (band.end < q.end) {
        next.add(source + image * source_size + band.end * stride_y * row, count * band.size() * stride_y * row);
      } else if (image + count < images.end) {
        next.add(source + (image + count) * source_size + q.begin * stride_y * row,
                 count * band.size() * stride_y * row);
      }
      const auto image_source = [&](int64_t i) {
        return padded ? copies + i * copy_size : source + (image + i) * source_size;
      };
      const float* phase = packed;
      for (int64_t py = 0; py < phases_y; ++py) {
        for (int64_t px = 0; px < phases_x; ++px) {
          const Axis y = axis_y(py), x = axis_x(px);
          const int64_t taps = y.taps * x.taps;
          if (taps == 0) continue;
          const int64_t rows_here = std::min(band.end, y.count) - band.begin;
          const bool one_run = merged(x) && !few_terms;
          const int64_t along = one_run ? 1 : x.taps, terms = few_terms ? depth : 1;
          GemmArgs a{};
          a.m = std::max<int64_t>(0, rows_here) * x.count;
          a.k = few_terms ? 1 : one_run ? x.taps * depth : depth;
          a.inner = std::max<int64_t>(1, x.count);
          a.a_outer = y.stride * pitch();
          a.a_row = x.stride * channels;
          a.a_col = 1;
          a.c_outer = y.step * to_width * to_channels;
          a.c_row = x.step * to_channels;
          a.batch = y.taps * along * terms;
          a.a_offset = a_offset;
          a.b_offset = few_terms ? nullptr : b_offset;
          a.activation = fused(activation, alpha);
          a.alpha = alpha;
          for (int64_t e = 0; e < a.batch; ++e) {
            const int64_t tap = e / terms;
            a_offset[e] = tap / along * y.delta * pitch() + tap % along * x.delta * channels + e % terms;
          }
          for (int64_t unit = units.begin; unit < units.end; ++unit) {
            const int64_t group = unit / panels(), j = unit % panels() * panel;
            a.n = std::min(panel, outputs - j);
            a.b_row = round_up(a.n, lanes);
            a.b = phase + taps * depth * (group * round_up(outputs, lanes) + j);
            for (int64_t e = 0; e < a.batch && !few_terms; ++e) b_offset[e] = e * a.k * a.b_row;
            a.bias = bias ? bias + group * outputs + j : nullptr;
            for (int64_t i = 0; i < count; ++i) {
              a.a = image_source(i) + (band.begin * y.stride + y.base - copied_from) * pitch() +
                    (x.base + pad_left) * channels + group * depth;
              a.c = to + (image + i) * to_size + group * outputs + j +
                    ((y.first + band.begin * y.step) * to_width + x.first) * to_channels;
              if (few_terms) {
                k.few_terms(a);
              } else {
                next.share(&a);
                k.gemm(a);
              }
            }
          }
          phase += taps * packed_width();
        }
      }
      if (!is_fused(activation)) {  // forward only: one phase, all columns
        for (int64_t i = 0; i < count; ++i) {
          float* at = to + (image + i) * to_size + band.begin * to_width * to_channels + columns.begin;
          activation_forward({band.size() * to_width, columns.size(), to_channels}, activation, alpha, at, at);
        }
      }
    }
  }
}

DirectFilterGradient::DirectFilterGradient(const Conv2dGeometry& geometry, int64_t images)
    : g(geometry),
      source(geometry, false),
      images_joined(1),
      depth(g.in_channels / g.groups),
      outputs(g.out_channels / g.groups),
      panel(kernels().gemm.panel_floats),
      lanes(kernels().vector_floats) {
  if (bands() == 1) {
    const int64_t by_length = kChainPixels / (g.out_height * g.out_width);
    // Sources that are read where they lie are read again for each panel: from the second cache.
    const bool in_place = source.padded || !packs(units());
    const int64_t by_bytes =
        in_place ? 2 * kBandFloats / (source.source_rows(g.out_height) * source.pitch()) : by_length;
    images_joined = std::clamp<int64_t>(std::min(by_length, by_bytes), 1, std::max<int64_t>(1, images));
  }
}

void DirectFilterGradient::run(const float* x, const float* dy, float* dkernel, int64_t images, Range granule,
                               Range units, Range rows_of_kernel, bool fresh, float* scratch) const {
  const GemmKernels& k = kernels().gemm;
  int64_t* a_offset = reinterpret_cast<int64_t*>(scratch);
  int64_t* b_offset = a_offset + table_entries();
  float* copies = scratch + table_floats();
  const int64_t copy_size = copy_floats(), pitch = source.pitch();
  float* gradient = copies + (source.padded ? images_joined * copy_size : 0);
  const bool one_run = g.groups == 1 && (g.dilation_width == 1 || g.kernel_width == 1);
  if (fresh && granule.size() <= 0) {
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      const int64_t j = unit / panels() * outputs + unit % panels() * panel;
      const int64_t n = std::min(panel, outputs - unit % panels() * panel);
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
    // The gradient of each unit as one packed panel: images, rows, columns. If one panel holds whole vectors of all
    // channels, it lies there already; of whole vectors that few rows meet, packing would be most of the work.
    const int64_t pixels = rows * g.out_width;
    const bool few_rows = this->rows() <= kTilesInPlace * k.tile_rows;
    const bool in_place = g.out_channels % lanes == 0 && g.groups == 1 && (this->units() == 1 || few_rows);
    for (int64_t i = 0; i < count && !in_place; ++i) {
      for_parts(pixels, [&](int64_t p, int64_t part) {
        for (int64_t unit = units.begin; unit < units.end; ++unit) {
          const int64_t j = unit / panels() * outputs + unit % panels() * panel, n = unit_outputs(unit);
          const int64_t width = round_up(n, lanes);
          k.pack(first_dy + i * g.out_size() + p * g.out_channels + j, g.out_channels, part, n, width,
                 gradient + (unit - units.begin) * chain_pixels() * panel + (i * pixels + p) * width);
        }
      });
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
    NextBlock next;
    const bool whole = units.size() == this->units() && rows_of_kernel.size() == this->rows();
    if (whole && at + 1 < granule.end) {
      const int64_t x_floats = count * rows * g.stride_height * g.width * g.in_channels;
      const int64_t dy_floats = count * pixels * g.out_channels;
      next.add(x + image * g.in_size() + y0 * g.stride_height * g.width * g.in_channels + x_floats, x_floats);
      next.add(first_dy + dy_floats, dy_floats);
    }
    // Where a row of taps is one run, rows of the gradient matrix are (ky, (kx, c)); else (kx, c) for each ky.
    const int64_t run_rows = one_run ? this->rows() : g.kernel_width * depth;
    a.inner = one_run ? g.kernel_width * depth : depth;
    a.a_outer = one_run ? g.dilation_height * pitch : g.dilation_width * g.in_channels;
    a.c_outer = a.inner * g.out_channels;
    const bool packed_rows = packs(units.size());
    const int64_t rows_in_one = std::min(packed_rows ? a.inner : run_rows, rows_of_kernel.size());
    const int64_t block_rows = block_of_rows(rows_in_one), depth_of_chain = a.k * a.batch;
    float* packed = gradient + gradient_floats(units.size());
    for (int64_t run_begin = 0; run_begin < this->rows(); run_begin += run_rows) {
      const int64_t row_begin = std::max(run_begin, rows_of_kernel.begin);
      const int64_t row_end = std::min(run_begin + run_rows, rows_of_kernel.end);
      for (int64_t row = row_begin, end; row < row_end; row = end) {
        const int64_t i = row - run_begin;
        end = std::min(row_end, row + block_rows);
        const float* from = first + (one_run ? 0 : run_begin / run_rows * g.dilation_height * pitch);
        if (packed_rows) {
          end = std::min(end, row + a.inner - i % a.inner);
          const float* rows_from = from + i / a.inner * a.a_outer + i % a.inner;
          for (int64_t e = 0; e < a.batch; ++e) {
            pack_rows(rows_from + a_offset[e], a.a_col, e * a.k, a.k, end - row, packed_tile(chain_pixels()), packed);
          }
        }
        for (int64_t unit = units.begin; unit < units.end; ++unit) {
          const int64_t group = unit / panels(), j = unit % panels() * panel;
          GemmArgs block = a;
          block.m = end - row;
          block.n = unit_outputs(unit);
          block.b_row = in_place ? g.out_channels : round_up(block.n, lanes);
          block.b = in_place ? first_dy + j : gradient + (unit - units.begin) * chain_pixels() * panel;
          block.c = dkernel + run_begin * g.out_channels + group * outputs + j;
          if (packed_rows) {
            block.c += i * g.out_channels;
            read_packed_rows(&block, packed, packed_tile(chain_pixels()), depth_of_chain);
          } else {
            block.a = from + group * depth;
            block.first_row = i;
            for (int64_t e = 0; e < a.batch; ++e) b_offset[e] = e * a.k * block.b_row;
          }
          next.share(&block);
          k.gemm(block);
        }
      }
    }
  }
}

}  // namespace fastbn
