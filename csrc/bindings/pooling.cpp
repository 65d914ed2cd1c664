// Max, average and global average pooling over NHWC arrays.
#include "arrays.hpp"
#include "register.hpp"

namespace fastbn_python {
namespace {

fbn_pool2d describe(const Shape& x, Pair pool_size, Pair strides, int32_t padding, Pads pads) {
  fbn_pool2d d{};
  d.struct_size = sizeof d;
  d.batch = x[0];
  d.height = x[1];
  d.width = x[2];
  d.channels = x[3];
  d.pool_height = pool_size[0];
  d.pool_width = pool_size[1];
  d.stride_height = strides[0];
  d.stride_width = strides[1];
  d.padding = padding;
  d.pad_top = pads[0];
  d.pad_bottom = pads[1];
  d.pad_left = pads[2];
  d.pad_right = pads[3];
  return d;
}

Shape output_shape(const fbn_pool2d& d) {
  int64_t height = 0, width = 0;
  check(fbn_pool2d_output_size(&d, &height, &width));
  return {d.batch, height, width, d.channels};
}

std::pair<Shape, bool> pool2d_output_shape(const Shape& x, Pair pool_size, Pair strides, int32_t padding, Pads pads) {
  if (x.size() != 4) Operands("pool2d").invalid("x must have rank 4", "x.shape=" + shape_text(x));
  const fbn_pool2d d = describe(x, pool_size, strides, padding, pads);
  Shape shape = output_shape(d);
  return {std::move(shape), fbn_pool2d_index_dtype(&d) == FBN_INT32};
}

void max_pool2d_forward(const py::object& x, const py::object& y, const py::object& index, Pair pool_size, Pair strides,
                        int32_t padding, Pads pads) {
  Operands operands("max_pool2d_forward");
  const auto vx = operands.view<float>(x, "x", 4);
  const fbn_pool2d d = describe(vx.shape, pool_size, strides, padding, pads);
  const Shape shape = output_shape(d);
  float* py_ = operands.out<float>(y, "y", shape);
  void* pi = nullptr;
  if (fbn_pool2d_index_dtype(&d) == FBN_INT32)
    pi = operands.optional_out<int32_t>(index, "index", shape);
  else
    pi = operands.optional_out<uint8_t>(index, "index", shape);
  operands.run([&] { return fbn_max_pool2d_forward(&d, vx.data, py_, pi, operator_exec()); });
}

void max_pool2d_backward(const py::object& dy, const py::object& index, const py::object& dx, Pair pool_size,
                         Pair strides, int32_t padding, Pads pads) {
  Operands operands("max_pool2d_backward");
  const auto vy = operands.view<float>(dy, "dy", 4);
  const auto x = operands.output_view<float>(dx, "dx", 4);
  const fbn_pool2d d = describe(x.shape, pool_size, strides, padding, pads);
  const Shape shape = output_shape(d);
  if (vy.shape != shape)
    operands.invalid("dy must have shape " + shape_text(shape), "dy.shape=" + shape_text(vy.shape));
  const void* pi = nullptr;
  if (fbn_pool2d_index_dtype(&d) == FBN_INT32)
    pi = operands.in<int32_t>(index, "index", shape);
  else
    pi = operands.in<uint8_t>(index, "index", shape);
  operands.run([&] { return fbn_max_pool2d_backward(&d, vy.data, pi, x.data, operator_exec()); });
}

void avg_pool2d_forward(const py::object& x, const py::object& y, Pair pool_size, Pair strides, int32_t padding,
                        Pads pads) {
  Operands operands("avg_pool2d_forward");
  const auto vx = operands.view<float>(x, "x", 4);
  const fbn_pool2d d = describe(vx.shape, pool_size, strides, padding, pads);
  float* py_ = operands.out<float>(y, "y", output_shape(d));
  operands.run([&] { return fbn_avg_pool2d_forward(&d, vx.data, py_, operator_exec()); });
}

void avg_pool2d_backward(const py::object& dy, const py::object& dx, Pair pool_size, Pair strides, int32_t padding,
                         Pads pads) {
  Operands operands("avg_pool2d_backward");
  const auto x = operands.output_view<float>(dx, "dx", 4);
  const fbn_pool2d d = describe(x.shape, pool_size, strides, padding, pads);
  const float* pdy = operands.in<float>(dy, "dy", output_shape(d));
  operands.run([&] { return fbn_avg_pool2d_backward(&d, pdy, x.data, operator_exec()); });
}

void global_avg_pool2d_forward(const py::object& x, const py::object& y) {
  Operands operands("global_avg_pool2d_forward");
  const auto vx = operands.view<float>(x, "x", 4);
  const int64_t batch = vx.shape[0], pixels = vx.shape[1] * vx.shape[2], channels = vx.shape[3];
  float* py_ = operands.out<float>(y, "y", {batch, channels});
  operands.run([&] { return fbn_global_avg_pool2d_forward(batch, pixels, channels, vx.data, py_, operator_exec()); });
}

void global_avg_pool2d_backward(const py::object& dy, const py::object& dx) {
  Operands operands("global_avg_pool2d_backward");
  const auto x = operands.output_view<float>(dx, "dx", 4);
  const int64_t batch = x.shape[0], pixels = x.shape[1] * x.shape[2], channels = x.shape[3];
  const float* pdy = operands.in<float>(dy, "dy", {batch, channels});
  operands.run([&] { return fbn_global_avg_pool2d_backward(batch, pixels, channels, pdy, x.data, operator_exec()); });
}

}  // namespace

void register_pooling(py::module_& m) {
  m.def("pool2d_output_shape", &pool2d_output_shape, py::arg("x_shape"), py::arg("pool_size"), py::arg("strides"),
        py::arg("padding"), py::arg("pads"), "The shape of the result, and whether the index of the maximum is int32.");
  m.def("max_pool2d_forward", &max_pool2d_forward, py::arg("x"), py::arg("y"), py::arg("index"), py::arg("pool_size"),
        py::arg("strides"), py::arg("padding"), py::arg("pads"));
  m.def("max_pool2d_backward", &max_pool2d_backward, py::arg("dy"), py::arg("index"), py::arg("dx"),
        py::arg("pool_size"), py::arg("strides"), py::arg("padding"), py::arg("pads"));
  m.def("avg_pool2d_forward", &avg_pool2d_forward, py::arg("x"), py::arg("y"), py::arg("pool_size"), py::arg("strides"),
        py::arg("padding"), py::arg("pads"));
  m.def("avg_pool2d_backward", &avg_pool2d_backward, py::arg("dy"), py::arg("dx"), py::arg("pool_size"),
        py::arg("strides"), py::arg("padding"), py::arg("pads"));
  m.def("global_avg_pool2d_forward", &global_avg_pool2d_forward, py::arg("x"), py::arg("y"));
  m.def("global_avg_pool2d_backward", &global_avg_pool2d_backward, py::arg("dy"), py::arg("dx"));
}

}  // namespace fastbn_python
