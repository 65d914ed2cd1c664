// What every binding needs: checked views of NumPy arrays, and the way from a status to a Python exception.
//
// A view is taken only of an array that already is what the C interface wants: the exact dtype, C-contiguous, aligned,
// of the expected shape, writable where it is written. Nothing is converted or copied. A binding takes all its views,
// then calls `run`, which checks that no output overlaps another operand, releases the GIL and maps the status.
#pragma once

#include <fastbn/fastbn.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace fastbn_python {

namespace py = pybind11;

using Pair = std::array<int64_t, 2>;
using Pads = std::array<int64_t, 4>;  // top, bottom, left, right
using Shape = std::vector<int64_t>;

[[noreturn]] void raise(PyObject* type, const std::string& message);
void check(fbn_status status);  // raises what the status stands for, with fbn_last_error()

// check(call()), the call without the GIL: what it waits for may need that to go on.
template <typename Call>
void check_released(Call&& call) {
  fbn_status status;
  {
    py::gil_scoped_release release;
    status = call();
  }
  check(status);
}
const fbn_exec* interruptible();  // all defaults, and the interpreter's signal handlers run while the call does
// The same for calls of operators, with the memory that the calling thread gave for them (None: it gives none).
const fbn_exec* operator_exec();
void set_workspace(const py::object& memory);
// Until it is ended, calls of operators on this thread compute nothing and tell what workspace they want.
void begin_workspace_query();
std::optional<size_t> end_workspace_query();  // none: no operator was called
std::string shape_text(const Shape& shape);

struct Dtype {
  char kind;
  int size;
  const char* name;
};
template <typename T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, float>) return {'f', 4, "float32"};
  if constexpr (std::is_same_v<T, double>) return {'f', 8, "float64"};
  if constexpr (std::is_same_v<T, int32_t>) return {'i', 4, "int32"};
  if constexpr (std::is_same_v<T, int64_t>) return {'i', 8, "int64"};
  if constexpr (std::is_same_v<T, uint8_t>) return {'u', 1, "uint8"};
}

template <typename T>
struct View {
  T* data = nullptr;
  Shape shape;
  int64_t size() const {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    return n;
  }
};

// Whether `value` is a NumPy array (no subclass) of this dtype, C-contiguous and aligned: what kernels take as it is.
bool is_plain(const py::object& value, const py::object& dtype);
// Whether there are as many arrays as (shape, dtype) wanted (None: none is, and anything may stand there), a result of
// each can be computed into its array, and all lie apart from each other and from all arrays among `inputs` (by their
// ends: arrays that interleave count as overlapping).
bool fit_results(const py::sequence& arrays, const py::sequence& wanted, const py::sequence& inputs);

class Operands {
 public:
  explicit Operands(const char* operation) : operation_(operation) {}

  // An operand of the given rank; None is refused.
  template <typename T>
  View<const T> view(const py::object& array, const char* name, int rank) {
    Raw raw = take(array, name, dtype_of<T>(), false);
    require_rank(raw, name, rank);
    return {static_cast<const T*>(raw.data), std::move(raw.shape)};
  }
  // An operand of exactly this shape. The optional forms give NULL for None.
  template <typename T>
  const T* in(const py::object& array, const char* name, const Shape& shape) {
    Raw raw = take(array, name, dtype_of<T>(), false);
    require_shape(raw, name, shape);
    return static_cast<const T*>(raw.data);
  }
  template <typename T>
  const T* optional_in(const py::object& array, const char* name, const Shape& shape) {
    return array.is_none() ? nullptr : in<T>(array, name, shape);
  }
  template <typename T>
  T* out(const py::object& array, const char* name, const Shape& shape) {
    Raw raw = take(array, name, dtype_of<T>(), true);
    require_shape(raw, name, shape);
    return static_cast<T*>(raw.data);
  }
  template <typename T>
  View<T> output_view(const py::object& array, const char* name, int rank) {
    Raw raw = take(array, name, dtype_of<T>(), true);
    require_rank(raw, name, rank);
    return {static_cast<T*>(raw.data), std::move(raw.shape)};
  }
  template <typename T>
  T* optional_out(const py::object& array, const char* name, const Shape& shape) {
    return array.is_none() ? nullptr : out<T>(array, name, shape);
  }
  // Allows the output taken last to be exactly the operand with this name (in-place functions).
  void allow_in_place(const char* input);

  template <typename Call>
  void run(Call&& call) {
    check_overlap();
    check_released(std::forward<Call>(call));
  }

  const char* operation() const { return operation_; }
  [[noreturn]] void invalid(const std::string& rule, const std::string& received) const;

 private:
  struct Raw {
    void* data;
    Shape shape;
  };
  struct Range {
    const char* name;
    const char* begin;
    const char* end;
    bool written;
    const char* in_place;
  };
  Raw take(const py::object& array, const char* name, Dtype dtype, bool written);
  void require_rank(const Raw& raw, const char* name, int rank) const;
  void require_shape(const Raw& raw, const char* name, const Shape& shape) const;
  void check_overlap() const;

  const char* operation_;
  std::vector<Range> ranges_;
};

}  // namespace fastbn_python
