// An operator that is given a workspace allocates nothing, even the first time; neither does a step that has run once:
// training, evaluation and prediction, whole and ragged batches, on one thread and on several. The allocator's
// functions are taken over and every call is counted, on any thread.
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "networks.hpp"

extern "C" {
// glibc's own
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {

std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};

void count() {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

extern "C" {
void* malloc(size_t size) {
  count();
  return __libc_malloc(size);
}
void* calloc(size_t number, size_t size) {
  count();
  return __libc_calloc(number, size);
}
void* realloc(void* pointer, size_t size) {
  count();
  return __libc_realloc(pointer, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  count();
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** pointer, size_t alignment, size_t size) {
  count();
  *pointer = __libc_memalign(alignment, size);
  return *pointer == nullptr ? ENOMEM : 0;
}
}

namespace {

template <class Body>
int64_t allocations_of(Body&& body) {
  allocations = 0;
  counting = true;
  body();
  counting = false;
  return allocations;
}

void test_counting() {
  CHECK(allocations_of([] { std::vector<int> v(100); }) == 1);
  CHECK(allocations_of([] { std::free(std::aligned_alloc(64, 4096)); }) == 1);
}

using Call = std::function<fbn_status(const fbn_exec*)>;

template <class Descriptor>
Descriptor described() {
  Descriptor d{};
  d.struct_size = sizeof d;
  return d;
}

// Every operator, on arrays large enough for several threads.
struct Operators {
  static constexpr int64_t kRows = 256, kColumns = 64;
  std::vector<float> a = std::vector<float>(1 << 18, 0.5f), b = a, c = a, out = a, out2 = a, out3 = a;
  std::vector<double> d1 = std::vector<double>(1024, 0.25), d2 = std::vector<double>(1024, 1.0), d3 = d1, d4 = d1;
  std::vector<int32_t> labels = std::vector<int32_t>(kRows, 1);
  std::vector<uint8_t> index = std::vector<uint8_t>(1 << 18);
  std::vector<std::pair<std::string, Call>> calls;

  fbn_conv2d conv(int64_t in, int64_t filters, int64_t groups, int32_t activation) const {
    fbn_conv2d d = described<fbn_conv2d>();
    d.batch = 4;
    d.height = d.width = 16;
    d.in_channels = in;
    d.out_channels = filters;
    d.kernel_height = d.kernel_width = 3;
    d.stride_height = d.stride_width = d.dilation_height = d.dilation_width = 1;
    d.groups = groups;
    d.padding = FBN_PADDING_SAME;
    d.activation = activation;
    return d;
  }

  Operators() {
    for (const fbn_conv2d& d : {conv(3, 8, 1, FBN_RELU), conv(32, 32, 1, FBN_RELU), conv(32, 32, 32, FBN_LINEAR),
                                conv(32, 32, 2, FBN_SIGMOID)}) {
      calls.emplace_back("conv2d_forward", [this, d](const fbn_exec* e) {
        return fbn_conv2d_forward(&d, a.data(), b.data(), c.data(), out.data(), e);
      });
      calls.emplace_back("conv2d_backward", [this, d](const fbn_exec* e) {
        return fbn_conv2d_backward(&d, a.data(), b.data(), c.data(), a.data(), out.data(), out2.data(), out3.data(), e);
      });
    }
    fbn_dense dense = described<fbn_dense>();
    dense.rows = kRows;
    dense.in_features = dense.out_features = kColumns;
    dense.activation = FBN_TANH;
    calls.emplace_back("dense_forward", [this, dense](const fbn_exec* e) {
      return fbn_dense_forward(&dense, a.data(), b.data(), c.data(), out.data(), e);
    });
    calls.emplace_back("dense_backward", [this, dense](const fbn_exec* e) {
      return fbn_dense_backward(&dense, a.data(), b.data(), c.data(), a.data(), out.data(), out2.data(), out3.data(),
                                e);
    });
    fbn_batch_norm bn = described<fbn_batch_norm>();
    bn.rows = 4096;
    bn.channels = kColumns;
    bn.epsilon = 1e-3;
    bn.activation = FBN_RELU;
    calls.emplace_back("batch_norm_forward", [this, bn](const fbn_exec* e) {
      return fbn_batch_norm_forward(&bn, a.data(), b.data(), c.data(), nullptr, out.data(), d3.data(), d4.data(), e);
    });
    calls.emplace_back("batch_norm_backward", [this, bn](const fbn_exec* e) {
      return fbn_batch_norm_backward(&bn, a.data(), b.data(), c.data(), c.data(), d1.data(), d2.data(), a.data(),
                                     out.data(), out2.data(), out3.data(), nullptr, e);
    });
    calls.emplace_back("batch_norm_inference", [this, bn](const fbn_exec* e) {
      return fbn_batch_norm_inference(&bn, a.data(), b.data(), c.data(), d1.data(), d2.data(), nullptr, out.data(), e);
    });
    calls.emplace_back("batch_norm_partial", [this, bn](const fbn_exec* e) {
      return fbn_batch_norm_partial(&bn, a.data(), 0, d3.data(), d4.data(), e);
    });
    calls.emplace_back("batch_norm_backward_partial", [this, bn](const fbn_exec* e) {
      return fbn_batch_norm_backward_partial(&bn, a.data(), b.data(), c.data(), c.data(), d1.data(), d2.data(),
                                             a.data(), 0, d3.data(), d4.data(), e);
    });
    calls.emplace_back("batch_norm_backward_apply", [this, bn](const fbn_exec* e) {
      return fbn_batch_norm_backward_apply(&bn, a.data(), b.data(), c.data(), c.data(), d1.data(), d2.data(), a.data(),
                                           d1.data(), d1.data(), bn.rows, out.data(), nullptr, e);
    });
    fbn_pool2d pool = described<fbn_pool2d>();
    pool.batch = 4;
    pool.height = pool.width = 32;
    pool.channels = kColumns;
    pool.pool_height = pool.pool_width = pool.stride_height = pool.stride_width = 2;
    calls.emplace_back("max_pool2d_forward", [this, pool](const fbn_exec* e) {
      return fbn_max_pool2d_forward(&pool, a.data(), out.data(), index.data(), e);
    });
    calls.emplace_back("max_pool2d_backward", [this, pool](const fbn_exec* e) {
      return fbn_max_pool2d_backward(&pool, a.data(), index.data(), out.data(), e);
    });
    calls.emplace_back("avg_pool2d_forward", [this, pool](const fbn_exec* e) {
      return fbn_avg_pool2d_forward(&pool, a.data(), out.data(), e);
    });
    calls.emplace_back("avg_pool2d_backward", [this, pool](const fbn_exec* e) {
      return fbn_avg_pool2d_backward(&pool, a.data(), out.data(), e);
    });
    calls.emplace_back("global_avg_pool2d_forward", [this](const fbn_exec* e) {
      return fbn_global_avg_pool2d_forward(16, 64, kColumns, a.data(), out.data(), e);
    });
    calls.emplace_back("global_avg_pool2d_backward", [this](const fbn_exec* e) {
      return fbn_global_avg_pool2d_backward(16, 64, kColumns, a.data(), out.data(), e);
    });
    for (const int32_t activation : {FBN_LEAKY_RELU, FBN_SIGMOID, FBN_SOFTMAX}) {
      calls.emplace_back("activation_forward", [this, activation](const fbn_exec* e) {
        return fbn_activation_forward(activation, 0.1f, 4096, kColumns, a.data(), out.data(), e);
      });
      calls.emplace_back("activation_backward", [this, activation](const fbn_exec* e) {
        return fbn_activation_backward(activation, 0.1f, 4096, kColumns, a.data(), b.data(), out.data(), e);
      });
    }
    calls.emplace_back("dropout_forward", [this](const fbn_exec* e) {
      return fbn_dropout_forward(0.5, 7, 1 << 18, a.data(), out.data(), e);
    });
    calls.emplace_back("dropout_backward", [this](const fbn_exec* e) {
      return fbn_dropout_backward(0.5, 7, 1 << 18, a.data(), out.data(), e);
    });
    calls.emplace_back("softmax_cross_entropy_forward", [this](const fbn_exec* e) {
      return fbn_softmax_cross_entropy_forward(kRows, 10, a.data(), labels.data(), FBN_INT32, out.data(), out2.data(),
                                               e);
    });
    calls.emplace_back("softmax_cross_entropy_backward", [this](const fbn_exec* e) {
      return fbn_softmax_cross_entropy_backward(kRows, 10, a.data(), labels.data(), FBN_INT32, 1, out.data(), e);
    });
    calls.emplace_back("mean_squared_error_forward", [this](const fbn_exec* e) {
      return fbn_mean_squared_error_forward(kRows, kColumns, a.data(), b.data(), out.data(), e);
    });
    calls.emplace_back("mean_squared_error_backward", [this](const fbn_exec* e) {
      return fbn_mean_squared_error_backward(kRows, kColumns, a.data(), b.data(), 1, out.data(), e);
    });
    for (const int32_t kind : {FBN_SGD, FBN_RMSPROP, FBN_ADAM}) {
      fbn_optimizer rule = described<fbn_optimizer>();
      rule.kind = kind;
      rule.learning_rate = 0.1;
      rule.rho = rule.beta_1 = rule.beta_2 = 0.9;
      rule.epsilon = 1e-7;
      calls.emplace_back("optimizer_update", [this, rule](const fbn_exec* e) {
        float* slots[] = {out2.data(), out3.data()};
        return fbn_optimizer_update(&rule, 0, 1 << 18, out.data(), a.data(), slots, e);
      });
    }
  }
};

// Before anything else has run on one thread, so that no memory kept from other calls can help.
void test_operators(int32_t threads) {
  Operators operators;
  for (const auto& entry : operators.calls) {
    const auto& name = entry.first;
    const auto& call = entry.second;
    size_t needed = 0;
    fbn_exec exec = described<fbn_exec>();
    exec.num_threads = threads;
    exec.workspace_query = &needed;
    const bool queried = call(&exec) == FBN_OK;
    exec.workspace_query = nullptr;
    std::unique_ptr<void, void (*)(void*)> workspace(std::aligned_alloc(64, needed / 64 * 64 + 64), std::free);
    exec.workspace = workspace.get();
    exec.workspace_size = needed;
    bool passed = true;
    const int64_t allocated = allocations_of([&] { passed = call(&exec) == FBN_OK; });
    if (!queried || !passed || allocated != 0)
      std::fprintf(stderr, "%s on %d threads: %lld allocations, %s\n", name.c_str(), threads,
                   static_cast<long long>(allocated), fbn_last_error());
    CHECK(queried && passed && allocated == 0);
  }
}

// The OpenMP runtime allocates when it opens its first team of a size.
void open_team(int32_t threads) {
  std::vector<float> x(1 << 20);
  fbn_exec exec = described<fbn_exec>();
  exec.num_threads = threads;
  CHECK(fbn_activation_forward(FBN_RELU, 0, 1, 1 << 20, x.data(), x.data(), &exec) == FBN_OK);
}

void test_steps(int32_t threads) {
  constexpr int64_t kBatch = 64, kRows = 4 * kBatch;
  fbn_exec exec{};
  exec.struct_size = sizeof exec;
  exec.num_threads = threads;
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> x(static_cast<size_t>(kRows * networks::kImageSize));
  for (float& value : x) value = uniform(random);
  std::vector<int32_t> y(kRows);
  std::vector<int64_t> order(kRows);
  for (size_t i = 0; i < kRows; ++i) {
    y[i] = static_cast<int32_t>(i % networks::kImageClasses);
    order[i] = static_cast<int64_t>((i * 37) % kRows);
  }
  std::vector<float> out(static_cast<size_t>(kRows * networks::kImageClasses));
  fbn_program* program = networks::image_program(kBatch);
  fbn_step_result result = networks::empty_result();
  const auto everything = [&] {
    for (int64_t begin = 0; begin < kRows; begin += kBatch)
      CHECK(fbn_program_train(program, x.data(), y.data(), order.data() + begin, kBatch, &result, &exec) == FBN_OK);
    CHECK(fbn_program_train(program, x.data(), y.data(), nullptr, kBatch - 7, &result, &exec) == FBN_OK);
    CHECK(fbn_program_evaluate(program, x.data(), y.data(), nullptr, kRows, &result, &exec) == FBN_OK);
    CHECK(fbn_program_predict(program, x.data(), nullptr, kRows, out.data(), &exec) == FBN_OK);
  };
  everything();
  CHECK(allocations_of(everything) == 0);
  fbn_program_destroy(program);
}

}  // namespace

int main() {
  test_counting();
  test_operators(1);
  for (const int32_t threads : {2, 3}) {
    open_team(threads);
    test_operators(threads);
  }
  for (const int32_t threads : {1, 2, 3}) test_steps(threads);
  return check::report("allocations_test");
}
