#include "pointwise.hpp"

#include <cmath>
#include <cstring>

#include "checks.hpp"
#include "kernels/kernel_table.hpp"
#include "runtime/cpu.hpp"
#include "runtime/executor.hpp"
#include "runtime/memory.hpp"

namespace fastbn {

void activation_forward(Region m, int32_t activation, float alpha, const float* x, float* y) noexcept {
  kernels().pointwise.activation_forward(m.rows, m.columns, m.stride, activation, alpha, x, y, m.large);
}

void activation_backward(Region m, int32_t activation, float alpha, const float* dy, const float* y,
                         float* dx) noexcept {
  kernels().pointwise.activation_backward(m.rows, m.columns, m.stride, activation, alpha, dy, y, dx, m.large);
}

void softmax_forward(Region m, const float* x, float* y) noexcept {
  kernels().pointwise.softmax_forward(m.rows, m.columns, m.stride, x, y);
}

void softmax_backward(Region m, const float* dy, const float* y, float* dx) noexcept {
  kernels().pointwise.softmax_backward(m.rows, m.columns, m.stride, dy, y, dx);
}

void dropout_apply(Region m, double rate, uint64_t seed, uint64_t first, int64_t pitch, const float* x,
                   float* y) noexcept {
  if (rate >= 1) {
    for (int64_t r = 0; r < m.rows; ++r) std::memset(y + r * m.stride, 0, static_cast<size_t>(m.columns) * 4);
    return;
  }
  // A word below the threshold is dropped: rate * 2^32 of the 2^32 words.
  const double threshold = std::fmin(std::round(rate * 0x1p32), 0x1p32 - 1);
  kernels().pointwise.dropout(m.rows, m.columns, m.stride, static_cast<uint32_t>(threshold),
                              static_cast<float>(1 / (1 - rate)), seed, first, pitch, x, y, m.large);
}

void add(Region m, const float* a, const float* b, float* sum) noexcept {
  kernels().pointwise.add(m.rows, m.columns, m.stride, a, b, sum);
}

void copy(Region m, const float* x, int64_t x_stride, float* y) noexcept {
  for (int64_t r = 0; r < m.rows; ++r) {
    std::memmove(y + r * m.stride, x + r * x_stride, static_cast<size_t>(m.columns) * sizeof(float));
  }
}

void rescale(Region m, const float* x, float scale, float offset, float* y) noexcept {
  kernels().pointwise.rescale(m.rows, m.columns, m.stride, x, scale, offset, y);
}

void rescale_u8(int64_t size, const uint8_t* x, float scale, float offset, float* y) noexcept {
  kernels().pointwise.rescale_u8(size, x, scale, offset, y);
}

void convert_u8(int64_t size, const uint8_t* x, float* y) noexcept { rescale_u8(size, x, 1, 0, y); }

namespace {

// Bytes moved, or the operations of a transcendental, whichever is more: the executor's measure of work.
double activation_work(int32_t activation, int64_t size) {
  return static_cast<double>(size) * (activation >= FBN_SIGMOID ? 30 : 8);
}

// Runs body(m, offset) over rows (softmax) or over flat parts of the matrix.
template <class Body>
void run_matrix(const char* operation, int32_t activation, int64_t rows, int64_t columns, bool large,
                const fbn_exec* exec, Body body) {
  const Exec how = resolve_exec(operation, exec, [&] { return concatenate(rows, "x", columns); });
  Workspace workspace(operation, how);
  if (workspace.commit()) return;
  const int64_t size = rows * columns, tasks = task_count(size);
  const auto task = [&](int64_t i, int) {
    if (activation == FBN_SOFTMAX) {
      const Range part = part_of(rows, tasks, i);
      return body(Region{part.size(), columns, columns}, part.begin * columns);
    }
    const Range part = part_of(size, tasks, i, 64);
    body(Region{1, part.size(), part.size(), large}, part.begin);
  };
  execute(how, {Phase{tasks, task}}, activation_work(activation, size));
}

void check_matrix(const char* operation, int32_t activation, float alpha, int64_t rows, int64_t columns) {
  require_activation(operation, activation, alpha, true);
  require_size(operation, "rows", rows, 0);
  require_size(operation, "columns", columns, 1);
  require(activation != FBN_SOFTMAX || columns <= INT32_MAX, operation,
          ": softmax takes at most 2147483647 columns. Received: columns=", columns);
}

void run_dropout(const char* operation, double rate, uint64_t seed, int64_t size, const float* x, const char* x_name,
                 float* y, const char* y_name, const fbn_exec* exec) {
  require(rate >= 0 && rate <= 1, operation, ": rate must be in [0, 1]. Received: rate=", rate);
  require_size(operation, "size", size, 0);
  checked_product(operation, {size});
  require_array(operation, x_name, x, size);
  require_array(operation, y_name, y, size);
  const Exec how = resolve_exec(operation, exec, [&] { return std::to_string(size); });
  Workspace workspace(operation, how);
  if (workspace.commit()) return;
  const int64_t tasks = task_count(size);
  const bool large = exceed_caches(size, {x}, {y});
  const auto task = [&](int64_t i, int) {
    const Range part = part_of(size, tasks, i, 64);
    dropout_apply({1, part.size(), part.size(), large}, rate, seed, static_cast<uint64_t>(part.begin), part.size(),
                  x + part.begin, y + part.begin);
  };
  execute(how, {Phase{tasks, task}}, static_cast<double>(size) * 16);
}

}  // namespace
}  // namespace fastbn

using namespace fastbn;

fbn_status fbn_activation_forward(int32_t activation, float alpha, int64_t rows, int64_t columns, const float* x,
                                  float* y, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "activation_forward";
    check_matrix(operation, activation, alpha, rows, columns);
    const int64_t size = checked_product(operation, {rows, columns});
    require_array(operation, "x", x, size);
    require_array(operation, "y", y, size);
    run_matrix(operation, activation, rows, columns, exceed_caches(size, {x}, {y}), exec, [&](Region m, int64_t at) {
      if (activation == FBN_SOFTMAX) return softmax_forward(m, x + at, y + at);
      activation_forward(m, activation, alpha, x + at, y + at);
    });
  });
}

fbn_status fbn_activation_backward(int32_t activation, float alpha, int64_t rows, int64_t columns, const float* dy,
                                   const float* y, float* dx, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "activation_backward";
    check_matrix(operation, activation, alpha, rows, columns);
    const int64_t size = checked_product(operation, {rows, columns});
    require_array(operation, "dy", dy, size);
    require_array(operation, "y", y, size);
    require_array(operation, "dx", dx, size);
    run_matrix(operation, activation, rows, columns, exceed_caches(size, {dy, y}, {dx}), exec,
               [&](Region m, int64_t at) {
                 if (activation == FBN_SOFTMAX) return softmax_backward(m, dy + at, y + at, dx + at);
                 activation_backward(m, activation, alpha, dy + at, y + at, dx + at);
               });
  });
}

fbn_status fbn_dropout_forward(double rate, uint64_t seed, int64_t size, const float* x, float* y,
                               const fbn_exec* exec) {
  return guard([&] { run_dropout("dropout_forward", rate, seed, size, x, "x", y, "y", exec); });
}

fbn_status fbn_dropout_backward(double rate, uint64_t seed, int64_t size, const float* dy, float* dx,
                                const fbn_exec* exec) {
  return guard([&] { run_dropout("dropout_backward", rate, seed, size, dy, "dy", dx, "dx", exec); });
}
