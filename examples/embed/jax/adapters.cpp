// XLA's foreign functions over fastbn's C interface: conv2d, dense and batch-norm, forward and backward.
//
// Buffers are XLA's own, nothing is copied. Tasks run on XLA's thread pool through fbn_exec.parallel_for, so that there
// is one pool in the process. Statistics of batch-norm are float64: they pass through JAX, which by default has no
// float64, as bytes of the shape (2, channels, 8): mean, then variance. XLA checks the number and the types of buffers,
// `Rules` their shapes: whoever calls these functions, nothing is read or written beyond a buffer.
#include <fastbn/fastbn.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <mutex>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using F32 = ffi::Buffer<ffi::F32>;
using F32Result = ffi::ResultBuffer<ffi::F32>;
using Bytes = ffi::Buffer<ffi::U8>;
using BytesResult = ffi::ResultBuffer<ffi::U8>;
using Integers = ffi::Span<const int64_t>;

ffi::Error result(fbn_status status) {
  if (status == FBN_OK) return ffi::Error::Success();
  const bool callers = status == FBN_INVALID_VALUE || status == FBN_INVALID_TYPE;
  return callers ? ffi::Error::InvalidArgument(fbn_last_error()) : ffi::Error::Internal(fbn_last_error());
}

// "(2, 3)", "(2,)": as Python writes shapes.
std::string text(Integers values) {
  std::string list;
  for (const int64_t value : values) list += (list.empty() ? "" : ", ") + std::to_string(value);
  return "(" + list + (values.size() == 1 ? ",)" : ")");
}

// What a call's buffers and attributes must be before the library gets their addresses. Each rule returns whether it
// holds; `broken` says which did not.
struct Rules {
  const char* operation;
  ffi::Error broken = ffi::Error::Success();

  bool refuse(const std::string& rule, const std::string& received) {
    broken = ffi::Error::InvalidArgument(std::string(operation) + ": " + rule + ". Received: " + received);
    return false;
  }
  bool rank(const char* name, Integers found, size_t rank) {
    return found.size() == rank ||
           refuse(std::string(name) + " must have rank " + std::to_string(rank), name + (".shape=" + text(found)));
  }
  bool shape(const char* name, Integers found, Integers wanted) {
    return found == wanted || refuse(name + (" must have shape " + text(wanted)), name + (".shape=" + text(found)));
  }
  bool shape(const char* name, Integers found, std::initializer_list<int64_t> wanted) {
    return shape(name, found, Integers(wanted.begin(), wanted.size()));
  }
  bool count(const char* name, Integers found, size_t count) {
    return found.size() == count || refuse(name + (" must be " + std::to_string(count)) + " integers", text(found));
  }
  bool taken(fbn_status status) {  // by a function of the library that operators share
    if (status == FBN_OK) return true;
    const std::string message = fbn_last_error();
    broken = ffi::Error::InvalidArgument(operation + message.substr(std::min(message.find(':'), message.size())));
    return false;
  }
};

// A number that is no activation stays none.
int32_t activation_code(int64_t activation) {
  using Limits = std::numeric_limits<int32_t>;
  return static_cast<int32_t>(std::clamp<int64_t>(activation, Limits::min(), Limits::max()));
}

// One call of the library: its tasks are numbers, taken in turn by the calling thread and by as many of the pool's
// threads as come in time. The calling thread takes part, so that the call ends even where the pool is busy.
struct Tasks {
  int64_t count;
  fbn_task run;
  void* argument;
  std::atomic<int64_t> next{0};
  std::atomic<int32_t> lanes{0};
  std::mutex mutex;
  std::condition_variable changed;
  int64_t done = 0;

  void work() {
    int64_t mine = 0;
    int32_t lane = -1;
    for (int64_t i; (i = next.fetch_add(1)) < count; ++mine) {
      if (lane < 0) lane = lanes.fetch_add(1);
      run(i, lane, argument);
    }
    if (mine == 0) return;  // came late: `argument` may be gone
    const std::lock_guard<std::mutex> lock(mutex);
    done += mine;
    changed.notify_all();
  }
};

struct Host {
  ffi::ThreadPool& pool;
  int32_t threads;
};

void parallel_for(void* host, int64_t count, fbn_task task, void* argument) {
  Host& h = *static_cast<Host*>(host);
  const auto tasks = std::make_shared<Tasks>();
  tasks->count = count;
  tasks->run = task;
  tasks->argument = argument;
  for (int64_t helper = 1; helper < std::min<int64_t>(count, h.threads); ++helper)
    h.pool.Schedule([tasks] { tasks->work(); });
  tasks->work();
  std::unique_lock<std::mutex> lock(tasks->mutex);
  tasks->changed.wait(lock, [&] { return tasks->done == count; });
}

template <class Call>
ffi::Error run(ffi::ThreadPool& pool, Call&& call) {
  Host host{pool, static_cast<int32_t>(std::clamp<int64_t>(pool.num_threads(), 1, fbn_get_num_threads()))};
  fbn_exec exec{};
  exec.struct_size = sizeof exec;
  exec.num_threads = host.threads;
  if (host.threads > 1) {
    exec.parallel_for = parallel_for;
    exec.parallel_for_host = &host;
  }
  return result(call(&exec));
}

// ------------------------------------------------------------------------------------------------------------- conv2d

bool describe(Rules& rules, fbn_conv2d* d, Integers x, Integers kernel, Integers y, Integers strides, Integers padding,
              Integers dilation, int64_t groups, int64_t activation) {
  if (!rules.rank("x", x, 4) || !rules.rank("kernel", kernel, 4) || !rules.count("strides", strides, 2) ||
      !rules.count("padding", padding, 4) || !rules.count("dilation", dilation, 2))
    return false;
  *d = fbn_conv2d{};
  d->struct_size = sizeof *d;
  d->batch = x[0], d->height = x[1], d->width = x[2], d->in_channels = x[3];
  d->kernel_height = kernel[0], d->kernel_width = kernel[1], d->out_channels = kernel[3];
  d->stride_height = strides[0], d->stride_width = strides[1];
  d->dilation_height = dilation[0], d->dilation_width = dilation[1];
  d->groups = groups;
  d->padding = FBN_PADDING_EXPLICIT;
  d->pad_top = padding[0], d->pad_bottom = padding[1], d->pad_left = padding[2], d->pad_right = padding[3];
  d->activation = activation_code(activation);
  int64_t height = 0, width = 0;
  return rules.taken(fbn_conv2d_output_size(d, &height, &width)) &&
         rules.shape("kernel", kernel, {kernel[0], kernel[1], x[3] / groups, kernel[3]}) &&
         rules.shape("y", y, {x[0], height, width, kernel[3]});
}

ffi::Error conv2d_forward(ffi::ThreadPool pool, F32 x, F32 kernel, F32 bias, F32Result y, Integers strides,
                          Integers padding, Integers dilation, int64_t groups, int64_t activation) {
  Rules rules{"conv2d_forward"};
  fbn_conv2d d;
  if (!describe(rules, &d, x.dimensions(), kernel.dimensions(), y->dimensions(), strides, padding, dilation, groups,
                activation) ||
      !rules.shape("bias", bias.dimensions(), {d.out_channels}))
    return rules.broken;
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_conv2d_forward(&d, x.typed_data(), kernel.typed_data(), bias.typed_data(), y->typed_data(), exec);
  });
}

ffi::Error conv2d_backward(ffi::ThreadPool pool, F32 dy, F32 x, F32 kernel, F32 y, F32Result dx, F32Result dkernel,
                           F32Result dbias, Integers strides, Integers padding, Integers dilation, int64_t groups,
                           int64_t activation) {
  Rules rules{"conv2d_backward"};
  fbn_conv2d d;
  if (!describe(rules, &d, x.dimensions(), kernel.dimensions(), y.dimensions(), strides, padding, dilation, groups,
                activation) ||
      !rules.shape("dy", dy.dimensions(), y.dimensions()) || !rules.shape("dx", dx->dimensions(), x.dimensions()) ||
      !rules.shape("dkernel", dkernel->dimensions(), kernel.dimensions()) ||
      !rules.shape("dbias", dbias->dimensions(), {d.out_channels}))
    return rules.broken;
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_conv2d_backward(&d, dy.typed_data(), x.typed_data(), kernel.typed_data(), y.typed_data(),
                               dx->typed_data(), dkernel->typed_data(), dbias->typed_data(), exec);
  });
}

// -------------------------------------------------------------------------------------------------------------- dense

bool describe(Rules& rules, fbn_dense* d, Integers x, Integers kernel, Integers y, int64_t activation) {
  if (!rules.rank("x", x, 2) || !rules.rank("kernel", kernel, 2)) return false;
  *d = fbn_dense{};
  d->struct_size = sizeof *d;
  d->rows = x[0], d->in_features = x[1], d->out_features = kernel[1];
  d->activation = activation_code(activation);
  return rules.shape("kernel", kernel, {x[1], kernel[1]}) && rules.shape("y", y, {x[0], kernel[1]});
}

ffi::Error dense_forward(ffi::ThreadPool pool, F32 x, F32 kernel, F32 bias, F32Result y, int64_t activation) {
  Rules rules{"dense_forward"};
  fbn_dense d;
  if (!describe(rules, &d, x.dimensions(), kernel.dimensions(), y->dimensions(), activation) ||
      !rules.shape("bias", bias.dimensions(), {d.out_features}))
    return rules.broken;
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_dense_forward(&d, x.typed_data(), kernel.typed_data(), bias.typed_data(), y->typed_data(), exec);
  });
}

ffi::Error dense_backward(ffi::ThreadPool pool, F32 dy, F32 x, F32 kernel, F32 y, F32Result dx, F32Result dkernel,
                          F32Result dbias, int64_t activation) {
  Rules rules{"dense_backward"};
  fbn_dense d;
  if (!describe(rules, &d, x.dimensions(), kernel.dimensions(), y.dimensions(), activation) ||
      !rules.shape("dy", dy.dimensions(), y.dimensions()) || !rules.shape("dx", dx->dimensions(), x.dimensions()) ||
      !rules.shape("dkernel", dkernel->dimensions(), kernel.dimensions()) ||
      !rules.shape("dbias", dbias->dimensions(), {d.out_features}))
    return rules.broken;
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_dense_backward(&d, dy.typed_data(), x.typed_data(), kernel.typed_data(), y.typed_data(),
                              dx->typed_data(), dkernel->typed_data(), dbias->typed_data(), exec);
  });
}

// --------------------------------------------------------------------------------------------------------- batch-norm

// x: (rows, channels). A residual of no rows is none.
bool describe(Rules& rules, fbn_batch_norm* d, Integers x, const char* name, Integers residual, Integers statistics,
              Integers y, double epsilon, int64_t activation) {
  if (!rules.rank("x", x, 2) || !rules.rank(name, residual, 2)) return false;
  *d = fbn_batch_norm{};
  d->struct_size = sizeof *d;
  d->rows = x[0], d->channels = x[1];
  d->epsilon = epsilon;
  d->activation = activation_code(activation);
  d->has_residual = residual[0] > 0;
  return rules.shape(name, residual, {d->has_residual ? x[0] : 0, x[1]}) &&
         rules.shape("statistics", statistics, {2, x[1], sizeof(double)}) && rules.shape("y", y, x);
}

ffi::Error batch_norm_forward(ffi::ThreadPool pool, F32 x, F32 gamma, F32 beta, F32 residual, F32Result y,
                              BytesResult statistics, double epsilon, int64_t activation) {
  Rules rules{"batch_norm_forward"};
  fbn_batch_norm d;
  if (!describe(rules, &d, x.dimensions(), "residual", residual.dimensions(), statistics->dimensions(), y->dimensions(),
                epsilon, activation) ||
      !rules.shape("gamma", gamma.dimensions(), {d.channels}) || !rules.shape("beta", beta.dimensions(), {d.channels}))
    return rules.broken;
  double* mean = reinterpret_cast<double*>(statistics->untyped_data());
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_batch_norm_forward(&d, x.typed_data(), gamma.typed_data(), beta.typed_data(),
                                  d.has_residual ? residual.typed_data() : nullptr, y->typed_data(), mean,
                                  mean + d.channels, exec);
  });
}

ffi::Error batch_norm_backward(ffi::ThreadPool pool, F32 dy, F32 x, F32 gamma, F32 beta, Bytes statistics, F32 y,
                               F32Result dx, F32Result dgamma, F32Result dbeta, F32Result dresidual, double epsilon,
                               int64_t activation) {
  Rules rules{"batch_norm_backward"};
  fbn_batch_norm d;
  if (!describe(rules, &d, x.dimensions(), "dresidual", dresidual->dimensions(), statistics.dimensions(),
                y.dimensions(), epsilon, activation) ||
      !rules.shape("gamma", gamma.dimensions(), {d.channels}) ||
      !rules.shape("beta", beta.dimensions(), {d.channels}) || !rules.shape("dy", dy.dimensions(), x.dimensions()) ||
      !rules.shape("dx", dx->dimensions(), x.dimensions()) ||
      !rules.shape("dgamma", dgamma->dimensions(), {d.channels}) ||
      !rules.shape("dbeta", dbeta->dimensions(), {d.channels}))
    return rules.broken;
  const double* mean = reinterpret_cast<const double*>(statistics.untyped_data());
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_batch_norm_backward(&d, dy.typed_data(), x.typed_data(), gamma.typed_data(), beta.typed_data(), mean,
                                   mean + d.channels, y.typed_data(), dx->typed_data(), dgamma->typed_data(),
                                   dbeta->typed_data(), d.has_residual ? dresidual->typed_data() : nullptr, exec);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastbn_conv2d_forward, conv2d_forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()  // x
                                  .Arg<F32>()  // kernel
                                  .Arg<F32>()  // bias
                                  .Ret<F32>()  // y
                                  .Attr<Integers>("strides")
                                  .Attr<Integers>("padding")
                                  .Attr<Integers>("dilation")
                                  .Attr<int64_t>("groups")
                                  .Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(fastbn_conv2d_backward, conv2d_backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()  // dy
                                  .Arg<F32>()  // x
                                  .Arg<F32>()  // kernel
                                  .Arg<F32>()  // y
                                  .Ret<F32>()  // dx
                                  .Ret<F32>()  // dkernel
                                  .Ret<F32>()  // dbias
                                  .Attr<Integers>("strides")
                                  .Attr<Integers>("padding")
                                  .Attr<Integers>("dilation")
                                  .Attr<int64_t>("groups")
                                  .Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(fastbn_dense_forward, dense_forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()  // x
                                  .Arg<F32>()  // kernel
                                  .Arg<F32>()  // bias
                                  .Ret<F32>()  // y
                                  .Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(fastbn_dense_backward, dense_backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()  // dy
                                  .Arg<F32>()  // x
                                  .Arg<F32>()  // kernel
                                  .Arg<F32>()  // y
                                  .Ret<F32>()  // dx
                                  .Ret<F32>()  // dkernel
                                  .Ret<F32>()  // dbias
                                  .Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(fastbn_batch_norm_forward, batch_norm_forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()    // x
                                  .Arg<F32>()    // gamma
                                  .Arg<F32>()    // beta
                                  .Arg<F32>()    // residual
                                  .Ret<F32>()    // y
                                  .Ret<Bytes>()  // statistics
                                  .Attr<double>("epsilon")
                                  .Attr<int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(fastbn_batch_norm_backward, batch_norm_backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()    // dy
                                  .Arg<F32>()    // x
                                  .Arg<F32>()    // gamma
                                  .Arg<F32>()    // beta
                                  .Arg<Bytes>()  // statistics
                                  .Arg<F32>()    // y
                                  .Ret<F32>()    // dx
                                  .Ret<F32>()    // dgamma
                                  .Ret<F32>()    // dbeta
                                  .Ret<F32>()    // dresidual
                                  .Attr<double>("epsilon")
                                  .Attr<int64_t>("activation"));
