// Optimizer descriptors and the in-place update.
#include "optimizers.hpp"

#include "arrays.hpp"
#include "register.hpp"

namespace fastbn_python {
namespace {

std::vector<std::string> slot_names(const Optimizer& optimizer) {
  std::vector<std::string> names;
  for (int32_t i = 0; i < fbn_optimizer_slot_count(&optimizer.d); ++i)
    names.emplace_back(fbn_optimizer_slot_name(&optimizer.d, i));
  return names;
}

void optimizer_update(const char* operation, const Optimizer& optimizer, int64_t iteration, const py::object& weights,
                      const py::object& gradient, const std::vector<py::object>& slots) {
  Operands operands(operation);
  const auto g = operands.view<float>(gradient, "gradient", 1);
  float* pw = operands.out<float>(weights, "weights", g.shape);
  const std::vector<std::string> names = slot_names(optimizer);
  if (slots.size() != names.size())
    operands.invalid("takes " + std::to_string(names.size()) + " slots", std::to_string(slots.size()));
  std::vector<float*> pointers;
  for (size_t i = 0; i < slots.size(); ++i)
    pointers.push_back(operands.out<float>(slots[i], names[i].c_str(), g.shape));
  operands.run([&] {
    return fbn_optimizer_update(&optimizer.d, iteration, g.shape[0], pw, g.data, pointers.data(), operator_exec());
  });
}

}  // namespace

void register_optimizers(py::module_& m) {
  py::class_<Optimizer>(m, "Optimizer", "Kind and hyper-parameters of an optimizer.")
      .def(py::init([](int32_t kind, double learning_rate, double momentum, bool nesterov, double rho, bool centered,
                       double beta_1, double beta_2, bool amsgrad, double epsilon, double weight_decay) {
             Optimizer o{};
             o.d.struct_size = sizeof o.d;
             o.d.kind = kind;
             o.d.learning_rate = learning_rate;
             o.d.momentum = momentum;
             o.d.nesterov = nesterov ? 1 : 0;
             o.d.rho = rho;
             o.d.centered = centered ? 1 : 0;
             o.d.beta_1 = beta_1;
             o.d.beta_2 = beta_2;
             o.d.amsgrad = amsgrad ? 1 : 0;
             o.d.epsilon = epsilon;
             o.d.weight_decay = weight_decay;
             return o;
           }),
           py::arg("kind"), py::kw_only(), py::arg("learning_rate"), py::arg("momentum") = 0.0,
           py::arg("nesterov") = false, py::arg("rho") = 0.9, py::arg("centered") = false, py::arg("beta_1") = 0.9,
           py::arg("beta_2") = 0.999, py::arg("amsgrad") = false, py::arg("epsilon") = 1e-7,
           py::arg("weight_decay") = 0.0)
      .def_property_readonly("slot_names", &slot_names, "Names of the arrays kept beside each weight.");
  m.def(
      "optimizer_update",
      [](const std::string& operation, const Optimizer& optimizer, int64_t iteration, const py::object& weights,
         const py::object& gradient, const std::vector<py::object>& slots) {
        optimizer_update(operation.c_str(), optimizer, iteration, weights, gradient, slots);
      },
      py::arg("operation"), py::arg("optimizer"), py::arg("iteration"), py::arg("weights"), py::arg("gradient"),
      py::arg("slots"), "One update in place; `operation` names it in messages.");
}

}  // namespace fastbn_python
