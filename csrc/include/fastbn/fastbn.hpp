// fastbn for C++17 and later, header-only over fastbn.h, whose comments say what every function and field means.
//
// Arrays are spans, whose sizes are checked; graphs, programs and workspaces free themselves. A failure throws
// fastbn::Error. Without exceptions (-fno-exceptions, or FASTBN_NO_EXCEPTIONS defined before this is included)
// functions return fbn_status instead of nothing, and Value<T>, a status with a value, instead of T; last_error() has
// the text.
#ifndef FASTBN_FASTBN_HPP
#define FASTBN_FASTBN_HPP

#include <fastbn/fastbn.h>

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__cpp_exceptions) && !defined(FASTBN_NO_EXCEPTIONS)
#define FASTBN_EXCEPTIONS 1
#include <stdexcept>
#else
#define FASTBN_EXCEPTIONS 0
#endif

namespace fastbn {

// ------------------------------------------------------------------------------------------------------------- spans

// A pointer and a number of elements: of anything with data() and size(), of a C array, or of nothing ({}), which is
// how arguments that may be NULL are left out.
template <class T>
class Span {
 public:
  constexpr Span() = default;
  constexpr Span(T* data, size_t size) : data_(data), size_(size) {}
  template <size_t N>
  constexpr Span(T (&array)[N]) : data_(array), size_(N) {}
  template <class Container,
            class = std::enable_if_t<std::is_convertible_v<decltype(std::declval<Container&>().data()), T*>>>
  constexpr Span(Container&& container) : data_(container.data()), size_(container.size()) {}
  constexpr T* data() const { return data_; }
  constexpr size_t size() const { return size_; }
  constexpr bool empty() const { return size_ == 0; }
  constexpr T& operator[](size_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

// ------------------------------------------------------------------------------------------------------------ errors

namespace detail {
inline thread_local char message[256] = "";  // of a rule that was broken on this side of the C interface
}

// Text of the calling thread's last failure.
inline const char* last_error() { return detail::message[0] != '\0' ? detail::message : fbn_last_error(); }

#if FASTBN_EXCEPTIONS

class Error : public std::runtime_error {
 public:
  explicit Error(fbn_status status) : std::runtime_error(last_error()), status_(status) {}
  fbn_status status() const noexcept { return status_; }

 private:
  fbn_status status_;
};

using Result = void;
template <class T>
using Value = T;

#else

using Result = fbn_status;

// A value, or why there is none.
template <class T>
class [[nodiscard]] Value {
 public:
  Value(T value) : value_(std::move(value)) {}
  explicit Value(fbn_status status) : status_(status) {}
  fbn_status status() const { return status_; }
  explicit operator bool() const { return status_ == FBN_OK; }
  T& operator*() { return value_; }
  T* operator->() { return &value_; }

 private:
  fbn_status status_ = FBN_OK;
  T value_{};
};

#endif

namespace detail {

inline fbn_status broken_size(const char* operation, const char* name, int64_t wanted, size_t received) {
  std::snprintf(message, sizeof message, "%s: %s must hold %lld values. Received: %zu", operation, name,
                static_cast<long long>(wanted), received);
  return FBN_INVALID_VALUE;
}

// The status of a call of the C interface, whose own text holds from now on.
inline fbn_status called(fbn_status status) {
  if (status != FBN_OK) message[0] = '\0';
  return status;
}

inline Result finish(fbn_status status) {
#if FASTBN_EXCEPTIONS
  if (status != FBN_OK) throw Error(status);
#else
  return status;
#endif
}

template <class T>
Value<T> finish(fbn_status status, T value) {
#if FASTBN_EXCEPTIONS
  if (status != FBN_OK) throw Error(status);
  return value;
#else
  if (status != FBN_OK) return Value<T>(status);
  return Value<T>(std::move(value));
#endif
}

// Checks sizes one after another, and then calls; the first failure is the status.
// The product of sizes; -1 where one is negative or where it passes int64.
inline int64_t product(std::initializer_list<int64_t> sizes) {
  int64_t result = 1;
  for (const int64_t size : sizes) {
    if (size < 0) return -1;
    if (size == 0) result = 0;
  }
  if (result == 0) return 0;
  for (const int64_t size : sizes) {
    if (result > std::numeric_limits<int64_t>::max() / size) return -1;
    result *= size;
  }
  return result;
}

class Sizes {
 public:
  explicit Sizes(const char* operation) : operation_(operation) {}
  Sizes& also(fbn_status status) {
    if (status_ == FBN_OK) status_ = called(status);
    return *this;
  }
  template <class T>
  Sizes& is(const char* name, Span<T> span, int64_t wanted) {  // of no valid size (< 0): the call itself says why
    if (status_ == FBN_OK && wanted >= 0 && span.size() != static_cast<size_t>(wanted))
      status_ = broken_size(operation_, name, wanted, span.size());
    return *this;
  }
  template <class T>
  Sizes& is_or_empty(const char* name, Span<T> span, int64_t wanted) {
    return span.empty() ? *this : is(name, span, wanted);
  }
  template <class Call>
  fbn_status then(Call&& call) {
    return status_ != FBN_OK ? status_ : called(call());
  }
  fbn_status status() const { return status_; }

 private:
  const char* operation_;
  fbn_status status_ = FBN_OK;
};

template <class Descriptor>
Descriptor described() {
  Descriptor d{};
  d.struct_size = sizeof d;
  return d;
}

}  // namespace detail

// ------------------------------------------------------------------------------------------------- how a call is to
// run

// 64-byte aligned memory for calls to work in, freed at the end. reserve() keeps nothing of what was in it.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(size_t bytes) { reserve(bytes); }
  // False where there is not so much memory.
  bool reserve(size_t bytes) {
    if (bytes <= size_) return true;
    memory_.reset();
    size_ = (bytes + 63) / 64 * 64;
    memory_.reset(std::aligned_alloc(64, size_));
    if (memory_ == nullptr) size_ = 0;
    return memory_ != nullptr;
  }
  void* data() const { return memory_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

// fbn_exec with its size set: all defaults, unless told otherwise.
struct Exec : fbn_exec {
  Exec() : fbn_exec{} { struct_size = sizeof(fbn_exec); }
  explicit Exec(int32_t threads) : Exec() { num_threads = threads; }

  // Calls then allocate nothing, if it is as large as workspace_size() says.
  Exec& use(Workspace& memory) {
    workspace = memory.data();
    workspace_size = memory.size();
    return *this;
  }
  // The host's own threads: host(count, task) calls task(i, lane) for every i in [0, count) and returns when all are
  // done; lane, in [0, lanes), is never that of two tasks at the same time. `host` must outlive the calls.
  template <class Host>
  Exec& run_on(Host& host, int32_t lanes) {
    num_threads = lanes;
    parallel_for_host = const_cast<void*>(static_cast<const void*>(&host));
    parallel_for = [](void* object, int64_t count, fbn_task task, void* argument) {
      (*static_cast<Host*>(object))(count, [=](int64_t i, int32_t lane) { task(i, lane, argument); });
    };
    return *this;
  }
};

// Bytes of workspace that call(exec) needs: any function below with its arguments, of which only sizes are looked at.
template <class Call>
Value<size_t> workspace_size(Exec exec, Call&& call) {
  size_t needed = 0;
  exec.workspace_query = &needed;
#if FASTBN_EXCEPTIONS
  call(static_cast<const Exec&>(exec));
  return needed;
#else
  const fbn_status status = call(static_cast<const Exec&>(exec));
  return detail::finish(status, needed);
#endif
}

inline int32_t num_threads() { return fbn_get_num_threads(); }
inline Result set_num_threads(int32_t threads) { return detail::finish(detail::called(fbn_set_num_threads(threads))); }

// --------------------------------------------------------------------------------------------------------- operators
// Descriptors have their size and the usual strides; their other fields are set by name. Gradients that are left out
// ({}) are not computed.

struct Conv2d : fbn_conv2d {
  Conv2d() : fbn_conv2d{} {
    struct_size = sizeof(fbn_conv2d);
    stride_height = stride_width = dilation_height = dilation_width = groups = 1;
  }
  int64_t x_size() const { return detail::product({batch, height, width, in_channels}); }
  int64_t kernel_size() const {
    return groups > 0 ? detail::product({kernel_height, kernel_width, in_channels / groups, out_channels}) : -1;
  }
  // Extents of the result; the status is that of the C interface.
  fbn_status output_size(int64_t& out_height, int64_t& out_width) const {
    return fbn_conv2d_output_size(this, &out_height, &out_width);
  }
};

struct Pool2d : fbn_pool2d {
  Pool2d() : fbn_pool2d{} {
    struct_size = sizeof(fbn_pool2d);
    pool_height = pool_width = stride_height = stride_width = 2;
  }
  int64_t x_size() const { return detail::product({batch, height, width, channels}); }
  fbn_status output_size(int64_t& out_height, int64_t& out_width) const {
    return fbn_pool2d_output_size(this, &out_height, &out_width);
  }
};

struct Dense : fbn_dense {
  Dense() : fbn_dense{} { struct_size = sizeof(fbn_dense); }
  int64_t x_size() const { return detail::product({rows, in_features}); }
  int64_t y_size() const { return detail::product({rows, out_features}); }
  int64_t kernel_size() const { return detail::product({in_features, out_features}); }
};

struct BatchNorm : fbn_batch_norm {
  BatchNorm() : fbn_batch_norm{} {
    struct_size = sizeof(fbn_batch_norm);
    epsilon = 1e-3;
  }
  int64_t size() const { return detail::product({rows, channels}); }
};

inline Result conv2d_forward(const Conv2d& d, Span<const float> x, Span<const float> kernel, Span<const float> bias,
                             Span<float> y, const Exec& exec = {}) {
  int64_t height = 0, width = 0;
  return detail::finish(
      detail::Sizes("conv2d_forward")
          .also(d.output_size(height, width))
          .is("x", x, d.x_size())
          .is("kernel", kernel, d.kernel_size())
          .is_or_empty("bias", bias, d.out_channels)
          .is("y", y, detail::product({d.batch, height, width, d.out_channels}))
          .then([&] { return fbn_conv2d_forward(&d, x.data(), kernel.data(), bias.data(), y.data(), &exec); }));
}

// The kernel that a pass of this shape gets.
inline Value<std::string> conv2d_algorithm(const Conv2d& d, fbn_conv2d_pass pass) {
  const char* name = "";
  const fbn_status status = detail::called(fbn_conv2d_algorithm(&d, pass, &name, nullptr, 0));
  return detail::finish(status, std::string(name));
}

inline Result conv2d_backward(const Conv2d& d, Span<const float> dy, Span<const float> x, Span<const float> kernel,
                              Span<const float> y, Span<float> dx, Span<float> dkernel, Span<float> dbias,
                              const Exec& exec = {}) {
  int64_t height = 0, width = 0;
  detail::Sizes sizes("conv2d_backward");
  sizes.also(d.output_size(height, width));
  const int64_t y_size = detail::product({d.batch, height, width, d.out_channels});
  return detail::finish(sizes.is("dy", dy, y_size)
                            .is("x", x, d.x_size())
                            .is("kernel", kernel, d.kernel_size())
                            .is_or_empty("y", y, y_size)
                            .is_or_empty("dx", dx, d.x_size())
                            .is_or_empty("dkernel", dkernel, d.kernel_size())
                            .is_or_empty("dbias", dbias, d.out_channels)
                            .then([&] {
                              return fbn_conv2d_backward(&d, dy.data(), x.data(), kernel.data(), y.data(), dx.data(),
                                                         dkernel.data(), dbias.data(), &exec);
                            }));
}

inline Result dense_forward(const Dense& d, Span<const float> x, Span<const float> kernel, Span<const float> bias,
                            Span<float> y, const Exec& exec = {}) {
  return detail::finish(
      detail::Sizes("dense_forward")
          .is("x", x, d.x_size())
          .is("kernel", kernel, d.kernel_size())
          .is_or_empty("bias", bias, d.out_features)
          .is("y", y, d.y_size())
          .then([&] { return fbn_dense_forward(&d, x.data(), kernel.data(), bias.data(), y.data(), &exec); }));
}

inline Result dense_backward(const Dense& d, Span<const float> dy, Span<const float> x, Span<const float> kernel,
                             Span<const float> y, Span<float> dx, Span<float> dkernel, Span<float> dbias,
                             const Exec& exec = {}) {
  return detail::finish(detail::Sizes("dense_backward")
                            .is("dy", dy, d.y_size())
                            .is("x", x, d.x_size())
                            .is("kernel", kernel, d.kernel_size())
                            .is_or_empty("y", y, d.y_size())
                            .is_or_empty("dx", dx, d.x_size())
                            .is_or_empty("dkernel", dkernel, d.kernel_size())
                            .is_or_empty("dbias", dbias, d.out_features)
                            .then([&] {
                              return fbn_dense_backward(&d, dy.data(), x.data(), kernel.data(), y.data(), dx.data(),
                                                        dkernel.data(), dbias.data(), &exec);
                            }));
}

inline Result batch_norm_forward(const BatchNorm& d, Span<const float> x, Span<const float> gamma,
                                 Span<const float> beta, Span<const float> residual, Span<float> y, Span<double> mean,
                                 Span<double> variance, const Exec& exec = {}) {
  return detail::finish(detail::Sizes("batch_norm_forward")
                            .is("x", x, d.size())
                            .is_or_empty("gamma", gamma, d.channels)
                            .is_or_empty("beta", beta, d.channels)
                            .is_or_empty("residual", residual, d.size())
                            .is("y", y, d.size())
                            .is("mean", mean, d.channels)
                            .is("variance", variance, d.channels)
                            .then([&] {
                              return fbn_batch_norm_forward(&d, x.data(), gamma.data(), beta.data(), residual.data(),
                                                            y.data(), mean.data(), variance.data(), &exec);
                            }));
}

inline Result batch_norm_backward(const BatchNorm& d, Span<const float> dy, Span<const float> x,
                                  Span<const float> gamma, Span<const float> beta, Span<const double> mean,
                                  Span<const double> variance, Span<const float> y, Span<float> dx, Span<float> dgamma,
                                  Span<float> dbeta, Span<float> dresidual, const Exec& exec = {}) {
  return detail::finish(detail::Sizes("batch_norm_backward")
                            .is("dy", dy, d.size())
                            .is("x", x, d.size())
                            .is_or_empty("gamma", gamma, d.channels)
                            .is_or_empty("beta", beta, d.channels)
                            .is("mean", mean, d.channels)
                            .is("variance", variance, d.channels)
                            .is_or_empty("y", y, d.size())
                            .is_or_empty("dx", dx, d.size())
                            .is_or_empty("dgamma", dgamma, d.channels)
                            .is_or_empty("dbeta", dbeta, d.channels)
                            .is_or_empty("dresidual", dresidual, d.size())
                            .then([&] {
                              return fbn_batch_norm_backward(&d, dy.data(), x.data(), gamma.data(), beta.data(),
                                                             mean.data(), variance.data(), y.data(), dx.data(),
                                                             dgamma.data(), dbeta.data(), dresidual.data(), &exec);
                            }));
}

inline Result batch_norm_inference(const BatchNorm& d, Span<const float> x, Span<const float> gamma,
                                   Span<const float> beta, Span<const double> mean, Span<const double> variance,
                                   Span<const float> residual, Span<float> y, const Exec& exec = {}) {
  return detail::finish(detail::Sizes("batch_norm_inference")
                            .is("x", x, d.size())
                            .is_or_empty("gamma", gamma, d.channels)
                            .is_or_empty("beta", beta, d.channels)
                            .is("mean", mean, d.channels)
                            .is("variance", variance, d.channels)
                            .is_or_empty("residual", residual, d.size())
                            .is("y", y, d.size())
                            .then([&] {
                              return fbn_batch_norm_inference(&d, x.data(), gamma.data(), beta.data(), mean.data(),
                                                              variance.data(), residual.data(), y.data(), &exec);
                            }));
}

// Split-phase statistics: shards of a batch, merged in the order given. `total_rows`: of all shards (0: those of d).
inline Value<int64_t> batch_norm_chunk_rows(int64_t total_rows, int64_t channels) {
  int64_t rows = 0;
  const fbn_status status = detail::called(fbn_batch_norm_chunk_rows(total_rows, channels, &rows));
  return detail::finish(status, rows);
}

inline Result batch_norm_partial(const BatchNorm& d, Span<const float> x, int64_t total_rows, Span<double> mean,
                                 Span<double> m2, const Exec& exec = {}) {
  return detail::finish(
      detail::Sizes("batch_norm_partial")
          .is("x", x, d.size())
          .is("mean", mean, d.channels)
          .is("m2", m2, d.channels)
          .then([&] { return fbn_batch_norm_partial(&d, x.data(), total_rows, mean.data(), m2.data(), &exec); }));
}

inline Result batch_norm_merge(int64_t channels, Span<const int64_t> counts, Span<const double> means,
                               Span<const double> m2s, Span<double> mean, Span<double> variance) {
  const int64_t shards = static_cast<int64_t>(counts.size());
  return detail::finish(detail::Sizes("batch_norm_merge")
                            .is("means", means, detail::product({shards, channels}))
                            .is("m2s", m2s, detail::product({shards, channels}))
                            .is("mean", mean, channels)
                            .is("variance", variance, channels)
                            .then([&] {
                              return fbn_batch_norm_merge(shards, channels, counts.data(), means.data(), m2s.data(),
                                                          mean.data(), variance.data());
                            }));
}

inline Result batch_norm_backward_partial(const BatchNorm& d, Span<const float> dy, Span<const float> x,
                                          Span<const float> gamma, Span<const float> beta, Span<const double> mean,
                                          Span<const double> variance, Span<const float> y, int64_t total_rows,
                                          Span<double> sum_dy, Span<double> sum_dy_xc, const Exec& exec = {}) {
  return detail::finish(detail::Sizes("batch_norm_backward_partial")
                            .is("dy", dy, d.size())
                            .is("x", x, d.size())
                            .is_or_empty("gamma", gamma, d.channels)
                            .is_or_empty("beta", beta, d.channels)
                            .is("mean", mean, d.channels)
                            .is("variance", variance, d.channels)
                            .is_or_empty("y", y, d.size())
                            .is("sum_dy", sum_dy, d.channels)
                            .is("sum_dy_xc", sum_dy_xc, d.channels)
                            .then([&] {
                              return fbn_batch_norm_backward_partial(&d, dy.data(), x.data(), gamma.data(), beta.data(),
                                                                     mean.data(), variance.data(), y.data(), total_rows,
                                                                     sum_dy.data(), sum_dy_xc.data(), &exec);
                            }));
}

inline Result batch_norm_backward_merge(int64_t shards, int64_t channels, Span<const double> sums_dy,
                                        Span<const double> sums_dy_xc, Span<double> sum_dy, Span<double> sum_dy_xc) {
  return detail::finish(detail::Sizes("batch_norm_backward_merge")
                            .is("sums_dy", sums_dy, detail::product({shards, channels}))
                            .is("sums_dy_xc", sums_dy_xc, detail::product({shards, channels}))
                            .is("sum_dy", sum_dy, channels)
                            .is("sum_dy_xc", sum_dy_xc, channels)
                            .then([&] {
                              return fbn_batch_norm_backward_merge(shards, channels, sums_dy.data(), sums_dy_xc.data(),
                                                                   sum_dy.data(), sum_dy_xc.data());
                            }));
}

inline Result batch_norm_backward_apply(const BatchNorm& d, Span<const float> dy, Span<const float> x,
                                        Span<const float> gamma, Span<const float> beta, Span<const double> mean,
                                        Span<const double> variance, Span<const float> y, Span<const double> sum_dy,
                                        Span<const double> sum_dy_xc, int64_t total_rows, Span<float> dx,
                                        Span<float> dresidual, const Exec& exec = {}) {
  return detail::finish(detail::Sizes("batch_norm_backward_apply")
                            .is("dy", dy, d.size())
                            .is("x", x, d.size())
                            .is_or_empty("gamma", gamma, d.channels)
                            .is_or_empty("beta", beta, d.channels)
                            .is("mean", mean, d.channels)
                            .is("variance", variance, d.channels)
                            .is_or_empty("y", y, d.size())
                            .is("sum_dy", sum_dy, d.channels)
                            .is("sum_dy_xc", sum_dy_xc, d.channels)
                            .is_or_empty("dx", dx, d.size())
                            .is_or_empty("dresidual", dresidual, d.size())
                            .then([&] {
                              return fbn_batch_norm_backward_apply(&d, dy.data(), x.data(), gamma.data(), beta.data(),
                                                                   mean.data(), variance.data(), y.data(),
                                                                   sum_dy.data(), sum_dy_xc.data(), total_rows,
                                                                   dx.data(), dresidual.data(), &exec);
                            }));
}

// The index holds bytes, for windows of at most 256 cells; larger ones through fbn_max_pool2d_forward.
inline Result max_pool2d_forward(const Pool2d& d, Span<const float> x, Span<float> y, Span<uint8_t> index,
                                 const Exec& exec = {}) {
  int64_t height = 0, width = 0;
  detail::Sizes sizes("max_pool2d_forward");
  sizes.also(d.output_size(height, width));
  const int64_t y_size = detail::product({d.batch, height, width, d.channels});
  if (!index.empty())
    sizes.is("index", index,
             detail::product({y_size, fbn_pool2d_index_dtype(&d) == FBN_UINT8 ? 1 : int64_t{sizeof(int32_t)}}));
  return detail::finish(sizes.is("x", x, d.x_size()).is("y", y, y_size).then([&] {
    return fbn_max_pool2d_forward(&d, x.data(), y.data(), index.data(), &exec);
  }));
}

inline Result max_pool2d_backward(const Pool2d& d, Span<const float> dy, Span<const uint8_t> index, Span<float> dx,
                                  const Exec& exec = {}) {
  int64_t height = 0, width = 0;
  detail::Sizes sizes("max_pool2d_backward");
  sizes.also(d.output_size(height, width));
  const int64_t y_size = detail::product({d.batch, height, width, d.channels});
  return detail::finish(
      sizes.is("dy", dy, y_size)
          .is("index", index,
              detail::product({y_size, fbn_pool2d_index_dtype(&d) == FBN_UINT8 ? 1 : int64_t{sizeof(int32_t)}}))
          .is("dx", dx, d.x_size())
          .then([&] { return fbn_max_pool2d_backward(&d, dy.data(), index.data(), dx.data(), &exec); }));
}

inline Result avg_pool2d_forward(const Pool2d& d, Span<const float> x, Span<float> y, const Exec& exec = {}) {
  int64_t height = 0, width = 0;
  return detail::finish(detail::Sizes("avg_pool2d_forward")
                            .also(d.output_size(height, width))
                            .is("x", x, d.x_size())
                            .is("y", y, detail::product({d.batch, height, width, d.channels}))
                            .then([&] { return fbn_avg_pool2d_forward(&d, x.data(), y.data(), &exec); }));
}

inline Result avg_pool2d_backward(const Pool2d& d, Span<const float> dy, Span<float> dx, const Exec& exec = {}) {
  int64_t height = 0, width = 0;
  return detail::finish(detail::Sizes("avg_pool2d_backward")
                            .also(d.output_size(height, width))
                            .is("dy", dy, detail::product({d.batch, height, width, d.channels}))
                            .is("dx", dx, d.x_size())
                            .then([&] { return fbn_avg_pool2d_backward(&d, dy.data(), dx.data(), &exec); }));
}

inline Result global_avg_pool2d_forward(int64_t batch, int64_t pixels, int64_t channels, Span<const float> x,
                                        Span<float> y, const Exec& exec = {}) {
  return detail::finish(
      detail::Sizes("global_avg_pool2d_forward")
          .is("x", x, detail::product({batch, pixels, channels}))
          .is("y", y, detail::product({batch, channels}))
          .then([&] { return fbn_global_avg_pool2d_forward(batch, pixels, channels, x.data(), y.data(), &exec); }));
}

inline Result global_avg_pool2d_backward(int64_t batch, int64_t pixels, int64_t channels, Span<const float> dy,
                                         Span<float> dx, const Exec& exec = {}) {
  return detail::finish(
      detail::Sizes("global_avg_pool2d_backward")
          .is("dy", dy, detail::product({batch, channels}))
          .is("dx", dx, detail::product({batch, pixels, channels}))
          .then([&] { return fbn_global_avg_pool2d_backward(batch, pixels, channels, dy.data(), dx.data(), &exec); }));
}

// Over the last axis of (rows, columns); x and y may be one array.
inline Result activation_forward(fbn_activation activation, int64_t rows, int64_t columns, Span<const float> x,
                                 Span<float> y, float alpha = 0, const Exec& exec = {}) {
  return detail::finish(
      detail::Sizes("activation_forward")
          .is("x", x, detail::product({rows, columns}))
          .is("y", y, detail::product({rows, columns}))
          .then([&] { return fbn_activation_forward(activation, alpha, rows, columns, x.data(), y.data(), &exec); }));
}

inline Result activation_backward(fbn_activation activation, int64_t rows, int64_t columns, Span<const float> dy,
                                  Span<const float> y, Span<float> dx, float alpha = 0, const Exec& exec = {}) {
  return detail::finish(detail::Sizes("activation_backward")
                            .is("dy", dy, detail::product({rows, columns}))
                            .is("y", y, detail::product({rows, columns}))
                            .is("dx", dx, detail::product({rows, columns}))
                            .then([&] {
                              return fbn_activation_backward(activation, alpha, rows, columns, dy.data(), y.data(),
                                                             dx.data(), &exec);
                            }));
}

inline Result dropout_forward(double rate, uint64_t seed, Span<const float> x, Span<float> y, const Exec& exec = {}) {
  return detail::finish(detail::Sizes("dropout_forward").is("y", y, static_cast<int64_t>(x.size())).then([&] {
    return fbn_dropout_forward(rate, seed, static_cast<int64_t>(x.size()), x.data(), y.data(), &exec);
  }));
}

inline Result dropout_backward(double rate, uint64_t seed, Span<const float> dy, Span<float> dx,
                               const Exec& exec = {}) {
  return detail::finish(detail::Sizes("dropout_backward").is("dx", dx, static_cast<int64_t>(dy.size())).then([&] {
    return fbn_dropout_backward(rate, seed, static_cast<int64_t>(dy.size()), dy.data(), dx.data(), &exec);
  }));
}

namespace detail {
template <class Label>
constexpr int32_t label_dtype() {
  static_assert(std::is_same_v<Label, int32_t> || std::is_same_v<Label, float>,
                "labels are int32_t class numbers, or float rows of classes");
  return std::is_same_v<Label, int32_t> ? FBN_INT32 : FBN_FLOAT32;
}
}  // namespace detail

// Label: int32_t (rows) or float (rows, classes).
template <class Label>
Result softmax_cross_entropy_forward(int64_t rows, int64_t classes, Span<const float> logits, Span<const Label> labels,
                                     Span<float> loss, Span<float> probabilities, const Exec& exec = {}) {
  constexpr int32_t dtype = detail::label_dtype<Label>();
  return detail::finish(detail::Sizes("softmax_cross_entropy_forward")
                            .is("logits", logits, detail::product({rows, classes}))
                            .is("labels", labels, dtype == FBN_INT32 ? rows : detail::product({rows, classes}))
                            .is("loss", loss, rows)
                            .is("probabilities", probabilities, detail::product({rows, classes}))
                            .then([&] {
                              return fbn_softmax_cross_entropy_forward(rows, classes, logits.data(), labels.data(),
                                                                       dtype, loss.data(), probabilities.data(), &exec);
                            }));
}

template <class Label>
Result softmax_cross_entropy_backward(int64_t rows, int64_t classes, Span<const float> probabilities,
                                      Span<const Label> labels, float scale, Span<float> dlogits,
                                      const Exec& exec = {}) {
  constexpr int32_t dtype = detail::label_dtype<Label>();
  return detail::finish(detail::Sizes("softmax_cross_entropy_backward")
                            .is("probabilities", probabilities, detail::product({rows, classes}))
                            .is("labels", labels, dtype == FBN_INT32 ? rows : detail::product({rows, classes}))
                            .is("dlogits", dlogits, detail::product({rows, classes}))
                            .then([&] {
                              return fbn_softmax_cross_entropy_backward(rows, classes, probabilities.data(),
                                                                        labels.data(), dtype, scale, dlogits.data(),
                                                                        &exec);
                            }));
}

inline Result mean_squared_error_forward(int64_t rows, int64_t columns, Span<const float> predictions,
                                         Span<const float> targets, Span<float> loss, const Exec& exec = {}) {
  return detail::finish(detail::Sizes("mean_squared_error_forward")
                            .is("predictions", predictions, detail::product({rows, columns}))
                            .is("targets", targets, detail::product({rows, columns}))
                            .is("loss", loss, rows)
                            .then([&] {
                              return fbn_mean_squared_error_forward(rows, columns, predictions.data(), targets.data(),
                                                                    loss.data(), &exec);
                            }));
}

inline Result mean_squared_error_backward(int64_t rows, int64_t columns, Span<const float> predictions,
                                          Span<const float> targets, float scale, Span<float> dpredictions,
                                          const Exec& exec = {}) {
  return detail::finish(detail::Sizes("mean_squared_error_backward")
                            .is("predictions", predictions, detail::product({rows, columns}))
                            .is("targets", targets, detail::product({rows, columns}))
                            .is("dpredictions", dpredictions, detail::product({rows, columns}))
                            .then([&] {
                              return fbn_mean_squared_error_backward(rows, columns, predictions.data(), targets.data(),
                                                                     scale, dpredictions.data(), &exec);
                            }));
}

// -------------------------------------------------------------------------------------------------------- optimizers

// Formulas and defaults of Keras 3.
namespace optimizers {

inline fbn_optimizer sgd(double learning_rate = 0.01, double momentum = 0, bool nesterov = false) {
  fbn_optimizer d = detail::described<fbn_optimizer>();
  d.kind = FBN_SGD;
  d.learning_rate = learning_rate;
  d.momentum = momentum;
  d.nesterov = nesterov ? 1 : 0;
  return d;
}

inline fbn_optimizer rmsprop(double learning_rate = 0.001, double rho = 0.9, double momentum = 0, double epsilon = 1e-7,
                             bool centered = false) {
  fbn_optimizer d = detail::described<fbn_optimizer>();
  d.kind = FBN_RMSPROP;
  d.learning_rate = learning_rate;
  d.rho = rho;
  d.momentum = momentum;
  d.epsilon = epsilon;
  d.centered = centered ? 1 : 0;
  return d;
}

inline fbn_optimizer adam(double learning_rate = 0.001, double beta_1 = 0.9, double beta_2 = 0.999,
                          double epsilon = 1e-7, bool amsgrad = false) {
  fbn_optimizer d = detail::described<fbn_optimizer>();
  d.kind = FBN_ADAM;
  d.learning_rate = learning_rate;
  d.beta_1 = beta_1;
  d.beta_2 = beta_2;
  d.epsilon = epsilon;
  d.amsgrad = amsgrad ? 1 : 0;
  return d;
}

}  // namespace optimizers

// One update in place; `iteration` counts from 0, slots are as many as fbn_optimizer_slot_count() says.
inline Result optimizer_update(const fbn_optimizer& d, int64_t iteration, Span<float> weights,
                               Span<const float> gradient, Span<const Span<float>> slots, const Exec& exec = {}) {
  constexpr size_t kMost = 8;
  const int64_t size = static_cast<int64_t>(weights.size());
  detail::Sizes sizes("optimizer_update");
  sizes.is("gradient", gradient, size).is("slots", slots, fbn_optimizer_slot_count(&d));
  float* data[kMost] = {};
  for (size_t i = 0; sizes.status() == FBN_OK && i < slots.size() && i < kMost; ++i) {
    sizes.is("a slot", slots[i], size);
    data[i] = slots[i].data();
  }
  return detail::finish(sizes.then(
      [&] { return fbn_optimizer_update(&d, iteration, size, weights.data(), gradient.data(), data, &exec); }));
}

// ------------------------------------------------------------------------------------------------------------ layers

// Descriptions of layers, for Graph::add; what these functions do not take is set in the result's fields, by name. The
// name must live until the layer is added.
namespace layers {

struct Size {
  int64_t height, width;
};

inline fbn_layer kind(fbn_layer_kind kind, const char* name) {
  fbn_layer l = detail::described<fbn_layer>();
  l.kind = kind;
  l.name = name;
  return l;
}

// Extents of one sample: what is beyond FBN_MAX_RANK is refused by Graph::add.
inline fbn_layer shaped(fbn_layer_kind layer_kind, const char* name, std::initializer_list<int64_t> shape) {
  fbn_layer l = kind(layer_kind, name);
  for (const int64_t extent : shape)
    if (l.rank++ < FBN_MAX_RANK) l.shape[l.rank - 1] = extent;
  return l;
}

inline fbn_layer input(const char* name, std::initializer_list<int64_t> shape, fbn_dtype dtype = FBN_FLOAT32) {
  fbn_layer l = shaped(FBN_LAYER_INPUT, name, shape);
  l.dtype = dtype;
  return l;
}

inline fbn_layer conv2d(const char* name, int64_t filters, Size kernel, fbn_activation activation = FBN_LINEAR,
                        fbn_padding padding = FBN_PADDING_VALID) {
  fbn_layer l = kind(FBN_LAYER_CONV2D, name);
  l.conv = Conv2d();
  l.conv.out_channels = filters;
  l.conv.kernel_height = kernel.height;
  l.conv.kernel_width = kernel.width;
  l.conv.padding = padding;
  l.conv.activation = activation;
  l.use_bias = 1;
  return l;
}

inline fbn_layer dense(const char* name, int64_t units, fbn_activation activation = FBN_LINEAR) {
  fbn_layer l = kind(FBN_LAYER_DENSE, name);
  l.units = units;
  l.activation = activation;
  l.use_bias = 1;
  return l;
}

inline fbn_layer batch_norm(const char* name, double momentum = 0.99, double epsilon = 1e-3) {
  fbn_layer l = kind(FBN_LAYER_BATCH_NORM, name);
  l.momentum = momentum;
  l.epsilon = epsilon;
  l.center = l.scale = 1;
  return l;
}

inline fbn_layer activation(const char* name, fbn_activation activation, float alpha = 0) {
  fbn_layer l = kind(FBN_LAYER_ACTIVATION, name);
  l.activation = activation;
  l.alpha = alpha;
  return l;
}

inline fbn_layer pool2d(fbn_layer_kind layer_kind, const char* name, Size window, fbn_padding padding) {
  fbn_layer l = kind(layer_kind, name);
  l.pool = Pool2d();
  l.pool.pool_height = l.pool.stride_height = window.height;
  l.pool.pool_width = l.pool.stride_width = window.width;
  l.pool.padding = padding;
  return l;
}

inline fbn_layer max_pool2d(const char* name, Size window = {2, 2}, fbn_padding padding = FBN_PADDING_VALID) {
  return pool2d(FBN_LAYER_MAX_POOL2D, name, window, padding);
}

inline fbn_layer avg_pool2d(const char* name, Size window = {2, 2}, fbn_padding padding = FBN_PADDING_VALID) {
  return pool2d(FBN_LAYER_AVG_POOL2D, name, window, padding);
}

inline fbn_layer global_avg_pool2d(const char* name) { return kind(FBN_LAYER_GLOBAL_AVG_POOL2D, name); }

inline fbn_layer dropout(const char* name, double rate, uint64_t seed = 0) {
  fbn_layer l = kind(FBN_LAYER_DROPOUT, name);
  l.rate = rate;
  l.seed = seed;
  return l;
}

inline fbn_layer reshape(const char* name, std::initializer_list<int64_t> shape) {
  return shaped(FBN_LAYER_RESHAPE, name, shape);
}

// Graph::add fills the one extent in: that of its input.
inline fbn_layer flatten(const char* name) { return reshape(name, {0}); }

inline fbn_layer rescaling(const char* name, double scale, double offset = 0) {
  fbn_layer l = kind(FBN_LAYER_RESCALING, name);
  l.scale_factor = scale;
  l.offset = offset;
  return l;
}

inline fbn_layer add(const char* name) { return kind(FBN_LAYER_ADD, name); }
inline fbn_layer concatenate(const char* name) { return kind(FBN_LAYER_CONCATENATE, name); }

}  // namespace layers

class Graph {
 public:
  static Value<Graph> create() {
    fbn_graph* graph = nullptr;
    const fbn_status status = detail::called(fbn_graph_create(&graph));
    return detail::finish(status, Graph(graph));
  }
  Graph() = default;

  // Adds a layer behind `inputs` and returns its node.
  Value<int32_t> add(fbn_layer layer, std::initializer_list<int32_t> inputs) {
    fbn_status status = FBN_OK;
    for (const int32_t input : inputs)
      if (layer.num_inputs++ < FBN_MAX_INPUTS) layer.inputs[layer.num_inputs - 1] = input;
    if (layer.kind == FBN_LAYER_RESHAPE && layer.rank == 1 && layer.shape[0] == 0 && inputs.size() == 1)
      status = element_count(*inputs.begin(), layer.shape[0]);
    int32_t node = -1;
    if (status == FBN_OK) status = detail::called(fbn_graph_add(graph_.get(), &layer, &node));
    if (status == FBN_OK) {
      last_ = node;
      if (layer.kind == FBN_LAYER_INPUT) {
        input_dtype_ = layer.dtype;
        status = element_count(node, input_size_);
      }
    }
    return detail::finish(status, node);
  }
  // The same behind the layer that was added last; an input stands behind nothing.
  Value<int32_t> add(const fbn_layer& layer) {
    if (layer.kind == FBN_LAYER_INPUT) return add(layer, {});
    return add(layer, {last_});
  }

  Value<std::vector<int64_t>> shape(int32_t node) const {
    int32_t rank = 0;
    int64_t extents[FBN_MAX_RANK] = {};
    const fbn_status status = detail::called(fbn_graph_shape(graph_.get(), node, &rank, extents));
    return detail::finish(status, std::vector<int64_t>(extents, extents + rank));
  }
  int32_t last() const { return last_; }
  fbn_graph* get() const { return graph_.get(); }

 private:
  friend class Program;
  struct Destroy {
    void operator()(fbn_graph* graph) const { fbn_graph_destroy(graph); }
  };
  explicit Graph(fbn_graph* graph) : graph_(graph) {}
  fbn_status element_count(int32_t node, int64_t& count, int64_t* last_extent = nullptr) const {
    int32_t rank = 0;
    int64_t extents[FBN_MAX_RANK] = {};
    const fbn_status status = detail::called(fbn_graph_shape(graph_.get(), node, &rank, extents));
    if (status != FBN_OK) return status;
    count = 1;
    for (int32_t i = 0; i < rank; ++i) count *= extents[i];
    if (last_extent != nullptr) *last_extent = rank > 0 ? extents[rank - 1] : 1;
    return FBN_OK;
  }

  std::unique_ptr<fbn_graph, Destroy> graph_;
  int32_t last_ = -1;
  int32_t input_dtype_ = FBN_FLOAT32;
  int64_t input_size_ = 0;
};

// fbn_program_options with its size set: softmax cross-entropy on class numbers, Adam.
struct Options : fbn_program_options {
  explicit Options(int64_t batch, uint64_t program_seed = 0) : fbn_program_options{} {
    struct_size = sizeof(fbn_program_options);
    max_batch = batch;
    seed = program_seed;
    loss = FBN_LOSS_SOFTMAX_CROSS_ENTROPY;
    labels_dtype = FBN_INT32;
    optimizer = optimizers::adam();
  }
};

// A graph with weights, a loss and an optimizer. x holds whole rows of float or uint8_t, as the input layer says; y
// int32_t class numbers or float rows, as the options say. `index` names the rows of x and y that a call is about; {}
// means all of them, in order.
class Program {
 public:
  // `output`: the node whose value is the prediction.
  static Value<Program> create(const Graph& graph, int32_t output, const Options& options) {
    Program made;
    fbn_program* program = nullptr;
    fbn_status status = detail::called(fbn_program_create(graph.get(), output, &options, &program));
    made.program_.reset(program);
    int64_t classes = 1;
    if (status == FBN_OK) status = graph.element_count(output, made.output_size_, &classes);
    made.input_size_ = graph.input_size_;
    made.input_dtype_ = graph.input_dtype_;
    made.labels_dtype_ = options.labels_dtype;
    made.label_size_ = options.labels_dtype == FBN_INT32 ? made.output_size_ / classes : made.output_size_;
    return detail::finish(status, std::move(made));
  }
  Program() = default;

  // One training step.
  template <class X, class Y>
  Value<fbn_step_result> train(const X& x, const Y& y, Span<const int64_t> index = {}, const Exec& exec = {}) {
    return step("train", fbn_program_train, Span(x.data(), x.size()), Span(y.data(), y.size()), index, exec);
  }
  // Loss and counts in inference mode; no state changes.
  template <class X, class Y>
  Value<fbn_step_result> evaluate(const X& x, const Y& y, Span<const int64_t> index = {}, const Exec& exec = {}) {
    return step("evaluate", fbn_program_evaluate, Span(x.data(), x.size()), Span(y.data(), y.size()), index, exec);
  }
  // out: a row for each of the samples.
  template <class X>
  Result predict(const X& x, Span<float> out, Span<const int64_t> index = {}, const Exec& exec = {}) {
    int64_t n = 0;
    detail::Sizes sizes("predict");
    sizes.also(take_rows("predict", Span(x.data(), x.size()), index, n));
    return detail::finish(sizes.is("out", out, detail::product({n, output_size_})).then([&] {
      return fbn_program_predict(program_.get(), x.data(), index.data(), n, out.data(), &exec);
    }));
  }

  // "<layer>/kernel" and so on, in the order of the graph.
  std::vector<std::string> parameters() const {
    std::vector<std::string> names;
    for (int32_t i = 0; i < fbn_program_parameter_count(get()); ++i)
      names.emplace_back(fbn_program_parameter_name(get(), i));
    return names;
  }
  Value<std::vector<int64_t>> shape(const std::string& parameter) const {
    int32_t number = 0, rank = 0;
    int64_t extents[FBN_MAX_RANK] = {};
    fbn_status status = detail::called(fbn_program_find_parameter(get(), parameter.c_str(), &number));
    if (status == FBN_OK) status = detail::called(fbn_program_parameter_info(get(), number, &rank, extents, nullptr));
    return detail::finish(status, std::vector<int64_t>(extents, extents + rank));
  }
  // what: "value", "gradient" or an optimizer slot's name.
  Result get(const std::string& parameter, Span<float> out, const char* what = "value") const {
    return detail::finish(detail::called(
        fbn_program_get_by_name(get(), parameter.c_str(), what, out.data(), static_cast<int64_t>(out.size()))));
  }
  Value<std::vector<float>> get(const std::string& parameter, const char* what = "value") const {
    int32_t number = 0, rank = 0;
    int64_t extents[FBN_MAX_RANK] = {}, size = 1;
    fbn_status status = detail::called(fbn_program_find_parameter(get(), parameter.c_str(), &number));
    if (status == FBN_OK) status = detail::called(fbn_program_parameter_info(get(), number, &rank, extents, nullptr));
    for (int32_t i = 0; i < rank; ++i) size *= extents[i];
    std::vector<float> values(static_cast<size_t>(size));
    if (status == FBN_OK) status = detail::called(fbn_program_get(get(), number, what, values.data()));
    return detail::finish(status, std::move(values));
  }
  Result set(const std::string& parameter, Span<const float> values, const char* what = "value") {
    return detail::finish(detail::called(
        fbn_program_set_by_name(get(), parameter.c_str(), what, values.data(), static_cast<int64_t>(values.size()))));
  }

  int64_t iteration() const { return fbn_program_get_iteration(get()); }
  Result set_iteration(int64_t iteration) {
    return detail::finish(detail::called(fbn_program_set_iteration(get(), iteration)));
  }
  double learning_rate() const { return fbn_program_get_learning_rate(get()); }
  Result set_learning_rate(double learning_rate) {
    return detail::finish(detail::called(fbn_program_set_learning_rate(get(), learning_rate)));
  }
  // What was fused, stored and recomputed, phase by phase.
  Value<std::string> describe() const {
    size_t needed = 0;
    fbn_status status = detail::called(fbn_program_describe(get(), nullptr, 0, &needed));
    std::string text(needed, '\0');
    if (status == FBN_OK) status = detail::called(fbn_program_describe(get(), &text[0], text.size(), nullptr));
    if (!text.empty()) text.pop_back();
    return detail::finish(status, std::move(text));
  }
  fbn_program* get() const { return program_.get(); }

 private:
  struct Destroy {
    void operator()(fbn_program* program) const { fbn_program_destroy(program); }
  };

  fbn_status refuse(const char* operation, const char* rule, int64_t received) const {
    std::snprintf(detail::message, sizeof detail::message, "%s: %s. Received: %lld", operation, rule,
                  static_cast<long long>(received));
    return FBN_INVALID_VALUE;
  }

  // The number of samples that a call is about, once every one of them is known to lie in x.
  template <class T>
  fbn_status take_rows(const char* operation, Span<T> x, Span<const int64_t> index, int64_t& n) const {
    using Element = std::remove_const_t<T>;
    static_assert(std::is_same_v<Element, float> || std::is_same_v<Element, uint8_t>, "x holds float or uint8_t");
    if ((input_dtype_ == FBN_UINT8) != std::is_same_v<Element, uint8_t>)
      return refuse(operation, "the elements of x must be those of the input layer", int64_t{sizeof(Element)});
    const int64_t size = static_cast<int64_t>(x.size());
    if (input_size_ <= 0 || size % input_size_ != 0) return refuse(operation, "x must hold whole rows", size);
    const int64_t rows = size / input_size_;
    for (size_t i = 0; i < index.size(); ++i)
      if (index[i] < 0 || index[i] >= rows) return refuse(operation, "every index must be a row of x", index[i]);
    n = index.empty() ? rows : static_cast<int64_t>(index.size());
    return FBN_OK;
  }

  template <class Function, class X, class Y>
  Value<fbn_step_result> step(const char* operation, Function function, Span<X> x, Span<Y> y, Span<const int64_t> index,
                              const Exec& exec) {
    fbn_step_result result = detail::described<fbn_step_result>();
    int64_t n = 0;
    detail::Sizes sizes(operation);
    if (detail::label_dtype<std::remove_const_t<Y>>() != labels_dtype_) {
      const fbn_status status = refuse(operation, "the elements of y must be those of the options", labels_dtype_);
      return detail::finish(status, result);
    }
    const fbn_status rows = take_rows(operation, x, index, n);
    if (rows != FBN_OK) return detail::finish(rows, result);
    sizes.is("y", y, static_cast<int64_t>(x.size()) / input_size_ * label_size_);
    const fbn_status status =
        sizes.then([&] { return function(program_.get(), x.data(), y.data(), index.data(), n, &result, &exec); });
    return detail::finish(status, result);
  }

  std::unique_ptr<fbn_program, Destroy> program_;
  int64_t input_size_ = 0, output_size_ = 0, label_size_ = 0;
  int32_t input_dtype_ = FBN_FLOAT32, labels_dtype_ = FBN_FLOAT32;
};

}  // namespace fastbn

#endif  // FASTBN_FASTBN_HPP
