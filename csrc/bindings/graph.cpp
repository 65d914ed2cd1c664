// Graphs: layers are added by kind, name, inputs and the fields of fbn_layer as keywords.
#include "graph.hpp"

#include <algorithm>
#include <map>

#include "register.hpp"

namespace fastbn_python {
namespace {

using Field = void (*)(fbn_layer&, const py::handle&);

fbn_initializer initializer(const py::handle& value) {
  const auto [kind, a, b, seed] = value.cast<std::tuple<int32_t, double, double, uint64_t>>();
  return {kind, a, b, seed};
}

const std::map<std::string, Field>& fields() {
  static const std::map<std::string, Field> table = {
      {"shape",
       [](fbn_layer& l, const py::handle& v) {
         const auto shape = v.cast<Shape>();
         if (shape.size() > FBN_MAX_RANK)
           raise(PyExc_ValueError, std::string(l.name) + ": the rank must be at most " + std::to_string(FBN_MAX_RANK) +
                                       " without the batch. Received: shape " + shape_text(shape));
         l.rank = static_cast<int32_t>(shape.size());
         std::copy(shape.begin(), shape.end(), l.shape);
       }},
      {"dtype", [](fbn_layer& l, const py::handle& v) { l.dtype = v.cast<int32_t>(); }},
      {"filters", [](fbn_layer& l, const py::handle& v) { l.conv.out_channels = v.cast<int64_t>(); }},
      {"kernel_size",
       [](fbn_layer& l, const py::handle& v) {
         const auto size = v.cast<Pair>();
         l.conv.kernel_height = size[0];
         l.conv.kernel_width = size[1];
       }},
      {"strides",
       [](fbn_layer& l, const py::handle& v) {
         const auto strides = v.cast<Pair>();
         l.conv.stride_height = l.pool.stride_height = strides[0];
         l.conv.stride_width = l.pool.stride_width = strides[1];
       }},
      {"dilation",
       [](fbn_layer& l, const py::handle& v) {
         const auto dilation = v.cast<Pair>();
         l.conv.dilation_height = dilation[0];
         l.conv.dilation_width = dilation[1];
       }},
      {"groups", [](fbn_layer& l, const py::handle& v) { l.conv.groups = v.cast<int64_t>(); }},
      {"padding", [](fbn_layer& l, const py::handle& v) { l.conv.padding = l.pool.padding = v.cast<int32_t>(); }},
      {"pads",
       [](fbn_layer& l, const py::handle& v) {
         const auto pads = v.cast<Pads>();
         l.conv.pad_top = l.pool.pad_top = pads[0];
         l.conv.pad_bottom = l.pool.pad_bottom = pads[1];
         l.conv.pad_left = l.pool.pad_left = pads[2];
         l.conv.pad_right = l.pool.pad_right = pads[3];
       }},
      {"pool_size",
       [](fbn_layer& l, const py::handle& v) {
         const auto size = v.cast<Pair>();
         l.pool.pool_height = size[0];
         l.pool.pool_width = size[1];
       }},
      {"units", [](fbn_layer& l, const py::handle& v) { l.units = v.cast<int64_t>(); }},
      {"use_bias", [](fbn_layer& l, const py::handle& v) { l.use_bias = v.cast<bool>(); }},
      {"activation", [](fbn_layer& l, const py::handle& v) { l.activation = l.conv.activation = v.cast<int32_t>(); }},
      {"alpha", [](fbn_layer& l, const py::handle& v) { l.alpha = l.conv.alpha = v.cast<float>(); }},
      {"epsilon", [](fbn_layer& l, const py::handle& v) { l.epsilon = v.cast<double>(); }},
      {"momentum", [](fbn_layer& l, const py::handle& v) { l.momentum = v.cast<double>(); }},
      {"center", [](fbn_layer& l, const py::handle& v) { l.center = v.cast<bool>(); }},
      {"scale", [](fbn_layer& l, const py::handle& v) { l.scale = v.cast<bool>(); }},
      {"rate", [](fbn_layer& l, const py::handle& v) { l.rate = v.cast<double>(); }},
      {"seed", [](fbn_layer& l, const py::handle& v) { l.seed = v.cast<uint64_t>(); }},
      {"scale_factor", [](fbn_layer& l, const py::handle& v) { l.scale_factor = v.cast<double>(); }},
      {"offset", [](fbn_layer& l, const py::handle& v) { l.offset = v.cast<double>(); }},
      {"frozen", [](fbn_layer& l, const py::handle& v) { l.frozen = v.cast<bool>(); }},
      {"kernel_initializer", [](fbn_layer& l, const py::handle& v) { l.kernel_initializer = initializer(v); }},
      {"bias_initializer", [](fbn_layer& l, const py::handle& v) { l.bias_initializer = initializer(v); }},
      {"gamma_initializer", [](fbn_layer& l, const py::handle& v) { l.gamma_initializer = initializer(v); }},
      {"beta_initializer", [](fbn_layer& l, const py::handle& v) { l.beta_initializer = initializer(v); }},
      {"mean_initializer", [](fbn_layer& l, const py::handle& v) { l.mean_initializer = initializer(v); }},
      {"variance_initializer", [](fbn_layer& l, const py::handle& v) { l.variance_initializer = initializer(v); }},
  };
  return table;
}

std::unique_ptr<Graph> create() {
  auto graph = std::make_unique<Graph>();
  fbn_graph* raw = nullptr;
  check(fbn_graph_create(&raw));
  graph->graph.reset(raw);
  return graph;
}

int32_t add(Graph& self, int32_t kind, const std::string& name, const std::vector<int32_t>& inputs,
            const py::kwargs& keywords) {
  fbn_layer layer{};
  layer.struct_size = sizeof layer;
  layer.conv.struct_size = sizeof layer.conv;
  layer.pool.struct_size = sizeof layer.pool;
  layer.kind = kind;
  layer.name = name.c_str();
  if (inputs.size() > FBN_MAX_INPUTS)
    raise(PyExc_ValueError,
          name + ": at most " + std::to_string(FBN_MAX_INPUTS) + " inputs. Received: " + std::to_string(inputs.size()));
  layer.num_inputs = static_cast<int32_t>(inputs.size());
  std::copy(inputs.begin(), inputs.end(), layer.inputs);
  for (const auto& [key, value] : keywords) {
    const auto field = fields().find(key.cast<std::string>());
    if (field == fields().end())
      raise(PyExc_TypeError, "Graph.add: no field of this name. Received: " + key.cast<std::string>());
    field->second(layer, value);
  }
  int32_t node = -1;
  int32_t rank = 0;
  int64_t shape[FBN_MAX_RANK] = {};
  fbn_status status;
  {
    const std::scoped_lock lock(self.mutex);
    status = fbn_graph_add(self.graph.get(), &layer, &node);
    if (status == FBN_OK) status = fbn_graph_shape(self.graph.get(), node, &rank, shape);
    if (status == FBN_OK)
      self.nodes.push_back({kind, kind == FBN_LAYER_INPUT ? layer.dtype : FBN_FLOAT32, Shape(shape, shape + rank)});
  }
  check(status);
  return node;
}

py::tuple shape(const Graph& self, int32_t node) {
  int32_t rank = 0;
  int64_t extents[FBN_MAX_RANK] = {};
  fbn_status status;
  {
    const std::scoped_lock lock(self.mutex);
    status = fbn_graph_shape(self.graph.get(), node, &rank, extents);
  }
  check(status);
  py::tuple result(static_cast<size_t>(rank));
  for (int32_t i = 0; i < rank; ++i) result[static_cast<size_t>(i)] = py::int_(extents[i]);
  return result;
}

std::tuple<int64_t, int64_t, int64_t> layer_cost(const Graph& self, int32_t node) {
  int64_t trainable = 0, other = 0, multiply_adds = 0;
  fbn_status status;
  {
    const std::scoped_lock lock(self.mutex);
    status = fbn_graph_layer_cost(self.graph.get(), node, &trainable, &other, &multiply_adds);
  }
  check(status);
  return {trainable, other, multiply_adds};
}

}  // namespace

void register_graph(py::module_& m) {
  py::class_<Graph>(m, "Graph", "Layers with inferred shapes; the batch axis is never written.")
      .def(py::init(&create))
      .def("add", &add, py::arg("kind"), py::arg("name"), py::arg("inputs"),
           "Add a layer and return its node. Keywords are fields of fbn_layer; initializers are (kind, a, b, seed).")
      .def("shape", &shape, py::arg("node"), "Shape of a node's value for one sample.")
      .def("layer_cost", &layer_cost, py::arg("node"),
           "Trainable parameters, other parameters and forward multiply-adds for one sample.");
}

}  // namespace fastbn_python
