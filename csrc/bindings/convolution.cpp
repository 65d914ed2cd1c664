// conv2d over NHWC arrays and HWIO kernels.
#include "arrays.hpp"
#include "descriptors.hpp"
#include "register.hpp"

namespace fastbn_python {
namespace {

// The kernel's third axis must be in_channels / groups; the C interface cannot see it. Returns y's shape.
Shape output_shape(const Operands& operands, const fbn_conv2d& d, const Shape& x, const Shape& kernel) {
  if (d.groups < 1 || d.in_channels % d.groups != 0 || kernel[2] != d.in_channels / d.groups)
    operands.invalid(
        "kernel.shape[2] must be the channels of x divided by groups",
        "x.shape=" + shape_text(x) + ", kernel.shape=" + shape_text(kernel) + ", groups=" + std::to_string(d.groups));
  fbn_conv2d size = d;  // alone: what is wrong with the activation is said by the operator, under its own name
  size.activation = FBN_LINEAR;
  int64_t height = 0, width = 0;
  check(fbn_conv2d_output_size(&size, &height, &width));
  return {d.batch, height, width, d.out_channels};
}

Shape conv2d_output_shape(const Shape& x, const Shape& kernel, Pair strides, Pair dilation, int64_t groups,
                          int32_t padding, Pads pads) {
  const Operands operands("conv2d");
  if (x.size() != 4 || kernel.size() != 4)
    operands.invalid("x and kernel must have rank 4",
                     "x.shape=" + shape_text(x) + ", kernel.shape=" + shape_text(kernel));
  const fbn_conv2d d =
      conv2d_descriptor(x.data(), kernel.data(), strides, dilation, groups, padding, pads, FBN_LINEAR, 0, 0);
  return output_shape(operands, d, x, kernel);
}

py::tuple conv2d_algorithm(const Shape& x, const Shape& kernel, Pair strides, Pair dilation, int64_t groups,
                           int32_t padding, Pads pads, int32_t algorithm, int32_t pass) {
  const Operands operands("conv2d_algorithm");
  if (x.size() != 4 || kernel.size() != 4)
    operands.invalid("x_shape and kernel_shape must have four axes",
                     "x_shape=" + shape_text(x) + ", kernel_shape=" + shape_text(kernel));
  const fbn_conv2d d =
      conv2d_descriptor(x.data(), kernel.data(), strides, dilation, groups, padding, pads, FBN_LINEAR, 0, algorithm);
  output_shape(operands, d, x, kernel);
  const char* name = "";
  char reason[512] = "";
  check(fbn_conv2d_algorithm(&d, pass, &name, reason, sizeof reason));
  return py::make_tuple(name, reason);
}

void conv2d_forward(const py::object& x, const py::object& kernel, const py::object& bias, const py::object& y,
                    Pair strides, Pair dilation, int64_t groups, int32_t padding, Pads pads, int32_t activation,
                    float alpha, int32_t algorithm) {
  Operands operands("conv2d_forward");
  const auto vx = operands.view<float>(x, "x", 4);
  const auto vk = operands.view<float>(kernel, "kernel", 4);
  const fbn_conv2d d = conv2d_descriptor(vx.shape.data(), vk.shape.data(), strides, dilation, groups, padding, pads,
                                         activation, alpha, algorithm);
  const Shape shape = output_shape(operands, d, vx.shape, vk.shape);
  const float* pb = operands.optional_in<float>(bias, "bias", {d.out_channels});
  float* py_ = operands.out<float>(y, "y", shape);
  operands.run([&] { return fbn_conv2d_forward(&d, vx.data, vk.data, pb, py_, operator_exec()); });
}

void conv2d_backward(const py::object& dy, const py::object& x, const py::object& kernel, const py::object& y,
                     const py::object& dx, const py::object& dkernel, const py::object& dbias, Pair strides,
                     Pair dilation, int64_t groups, int32_t padding, Pads pads, int32_t activation, float alpha,
                     int32_t algorithm) {
  Operands operands("conv2d_backward");
  const auto vx = operands.view<float>(x, "x", 4);
  const auto vk = operands.view<float>(kernel, "kernel", 4);
  const fbn_conv2d d = conv2d_descriptor(vx.shape.data(), vk.shape.data(), strides, dilation, groups, padding, pads,
                                         activation, alpha, algorithm);
  const Shape shape = output_shape(operands, d, vx.shape, vk.shape);
  const float* pdy = operands.in<float>(dy, "dy", shape);
  const float* py_ = operands.optional_in<float>(y, "y", shape);
  float* pdx = operands.optional_out<float>(dx, "dx", vx.shape);
  float* pdk = operands.optional_out<float>(dkernel, "dkernel", vk.shape);
  float* pdb = operands.optional_out<float>(dbias, "dbias", {d.out_channels});
  operands.run([&] { return fbn_conv2d_backward(&d, pdy, vx.data, vk.data, py_, pdx, pdk, pdb, operator_exec()); });
}

}  // namespace

void register_convolution(py::module_& m) {
  m.def("conv2d_output_shape", &conv2d_output_shape, py::arg("x_shape"), py::arg("kernel_shape"), py::arg("strides"),
        py::arg("dilation"), py::arg("groups"), py::arg("padding"), py::arg("pads"));
  m.def("conv2d_algorithm", &conv2d_algorithm, py::arg("x_shape"), py::arg("kernel_shape"), py::arg("strides"),
        py::arg("dilation"), py::arg("groups"), py::arg("padding"), py::arg("pads"), py::arg("algorithm"),
        py::arg("pass_"));
  m.def("conv2d_forward", &conv2d_forward, py::arg("x"), py::arg("kernel"), py::arg("bias"), py::arg("y"),
        py::arg("strides"), py::arg("dilation"), py::arg("groups"), py::arg("padding"), py::arg("pads"),
        py::arg("activation"), py::arg("alpha"), py::arg("algorithm"));
  m.def("conv2d_backward", &conv2d_backward, py::arg("dy"), py::arg("x"), py::arg("kernel"), py::arg("y"),
        py::arg("dx"), py::arg("dkernel"), py::arg("dbias"), py::arg("strides"), py::arg("dilation"), py::arg("groups"),
        py::arg("padding"), py::arg("pads"), py::arg("activation"), py::arg("alpha"), py::arg("algorithm"));
}

}  // namespace fastbn_python
