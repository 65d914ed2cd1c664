#include "pooling.hpp"

#include "vector_math.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

FASTBN_INLINE vfloat load_n(const float* p, Constant<kLanes>) { return load(p); }
FASTBN_INLINE vfloat load_n(const float* p, int64_t n) { return load_partial(p, n); }
FASTBN_INLINE void store_n(float* p, vfloat v, Constant<kLanes>) { store(p, v); }
FASTBN_INLINE void store_n(float* p, vfloat v, int64_t n) { store_partial(p, v, n); }

FASTBN_INLINE vint load_index(const uint8_t* p, Constant<kLanes>) { return load_bytes(p); }
FASTBN_INLINE vint load_index(const uint8_t* p, int64_t n) {
  uint8_t all[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) all[i] = p[i];
  return load_bytes(all);
}
FASTBN_INLINE void store_index(uint8_t* p, vint v, Constant<kLanes>) { store_bytes(p, v); }
FASTBN_INLINE void store_index(uint8_t* p, vint v, int64_t n) {
  uint8_t all[kLanes];
  store_bytes(all, v);
  for (int64_t i = 0; i < n; ++i) p[i] = all[i];
}
template <class N>
FASTBN_INLINE vint load_index(const int32_t* p, N n) {
  return bits(load_n((const float*)p, n));
}
template <class N>
FASTBN_INLINE void store_index(int32_t* p, vint v, N n) {
  store_n((float*)p, from_bits(v), n);
}

template <class Body>
FASTBN_INLINE void for_each_vector(int64_t size, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) body(i, Constant<kLanes>{});
  if (i < size) body(i, size - i);
}

// Half-open ranges on one axis.
struct Span {
  int64_t begin, end;
};
// Cells of window `o` that lie inside [0, size).
FASTBN_INLINE Span window_cells(int64_t o, int64_t stride, int64_t pad, int64_t pool, int64_t size) {
  const int64_t first = o * stride - pad, last = first + pool;
  return {first < 0 ? 0 : first, last > size ? size : last};
}
// Windows that hold cell i: o * stride - pad <= i < o * stride - pad + pool.
FASTBN_INLINE Span cell_windows(int64_t i, int64_t stride, int64_t pad, int64_t pool, int64_t count) {
  const int64_t last = (i + pad) / stride + 1, before = i + pad - pool;
  const int64_t first = before < 0 ? 0 : before / stride + 1;
  return {first, last > count ? count : last};
}

// The running maximum of a window and its place. A NaN stays once it is there.
struct Maximum {
  vfloat value;
  vint place;
  FASTBN_INLINE void take(Maximum& m, vfloat v, int32_t place) {
    const vint better = ~(v <= m.value) & (m.value == m.value);
    m.value = better ? v : m.value;
    m.place = better ? broadcast_int(place) : m.place;
  }
};

template <class Index>
FASTBN_INLINE void max_forward_rows(const PoolingShape& s, const float* x, int32_t relu, float* y, Index* index,
                                    int64_t begin, int64_t end) {
  for (int64_t oy = begin; oy < end; ++oy) {
    const Span rows = window_cells(oy, s.stride_height, s.pad_top, s.pool_height, s.height);
    const int64_t top = oy * s.stride_height - s.pad_top;
    for (int64_t ox = 0; ox < s.out_width; ++ox) {
      const Span columns = window_cells(ox, s.stride_width, s.pad_left, s.pool_width, s.width);
      const int64_t left = ox * s.stride_width - s.pad_left;
      const int64_t out = (oy * s.out_width + ox) * s.channels;
      for_each_vector(s.channels, [&](int64_t c, auto n) {
        const float* corner = x + (rows.begin * s.width + columns.begin) * s.channels + c;
        const int64_t place = (rows.begin - top) * s.pool_width + columns.begin - left;
        Maximum m{load_n(corner, n), broadcast_int((int32_t)place)};
        for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
          for (int64_t ix = columns.begin; ix < columns.end; ++ix) {
            const int64_t at = (iy - top) * s.pool_width + ix - left;
            Maximum::take(m, load_n(x + (iy * s.width + ix) * s.channels + c, n), (int32_t)at);
          }
        }
        store_n(y + out + c, relu ? activate<kRelu>(m.value, m.value) : m.value, n);
        if (index) store_index(index + out + c, m.place, n);
      });
    }
  }
}

void max_forward(const PoolingShape& s, const float* x, int32_t relu, float* y, void* index, int32_t wide_index,
                 int64_t begin, int64_t end) {
  if (wide_index) return max_forward_rows(s, x, relu, y, (int32_t*)index, begin, end);
  max_forward_rows(s, x, relu, y, (uint8_t*)index, begin, end);
}

template <class Index>
FASTBN_INLINE void max_backward_rows(const PoolingShape& s, const float* dy, const Index* index, const float* y,
                                     float* dx, int64_t begin, int64_t end) {
  for (int64_t iy = begin; iy < end; ++iy) {
    const Span rows = cell_windows(iy, s.stride_height, s.pad_top, s.pool_height, s.out_height);
    for (int64_t ix = 0; ix < s.width; ++ix) {
      const Span columns = cell_windows(ix, s.stride_width, s.pad_left, s.pool_width, s.out_width);
      float* cell = dx + (iy * s.width + ix) * s.channels;
      for_each_vector(s.channels, [&](int64_t c, auto n) {
        vfloat sum{};
        for (int64_t oy = rows.begin; oy < rows.end; ++oy) {
          for (int64_t ox = columns.begin; ox < columns.end; ++ox) {
            const int64_t place =
                (iy - oy * s.stride_height + s.pad_top) * s.pool_width + ix - ox * s.stride_width + s.pad_left;
            const int64_t at = (oy * s.out_width + ox) * s.channels + c;
            vint chosen = load_index(index + at, n) == broadcast_int((int32_t)place);
            if (y) chosen &= load_n(y + at, n) > vfloat{};
            sum += chosen ? load_n(dy + at, n) : vfloat{};
          }
        }
        store_n(cell + c, sum, n);
      });
    }
  }
}

void max_backward(const PoolingShape& s, const float* dy, const void* index, int32_t wide_index, const float* y,
                  float* dx, int64_t begin, int64_t end) {
  if (wide_index) return max_backward_rows(s, dy, (const int32_t*)index, y, dx, begin, end);
  max_backward_rows(s, dy, (const uint8_t*)index, y, dx, begin, end);
}

void average_forward(const PoolingShape& s, const float* x, float* y, int64_t begin, int64_t end) {
  for (int64_t oy = begin; oy < end; ++oy) {
    const Span rows = window_cells(oy, s.stride_height, s.pad_top, s.pool_height, s.height);
    for (int64_t ox = 0; ox < s.out_width; ++ox) {
      const Span columns = window_cells(ox, s.stride_width, s.pad_left, s.pool_width, s.width);
      const float count = (float)((rows.end - rows.begin) * (columns.end - columns.begin));
      for_each_vector(s.channels, [&](int64_t c, auto n) {
        vfloat sum{};
        for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
          vfloat line{};  // a window's rows are added up apart: shorter chains, less rounding
          for (int64_t ix = columns.begin; ix < columns.end; ++ix)
            line += load_n(x + (iy * s.width + ix) * s.channels + c, n);
          sum += line;
        }
        store_n(y + (oy * s.out_width + ox) * s.channels + c, sum / count, n);
      });
    }
  }
}

void average_backward(const PoolingShape& s, const float* dy, float* dx, int64_t begin, int64_t end) {
  for (int64_t iy = begin; iy < end; ++iy) {
    const Span rows = cell_windows(iy, s.stride_height, s.pad_top, s.pool_height, s.out_height);
    for (int64_t ix = 0; ix < s.width; ++ix) {
      const Span columns = cell_windows(ix, s.stride_width, s.pad_left, s.pool_width, s.out_width);
      for_each_vector(s.channels, [&](int64_t c, auto n) {
        vfloat sum{};
        for (int64_t oy = rows.begin; oy < rows.end; ++oy) {
          const Span high = window_cells(oy, s.stride_height, s.pad_top, s.pool_height, s.height);
          for (int64_t ox = columns.begin; ox < columns.end; ++ox) {
            const Span wide = window_cells(ox, s.stride_width, s.pad_left, s.pool_width, s.width);
            const float share = 1.0f / (float)((high.end - high.begin) * (wide.end - wide.begin));
            sum = fma(load_n(dy + (oy * s.out_width + ox) * s.channels + c, n), broadcast(share), sum);
          }
        }
        store_n(dx + (iy * s.width + ix) * s.channels + c, sum, n);
      });
    }
  }
}

void global_average_forward(int64_t pixels, int64_t channels, const float* x, float* y) {
  // Images may have many pixels: float64 sums.
  constexpr int kHalf = kLanes / 2;
  const double count = (double)pixels;
  for_each_vector(channels, [&](int64_t c, auto n) {
    vdouble low{}, high{};
    for (int64_t p = 0; p < pixels; ++p) {
      const vfloat v = load_n(x + p * channels + c, n);
      vhalf half[2];
      memcpy(half, &v, sizeof v);
      low += to_double(half[0]);
      high += to_double(half[1]);
    }
    const vhalf half[2] = {__builtin_convertvector(low / count, vhalf), __builtin_convertvector(high / count, vhalf)};
    static_assert(sizeof half == 2 * kHalf * sizeof(float));
    vfloat mean;
    memcpy(&mean, half, sizeof mean);
    store_n(y + c, mean, n);
  });
}

void global_average_backward(int64_t pixels, int64_t channels, const float* dy, float* dx) {
  const float count = (float)pixels;
  for (int64_t p = 0; p < pixels; ++p) {
    for_each_vector(channels, [&](int64_t c, auto n) { store_n(dx + p * channels + c, load_n(dy + c, n) / count, n); });
  }
}

}  // namespace

void fill_pooling(PoolingKernels& kernels) {
  kernels = {max_forward,      max_backward,           average_forward,
             average_backward, global_average_forward, global_average_backward};
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
