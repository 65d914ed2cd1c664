// Activations over (rows, columns) matrices and dropout over flat arrays.
#include "arrays.hpp"
#include "register.hpp"

namespace fastbn_python {
namespace {

void activation_forward(const py::object& x, const py::object& y, int32_t activation, float alpha) {
  Operands operands("activation_forward");
  const auto vx = operands.view<float>(x, "x", 2);
  float* py_ = operands.out<float>(y, "y", vx.shape);
  operands.allow_in_place("x");
  operands.run([&] {
    return fbn_activation_forward(activation, alpha, vx.shape[0], vx.shape[1], vx.data, py_, operator_exec());
  });
}

void activation_backward(const py::object& dy, const py::object& y, const py::object& dx, int32_t activation,
                         float alpha) {
  Operands operands("activation_backward");
  const auto vdy = operands.view<float>(dy, "dy", 2);
  const float* py_ = operands.in<float>(y, "y", vdy.shape);
  float* pdx = operands.out<float>(dx, "dx", vdy.shape);
  operands.allow_in_place("dy");
  operands.run([&] {
    return fbn_activation_backward(activation, alpha, vdy.shape[0], vdy.shape[1], vdy.data, py_, pdx, operator_exec());
  });
}

void dropout_forward(const py::object& x, const py::object& y, double rate, uint64_t seed) {
  Operands operands("dropout_forward");
  const auto vx = operands.view<float>(x, "x", 1);
  float* py_ = operands.out<float>(y, "y", vx.shape);
  operands.run([&] { return fbn_dropout_forward(rate, seed, vx.shape[0], vx.data, py_, operator_exec()); });
}

void dropout_backward(const py::object& dy, const py::object& dx, double rate, uint64_t seed) {
  Operands operands("dropout_backward");
  const auto vdy = operands.view<float>(dy, "dy", 1);
  float* pdx = operands.out<float>(dx, "dx", vdy.shape);
  operands.run([&] { return fbn_dropout_backward(rate, seed, vdy.shape[0], vdy.data, pdx, operator_exec()); });
}

}  // namespace

void register_pointwise(py::module_& m) {
  m.def("activation_forward", &activation_forward, py::arg("x"), py::arg("y"), py::arg("activation"), py::arg("alpha"));
  m.def("activation_backward", &activation_backward, py::arg("dy"), py::arg("y"), py::arg("dx"), py::arg("activation"),
        py::arg("alpha"));
  m.def("dropout_forward", &dropout_forward, py::arg("x"), py::arg("y"), py::arg("rate"), py::arg("seed"));
  m.def("dropout_backward", &dropout_backward, py::arg("dy"), py::arg("dx"), py::arg("rate"), py::arg("seed"));
}

}  // namespace fastbn_python
