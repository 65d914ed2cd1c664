// dense: y = act(x W + b), its gradients, and the C functions over them.
#include "dense.hpp"

#include <algorithm>
#include <limits>

#include "checks.hpp"
#include "kernels/kernel_table.hpp"
#include "packed_rows.hpp"
#include "pointwise.hpp"
#include "runtime/executor.hpp"
#include "runtime/memory.hpp"
#include "runtime/status.hpp"
#include "tile_text.hpp"

namespace fastbn {
namespace {

static_assert(kDensePanel == kWidePanel);

// Sizes of what is packed at once, so that it stays in the second-level cache. They leave the bits alone: chains
// are cut with GemmStart::kChain.
constexpr int64_t kDepth = 1024;         // most of k in one packed block
constexpr int64_t kPanels = 4;           // panels of one packed block
constexpr int64_t kRowsOfBatch = 256;    // rows of x and dy in one pass over a chain of backward_filter
constexpr int64_t kPanelsOfFilter = 32;  // panels of dy that meet packed rows of x
constexpr int64_t kRowBytes = 1 << 18;   // of the matrix that is not packed
constexpr int64_t kFewRows = 12;         // up to here W is read in place: packing would cost more than it saves
constexpr int64_t kFewDepth = 128;       // of k in one pass over all columns then

// Of a gradient that is followed by an update: where x is packed, as much as keeps packing rare beside products; else
// as much as stays in the first-level cache.
constexpr int64_t kUpdateFloats = 1 << 16, kUpdateColumns = 8 * kDensePanel, kUpdateRows = 112;

// Numeric plan of backward_filter: up to kChainRows rows make one chain; more are cut into chains of at most
// kLongChain, and their sums are added in order. A single chain over n rows loses digits with the root of n.
constexpr int64_t kChainRows = 1024;
constexpr int64_t kLongChain = 512;

// Whether backward_filter packs x for so many columns.
bool packs_x(int64_t rows, int64_t columns) {
  const int64_t panel = kernels().gemm.panel_floats;
  return rows > kFewRows && packs_rows(ceil_div(columns, panel));
}

// Whether backward_filter adds up outer products in registers instead of tiles.
bool takes_outer_products(int64_t rows) { return kernels().gemm.low_tiles && rows <= kFewRows; }

// Floats of y that forward makes at once where it reads W in place.
int64_t few_floats(int64_t rows) {
  const GemmKernels& k = kernels().gemm;
  return rows <= k.wide_rows ? k.wide_floats : k.panel_floats;
}

// Most rows of x and dy in one pass of backward_filter.
int64_t filter_rows(int64_t rows, bool packed) {
  return rows > kChainRows ? kLongChain : packed ? kChainRows : kRowsOfBatch;
}

// The even cut of [0, total) into blocks of at most `most`.
int64_t even_block(int64_t total, int64_t most) {
  const int64_t blocks = std::max<int64_t>(1, ceil_div(total, most));
  return std::max<int64_t>(1, ceil_div(total, blocks));
}

// A product of plain matrices; the caller fills in what differs.
GemmArgs plain(const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t b_row, float* c, int64_t c_row) {
  GemmArgs g{};
  g.a = a;
  g.a_row = a_row;
  g.a_col = a_col;
  g.b = b;
  g.b_row = b_row;
  g.c = c;
  g.c_row = c_row;
  g.batch = 1;
  g.inner = INT64_MAX;
  return g;
}

// Rows of B as a product reads them.
struct Panel {
  const float* b;
  int64_t b_row;
};

// C[r][j] = act(bias[j] + sum_p A[r][p] B[p][j]), j in [0, columns), where make_panel(p, depth, j, n, at) gives
// block B[p .. p + depth)[j .. j + n) of at most a packed panel's columns; `at` counts the floats of the blocks before
// it that are in use at the same time.
template <class MakePanel>
void blocked_product(const float* a, int64_t a_row, int64_t rows, int64_t k, int64_t columns, const float* bias,
                     int32_t activation, float alpha, float* c, int64_t c_row, const MakePanel& make_panel) {
  const GemmKernels& kernel = kernels().gemm;
  const int64_t panel = kernel.panel_floats;
  const int64_t depth_block = even_block(k, kDepth);
  const int64_t row_block =
      round_up(std::max<int64_t>(1, kRowBytes / (int64_t{sizeof(float)} * depth_block)), kernel.tile_rows);
  for (int64_t j0 = 0; j0 < columns; j0 += kPanels * panel) {
    const int64_t block_end = std::min(columns, j0 + kPanels * panel);
    for (int64_t p0 = 0; p0 < k; p0 += depth_block) {
      const int64_t depth = std::min(depth_block, k - p0);
      Panel panels[kPanels];
      for (int64_t j = j0; j < block_end; j += panel)
        panels[(j - j0) / panel] = make_panel(p0, depth, j, std::min(panel, block_end - j), (j - j0) * depth);
      for (int64_t r = 0; r < rows; r += row_block) {
        for (int64_t j = j0; j < block_end; j += panel) {
          const Panel& from = panels[(j - j0) / panel];
          GemmArgs g = plain(a + p0, a_row, 1, from.b, from.b_row, c + j, c_row);
          g.first_row = r;
          g.m = std::min(row_block, rows - r);
          g.n = std::min(panel, block_end - j);
          g.k = depth;
          g.start = p0 == 0 ? GemmStart::kZero : GemmStart::kChain;
          if (p0 == 0 && bias) g.bias = bias + j;
          if (p0 + depth >= k) {
            g.activation = activation;
            g.alpha = alpha;
          }
          kernel.gemm(g);
        }
      }
    }
  }
}

}  // namespace

bool DensePlan::forwards_in_place(int64_t rows) const { return rows <= kFewRows && layout_ == KernelLayout::rows; }

bool DensePlan::takes_dots(int64_t rows) const { return rows <= kMostDots; }

std::string DensePlan::forward_kernel(int64_t rows) const {
  const GemmKernels& k = kernels().gemm;
  if (forwards_in_place(rows)) return "W read in place, " + text(k.tile(std::min(few_floats(rows), out_)));
  const char* read = layout_ == KernelLayout::panels ? "W in panels, " : "W packed, ";
  return read + text(k.tile(std::min<int64_t>(k.panel_floats, out_)));
}

std::string DensePlan::backward_data_kernel(int64_t rows) const {
  const GemmKernels& k = kernels().gemm;
  if (takes_dots(rows)) return "W read in place, dot products";
  return "W packed, " + text(k.tile(std::min<int64_t>(k.panel_floats, in_)));
}

std::string DensePlan::backward_filter_kernel(int64_t rows) const {
  const GemmKernels& k = kernels().gemm;
  if (takes_outer_products(rows)) return "outer products";
  const int64_t wide = rows <= kFewRows ? k.wide_floats : k.panel_floats;
  return (packs_x(rows, out_) ? "x and dy packed, " : "dy packed, ") + text(k.tile(std::min(wide, out_)));
}

int64_t DensePlan::column_grain() { return kernels().gemm.panel_floats; }

int64_t DensePlan::scratch(int64_t rows, int64_t columns) const {
  const int64_t panel = kernels().gemm.panel_floats;
  const int64_t width = std::min(round_up(std::max<int64_t>(1, columns), panel), kPanels * panel);
  const int64_t depth = std::max(even_block(in_, kDepth), even_block(out_, kDepth));
  return std::max(depth * width, filter_scratch(rows, panel));
}

int64_t DensePlan::filter_scratch(int64_t rows, int64_t columns) const {
  const GemmKernels& k = kernels().gemm;
  const bool packed = packs_x(rows, columns);
  const int64_t depth = std::min(rows, packed ? kChainRows : kLongChain);  // of fewer rows, too
  if (!packed) return std::max(depth * k.panel_floats, std::min(rows, kFewRows) * int64_t{k.wide_floats});
  return std::min(round_up(columns, k.panel_floats), kPanelsOfFilter * k.panel_floats) * depth +
         kTilesOfBlock * packed_tile(depth);
}

void DensePlan::forward(const float* x, int64_t x_stride, int64_t rows, const float* kernel, const float* bias,
                        int32_t activation, float alpha, float* y, int64_t y_stride, int64_t begin, int64_t end,
                        float* scratch) const noexcept {
  if (rows <= 0 || begin >= end) return;
  if (forwards_in_place(rows)) {
    forward_few(x, x_stride, rows, kernel, bias, activation, alpha, y, y_stride, begin, end, scratch);
  } else {
    const auto panel = [&](int64_t p, int64_t depth, int64_t j, int64_t n, int64_t at) -> Panel {
      const float* from = kernel + kernel_at(p, begin + j);
      if (layout_ == KernelLayout::panels) return {from, kernel_stride(begin + j)};
      const int64_t width = round_up(n, kernels().vector_floats);
      kernels().gemm.pack(from, out_, depth, n, width, scratch + at);
      return {scratch + at, width};
    };
    blocked_product(x, x_stride, rows, in_, end - begin, bias ? bias + begin : nullptr, fused(activation, alpha), alpha,
                    y + begin, y_stride, panel);
  }
  if (!is_fused(activation)) {
    activation_forward({rows, end - begin, y_stride}, activation, alpha, y + begin, y + begin);
  }
}

// Reads W in place, whole vectors of it: behind the last column they go on with the next row, and where there is none
// the last rows are packed.
void DensePlan::forward_few(const float* x, int64_t x_stride, int64_t rows, const float* kernel, const float* bias,
                            int32_t activation, float alpha, float* y, int64_t y_stride, int64_t begin, int64_t end,
                            float* scratch) const noexcept {
  const GemmKernels& kernel_of = kernels().gemm;
  const int64_t lanes = kernels().vector_floats, wide = few_floats(rows);
  const int64_t pass = end - begin <= wide ? in_ : kFewDepth;
  for (int64_t p0 = 0; p0 < in_; p0 += pass) {
    const int64_t p1 = std::min(in_, p0 + pass);
    for (int64_t j = begin; j < end; j += wide) {
      const int64_t n = std::min(wide, end - j), width = round_up(n, lanes);
      const int64_t room = in_ * out_ - j - width;  // behind the first row
      const int64_t in_place = std::clamp(room < 0 ? 0 : room / out_ + 1, p0, p1);
      const auto product = [&](int64_t p, int64_t depth, const float* b, int64_t b_row) {
        GemmArgs g = plain(x + p, x_stride, 1, b, b_row, y + j, y_stride);
        g.m = rows;
        g.n = n;
        g.k = depth;
        g.start = p == 0 ? GemmStart::kZero : GemmStart::kChain;
        if (p == 0 && bias) g.bias = bias + j;
        if (p + depth == in_) {
          g.activation = fused(activation, alpha);
          g.alpha = alpha;
        }
        kernel_of.gemm(g);
      };
      if (in_place > p0) product(p0, in_place - p0, kernel + p0 * out_ + j, out_);
      if (in_place == p1) continue;
      kernel_of.pack(kernel + in_place * out_ + j, out_, p1 - in_place, n, width, scratch);
      product(in_place, p1 - in_place, scratch, width);
    }
  }
}

void DensePlan::backward_data(const float* dy, int64_t dy_stride, int64_t rows, const float* kernel, float* dx,
                              int64_t dx_stride, int64_t begin, int64_t end, float* scratch) const noexcept {
  if (rows <= 0 || begin >= end) return;
  if (takes_dots(rows)) {
    const int64_t run = layout_ == KernelLayout::rows ? out_ : kDensePanel;
    for (int64_t c = 0; c < out_; c += run) {
      kernels().gemm.dots(dy + c, dy_stride, kernel + kernel_at(begin, c), kernel_stride(c), rows, end - begin,
                          std::min(run, out_ - c), dx + begin, dx_stride, c > 0);
    }
    return;
  }
  const auto panel = [&](int64_t p, int64_t depth, int64_t j, int64_t n, int64_t at) -> Panel {
    const int64_t width = round_up(n, kernels().vector_floats);
    for (int64_t c = p; c < p + depth;) {
      const int64_t end_of_run = layout_ == KernelLayout::rows ? out_ : (c / kDensePanel + 1) * kDensePanel;
      const int64_t run = std::min(end_of_run, p + depth) - c;
      kernels().gemm.pack_transposed(kernel + kernel_at(begin + j, c), kernel_stride(c), run, n, width,
                                     scratch + at + (c - p) * width);
      c += run;
    }
    return {scratch + at, width};
  };
  blocked_product(dy, dy_stride, rows, out_, end - begin, nullptr, FBN_LINEAR, 0, dx + begin, dx_stride, panel);
}

DensePlan::FilterBlock DensePlan::update_block(int64_t rows, int64_t in, int64_t out) {
  if (!packs_x(rows, out)) return {kUpdateRows, kDensePanel};
  const int64_t columns = std::min(round_up(out, kDensePanel), kUpdateColumns);
  return {even_block(in, kUpdateFloats / columns), columns};
}

int64_t DensePlan::update_scratch(int64_t rows, int64_t columns) const {
  const int64_t block = packs_x(rows, columns) ? kUpdateFloats : kUpdateRows * kDensePanel;
  return block + filter_scratch(rows, std::min(round_up(columns, kDensePanel), kUpdateColumns));
}

// Low tiles read packed rows of x and have no registers left for an update: theirs follows a gradient in the cache.
bool DensePlan::updates_in_place(int64_t rows) {
  return rows <= (kernels().gemm.low_tiles ? kFewRows : filter_rows(rows, false));
}

// Element (k, c) of W is element (k - first_k, c - first_c) of what lies at `data` as the W of `layout`.
struct DensePlan::Target {
  float* data;
  DensePlan layout;
  int64_t first_k, first_c;
  const GemmUpdate* update;

  int64_t index(int64_t k, int64_t c) const { return layout.kernel_at(k - first_k, c - first_c); }
  float* at(int64_t k, int64_t c) const { return data + index(k, c); }
  int64_t stride(int64_t c) const { return layout.kernel_stride(c - first_c); }
  // Most columns side by side.
  int64_t widest() const { return layout.layout_ == KernelLayout::panels ? kDensePanel : layout.out_; }
  // The update where element (k, c) is the first.
  const GemmUpdate* update_at(int64_t k, int64_t c, GemmUpdate* own) const {
    if (update == nullptr) return nullptr;
    *own = *update;
    if (own->velocity != nullptr) own->velocity += index(k, c);
    return own;
  }
};

void DensePlan::backward_filter(const float* x, int64_t x_stride, const float* dy, int64_t dy_stride, int64_t rows,
                                float* dkernel, Range in, Range out, float* scratch) const noexcept {
  const Target to{dkernel, DensePlan(in.size(), out.size(), layout_), in.begin, out.begin, nullptr};
  filter(x, x_stride, dy, dy_stride, rows, to, in, out, scratch);
}

void DensePlan::backward_filter_update(const float* x, int64_t x_stride, const float* dy, int64_t dy_stride,
                                       int64_t rows, float* kernel, Range in, Range out, const GemmUpdate& update,
                                       float* scratch) const noexcept {
  filter(x, x_stride, dy, dy_stride, rows, {kernel, *this, 0, 0, &update}, in, out, scratch);
}

void DensePlan::filter(const float* x, int64_t x_stride, const float* dy, int64_t dy_stride, int64_t rows,
                       const Target& to, Range in, Range out, float* scratch) const noexcept {
  if (in.begin >= in.end) return;
  const GemmKernels& k = kernels().gemm;
  const int64_t lanes = kernels().vector_floats;
  GemmUpdate own;
  if (takes_outer_products(rows)) {
    for (int64_t j = out.begin; j < out.end; j += to.widest()) {
      k.outer(x + in.begin, x_stride, dy + j, dy_stride, in.size(), std::min(to.widest(), out.end - j), rows,
              to.at(in.begin, j), to.stride(j), to.update_at(in.begin, j, &own));
    }
    return;
  }
  const bool packed = to.update == nullptr && packs_x(rows, out.size());
  const int64_t row_block = even_block(rows, filter_rows(rows, packed));
  const GemmStart next = rows > kChainRows ? GemmStart::kAdd : GemmStart::kChain;
  for (int64_t r = 0; r == 0 || r < rows; r += row_block) {
    const int64_t depth = std::min(row_block, rows - r);
    const GemmStart start = r > 0 ? next : GemmStart::kZero;
    if (packed) {
      filter_packed(x + r * x_stride, x_stride, dy + r * dy_stride, dy_stride, depth, to, in, out, start, scratch);
      continue;
    }
    const int64_t wide = std::min<int64_t>(depth <= kFewRows ? k.wide_floats : k.panel_floats, to.widest());
    for (int64_t j = out.begin; j < out.end; j += wide) {
      const float* from = dy + r * dy_stride + j;
      GemmArgs g = plain(x + r * x_stride + in.begin, 1, x_stride, from, dy_stride, to.at(in.begin, j), to.stride(j));
      g.update = to.update_at(in.begin, j, &own);
      g.m = in.size();
      g.n = std::min(wide, out.end - j);
      g.k = depth;
      g.start = start;
      if (depth > kFewRows || g.n % lanes != 0) {
        g.b = scratch;
        g.b_row = round_up(g.n, lanes);
        k.pack(from, dy_stride, depth, g.n, g.b_row, scratch);
      }
      k.gemm(g);
    }
  }
}

void DensePlan::filter_packed(const float* x, int64_t x_stride, const float* dy, int64_t dy_stride, int64_t rows,
                              const Target& to, Range in, Range out, GemmStart start, float* scratch) const noexcept {
  const GemmKernels& k = kernels().gemm;
  const int64_t panel = k.panel_floats, group = kPanelsOfFilter * panel;
  const int64_t block = block_of_rows(in.size()), tile = packed_tile(rows);
  float* x_packed = scratch + std::min(round_up(out.size(), panel), group) * rows;
  for (int64_t j0 = out.begin; j0 < out.end; j0 += group) {
    const int64_t end = std::min(out.end, j0 + group);
    const auto width = [&](int64_t j) { return round_up(std::min(panel, end - j), kernels().vector_floats); };
    for_parts(rows, [&](int64_t r, int64_t part) {
      for (int64_t j = j0; j < end; j += panel) {
        k.pack(dy + r * dy_stride + j, dy_stride, part, std::min(panel, end - j), width(j),
               scratch + (j - j0) * rows + r * width(j));
      }
    });
    for (int64_t i = in.begin; i < in.end; i += block) {
      const int64_t count = std::min(block, in.end - i);
      pack_rows(x + i, x_stride, 0, rows, count, tile, x_packed);
      for (int64_t j = j0; j < end; j += panel) {
        GemmArgs g = plain(x_packed, 1, k.tile_rows, scratch + (j - j0) * rows, width(j), to.at(i, j), to.stride(j));
        read_packed_rows(&g, x_packed, tile, rows);
        g.m = count;
        g.n = std::min(panel, end - j);
        g.start = start;
        k.gemm(g);
      }
    }
  }
}

void DensePlan::pack_kernel(const float* rows, float* kernel) const noexcept {
  for (int64_t c = 0, width; c < out_; c += width) {
    width = std::min(kDensePanel, out_ - c);
    for (int64_t k = 0; k < in_; ++k) std::copy_n(rows + k * out_ + c, width, kernel + kernel_at(k, c));
  }
}

void DensePlan::unpack_kernel(const float* kernel, float* rows) const noexcept {
  for (int64_t c = 0, width; c < out_; c += width) {
    width = std::min(kDensePanel, out_ - c);
    for (int64_t k = 0; k < in_; ++k) std::copy_n(kernel + kernel_at(k, c), width, rows + k * out_ + c);
  }
}

void column_sums(const float* m, int64_t stride, int64_t rows, int64_t columns, double* sums,
                 bool accumulate) noexcept {
  kernels().gemm.column_sums(m, stride, rows, columns, sums, accumulate);
}

namespace {

void validate(const char* operation, const fbn_dense* d) {
  require_descriptor(operation, d);
  require_size(operation, "rows", d->rows, 0);
  require_size(operation, "in_features", d->in_features, 1);
  require_size(operation, "out_features", d->out_features, 1);
  require_activation(operation, d->activation, d->alpha);
  checked_product(operation, {d->rows, d->in_features});
  checked_product(operation, {d->rows, d->out_features});
  checked_product(operation, {d->in_features, d->out_features});
}

// What packing counts as: every row part packs its columns of W again, and every part of a gradient its dy.
constexpr int64_t kPackedRows = 2, kPackedColumns = 8;

// Tasks of one pass: a grid of column and row parts, columns first. Of few tasks a lane, the grid whose longest lane
// has least to do.
struct Grid {
  int64_t rows, columns, row_parts = 1, column_parts = 1, grain;
  Grid(int64_t rows_, int64_t columns_, int64_t grain_, int64_t packed_rows, int64_t packed_columns, double work,
       int lanes)
      : rows(rows_), columns(columns_), grain(grain_) {
    lanes = worthwhile_lanes(lanes, work);
    const int64_t wanted = wanted_tasks(work, lanes, 4);
    const int64_t most_columns = std::clamp<int64_t>(columns / grain, 1, wanted);
    if (wanted > 4 * lanes) {  // long work, in tasks short enough for interrupts
      column_parts = most_columns;
      row_parts = std::clamp<int64_t>(rows / 64, 1, std::max<int64_t>(1, wanted / column_parts));
      return;
    }
    double least = std::numeric_limits<double>::infinity();
    for (int64_t c = 1; c <= most_columns; ++c) {
      const int64_t most_rows = std::clamp<int64_t>(rows / 64, 1, wanted / c);
      for (int64_t r = 1; r <= most_rows; ++r) {
        const int64_t share = ceil_div(c * r, lanes), width = round_up(ceil_div(columns, c), grain);
        const int64_t height = ceil_div(rows, r);
        const double longest = double(share) * double(width + packed_columns) * double(height + packed_rows);
        if (longest > least) continue;
        least = longest;
        column_parts = c;
        row_parts = r;
      }
    }
  }
  int64_t tasks() const { return row_parts * column_parts; }
  int64_t widest() const { return round_up(columns, grain) / column_parts + grain; }
  Range row_range(int64_t task) const { return part_of(rows, row_parts, task % row_parts); }
  Range column_range(int64_t task) const { return part_of(columns, column_parts, task / row_parts, grain); }
};

std::string describe(const fbn_dense& d) { return concatenate(d.rows, "x", d.in_features, " -> ", d.out_features); }

}  // namespace
}  // namespace fastbn

using namespace fastbn;

fbn_status fbn_dense_forward(const fbn_dense* d, const float* x, const float* kernel, const float* bias, float* y,
                             const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "dense_forward";
    validate(operation, d);
    const Exec run = resolve_exec(operation, exec, [&] {
      return concatenate(describe(*d), ": ", DensePlan(d->in_features, d->out_features).forward_kernel(d->rows));
    });
    if (!run.workspace_query) {
      require_array(operation, "x", x, d->rows * d->in_features);
      require_array(operation, "kernel", kernel, d->rows > 0 ? d->in_features * d->out_features : 0);
      require_array(operation, "y", y, d->rows * d->out_features);
    }
    const int64_t rows = d->rows, in = d->in_features, out = d->out_features;
    const DensePlan plan(in, out);
    const double work = 2.0 * double(rows) * double(in) * double(out);
    const Grid grid(rows, out, DensePlan::column_grain(), kPackedRows, 0, work, run.lanes);
    const int64_t lane_scratch = round_up(plan.scratch(rows, grid.widest()), 16);
    Workspace workspace(operation, run);
    const size_t scratch_at = workspace.reserve<float>(checked_product(operation, {lane_scratch, run.lanes}));
    if (workspace.commit() || rows == 0) return;
    float* scratch = workspace.at<float>(scratch_at);
    const auto task = [&](int64_t i, int lane) {
      const Range r = grid.row_range(i), c = grid.column_range(i);
      plan.forward(x + r.begin * in, in, r.size(), kernel, bias, d->activation, d->alpha, y + r.begin * out, out,
                   c.begin, c.end, scratch + lane * lane_scratch);
    };
    execute(run, {{grid.tasks(), task}}, work);
  });
}

fbn_status fbn_dense_backward(const fbn_dense* d, const float* dy, const float* x, const float* kernel, const float* y,
                              float* dx, float* dkernel, float* dbias, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "dense_backward";
    validate(operation, d);
    const Exec run = resolve_exec(operation, exec, [&] {
      const DensePlan plan(d->in_features, d->out_features);
      std::string text = describe(*d);
      if (dx) text += ": dx " + plan.backward_data_kernel(d->rows);
      if (dkernel) text += (dx ? "; dkernel " : ": dkernel ") + plan.backward_filter_kernel(d->rows);
      return text;
    });
    const bool through = d->activation != FBN_LINEAR;
    if (!run.workspace_query) {
      require_array(operation, "dy", dy, d->rows * d->out_features);
      require_array(operation, "x", x, dkernel ? d->rows * d->in_features : 0);
      require_array(operation, "kernel", kernel, dx && d->rows > 0 ? d->in_features * d->out_features : 0);
      require_array(operation, "y", y, through ? d->rows * d->out_features : 0);
    }
    const int64_t rows = d->rows, in = d->in_features, out = d->out_features;
    if (rows == 0) {  // arrays of no elements may be NULL
      if (Workspace(operation, run).commit()) return;
      if (dkernel) std::fill_n(dkernel, in * out, 0.0f);
      if (dbias) std::fill_n(dbias, out, 0.0f);
      return;
    }
    const DensePlan plan(in, out);
    const int64_t grain = DensePlan::column_grain();
    const double product = 2.0 * double(rows) * double(in) * double(out);
    const Grid data(rows, in, grain, kPackedRows, 0, product, run.lanes);
    const Grid filter(1, in, kernels().gemm.tile_rows, 0, kPackedColumns, product, run.lanes);
    const int64_t bias_parts = dbias ? ceil_div(out, grain) : 0;
    const int64_t own_scratch = std::max(plan.scratch(rows, std::max(data.widest(), filter.widest())),
                                         dkernel ? plan.filter_scratch(rows, out) : int64_t{0});
    const int64_t lane_scratch = round_up(own_scratch, 16);
    Workspace workspace(operation, run);
    const size_t scratch_at = workspace.reserve<float>(checked_product(operation, {lane_scratch, run.lanes}));
    const size_t through_at = workspace.reserve<float>(through ? rows * out : 0);
    const size_t sums_at = workspace.reserve<double>(dbias ? out : 0);
    if (workspace.commit()) return;
    float* scratch = workspace.at<float>(scratch_at);
    float* dy_through = workspace.at<float>(through_at);
    double* sums = workspace.at<double>(sums_at);
    const float* gradient = through ? dy_through : dy;

    const int64_t through_parts = through ? std::min<int64_t>(rows, 4 * run.lanes) : 0;
    const auto activation = [&](int64_t i, int) {
      const Range r = part_of(rows, through_parts, i);
      const int64_t at = r.begin * out;
      activation_backward({r.size(), out, out}, d->activation, d->alpha, dy + at, y + at, dy_through + at);
    };
    const int64_t data_tasks = dx ? data.tasks() : 0, filter_tasks = dkernel ? filter.column_parts : 0;
    const auto gradients = [&](int64_t i, int lane) {
      float* own = scratch + lane * lane_scratch;
      if (i < data_tasks) {
        const Range r = data.row_range(i), c = data.column_range(i);
        plan.backward_data(gradient + r.begin * out, out, r.size(), kernel, dx + r.begin * in, in, c.begin, c.end, own);
      } else if (i < data_tasks + filter_tasks) {
        const Range k = filter.column_range(i - data_tasks);
        plan.backward_filter(x, in, gradient, out, rows, dkernel + k.begin * out, k, {0, out}, own);
      } else {
        const Range c = part_of(out, bias_parts, i - data_tasks - filter_tasks, grain);
        column_sums(gradient + c.begin, out, rows, c.size(), sums + c.begin, false);
        for (int64_t j = c.begin; j < c.end; ++j) dbias[j] = static_cast<float>(sums[j]);
      }
    };
    execute(run, {{through_parts, activation}, {data_tasks + filter_tasks + bias_parts, gradients}},
            ((dx ? 1 : 0) + (dkernel ? 1 : 0)) * product + double(rows) * double(out));
  });
}
