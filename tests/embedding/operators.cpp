// Every function of fastbn.hpp gives what the C function behind it gives, and refuses spans of other sizes.
#include <array>
#include <cstring>
#include <fastbn/fastbn.hpp>
#include <iostream>
#include <string>
#include <vector>

namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

int failures = 0;

void check(bool holds, const std::string& what) {
  if (holds) return;
  std::cerr << what << "\n";
  ++failures;
}

Floats numbers(int64_t count, int step) {
  Floats all(static_cast<size_t>(count));
  for (size_t i = 0; i < all.size(); ++i)
    all[i] = static_cast<float>(i * static_cast<size_t>(step) % 101) / 64.0f - 0.75f;
  return all;
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// Results of a call: arrays of the given sizes, which run(arrays) fills.
template <class T, class Run>
std::vector<std::vector<T>> results(std::initializer_list<int64_t> sizes, Run&& run) {
  std::vector<std::vector<T>> arrays;
  for (const int64_t size : sizes) arrays.emplace_back(static_cast<size_t>(size), T(-77));
  run(arrays);
  return arrays;
}

template <class T, class Cpp, class C>
void compare(const char* what, std::initializer_list<int64_t> sizes, Cpp&& cpp, C&& c) {
  const auto found = results<T>(sizes, cpp);
  const auto expected = results<T>(sizes, [&](auto& arrays) { check(c(arrays) == FBN_OK, fbn_last_error()); });
  for (size_t i = 0; i < found.size(); ++i) {
    check(same(found[i], expected[i]), std::string(what) + " differs in result " + std::to_string(i));
    check(found[i].empty() || found[i].back() != T(-77), std::string(what) + " has not written all of result");
  }
}

template <class Call>
void refused(const char* text, Call&& call) {
  try {
    call();
    check(false, std::string("not refused: ") + text);
  } catch (const fastbn::Error& error) {
    check(error.status() == FBN_INVALID_VALUE && std::string(error.what()) == text, error.what());
  }
}

void convolution() {
  fastbn::Conv2d d;
  d.batch = 2, d.height = 7, d.width = 6, d.in_channels = 4, d.out_channels = 5;
  d.kernel_height = 3, d.kernel_width = 2, d.stride_height = 2, d.activation = FBN_RELU;
  int64_t height = 0, width = 0;
  check(d.output_size(height, width) == FBN_OK && height == 3 && width == 5, "output_size");
  const int64_t size = 2 * height * width * 5;
  const Floats x = numbers(d.x_size(), 37), kernel = numbers(d.kernel_size(), 53), bias = numbers(5, 7),
               dy = numbers(size, 29), y = numbers(size, 31);
  compare<float>(
      "conv2d_forward", {size}, [&](auto& out) { fastbn::conv2d_forward(d, x, kernel, bias, out[0]); },
      [&](auto& out) { return fbn_conv2d_forward(&d, x.data(), kernel.data(), bias.data(), out[0].data(), nullptr); });
  compare<float>(
      "conv2d_backward", {d.x_size(), d.kernel_size(), 5},
      [&](auto& out) { fastbn::conv2d_backward(d, dy, x, kernel, y, out[0], out[1], out[2]); },
      [&](auto& out) {
        return fbn_conv2d_backward(&d, dy.data(), x.data(), kernel.data(), y.data(), out[0].data(), out[1].data(),
                                   out[2].data(), nullptr);
      });
  const char* name = nullptr;
  check(fbn_conv2d_algorithm(&d, FBN_CONV2D_BACKWARD_DATA, &name, nullptr, 0) == FBN_OK &&
            fastbn::conv2d_algorithm(d, FBN_CONV2D_BACKWARD_DATA) == name,
        "conv2d_algorithm");
  Floats few(3);
  refused("conv2d_forward: bias must hold 5 values. Received: 3",
          [&] { fastbn::conv2d_forward(d, x, kernel, few, few); });
  refused("conv2d_backward: dkernel must hold 120 values. Received: 3",
          [&] { fastbn::conv2d_backward(d, dy, x, kernel, y, {}, few, {}); });
}

void dense() {
  fastbn::Dense d;
  d.rows = 3, d.in_features = 4, d.out_features = 5, d.activation = FBN_TANH;
  const Floats x = numbers(12, 37), kernel = numbers(20, 53), bias = numbers(5, 7), dy = numbers(15, 29),
               y = numbers(15, 31);
  compare<float>(
      "dense_forward", {15}, [&](auto& out) { fastbn::dense_forward(d, x, kernel, bias, out[0]); },
      [&](auto& out) { return fbn_dense_forward(&d, x.data(), kernel.data(), bias.data(), out[0].data(), nullptr); });
  compare<float>(
      "dense_backward", {12, 20, 5},
      [&](auto& out) { fastbn::dense_backward(d, dy, x, kernel, y, out[0], out[1], out[2]); },
      [&](auto& out) {
        return fbn_dense_backward(&d, dy.data(), x.data(), kernel.data(), y.data(), out[0].data(), out[1].data(),
                                  out[2].data(), nullptr);
      });
  Floats out(15);
  d.rows = -1;  // sizes that are none are left to the call, which knows the rule
  refused("dense_forward: rows must be at least 0. Received: -1",
          [&] { fastbn::dense_forward(d, x, kernel, bias, out); });
  d.rows = (int64_t{1} << 62) + 3;  // times 4 passes int64
  try {
    fastbn::dense_forward(d, x, kernel, bias, out);
    check(false, "not refused: a size beyond int64");
  } catch (const fastbn::Error& error) {
    check(std::string(error.what()).find("must fit into 63 bits") != std::string::npos, error.what());
  }
}

void batch_norm() {
  fastbn::BatchNorm d;
  d.rows = 12, d.channels = 3, d.activation = FBN_RELU, d.has_residual = 1;
  const Floats x = numbers(36, 37), gamma = numbers(3, 53), beta = numbers(3, 7), dy = numbers(36, 29),
               residual = numbers(36, 17), y = numbers(36, 31);
  const Doubles mean = {0.1, -0.2, 0.3}, variance = {1, 2, 3}, sums = {0.5, 0.25, 4}, others = {-1, 2, 0.5};
  Floats out(36), expected(36);
  compare<double>(
      "batch_norm_forward", {3, 3},
      [&](auto& s) { fastbn::batch_norm_forward(d, x, gamma, beta, residual, out, s[0], s[1]); },
      [&](auto& s) {
        return fbn_batch_norm_forward(&d, x.data(), gamma.data(), beta.data(), residual.data(), expected.data(),
                                      s[0].data(), s[1].data(), nullptr);
      });
  check(same(out, expected), "batch_norm_forward differs");
  compare<float>(
      "batch_norm_backward", {36, 3, 3, 36},
      [&](auto& g) { fastbn::batch_norm_backward(d, dy, x, gamma, beta, mean, variance, y, g[0], g[1], g[2], g[3]); },
      [&](auto& g) {
        return fbn_batch_norm_backward(&d, dy.data(), x.data(), gamma.data(), beta.data(), mean.data(), variance.data(),
                                       y.data(), g[0].data(), g[1].data(), g[2].data(), g[3].data(), nullptr);
      });
  compare<float>(
      "batch_norm_inference", {36},
      [&](auto& r) { fastbn::batch_norm_inference(d, x, gamma, beta, mean, variance, residual, r[0]); },
      [&](auto& r) {
        return fbn_batch_norm_inference(&d, x.data(), gamma.data(), beta.data(), mean.data(), variance.data(),
                                        residual.data(), r[0].data(), nullptr);
      });
  compare<double>(
      "batch_norm_partial", {3, 3}, [&](auto& s) { fastbn::batch_norm_partial(d, x, 48, s[0], s[1]); },
      [&](auto& s) { return fbn_batch_norm_partial(&d, x.data(), 48, s[0].data(), s[1].data(), nullptr); });
  const std::array<int64_t, 2> counts = {10, 30};
  const Doubles means = {1, 2, 3, 4, 5, 6}, m2s = {7, 8, 9, 10, 11, 12};
  compare<double>(
      "batch_norm_merge", {3, 3}, [&](auto& s) { fastbn::batch_norm_merge(3, counts, means, m2s, s[0], s[1]); },
      [&](auto& s) {
        return fbn_batch_norm_merge(2, 3, counts.data(), means.data(), m2s.data(), s[0].data(), s[1].data());
      });
  compare<double>(
      "batch_norm_backward_merge", {3, 3},
      [&](auto& s) { fastbn::batch_norm_backward_merge(2, 3, means, m2s, s[0], s[1]); },
      [&](auto& s) { return fbn_batch_norm_backward_merge(2, 3, means.data(), m2s.data(), s[0].data(), s[1].data()); });
  compare<double>(
      "batch_norm_backward_partial", {3, 3},
      [&](auto& s) { fastbn::batch_norm_backward_partial(d, dy, x, gamma, beta, mean, variance, y, 48, s[0], s[1]); },
      [&](auto& s) {
        return fbn_batch_norm_backward_partial(&d, dy.data(), x.data(), gamma.data(), beta.data(), mean.data(),
                                               variance.data(), y.data(), 48, s[0].data(), s[1].data(), nullptr);
      });
  compare<float>(
      "batch_norm_backward_apply", {36, 36},
      [&](auto& g) {
        fastbn::batch_norm_backward_apply(d, dy, x, gamma, beta, mean, variance, y, sums, others, 48, g[0], g[1]);
      },
      [&](auto& g) {
        return fbn_batch_norm_backward_apply(&d, dy.data(), x.data(), gamma.data(), beta.data(), mean.data(),
                                             variance.data(), y.data(), sums.data(), others.data(), 48, g[0].data(),
                                             g[1].data(), nullptr);
      });
  int64_t rows = 0;
  check(fbn_batch_norm_chunk_rows(100000, 3, &rows) == FBN_OK && fastbn::batch_norm_chunk_rows(100000, 3) == rows,
        "batch_norm_chunk_rows");
  refused("batch_norm_forward: mean must hold 3 values. Received: 6",
          [&] { fastbn::batch_norm_forward(d, x, gamma, beta, residual, out, Doubles(6), Doubles(3)); });
}

void pooling() {
  fastbn::Pool2d d;
  d.batch = 2, d.height = 6, d.width = 4, d.channels = 3;
  const Floats x = numbers(144, 37), dy = numbers(36, 29);
  std::vector<uint8_t> index(36), expected(36);
  compare<float>(
      "max_pool2d_forward", {36}, [&](auto& out) { fastbn::max_pool2d_forward(d, x, out[0], index); },
      [&](auto& out) { return fbn_max_pool2d_forward(&d, x.data(), out[0].data(), expected.data(), nullptr); });
  check(index == expected, "the index of max_pool2d_forward differs");
  compare<float>(
      "max_pool2d_backward", {144}, [&](auto& out) { fastbn::max_pool2d_backward(d, dy, index, out[0]); },
      [&](auto& out) { return fbn_max_pool2d_backward(&d, dy.data(), index.data(), out[0].data(), nullptr); });
  compare<float>(
      "avg_pool2d_forward", {36}, [&](auto& out) { fastbn::avg_pool2d_forward(d, x, out[0]); },
      [&](auto& out) { return fbn_avg_pool2d_forward(&d, x.data(), out[0].data(), nullptr); });
  compare<float>(
      "avg_pool2d_backward", {144}, [&](auto& out) { fastbn::avg_pool2d_backward(d, dy, out[0]); },
      [&](auto& out) { return fbn_avg_pool2d_backward(&d, dy.data(), out[0].data(), nullptr); });
  compare<float>(
      "global_avg_pool2d_forward", {6}, [&](auto& out) { fastbn::global_avg_pool2d_forward(2, 24, 3, x, out[0]); },
      [&](auto& out) { return fbn_global_avg_pool2d_forward(2, 24, 3, x.data(), out[0].data(), nullptr); });
  compare<float>(
      "global_avg_pool2d_backward", {216}, [&](auto& out) { fastbn::global_avg_pool2d_backward(12, 6, 3, dy, out[0]); },
      [&](auto& out) { return fbn_global_avg_pool2d_backward(12, 6, 3, dy.data(), out[0].data(), nullptr); });
  refused("max_pool2d_backward: index must hold 36 values. Received: 5",
          [&] { fastbn::max_pool2d_backward(d, dy, std::vector<uint8_t>(5), Floats(144)); });
}

void pointwise() {
  const Floats x = numbers(24, 37), dy = numbers(24, 29), y = numbers(24, 31);
  compare<float>(
      "activation_forward", {24},
      [&](auto& out) { fastbn::activation_forward(FBN_LEAKY_RELU, 4, 6, x, out[0], 0.25f); },
      [&](auto& out) { return fbn_activation_forward(FBN_LEAKY_RELU, 0.25f, 4, 6, x.data(), out[0].data(), nullptr); });
  compare<float>(
      "activation_backward", {24}, [&](auto& out) { fastbn::activation_backward(FBN_SIGMOID, 4, 6, dy, y, out[0]); },
      [&](auto& out) {
        return fbn_activation_backward(FBN_SIGMOID, 0, 4, 6, dy.data(), y.data(), out[0].data(), nullptr);
      });
  compare<float>(
      "dropout_forward", {24}, [&](auto& out) { fastbn::dropout_forward(0.25, 7, x, out[0]); },
      [&](auto& out) { return fbn_dropout_forward(0.25, 7, 24, x.data(), out[0].data(), nullptr); });
  compare<float>(
      "dropout_backward", {24}, [&](auto& out) { fastbn::dropout_backward(0.25, 7, dy, out[0]); },
      [&](auto& out) { return fbn_dropout_backward(0.25, 7, 24, dy.data(), out[0].data(), nullptr); });
}

void losses() {
  const Floats x = numbers(24, 37), t = numbers(24, 29);
  const std::vector<int32_t> labels = {0, 5, 2, 3};
  compare<float>(
      "softmax_cross_entropy_forward", {4, 24},
      [&](auto& out) { fastbn::softmax_cross_entropy_forward<int32_t>(4, 6, x, labels, out[0], out[1]); },
      [&](auto& out) {
        return fbn_softmax_cross_entropy_forward(4, 6, x.data(), labels.data(), FBN_INT32, out[0].data(), out[1].data(),
                                                 nullptr);
      });
  compare<float>(
      "softmax_cross_entropy_backward", {24},
      [&](auto& out) { fastbn::softmax_cross_entropy_backward<float>(4, 6, x, t, 0.5f, out[0]); },
      [&](auto& out) {
        return fbn_softmax_cross_entropy_backward(4, 6, x.data(), t.data(), FBN_FLOAT32, 0.5f, out[0].data(), nullptr);
      });
  compare<float>(
      "mean_squared_error_forward", {4}, [&](auto& out) { fastbn::mean_squared_error_forward(4, 6, x, t, out[0]); },
      [&](auto& out) { return fbn_mean_squared_error_forward(4, 6, x.data(), t.data(), out[0].data(), nullptr); });
  compare<float>(
      "mean_squared_error_backward", {24},
      [&](auto& out) { fastbn::mean_squared_error_backward(4, 6, x, t, 0.5f, out[0]); },
      [&](auto& out) {
        return fbn_mean_squared_error_backward(4, 6, x.data(), t.data(), 0.5f, out[0].data(), nullptr);
      });
}

void optimizers() {
  const Floats gradient = numbers(9, 29);
  for (const fbn_optimizer& d : {fastbn::optimizers::sgd(0.1, 0.9, true), fastbn::optimizers::rmsprop(),
                                 fastbn::optimizers::adam(0.01, 0.8, 0.9, 1e-6, true)}) {
    const int32_t slots = fbn_optimizer_slot_count(&d);
    const auto run = [&](bool cpp) {
      std::vector<Floats> arrays(static_cast<size_t>(slots) + 1, numbers(9, 31));
      for (float& value : arrays[0]) value = 0.5f;
      for (size_t i = 1; i < arrays.size(); ++i)
        for (float& value : arrays[i]) value = 0.25f;
      std::vector<fastbn::Span<float>> spans;
      std::vector<float*> pointers;
      for (size_t i = 1; i < arrays.size(); ++i) {
        spans.emplace_back(arrays[i]);
        pointers.push_back(arrays[i].data());
      }
      if (cpp)
        fastbn::optimizer_update(d, 3, arrays[0], gradient, spans);
      else
        check(fbn_optimizer_update(&d, 3, 9, arrays[0].data(), gradient.data(), pointers.data(), nullptr) == FBN_OK,
              fbn_last_error());
      return arrays;
    };
    check(run(true) == run(false) && run(true)[0][0] != 0.5f, "optimizer_update differs");
  }
}

// The host's threads and a workspace, and what workspace_size() asks.
void how_to_run() {
  fastbn::Conv2d d;
  d.batch = 4, d.height = d.width = 16, d.in_channels = d.out_channels = 32, d.kernel_height = d.kernel_width = 3;
  const Floats x = numbers(d.x_size(), 37), kernel = numbers(d.kernel_size(), 53);
  Floats y(4 * 14 * 14 * 32), expected(y.size());
  fastbn::conv2d_forward(d, x, kernel, {}, expected);
  int calls = 0;
  auto host = [&](int64_t count, auto task) {
    ++calls;
    for (int64_t i = count; i-- > 0;) task(i, static_cast<int32_t>(i % 2));
  };
  fastbn::Exec exec;
  exec.run_on(host, 2);
  const auto call = [&](const fastbn::Exec& e) { fastbn::conv2d_forward(d, x, kernel, {}, y, e); };
  fastbn::Workspace workspace(fastbn::workspace_size(exec, call));
  call(exec.use(workspace));
  check(same(y, expected) && calls > 0 && workspace.size() > 0, "the host's threads");
}

void programs() {
  namespace layers = fastbn::layers;
  fastbn::Graph graph = fastbn::Graph::create();
  graph.add(layers::input("in", {4, 4, 1}, FBN_UINT8));
  const int32_t first = graph.add(layers::rescaling("scale", 0.125, -1));
  const int32_t second = graph.add(layers::conv2d("conv", 3, {3, 3}, FBN_LINEAR, FBN_PADDING_SAME), {first});
  graph.add(layers::batch_norm("norm"), {second});
  const int32_t left = graph.add(layers::activation("relu", FBN_RELU));
  graph.add(layers::concatenate("both"), {second, left});
  graph.add(layers::avg_pool2d("pool"));
  const int32_t pooled = graph.add(layers::max_pool2d("pool_2", {1, 1}));
  graph.add(layers::add("sum"), {pooled, pooled});
  graph.add(layers::global_avg_pool2d("mean"));
  graph.add(layers::reshape("flat", {6}));
  const int32_t output = graph.add(layers::dense("out", 2));
  check(graph.shape(second) == std::vector<int64_t>{4, 4, 3}, "shape");
  fastbn::Options options(8, 3);
  options.keep_gradients = 1;
  fastbn::Program program = fastbn::Program::create(graph, output, options);
  std::vector<uint8_t> x(8 * 16);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * 37 % 101);
  const std::vector<int32_t> y = {0, 1, 0, 1, 1, 0, 1, 0};
  const std::vector<int64_t> index = {7, 0, 3};
  check(program.train(x, y).samples == 8 && program.train(x, y, index).samples == 3, "train");
  check(program.evaluate(x, y).samples == 8 && program.iteration() == 2, "evaluate");
  Floats all(16), some(6);
  program.predict(x, all);
  program.predict(x, some, index);
  check(some[0] == all[14] && some[5] == all[7], "predict");
  check(program.parameters().size() == 8 && program.shape("conv/kernel") == std::vector<int64_t>{3, 3, 1, 3}, "names");
  Floats bias(2);
  program.set("out/bias", Floats{4, 5});
  program.get("out/bias", bias);
  check(bias == Floats{4, 5} && program.get("out/bias") == bias, "set and get");
  check(program.get("out/kernel", "gradient").size() == 12, "gradient");
  program.set_learning_rate(0.5);
  program.set_iteration(9);
  check(program.learning_rate() == 0.5 && program.iteration() == 9, "learning rate and iteration");
  check(program.describe().find("phase 1") != std::string::npos, "describe");
  refused("train: y must hold 8 values. Received: 7", [&] { program.train(x, std::vector<int32_t>(7)); });
  refused("train: x must hold whole rows. Received: 17", [&] { program.train(std::vector<uint8_t>(17), y); });
  refused("train: every index must be a row of x. Received: 8", [&] { program.train(x, y, std::vector<int64_t>{8}); });
  refused("predict: out must hold 16 values. Received: 6", [&] { program.predict(x, some); });
  refused("get_by_name: out/bias holds 2 values. Received: an array of 6", [&] { program.get("out/bias", some); });
  const fastbn::Program moved = std::move(program);
  check(moved.iteration() == 9, "moved");
}

}  // namespace

int main() {
  try {
    convolution();
    dense();
    batch_norm();
    pooling();
    pointwise();
    losses();
    optimizers();
    how_to_run();
    programs();
  } catch (const std::exception& error) {
    check(false, error.what());
  }
  std::cout << (failures == 0 ? "passed" : "FAILED") << "\n";
  return failures == 0 ? 0 : 1;
}
