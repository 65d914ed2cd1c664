// Graph and program functions of the C interface.
#include <cstring>

#include "graph.hpp"
#include "program.hpp"
#include "runtime/status.hpp"

using namespace fastbn;

namespace {

void require_pointer(const char* operation, const void* pointer, const char* name) {
  require(pointer != nullptr, operation, ": ", name, " must not be NULL. Received: NULL");
}

// What a replay will say of itself begins empty: how many samples it has is known there.
std::string rows_come_later() { return {}; }

// A descriptor that lies in another one: callers need not set its size.
template <class Descriptor>
void complete_nested(const char* operation, Descriptor& d) {
  d.struct_size = sizeof d;
  require_descriptor(operation, &d);
}

// How a program's function is to run; x and y (what it is given besides, or nullptr) are looked at only where it runs.
Exec resolve_run(const char* operation, const fbn_exec* exec, int64_t n, const void* x, const void* other,
                 const char* other_name) {
  Exec run = resolve_exec(operation, exec, rows_come_later);
  if (n > 0 && run.workspace_query == nullptr) {
    require_pointer(operation, x, "x");
    require_pointer(operation, other, other_name);
  }
  return run;
}

void require_parameter(const char* operation, const fbn_program* program, int32_t parameter) {
  require_pointer(operation, program, "program");
  require(parameter >= 0 && parameter < fbn_program_parameter_count(program), operation,
          ": no such parameter. Received: ", parameter);
}

int32_t parameter_named(const char* operation, const fbn_program* program, const char* name) {
  require_pointer(operation, program, "program");
  require_pointer(operation, name, "name");
  const auto& parameters = program->program.parameters();
  for (size_t i = 0; i < parameters.size(); ++i)
    if (parameters[i].spec.name == name) return static_cast<int32_t>(i);
  std::string names;
  for (const Parameter& p : parameters) names += (names.empty() ? "" : ", ") + p.spec.name;
  fail(FBN_INVALID_VALUE, operation, ": name must be one of ", names, ". Received: '", name, "'");
}

// The parameter of that name, if `size` floats are what it holds.
int32_t parameter_of_size(const char* operation, const fbn_program* program, const char* name, const void* array,
                          int64_t size) {
  const int32_t parameter = parameter_named(operation, program, name);
  require_pointer(operation, array, "the array");
  const int64_t wanted = program->program.parameters()[static_cast<size_t>(parameter)].size;
  require(size == wanted, operation, ": ", name, " holds ", wanted, " values. Received: an array of ", size);
  return parameter;
}

}  // namespace

extern "C" {

fbn_status fbn_graph_create(fbn_graph** graph) {
  return guard([&] {
    require_pointer("graph_create", graph, "graph");
    *graph = new fbn_graph;
  });
}

void fbn_graph_destroy(fbn_graph* graph) { delete graph; }

fbn_status fbn_graph_add(fbn_graph* graph, const fbn_layer* layer, int32_t* node) {
  return guard([&] {
    require_pointer("graph_add", graph, "graph");
    require_pointer("graph_add", node, "node");
    fbn_layer known = read_descriptor("graph_add", layer);
    complete_nested("graph_add", known.conv);
    complete_nested("graph_add", known.pool);
    *node = graph->graph.add(known);
  });
}

fbn_status fbn_graph_shape(const fbn_graph* graph, int32_t node, int32_t* rank, int64_t* shape) {
  return guard([&] {
    require_pointer("graph_shape", graph, "graph");
    require_pointer("graph_shape", rank, "rank");
    require_pointer("graph_shape", shape, "shape");
    const Shape& s = graph->graph.node(node).shape;
    *rank = static_cast<int32_t>(s.size());
    std::copy(s.begin(), s.end(), shape);
  });
}

fbn_status fbn_graph_layer_cost(const fbn_graph* graph, int32_t node, int64_t* trainable_parameters,
                                int64_t* other_parameters, int64_t* multiply_adds) {
  return guard([&] {
    require_pointer("graph_layer_cost", graph, "graph");
    const Node& n = graph->graph.node(node);
    int64_t counts[2] = {0, 0};
    for (const ParameterSpec& spec : n.parameters) counts[spec.trainable ? 0 : 1] += element_count(spec.shape);
    if (trainable_parameters != nullptr) *trainable_parameters = counts[0];
    if (other_parameters != nullptr) *other_parameters = counts[1];
    if (multiply_adds != nullptr) *multiply_adds = n.multiply_adds;
  });
}

fbn_status fbn_program_create(const fbn_graph* graph, int32_t output, const fbn_program_options* options,
                              fbn_program** program) {
  return guard([&] {
    require_pointer("program_create", graph, "graph");
    require_pointer("program_create", program, "program");
    fbn_program_options known = read_descriptor("program_create", options);
    complete_nested("program_create", known.optimizer);
    *program = new fbn_program{Program(graph->graph, output, known)};
  });
}

void fbn_program_destroy(fbn_program* program) { delete program; }

fbn_status fbn_program_set_max_batch(fbn_program* program, int64_t max_batch) {
  return guard([&] {
    require_pointer("set_max_batch", program, "program");
    program->program.set_max_batch(max_batch);
  });
}

fbn_status fbn_program_train(fbn_program* program, const void* x, const void* y, const int64_t* index, int64_t n,
                             fbn_step_result* result, const fbn_exec* exec) {
  return guard([&] {
    require_pointer("train", program, "program");
    if (result != nullptr) require_result("train", result);
    program->program.train(x, y, index, n, result, resolve_run("train", exec, n, x, y, "y"));
  });
}

fbn_status fbn_program_evaluate(fbn_program* program, const void* x, const void* y, const int64_t* index, int64_t n,
                                fbn_step_result* result, const fbn_exec* exec) {
  return guard([&] {
    require_pointer("evaluate", program, "program");
    if (result != nullptr) require_result("evaluate", result);
    program->program.evaluate(x, y, index, n, result, resolve_run("evaluate", exec, n, x, y, "y"));
  });
}

fbn_status fbn_program_predict(fbn_program* program, const void* x, const int64_t* index, int64_t n, float* out,
                               const fbn_exec* exec) {
  return guard([&] {
    require_pointer("predict", program, "program");
    program->program.predict(program->program.output(), x, index, n, out,
                             resolve_run("predict", exec, n, x, out, "out"));
  });
}

fbn_status fbn_program_node_output(fbn_program* program, int32_t node, const void* x, const int64_t* index, int64_t n,
                                   float* out, const fbn_exec* exec) {
  return guard([&] {
    require_pointer("node_output", program, "program");
    program->program.predict(node, x, index, n, out, resolve_run("node_output", exec, n, x, out, "out"));
  });
}

int32_t fbn_program_parameter_count(const fbn_program* program) {
  return program == nullptr ? 0 : static_cast<int32_t>(program->program.parameters().size());
}

const char* fbn_program_parameter_name(const fbn_program* program, int32_t parameter) {
  if (parameter < 0 || parameter >= fbn_program_parameter_count(program)) return nullptr;
  return program->program.parameters()[static_cast<size_t>(parameter)].spec.name.c_str();
}

fbn_status fbn_program_parameter_info(const fbn_program* program, int32_t parameter, int32_t* rank, int64_t* shape,
                                      int32_t* trainable) {
  return guard([&] {
    require_parameter("parameter_info", program, parameter);
    const ParameterSpec& spec = program->program.parameters()[static_cast<size_t>(parameter)].spec;
    if (rank != nullptr) *rank = static_cast<int32_t>(spec.shape.size());
    if (shape != nullptr) std::copy(spec.shape.begin(), spec.shape.end(), shape);
    if (trainable != nullptr) *trainable = spec.trainable ? 1 : 0;
  });
}

fbn_status fbn_program_get(const fbn_program* program, int32_t parameter, const char* what, float* out) {
  return guard([&] {
    require_pointer("program_get", program, "program");
    require_pointer("program_get", out, "out");
    program->program.get(parameter, what, out);
  });
}

fbn_status fbn_program_set(fbn_program* program, int32_t parameter, const char* what, const float* in) {
  return guard([&] {
    require_pointer("program_set", program, "program");
    require_pointer("program_set", in, "in");
    program->program.set(parameter, what, in);
  });
}

fbn_status fbn_program_find_parameter(const fbn_program* program, const char* name, int32_t* parameter) {
  return guard([&] {
    require_pointer("find_parameter", parameter, "parameter");
    *parameter = parameter_named("find_parameter", program, name);
  });
}

fbn_status fbn_program_get_by_name(const fbn_program* program, const char* name, const char* what, float* out,
                                   int64_t size) {
  return guard([&] {
    const int32_t parameter = parameter_of_size("get_by_name", program, name, out, size);
    program->program.get(parameter, what, out);
  });
}

fbn_status fbn_program_set_by_name(fbn_program* program, const char* name, const char* what, const float* in,
                                   int64_t size) {
  return guard([&] {
    const int32_t parameter = parameter_of_size("set_by_name", program, name, in, size);
    program->program.set(parameter, what, in);
  });
}

int64_t fbn_program_get_iteration(const fbn_program* program) {
  return program == nullptr ? 0 : program->program.iteration();
}

fbn_status fbn_program_set_iteration(fbn_program* program, int64_t iteration) {
  return guard([&] {
    require_pointer("set_iteration", program, "program");
    program->program.set_iteration(iteration);
  });
}

double fbn_program_get_learning_rate(const fbn_program* program) {
  return program == nullptr ? 0 : program->program.learning_rate();
}

fbn_status fbn_program_set_learning_rate(fbn_program* program, double learning_rate) {
  return guard([&] {
    require_pointer("set_learning_rate", program, "program");
    program->program.set_learning_rate(learning_rate);
  });
}

fbn_status fbn_program_describe(const fbn_program* program, char* text, size_t capacity, size_t* needed) {
  return guard([&] {
    require_pointer("describe", program, "program");
    const std::string all = program->program.describe();
    if (needed != nullptr) *needed = all.size() + 1;
    if (text != nullptr && capacity > 0) {
      const size_t size = std::min(all.size(), capacity - 1);
      std::memcpy(text, all.data(), size);
      text[size] = '\0';
    }
  });
}

fbn_status fbn_program_costs(const fbn_program* program, int64_t batch, fbn_cost_row* rows, int32_t capacity,
                             int32_t* count) {
  return guard([&] {
    require_pointer("costs", program, "program");
    require_pointer("costs", count, "count");
    const bool wanted = rows != nullptr && capacity > 0;
    if (wanted) require_result("costs", rows);
    const auto all = program->program.costs(batch);
    *count = static_cast<int32_t>(all.size());
    if (!wanted) return;
    const size_t size = rows->struct_size;
    for (int32_t i = 0; i < std::min(capacity, *count); ++i) {
      fbn_cost_row* row =
          reinterpret_cast<fbn_cost_row*>(reinterpret_cast<char*>(rows) + static_cast<size_t>(i) * size);
      row->struct_size = size;
      write_result(row, all[static_cast<size_t>(i)]);
    }
  });
}

fbn_status fbn_program_reset_costs(fbn_program* program) {
  return guard([&] {
    require_pointer("reset_costs", program, "program");
    program->program.reset_costs();
  });
}

}  // extern "C"
