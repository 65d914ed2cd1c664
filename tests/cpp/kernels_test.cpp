// Every operator of the C interface on every instruction set of this machine, against plain loops in float64: shapes
// with ragged tails, one and three threads. What the Python tests check natively is checked here under qemu too.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "check.hpp"

using namespace fastbn;

namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

std::string where;  // instruction set, threads and case, for messages

fbn_exec exec_of(int32_t threads) {
  fbn_exec exec{};
  exec.struct_size = sizeof exec;
  exec.num_threads = threads;
  return exec;
}
fbn_exec exec;

size_t count(std::initializer_list<int64_t> sizes) {
  size_t product = 1;
  for (const int64_t size : sizes) product *= static_cast<size_t>(size);
  return product;
}

// Values in (-1, 1), a function of the seed, without the zeros where activations have kinks.
Floats draw(size_t n, uint32_t seed) {
  Floats values(n);
  uint32_t state = seed * 2654435761u + 12345u;
  for (float& v : values) {
    state = state * 1664525u + 1013904223u;
    v = (static_cast<float>(state >> 9) + 0.5f) * 0x1p-22f - 1.0f;
  }
  return values;
}

// A result array: NaN wherever it is not written.
Floats unwritten(size_t n) { return Floats(n, NAN); }

void check_ok(fbn_status status, const char* what) {
  if (status != FBN_OK) check::fail(where.c_str(), 0, (std::string(what) + ": " + fbn_last_error()).c_str());
}

// |found - expected| within `tolerance` of the largest expected value.
template <class T>
void check_close(const std::vector<T>& found, const Doubles& expected, const char* what, double tolerance = 2e-6) {
  double scale = 1e-3;
  for (const double e : expected) scale = std::max(scale, std::fabs(e));
  CHECK(found.size() == expected.size());
  for (size_t i = 0; i < expected.size() && i < found.size(); ++i) {
    if (std::fabs(found[i] - expected[i]) <= tolerance * scale) continue;
    std::ostringstream text;
    text << what << "[" << i << "] = " << found[i] << ", expected " << expected[i];
    return check::fail(where.c_str(), 0, text.str().c_str());
  }
}

double activate(int32_t activation, double alpha, double x) {
  switch (activation) {
    case FBN_RELU:
      return x > 0 ? x : 0;
    case FBN_LEAKY_RELU:
      return x > 0 ? x : alpha * x;
    case FBN_SIGMOID:
      return 1 / (1 + std::exp(-x));
    case FBN_TANH:
      return std::tanh(x);
    default:
      return x;
  }
}
double slope(int32_t activation, double alpha, double y) {
  switch (activation) {
    case FBN_RELU:
      return y > 0 ? 1 : 0;
    case FBN_LEAKY_RELU:
      return y > 0 ? 1 : alpha;
    case FBN_SIGMOID:
      return y * (1 - y);
    case FBN_TANH:
      return 1 - y * y;
    default:
      return 1;
  }
}
// dy act'(y), with the y that the operator itself is given
Doubles through(int32_t activation, double alpha, const Floats& dy, const Floats& y) {
  Doubles d(dy.size());
  for (size_t i = 0; i < d.size(); ++i) d[i] = dy[i] * slope(activation, alpha, y[i]);
  return d;
}
Floats rounded(const Doubles& values) { return Floats(values.begin(), values.end()); }

// ------------------------------------------------------------------------------------------------- convolution

struct ConvCase {
  int64_t batch, height, width, in, out, kernel_height, kernel_width, stride, dilation, groups;
  int32_t padding, activation;
};

const ConvCase kConvs[] = {
    {2, 9, 11, 3, 17, 3, 3, 1, 1, 1, FBN_PADDING_SAME, FBN_RELU},
    {1, 13, 7, 16, 33, 3, 3, 1, 1, 1, FBN_PADDING_VALID, FBN_LINEAR},
    {3, 8, 9, 37, 5, 1, 1, 1, 1, 1, FBN_PADDING_VALID, FBN_TANH},
    {2, 11, 10, 18, 20, 1, 1, 2, 1, 1, FBN_PADDING_VALID, FBN_LINEAR},
    {1, 17, 16, 1, 4, 5, 5, 1, 1, 1, FBN_PADDING_VALID, FBN_SIGMOID},
    {2, 15, 14, 4, 8, 7, 7, 2, 1, 1, FBN_PADDING_SAME, FBN_RELU},
    {2, 10, 9, 6, 9, 3, 2, 3, 1, 3, FBN_PADDING_SAME, FBN_LEAKY_RELU},
    {1, 12, 13, 8, 8, 3, 3, 1, 2, 1, FBN_PADDING_EXPLICIT, FBN_LINEAR},
    {2, 9, 10, 21, 21, 3, 3, 1, 1, 21, FBN_PADDING_SAME, FBN_RELU},     // depthwise
    {1, 11, 12, 35, 35, 3, 3, 2, 1, 35, FBN_PADDING_SAME, FBN_LINEAR},  // depthwise, strided
    {1, 9, 9, 5, 10, 3, 3, 1, 1, 5, FBN_PADDING_VALID, FBN_LINEAR},     // two outputs a channel
    {1, 6, 5, 130, 65, 3, 3, 1, 1, 1, FBN_PADDING_SAME, FBN_LINEAR},
};

void test_conv2d() {
  int number = 0;
  for (const ConvCase& c : kConvs) {
    const std::string before = where;
    where += " conv2d case " + std::to_string(number++);
    fbn_conv2d d{};
    d.struct_size = sizeof d;
    d.batch = c.batch, d.height = c.height, d.width = c.width;
    d.in_channels = c.in, d.out_channels = c.out;
    d.kernel_height = c.kernel_height, d.kernel_width = c.kernel_width;
    d.stride_height = d.stride_width = c.stride;
    d.dilation_height = d.dilation_width = c.dilation;
    d.groups = c.groups;
    d.padding = c.padding;
    d.activation = c.activation;
    d.alpha = 0.25f;
    int64_t top = 0, left = 0, oh = 0, ow = 0;
    if (c.padding == FBN_PADDING_EXPLICIT) d.pad_top = 1, d.pad_bottom = 2, d.pad_left = 3, d.pad_right = 0;
    check_ok(fbn_conv2d_output_size(&d, &oh, &ow), "output_size");
    if (c.padding == FBN_PADDING_EXPLICIT) top = d.pad_top, left = d.pad_left;
    if (c.padding == FBN_PADDING_SAME) {
      CHECK(oh == (c.height + c.stride - 1) / c.stride && ow == (c.width + c.stride - 1) / c.stride);
      top = std::max<int64_t>((oh - 1) * c.stride + (c.kernel_height - 1) * c.dilation + 1 - c.height, 0) / 2;
      left = std::max<int64_t>((ow - 1) * c.stride + (c.kernel_width - 1) * c.dilation + 1 - c.width, 0) / 2;
    }
    const int64_t group_in = c.in / c.groups, group_out = c.out / c.groups;
    const Floats x = draw(count({c.batch, c.height, c.width, c.in}), 1);
    const Floats kernel = draw(count({c.kernel_height, c.kernel_width, group_in, c.out}), 2);
    const Floats bias = draw(count({c.out}), 3), dy = draw(count({c.batch, oh, ow, c.out}), 4);
    // body(place in x, place in kernel, place in y) for every product of the sum
    const auto for_each_product = [&](auto body) {
      for (int64_t n = 0; n < c.batch; ++n)
        for (int64_t oy = 0; oy < oh; ++oy)
          for (int64_t ox = 0; ox < ow; ++ox)
            for (int64_t ky = 0; ky < c.kernel_height; ++ky)
              for (int64_t kx = 0; kx < c.kernel_width; ++kx) {
                const int64_t iy = oy * c.stride + ky * c.dilation - top, ix = ox * c.stride + kx * c.dilation - left;
                if (iy < 0 || iy >= c.height || ix < 0 || ix >= c.width) continue;
                for (int64_t o = 0; o < c.out; ++o)
                  for (int64_t i = 0; i < group_in; ++i)
                    body(
                        static_cast<size_t>(((n * c.height + iy) * c.width + ix) * c.in + o / group_out * group_in + i),
                        static_cast<size_t>(((ky * c.kernel_width + kx) * group_in + i) * c.out + o),
                        static_cast<size_t>(((n * oh + oy) * ow + ox) * c.out + o));
              }
    };
    Doubles y(dy.size());
    for (size_t i = 0; i < y.size(); ++i) y[i] = bias[i % bias.size()];
    for_each_product([&](size_t at_x, size_t at_k, size_t at_y) { y[at_y] += double{x[at_x]} * kernel[at_k]; });
    for (double& v : y) v = activate(c.activation, 0.25, v);
    Floats found = unwritten(y.size());
    check_ok(fbn_conv2d_forward(&d, x.data(), kernel.data(), bias.data(), found.data(), &exec), "forward");
    check_close(found, y, "y");

    const Floats y_given = rounded(y);
    const Doubles dz = through(c.activation, 0.25, dy, y_given);
    Doubles dx(x.size()), dkernel(kernel.size()), dbias(bias.size());
    for_each_product([&](size_t at_x, size_t at_k, size_t at_y) {
      dx[at_x] += dz[at_y] * kernel[at_k];
      dkernel[at_k] += dz[at_y] * x[at_x];
    });
    for (size_t i = 0; i < dz.size(); ++i) dbias[i % dbias.size()] += dz[i];
    Floats fx = unwritten(dx.size()), fk = unwritten(dkernel.size()), fb = unwritten(dbias.size());
    check_ok(fbn_conv2d_backward(&d, dy.data(), x.data(), kernel.data(), y_given.data(), fx.data(), fk.data(),
                                 fb.data(), &exec),
             "backward");
    check_close(fx, dx, "dx");
    check_close(fk, dkernel, "dkernel");
    check_close(fb, dbias, "dbias");
    where = before;
  }
}

// ------------------------------------------------------------------------------------------------------- dense

void test_dense() {
  const int64_t shapes[][3] = {{1, 784, 10}, {5, 37, 19}, {33, 130, 129}, {128, 16, 1}, {7, 1, 65}};
  for (const auto& shape : shapes) {
    const int64_t rows = shape[0], in = shape[1], out = shape[2];
    fbn_dense d{};
    d.struct_size = sizeof d;
    d.rows = rows, d.in_features = in, d.out_features = out;
    d.activation = FBN_SIGMOID;
    const Floats x = draw(count({rows, in}), 1), w = draw(count({in, out}), 2), bias = draw(count({out}), 3);
    const Floats dy = draw(count({rows, out}), 4);
    const auto for_each_product = [&](auto body) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < in; ++i)
          for (int64_t o = 0; o < out; ++o)
            body(static_cast<size_t>(r * in + i), static_cast<size_t>(i * out + o), static_cast<size_t>(r * out + o));
    };
    Doubles y(dy.size());
    for (size_t i = 0; i < y.size(); ++i) y[i] = bias[i % bias.size()];
    for_each_product([&](size_t at_x, size_t at_w, size_t at_y) { y[at_y] += double{x[at_x]} * w[at_w]; });
    for (double& v : y) v = activate(d.activation, 0, v);
    Floats found = unwritten(y.size());
    check_ok(fbn_dense_forward(&d, x.data(), w.data(), bias.data(), found.data(), &exec), "dense_forward");
    check_close(found, y, "dense y", 1e-5);
    const Floats y_given = rounded(y);
    const Doubles dz = through(d.activation, 0, dy, y_given);
    Doubles dx(x.size()), dw(w.size()), dbias(bias.size());
    for_each_product([&](size_t at_x, size_t at_w, size_t at_y) {
      dx[at_x] += dz[at_y] * w[at_w];
      dw[at_w] += dz[at_y] * x[at_x];
    });
    for (size_t i = 0; i < dz.size(); ++i) dbias[i % dbias.size()] += dz[i];
    Floats fx = unwritten(dx.size()), fw = unwritten(dw.size()), fb = unwritten(dbias.size());
    check_ok(
        fbn_dense_backward(&d, dy.data(), x.data(), w.data(), y_given.data(), fx.data(), fw.data(), fb.data(), &exec),
        "dense_backward");
    check_close(fx, dx, "dense dx");
    check_close(fw, dw, "dense dkernel");
    check_close(fb, dbias, "dense dbias");
  }
}

// -------------------------------------------------------------------------------------------------- batch-norm

void test_batch_norm() {
  const int64_t shapes[][2] = {{1, 3}, {7, 17}, {129, 33}, {1000, 5}, {64, 130}};
  for (const auto& shape : shapes) {
    const size_t rows = static_cast<size_t>(shape[0]), c = static_cast<size_t>(shape[1]), n = rows * c;
    fbn_batch_norm d{};
    d.struct_size = sizeof d;
    d.rows = shape[0], d.channels = shape[1];
    d.epsilon = 1e-3;
    d.activation = FBN_LEAKY_RELU;
    d.alpha = 0.25f;
    d.has_residual = 1;
    const Floats x = draw(n, 1), residual = draw(n, 2), dy = draw(n, 3), gamma = draw(c, 4), beta = draw(c, 5);
    Doubles mean(c), variance(c), y(n);
    for (size_t i = 0; i < n; ++i) mean[i % c] += x[i] / static_cast<double>(rows);
    for (size_t i = 0; i < n; ++i) variance[i % c] += std::pow(x[i] - mean[i % c], 2) / static_cast<double>(rows);
    const auto normalise = [&](size_t i) {
      const size_t k = i % c;
      return activate(d.activation, 0.25,
                      (x[i] - mean[k]) / std::sqrt(variance[k] + d.epsilon) * gamma[k] + beta[k] + residual[i]);
    };
    for (size_t i = 0; i < n; ++i) y[i] = normalise(i);
    Floats found = unwritten(n);
    Doubles found_mean(c, NAN), found_variance(c, NAN);
    check_ok(fbn_batch_norm_forward(&d, x.data(), gamma.data(), beta.data(), residual.data(), found.data(),
                                    found_mean.data(), found_variance.data(), &exec),
             "batch_norm_forward");
    check_close(found, y, "batch_norm y");
    check_close(found_mean, mean, "mean");
    check_close(found_variance, variance, "variance");
    found = unwritten(n);
    check_ok(fbn_batch_norm_inference(&d, x.data(), gamma.data(), beta.data(), mean.data(), variance.data(),
                                      residual.data(), found.data(), &exec),
             "batch_norm_inference");
    check_close(found, y, "batch_norm inference");

    const Floats y_given = rounded(y);
    const Doubles dz = through(d.activation, 0.25, dy, y_given);
    for (const int32_t frozen : {0, 1}) {
      d.frozen = frozen;
      Doubles sum(c), products(c), dgamma(c), dx(n);
      for (size_t i = 0; i < n; ++i) sum[i % c] += dz[i], products[i % c] += dz[i] * (x[i] - mean[i % c]);
      for (size_t i = 0; i < n; ++i) {
        const size_t k = i % c;
        const double r = 1 / std::sqrt(variance[k] + d.epsilon), m = static_cast<double>(rows);
        dgamma[k] = r * products[k];
        dx[i] = gamma[k] * r * (frozen ? dz[i] : dz[i] - sum[k] / m - (x[i] - mean[k]) * r * r * products[k] / m);
      }
      Floats fx = unwritten(n), fg = unwritten(c), fb = unwritten(c), fr = unwritten(n);
      check_ok(fbn_batch_norm_backward(&d, dy.data(), x.data(), gamma.data(), beta.data(), mean.data(), variance.data(),
                                       y_given.data(), fx.data(), fg.data(), fb.data(), fr.data(), &exec),
               "batch_norm_backward");
      check_close(fx, dx, "batch_norm dx", 1e-5);
      check_close(fg, dgamma, "dgamma");
      check_close(fb, sum, "dbeta");
      check_close(fr, dz, "dresidual");
    }
    d.frozen = 0;

    // Two shards give the statistics and the gradient of the whole.
    const size_t cut = rows / 2;
    if (cut == 0) continue;
    Doubles means(2 * c, NAN), m2s(2 * c, NAN), sums(c, NAN), products(c, NAN);
    const int64_t counts[2] = {static_cast<int64_t>(cut), static_cast<int64_t>(rows - cut)};
    for (size_t shard = 0; shard < 2; ++shard) {
      d.rows = counts[shard];
      check_ok(fbn_batch_norm_partial(&d, x.data() + shard * cut * c, shape[0], means.data() + shard * c,
                                      m2s.data() + shard * c, &exec),
               "batch_norm_partial");
    }
    check_ok(
        fbn_batch_norm_merge(2, d.channels, counts, means.data(), m2s.data(), found_mean.data(), found_variance.data()),
        "batch_norm_merge");
    check_close(found_mean, mean, "merged mean");
    check_close(found_variance, variance, "merged variance");
    d.rows = shape[0];
    check_ok(
        fbn_batch_norm_backward_partial(&d, dy.data(), x.data(), gamma.data(), beta.data(), mean.data(),
                                        variance.data(), y_given.data(), d.rows, sums.data(), products.data(), &exec),
        "batch_norm_backward_partial");
    Doubles merged(2 * c, NAN);
    check_ok(fbn_batch_norm_backward_merge(1, d.channels, sums.data(), products.data(), &merged[0], &merged[c]),
             "batch_norm_backward_merge");
    for (size_t i = 0; i < c; ++i) CHECK(merged[i] == sums[i] && merged[c + i] == products[i]);
    Floats whole = unwritten(n), applied = unwritten(n), dresidual = unwritten(n);
    check_ok(fbn_batch_norm_backward(&d, dy.data(), x.data(), gamma.data(), beta.data(), mean.data(), variance.data(),
                                     y_given.data(), whole.data(), nullptr, nullptr, nullptr, &exec),
             "batch_norm_backward dx");
    check_ok(fbn_batch_norm_backward_apply(&d, dy.data(), x.data(), gamma.data(), beta.data(), mean.data(),
                                           variance.data(), y_given.data(), sums.data(), products.data(), d.rows,
                                           applied.data(), dresidual.data(), &exec),
             "batch_norm_backward_apply");
    check_close(applied, Doubles(whole.begin(), whole.end()), "applied dx", 1e-5);
  }
}

// ----------------------------------------------------------------------------------------------------- pooling

void test_pooling() {
  struct Case {
    int64_t batch, height, width, channels, pool_height, pool_width, stride;
    int32_t padding;
  };
  const Case cases[] = {{2, 8, 6, 17, 2, 2, 2, FBN_PADDING_VALID},
                        {1, 9, 11, 3, 3, 3, 2, FBN_PADDING_SAME},
                        {2, 7, 10, 33, 3, 2, 1, FBN_PADDING_SAME},
                        {1, 19, 18, 5, 17, 16, 1, FBN_PADDING_VALID}};  // more than 256 places: int32 indices
  for (const Case& k : cases) {
    fbn_pool2d d{};
    d.struct_size = sizeof d;
    d.batch = k.batch, d.height = k.height, d.width = k.width, d.channels = k.channels;
    d.pool_height = k.pool_height, d.pool_width = k.pool_width;
    d.stride_height = d.stride_width = k.stride;
    d.padding = k.padding;
    int64_t oh = 0, ow = 0, top = 0, left = 0;
    check_ok(fbn_pool2d_output_size(&d, &oh, &ow), "pool2d_output_size");
    if (k.padding == FBN_PADDING_SAME) {
      top = std::max<int64_t>((oh - 1) * k.stride + k.pool_height - k.height, 0) / 2;
      left = std::max<int64_t>((ow - 1) * k.stride + k.pool_width - k.width, 0) / 2;
    }
    const Floats x = draw(count({k.batch, k.height, k.width, k.channels}), 1);
    const Floats dy = draw(count({k.batch, oh, ow, k.channels}), 2);
    Doubles best(dy.size(), -INFINITY), average(dy.size()), dmax(x.size()), daverage(x.size());
    Doubles place(dy.size());
    for (int64_t n = 0; n < k.batch; ++n)
      for (int64_t oy = 0; oy < oh; ++oy)
        for (int64_t ox = 0; ox < ow; ++ox)
          for (int64_t c = 0; c < k.channels; ++c) {
            const size_t to = static_cast<size_t>(((n * oh + oy) * ow + ox) * k.channels + c);
            size_t chosen = 0;
            std::vector<size_t> cells;
            for (int64_t ky = 0; ky < k.pool_height; ++ky)
              for (int64_t kx = 0; kx < k.pool_width; ++kx) {
                const int64_t iy = oy * k.stride + ky - top, ix = ox * k.stride + kx - left;
                if (iy < 0 || iy >= k.height || ix < 0 || ix >= k.width) continue;
                cells.push_back(static_cast<size_t>(((n * k.height + iy) * k.width + ix) * k.channels + c));
                average[to] += x[cells.back()];
                if (!(x[cells.back()] > best[to])) continue;
                best[to] = x[chosen = cells.back()];
                place[to] = static_cast<double>(ky * k.pool_width + kx);
              }
            average[to] /= static_cast<double>(cells.size());
            dmax[chosen] += dy[to];
            for (const size_t cell : cells) daverage[cell] += dy[to] / static_cast<double>(cells.size());
          }
    Floats y = unwritten(dy.size()), dx = unwritten(x.size());
    std::vector<uint8_t> bytes(dy.size(), 255);
    std::vector<int32_t> words(dy.size(), -1);
    const bool wide = fbn_pool2d_index_dtype(&d) == FBN_INT32;
    CHECK(wide == (k.pool_height * k.pool_width > 256));
    void* index = wide ? static_cast<void*>(words.data()) : bytes.data();
    check_ok(fbn_max_pool2d_forward(&d, x.data(), y.data(), index, &exec), "max_pool2d_forward");
    check_close(y, best, "max_pool2d", 0);
    check_close(wide ? Doubles(words.begin(), words.end()) : Doubles(bytes.begin(), bytes.end()), place, "index", 0);
    check_ok(fbn_max_pool2d_backward(&d, dy.data(), index, dx.data(), &exec), "max_pool2d_backward");
    check_close(dx, dmax, "max_pool2d dx");
    y = unwritten(dy.size()), dx = unwritten(x.size());
    check_ok(fbn_avg_pool2d_forward(&d, x.data(), y.data(), &exec), "avg_pool2d_forward");
    check_close(y, average, "avg_pool2d");
    check_ok(fbn_avg_pool2d_backward(&d, dy.data(), dx.data(), &exec), "avg_pool2d_backward");
    check_close(dx, daverage, "avg_pool2d dx");

    const size_t channels = static_cast<size_t>(k.channels), batch = static_cast<size_t>(k.batch);
    const int64_t pixels = k.height * k.width;
    const size_t image = x.size() / batch;
    Doubles mean(batch * channels), spread(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      mean[i / image * channels + i % channels] += x[i] / static_cast<double>(pixels);
      spread[i] = dy[i / image * channels + i % channels] / static_cast<double>(pixels);
    }
    y = unwritten(mean.size()), dx = unwritten(x.size());
    check_ok(fbn_global_avg_pool2d_forward(k.batch, pixels, k.channels, x.data(), y.data(), &exec),
             "global_avg_pool2d");
    check_close(y, mean, "global_avg_pool2d");
    check_ok(fbn_global_avg_pool2d_backward(k.batch, pixels, k.channels, dy.data(), dx.data(), &exec),
             "global_avg_pool2d_backward");
    check_close(dx, spread, "global_avg_pool2d dx");
  }
}

// ---------------------------------------------------------------------------- activations, dropout, and losses

Doubles softmax(const Floats& x, size_t columns) {
  Doubles p(x.size());
  for (size_t begin = 0; begin < x.size(); begin += columns) {
    double sum = 0;
    const float top =
        *std::max_element(x.begin() + static_cast<int64_t>(begin), x.begin() + static_cast<int64_t>(begin + columns));
    for (size_t k = 0; k < columns; ++k) sum += p[begin + k] = std::exp(double{x[begin + k]} - top);
    for (size_t k = 0; k < columns; ++k) p[begin + k] /= sum;
  }
  return p;
}

void test_pointwise() {
  const int64_t shapes[][2] = {{1, 1}, {3, 5}, {7, 17}, {13, 131}, {600, 33}};
  for (const auto& shape : shapes) {
    const size_t n = count({shape[0], shape[1]}), columns = static_cast<size_t>(shape[1]);
    const Floats x = draw(n, 1), dy = draw(n, 2);
    for (const int32_t activation : {FBN_LINEAR, FBN_RELU, FBN_LEAKY_RELU, FBN_SIGMOID, FBN_TANH, FBN_SOFTMAX}) {
      Doubles y = activation == FBN_SOFTMAX ? softmax(x, columns) : Doubles(n), dx(n);
      if (activation != FBN_SOFTMAX)
        for (size_t i = 0; i < n; ++i) y[i] = activate(activation, 0.25, x[i]);
      Floats found = unwritten(n);
      check_ok(fbn_activation_forward(activation, 0.25f, shape[0], shape[1], x.data(), found.data(), &exec),
               "activation_forward");
      check_close(found, y, "activation", 1e-6);
      const Floats y_given = rounded(y);
      for (size_t i = 0; i < n; ++i) {
        double inner = 0;
        for (size_t k = i / columns * columns, end = k + columns; k < end; ++k) inner += double{dy[k]} * y_given[k];
        dx[i] = activation == FBN_SOFTMAX ? y_given[i] * (dy[i] - inner) : dy[i] * slope(activation, 0.25, y_given[i]);
      }
      found = unwritten(n);
      check_ok(fbn_activation_backward(activation, 0.25f, shape[0], shape[1], dy.data(), y_given.data(), found.data(),
                                       &exec),
               "activation_backward");
      check_close(found, dx, "activation dx");
    }
  }
}

// The mask is the same on every instruction set: the first that is tested gives the pattern.
void test_dropout() {
  static Floats pattern;
  const size_t n = 10'007;
  Floats ones(n, 1.0f), y = unwritten(n), dx = unwritten(n);
  check_ok(fbn_dropout_forward(0.2, 77, static_cast<int64_t>(n), ones.data(), y.data(), &exec), "dropout_forward");
  check_ok(fbn_dropout_backward(0.2, 77, static_cast<int64_t>(n), ones.data(), dx.data(), &exec), "dropout_backward");
  const auto kept = static_cast<double>(n) - static_cast<double>(std::count(y.begin(), y.end(), 0.0f));
  CHECK(std::fabs(kept / static_cast<double>(n) - 0.8) < 0.02);
  CHECK(std::all_of(y.begin(), y.end(), [](float v) { return v == 0.0f || v == 1.25f; }));
  CHECK(y == dx);
  if (pattern.empty()) pattern = y;
  CHECK(y == pattern);
}

void test_losses() {
  const int64_t shapes[][2] = {{1, 2}, {5, 10}, {33, 17}, {100, 130}};
  for (const auto& shape : shapes) {
    const size_t rows = static_cast<size_t>(shape[0]), columns = static_cast<size_t>(shape[1]), n = rows * columns;
    const Floats x = draw(n, 1), targets = draw(n, 2);
    std::vector<int32_t> labels(rows);
    for (size_t r = 0; r < rows; ++r) labels[r] = static_cast<int32_t>(r * 7 % columns);
    const Doubles p = softmax(x, columns);
    Doubles loss(rows), dlogits = p, squares(rows), dp(n);
    for (size_t r = 0; r < rows; ++r) {
      const size_t at = r * columns + static_cast<size_t>(labels[r]);
      loss[r] = -std::log(p[at]);
      dlogits[at] -= 1;
    }
    for (size_t i = 0; i < n; ++i) {
      const double d = double{x[i]} - targets[i];
      squares[i / columns] += d * d / static_cast<double>(columns);
      dp[i] = 2 * d / static_cast<double>(columns) * 0.5;
      dlogits[i] *= 0.5;
    }
    Floats found = unwritten(rows), probabilities = unwritten(n), gradient = unwritten(n);
    check_ok(fbn_softmax_cross_entropy_forward(shape[0], shape[1], x.data(), labels.data(), FBN_INT32, found.data(),
                                               probabilities.data(), &exec),
             "softmax_cross_entropy_forward");
    check_close(found, loss, "loss");
    check_close(probabilities, p, "probabilities");
    check_ok(fbn_softmax_cross_entropy_backward(shape[0], shape[1], probabilities.data(), labels.data(), FBN_INT32,
                                                0.5f, gradient.data(), &exec),
             "softmax_cross_entropy_backward");
    check_close(gradient, dlogits, "dlogits");
    found = unwritten(rows), gradient = unwritten(n);
    check_ok(fbn_mean_squared_error_forward(shape[0], shape[1], x.data(), targets.data(), found.data(), &exec),
             "mean_squared_error_forward");
    check_close(found, squares, "mean_squared_error");
    check_ok(
        fbn_mean_squared_error_backward(shape[0], shape[1], x.data(), targets.data(), 0.5f, gradient.data(), &exec),
        "mean_squared_error_backward");
    check_close(gradient, dp, "dpredictions");
  }
}

// -------------------------------------------------------------------------------------------------- optimizers

void test_optimizers() {
  for (const int64_t size : {1, 15, 1003}) {
    const size_t n = static_cast<size_t>(size);
    for (const int32_t kind : {FBN_SGD, FBN_RMSPROP, FBN_ADAM}) {
      fbn_optimizer d{};
      d.struct_size = sizeof d;
      d.kind = kind;
      d.learning_rate = 0.01;
      d.epsilon = 1e-7;
      if (kind == FBN_SGD) d.momentum = 0.9, d.nesterov = 1;
      if (kind == FBN_RMSPROP) d.rho = 0.9;
      if (kind == FBN_ADAM) d.beta_1 = 0.9, d.beta_2 = 0.999, d.weight_decay = 0.1;
      Floats w = draw(n, 1), first(n), second(n);
      Doubles exact(w.begin(), w.end()), a(n), b(n);
      float* slots[2] = {first.data(), second.data()};
      for (int64_t iteration = 0; iteration < 3; ++iteration) {
        const Floats g = draw(n, static_cast<uint32_t>(iteration) + 5);
        check_ok(fbn_optimizer_update(&d, iteration, size, w.data(), g.data(), slots, &exec), "optimizer_update");
        const double t = static_cast<double>(iteration + 1);
        for (size_t i = 0; i < n; ++i) {
          const double gradient = g[i];
          if (kind == FBN_SGD) {
            a[i] = 0.9 * a[i] - 0.01 * gradient;
            exact[i] += 0.9 * a[i] - 0.01 * gradient;
          } else if (kind == FBN_RMSPROP) {
            a[i] = 0.9 * a[i] + 0.1 * gradient * gradient;
            exact[i] -= 0.01 * gradient / std::sqrt(a[i] + 1e-7);
          } else {
            exact[i] -= exact[i] * 0.1 * 0.01;
            a[i] += (gradient - a[i]) * 0.1;
            b[i] += (gradient * gradient - b[i]) * 0.001;
            exact[i] -=
                0.01 * std::sqrt(1 - std::pow(0.999, t)) / (1 - std::pow(0.9, t)) * a[i] / (std::sqrt(b[i]) + 1e-7);
          }
        }
      }
      check_close(w, exact, "weights", 5e-6);
      check_close(first, a, "slot 0");
      if (kind == FBN_ADAM) check_close(second, b, "slot 1");
    }
  }
}

}  // namespace

int main() {
  CHECK(fbn_set_serial_threshold(0) == FBN_OK);  // small as they are, calls go parallel
  std::istringstream names(fbn_isa_found());
  for (std::string name; std::getline(names, name, ',');) {
    CHECK(fbn_set_isa(name.c_str()) == FBN_OK);
    for (const int32_t threads : {1, 3}) {
      exec = exec_of(threads);
      where = name + ", " + std::to_string(threads) + " threads:";
      test_conv2d();
      test_dense();
      test_batch_norm();
      test_pooling();
      test_pointwise();
      test_dropout();
      test_losses();
      test_optimizers();
    }
  }
  std::printf("instruction sets: %s\n", fbn_isa_found());
  return check::report("kernels");
}
