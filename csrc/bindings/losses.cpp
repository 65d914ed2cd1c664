// Softmax cross-entropy and mean squared error over rows.
#include "arrays.hpp"
#include "register.hpp"

namespace fastbn_python {
namespace {

struct Labels {
  const void* data;
  int32_t dtype;
};

// int32 class numbers (rows) or float32 (rows, classes).
Labels take_labels(Operands& operands, const py::object& labels, const Shape& logits) {
  if (py::isinstance<py::array>(labels) && py::reinterpret_borrow<py::array>(labels).dtype().kind() == 'i')
    return {operands.in<int32_t>(labels, "labels", {logits[0]}), FBN_INT32};
  return {operands.in<float>(labels, "labels", logits), FBN_FLOAT32};
}

void softmax_cross_entropy_forward(const py::object& logits, const py::object& labels, const py::object& loss,
                                   const py::object& probabilities) {
  Operands operands("softmax_cross_entropy_forward");
  const auto v = operands.view<float>(logits, "logits", 2);
  const Labels t = take_labels(operands, labels, v.shape);
  float* pl = operands.out<float>(loss, "loss", {v.shape[0]});
  float* pp = operands.out<float>(probabilities, "probabilities", v.shape);
  operands.run([&] {
    return fbn_softmax_cross_entropy_forward(v.shape[0], v.shape[1], v.data, t.data, t.dtype, pl, pp, operator_exec());
  });
}

void softmax_cross_entropy_backward(const py::object& probabilities, const py::object& labels,
                                    const py::object& dlogits, float scale) {
  Operands operands("softmax_cross_entropy_backward");
  const auto v = operands.view<float>(probabilities, "probabilities", 2);
  const Labels t = take_labels(operands, labels, v.shape);
  float* pd = operands.out<float>(dlogits, "dlogits", v.shape);
  operands.run([&] {
    return fbn_softmax_cross_entropy_backward(v.shape[0], v.shape[1], v.data, t.data, t.dtype, scale, pd,
                                              operator_exec());
  });
}

void mean_squared_error_forward(const py::object& predictions, const py::object& targets, const py::object& loss) {
  Operands operands("mean_squared_error_forward");
  const auto v = operands.view<float>(predictions, "predictions", 2);
  const float* pt = operands.in<float>(targets, "targets", v.shape);
  float* pl = operands.out<float>(loss, "loss", {v.shape[0]});
  operands.run([&] { return fbn_mean_squared_error_forward(v.shape[0], v.shape[1], v.data, pt, pl, operator_exec()); });
}

void mean_squared_error_backward(const py::object& predictions, const py::object& targets,
                                 const py::object& dpredictions, float scale) {
  Operands operands("mean_squared_error_backward");
  const auto v = operands.view<float>(predictions, "predictions", 2);
  const float* pt = operands.in<float>(targets, "targets", v.shape);
  float* pd = operands.out<float>(dpredictions, "dpredictions", v.shape);
  operands.run(
      [&] { return fbn_mean_squared_error_backward(v.shape[0], v.shape[1], v.data, pt, scale, pd, operator_exec()); });
}

}  // namespace

void register_losses(py::module_& m) {
  m.def("softmax_cross_entropy_forward", &softmax_cross_entropy_forward, py::arg("logits"), py::arg("labels"),
        py::arg("loss"), py::arg("probabilities"));
  m.def("softmax_cross_entropy_backward", &softmax_cross_entropy_backward, py::arg("probabilities"), py::arg("labels"),
        py::arg("dlogits"), py::arg("scale"));
  m.def("mean_squared_error_forward", &mean_squared_error_forward, py::arg("predictions"), py::arg("targets"),
        py::arg("loss"));
  m.def("mean_squared_error_backward", &mean_squared_error_backward, py::arg("predictions"), py::arg("targets"),
        py::arg("dpredictions"), py::arg("scale"));
}

}  // namespace fastbn_python
