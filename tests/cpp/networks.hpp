// Small networks, built through the C interface as a host without Python builds them.
#pragma once

#include <fastbn/fastbn.h>

#include <vector>

#include "check.hpp"

namespace networks {

inline int32_t add(fbn_graph* graph, fbn_layer layer, const char* name, std::vector<int32_t> inputs) {
  layer.struct_size = sizeof layer;
  layer.name = name;
  layer.num_inputs = static_cast<int32_t>(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) layer.inputs[i] = inputs[i];
  int32_t node = -1;
  CHECK(fbn_graph_add(graph, &layer, &node) == FBN_OK);
  return node;
}

inline fbn_program_options options(int64_t max_batch) {
  fbn_program_options o{};
  o.struct_size = sizeof o;
  o.max_batch = max_batch;
  o.seed = 1;
  o.loss = FBN_LOSS_SOFTMAX_CROSS_ENTROPY;
  o.labels_dtype = FBN_INT32;
  o.optimizer.struct_size = sizeof o.optimizer;
  o.optimizer.learning_rate = 0.5;
  return o;
}

inline fbn_exec exec_of(int32_t threads) {
  fbn_exec exec{};
  exec.struct_size = sizeof exec;
  exec.num_threads = threads;
  return exec;
}

inline fbn_step_result empty_result() {
  fbn_step_result r{};
  r.struct_size = sizeof r;
  return r;
}

// input 3 - dense 8 relu - dense 2, softmax cross-entropy, SGD
inline fbn_program* dense_program() {
  fbn_graph* graph = nullptr;
  CHECK(fbn_graph_create(&graph) == FBN_OK);
  fbn_layer input{};
  input.kind = FBN_LAYER_INPUT;
  input.rank = 1;
  input.shape[0] = 3;
  const int32_t in = add(graph, input, "in", {});
  fbn_layer dense{};
  dense.kind = FBN_LAYER_DENSE;
  dense.units = 8;
  dense.use_bias = 1;
  dense.activation = FBN_RELU;
  const int32_t hidden = add(graph, dense, "hidden", {in});
  dense.units = 2;
  dense.activation = FBN_LINEAR;
  const int32_t out = add(graph, dense, "out", {hidden});
  const fbn_program_options o = options(4);
  fbn_program* program = nullptr;
  CHECK(fbn_program_create(graph, out, &o, &program) == FBN_OK);
  fbn_graph_destroy(graph);
  return program;
}

inline constexpr int64_t kImageSize = 8 * 8 * 2, kImageClasses = 4;
inline constexpr int32_t kImageOutput = 9;

// input 8 x 8 x 2 - conv 8 - batch-norm - relu - max-pool - conv 8, added to its input - dropout - dense 4
inline fbn_graph* image_graph() {
  fbn_graph* graph = nullptr;
  CHECK(fbn_graph_create(&graph) == FBN_OK);
  fbn_layer layer{};
  layer.kind = FBN_LAYER_INPUT;
  layer.rank = 3;
  layer.shape[0] = layer.shape[1] = 8;
  layer.shape[2] = 2;
  int32_t node = add(graph, layer, "in", {});
  fbn_layer conv{};
  conv.kind = FBN_LAYER_CONV2D;
  conv.conv.out_channels = 8;
  conv.conv.kernel_height = conv.conv.kernel_width = 3;
  conv.conv.stride_height = conv.conv.stride_width = 1;
  conv.conv.dilation_height = conv.conv.dilation_width = 1;
  conv.conv.groups = 1;
  conv.conv.padding = FBN_PADDING_SAME;
  node = add(graph, conv, "conv", {node});
  layer = {};
  layer.kind = FBN_LAYER_BATCH_NORM;
  layer.epsilon = 1e-3;
  layer.momentum = 0.9;
  layer.center = layer.scale = 1;
  node = add(graph, layer, "norm", {node});
  layer = {};
  layer.kind = FBN_LAYER_ACTIVATION;
  layer.activation = FBN_RELU;
  node = add(graph, layer, "relu", {node});
  layer = {};
  layer.kind = FBN_LAYER_MAX_POOL2D;
  layer.pool.pool_height = layer.pool.pool_width = layer.pool.stride_height = layer.pool.stride_width = 2;
  const int32_t pool = add(graph, layer, "pool", {node});
  conv.use_bias = 1;
  node = add(graph, conv, "second", {pool});
  layer = {};
  layer.kind = FBN_LAYER_ADD;
  node = add(graph, layer, "sum", {pool, node});
  layer = {};
  layer.kind = FBN_LAYER_DROPOUT;
  layer.rate = 0.25;
  node = add(graph, layer, "dropout", {node});
  layer = {};
  layer.kind = FBN_LAYER_RESHAPE;
  layer.rank = 1;
  layer.shape[0] = 128;
  node = add(graph, layer, "flat", {node});
  layer = {};
  layer.kind = FBN_LAYER_DENSE;
  layer.units = 4;
  layer.use_bias = 1;
  node = add(graph, layer, "out", {node});
  CHECK(node == kImageOutput);
  return graph;
}

inline fbn_program_options image_options(int64_t max_batch) {
  fbn_program_options o = options(max_batch);
  o.optimizer.learning_rate = 0.01;
  o.optimizer.momentum = 0.9;
  return o;
}

inline fbn_program* image_program(int64_t max_batch) {
  fbn_graph* graph = image_graph();
  const fbn_program_options o = image_options(max_batch);
  fbn_program* program = nullptr;
  CHECK(fbn_program_create(graph, kImageOutput, &o, &program) == FBN_OK);
  fbn_graph_destroy(graph);
  return program;
}

// Every value of every parameter.
inline std::vector<float> weights(const fbn_program* program) {
  std::vector<float> all;
  for (int32_t p = 0; p < fbn_program_parameter_count(program); ++p) {
    int32_t rank = 0;
    int64_t shape[FBN_MAX_RANK], size = 1;
    CHECK(fbn_program_parameter_info(program, p, &rank, shape, nullptr) == FBN_OK);
    for (int32_t i = 0; i < rank; ++i) size *= shape[i];
    all.resize(all.size() + static_cast<size_t>(size));
    CHECK(fbn_program_get(program, p, "value", all.data() + all.size() - size) == FBN_OK);
  }
  return all;
}

}  // namespace networks
