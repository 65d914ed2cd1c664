#include "losses.hpp"

#include "softmax.hpp"
#include "vector_math.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

// The first lane-wise arg-max of a row, as NumPy: the first NaN where there is one.
FASTBN_INLINE int64_t first_arg_max(const float* x, int64_t columns) {
  const vfloat max = row_max(x, columns);
  for (int64_t c = 0; c < columns; c += kLanes) {
    const int64_t n = columns - c < kLanes ? columns - c : kLanes;
    const vfloat v = n == kLanes ? load(x + c) : load_partial(x + c, n);
    const vint nan = (v != v) & (first_lanes(n));
    const vint lane = fold_min(nan ? lane_numbers() : broadcast_int(kLanes));
    if (lane[0] < kLanes) return c + lane[0];
  }
  for (int64_t c = 0; c < columns; c += kLanes) {
    const int64_t n = columns - c < kLanes ? columns - c : kLanes;
    const vfloat v = n == kLanes ? load(x + c) : load_partial_or(x + c, n, -__builtin_inff());
    const vint lane = fold_min(v == max ? lane_numbers() : broadcast_int(kLanes));
    if (lane[0] < kLanes) return c + lane[0];
  }
  return 0;
}

// The class number of a row, -1 where it is none. Whoever owns the labels may change them after they were checked, so
// each is read once and never used as an index before it is compared.
FASTBN_INLINE int32_t read_class(const int32_t* label, int64_t columns) {
  const int32_t c = __atomic_load_n(label, __ATOMIC_RELAXED);
  return c >= 0 && c < columns ? c : -1;
}

FASTBN_INLINE float at_class(const float* x, int32_t label) { return label >= 0 ? x[label] : __builtin_nanf(""); }

// Targets of one row: given, or one at the row's class.
template <bool Classes>
struct Targets {
  int32_t label;  // -1: no column's
  const float* row;
  FASTBN_INLINE vfloat at(const Targets& t, int64_t c, int64_t n) {
    if constexpr (Classes) {
      return lane_numbers() + (int32_t)c == broadcast_int(t.label) ? broadcast(1.0f) : vfloat{};
    } else {
      return n == kLanes ? load(t.row + c) : load_partial(t.row + c, n);
    }
  }
};

FASTBN_INLINE vfloat load_n(const float* p, int64_t n) { return n == kLanes ? load(p) : load_partial(p, n); }
FASTBN_INLINE void store_n(float* p, vfloat v, int64_t n) {
  if (n == kLanes) return store(p, v);
  store_partial(p, v, n);
}
FASTBN_INLINE int64_t chunk(int64_t columns, int64_t c) { return columns - c < kLanes ? columns - c : kLanes; }

// The first arg-max of rows that lie across, as NumPy: the first NaN where there is one.
FASTBN_INLINE vint first_arg_max_across(const vfloat* x, int64_t columns) {
  vfloat max = broadcast(-__builtin_inff());
  vint at{}, nan = broadcast_int(-1);
  for (int64_t c = 0; c < columns; ++c) {
    const vint number = broadcast_int((int32_t)c);
    at = x[c] > max ? number : at;
    max = x[c] > max ? x[c] : max;
    nan = ((x[c] != x[c]) & (nan < 0)) ? number : nan;
  }
  return nan < 0 ? at : nan;
}

// loss = total * log(sum) + distance with total = sum_k t_k, distance = sum_k t_k (max - x_k).
FASTBN_INLINE vfloat loss_of(vfloat total, vfloat sum, vfloat distance) { return fma(total, log(sum), distance); }
FASTBN_INLINE vfloat distance_of(vfloat x, vfloat weight, vfloat max) {
  return weight != vfloat{} ? weight * (max - x) : vfloat{};
}

// Rows of at most kMostAcross columns.
template <bool Classes>
FASTBN_INLINE void cross_entropy_across(int64_t rows, int64_t columns, const float* logits, const int32_t* classes,
                                        const float* targets, float scale, float* loss, float* probabilities,
                                        float* dlogits, uint8_t* correct) {
  for (int64_t begin = 0; begin < rows; begin += kLanes) {
    const int64_t block = chunk(rows, begin), first = begin * columns;
    vfloat x[kMostAcross], weights[Classes ? 1 : kMostAcross];
    read_across(logits + first, columns, block, columns, x);
    vint label{};
    vfloat total = broadcast(1.0f), distance;
    const vfloat max = max_across(x, columns);
    if constexpr (Classes) {  // a number that is no class equals no column's
      if (block == kLanes) {
        label = load_int(classes + begin);
      } else {
        for (int64_t i = 0; i < block; ++i) label[i] = read_class(classes + begin + i, columns);
      }
      vfloat own = broadcast(__builtin_nanf(""));
      for (int64_t c = 0; c < columns; ++c) own = label == broadcast_int((int32_t)c) ? x[c] : own;
      distance = max - own;
    } else {
      read_across(targets + first, columns, block, columns, weights);
      total = distance = vfloat{};
      for (int64_t c = 0; c < columns; ++c) {
        total += weights[c];
        distance += distance_of(x[c], weights[c], max);
      }
    }
    if (correct) {
      const vint expected = Classes ? label : first_arg_max_across(weights, columns);
      store_bytes_partial(correct + begin, (first_arg_max_across(x, columns) == expected) & 1, block);
    }
    const vfloat sum = exp_across(x, columns, max);
    if (loss) store_n(loss + begin, loss_of(total, sum, distance), block);
    if (!probabilities && !dlogits) continue;
    const vfloat factor = 1.0f / sum;
    for (int64_t c = 0; c < columns; ++c) x[c] *= factor;
    if (probabilities) write_across(x, probabilities + first, columns, block, columns);
    if (!dlogits) continue;
    for (int64_t c = 0; c < columns; ++c) {
      const vfloat one = label == broadcast_int((int32_t)c) ? broadcast(1.0f) : vfloat{};
      x[c] = (x[c] * total - (Classes ? one : weights[Classes ? 0 : c])) * scale;
    }
    write_across(x, dlogits + first, columns, block, columns);
  }
}

template <bool Classes>
FASTBN_INLINE void cross_entropy_rows(int64_t rows, int64_t columns, const float* logits, const int32_t* classes,
                                      const float* targets, float scale, float* loss, float* probabilities,
                                      float* dlogits, uint8_t* correct) {
  if (columns <= kMostAcross) {
    return cross_entropy_across<Classes>(rows, columns, logits, classes, targets, scale, loss, probabilities, dlogits,
                                         correct);
  }
  // The logarithms of a block of rows are taken together.
  for (int64_t begin = 0; begin < rows; begin += kLanes) {
    const int64_t block = chunk(rows, begin);
    vfloat sums = broadcast(1.0f), totals{}, distances{};
    for (int64_t i = 0; i < block; ++i) {
      const int64_t r = begin + i, at = r * columns;
      const float* x = logits + at;
      const Targets<Classes> t{Classes ? read_class(classes + r, columns) : 0, Classes ? nullptr : targets + at};
      if (correct) correct[r] = first_arg_max(x, columns) == (Classes ? t.label : first_arg_max(t.row, columns));
      const vfloat max = row_max(x, columns);
      vfloat total = broadcast(1.0f);
      if constexpr (Classes) {
        distances[i] = max[0] - at_class(x, t.label);
      } else {
        vfloat far{};
        total = vfloat{};
        for (int64_t c = 0; c < columns; c += kLanes) {
          const int64_t n = chunk(columns, c);
          const vfloat weight = Targets<Classes>::at(t, c, n);
          total += weight;
          far += distance_of(load_n(x + c, n), weight, max);
        }
        total = fold_sum(total);
        distances[i] = fold_sum(far)[0];
      }
      float* e = probabilities ? probabilities + at : dlogits ? dlogits + at : nullptr;
      const vfloat sum = row_exp(x, columns, max, e), factor = 1.0f / sum;
      sums[i] = sum[0];
      totals[i] = total[0];
      if (!e) continue;
      for (int64_t c = 0; c < columns; c += kLanes) {
        const int64_t n = chunk(columns, c);
        const vfloat p = load_n(e + c, n) * factor;
        if (probabilities) store_n(probabilities + at + c, p, n);
        if (dlogits) store_n(dlogits + at + c, (p * total - Targets<Classes>::at(t, c, n)) * scale, n);
      }
    }
    if (loss) store_n(loss + begin, loss_of(totals, sums, distances), block);
  }
}

void softmax_cross_entropy(int64_t rows, int64_t columns, const float* logits, const int32_t* classes,
                           const float* targets, float scale, float* loss, float* probabilities, float* dlogits,
                           uint8_t* correct) {
  if (classes) {
    cross_entropy_rows<true>(rows, columns, logits, classes, targets, scale, loss, probabilities, dlogits, correct);
  } else {
    cross_entropy_rows<false>(rows, columns, logits, classes, targets, scale, loss, probabilities, dlogits, correct);
  }
}

// p * scale everywhere, as if no column were a target, then the targets: few elements, read before they may be written.
FASTBN_INLINE void gradient_of_classes(int64_t rows, int64_t columns, const float* probabilities,
                                       const int32_t* classes, float scale, float* dlogits) {
  constexpr int64_t kRows = 16;
  for (int64_t begin = 0; begin < rows; begin += kRows) {
    const int64_t block = rows - begin < kRows ? rows - begin : kRows, first = begin * columns;
    int32_t label[kRows];
    float gradient[kRows];
    for (int64_t i = 0; i < block; ++i) {
      label[i] = read_class(classes + begin + i, columns);
      gradient[i] = (at_class(probabilities + first + i * columns, label[i]) - 1.0f) * scale;
    }
    for (int64_t i = 0; i < block * columns; i += kLanes) {
      const int64_t n = chunk(block * columns, i);
      store_n(dlogits + first + i, load_n(probabilities + first + i, n) * scale, n);
    }
    for (int64_t i = 0; i < block; ++i) {
      if (label[i] >= 0) dlogits[first + i * columns + label[i]] = gradient[i];
    }
  }
}

FASTBN_INLINE void gradient_of_targets(int64_t rows, int64_t columns, const float* probabilities, const float* targets,
                                       float scale, float* dlogits) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = r * columns;
    vfloat total{};
    for (int64_t c = 0; c < columns; c += kLanes) total += load_n(targets + at + c, chunk(columns, c));
    total = fold_sum(total);
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int64_t n = chunk(columns, c);
      const vfloat p = load_n(probabilities + at + c, n);
      store_n(dlogits + at + c, (p * total - load_n(targets + at + c, n)) * scale, n);
    }
  }
}

void softmax_cross_entropy_backward(int64_t rows, int64_t columns, const float* probabilities, const int32_t* classes,
                                    const float* targets, float scale, float* dlogits) {
  if (classes) {
    gradient_of_classes(rows, columns, probabilities, classes, scale, dlogits);
  } else {
    gradient_of_targets(rows, columns, probabilities, targets, scale, dlogits);
  }
}

void mean_squared_error(int64_t rows, int64_t columns, const float* p, const float* t, float scale, float* loss,
                        float* absolute_error, float* dp) {
  const float count = (float)columns;
  const float factor = (float)(2.0 * (double)scale / (double)columns);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = r * columns;
    vfloat squares{}, distances{};
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int64_t n = chunk(columns, c);
      const vfloat d = load_n(p + at + c, n) - load_n(t + at + c, n);
      squares = fma(d, d, squares);
      distances += absolute(d);
      if (dp) store_n(dp + at + c, d * factor, n);
    }
    if (loss) loss[r] = fold_sum(squares)[0] / count;
    if (absolute_error) absolute_error[r] = fold_sum(distances)[0] / count;
  }
}

}  // namespace

void fill_losses(LossKernels& kernels) {
  kernels = {softmax_cross_entropy, softmax_cross_entropy_backward, mean_squared_error};
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
