#include "pooling.hpp"

#include <algorithm>

#include "checks.hpp"
#include "kernels/kernel_table.hpp"
#include "runtime/executor.hpp"
#include "runtime/memory.hpp"

namespace fastbn {
namespace {

// Padding and output size of one axis.
struct Axis {
  int64_t before, after, out;
};

Axis resolve_axis(const char* operation, const char* axis, int32_t padding, int64_t size, int64_t pool, int64_t stride,
                  int64_t before, int64_t after) {
  if (padding == FBN_PADDING_SAME) {
    const int64_t out = (size - 1) / stride + 1;
    const int64_t total = std::max<int64_t>((out - 1) * stride + pool - size, 0);
    return {total / 2, total - total / 2, out};
  }
  if (padding == FBN_PADDING_VALID) before = after = 0;
  require(before >= 0 && before < pool && after >= 0 && after < pool, operation, ": padding of the ", axis,
          " must be in [0, pool size). Received: (", before, ", ", after, ") with pool size ", pool);
  require(pool <= size + before + after, operation, ": the window must fit into the padded ", axis,
          ". Received: pool size ", pool, ", ", axis, " ", size, ", padding (", before, ", ", after, ")");
  return {before, after, (size + before + after - pool) / stride + 1};
}

PoolingShape kernel_shape(const Pool2dGeometry& g) {
  return {g.height,       g.width,   g.channels, g.pool_height, g.pool_width, g.stride_height,
          g.stride_width, g.pad_top, g.pad_left, g.out_height,  g.out_width};
}

template <class T>
T* offset(T* array, int64_t elements) {
  return array != nullptr ? array + elements : nullptr;
}

const void* offset_index(const void* index, int64_t bytes) { return static_cast<const char*>(index) + bytes; }
void* offset_index(void* index, int64_t bytes) { return index ? static_cast<char*>(index) + bytes : nullptr; }

}  // namespace

Pool2dGeometry resolve_pool2d(const char* operation, const fbn_pool2d& d) {
  require_size(operation, "batch", d.batch, 0);
  const auto check = [&](const char* name, int64_t value) {
    require(value >= 1 && value <= INT32_MAX, operation, ": ", name, " must be in [1, 2147483647]. Received: ", name,
            "=", value);
  };
  check("height", d.height);
  check("width", d.width);
  check("channels", d.channels);
  check("pool_height", d.pool_height);
  check("pool_width", d.pool_width);
  check("stride_height", d.stride_height);
  check("stride_width", d.stride_width);
  require(d.pool_height * d.pool_width <= INT32_MAX, operation,
          ": a window may have at most 2147483647 cells. Received: pool size (", d.pool_height, ", ", d.pool_width,
          ")");
  require(d.padding >= FBN_PADDING_VALID && d.padding <= FBN_PADDING_EXPLICIT, operation,
          ": padding must be valid, same or explicit. Received: padding=", d.padding);
  const Axis y =
      resolve_axis(operation, "height", d.padding, d.height, d.pool_height, d.stride_height, d.pad_top, d.pad_bottom);
  const Axis x =
      resolve_axis(operation, "width", d.padding, d.width, d.pool_width, d.stride_width, d.pad_left, d.pad_right);
  checked_product(operation, {d.batch, d.height, d.width, d.channels});
  checked_product(operation, {d.batch, y.out, x.out, d.channels});
  return {
      d.height, d.width, d.channels, d.pool_height, d.pool_width, d.stride_height, d.stride_width,
      y.before, y.after, x.before,   x.after,       y.out,        x.out,           d.pool_height * d.pool_width > 256};
}

void max_pool2d_forward(const Pool2dGeometry& g, const float* x, int32_t activation, float* y, void* index,
                        int64_t images) noexcept {
  for (int64_t i = 0; i < images; ++i) {
    kernels().pooling.max_forward(kernel_shape(g), x + i * g.in_size(), activation == FBN_RELU, y + i * g.out_size(),
                                  offset_index(index, i * g.index_bytes()), g.wide_index, 0, g.out_height);
  }
}

void max_pool2d_backward(const Pool2dGeometry& g, const float* dy, const void* index, int32_t activation,
                         const float* y, float* dx, int64_t images) noexcept {
  if (activation != FBN_RELU) y = nullptr;
  for (int64_t i = 0; i < images; ++i) {
    kernels().pooling.max_backward(kernel_shape(g), dy + i * g.out_size(), offset_index(index, i * g.index_bytes()),
                                   g.wide_index, offset(y, i * g.out_size()), dx + i * g.in_size(), 0, g.height);
  }
}

void avg_pool2d_forward(const Pool2dGeometry& g, const float* x, float* y, int64_t images) noexcept {
  for (int64_t i = 0; i < images; ++i) {
    kernels().pooling.average_forward(kernel_shape(g), x + i * g.in_size(), y + i * g.out_size(), 0, g.out_height);
  }
}

void avg_pool2d_backward(const Pool2dGeometry& g, const float* dy, float* dx, int64_t images) noexcept {
  for (int64_t i = 0; i < images; ++i) {
    kernels().pooling.average_backward(kernel_shape(g), dy + i * g.out_size(), dx + i * g.in_size(), 0, g.height);
  }
}

void global_avg_pool2d_forward(int64_t pixels, int64_t channels, const float* x, float* y, int64_t images) noexcept {
  for (int64_t i = 0; i < images; ++i) {
    kernels().pooling.global_average_forward(pixels, channels, x + i * pixels * channels, y + i * channels);
  }
}

void global_avg_pool2d_backward(int64_t pixels, int64_t channels, const float* dy, float* dx, int64_t images) noexcept {
  for (int64_t i = 0; i < images; ++i) {
    kernels().pooling.global_average_backward(pixels, channels, dy + i * channels, dx + i * pixels * channels);
  }
}

namespace {

// Runs body(image, begin, end) over strips of the `height` rows of each image; `elements`: of one image, the larger
// side. describe() names the shape.
template <class Describe, class Body>
void run_strips(const char* operation, Describe describe, int64_t images, int64_t height, int64_t elements,
                const fbn_exec* exec, Body body) {
  const Exec how = resolve_exec(operation, exec, describe);
  Workspace workspace(operation, how);
  if (workspace.commit()) return;
  const int64_t strips = std::clamp<int64_t>(task_count(elements), 1, height);
  const auto task = [&](int64_t i, int) {
    const Range rows = part_of(height, strips, i % strips);
    body(i / strips, rows.begin, rows.end);
  };
  execute(how, {Phase{images * strips, task}}, static_cast<double>(images * elements) * 8);
}

auto shape_of(const fbn_pool2d& d) {
  return [&d] {
    return concatenate(d.batch, "x", d.height, "x", d.width, "x", d.channels, ", window ", d.pool_height, "x",
                       d.pool_width, ", stride ", d.stride_height, "x", d.stride_width);
  };
}

Pool2dGeometry resolve(const char* operation, const fbn_pool2d* d) {
  require_descriptor(operation, d);
  return resolve_pool2d(operation, *d);
}

int64_t check_global(const char* operation, int64_t batch, int64_t pixels, int64_t channels) {
  require_size(operation, "batch", batch, 0);
  require_size(operation, "pixels", pixels, 1);
  require_size(operation, "channels", channels, 1);
  return checked_product(operation, {batch, pixels, channels});
}

}  // namespace
}  // namespace fastbn

using namespace fastbn;

fbn_status fbn_pool2d_output_size(const fbn_pool2d* d, int64_t* out_height, int64_t* out_width) {
  return guard([&] {
    const Pool2dGeometry g = resolve("pool2d", d);
    if (out_height != nullptr) *out_height = g.out_height;
    if (out_width != nullptr) *out_width = g.out_width;
  });
}

int32_t fbn_pool2d_index_dtype(const fbn_pool2d* d) {
  const bool wide = d == nullptr || (d->pool_width > 0 && d->pool_height > 256 / d->pool_width);
  return wide ? FBN_INT32 : FBN_UINT8;
}

fbn_status fbn_max_pool2d_forward(const fbn_pool2d* d, const float* x, float* y, void* index, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "max_pool2d_forward";
    const Pool2dGeometry g = resolve(operation, d);
    require_array(operation, "x", x, d->batch * g.in_size());
    require_array(operation, "y", y, d->batch * g.out_size());
    run_strips(operation, shape_of(*d), d->batch, g.out_height, std::max(g.in_size(), g.out_size()), exec,
               [&](int64_t i, int64_t begin, int64_t end) {
                 kernels().pooling.max_forward(kernel_shape(g), x + i * g.in_size(), 0, y + i * g.out_size(),
                                               offset_index(index, i * g.index_bytes()), g.wide_index, begin, end);
               });
  });
}

fbn_status fbn_max_pool2d_backward(const fbn_pool2d* d, const float* dy, const void* index, float* dx,
                                   const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "max_pool2d_backward";
    const Pool2dGeometry g = resolve(operation, d);
    require_array(operation, "dy", dy, d->batch * g.out_size());
    require_array(operation, "index", index, d->batch * g.out_size());
    require_array(operation, "dx", dx, d->batch * g.in_size());
    run_strips(operation, shape_of(*d), d->batch, g.height, std::max(g.in_size(), g.out_size()), exec,
               [&](int64_t i, int64_t begin, int64_t end) {
                 kernels().pooling.max_backward(kernel_shape(g), dy + i * g.out_size(),
                                                offset_index(index, i * g.index_bytes()), g.wide_index, nullptr,
                                                dx + i * g.in_size(), begin, end);
               });
  });
}

fbn_status fbn_avg_pool2d_forward(const fbn_pool2d* d, const float* x, float* y, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "avg_pool2d_forward";
    const Pool2dGeometry g = resolve(operation, d);
    require_array(operation, "x", x, d->batch * g.in_size());
    require_array(operation, "y", y, d->batch * g.out_size());
    run_strips(operation, shape_of(*d), d->batch, g.out_height, std::max(g.in_size(), g.out_size()), exec,
               [&](int64_t i, int64_t begin, int64_t end) {
                 kernels().pooling.average_forward(kernel_shape(g), x + i * g.in_size(), y + i * g.out_size(), begin,
                                                   end);
               });
  });
}

fbn_status fbn_avg_pool2d_backward(const fbn_pool2d* d, const float* dy, float* dx, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "avg_pool2d_backward";
    const Pool2dGeometry g = resolve(operation, d);
    require_array(operation, "dy", dy, d->batch * g.out_size());
    require_array(operation, "dx", dx, d->batch * g.in_size());
    run_strips(operation, shape_of(*d), d->batch, g.height, std::max(g.in_size(), g.out_size()), exec,
               [&](int64_t i, int64_t begin, int64_t end) {
                 kernels().pooling.average_backward(kernel_shape(g), dy + i * g.out_size(), dx + i * g.in_size(), begin,
                                                    end);
               });
  });
}

fbn_status fbn_global_avg_pool2d_forward(int64_t batch, int64_t pixels, int64_t channels, const float* x, float* y,
                                         const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "global_avg_pool2d_forward";
    const int64_t size = check_global(operation, batch, pixels, channels);
    require_array(operation, "x", x, size);
    require_array(operation, "y", y, batch * channels);
    run_strips(
        operation, [&] { return concatenate(batch, "x", pixels, "x", channels); }, batch, 1, pixels * channels, exec,
        [&](int64_t i, int64_t, int64_t) {
          global_avg_pool2d_forward(pixels, channels, x + i * pixels * channels, y + i * channels, 1);
        });
  });
}

fbn_status fbn_global_avg_pool2d_backward(int64_t batch, int64_t pixels, int64_t channels, const float* dy, float* dx,
                                          const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "global_avg_pool2d_backward";
    const int64_t size = check_global(operation, batch, pixels, channels);
    require_array(operation, "dy", dy, batch * channels);
    require_array(operation, "dx", dx, size);
    run_strips(
        operation, [&] { return concatenate(batch, "x", pixels, "x", channels); }, batch, 1, pixels * channels, exec,
        [&](int64_t i, int64_t, int64_t) {
          global_avg_pool2d_backward(pixels, channels, dy + i * channels, dx + i * pixels * channels, 1);
        });
  });
}
