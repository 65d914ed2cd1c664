// fastbn._core: the C interface of fastbn, function by function, over NumPy arrays.
#include <fastbn/fastbn.h>

#include "register.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  using namespace fastbn_python;
  m.doc() = "The C interface of fastbn over NumPy arrays. Nothing is converted or copied.";
  register_runtime(m);
  register_convolution(m);
  register_dense(m);
  register_normalization(m);
  register_pooling(m);
  register_pointwise(m);
  register_losses(m);
  register_optimizers(m);
  register_graph(m);
  register_program(m);
  register_addresses(m);
}
