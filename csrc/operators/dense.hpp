// dense: y = act(x W + b), W (in, out); block functions on row and column ranges.
//
// All run on the calling thread, neither allocate nor throw. Element (r, c) of a result depends on row r of
// x or dy, the weights and the reduction order, which is fixed by (in, out), and by the number of rows that are summed:
// not on the ranges given.
#pragma once

#include <fastbn/fastbn.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "runtime/ranges.hpp"

namespace fastbn {

struct GemmUpdate;
enum class GemmStart : int32_t;

// How W lies in memory.
enum class KernelLayout {
  rows,   // (in, out) row-major
  panels  // columns in panels of kDensePanel, the last one narrower, each (in, width) row-major: a product reads them
          // without packing, and some columns, or some rows of a panel, are consecutive for an update. One panel
          // more of floats is readable behind W.
};
inline constexpr int64_t kDensePanel = 32;

class DensePlan {
 public:
  DensePlan() = default;
  DensePlan(int64_t in_features, int64_t out_features, KernelLayout layout = KernelLayout::rows)
      : in_(in_features), out_(out_features), layout_(layout) {}
  int64_t in_features() const { return in_; }
  int64_t out_features() const { return out_; }

  // Where element (k, c) of W is, and how far row k + 1 is from it.
  int64_t kernel_at(int64_t k, int64_t c) const {
    if (layout_ == KernelLayout::rows) return k * out_ + c;
    const int64_t first = c / kDensePanel * kDensePanel;
    return first * in_ + k * kernel_stride(c) + c - first;
  }
  int64_t kernel_stride(int64_t c) const {
    if (layout_ == KernelLayout::rows) return out_;
    return std::min(kDensePanel, out_ - c / kDensePanel * kDensePanel);
  }
  // W from (in, out) row-major to the plan's layout, and back.
  void pack_kernel(const float* rows, float* kernel) const noexcept;
  void unpack_kernel(const float* kernel, float* rows) const noexcept;

  // Column ranges given to forward (over out) and backward_data / backward_filter (over in) should begin at
  // multiples of this (one packed panel), except that the last may end anywhere. Where W lies in panels, those of
  // forward must begin at multiples of kDensePanel.
  static int64_t column_grain();
  // Floats of scratch for `rows` rows; covers all three functions for ranges of at most `columns` columns.
  int64_t scratch(int64_t rows, int64_t columns) const;
  // The same for backward_filter into `columns` columns at once.
  int64_t filter_scratch(int64_t rows, int64_t columns) const;

  // y[r][c] = act(bias[c] + sum_k x[r][k] W[k][c]) for r in [0, rows), c in [begin, end); act not softmax.
  void forward(const float* x, int64_t x_stride, int64_t rows, const float* kernel, const float* bias,
               int32_t activation, float alpha, float* y, int64_t y_stride, int64_t begin, int64_t end,
               float* scratch) const noexcept;
  // dx[r][k] = sum_c dy[r][c] W[k][c] for k in [begin, end).
  void backward_data(const float* dy, int64_t dy_stride, int64_t rows, const float* kernel, float* dx,
                     int64_t dx_stride, int64_t begin, int64_t end, float* scratch) const noexcept;
  // The gradient of W[k][c] for k in `in` and c in `out`, sum_r x[r][k] dy[r][c], into dkernel, which lies as the W of
  // a plan of in.size() x out.size() with this one's layout: one chain over r in order up to 1024 rows, more as sums of
  // even chains of at most 512, added in order.
  void backward_filter(const float* x, int64_t x_stride, const float* dy, int64_t dy_stride, int64_t rows,
                       float* dkernel, Range in, Range out, float* scratch) const noexcept;
  // How much of a gradient over `rows` rows, of in x out elements, to make before weights are updated with it: it stays
  // in the second-level cache, or in the first.
  struct FilterBlock {
    int64_t in, out;
  };
  static FilterBlock update_block(int64_t rows, int64_t in, int64_t out);
  // Floats of scratch for a block and the making of it.
  int64_t update_scratch(int64_t rows, int64_t columns) const;
  // Whether the gradient over so many rows is best not stored, but ends in an update of W.
  static bool updates_in_place(int64_t rows);
  // Which kernels the three run over so many rows, in words.
  std::string forward_kernel(int64_t rows) const;
  std::string backward_data_kernel(int64_t rows) const;
  std::string backward_filter_kernel(int64_t rows) const;
  // As backward_filter, with W and update.velocity, which begin with row 0 and column 0, updated by SGD: the bits of
  // both steps.
  void backward_filter_update(const float* x, int64_t x_stride, const float* dy, int64_t dy_stride, int64_t rows,
                              float* kernel, Range in, Range out, const GemmUpdate& update,
                              float* scratch) const noexcept;

 private:
  // A gradient, or weights to update: where the first element of `in` and `out` is, and how the rest lies.
  struct Target;
  bool forwards_in_place(int64_t rows) const;
  bool takes_dots(int64_t rows) const;
  void forward_few(const float* x, int64_t x_stride, int64_t rows, const float* kernel, const float* bias,
                   int32_t activation, float alpha, float* y, int64_t y_stride, int64_t begin, int64_t end,
                   float* scratch) const noexcept;
  void filter(const float* x, int64_t x_stride, const float* dy, int64_t dy_stride, int64_t rows, const Target& to,
              Range in, Range out, float* scratch) const noexcept;
  void filter_packed(const float* x, int64_t x_stride, const float* dy, int64_t dy_stride, int64_t rows,
                     const Target& to, Range in, Range out, GemmStart start, float* scratch) const noexcept;

  int64_t in_ = 0, out_ = 0;
  KernelLayout layout_ = KernelLayout::rows;
};

// sums[c] (+)= sum_r m[r][c], c in [0, columns): chains of at most 64 rows in float, added up in double.
void column_sums(const float* m, int64_t stride, int64_t rows, int64_t columns, double* sums, bool accumulate) noexcept;

}  // namespace fastbn
