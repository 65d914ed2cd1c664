// Batch-norms of evaluation and prediction that went into the weights of the layer before them.
//
// There a batch-norm is y = s x + t for each channel, with s = gamma / sqrt(variance + epsilon) and t = beta - mean s
// of the moving statistics. Behind a layer with weights W[.., o] and bias b this gives
//   W'[.., o] = W[.., o] s[o]      b'[o] = (b[o] - mean[o]) s[o] + beta[o]
// computed in float64 and rounded once.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "runtime/memory.hpp"

namespace fastbn {

class Graph;
struct Parameter;
struct PackedKernel;
struct ParameterStore;

// What the steps of one convolution or dense layer read instead of its parameters.
struct FoldedLayer {
  const Parameter *source, *source_bias;  // the layer's own; source_bias may be nullptr
  const PackedKernel* conv;               // nullptr: a dense layer
  // Of the batch-norm; gamma and beta may be nullptr. Output o of the layer has channel o mod channels, as it does
  // where a reshape lies between them.
  int64_t channels;
  double epsilon;
  const Parameter *gamma, *beta, *mean, *variance;

  Buffer kernel;      // packed for the forward pass, or in panels
  Buffer bias;        // one for each output
  Buffer factors;     // float64: moments and coefficients of the batch-norm, s of each output
  bool made = false;  // of the current weights

  int64_t outputs() const;
  // `rows`: room for a convolution's kernel.
  void make(float* rows) noexcept;
};

// All that plans of a program have asked for; one call at a time.
class FoldedLayers {
 public:
  // The layer `node` with the batch-norm `norm` (nodes) in its weights; stays where it is.
  const FoldedLayer& get(const Graph& graph, ParameterStore& store, int node, int norm);
  // Brings them up to date. Nobody may be reading those that are not: all of them after a change of weights, else those
  // that are new.
  void renew(bool weights_changed) noexcept;

 private:
  std::map<std::pair<int, int>, FoldedLayer> layers_;
  Buffer rows_;  // as large as the largest kernel: nothing is allocated when weights change
};

}  // namespace fastbn
