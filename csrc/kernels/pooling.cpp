#include "pooling.hpp"

#include "lengths.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

FASTBN_INLINE vint load_index(const uint8_t* p, Constant<kLanes>) { return load_bytes(p); }
FASTBN_INLINE vint load_index(const uint8_t* p, int64_t n) { return load_bytes_partial(p, n); }
FASTBN_INLINE void store_index(uint8_t* p, vint v, Constant<kLanes>) { store_bytes(p, v); }
FASTBN_INLINE void store_index(uint8_t* p, vint v, int64_t n) { store_bytes_partial(p, v, n); }
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

// The maximum of some cells of a window and its place: the first of equals, a NaN before all.
struct Maximum {
  vfloat value;
  vint place;
};
// `later` comes after all cells of m in row-major order.
FASTBN_INLINE Maximum take(Maximum m, Maximum later) {
  const vint better = ~(later.value <= m.value) & (m.value == m.value);
  return {better ? later.value : m.value, better ? later.place : m.place};
}
template <class Index, class N>
FASTBN_INLINE void store_maximum(Maximum m, int32_t relu, float* y, Index* index, N n) {
  store_n(y, relu ? activate<kRelu>(m.value, m.value) : m.value, n);
  if (index) store_index(index, m.place, n);
}
FASTBN_INLINE Maximum maximum_of_four(const vfloat* cells) {
  const Maximum upper = take({cells[0], vint{}}, {cells[1], broadcast_int(1)});
  return take(upper, take({cells[2], broadcast_int(2)}, {cells[3], broadcast_int(3)}));
}

// The new cells along one axis where a window moves by one stride: strides may be far longer than windows and images.
FASTBN_INLINE int64_t new_cells(int64_t stride, int64_t pool, int64_t size) {
  const int64_t window = pool < size ? pool : size;
  return stride < window ? stride : window;
}
// What the window below adds to this one: rows lie far apart, too far for hardware prefetchers.
FASTBN_INLINE void prefetch_below(const PoolingShape& s, const float* corner) {
  const int64_t rows = new_cells(s.stride_height, s.pool_height, s.height);
  const int64_t columns = new_cells(s.stride_width, s.pool_width, s.width);
  for (int64_t ky = 0; ky < rows; ++ky) {
    for (int64_t kx = 0; kx < columns; ++kx) __builtin_prefetch(corner + (ky * s.width + kx) * s.channels);
  }
}

// body(cell, place) for the cells of a window inside the image; whole squares of 3 are unrolled.
template <class Body>
FASTBN_INLINE void for_each_cell(const PoolingShape& s, const float* x, Span rows, Span columns, int64_t top,
                                 int64_t left, Body body) {
  const int64_t height = rows.end - rows.begin, width = columns.end - columns.begin, line = s.width * s.channels;
  const float* corner = x + (rows.begin * s.width + columns.begin) * s.channels;
  if (height == 3 && width == 3 && s.pool_height == 3 && s.pool_width == 3) {
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ++ky) {
#pragma GCC unroll 3
      for (int kx = 0; kx < 3; ++kx) body(corner + ky * line + kx * s.channels, ky * 3 + kx);
    }
    return;
  }
  for (int64_t ky = rows.begin - top; ky < rows.end - top; ++ky, corner += line) {
    const float* cell = corner;
    for (int64_t kx = columns.begin - left; kx < columns.end - left; ++kx, cell += s.channels)
      body(cell, (int32_t)(ky * s.pool_width + kx));
  }
}

// Windows of 2x2 cells side by side, without padding. With few channels several pixels share a vector: then the cells
// left and right in their windows are sorted apart, and back.
FASTBN_INLINE bool tiles_by_two(const PoolingShape& s) {
  return s.pool_height == 2 && s.pool_width == 2 && s.stride_height == 2 && s.stride_width == 2 && s.pad_top == 0 &&
         s.pad_left == 0 && s.out_height * 2 <= s.height && s.out_width * 2 <= s.width;
}
FASTBN_INLINE bool shares_vectors(const PoolingShape& s) { return s.channels < kLanes && kLanes % s.channels == 0; }

// Where the lanes of left and right cells stand in two vectors, and of which lane a cell's window is in one.
struct Pairing {
  int64_t channels;
  vint left, right, low, high, side;
};
FASTBN_INLINE Pairing pair_pixels(int64_t channels) {
  Pairing p;
  p.channels = channels;
  for (int i = 0; i < kLanes; ++i) {
    const int c = (int)channels, pixel = i / c, channel = i % c;
    p.left[i] = 2 * pixel * c + channel;
    p.right[i] = p.left[i] + c;
    p.low[i] = pixel / 2 * c + channel;
    p.high[i] = p.low[i] + kLanes / 2;
    p.side[i] = pixel % 2;
  }
  return p;
}
#if FASTBN_LANES == 16
FASTBN_INLINE vfloat pick(vfloat a, vfloat b, vint from) {
  return (vfloat)_mm512_permutex2var_ps((__m512)a, (__m512i)from, (__m512)b);
}
FASTBN_INLINE vfloat pick(vfloat a, vint from) {
  return (vfloat)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)from, (__m512)a);
}
#elif FASTBN_LANES == 8
FASTBN_INLINE vfloat pick(vfloat a, vint from) { return (vfloat)_mm256_permutevar8x32_ps((__m256)a, (__m256i)from); }
FASTBN_INLINE vfloat pick(vfloat a, vfloat b, vint from) { return from < kLanes ? pick(a, from) : pick(b, from); }
#else
FASTBN_INLINE vfloat pick(vfloat a, vfloat b, vint from) {
  const float all[2 * kLanes] = {a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]};
  return vfloat{all[from[0]], all[from[1]], all[from[2]], all[from[3]]};
}
FASTBN_INLINE vfloat pick(vfloat a, vint from) { return pick(a, a, from); }
#endif

FASTBN_INLINE void max_forward_shared(const PoolingShape& s, const float* x, int32_t relu, float* y, uint8_t* index,
                                      int64_t begin, int64_t end) {
  const Pairing pairing = pair_pixels(s.channels);
  const int64_t width = s.out_width * s.channels;
  for (int64_t oy = begin; oy < end; ++oy) {
    const float* line = x + 2 * oy * s.width * s.channels;
    for_each_vector(width, [&](int64_t i, auto n) {
      vfloat cells[4];
#pragma GCC unroll 2
      for (int ky = 0; ky < 2; ++ky) {
        const float* p = line + ky * s.width * s.channels + 2 * i;
        const int64_t length = n, rest = 2 * length - kLanes;
        const vfloat a = rest >= 0 ? load(p) : load_partial(p, 2 * length);
        const vfloat b = rest == kLanes ? load(p + kLanes) : load_partial(p + kLanes, rest > 0 ? rest : 0);
        cells[2 * ky] = pick(a, b, pairing.left);
        cells[2 * ky + 1] = pick(a, b, pairing.right);
      }
      store_maximum(maximum_of_four(cells), relu, y + oy * width + i, index ? index + oy * width + i : index, n);
    });
  }
}

FASTBN_INLINE void max_forward_tiles(const PoolingShape& s, const float* x, int32_t relu, float* y, uint8_t* index,
                                     int64_t begin, int64_t end) {
  const int64_t line = s.width * s.channels, channels = s.channels;
  for (int64_t oy = begin; oy < end; ++oy) {
    for (int64_t ox = 0; ox < s.out_width; ++ox) {
      const float* corner = x + 2 * oy * line + 2 * ox * channels;
      const int64_t out = (oy * s.out_width + ox) * channels;
      for_each_vector(channels, [&](int64_t c, auto n) {
        const float* p = corner + c;
        prefetch_below(s, p + 2 * line);
        const vfloat cells[4] = {load_n(p, n), load_n(p + channels, n), load_n(p + line, n),
                                 load_n(p + line + channels, n)};
        store_maximum(maximum_of_four(cells), relu, y + out + c, index ? index + out + c : index, n);
      });
    }
  }
}

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
      const int64_t corner = (rows.begin * s.width + columns.begin) * s.channels;
      const int32_t first = (int32_t)((rows.begin - top) * s.pool_width + columns.begin - left);
      for_each_vector(s.channels, [&](int64_t c, auto n) {
        prefetch_below(s, x + (top + s.pool_height) * s.width * s.channels + left * s.channels + c);
        Maximum m{load_n(x + corner + c, n), broadcast_int(first)};
        for_each_cell(s, x + c, rows, columns, top, left, [&](const float* cell, int32_t place) {
          m = take(m, {load_n(cell, n), broadcast_int(place)});
        });
        store_maximum(m, relu, y + out + c, index ? index + out + c : index, n);
      });
    }
  }
}

void max_forward(const PoolingShape& s, const float* x, int32_t relu, float* y, void* index, int32_t wide_index,
                 int64_t begin, int64_t end) {
  if (wide_index) return max_forward_rows(s, x, relu, y, (int32_t*)index, begin, end);
  if (tiles_by_two(s)) {
    if (shares_vectors(s)) return max_forward_shared(s, x, relu, y, (uint8_t*)index, begin, end);
    return max_forward_tiles(s, x, relu, y, (uint8_t*)index, begin, end);
  }
  max_forward_rows(s, x, relu, y, (uint8_t*)index, begin, end);
}

// dy where the maximum was at `place`, through relu where y is given.
template <class N>
FASTBN_INLINE vfloat routed_gradient(const float* dy, const float* y, N n) {
  const vfloat d = load_n(dy, n);
  return y ? activate_gradient<kRelu>(d, load_n(y, n), d) : d;
}

// One row of dx under 2x2 windows side by side: its cells have places first and first + 1.
FASTBN_INLINE void max_backward_pair(const PoolingShape& s, const float* dy, const uint8_t* index, const float* y,
                                     float* dx, int32_t first, const Pairing& pairing) {
  const int64_t covered = 2 * s.out_width * s.channels;
  if (shares_vectors(s)) {
    const vint place = pairing.side + first;
    for_each_vector(s.out_width * s.channels, [&](int64_t i, auto n) {
      const vfloat d = routed_gradient(dy + i, y ? y + i : y, n);
      const vfloat at = from_bits(load_index(index + i, n));
      const vfloat low = bits(pick(at, pairing.low)) == place ? pick(d, pairing.low) : vfloat{};
      const vfloat high = bits(pick(at, pairing.high)) == place ? pick(d, pairing.high) : vfloat{};
      const int64_t length = n, rest = 2 * length - kLanes;
      if (rest < 0) return store_partial(dx + 2 * i, low, 2 * length);
      store(dx + 2 * i, low);
      if (rest == kLanes) return store(dx + 2 * i + kLanes, high);
      store_partial(dx + 2 * i + kLanes, high, rest);
    });
  } else {
    for (int64_t ox = 0; ox < s.out_width; ++ox) {
      const int64_t out = ox * s.channels;
      for_each_vector(s.channels, [&](int64_t c, auto n) {
        const vfloat d = routed_gradient(dy + out + c, y ? y + out + c : y, n);
        const vint at = load_index(index + out + c, n) - first;
        store_n(dx + 2 * out + c, at == 0 ? d : vfloat{}, n);
        store_n(dx + 2 * out + s.channels + c, at == 1 ? d : vfloat{}, n);
      });
    }
  }
  for_each_vector(s.width * s.channels - covered, [&](int64_t i, auto n) { store_n(dx + covered + i, vfloat{}, n); });
}

FASTBN_INLINE void max_backward_tiles(const PoolingShape& s, const float* dy, const uint8_t* index, const float* y,
                                      float* dx, int64_t begin, int64_t end) {
  const int64_t line = s.width * s.channels, out_line = s.out_width * s.channels;
  const Pairing pairing = shares_vectors(s) ? pair_pixels(s.channels) : Pairing{};
  for (int64_t iy = begin; iy < end; ++iy) {
    const int64_t oy = iy / 2, out = oy * out_line;
    if (oy < s.out_height) {
      max_backward_pair(s, dy + out, index + out, y ? y + out : y, dx + iy * line, (int32_t)(iy % 2) * 2, pairing);
    } else {
      for_each_vector(line, [&](int64_t i, auto n) { store_n(dx + iy * line + i, vfloat{}, n); });
    }
  }
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
            const vint chosen = load_index(index + at, n) == broadcast_int((int32_t)place);
            sum += chosen ? routed_gradient(dy + at, y ? y + at : y, n) : vfloat{};
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
  if (tiles_by_two(s)) return max_backward_tiles(s, dy, (const uint8_t*)index, y, dx, begin, end);
  max_backward_rows(s, dy, (const uint8_t*)index, y, dx, begin, end);
}

void average_forward(const PoolingShape& s, const float* x, float* y, int64_t begin, int64_t end) {
  for (int64_t oy = begin; oy < end; ++oy) {
    const Span rows = window_cells(oy, s.stride_height, s.pad_top, s.pool_height, s.height);
    for (int64_t ox = 0; ox < s.out_width; ++ox) {
      const Span columns = window_cells(ox, s.stride_width, s.pad_left, s.pool_width, s.width);
      const float count = (float)((rows.end - rows.begin) * (columns.end - columns.begin));
      const int64_t line = s.width * s.channels;
      const float* corner = x + rows.begin * line + columns.begin * s.channels;
      float* out = y + (oy * s.out_width + ox) * s.channels;
      if (rows.end - rows.begin == 2 && columns.end - columns.begin == 2) {
        for_each_vector(s.channels, [&](int64_t c, auto n) {
          const float* p = corner + c;
          prefetch_below(s, p + 2 * line);
          const vfloat upper = load_n(p, n) + load_n(p + s.channels, n);
          const vfloat lower = load_n(p + line, n) + load_n(p + line + s.channels, n);
          store_n(out + c, (upper + lower) * 0.25f, n);
        });
        continue;
      }
      for_each_vector(s.channels, [&](int64_t c, auto n) {
        vfloat sum{};
        const float* row = corner + c;
        prefetch_below(s, row + s.pool_height * line);
        for (int64_t iy = rows.begin; iy < rows.end; ++iy, row += line) {
          vfloat part{};  // a window's rows are added up apart: shorter chains, less rounding
          const float* cell = row;
          for (int64_t ix = columns.begin; ix < columns.end; ++ix, cell += s.channels) part += load_n(cell, n);
          sum += part;
        }
        store_n(out + c, sum / count, n);
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
