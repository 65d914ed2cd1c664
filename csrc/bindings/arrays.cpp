#include "arrays.hpp"

#include <cstring>

namespace fastbn_python {

void raise(PyObject* type, const std::string& message) {
  PyErr_SetString(type, message.c_str());
  throw py::error_already_set();
}

const fbn_exec* interruptible() {
  static const fbn_exec exec = [] {
    fbn_exec e{};
    e.struct_size = sizeof e;
    e.interrupted = [](void*) -> int32_t {
      const py::gil_scoped_acquire held;
      return PyErr_CheckSignals();  // runs handlers on the main thread alone; not 0: one raised
    };
    return e;
  }();
  return &exec;
}

namespace {
thread_local fbn_exec operators = *interruptible();
thread_local size_t wanted_workspace = 0;
constexpr size_t kNotAsked = SIZE_MAX;
}  // namespace

const fbn_exec* operator_exec() { return &operators; }

void set_workspace(const py::object& memory) {
  if (memory.is_none()) {
    operators.workspace = nullptr;
    operators.workspace_size = 0;
    return;
  }
  Operands operands("workspace");
  const auto bytes = operands.output_view<uint8_t>(memory, "memory", 1);
  operators.workspace = bytes.data;
  operators.workspace_size = static_cast<size_t>(bytes.size());
}

void begin_workspace_query() {
  wanted_workspace = kNotAsked;
  operators.workspace_query = &wanted_workspace;
}

std::optional<size_t> end_workspace_query() {
  operators.workspace_query = nullptr;
  if (wanted_workspace == kNotAsked) return std::nullopt;
  return wanted_workspace;
}

void check(fbn_status status) {
  if (status == FBN_OK) return;
  if (status == FBN_INTERRUPTED) throw py::error_already_set();  // what the signal handler raised
  PyObject* type = PyExc_RuntimeError;
  switch (status) {
    case FBN_INVALID_VALUE:
      type = PyExc_ValueError;
      break;
    case FBN_INVALID_TYPE:
      type = PyExc_TypeError;
      break;
    case FBN_UNSUPPORTED:
      type = PyExc_NotImplementedError;
      break;
    case FBN_OUT_OF_MEMORY:
      type = PyExc_MemoryError;
      break;
    default:
      break;
  }
  raise(type, fbn_last_error());
}

std::string shape_text(const Shape& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  text += shape.size() == 1 ? ",)" : ")";
  return text;
}

namespace {

// [begin, end) of the memory that holds an array's elements.
std::pair<const char*, const char*> memory_of(const py::array& array) {
  const char *begin = static_cast<const char*>(array.data()), *end = begin;
  if (array.size() == 0) return {begin, end};
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    const py::ssize_t reach = (array.shape(i) - 1) * array.strides(i);
    (reach < 0 ? begin : end) += reach;
  }
  return {begin, end + array.itemsize()};
}

}  // namespace

constexpr int kPlain = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};

bool is_plain(const py::object& value, const py::object& dtype) {
  const PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(value.ptr()));
  if (type != reinterpret_cast<PyObject*>(py::detail::npy_api::get().PyArray_Type_)) return false;
  const auto array = py::reinterpret_borrow<py::array>(value);
  return (array.flags() & kPlain) == kPlain && array.dtype().is(py::dtype::from_args(dtype));
}

namespace {

// Whether a result of this shape and dtype can be computed into `object`.
bool fits(const py::handle object, const py::tuple& shape, const py::object& dtype) {
  if (!py::isinstance<py::array>(object)) return false;
  const auto array = py::reinterpret_borrow<py::array>(object);
  if ((array.flags() & kPlain) != kPlain || !array.writeable()) return false;
  if (!array.dtype().is(py::dtype::from_args(dtype))) return false;
  if (static_cast<size_t>(array.ndim()) != shape.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i)
    if (array.shape(static_cast<py::ssize_t>(i)) != shape[i].cast<py::ssize_t>()) return false;
  return true;
}

// Whether two arrays lie apart; what is no array lies nowhere.
bool apart(const py::handle a, const py::handle b) {
  if (!py::isinstance<py::array>(a) || !py::isinstance<py::array>(b)) return true;
  const auto [begin, end] = memory_of(py::reinterpret_borrow<py::array>(a));
  const auto [first, last] = memory_of(py::reinterpret_borrow<py::array>(b));
  return begin >= last || first >= end;
}

}  // namespace

bool fit_results(const py::sequence& objects, const py::sequence& wanted, const py::sequence& inputs) {
  const size_t count = objects.size();
  if (wanted.size() != count) return false;
  for (size_t i = 0; i < count; ++i) {
    const py::object object = objects[i], want = wanted[i];
    if (want.is_none()) continue;
    if (!py::isinstance<py::tuple>(want)) return false;
    const auto pair = py::reinterpret_borrow<py::tuple>(want);
    if (pair.size() != 2 || !py::isinstance<py::tuple>(pair[0])) return false;
    if (!fits(object, pair[0], pair[1])) return false;
    for (const py::handle input : inputs)
      if (!apart(object, input)) return false;
    for (size_t other = 0; other < i; ++other) {
      if (!py::object(wanted[other]).is_none() && !apart(object, py::object(objects[other]))) return false;
    }
  }
  return true;
}

void Operands::invalid(const std::string& rule, const std::string& received) const {
  raise(PyExc_ValueError, std::string(operation_) + ": " + rule + ". Received: " + received);
}

Operands::Raw Operands::take(const py::object& object, const char* name, Dtype dtype, bool written) {
  const auto refuse = [&](PyObject* type, const std::string& what) {
    raise(type, std::string(operation_) + ": " + name + what);
  };
  if (!py::isinstance<py::array>(object))
    refuse(PyExc_TypeError, std::string(" must be a NumPy array of ") + dtype.name +
                                ". Received: " + std::string(py::str(py::type::of(object).attr("__name__"))));
  const auto array = py::reinterpret_borrow<py::array>(object);
  const py::dtype actual = array.dtype();
  const bool native = actual.byteorder() == '=' || actual.byteorder() == '|';
  if (actual.kind() != dtype.kind || actual.itemsize() != dtype.size || !native)
    refuse(PyExc_TypeError,
           std::string(" must have dtype ") + dtype.name + ". Received: dtype " + std::string(py::str(actual)));
  constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if ((array.flags() & py::array::c_style) == 0 || (array.flags() & kAligned) == 0)
    refuse(PyExc_ValueError, " must be C-contiguous and aligned. Received: strides " +
                                 shape_text(Shape(array.strides(), array.strides() + array.ndim())) + " for shape " +
                                 shape_text(Shape(array.shape(), array.shape() + array.ndim())));
  if (written && !array.writeable())
    refuse(PyExc_ValueError, " is written and must be writable. Received: a read-only array");
  const char* begin = static_cast<const char*>(array.data());
  ranges_.push_back({name, begin, begin + array.nbytes(), written, nullptr});
  // The flag was checked above where it matters; const arrays are only read.
  return {const_cast<char*>(begin), Shape(array.shape(), array.shape() + array.ndim())};
}

void Operands::require_rank(const Raw& raw, const char* name, int rank) const {
  if (static_cast<int>(raw.shape.size()) != rank)
    invalid(std::string(name) + " must have rank " + std::to_string(rank),
            std::string(name) + ".shape=" + shape_text(raw.shape));
}

void Operands::require_shape(const Raw& raw, const char* name, const Shape& shape) const {
  if (raw.shape != shape)
    invalid(std::string(name) + " must have shape " + shape_text(shape),
            std::string(name) + ".shape=" + shape_text(raw.shape));
}

void Operands::allow_in_place(const char* input) { ranges_.back().in_place = input; }

void Operands::check_overlap() const {
  for (const Range& out : ranges_) {
    if (!out.written) continue;
    for (const Range& other : ranges_) {
      if (&other == &out || out.begin == out.end || other.begin == other.end) continue;
      if (out.begin >= other.end || other.begin >= out.end) continue;
      const bool same = out.begin == other.begin && out.end == other.end;
      const auto permits = [same](const Range& a, const Range& b) {
        return same && a.in_place != nullptr && std::strcmp(a.in_place, b.name) == 0;
      };
      if (permits(out, other) || permits(other, out)) continue;
      invalid(std::string(out.name) + " must not overlap " + other.name, "arrays that share memory");
    }
  }
}

}  // namespace fastbn_python
