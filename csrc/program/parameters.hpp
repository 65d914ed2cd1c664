// Parameters of a program: values, optimizer slots, gradients, and weights as inference reads them: packed for the
// convolutions, and with batch-norms folded in.
#pragma once

#include <atomic>
#include <map>
#include <vector>

#include "folding.hpp"
#include "graph.hpp"
#include "operators/dense.hpp"
#include "operators/optimizers.hpp"
#include "runtime/memory.hpp"

namespace fastbn {

struct Parameter {
  ParameterSpec spec;
  int64_t size = 0;
  Buffer value;
  Buffer gradient;          // only when gradients are kept
  Buffer slots[kMaxSlots];  // of the optimizer; trainable parameters only
  // The kernel of a dense layer: all of them lie in its panels.
  bool in_panels = false;
  DensePlan dense() const { return DensePlan(spec.shape[0], spec.shape[1], KernelLayout::panels); }
};

// A buffer for the parameter's floats, which stand in it as in the buffers above; zeros.
Buffer parameter_buffer(const Parameter& p);
// From and to (the spec's shape) row-major.
void write_parameter(const Parameter& p, const float* rows, const Buffer& to);
void read_parameter(const Parameter& p, const Buffer& from, float* rows);

// Convolution kernels in the order that the passes read them, of one node.
struct PackedKernel {
  Conv2dPlan plan;
  const Parameter* kernel;
  Buffer forward, backward;
};

struct ParameterStore {
  std::vector<Parameter> parameters;   // in graph order; never resized after creation
  std::vector<int> first_of_node;      // parameters of node i: [first_of_node[i], first_of_node[i + 1])
  std::map<int, PackedKernel> packed;  // by node
  FoldedLayers folded;
  int slot_count = 0;
  bool keep_gradients = false;

  // nullptr where the node has none of that role.
  Parameter* find(int node, ParameterRole role);
};

// One update of elements [begin, begin + size) of a parameter with gradient g[0..size); keeps the gradient
// where gradients are kept.
void update_parameter(const ParameterStore& store, const UpdateRule& rule, Parameter& p, const float* g, int64_t begin,
                      int64_t size) noexcept;

}  // namespace fastbn
