// XLA's foreign functions over fastbn's C interface: conv2d, dense and batch-norm, forward and backward.
//
// Buffers are XLA's own, nothing is copied. Tasks run on XLA's thread pool through fbn_exec.parallel_for, so that there
// is one pool in the process. Statistics of batch-norm are float64: they pass through JAX, which by default has no
// float64, as bytes of the shape (2, channels, 8): mean, then variance.
#include <fastbn/fastbn.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
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

bool describe(fbn_conv2d* d, F32 x, F32 kernel, Integers strides, Integers padding, Integers dilation, int64_t groups,
              int64_t activation) {
  const auto xs = x.dimensions(), ks = kernel.dimensions();
  if (xs.size() != 4 || ks.size() != 4 || strides.size() != 2 || padding.size() != 4 || dilation.size() != 2 ||
      groups < 1 || ks[2] * groups != xs[3])
    return false;
  *d = fbn_conv2d{};
  d->struct_size = sizeof *d;
  d->batch = xs[0], d->height = xs[1], d->width = xs[2], d->in_channels = xs[3];
  d->kernel_height = ks[0], d->kernel_width = ks[1], d->out_channels = ks[3];
  d->stride_height = strides.begin()[0], d->stride_width = strides.begin()[1];
  d->dilation_height = dilation.begin()[0], d->dilation_width = dilation.begin()[1];
  d->groups = groups;
  d->padding = FBN_PADDING_EXPLICIT;
  d->pad_top = padding.begin()[0], d->pad_bottom = padding.begin()[1];
  d->pad_left = padding.begin()[2], d->pad_right = padding.begin()[3];
  d->activation = static_cast<int32_t>(activation);
  return true;
}

ffi::Error bad_conv2d() {
  return ffi::Error::InvalidArgument(
      "conv2d: x must be (batch, height, width, in), kernel (height, width, in / groups, out)");
}

ffi::Error conv2d_forward(ffi::ThreadPool pool, F32 x, F32 kernel, F32 bias, F32Result y, Integers strides,
                          Integers padding, Integers dilation, int64_t groups, int64_t activation) {
  fbn_conv2d d;
  if (!describe(&d, x, kernel, strides, padding, dilation, groups, activation)) return bad_conv2d();
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_conv2d_forward(&d, x.typed_data(), kernel.typed_data(), bias.typed_data(), y->typed_data(), exec);
  });
}

ffi::Error conv2d_backward(ffi::ThreadPool pool, F32 dy, F32 x, F32 kernel, F32 y, F32Result dx, F32Result dkernel,
                           F32Result dbias, Integers strides, Integers padding, Integers dilation, int64_t groups,
                           int64_t activation) {
  fbn_conv2d d;
  if (!describe(&d, x, kernel, strides, padding, dilation, groups, activation)) return bad_conv2d();
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_conv2d_backward(&d, dy.typed_data(), x.typed_data(), kernel.typed_data(), y.typed_data(),
                               dx->typed_data(), dkernel->typed_data(), dbias->typed_data(), exec);
  });
}

// -------------------------------------------------------------------------------------------------------------- dense

fbn_dense describe(F32 x, F32 kernel, int64_t activation) {
  fbn_dense d{};
  d.struct_size = sizeof d;
  d.in_features = kernel.dimensions()[0];
  d.out_features = kernel.dimensions()[1];
  d.rows = x.dimensions()[0];
  d.activation = static_cast<int32_t>(activation);
  return d;
}

ffi::Error dense_forward(ffi::ThreadPool pool, F32 x, F32 kernel, F32 bias, F32Result y, int64_t activation) {
  const fbn_dense d = describe(x, kernel, activation);
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_dense_forward(&d, x.typed_data(), kernel.typed_data(), bias.typed_data(), y->typed_data(), exec);
  });
}

ffi::Error dense_backward(ffi::ThreadPool pool, F32 dy, F32 x, F32 kernel, F32 y, F32Result dx, F32Result dkernel,
                          F32Result dbias, int64_t activation) {
  const fbn_dense d = describe(x, kernel, activation);
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_dense_backward(&d, dy.typed_data(), x.typed_data(), kernel.typed_data(), y.typed_data(),
                              dx->typed_data(), dkernel->typed_data(), dbias->typed_data(), exec);
  });
}

// --------------------------------------------------------------------------------------------------------- batch-norm

// x: (rows, channels). A residual of no elements is none.
fbn_batch_norm describe(F32 x, bool residual, double epsilon, int64_t activation) {
  fbn_batch_norm d{};
  d.struct_size = sizeof d;
  d.rows = x.dimensions()[0];
  d.channels = x.dimensions()[1];
  d.epsilon = epsilon;
  d.activation = static_cast<int32_t>(activation);
  d.has_residual = residual;
  return d;
}

ffi::Error batch_norm_forward(ffi::ThreadPool pool, F32 x, F32 gamma, F32 beta, F32 residual, F32Result y,
                              BytesResult statistics, double epsilon, int64_t activation) {
  const bool added = residual.element_count() > 0;
  const fbn_batch_norm d = describe(x, added, epsilon, activation);
  double* mean = reinterpret_cast<double*>(statistics->untyped_data());
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_batch_norm_forward(&d, x.typed_data(), gamma.typed_data(), beta.typed_data(),
                                  added ? residual.typed_data() : nullptr, y->typed_data(), mean, mean + d.channels,
                                  exec);
  });
}

ffi::Error batch_norm_backward(ffi::ThreadPool pool, F32 dy, F32 x, F32 gamma, F32 beta, Bytes statistics, F32 y,
                               F32Result dx, F32Result dgamma, F32Result dbeta, F32Result dresidual, double epsilon,
                               int64_t activation) {
  const bool added = dresidual->element_count() > 0;
  const fbn_batch_norm d = describe(x, added, epsilon, activation);
  const double* mean = reinterpret_cast<const double*>(statistics.untyped_data());
  return run(pool, [&](const fbn_exec* exec) {
    return fbn_batch_norm_backward(&d, dy.typed_data(), x.typed_data(), gamma.typed_data(), beta.typed_data(), mean,
                                   mean + d.channels, y.typed_data(), dx->typed_data(), dgamma->typed_data(),
                                   dbeta->typed_data(), added ? dresidual->typed_data() : nullptr, exec);
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
