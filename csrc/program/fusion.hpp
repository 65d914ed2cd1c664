// The fusion rules: from the layers of a graph to the operators of a program.
#pragma once

#include <string>
#include <vector>

#include "graph.hpp"

namespace fastbn {

enum class OpKind {
  input,
  conv2d,
  dense,
  batch_norm,
  activation,
  max_pool2d,
  avg_pool2d,
  global_avg_pool2d,
  dropout,
  rescaling,
  add,
  concatenate
};

// One operator with everything that was fused into it. Values are named by graph nodes.
struct Op {
  OpKind kind;
  int node;                 // the layer that names it and owns its parameters
  std::vector<int> inputs;  // values read
  int output;               // value written: `node`, or the last layer fused behind it
  int32_t activation = FBN_LINEAR;
  float alpha = 0;
  int residual = -1;               // batch_norm: a value added before the activation
  std::vector<std::string> fused;  // names of the fused layers
  int folded = -1;                 // conv2d, dense: the batch-norm that is part of the weights (folding.hpp)
};

struct FusedGraph {
  std::vector<Op> ops;  // in topological order, ancestors of the output only
  int output;           // value: the prediction, or the logits where softmax went into the loss
};

// `loss`: fbn_loss_kind; without training dropout is the identity.
FusedGraph fuse(const Graph& graph, int output, bool training, int32_t loss);

}  // namespace fastbn
