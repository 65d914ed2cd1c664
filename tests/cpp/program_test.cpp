// Programs through the C interface, as a host without Python drives them: training, and indices that are refused.
#include <cmath>
#include <string>
#include <vector>

#include "check.hpp"

using namespace fastbn;

namespace {

int32_t add_layer(fbn_graph* graph, fbn_layer layer, const char* name, std::vector<int32_t> inputs) {
  layer.struct_size = sizeof layer;
  layer.name = name;
  layer.num_inputs = static_cast<int32_t>(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) layer.inputs[i] = inputs[i];
  int32_t node = -1;
  CHECK(fbn_graph_add(graph, &layer, &node) == FBN_OK);
  return node;
}

// input 3 - dense 8 relu - dense 2, softmax cross-entropy, SGD
fbn_program* make_program() {
  fbn_graph* graph = nullptr;
  CHECK(fbn_graph_create(&graph) == FBN_OK);
  fbn_layer input{};
  input.kind = FBN_LAYER_INPUT;
  input.rank = 1;
  input.shape[0] = 3;
  const int32_t in = add_layer(graph, input, "in", {});
  fbn_layer dense{};
  dense.kind = FBN_LAYER_DENSE;
  dense.units = 8;
  dense.use_bias = 1;
  dense.activation = FBN_RELU;
  const int32_t hidden = add_layer(graph, dense, "hidden", {in});
  dense.units = 2;
  dense.activation = FBN_LINEAR;
  const int32_t out = add_layer(graph, dense, "out", {hidden});
  fbn_program_options options{};
  options.struct_size = sizeof options;
  options.max_batch = 4;
  options.seed = 1;
  options.loss = FBN_LOSS_SOFTMAX_CROSS_ENTROPY;
  options.labels_dtype = FBN_INT32;
  options.optimizer.struct_size = sizeof options.optimizer;
  options.optimizer.learning_rate = 0.5;
  fbn_program* program = nullptr;
  CHECK(fbn_program_create(graph, out, &options, &program) == FBN_OK);
  fbn_graph_destroy(graph);
  return program;
}

const float kX[4][3] = {{1, 0, 0}, {0, 1, 0}, {1, 0, 1}, {0, 1, 1}};
const int32_t kY[4] = {0, 1, 0, 1};

void test_training() {
  fbn_program* program = make_program();
  fbn_step_result first{}, last{};
  CHECK(fbn_program_train(program, kX, kY, nullptr, 4, &first, nullptr) == FBN_OK);
  for (int step = 0; step < 50; ++step) CHECK(fbn_program_train(program, kX, kY, nullptr, 4, &last, nullptr) == FBN_OK);
  CHECK(std::isfinite(first.loss) && last.loss < first.loss / 4 && last.correct == 4);
  float all[4][2], some[2][2];
  const int64_t rows[2] = {3, 0};
  CHECK(fbn_program_predict(program, kX, nullptr, 4, &all[0][0], nullptr) == FBN_OK);
  CHECK(fbn_program_predict(program, kX, rows, 2, &some[0][0], nullptr) == FBN_OK);
  CHECK(some[0][0] == all[3][0] && some[0][1] == all[3][1] && some[1][0] == all[0][0]);
  fbn_program_destroy(program);
}

void test_negative_index() {
  fbn_program* program = make_program();
  const int64_t rows[2] = {0, -1};
  float out[4] = {7, 7, 7, 7};
  CHECK(fbn_program_train(program, kX, kY, rows, 2, nullptr, nullptr) == FBN_INVALID_VALUE);
  CHECK(std::string(fbn_last_error()).find("index[1] = -1") != std::string::npos);
  CHECK(fbn_program_get_iteration(program) == 0);
  CHECK(fbn_program_evaluate(program, kX, kY, rows, 2, nullptr, nullptr) == FBN_INVALID_VALUE);
  CHECK(fbn_program_predict(program, kX, rows, 2, out, nullptr) == FBN_INVALID_VALUE);
  CHECK(out[0] == 7 && out[3] == 7);
  fbn_program_destroy(program);
}

}  // namespace

int main() {
  test_training();
  test_negative_index();
  return check::report("program_test");
}
