// dense over (rows, in) matrices and (in, out) kernels.
#include "arrays.hpp"
#include "descriptors.hpp"
#include "register.hpp"

namespace fastbn_python {
namespace {

fbn_dense describe(const Operands& operands, const Shape& x, const Shape& kernel, int32_t activation, float alpha) {
  if (x[1] != kernel[0])
    operands.invalid("kernel.shape[0] must be the number of columns of x",
                     "x.shape=" + shape_text(x) + ", kernel.shape=" + shape_text(kernel));
  return dense_descriptor(x[0], kernel.data(), activation, alpha);
}

void dense_forward(const py::object& x, const py::object& kernel, const py::object& bias, const py::object& y,
                   int32_t activation, float alpha) {
  Operands operands("dense_forward");
  const auto vx = operands.view<float>(x, "x", 2);
  const auto vk = operands.view<float>(kernel, "kernel", 2);
  const fbn_dense d = describe(operands, vx.shape, vk.shape, activation, alpha);
  const float* pb = operands.optional_in<float>(bias, "bias", {d.out_features});
  float* py_ = operands.out<float>(y, "y", {d.rows, d.out_features});
  operands.run([&] { return fbn_dense_forward(&d, vx.data, vk.data, pb, py_, operator_exec()); });
}

void dense_backward(const py::object& dy, const py::object& x, const py::object& kernel, const py::object& y,
                    const py::object& dx, const py::object& dkernel, const py::object& dbias, int32_t activation,
                    float alpha) {
  Operands operands("dense_backward");
  const auto vx = operands.view<float>(x, "x", 2);
  const auto vk = operands.view<float>(kernel, "kernel", 2);
  const fbn_dense d = describe(operands, vx.shape, vk.shape, activation, alpha);
  const float* pdy = operands.in<float>(dy, "dy", {d.rows, d.out_features});
  const float* py_ = operands.optional_in<float>(y, "y", {d.rows, d.out_features});
  float* pdx = operands.optional_out<float>(dx, "dx", vx.shape);
  float* pdk = operands.optional_out<float>(dkernel, "dkernel", vk.shape);
  float* pdb = operands.optional_out<float>(dbias, "dbias", {d.out_features});
  operands.run([&] { return fbn_dense_backward(&d, pdy, vx.data, vk.data, py_, pdx, pdk, pdb, operator_exec()); });
}

}  // namespace

void register_dense(py::module_& m) {
  m.def("dense_forward", &dense_forward, py::arg("x"), py::arg("kernel"), py::arg("bias"), py::arg("y"),
        py::arg("activation"), py::arg("alpha"));
  m.def("dense_backward", &dense_backward, py::arg("dy"), py::arg("x"), py::arg("kernel"), py::arg("y"), py::arg("dx"),
        py::arg("dkernel"), py::arg("dbias"), py::arg("activation"), py::arg("alpha"));
}

}  // namespace fastbn_python
