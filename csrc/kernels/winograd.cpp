// Winograd transforms, vectors along the channels.
#include "winograd.hpp"

#include <fastbn/fastbn.h>

#include "simd.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

FASTBN_INLINE vfloat load_lanes(const float* p, int64_t lanes) {
  return lanes == kLanes ? load(p) : load_partial(p, lanes);
}
FASTBN_INLINE void store_lanes(float* p, vfloat v, int64_t lanes) {
  if (lanes == kLanes) {
    store(p, v);
  } else {
    store_partial(p, v, lanes);
  }
}
FASTBN_INLINE vfloat times(float s, vfloat v) { return broadcast(s) * v; }
FASTBN_INLINE vfloat fma(float s, vfloat v, vfloat add) { return FASTBN_ISA::fma(broadcast(s), v, add); }

// With points 0, +-p, +-q, infinity, p = sqrt(1/2) and q = sqrt(2):
//   B': rows of x^4 - 5/2 x^2 + 1, x (x +- p)(x^2 - 2), x (x +- q)(x^2 - 1/2), x^5 - 5/2 x^3 + x
//   A': powers of the points; G: powers of the points over the derivative of the polynomial at them
// Rows of +-p and +-q share their even and odd halves.
struct Form4 {
  static constexpr int kTile = 4, kPoints = 6;
  static constexpr float kP = 0.70710678118654752f, kQ = 1.41421356237309505f;
  static constexpr float kP3 = 0.35355339059327376f, kQ3 = 2.82842712474619010f;

  FASTBN_INLINE void source(const vfloat (&d)[6], vfloat (&v)[6]) {
    v[0] = fma(-2.5f, d[2], d[0]) + d[4];
    const vfloat even_p = fma(-2.0f, d[2], d[4]), odd_p = fma(-2.0f, d[1], d[3]);
    v[1] = fma(kP, odd_p, even_p);
    v[2] = fma(-kP, odd_p, even_p);
    const vfloat even_q = fma(-0.5f, d[2], d[4]), odd_q = fma(-0.5f, d[1], d[3]);
    v[3] = fma(kQ, odd_q, even_q);
    v[4] = fma(-kQ, odd_q, even_q);
    v[5] = fma(-2.5f, d[3], d[1]) + d[5];
  }
  // Derivatives: 1 at 0, -3/2 at +-p, 6 at +-q.
  FASTBN_INLINE void kernel(const vfloat (&g)[3], vfloat (&u)[6]) {
    u[0] = g[0];
    const vfloat even_p = fma(0.5f, g[2], g[0]), even_q = fma(2.0f, g[2], g[0]);
    u[1] = times(-1.0f / 1.5f, fma(kP, g[1], even_p));
    u[2] = times(-1.0f / 1.5f, fma(-kP, g[1], even_p));
    u[3] = times(1.0f / 6.0f, fma(kQ, g[1], even_q));
    u[4] = times(1.0f / 6.0f, fma(-kQ, g[1], even_q));
    u[5] = g[2];
  }
  FASTBN_INLINE void gradient(const vfloat (&g)[4], vfloat (&w)[6]) {
    w[0] = g[0];
    const vfloat even_p = fma(0.5f, g[2], g[0]), odd_p = fma(0.5f, g[3], g[1]);
    const vfloat even_q = fma(2.0f, g[2], g[0]), odd_q = fma(2.0f, g[3], g[1]);
    w[1] = times(-1.0f / 1.5f, fma(kP, odd_p, even_p));
    w[2] = times(-1.0f / 1.5f, fma(-kP, odd_p, even_p));
    w[3] = times(1.0f / 6.0f, fma(kQ, odd_q, even_q));
    w[4] = times(1.0f / 6.0f, fma(-kQ, odd_q, even_q));
    w[5] = g[3];
  }
  FASTBN_INLINE void result(const vfloat (&m)[6], vfloat (&y)[4]) {
    const vfloat sum_p = m[1] + m[2], difference_p = m[1] - m[2];
    const vfloat sum_q = m[3] + m[4], difference_q = m[3] - m[4];
    y[0] = m[0] + (sum_p + sum_q);
    y[1] = fma(kP, difference_p, times(kQ, difference_q));
    y[2] = fma(0.5f, sum_p, times(2.0f, sum_q));
    y[3] = fma(kP3, difference_p, fma(kQ3, difference_q, m[5]));
  }
  FASTBN_INLINE void filter(const vfloat (&m)[6], vfloat (&dw)[3]) {
    const vfloat sum_p = m[1] + m[2], difference_p = m[1] - m[2];
    const vfloat sum_q = m[3] + m[4], difference_q = m[3] - m[4];
    dw[0] = m[0] + (sum_p + sum_q);
    dw[1] = fma(kP, difference_p, times(kQ, difference_q));
    dw[2] = fma(0.5f, sum_p, fma(2.0f, sum_q, m[5]));
  }
};

// Points 0, +-1, infinity.
struct Form2 {
  static constexpr int kTile = 2, kPoints = 4;

  FASTBN_INLINE void source(const vfloat (&d)[4], vfloat (&v)[4]) {
    v[0] = d[2] - d[0];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }
  FASTBN_INLINE void kernel(const vfloat (&g)[3], vfloat (&u)[4]) {
    const vfloat even = g[0] + g[2];
    u[0] = -g[0];
    u[1] = times(0.5f, even + g[1]);
    u[2] = times(0.5f, even - g[1]);
    u[3] = g[2];
  }
  FASTBN_INLINE void gradient(const vfloat (&g)[2], vfloat (&w)[4]) {
    w[0] = -g[0];
    w[1] = times(0.5f, g[0] + g[1]);
    w[2] = times(0.5f, g[0] - g[1]);
    w[3] = g[1];
  }
  FASTBN_INLINE void result(const vfloat (&m)[4], vfloat (&y)[2]) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) + m[3];
  }
  FASTBN_INLINE void filter(const vfloat (&m)[4], vfloat (&dw)[3]) {
    const vfloat sum = m[1] + m[2];
    dw[0] = m[0] + sum;
    dw[1] = m[1] - m[2];
    dw[2] = sum + m[3];
  }
};

// The patch's columns first, then its rows. `Size` is the patch's height and width, `Transform` the one in one
// direction; pixel(y, x) is where channel c of a pixel of the patch is.
//
// Lines that are written are fetched first, and those of the next patch are on their way meanwhile: a patch touches so
// many, so far apart, that neither the stores nor the processor's own prefetching would have them in time.
template <int Size, int Points, void (*Transform)(const vfloat (&)[Size], vfloat (&)[Points]), class Pixel>
FASTBN_INLINE void patch_vector(const WinogradPatch& g, int64_t c, int64_t lanes, Pixel pixel) {
  FASTBN_UNROLL
  for (int i = 0; i < Points * Points; ++i) __builtin_prefetch(g.v + i * g.point + c, 1);
  vfloat half[Points][Size];
  FASTBN_UNROLL
  for (int x = 0; x < Size; ++x) {
    vfloat d[Size], v[Points];
    FASTBN_UNROLL
    for (int y = 0; y < Size; ++y) {
      d[y] = load_lanes(pixel(y, x), lanes);
      __builtin_prefetch(g.next + y * g.row + x * g.pixel + c);
    }
    Transform(d, v);
    for (int i = 0; i < Points; ++i) half[i][x] = v[i];
  }
  float* to = g.v + c;
  for (int i = 0; i < Points; ++i) {
    vfloat v[Points];
    Transform(half[i], v);
    for (int j = 0; j < Points; ++j) {
      store(to, v[j]);
      to += g.point;
    }
  }
}

template <int Size, int Points, void (*Transform)(const vfloat (&)[Size], vfloat (&)[Points])>
void patch(const WinogradPatch& g) {
  const auto vectors = [&](auto pixel) {
    int64_t c = 0;
    for (; c + kLanes <= g.channels; c += kLanes) {
      patch_vector<Size, Points, Transform>(g, c, kLanes, [&](int y, int x) { return pixel(y, x, c); });
    }
    if (c < g.channels) {
      patch_vector<Size, Points, Transform>(g, c, g.channels - c, [&](int y, int x) { return pixel(y, x, c); });
    }
  };
  if (g.y_begin <= 0 && g.y_end >= Size && g.x_begin <= 0 && g.x_end >= Size) {
    vectors([&](int y, int x, int64_t c) { return g.image + y * g.row + x * g.pixel + c; });
    return;
  }
  // Outside of the image the same zeros are read for every channel.
  alignas(64) static const float kZeros[kLanes] = {};
  const float* first[Size][Size];
  int64_t moves[Size][Size];  // a mask of c
  for (int y = 0; y < Size; ++y) {
    for (int x = 0; x < Size; ++x) {
      const bool inside = y >= g.y_begin && y < g.y_end && x >= g.x_begin && x < g.x_end;
      first[y][x] = inside ? g.image + y * g.row + x * g.pixel : kZeros;
      moves[y][x] = inside ? -1 : 0;
    }
  }
  vectors([&](int y, int x, int64_t c) { return first[y][x] + (c & moves[y][x]); });
}

template <class Form>
void result(const WinogradTile& g) {
  constexpr int n = Form::kPoints, size = Form::kTile;
  const bool rectified = g.activation != FBN_LINEAR, leaky = g.activation == FBN_LEAKY_RELU;
  for (int64_t c = 0; c < g.channels; c += kLanes) {
    const int64_t lanes = g.channels - c < kLanes ? g.channels - c : kLanes;
    vfloat half[size][n];
    const float* m = g.m + c;
    FASTBN_UNROLL
    for (int i = 0; i < size; ++i) {
      FASTBN_UNROLL
      for (int j = 0; j < size; ++j) __builtin_prefetch(g.next + i * g.row + j * g.pixel + c, 1);
    }
    for (int j = 0; j < n; ++j) {
      vfloat column[n], y[size];
      for (int i = 0; i < n; ++i) column[i] = load(m + (i * n + j) * g.point);
      Form::result(column, y);
      for (int i = 0; i < size; ++i) half[i][j] = y[i];
    }
    const vfloat bias = g.bias ? load_lanes(g.bias + c, lanes) : vfloat{};
    const vfloat slope = broadcast(leaky ? g.alpha : 0.0f);
    for (int i = 0; i < size; ++i) {
      if (i >= g.rows) break;
      vfloat y[size];
      Form::result(half[i], y);
      float* to = g.y + i * g.row + c;
      for (int j = 0; j < size; ++j) {
        if (j >= g.columns) break;
        vfloat value = y[j] + bias;
        if (rectified) {
          const vfloat below = leaky ? slope * value : vfloat{};
          value = value < vfloat{} ? below : value;
        }
        store_lanes(to + j * g.pixel, value, lanes);
      }
    }
  }
}

template <class Form>
void kernel(const float* taps, int64_t tap, float* u, int64_t point, int64_t count) {
  constexpr int n = Form::kPoints;
  for (int64_t c = 0; c < count; c += kLanes) {
    // Where all taps of a panel lie in a row, these are of the next channels; elsewhere nothing of use.
    FASTBN_UNROLL
    for (int t = 0; t < 9; ++t) __builtin_prefetch(taps + (9 + t) * tap + c);
    vfloat half[n][3];
    for (int x = 0; x < 3; ++x) {
      vfloat g[3], v[n];
      for (int y = 0; y < 3; ++y) g[y] = load(taps + (y * 3 + x) * tap + c);
      Form::kernel(g, v);
      for (int i = 0; i < n; ++i) half[i][x] = v[i];
    }
    float* to = u + c;
    for (int i = 0; i < n; ++i) {
      vfloat v[n];
      Form::kernel(half[i], v);
      for (int j = 0; j < n; ++j) {
        store(to, v[j]);
        to += point;
      }
    }
  }
}

template <class Form>
void filter(const float* m, int64_t point, float* dw, int64_t tap, int64_t count, bool add) {
  constexpr int n = Form::kPoints;
  for (int64_t c = 0; c < count; c += kLanes) {
    const int64_t lanes = count - c < kLanes ? count - c : kLanes;
    FASTBN_UNROLL
    for (int t = 0; t < 9; ++t) __builtin_prefetch(dw + t * tap + c, 1);
    vfloat half[3][n];
    for (int j = 0; j < n; ++j) {
      vfloat column[n], v[3];
      for (int i = 0; i < n; ++i) column[i] = load(m + (i * n + j) * point + c);
      Form::filter(column, v);
      for (int i = 0; i < 3; ++i) half[i][j] = v[i];
    }
    for (int i = 0; i < 3; ++i) {
      vfloat v[3];
      Form::filter(half[i], v);
      for (int j = 0; j < 3; ++j) {
        float* to = dw + (i * 3 + j) * tap + c;
        const vfloat value = add ? load_lanes(to, lanes) + v[j] : v[j];
        store_lanes(to, value, lanes);
      }
    }
  }
}

template <class Form>
constexpr WinogradForm form() {
  return {Form::kTile,
          Form::kPoints,
          patch<Form::kPoints, Form::kPoints, Form::source>,
          patch<Form::kTile, Form::kPoints, Form::gradient>,
          result<Form>,
          kernel<Form>,
          filter<Form>};
}

}  // namespace

void fill_winograd(WinogradKernels& table) {
  table.form[0] = form<Form4>();
  table.form[1] = form<Form2>();
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
