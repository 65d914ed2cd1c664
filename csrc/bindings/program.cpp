// Programs: training steps, evaluation and prediction on rows of whole data sets; parameters, text and costs.
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "graph.hpp"
#include "optimizers.hpp"
#include "register.hpp"

namespace fastbn_python {
namespace {

class Program {
 public:
  Program(const Graph& graph, int32_t output, int64_t max_batch, uint64_t seed, int32_t loss, int32_t labels_dtype,
          const Optimizer* optimizer, int32_t conv_algorithm, bool keep_gradients, bool timing, int64_t block_bytes) {
    fbn_program_options options{};
    options.struct_size = sizeof options;
    options.max_batch = max_batch;
    options.seed = seed;
    options.loss = loss;
    options.labels_dtype = labels_dtype;
    if (optimizer != nullptr) options.optimizer = optimizer->d;
    options.optimizer.struct_size = sizeof options.optimizer;
    options.conv_algorithm = conv_algorithm;
    options.keep_gradients = keep_gradients ? 1 : 0;
    options.timing = timing ? 1 : 0;
    options.block_bytes = block_bytes;
    fbn_program* raw = nullptr;
    fbn_status status;
    {
      // The lock is taken after the GIL is released and dropped before it is wanted again: no deadlock.
      py::gil_scoped_release release;
      const std::scoped_lock lock(graph.mutex);
      nodes_ = graph.nodes;
      status = fbn_program_create(graph.graph.get(), output, &options, &raw);
    }
    check(status);
    program_.reset(raw);
    output_ = nodes_.at(static_cast<size_t>(output)).shape;
    labels_dtype_ = labels_dtype;
    const auto input =
        std::find_if(nodes_.begin(), nodes_.end(), [](const Node& n) { return n.kind == FBN_LAYER_INPUT; });
    input_ = *input;  // fbn_program_create refuses a graph without an input
  }

  // Whether x and y are samples and their labels as `train` and `evaluate` take them: at least one, class numbers
  // among the classes. Where they are not, whoever asked converts them or says what is wrong.
  bool takes(const py::object& x, const py::object& y) const {
    const auto samples = plain(x, input_.dtype), labels = plain(y, labels_dtype_);
    if (!samples || !labels || samples->size() == 0) return false;
    const size_t rank = output_.size() + (labels_dtype_ == FBN_INT32 ? 0 : 1);  // a class number, not a last axis
    if (!is_batch(*samples, input_.shape, input_.shape.size() + 1) || !is_batch(*labels, output_, rank)) return false;
    if (samples->shape(0) != labels->shape(0)) return false;
    if (labels_dtype_ != FBN_INT32) return true;
    const auto* numbers = static_cast<const int32_t*>(labels->data());
    uint32_t largest = 0;  // negative ones are larger than any class
    for (py::ssize_t i = 0; i < labels->size(); ++i) largest = std::max(largest, static_cast<uint32_t>(numbers[i]));
    return largest < static_cast<uint64_t>(output_.back());
  }

  py::tuple train(const py::object& x, const py::object& y, const py::object& index, int64_t begin, int64_t count) {
    Operands operands("program_train");
    const Rows rows = take_rows(operands, x, index, begin, count);
    const void* labels = take_labels(operands, y, rows);
    fbn_step_result result{};
    result.struct_size = sizeof result;
    operands.run(
        [&] { return fbn_program_train(program_.get(), rows.x, labels, rows.index, count, &result, nullptr); });
    return to_tuple(result);
  }

  py::tuple evaluate(const py::object& x, const py::object& y, const py::object& index, int64_t begin, int64_t count) {
    Operands operands("program_evaluate");
    const Rows rows = take_rows(operands, x, index, begin, count);
    const void* labels = take_labels(operands, y, rows);
    fbn_step_result result{};
    result.struct_size = sizeof result;
    operands.run([&] {
      return fbn_program_evaluate(program_.get(), rows.x, labels, rows.index, count, &result, interruptible());
    });
    return to_tuple(result);
  }

  void predict(const py::object& x, const py::object& index, int64_t begin, int64_t count, const py::object& out) {
    Operands operands("program_predict");
    const Rows rows = take_rows(operands, x, index, begin, count);
    float* po = operands.out<float>(out, "out", batch_shape(count, output_));
    operands.run([&] { return fbn_program_predict(program_.get(), rows.x, rows.index, count, po, interruptible()); });
  }

  void node_output(int32_t node, const py::object& x, const py::object& index, int64_t begin, int64_t count,
                   const py::object& out) {
    Operands operands("program_node_output");
    if (node < 0 || static_cast<size_t>(node) >= nodes_.size()) operands.invalid("no such node", std::to_string(node));
    const Rows rows = take_rows(operands, x, index, begin, count);
    float* po = operands.out<float>(out, "out", batch_shape(count, nodes_[static_cast<size_t>(node)].shape));
    operands.run(
        [&] { return fbn_program_node_output(program_.get(), node, rows.x, rows.index, count, po, interruptible()); });
  }

  std::vector<std::tuple<std::string, py::tuple, bool>> parameters() const {
    std::vector<std::tuple<std::string, py::tuple, bool>> list;
    for (int32_t p = 0; p < fbn_program_parameter_count(program_.get()); ++p) {
      int32_t trainable = 0;
      const Shape shape = parameter_shape(p, &trainable);
      list.emplace_back(fbn_program_parameter_name(program_.get(), p), py::tuple(py::cast(shape)), trainable != 0);
    }
    return list;
  }

  py::array_t<float> get(int32_t parameter, const std::string& what) const {
    py::array_t<float> out(parameter_shape(parameter, nullptr));
    float* data = out.mutable_data();
    check_released([&] { return fbn_program_get(program_.get(), parameter, what.c_str(), data); });
    return out;
  }

  void set(int32_t parameter, const std::string& what, const py::object& value) {
    Operands operands("program_set");
    const float* data = operands.in<float>(value, "value", parameter_shape(parameter, nullptr));
    operands.run([&] { return fbn_program_set(program_.get(), parameter, what.c_str(), data); });
  }

  // Several at once: Python handles no signal in between. Values that fit are the caller's part.
  void set_all(const std::vector<std::tuple<int32_t, std::string, py::object>>& values) {
    for (const auto& [parameter, what, value] : values) set(parameter, what, value);
  }

  int64_t iteration() const {
    const py::gil_scoped_release release;
    return fbn_program_get_iteration(program_.get());
  }
  void set_iteration(int64_t iteration) {
    check_released([&] { return fbn_program_set_iteration(program_.get(), iteration); });
  }
  double learning_rate() const {
    const py::gil_scoped_release release;
    return fbn_program_get_learning_rate(program_.get());
  }
  void set_learning_rate(double rate) {
    check_released([&] { return fbn_program_set_learning_rate(program_.get(), rate); });
  }
  void set_max_batch(int64_t max_batch) {
    check_released([&] { return fbn_program_set_max_batch(program_.get(), max_batch); });
  }

  std::string describe() const {
    size_t needed = 0;
    check_released([&] { return fbn_program_describe(program_.get(), nullptr, 0, &needed); });
    std::string text(needed, '\0');
    check_released([&] { return fbn_program_describe(program_.get(), text.data(), text.size(), &needed); });
    text.resize(std::char_traits<char>::length(text.c_str()));
    return text;
  }

  std::vector<py::dict> costs(int64_t batch) const {
    int32_t count = 0;
    check_released([&] { return fbn_program_costs(program_.get(), batch, nullptr, 0, &count); });
    std::vector<fbn_cost_row> rows(static_cast<size_t>(count));
    for (fbn_cost_row& row : rows) row.struct_size = sizeof row;
    check_released([&] { return fbn_program_costs(program_.get(), batch, rows.data(), count, &count); });
    std::vector<py::dict> list;
    for (const fbn_cost_row& row : rows) {
      py::dict d;
      d["layer"] = std::string(row.layer);
      d["operation"] = std::string(row.operation);
      d["note"] = std::string(row.note);
      d["fused"] = std::string(row.fused);
      d["node"] = row.node;
      d["direction"] = row.direction == FBN_FORWARD ? "forward" : row.direction == FBN_BACKWARD ? "backward" : "update";
      d["phase"] = row.phase;
      d["multiply_adds"] = row.multiply_adds;
      d["bytes_block"] = row.bytes_block;
      d["bytes_crossing"] = row.bytes_crossing;
      d["calls"] = row.calls;
      d["seconds"] = row.seconds;
      d["steps"] = row.steps;
      list.push_back(std::move(d));
    }
    return list;
  }

  void reset_costs() {
    check_released([&] { return fbn_program_reset_costs(program_.get()); });
  }

 private:
  struct Rows {
    const void* x;
    const int64_t* index;  // NULL: rows 0..count of x, already moved to `begin`
    int64_t total, begin, count;
  };
  struct Destroy {
    void operator()(fbn_program* program) const { fbn_program_destroy(program); }
  };

  // `value` where it is a plain array of this dtype.
  static std::optional<py::array> plain(const py::object& value, int32_t dtype) {
    const py::dtype wanted = dtype == FBN_FLOAT32 ? py::dtype::of<float>()
                             : dtype == FBN_UINT8 ? py::dtype::of<uint8_t>()
                                                  : py::dtype::of<int32_t>();
    if (!is_plain(value, wanted)) return std::nullopt;
    return py::reinterpret_borrow<py::array>(value);
  }

  // Whether `array` has this rank, its axes after the first those of a sample.
  static bool is_batch(const py::array& array, const Shape& sample, size_t rank) {
    return static_cast<size_t>(array.ndim()) == rank &&
           std::equal(array.shape() + 1, array.shape() + rank, sample.begin());
  }

  static Shape batch_shape(int64_t rows, const Shape& sample) {
    Shape shape{rows};
    shape.insert(shape.end(), sample.begin(), sample.end());
    return shape;
  }

  static int64_t row_size(const Shape& shape) {
    int64_t size = 1;
    for (size_t i = 1; i < shape.size(); ++i) size *= shape[i];
    return size;
  }

  // x and the rows of it that a call is about: index[begin..begin + count), or begin..begin + count.
  Rows take_rows(Operands& operands, const py::object& x, const py::object& index, int64_t begin, int64_t count) const {
    const int rank = static_cast<int>(input_.shape.size()) + 1;
    const char* data = nullptr;
    Shape shape;
    int64_t row_bytes = 0;
    if (input_.dtype == FBN_UINT8) {
      View<const uint8_t> v = operands.view<uint8_t>(x, "x", rank);
      data = reinterpret_cast<const char*>(v.data);
      shape = std::move(v.shape);
      row_bytes = row_size(shape);
    } else {
      View<const float> v = operands.view<float>(x, "x", rank);
      data = reinterpret_cast<const char*>(v.data);
      shape = std::move(v.shape);
      row_bytes = row_size(shape) * static_cast<int64_t>(sizeof(float));
    }
    const int64_t total = shape[0];
    if (!std::equal(input_.shape.begin(), input_.shape.end(), shape.begin() + 1))
      operands.invalid("x must have shape " + shape_text(batch_shape(total, input_.shape)),
                       "x.shape=" + shape_text(shape));
    Rows rows{data, nullptr, total, begin, count};
    const int64_t available = index.is_none() ? total : py::len_hint(index);
    if (begin < 0 || count < 0 || begin > available - count)
      operands.invalid(
          "begin and count must lie inside the rows",
          "begin=" + std::to_string(begin) + ", count=" + std::to_string(count) + " of " + std::to_string(available));
    if (index.is_none()) {
      rows.x = data + begin * row_bytes;
      return rows;
    }
    rows.index = operands.view<int64_t>(index, "index", 1).data + begin;
    int64_t least = 0, most = -1;
    for (int64_t i = 0; i < count; ++i) {
      least = std::min(least, rows.index[i]);
      most = std::max(most, rows.index[i]);
    }
    if (least < 0 || most >= total)
      operands.invalid("index must lie in [0, " + std::to_string(total) + ")",
                       std::to_string(least < 0 ? least : most));
    return rows;
  }

  const void* take_labels(Operands& operands, const py::object& y, const Rows& rows) const {
    const int64_t skip = rows.index == nullptr ? rows.begin : 0;
    Shape shape = batch_shape(rows.total, output_);
    if (labels_dtype_ != FBN_INT32) return operands.in<float>(y, "y", shape) + skip * row_size(shape);
    shape.pop_back();  // one class number in place of the last axis
    return operands.in<int32_t>(y, "y", shape) + skip * row_size(shape);
  }

  static py::tuple to_tuple(const fbn_step_result& r) {
    return py::make_tuple(r.loss, r.samples, r.correct, r.absolute_error, r.squared_error);
  }

  Shape parameter_shape(int32_t parameter, int32_t* trainable) const {
    int32_t rank = 0, flag = 0;
    int64_t shape[FBN_MAX_RANK] = {};
    check(fbn_program_parameter_info(program_.get(), parameter, &rank, shape, &flag));
    if (trainable != nullptr) *trainable = flag;
    return Shape(shape, shape + rank);
  }

  std::unique_ptr<fbn_program, Destroy> program_;
  std::vector<Node> nodes_;
  Node input_;
  Shape output_;
  int32_t labels_dtype_ = FBN_FLOAT32;
};

}  // namespace

void register_program(py::module_& m) {
  py::class_<Program>(m, "Program", "A graph with weights, a loss and an optimizer, recorded and replayed per batch.")
      .def(py::init<const Graph&, int32_t, int64_t, uint64_t, int32_t, int32_t, const Optimizer*, int32_t, bool, bool,
                    int64_t>(),
           py::arg("graph"), py::arg("output"), py::kw_only(), py::arg("max_batch"), py::arg("seed"),
           py::arg("loss") = static_cast<int>(FBN_LOSS_NONE), py::arg("labels_dtype") = static_cast<int>(FBN_FLOAT32),
           py::arg("optimizer") = py::none(), py::arg("conv_algorithm") = static_cast<int>(FBN_ALGORITHM_AUTO),
           py::arg("keep_gradients") = false, py::arg("timing") = false, py::arg("block_bytes") = 0)
      .def("takes", &Program::takes, py::arg("x"), py::arg("y"),
           "Whether x and y are samples and labels that steps take as they are.")
      .def("train", &Program::train, py::arg("x"), py::arg("y"), py::arg("index"), py::arg("begin"), py::arg("count"),
           "One step; returns loss, samples, correct, absolute error, squared error.")
      .def("evaluate", &Program::evaluate, py::arg("x"), py::arg("y"), py::arg("index"), py::arg("begin"),
           py::arg("count"), "The same in inference mode; nothing changes.")
      .def("predict", &Program::predict, py::arg("x"), py::arg("index"), py::arg("begin"), py::arg("count"),
           py::arg("out"))
      .def("node_output", &Program::node_output, py::arg("node"), py::arg("x"), py::arg("index"), py::arg("begin"),
           py::arg("count"), py::arg("out"))
      .def("parameters", &Program::parameters, "Name, shape and whether it is trained, of every parameter.")
      .def("get", &Program::get, py::arg("parameter"), py::arg("what") = "value")
      .def("set", &Program::set, py::arg("parameter"), py::arg("what"), py::arg("value"))
      .def("set_all", &Program::set_all, py::arg("values"), "`set` of each (parameter, what, value).")
      .def_property("iteration", &Program::iteration, &Program::set_iteration)
      .def_property("learning_rate", &Program::learning_rate, &Program::set_learning_rate)
      .def("set_max_batch", &Program::set_max_batch, py::arg("max_batch"),
           "Plan steps for another capacity; weights, slots and the iteration stay.")
      .def("describe", &Program::describe, "What was fused, stored and recomputed, phase by phase.")
      .def("costs", &Program::costs, py::arg("batch"), "The rows of the cost table for a step of `batch` samples.")
      .def("reset_costs", &Program::reset_costs);
}

}  // namespace fastbn_python
