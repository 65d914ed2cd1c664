// Convolutions of few channels on planes.
#include "conv2d_narrow.hpp"

#include <algorithm>
#include <cstring>

#include "pointwise.hpp"

namespace fastbn {
namespace {

constexpr int64_t kCopyFloats = 8 * 1024;  // of rows that are taken apart together: they stay in L1

// Planes begin in different sets of the caches: an odd number of lines apart.
int64_t plane_apart(int64_t floats) {
  const int64_t lines = floats / kMostLanes + 1;
  return (lines | 1) * kMostLanes;
}

// Most rows of which `floats_of(rows)` stay within the limit, the bands cut evenly.
template <class FloatsOf>
int64_t rows_within(int64_t rows, int64_t limit, FloatsOf floats_of) {
  int64_t low = 1, high = rows;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (floats_of(middle) <= limit) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const int64_t bands = parts_of_at_most(rows, low);
  return ceil_div(rows, bands);
}

// The cost model: cycles by the ports of a core that starts two multiply-adds, or two loads of which an unaligned
// vector takes two, in a cycle; in units of one vector multiply-add.
// Of a vector to or from one of so many planes: load, store, and a shuffle for each doubling of the planes.
double plane_cost(int64_t planes) { return planes == 1 ? 1 : planes == 2 ? 2.5 : planes == 4 ? 4 : 6; }
double load_bound(int64_t outputs) { return outputs == 1 ? 2.1 : outputs == 2 ? 1.2 : 1.0; }
double direct_vectors(int64_t outputs) {
  const int64_t lanes = kernels().vector_floats;
  const int64_t vectors = ceil_div(outputs, lanes);
  return double(vectors);
}
constexpr double kMargin = 1.1;  // by which narrow must be ahead

}  // namespace

int64_t PlanarSource::plane(int64_t rows) const { return plane_apart(plane_rows(rows) * pitch); }

int64_t PlanarSource::copied_rows() const {
  if (straight()) return 0;
  return std::max(ceil_div(kMostLanes, pitch), kCopyFloats / row_floats());
}

void PlanarSource::clear(int64_t rows, int64_t plane_size, float* planes) const {
  const bool beside = straight() && middle() < pitch;
  for (int64_t line = 0; line < stride_y * lines(); ++line) {
    const int64_t from = beside ? 0 : plane_rows(rows) * pitch;
    std::fill_n(planes + line * plane_size + from, plane_size - from, 0.0f);
  }
}

const float* PlanarSource::fill(const float* image, int64_t behind, int64_t first, int64_t rows, int64_t plane_size,
                                float* planes, float* copy) const {
  const PlanarKernels& k = kernels().planar;
  const int64_t count = plane_rows(rows), row = width * channels;
  if (straight()) {
    const int64_t above = std::clamp<int64_t>(-(first + low_y), 0, count);
    const int64_t inside = std::clamp<int64_t>(height - (first + low_y), above, count) - above;
    const bool whole = middle() == pitch && width == pitch;
    const float* source = image + (first + low_y + above) * row + from() * channels;
    if (channels == 1 && whole && inside == count && behind >= kMostLanes) return source;
    for (int64_t p = 0; p < channels; ++p) {
      float* at = planes + p * plane_size;
      std::fill_n(at, above * pitch, 0.0f);
      std::fill_n(at + (above + inside) * pitch, (count - above - inside) * pitch, 0.0f);
    }
    k.to_planes({whole ? 1 : inside, whole ? inside * pitch : middle(), channels, row, pitch, plane_size}, source,
                planes + above * pitch + left());
    return planes;
  }
  const int64_t together = std::max<int64_t>(1, copied_rows());
  for (int64_t phase = 0; phase < stride_y; ++phase) {
    for (int64_t i = 0; i < count; i += together) {
      const int64_t here = std::min(together, count - i);
      float* at = copy;
      for (int64_t r = i; r < i + here; ++r) {
        const int64_t y = (first + r) * stride_y + low_y + phase;
        if (y < 0 || y >= height) {
          std::fill_n(at, row_floats(), 0.0f);
        } else {
          std::fill_n(at, left() * channels, 0.0f);
          std::memcpy(at + left() * channels, image + y * row + from() * channels,
                      static_cast<size_t>(middle() * channels) * sizeof(float));
          std::fill_n(at + (left() + middle()) * channels, right() * channels, 0.0f);
        }
        at += row_floats();
      }
      const PlaneRows all{1, here * pitch, lines(), 0, 0, plane_size};
      k.to_planes(all, copy, planes + phase * lines() * plane_size + i * pitch);
    }
  }
  return planes;
}

NarrowCorrelation::NarrowCorrelation(const Conv2dGeometry& geometry, bool backward_)
    : g(geometry), backward(backward_) {
  to_height = backward ? g.height : g.out_height;
  to_width = backward ? g.width : g.out_width;
  to_channels = backward ? g.in_channels : g.out_channels;
  source.height = backward ? g.out_height : g.height;
  source.width = backward ? g.out_width : g.width;
  source.channels = backward ? g.out_channels : g.in_channels;
  source.stride_y = backward ? 1 : g.stride_height;
  source.stride_x = backward ? 1 : g.stride_width;
  depth = source.channels / g.groups;
  outputs = to_channels / g.groups;
  phases_y = backward ? std::min(g.stride_height, g.height) : 1;
  phases_x = backward ? std::min(g.stride_width, g.width) : 1;
  q_rows = 0;
  int64_t taps_y = 0, taps_x = 0, q_columns = 0;
  bool any = false;
  int64_t low = 0, high = 0;
  for (int64_t p = 0; p < phases_y; ++p) {
    const Axis y = axis_y(p);
    q_rows = std::max(q_rows, y.count);
    taps_y += y.taps;
    if (!y.reads()) continue;
    const int64_t last = y.base + (y.taps - 1) * y.delta;
    low = any ? std::min(low, y.base) : y.base;
    high = any ? std::max(high, last) : last;
    any = true;
  }
  source.low_y = low;
  source.reach_y = high - low + 1;
  any = false;
  low = high = 0;
  for (int64_t p = 0; p < phases_x; ++p) {
    const Axis x = axis_x(p);
    q_columns = std::max(q_columns, x.count);
    taps_x += x.taps;
    if (!x.reads()) continue;
    low = any ? std::min(low, x.lowest()) : x.lowest();
    high = any ? std::max(high, x.highest()) : x.highest();
    any = true;
  }
  source.low_x = low;
  source.pitch = std::max((high - low) / source.stride_x + 1, q_columns);
  terms_of_all = taps_y * taps_x * depth;
  band_rows = rows_within(q_rows, kBandFloats, [&](int64_t rows) { return source.floats(rows) + to_floats(rows); });
}

int64_t NarrowCorrelation::to_plane(int64_t rows) const { return plane_apart(rows * source.pitch); }

int64_t NarrowCorrelation::scratch() const {
  return table_floats() + source.floats(band_rows) + to_floats(band_rows) +
         round_up(std::max<int64_t>(1, source.copied_rows()) * source.row_floats(), 16);
}

double NarrowCorrelation::cost() const {
  const double lanes = kernels().vector_floats, plane_pixels = double(source.plane_rows(q_rows)) * double(source.pitch);
  double cost = plane_pixels * double(source.stride_y * source.lines()) / lanes * plane_cost(source.lines()) +
                double(to_height) * double(source.pitch * phases_x) * double(to_channels) / lanes *
                    plane_cost(phases_x * to_channels);
  for (int64_t py = 0; py < phases_y; ++py) {
    for (int64_t px = 0; px < phases_x; ++px) {
      const Axis y = axis_y(py), x = axis_x(px);
      cost += double(y.count) * double(source.pitch) * double(y.taps * x.taps * depth) * double(to_channels) / lanes *
              load_bound(outputs);
    }
  }
  return cost;
}

// Phase by phase, group by group: (tap, channel of the source, channel of the destination).
void NarrowCorrelation::pack(const float* kernel, float* packed, Range /*units*/) const {
  for (int64_t py = 0; py < phases_y; ++py) {
    for (int64_t px = 0; px < phases_x; ++px) {
      const Axis y = axis_y(py), x = axis_x(px);
      for (int64_t group = 0; group < g.groups; ++group) {
        for (int64_t ty = 0; ty < y.taps; ++ty) {
          for (int64_t tx = 0; tx < x.taps; ++tx) {
            const int64_t tap = (y.tap_first + ty * y.tap_step) * g.kernel_width + x.tap_first + tx * x.tap_step;
            const float* from = kernel + tap * (g.in_channels / g.groups) * g.out_channels;
            for (int64_t c = 0; c < depth; ++c) {
              for (int64_t j = 0; j < outputs; ++j) {
                *packed++ = backward ? from[j * g.out_channels + group * depth + c]
                                     : from[c * g.out_channels + group * outputs + j];
              }
            }
          }
        }
      }
    }
  }
}

void NarrowCorrelation::write_rows(const float* planes, int64_t plane_size, const Axis& y, Range band,
                                   float* to) const {
  const PlanarKernels& k = kernels().planar;
  const int64_t row_size = to_width * to_channels, rows = std::min(band.end, y.count) - band.begin;
  const int64_t whole = to_width / phases_x, rest = to_width % phases_x, lines = phases_x * to_channels;
  if (rows <= 0) return;
  to += (y.first + band.begin * y.step) * row_size;
  if (phases_x == 1 && source.pitch == to_width && y.step == 1)
    return k.from_planes({1, rows * to_width, lines, 0, 0, plane_size}, planes, to);
  k.from_planes({rows, whole, lines, y.step * row_size, source.pitch, plane_size}, planes, to);
  for (int64_t r = 0; r < rows && rest > 0; ++r) {
    float* at = to + r * y.step * row_size + whole * lines;
    const float* last = planes + r * source.pitch + whole;
    for (int64_t line = 0; line < rest * to_channels; ++line) at[line] = last[line * plane_size];
  }
}

void NarrowCorrelation::run(const float* from, const float* packed, const float* bias, int32_t activation, float alpha,
                            float* to, Range images, Range q, Range /*units*/, float* scratch) const {
  const int64_t source_size = source.height * source.width * source.channels;
  const int64_t to_size = to_height * to_width * to_channels;
  const int64_t plane = source.plane(band_rows), y_plane = to_plane(band_rows);
  int64_t* table = reinterpret_cast<int64_t*>(scratch);
  float* planes = scratch + table_floats();
  float* results = planes + source.floats(band_rows);
  float* copy = results + to_floats(band_rows);

  source.clear(band_rows, plane, planes);
  int64_t* entry = table;
  for (int64_t py = 0; py < phases_y; ++py) {
    for (int64_t px = 0; px < phases_x; ++px) {
      const Axis y = axis_y(py), x = axis_x(px);
      for (int64_t ty = 0; ty < y.taps; ++ty) {
        for (int64_t tx = 0; tx < x.taps; ++tx) {
          const int64_t up = y.base - source.low_y + ty * y.delta, along = x.base - source.low_x + tx * x.delta;
          for (int64_t c = 0; c < depth; ++c) *entry++ = source.offset(up, along, c, plane);
        }
      }
    }
  }

  PlanarArgs a{};
  a.w_row = outputs;
  a.outputs = outputs;
  a.y_plane = y_plane;
  a.activation = fused(activation, alpha);
  a.alpha = alpha;
  for (int64_t image = images.begin; image < images.end; ++image) {
    float* image_to = to + image * to_size;
    const int64_t behind = (images.end - image - 1) * source_size;
    for (int64_t q0 = q.begin; q0 < q.end; q0 += band_rows) {
      const Range band{q0, std::min(q.end, q0 + band_rows)};
      const float* x_planes =
          source.fill(from + image * source_size, behind, band.begin, band.size(), plane, planes, copy);
      a.offset = table;
      a.w = packed;
      for (int64_t py = 0; py < phases_y; ++py) {
        const Axis y = axis_y(py);
        const int64_t rows = std::min(band.end, y.count) - band.begin;
        for (int64_t px = 0; px < phases_x; ++px) {
          const Axis x = axis_x(px);
          a.terms = y.taps * x.taps * depth;
          a.count = rows > 0 ? (rows - 1) * source.pitch + x.count : 0;
          for (int64_t group = 0; group < g.groups; ++group) {
            a.x = x_planes + group * depth * plane;
            a.y = results + (px * to_channels + group * outputs) * y_plane;
            a.bias = bias ? bias + group * outputs : nullptr;
            kernels().planar.correlate(a);
            a.w += a.terms * outputs;
          }
          a.offset += a.terms;
        }
        write_rows(results, y_plane, y, band, image_to);
      }
      if (a.activation != activation) {  // forward only: one phase
        float* at = image_to + band.begin * to_width * to_channels;
        activation_forward({band.size() * to_width, to_channels, to_channels}, activation, alpha, at, at);
      }
    }
  }
}

NarrowFilterGradient::NarrowFilterGradient(const Conv2dGeometry& geometry)
    : g(geometry), depth(g.in_channels / g.groups), outputs(g.out_channels / g.groups) {
  source.height = g.height;
  source.width = g.width;
  source.channels = g.in_channels;
  source.stride_y = g.stride_height;
  source.stride_x = g.stride_width;
  source.low_y = -g.pad_top;
  source.low_x = -g.pad_left;
  source.reach_y = (g.kernel_height - 1) * g.dilation_height + 1;
  source.pitch = g.out_width + (g.kernel_width - 1) * g.dilation_width / g.stride_width;
  band_rows = rows_within(g.out_height, kBandFloats, [&](int64_t rows) {
    return source.floats(rows) + g.out_channels * dy_plane(rows) + count(rows);
  });
}

int64_t NarrowFilterGradient::dy_plane(int64_t rows) const { return plane_apart(rows * source.pitch); }

int64_t NarrowFilterGradient::scratch(int64_t /*unit_count*/) const {
  return round_up(2 * terms(), 16) + source.floats(band_rows) + g.out_channels * dy_plane(band_rows) +
         count(band_rows) + round_up(std::max<int64_t>(1, source.copied_rows()) * source.row_floats(), 16);
}

double NarrowFilterGradient::cost() const {
  const double lanes = kernels().vector_floats;
  const double pixels = double(g.out_height) * double(source.pitch);
  const double sums = 3.0 * double(terms()) * double(g.out_channels) * double(bands());
  return pixels / lanes * double(terms()) * double(g.out_channels) * load_bound(outputs) + sums +
         double(source.plane_rows(g.out_height)) * double(source.pitch) * double(source.stride_y * source.lines()) /
             lanes * plane_cost(source.lines()) +
         pixels * double(g.out_channels) / lanes * plane_cost(g.out_channels);
}

void NarrowFilterGradient::run(const float* x, const float* dy, float* dkernel, int64_t /*images*/, Range granule,
                               Range /*units*/, Range /*rows*/, bool fresh, float* scratch) const {
  const int64_t pitch = source.pitch;
  const int64_t plane = source.plane(band_rows), gradient_plane = dy_plane(band_rows);
  int64_t* table = reinterpret_cast<int64_t*>(scratch);
  float* planes = scratch + round_up(2 * terms(), 16);
  float* gradient = planes + source.floats(band_rows);
  int32_t* live = reinterpret_cast<int32_t*>(gradient + g.out_channels * gradient_plane);
  float* copy = gradient + g.out_channels * gradient_plane + count(band_rows);

  if (fresh) std::fill_n(dkernel, g.kernel_size(), 0.0f);
  int64_t* entry = table;
  for (int64_t ky = 0; ky < g.kernel_height; ++ky) {
    for (int64_t kx = 0; kx < g.kernel_width; ++kx) {
      for (int64_t c = 0; c < depth; ++c) {
        *entry++ = source.offset(ky * g.dilation_height, kx * g.dilation_width, c, plane);
      }
    }
  }
  source.clear(band_rows, plane, planes);
  int64_t live_rows = 0;
  PlanarFilterArgs a{};
  a.offset = table;
  a.live = live;
  a.terms = terms();
  a.outputs = outputs;
  a.dy_plane = gradient_plane;
  a.dw_row = g.out_channels;
  for (int64_t at = granule.begin; at < granule.end; ++at) {
    const int64_t image = at / bands(), y0 = at % bands() * band_rows;
    const int64_t rows = std::min(band_rows, g.out_height - y0);
    a.count = (rows - 1) * pitch + g.out_width;
    if (rows != live_rows) {  // beside the outputs the planes stay zero from image to image
      live_rows = rows;
      std::fill_n(live, count(rows), 0);
      for (int64_t r = 0; r < rows; ++r) std::fill_n(live + r * pitch, g.out_width, -1);
      for (int64_t j = 0; j < g.out_channels; ++j) std::fill_n(gradient + j * gradient_plane, count(rows), 0.0f);
    }
    const int64_t behind = ((granule.end - 1) / bands() - image) * g.in_size();
    const float* x_planes = source.fill(x + image * g.in_size(), behind, y0, rows, plane, planes, copy);
    const int64_t dy_row = g.out_width * g.out_channels;
    const float* from = dy + image * g.out_size() + y0 * dy_row;
    const bool one_run = pitch == g.out_width;
    kernels().planar.to_planes(
        {one_run ? 1 : rows, one_run ? rows * pitch : g.out_width, g.out_channels, dy_row, pitch, gradient_plane}, from,
        gradient);
    for (int64_t group = 0; group < g.groups; ++group) {
      a.x = x_planes + group * depth * plane;
      a.dy = gradient + group * outputs * gradient_plane;
      a.dw = dkernel + group * outputs;
      kernels().planar.filter(a);
    }
  }
}

bool narrow_correlation_pays(const Conv2dGeometry& g, bool backward) {
  const int64_t outputs = (backward ? g.in_channels : g.out_channels) / g.groups;
  const int64_t depth = (backward ? g.out_channels : g.in_channels) / g.groups;
  if (outputs >= kernels().vector_floats) return false;
  const double pixels = double(g.out_height) * double(g.out_width);
  const double direct =
      pixels * double(g.kernel_height * g.kernel_width) * double(depth * g.groups) * direct_vectors(outputs);
  return kMargin * NarrowCorrelation(g, backward).cost() < direct;
}

bool narrow_filter_gradient_pays(const Conv2dGeometry& g) {
  constexpr int64_t kMostFloats = 32 * 1024;  // of a kernel: one task sums all of it, hot in its cache
  if (g.kernel_size() > kMostFloats) return false;
  const int64_t depth = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  if (outputs >= kernels().vector_floats) return false;
  const double pixels = double(g.out_height) * double(g.out_width);
  const double direct =
      pixels * double(g.kernel_height * g.kernel_width) * double(depth * g.groups) * direct_vectors(outputs);
  return kMargin * NarrowFilterGradient(g).cost() < direct;
}

}  // namespace fastbn
