// conv2d, dense and batch-norm at addresses, for hosts that own the memory and have checked what lies there
// (fastbn.torch). An address of 0 is NULL. The GIL is released; Python's signal handlers run while a call does.
#include "arrays.hpp"
#include "descriptors.hpp"
#include "register.hpp"

namespace fastbn_python {
namespace {

using Address = uintptr_t;
using Shape4 = std::array<int64_t, 4>;

float* f32(Address address) { return reinterpret_cast<float*>(address); }
double* f64(Address address) { return reinterpret_cast<double*>(address); }

template <typename Call>
void run(int32_t threads, Call&& call) {
  fbn_exec exec = *interruptible();
  exec.num_threads = threads;
  fbn_status status;
  {
    py::gil_scoped_release release;
    status = call(&exec);
  }
  check(status);
}

void conv2d_forward_at(Shape4 x_shape, Shape4 kernel_shape, Pair strides, Pair dilation, int64_t groups, Pads pads,
                       int32_t activation, float alpha, Address x, Address kernel, Address bias, Address y,
                       int32_t threads) {
  const fbn_conv2d d = conv2d_descriptor(x_shape.data(), kernel_shape.data(), strides, dilation, groups,
                                         FBN_PADDING_EXPLICIT, pads, activation, alpha, FBN_ALGORITHM_AUTO);
  run(threads,
      [&](const fbn_exec* exec) { return fbn_conv2d_forward(&d, f32(x), f32(kernel), f32(bias), f32(y), exec); });
}

void conv2d_backward_at(Shape4 x_shape, Shape4 kernel_shape, Pair strides, Pair dilation, int64_t groups, Pads pads,
                        int32_t activation, float alpha, Address dy, Address x, Address kernel, Address y, Address dx,
                        Address dkernel, Address dbias, int32_t threads) {
  const fbn_conv2d d = conv2d_descriptor(x_shape.data(), kernel_shape.data(), strides, dilation, groups,
                                         FBN_PADDING_EXPLICIT, pads, activation, alpha, FBN_ALGORITHM_AUTO);
  run(threads, [&](const fbn_exec* exec) {
    return fbn_conv2d_backward(&d, f32(dy), f32(x), f32(kernel), f32(y), f32(dx), f32(dkernel), f32(dbias), exec);
  });
}

void dense_forward_at(int64_t rows, Pair kernel_shape, int32_t activation, float alpha, Address x, Address kernel,
                      Address bias, Address y, int32_t threads) {
  const fbn_dense d = dense_descriptor(rows, kernel_shape.data(), activation, alpha);
  run(threads,
      [&](const fbn_exec* exec) { return fbn_dense_forward(&d, f32(x), f32(kernel), f32(bias), f32(y), exec); });
}

void dense_backward_at(int64_t rows, Pair kernel_shape, int32_t activation, float alpha, Address dy, Address x,
                       Address kernel, Address y, Address dx, Address dkernel, Address dbias, int32_t threads) {
  const fbn_dense d = dense_descriptor(rows, kernel_shape.data(), activation, alpha);
  run(threads, [&](const fbn_exec* exec) {
    return fbn_dense_backward(&d, f32(dy), f32(x), f32(kernel), f32(y), f32(dx), f32(dkernel), f32(dbias), exec);
  });
}

void batch_norm_forward_at(Pair shape, double epsilon, int32_t activation, float alpha, Address x, Address gamma,
                           Address beta, Address residual, Address y, Address mean, Address variance, int32_t threads) {
  const fbn_batch_norm d = batch_norm_descriptor(shape.data(), epsilon, activation, alpha, residual != 0, false);
  run(threads, [&](const fbn_exec* exec) {
    return fbn_batch_norm_forward(&d, f32(x), f32(gamma), f32(beta), f32(residual), f32(y), f64(mean), f64(variance),
                                  exec);
  });
}

void batch_norm_inference_at(Pair shape, double epsilon, int32_t activation, float alpha, Address x, Address gamma,
                             Address beta, Address mean, Address variance, Address residual, Address y,
                             int32_t threads) {
  const fbn_batch_norm d = batch_norm_descriptor(shape.data(), epsilon, activation, alpha, residual != 0, false);
  run(threads, [&](const fbn_exec* exec) {
    return fbn_batch_norm_inference(&d, f32(x), f32(gamma), f32(beta), f64(mean), f64(variance), f32(residual), f32(y),
                                    exec);
  });
}

void batch_norm_backward_at(Pair shape, double epsilon, int32_t activation, float alpha, bool residual, bool frozen,
                            Address dy, Address x, Address gamma, Address beta, Address mean, Address variance,
                            Address y, Address dx, Address dgamma, Address dbeta, Address dresidual, int32_t threads) {
  const fbn_batch_norm d = batch_norm_descriptor(shape.data(), epsilon, activation, alpha, residual, frozen);
  run(threads, [&](const fbn_exec* exec) {
    return fbn_batch_norm_backward(&d, f32(dy), f32(x), f32(gamma), f32(beta), f64(mean), f64(variance), f32(y),
                                   f32(dx), f32(dgamma), f32(dbeta), f32(dresidual), exec);
  });
}

}  // namespace

void register_addresses(py::module_& m) {
  m.def("conv2d_forward_at", &conv2d_forward_at, py::arg("x_shape"), py::arg("kernel_shape"), py::arg("strides"),
        py::arg("dilation"), py::arg("groups"), py::arg("pads"), py::arg("activation"), py::arg("alpha"), py::arg("x"),
        py::arg("kernel"), py::arg("bias"), py::arg("y"), py::arg("threads"));
  m.def("conv2d_backward_at", &conv2d_backward_at, py::arg("x_shape"), py::arg("kernel_shape"), py::arg("strides"),
        py::arg("dilation"), py::arg("groups"), py::arg("pads"), py::arg("activation"), py::arg("alpha"), py::arg("dy"),
        py::arg("x"), py::arg("kernel"), py::arg("y"), py::arg("dx"), py::arg("dkernel"), py::arg("dbias"),
        py::arg("threads"));
  m.def("dense_forward_at", &dense_forward_at, py::arg("rows"), py::arg("kernel_shape"), py::arg("activation"),
        py::arg("alpha"), py::arg("x"), py::arg("kernel"), py::arg("bias"), py::arg("y"), py::arg("threads"));
  m.def("dense_backward_at", &dense_backward_at, py::arg("rows"), py::arg("kernel_shape"), py::arg("activation"),
        py::arg("alpha"), py::arg("dy"), py::arg("x"), py::arg("kernel"), py::arg("y"), py::arg("dx"),
        py::arg("dkernel"), py::arg("dbias"), py::arg("threads"));
  m.def("batch_norm_forward_at", &batch_norm_forward_at, py::arg("shape"), py::arg("epsilon"), py::arg("activation"),
        py::arg("alpha"), py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("residual"), py::arg("y"),
        py::arg("mean"), py::arg("variance"), py::arg("threads"));
  m.def("batch_norm_inference_at", &batch_norm_inference_at, py::arg("shape"), py::arg("epsilon"),
        py::arg("activation"), py::arg("alpha"), py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("mean"),
        py::arg("variance"), py::arg("residual"), py::arg("y"), py::arg("threads"));
  m.def("batch_norm_backward_at", &batch_norm_backward_at, py::arg("shape"), py::arg("epsilon"), py::arg("activation"),
        py::arg("alpha"), py::arg("residual"), py::arg("frozen"), py::arg("dy"), py::arg("x"), py::arg("gamma"),
        py::arg("beta"), py::arg("mean"), py::arg("variance"), py::arg("y"), py::arg("dx"), py::arg("dgamma"),
        py::arg("dbeta"), py::arg("dresidual"), py::arg("threads"));
}

}  // namespace fastbn_python
