// Version, threads, instruction sets, build; the enumerations as integers.
#include <pybind11/stl.h>

#include <optional>

#include "arrays.hpp"
#include "register.hpp"

namespace fastbn_python {

void register_runtime(py::module_& m) {
  m.def("version", &fbn_version, "Version of the shared library.");
  m.def("get_num_threads", &fbn_get_num_threads, "Threads that a call uses.");
  m.def(
      "set_num_threads", [](int32_t num_threads) { check(fbn_set_num_threads(num_threads)); }, py::arg("num_threads"),
      "Threads that a call uses; 0 restores the default.");
  m.def("num_threads_reason", &fbn_num_threads_reason, "What decided the number of threads.");
  m.def("isa_compiled", &fbn_isa_compiled, "Instruction sets in this build, best first, comma-separated.");
  m.def("isa_found", &fbn_isa_found, "Instruction sets that this machine has.");
  m.def(
      "isa_in_use",
      [] {
        const char* name = fbn_isa_in_use();
        if (name == nullptr) raise(PyExc_ValueError, fbn_last_error());
        return std::string(name);
      },
      "The instruction set in use.");
  m.def(
      "set_isa", [](const std::string& name) { check(fbn_set_isa(name.c_str())); }, py::arg("name"),
      "Choose an instruction set; not while anything else runs.");
  m.def("build_info", &fbn_build_info, "Compiler, flags and build type as key=value lines.");
  m.def("threading_layer", &fbn_threading_layer, "The runtime that threads come from.");

  m.def("set_workspace", &set_workspace, py::arg("memory"), "Memory for operators that this thread calls, or None.");
  m.def("begin_workspace_query", &begin_workspace_query, "Operators that this thread calls now only tell their size.");
  m.def("end_workspace_query", &end_workspace_query, "The bytes that the last operator wanted, or None.");
  m.def("is_plain", &is_plain, py::arg("value"), py::arg("dtype"),
        "Whether `value` is a NumPy array of this dtype, C-contiguous and aligned.");
  m.def("fit_results", &fit_results, py::arg("arrays"), py::arg("wanted"), py::arg("inputs"),
        "Whether a result of each (shape, dtype) wanted can be computed into its array, apart from all others.");

  m.def(
      "measure_ceilings",
      [](const std::optional<std::string>& isa, double seconds) {
        fbn_ceilings c{};
        c.struct_size = sizeof c;
        fbn_status status;
        {
          py::gil_scoped_release release;
          status = fbn_measure_ceilings(isa ? isa->c_str() : nullptr, seconds, &c, nullptr);
        }
        check(status);
        py::dict d;
        d["threads"] = c.threads;
        d["multiply_adds"] = c.multiply_adds;
        d["l1_bytes"] = c.l1_bytes;
        d["l2_bytes"] = c.l2_bytes;
        d["l3_bytes"] = c.l3_bytes;
        d["memory_bytes"] = c.memory_bytes;
        d["region_seconds"] = c.region_seconds;
        d["phase_seconds"] = c.phase_seconds;
        d["l1_size"] = c.l1_size;
        d["l2_size"] = c.l2_size;
        d["l3_size"] = c.l3_size;
        return d;
      },
      py::arg("isa") = py::none(), py::arg("seconds") = 1.0,
      "What this machine can do at most with an instruction set: rates a second of all threads together.");

  const std::pair<const char*, int> constants[] = {
      {"FLOAT32", FBN_FLOAT32},
      {"UINT8", FBN_UINT8},
      {"INT32", FBN_INT32},
      {"LINEAR", FBN_LINEAR},
      {"RELU", FBN_RELU},
      {"LEAKY_RELU", FBN_LEAKY_RELU},
      {"SIGMOID", FBN_SIGMOID},
      {"TANH", FBN_TANH},
      {"SOFTMAX", FBN_SOFTMAX},
      {"PADDING_VALID", FBN_PADDING_VALID},
      {"PADDING_SAME", FBN_PADDING_SAME},
      {"PADDING_EXPLICIT", FBN_PADDING_EXPLICIT},
      {"ALGORITHM_AUTO", FBN_ALGORITHM_AUTO},
      {"ALGORITHM_DIRECT", FBN_ALGORITHM_DIRECT},
      {"SGD", FBN_SGD},
      {"RMSPROP", FBN_RMSPROP},
      {"ADAM", FBN_ADAM},
      {"LAYER_INPUT", FBN_LAYER_INPUT},
      {"LAYER_CONV2D", FBN_LAYER_CONV2D},
      {"LAYER_DENSE", FBN_LAYER_DENSE},
      {"LAYER_BATCH_NORM", FBN_LAYER_BATCH_NORM},
      {"LAYER_ACTIVATION", FBN_LAYER_ACTIVATION},
      {"LAYER_MAX_POOL2D", FBN_LAYER_MAX_POOL2D},
      {"LAYER_AVG_POOL2D", FBN_LAYER_AVG_POOL2D},
      {"LAYER_GLOBAL_AVG_POOL2D", FBN_LAYER_GLOBAL_AVG_POOL2D},
      {"LAYER_DROPOUT", FBN_LAYER_DROPOUT},
      {"LAYER_RESHAPE", FBN_LAYER_RESHAPE},
      {"LAYER_RESCALING", FBN_LAYER_RESCALING},
      {"LAYER_ADD", FBN_LAYER_ADD},
      {"LAYER_CONCATENATE", FBN_LAYER_CONCATENATE},
      {"INIT_DEFAULT", FBN_INIT_DEFAULT},
      {"INIT_ZEROS", FBN_INIT_ZEROS},
      {"INIT_ONES", FBN_INIT_ONES},
      {"INIT_CONSTANT", FBN_INIT_CONSTANT},
      {"INIT_RANDOM_UNIFORM", FBN_INIT_RANDOM_UNIFORM},
      {"INIT_RANDOM_NORMAL", FBN_INIT_RANDOM_NORMAL},
      {"INIT_TRUNCATED_NORMAL", FBN_INIT_TRUNCATED_NORMAL},
      {"INIT_GLOROT_UNIFORM", FBN_INIT_GLOROT_UNIFORM},
      {"INIT_GLOROT_NORMAL", FBN_INIT_GLOROT_NORMAL},
      {"INIT_HE_UNIFORM", FBN_INIT_HE_UNIFORM},
      {"INIT_HE_NORMAL", FBN_INIT_HE_NORMAL},
      {"INIT_LECUN_UNIFORM", FBN_INIT_LECUN_UNIFORM},
      {"INIT_LECUN_NORMAL", FBN_INIT_LECUN_NORMAL},
      {"LOSS_NONE", FBN_LOSS_NONE},
      {"LOSS_SOFTMAX_CROSS_ENTROPY", FBN_LOSS_SOFTMAX_CROSS_ENTROPY},
      {"LOSS_MEAN_SQUARED_ERROR", FBN_LOSS_MEAN_SQUARED_ERROR},
      {"MAX_RANK", FBN_MAX_RANK},
      {"MAX_INPUTS", FBN_MAX_INPUTS},
  };
  for (const auto& [name, value] : constants) m.attr(name) = value;
}

}  // namespace fastbn_python
