#include "losses.hpp"

#include <algorithm>
#include <cmath>

#include "checks.hpp"
#include "kernels/kernel_table.hpp"
#include "runtime/executor.hpp"
#include "runtime/memory.hpp"

namespace fastbn {

void softmax_cross_entropy(int64_t rows, int64_t classes, const float* logits, const void* labels, int32_t labels_dtype,
                           float scale, float* loss, float* probabilities, float* dlogits, uint8_t* correct) noexcept {
  const bool numbers = labels_dtype == FBN_INT32;
  kernels().losses.softmax_cross_entropy(rows, classes, logits, numbers ? static_cast<const int32_t*>(labels) : nullptr,
                                         numbers ? nullptr : static_cast<const float*>(labels), scale, loss,
                                         probabilities, dlogits, correct);
}

void check_labels(const char* operation, const int32_t* labels, int64_t rows, int64_t classes) {
  // One comparison of all: only where it fails is the row looked for.
  uint32_t greatest = 0;
  for (int64_t r = 0; r < rows; ++r) greatest = std::max(greatest, static_cast<uint32_t>(labels[r]));
  if (greatest < static_cast<uint64_t>(classes)) return;
  for (int64_t r = 0; r < rows; ++r) {
    require(labels[r] >= 0 && labels[r] < classes, operation, ": class numbers must lie in [0, ", classes,
            "). Received: label ", labels[r], " in row ", r);
  }
}

void mean_squared_error(int64_t rows, int64_t columns, const float* p, const float* t, float scale, float* loss,
                        float* absolute, float* dp) noexcept {
  kernels().losses.mean_squared_error(rows, columns, p, t, scale, loss, absolute, dp);
}

namespace {

// Runs body(first_row, rows) over parts of the rows.
template <class Body>
void run_rows(const char* operation, int64_t rows, int64_t columns, double work, const fbn_exec* exec, Body body) {
  const Exec how = resolve_exec(operation, exec, [&] { return concatenate(rows, "x", columns); });
  Workspace workspace(operation, how);
  if (workspace.commit()) return;
  const int64_t tasks = task_count(rows * columns);
  const auto task = [&](int64_t i, int) {
    const Range part = part_of(rows, tasks, i, 16);
    body(part.begin, part.size());
  };
  execute(how, {Phase{tasks, task}}, work * static_cast<double>(rows * columns));
}

int64_t check_shape(const char* operation, int64_t rows, int64_t columns) {
  require_size(operation, "rows", rows, 0);
  require_size(operation, "the number of columns", columns, 1);
  require(columns <= INT32_MAX, operation, ": at most 2147483647 columns are taken. Received: ", columns);
  return checked_product(operation, {rows, columns});
}

void check_scale(const char* operation, float scale) {
  require(std::isfinite(scale), operation, ": scale must be finite. Received: scale=", scale);
}

void check_labels_array(const char* operation, const void* labels, int32_t dtype, int64_t rows, int64_t classes) {
  if (dtype != FBN_INT32 && dtype != FBN_FLOAT32) {
    fail(FBN_INVALID_TYPE, operation, ": labels must be int32 classes or float32 rows. Received: labels_dtype=", dtype);
  }
  require_array(operation, "labels", labels, dtype == FBN_INT32 ? rows : rows * classes);
  if (dtype == FBN_INT32) check_labels(operation, static_cast<const int32_t*>(labels), rows, classes);
}

// Labels of the rows from `first` on.
const void* labels_at(const void* labels, int32_t dtype, int64_t first, int64_t classes) {
  if (dtype == FBN_INT32) return static_cast<const int32_t*>(labels) + first;
  return static_cast<const float*>(labels) + first * classes;
}

}  // namespace
}  // namespace fastbn

using namespace fastbn;

fbn_status fbn_softmax_cross_entropy_forward(int64_t rows, int64_t classes, const float* logits, const void* labels,
                                             int32_t labels_dtype, float* loss, float* probabilities,
                                             const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "softmax_cross_entropy_forward";
    const int64_t size = check_shape(operation, rows, classes);
    require_array(operation, "logits", logits, size);
    check_labels_array(operation, labels, labels_dtype, rows, classes);
    run_rows(operation, rows, classes, 30, exec, [&](int64_t first, int64_t count) {
      const int64_t at = first * classes;
      softmax_cross_entropy(count, classes, logits + at, labels_at(labels, labels_dtype, first, classes), labels_dtype,
                            1, loss ? loss + first : nullptr, probabilities ? probabilities + at : nullptr, nullptr,
                            nullptr);
    });
  });
}

fbn_status fbn_softmax_cross_entropy_backward(int64_t rows, int64_t classes, const float* probabilities,
                                              const void* labels, int32_t labels_dtype, float scale, float* dlogits,
                                              const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "softmax_cross_entropy_backward";
    const int64_t size = check_shape(operation, rows, classes);
    check_scale(operation, scale);
    require_array(operation, "probabilities", probabilities, size);
    check_labels_array(operation, labels, labels_dtype, rows, classes);
    require_array(operation, "dlogits", dlogits, size);
    run_rows(operation, rows, classes, 12, exec, [&](int64_t first, int64_t count) {
      const int64_t at = first * classes;
      const void* part = labels_at(labels, labels_dtype, first, classes);
      const bool numbers = labels_dtype == FBN_INT32;
      kernels().losses.softmax_cross_entropy_backward(
          count, classes, probabilities + at, numbers ? static_cast<const int32_t*>(part) : nullptr,
          numbers ? nullptr : static_cast<const float*>(part), scale, dlogits + at);
    });
  });
}

fbn_status fbn_mean_squared_error_forward(int64_t rows, int64_t columns, const float* predictions, const float* targets,
                                          float* loss, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "mean_squared_error_forward";
    const int64_t size = check_shape(operation, rows, columns);
    require_array(operation, "predictions", predictions, size);
    require_array(operation, "targets", targets, size);
    require_array(operation, "loss", loss, rows);
    run_rows(operation, rows, columns, 8, exec, [&](int64_t first, int64_t count) {
      mean_squared_error(count, columns, predictions + first * columns, targets + first * columns, 1, loss + first,
                         nullptr, nullptr);
    });
  });
}

fbn_status fbn_mean_squared_error_backward(int64_t rows, int64_t columns, const float* predictions,
                                           const float* targets, float scale, float* dpredictions,
                                           const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "mean_squared_error_backward";
    const int64_t size = check_shape(operation, rows, columns);
    check_scale(operation, scale);
    require_array(operation, "predictions", predictions, size);
    require_array(operation, "targets", targets, size);
    require_array(operation, "dpredictions", dpredictions, size);
    run_rows(operation, rows, columns, 12, exec, [&](int64_t first, int64_t count) {
      const int64_t at = first * columns;
      mean_squared_error(count, columns, predictions + at, targets + at, scale, nullptr, nullptr, dpredictions + at);
    });
  });
}
