// Programs through the C interface, as a host without Python drives them: training, parameters by name, a workspace of
// the caller, callers compiled against other headers, and indices that are refused.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "networks.hpp"

using namespace fastbn;

namespace {

const float kX[4][3] = {{1, 0, 0}, {0, 1, 0}, {1, 0, 1}, {0, 1, 1}};
const int32_t kY[4] = {0, 1, 0, 1};

void test_training() {
  fbn_program* program = networks::dense_program();
  fbn_step_result first = networks::empty_result(), last = networks::empty_result();
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
  fbn_program* program = networks::dense_program();
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

void test_parameters_by_name() {
  fbn_program* program = networks::dense_program();
  int32_t parameter = -1;
  CHECK(fbn_program_find_parameter(program, "out/bias", &parameter) == FBN_OK && parameter == 3);
  const float given[2] = {0.25f, -4};
  float found[2] = {0, 0};
  CHECK(fbn_program_set_by_name(program, "out/bias", "value", given, 2) == FBN_OK);
  CHECK(fbn_program_get(program, parameter, "value", found) == FBN_OK && found[0] == 0.25f && found[1] == -4);
  found[0] = 7;
  CHECK(fbn_program_get_by_name(program, "out/bias", "value", found, 2) == FBN_OK && found[0] == 0.25f);

  found[0] = found[1] = 7;
  CHECK(fbn_program_get_by_name(program, "out/bias", "value", found, 1) == FBN_INVALID_VALUE);
  CHECK(std::strcmp(fbn_last_error(), "get_by_name: out/bias holds 2 values. Received: an array of 1") == 0);
  CHECK(fbn_program_get_by_name(program, "out", "value", found, 2) == FBN_INVALID_VALUE);
  CHECK(std::strcmp(fbn_last_error(),
                    "get_by_name: name must be one of hidden/kernel, hidden/bias, out/kernel, out/bias. "
                    "Received: 'out'") == 0);
  CHECK(fbn_program_get_by_name(program, "out/bias", "momentum", found, 2) == FBN_INVALID_VALUE);
  CHECK(fbn_program_get_by_name(nullptr, "out/bias", "value", found, 2) == FBN_INVALID_VALUE);
  CHECK(fbn_program_get_by_name(program, nullptr, "value", found, 2) == FBN_INVALID_VALUE);
  CHECK(fbn_program_set_by_name(program, "out/bias", "value", nullptr, 2) == FBN_INVALID_VALUE);
  CHECK(fbn_program_find_parameter(program, "x", &parameter) == FBN_INVALID_VALUE && parameter == 3);
  CHECK(found[0] == 7 && found[1] == 7);
  fbn_program_destroy(program);
}

// Labels that change after they were checked are no index: the step is taken, and its loss is NaN.
void test_labels_that_change(int32_t beyond) {
  struct Host {
    std::vector<int32_t> labels;
    int32_t value;
  } host{std::vector<int32_t>(64, 1), beyond};
  const std::vector<float> x(host.labels.size() * networks::kImageSize, 0.5f);
  fbn_program* program = networks::image_program(static_cast<int64_t>(host.labels.size()));
  fbn_exec exec{};
  exec.struct_size = sizeof exec;
  exec.num_threads = 2;
  exec.parallel_for_host = &host;
  exec.parallel_for = [](void* h, int64_t count, fbn_task task, void* argument) {
    Host& changing = *static_cast<Host*>(h);
    changing.labels[3] = changing.value;
    for (int64_t i = 0; i < count; ++i) task(i, 0, argument);
  };
  fbn_step_result result = networks::empty_result();
  const int64_t n = static_cast<int64_t>(host.labels.size());
  CHECK(fbn_program_train(program, x.data(), host.labels.data(), nullptr, n, &result, &exec) == FBN_OK);
  CHECK(std::isnan(result.loss) && fbn_program_get_iteration(program) == 1);
  for (const float w : networks::weights(program)) CHECK(std::isfinite(w));
  CHECK(fbn_program_train(program, x.data(), host.labels.data(), nullptr, n, &result, &exec) == FBN_INVALID_VALUE);
  fbn_program_destroy(program);
}

// Steps in a workspace of exactly the queried size give the bits of steps in the program's own memory.
void test_workspace(int32_t threads) {
  constexpr int64_t kBatch = 8;
  std::vector<float> x(kBatch * networks::kImageSize);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 11) - 5;
  const int32_t y[kBatch] = {0, 1, 2, 3, 0, 1, 2, 3};
  std::vector<float> out[2];
  std::vector<float> trained[2];
  fbn_step_result results[2] = {networks::empty_result(), networks::empty_result()};
  for (int own = 0; own < 2; ++own) {
    out[own].resize(kBatch * networks::kImageClasses);
    fbn_program* program = networks::image_program(kBatch);
    const auto call = [&](auto&& function) {
      fbn_exec exec{};
      exec.struct_size = sizeof exec;
      exec.num_threads = threads;
      std::unique_ptr<void, void (*)(void*)> workspace(nullptr, std::free);
      if (own == 0) {
        size_t needed = 0;
        exec.workspace_query = &needed;
        CHECK(function(&exec) == FBN_OK && needed > 0);
        exec.workspace_query = nullptr;
        workspace.reset(std::aligned_alloc(64, needed));
        exec.workspace = workspace.get();
        exec.workspace_size = needed - 1;
        CHECK(function(&exec) == FBN_INVALID_VALUE);
        exec.workspace_size = needed;
      }
      CHECK(function(&exec) == FBN_OK);
    };
    for (int64_t n = kBatch; n > kBatch - 2; --n)
      call([&](const fbn_exec* e) { return fbn_program_train(program, x.data(), y, nullptr, n, nullptr, e); });
    CHECK(fbn_program_get_iteration(program) == 2);
    call([&](const fbn_exec* e) {
      return fbn_program_evaluate(program, x.data(), y, nullptr, kBatch, &results[own], e);
    });
    call(
        [&](const fbn_exec* e) { return fbn_program_predict(program, x.data(), nullptr, kBatch, out[own].data(), e); });
    trained[own] = networks::weights(program);
    fbn_program_destroy(program);
  }
  CHECK(trained[0] == trained[1] && out[0] == out[1]);
  CHECK(results[0].samples == kBatch && results[0].loss == results[1].loss);
}

// Several threads predict, evaluate and read outputs between, each the first to need a plan or new weights at some
// time, while batch-norm's are set: every result is of the weights before or after, the last of the last.
void test_inference_from_threads() {
  constexpr int64_t kBatch = 4;
  std::vector<float> x(kBatch * networks::kImageSize);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 11) - 5;
  const int32_t y[kBatch] = {0, 1, 2, 3};
  constexpr int kSets = 20;
  const auto predict = [&](fbn_program* p, float* out) {
    return fbn_program_predict(p, x.data(), nullptr, kBatch, out, nullptr) == FBN_OK;
  };
  const auto set_gamma = [](fbn_program* p, int i) {
    const std::vector<float> gamma(8, 1.0f + static_cast<float>(i));
    CHECK(fbn_program_set_by_name(p, "norm/gamma", "value", gamma.data(), 8) == FBN_OK);
  };
  using Output = std::vector<float>;
  const auto output = [] { return Output(kBatch * networks::kImageClasses); };
  std::vector<Output> expected;
  for (int i = 0; i <= kSets; ++i) {
    fbn_program* fresh = networks::image_program(kBatch);
    set_gamma(fresh, i);
    expected.push_back(output());
    CHECK(predict(fresh, expected.back().data()));
    fbn_program_destroy(fresh);
  }
  CHECK(expected.front() != expected.back());

  fbn_program* program = networks::image_program(kBatch);
  set_gamma(program, 0);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int32_t first = 1; first <= 3; ++first) {
    threads.emplace_back([&, first] {
      fbn_exec exec{};
      exec.struct_size = sizeof exec;
      exec.num_threads = 1;
      for (int32_t round = 0; round < kSets; ++round) {
        Output found = output(), between(kBatch * 8 * 8 * 8);
        const int32_t node = 1 + (first + round) % 3;  // conv, norm, relu
        if (!predict(program, found.data())) ++wrong;
        if (std::find(expected.begin(), expected.end(), found) == expected.end()) ++wrong;
        if (fbn_program_node_output(program, node, x.data(), nullptr, kBatch, between.data(), &exec) != FBN_OK) ++wrong;
        if (fbn_program_evaluate(program, x.data(), y, nullptr, kBatch, nullptr, &exec) != FBN_OK) ++wrong;
      }
    });
  }
  for (int i = 1; i <= kSets; ++i) set_gamma(program, i);
  for (std::thread& thread : threads) thread.join();
  Output found = output();
  CHECK(wrong == 0 && predict(program, found.data()) && found == expected.back());
  fbn_program_destroy(program);
}

// The text of a failure is the thread's own.
void test_errors_of_threads() {
  int32_t rank = 0;
  CHECK(fbn_graph_shape(nullptr, 0, &rank, nullptr) == FBN_INVALID_VALUE);
  const std::string before = fbn_last_error();
  std::string in_thread = "none";
  std::thread([&] {
    in_thread = fbn_last_error();
    CHECK(fbn_set_num_threads(-1) == FBN_INVALID_VALUE);
    in_thread += fbn_last_error();
  }).join();
  CHECK(in_thread.find("fbn_set_num_threads: ") == 0);  // nothing of ours in front
  CHECK(before == fbn_last_error() && before.find("graph_shape: ") == 0);
}

// What a caller compiled against another header hands over.
void test_struct_sizes() {
  fbn_program* program = networks::dense_program();
  fbn_step_result result = networks::empty_result();

  fbn_exec exec{};
  exec.struct_size = offsetof(fbn_exec, interrupted);  // before fields were added at the end: they are not read
  exec.interrupted = reinterpret_cast<int32_t (*)(void*)>(1);
  CHECK(fbn_program_evaluate(program, kX, kY, nullptr, 4, &result, &exec) == FBN_OK);
  exec.struct_size -= 8;
  CHECK(fbn_program_evaluate(program, kX, kY, nullptr, 4, &result, &exec) == FBN_INVALID_VALUE);

  struct {  // of a later header
    fbn_exec known;
    int64_t later;
  } longer{};
  longer.known.struct_size = sizeof longer;
  CHECK(fbn_program_evaluate(program, kX, kY, nullptr, 4, &result, &longer.known) == FBN_OK);
  longer.later = 1 << 20;
  CHECK(fbn_program_evaluate(program, kX, kY, nullptr, 4, &result, &longer.known) == FBN_UNSUPPORTED);

  fbn_dense d{};
  d.struct_size = sizeof d;
  d.rows = d.in_features = d.out_features = 1;
  const float one = 1;
  float y = 0;
  CHECK(fbn_dense_forward(&d, &one, &one, nullptr, &y, nullptr) == FBN_OK && y == 1);
  d.reserved[FBN_RESERVED - 1] = 1;
  CHECK(fbn_dense_forward(&d, &one, &one, nullptr, &y, nullptr) == FBN_UNSUPPORTED);

  fbn_graph* graph = networks::image_graph();
  fbn_program_options options = networks::image_options(4);
  options.optimizer.struct_size = 0;  // need not be set inside another descriptor
  fbn_program* other = nullptr;
  options.optimizer.reserved[0] = 1;
  CHECK(fbn_program_create(graph, networks::kImageOutput, &options, &other) == FBN_UNSUPPORTED && other == nullptr);
  options.optimizer.reserved[0] = 0;
  CHECK(fbn_program_create(graph, networks::kImageOutput, &options, &other) == FBN_OK);
  fbn_program_destroy(other);
  fbn_graph_destroy(graph);

  // Results: as much as the caller has room for, and nothing behind it.
  CHECK(result.struct_size == sizeof result && result.samples == 4);
  result.struct_size = 8;
  CHECK(fbn_program_evaluate(program, kX, kY, nullptr, 4, &result, nullptr) == FBN_INVALID_VALUE);
  struct Row {
    fbn_cost_row known;
    int64_t later;
  };
  int32_t count = 0;
  CHECK(fbn_program_costs(program, 4, nullptr, 0, &count) == FBN_OK && count > 3);
  std::vector<Row> rows(static_cast<size_t>(count));
  for (Row& row : rows) row.later = 99;
  rows[0].known.struct_size = sizeof(Row);
  CHECK(fbn_program_costs(program, 4, &rows[0].known, count, &count) == FBN_OK);
  CHECK(std::strcmp(rows.back().known.layer, "(loop)") == 0);
  for (const Row& row : rows) CHECK(row.later == 99 && row.known.struct_size == sizeof(Row));
  fbn_program_destroy(program);
}

// A program belongs to the instruction set it was made for.
void test_another_instruction_set() {
  const std::string own = fbn_isa_in_use();
  if (own == "baseline") return;
  fbn_program* program = networks::dense_program();
  float out[4][2];
  CHECK(fbn_program_predict(program, kX, nullptr, 4, &out[0][0], nullptr) == FBN_OK);
  CHECK(fbn_set_isa("baseline") == FBN_OK);
  CHECK(fbn_program_predict(program, kX, nullptr, 4, &out[0][0], nullptr) == FBN_INVALID_VALUE);
  CHECK(std::string(fbn_last_error()).find(own + ". Received: baseline") != std::string::npos);
  CHECK(fbn_program_evaluate(program, kX, kY, nullptr, 4, nullptr, nullptr) == FBN_INVALID_VALUE);
  CHECK(fbn_program_train(program, kX, kY, nullptr, 4, nullptr, nullptr) == FBN_INVALID_VALUE);
  CHECK(fbn_program_set_max_batch(program, 2) == FBN_INVALID_VALUE);
  CHECK(fbn_set_isa(own.c_str()) == FBN_OK);
  CHECK(fbn_program_train(program, kX, kY, nullptr, 4, nullptr, nullptr) == FBN_OK);
  fbn_program_destroy(program);
}

void test_refused_graphs() {
  fbn_graph* graph = nullptr;
  CHECK(fbn_graph_create(&graph) == FBN_OK);
  fbn_layer layer{};
  layer.kind = FBN_LAYER_INPUT;
  layer.rank = 1;
  layer.shape[0] = 4;
  const int32_t in = networks::add(graph, layer, "in", {});
  layer = {};
  layer.struct_size = sizeof layer;
  layer.kind = FBN_LAYER_ACTIVATION;
  layer.name = "slope";
  layer.num_inputs = 1;
  layer.inputs[0] = in;
  layer.activation = FBN_LEAKY_RELU;
  layer.alpha = -0.5f;
  int32_t node = -1;
  CHECK(fbn_graph_add(graph, &layer, &node) == FBN_INVALID_VALUE);
  CHECK(std::string(fbn_last_error()).find("not negative") != std::string::npos);

  // The loss would be over other classes than the softmax.
  layer = {};
  layer.kind = FBN_LAYER_ACTIVATION;
  layer.activation = FBN_SOFTMAX;
  node = networks::add(graph, layer, "softmax", {in});
  layer = {};
  layer.kind = FBN_LAYER_RESHAPE;
  layer.rank = 2;
  layer.shape[0] = layer.shape[1] = 2;
  node = networks::add(graph, layer, "pairs", {node});
  const fbn_program_options options = networks::options(4);
  fbn_program* program = nullptr;
  CHECK(fbn_program_create(graph, node, &options, &program) == FBN_INVALID_VALUE && program == nullptr);
  CHECK(std::string(fbn_last_error()).find("'softmax'. Received: 4 channels, and 2") != std::string::npos);
  fbn_graph_destroy(graph);
}

// dy in a padded copy passes 63 bits although x does not.
void test_large_dilation() {
  fbn_conv2d d{};
  d.struct_size = sizeof d;
  d.batch = d.height = 1;
  d.width = 8;
  d.in_channels = 1;
  d.out_channels = int64_t{1} << 30;
  d.kernel_height = 1;
  d.kernel_width = 9;
  d.stride_height = d.stride_width = d.dilation_height = d.groups = 1;
  d.dilation_width = INT32_MAX;
  d.padding = FBN_PADDING_SAME;
  size_t bytes = 0;
  fbn_exec exec = networks::exec_of(1);
  exec.workspace_query = &bytes;
  float x = 0, dy = 0, kernel = 0, dx = 0;
  CHECK(fbn_conv2d_backward(&d, &dy, &x, &kernel, nullptr, &dx, nullptr, nullptr, &exec) == FBN_OUT_OF_MEMORY);
}

}  // namespace

int main() {
  test_training();
  test_negative_index();
  test_parameters_by_name();
  CHECK(fbn_set_serial_threshold(0) == FBN_OK);
  for (const int32_t beyond : {4, -1, 1 << 30}) test_labels_that_change(beyond);
  CHECK(fbn_set_serial_threshold(-1) == FBN_OK);
  for (const int32_t threads : {1, 3}) test_workspace(threads);
  test_struct_sizes();
  test_inference_from_threads();
  test_errors_of_threads();
  test_another_instruction_set();
  test_refused_graphs();
  test_large_dilation();
  return check::report("program_test");
}
