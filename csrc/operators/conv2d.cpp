// conv2d: the passes of a layer as a program runs them, and the C functions that cut them into tasks.
#include "conv2d.hpp"

#include <algorithm>
#include <cstring>

#include "checks.hpp"
#include "conv2d_choice.hpp"
#include "dense.hpp"
#include "pointwise.hpp"
#include "runtime/executor.hpp"
#include "runtime/memory.hpp"
#include "runtime/status.hpp"

namespace fastbn {
namespace {

constexpr int64_t kLargeWeights = 192 * 1024;  // floats: beyond them every task reads its own weights only
// Reduction order of backward_filter and of the bias.
constexpr int64_t kFilterChunks = 16;  // partial sums of a whole call
constexpr int64_t kBiasChunks = 16;

}  // namespace

struct Conv2dPlan::Passes {
  AnyCorrelation forward, backward_data;
  AnyFilterGradient backward_filter;
};

Conv2dPlan::Conv2dPlan(const char* operation, const fbn_conv2d& d)
    : g_(resolve_conv2d(operation, d)),
      activation_(d.activation),
      alpha_(d.alpha),
      passes_(std::make_shared<const Passes>(Passes{AnyCorrelation(g_, false, d.algorithm),
                                                    AnyCorrelation(g_, true, d.algorithm),
                                                    AnyFilterGradient(g_, d.algorithm, kAnyImages)})) {}

const char* Conv2dPlan::forward_algorithm() const { return passes_->forward->name(); }
const char* Conv2dPlan::backward_data_algorithm() const { return passes_->backward_data->name(); }
const char* Conv2dPlan::backward_filter_algorithm() const { return passes_->backward_filter->name(); }

int64_t Conv2dPlan::packed_forward_size() const { return passes_->forward->packed_size(); }
int64_t Conv2dPlan::packed_backward_size() const { return passes_->backward_data->packed_size(); }

void Conv2dPlan::pack_forward(const float* kernel, float* packed) const noexcept {
  passes_->forward->pack(kernel, packed, {0, passes_->forward->units()});
}
void Conv2dPlan::pack_backward(const float* kernel, float* packed) const noexcept {
  passes_->backward_data->pack(kernel, packed, {0, passes_->backward_data->units()});
}

int64_t Conv2dPlan::forward_scratch() const { return passes_->forward->scratch(); }
int64_t Conv2dPlan::backward_data_scratch() const { return passes_->backward_data->scratch(); }
int64_t Conv2dPlan::backward_filter_scratch() const {
  return passes_->backward_filter->scratch(passes_->backward_filter->units());
}

int64_t Conv2dPlan::images_of_granule() const { return passes_->backward_filter->images_of_granule(); }

void Conv2dPlan::forward(const float* x, const float* packed, const float* bias, float* y, int64_t images,
                         float* scratch) const noexcept {
  const Correlation& c = *passes_->forward;
  c.run(x, packed, bias, activation_, alpha_, y, {0, images}, {0, c.rows()}, {0, c.units()}, scratch);
}

void Conv2dPlan::backward_data(const float* dy, const float* packed, float* dx, int64_t images,
                               float* scratch) const noexcept {
  const Correlation& c = *passes_->backward_data;
  c.run(dy, packed, nullptr, FBN_LINEAR, 0, dx, {0, images}, {0, c.rows()}, {0, c.units()}, scratch);
}

void Conv2dPlan::backward_filter(const float* x, const float* dy, float* dkernel, int64_t images,
                                 float* scratch) const noexcept {
  const AnyFilterGradient& f = passes_->backward_filter;
  f->run(x, dy, dkernel, images, {0, f->granules(images)}, {0, f->units()}, {0, f->rows()}, false, scratch);
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

std::string describe(const fbn_conv2d& d, const Conv2dGeometry& g) {
  std::string text = concatenate(d.batch, "x", g.height, "x", g.width, "x", g.in_channels, " -> ", g.out_height, "x",
                                 g.out_width, "x", g.out_channels, ", kernel ", g.kernel_height, "x", g.kernel_width);
  if (g.stride_height * g.stride_width > 1) text += concatenate(", stride ", g.stride_height, "x", g.stride_width);
  if (g.dilation_height * g.dilation_width > 1)
    text += concatenate(", dilation ", g.dilation_height, "x", g.dilation_width);
  if (d.padding == FBN_PADDING_EXPLICIT)
    text += concatenate(", padding ", g.pad_top, "+", g.pad_bottom, "x", g.pad_left, "+", g.pad_right);
  if (g.groups > 1) text += concatenate(", groups ", g.groups);
  return text;
}

std::string describe_pass(const char* name, const fbn_conv2d& d, const Conv2dGeometry& g, ConvPass pass) {
  return concatenate(name, algorithm_name(g, pass, d.algorithm), " (", algorithm_reason(g, pass, d.algorithm), ")");
}

// The tasks of one correlation over a batch; any cut gives the same bits.
struct Split {
  int64_t images, rows, units;
  int64_t image_parts = 1, row_parts = 1, unit_parts = 1;
  Split(const Correlation& c, int64_t images_, double work, int lanes)
      : images(images_), rows(c.rows()), units(c.units()) {
    lanes = worthwhile_lanes(lanes, work);
    const int64_t wanted = wanted_tasks(work, lanes, 4);
    if (c.packed_size() > kLargeWeights && units >= lanes) {  // every task should read its own weights only
      unit_parts = std::min<int64_t>(units, wanted_tasks(work, lanes, 2));
      return;
    }
    image_parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, images));
    const int64_t pixels = rows * c.row_pixels();
    row_parts = std::min(ceil_div(wanted, image_parts), std::clamp<int64_t>(pixels / 64, 1, rows));
    unit_parts = std::min(ceil_div(wanted, image_parts * row_parts), units);
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

fbn_status fbn_conv2d_algorithm(const fbn_conv2d* d, int32_t pass, const char** name, char* reason, size_t capacity) {
  return guard([&] {
    const char* operation = "conv2d_algorithm";
    require_descriptor(operation, d);
    require(pass >= FBN_CONV2D_FORWARD && pass <= FBN_CONV2D_BACKWARD_FILTER, operation,
            ": pass must be a fbn_conv2d_pass. Received: ", pass);
    const Conv2dGeometry g = resolve_conv2d(operation, *d);
    const ConvPass which = static_cast<ConvPass>(pass);
    const std::string why = algorithm_reason(g, which, d->algorithm);
    if (name != nullptr) *name = algorithm_name(g, which, d->algorithm);
    if (reason != nullptr && capacity > 0) {
      const size_t size = why.copy(reason, capacity - 1);
      reason[size] = '\0';
    }
  });
}

fbn_status fbn_conv2d_forward(const fbn_conv2d* d, const float* x, const float* kernel, const float* bias, float* y,
                              const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "conv2d_forward";
    require_descriptor(operation, d);
    const Conv2dGeometry g = resolve_conv2d(operation, *d);
    const Exec run =
        resolve_exec(operation, exec, [&] { return describe(*d, g) + describe_pass(": ", *d, g, ConvPass::forward); });
    const int64_t images = d->batch;
    if (!run.workspace_query) {
      require_array(operation, "x", x, images * g.in_size());
      require_array(operation, "kernel", kernel, images > 0 ? g.kernel_size() : 0);
      require_array(operation, "y", y, images * g.out_size());
    }
    if (images == 0) {  // of any extents: nothing may be planned from those
      Workspace(operation, run).commit();
      return;
    }
    const AnyCorrelation c(g, false, d->algorithm);
    const int64_t lane_scratch = round_up(c->scratch(), 16);
    Workspace workspace(operation, run);
    const size_t packed_at = workspace.reserve<float>(c->packed_size());
    const size_t scratch_at = workspace.reserve<float>(checked_product(operation, {lane_scratch, run.lanes}));
    if (workspace.commit()) return;
    float* packed = workspace.at<float>(packed_at);
    float* scratch = workspace.at<float>(scratch_at);
    const double work = 2.0 * double(images) * double(g.multiply_adds());
    const Split split(*c, images, work, run.lanes);
    const auto pack = [&](int64_t unit, int) { c->pack(kernel, packed, {unit, unit + 1}); };
    const auto task = [&](int64_t i, int lane) {
      c->run(x, packed, bias, d->activation, d->alpha, y, split.image_range(i), split.row_range(i), split.unit_range(i),
             scratch + lane * lane_scratch);
    };
    execute(run, {{c->units(), pack}, {split.tasks(), task}}, work);
  });
}

fbn_status fbn_conv2d_backward(const fbn_conv2d* d, const float* dy, const float* x, const float* kernel,
                               const float* y, float* dx, float* dkernel, float* dbias, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "conv2d_backward";
    require_descriptor(operation, d);
    const Conv2dGeometry g = resolve_conv2d(operation, *d);
    const Exec run = resolve_exec(operation, exec, [&] {
      std::string text = describe(*d, g);
      if (dx) text += describe_pass(": dx ", *d, g, ConvPass::backward_data);
      if (dkernel) text += describe_pass(dx ? "; dkernel " : ": dkernel ", *d, g, ConvPass::backward_filter);
      return text;
    });
    const int64_t images = d->batch;
    const bool through = d->activation != FBN_LINEAR;
    if (!run.workspace_query) {
      require_array(operation, "dy", dy, images * g.out_size());
      require_array(operation, "x", x, dkernel ? images * g.in_size() : 0);
      require_array(operation, "kernel", kernel, dx && images > 0 ? g.kernel_size() : 0);
      require_array(operation, "y", y, through ? images * g.out_size() : 0);
    }
    if (images == 0) {
      if (Workspace(operation, run).commit()) return;
      if (dkernel) std::fill_n(dkernel, g.kernel_size(), 0.0f);
      if (dbias) std::fill_n(dbias, g.out_channels, 0.0f);
      return;
    }
    const AnyCorrelation c(g, true, d->algorithm);
    const double product = 2.0 * double(images) * double(g.multiply_adds());
    const Split data(*c, images, product, run.lanes);
    const int64_t data_tasks = dx ? data.tasks() : 0;

    // Small kernels: partial sums of runs of granules, merged in a tree; large ones: each task owns whole sums.
    const bool partial = sums_in_parts(g);
    const AnyFilterGradient f(g, d->algorithm, images);
    const int64_t granules = f->granules(images);
    const int64_t chunks = partial ? std::clamp<int64_t>(granules, 1, kFilterChunks) : 1;
    const int64_t wanted = wanted_tasks(product, run.lanes, 2);
    const int64_t unit_parts = partial ? 1 : std::clamp<int64_t>(f->unit_parts(wanted), 1, f->units());
    const int64_t row_parts = partial ? 1
                                      : std::clamp<int64_t>(ceil_div(wanted, unit_parts), 1,
                                                            std::max<int64_t>(1, f->rows() / f->row_grain()));
    const int64_t filter_tasks = !dkernel ? 0 : partial ? chunks : unit_parts * row_parts;
    const int64_t filter_units = ceil_div(f->units(), unit_parts);

    const int64_t bias_rows = images * g.out_height * g.out_width;
    const int64_t bias_chunks = !dbias ? 0 : std::clamp<int64_t>(bias_rows / 64, 1, kBiasChunks);

    const int64_t lane_scratch =
        round_up(std::max(dx ? c->scratch() : 0, dkernel ? f->scratch(filter_units) : int64_t{0}), 16);
    Workspace workspace(operation, run);
    const size_t packed_at = workspace.reserve<float>(dx ? c->packed_size() : 0);
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

    const int64_t pack_tasks = dx ? c->units() : 0;
    const int64_t through_tasks = through ? std::min<int64_t>(bias_rows, 4 * run.lanes) : 0;
    const auto prepare = [&](int64_t i, int) {
      if (i < pack_tasks) return c->pack(kernel, packed, {i, i + 1});
      const Range r = part_of(bias_rows, through_tasks, i - pack_tasks);
      const int64_t at = r.begin * g.out_channels;
      activation_backward({r.size(), g.out_channels, g.out_channels}, d->activation, d->alpha, dy + at, y + at,
                          dy_through + at);
    };
    const auto gradients = [&](int64_t i, int lane) {
      float* own = scratch + lane * lane_scratch;
      if (i < data_tasks) {
        return c->run(gradient, packed, nullptr, FBN_LINEAR, 0, dx, data.image_range(i), data.row_range(i),
                      data.unit_range(i), own);
      }
      i -= data_tasks;
      if (i < filter_tasks) {
        if (partial) {
          return f->run(x, gradient, chunks > 1 ? parts + i * part_size : dkernel, images, part_of(granules, chunks, i),
                        {0, f->units()}, {0, f->rows()}, true, own);
        }
        return f->run(x, gradient, dkernel, images, {0, granules}, part_of(f->units(), unit_parts, i / row_parts),
                      part_of(f->rows(), row_parts, i % row_parts), true, own);
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
    execute(run,
            {{pack_tasks + through_tasks, prepare},
             {data_tasks + filter_tasks + bias_chunks, gradients},
             {merge_tasks + (dbias ? 1 : 0), merge}},
            ((dx ? 1 : 0) + (dkernel ? 1 : 0)) * product + double(bias_rows) * double(g.out_channels));
  });
}
