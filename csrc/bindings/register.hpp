// One function a subject; module.cpp calls them in this order.
#pragma once

#include <pybind11/pybind11.h>

namespace fastbn_python {

void register_runtime(pybind11::module_& m);
void register_convolution(pybind11::module_& m);
void register_dense(pybind11::module_& m);
void register_normalization(pybind11::module_& m);
void register_pooling(pybind11::module_& m);
void register_pointwise(pybind11::module_& m);
void register_losses(pybind11::module_& m);
void register_optimizers(pybind11::module_& m);
void register_graph(pybind11::module_& m);
void register_program(pybind11::module_& m);
void register_addresses(pybind11::module_& m);

}  // namespace fastbn_python
