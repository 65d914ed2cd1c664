// Batch-norms of evaluation and prediction that went into the weights of the layer before or behind them.
//
// There a batch-norm is y = s x + t for each channel, with s = gamma / sqrt(variance + epsilon) and t = beta - mean s
// of the moving statistics. In front of a layer (s, t) and behind it (s', t') give, for weights W[.., k, o] and bias b,
//   W'[.., k, o] = s[k] W[.., k, o] s'[o]      b'[o] = (b[o] + sum over W[.., k, o] of t[k] W[.., k, o]) s'[o] + t'[o]
// computed in float64 and rounded once. Either may be missing, both may be there.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

#include "runtime/memory.hpp"

namespace fastbn {

class Graph;
struct Parameter;
struct PackedKernel;
struct ParameterStore;

// y = s x + t of one batch-norm, for a layer that counts its channels over and over (k mod channels), as it does where
// a reshape lies between them.
struct FoldedNorm {
  int64_t channels = 0;  // 0: there is none
  double epsilon = 0;
  const Parameter *gamma = nullptr, *beta = nullptr, *mean = nullptr, *variance = nullptr;

  // s and t of `count` channels of the layer; 1 and 0 where there is none.
  void write(int64_t count, double* scale, double* shift) const noexcept;
};

// What the steps of one convolution or dense layer read instead of its parameters.
struct FoldedLayer {
  const Parameter *source, *source_bias;  // the layer's own; source_bias may be nullptr
  const PackedKernel* conv;               // nullptr: a dense layer
  FoldedNorm before, after;
  Buffer kernel;      // packed for the forward pass, or in panels
  Buffer bias;        // one for each output
  Buffer factors;     // float64: s and t of the inputs, s', t' and the bias of the outputs
  bool made = false;  // of the current weights

  int64_t inputs() const;
  int64_t outputs() const;
  // `rows`: room for a convolution's kernel.
  void make(float* rows) noexcept;
};

// All that plans of a program have asked for. Calls from several threads are safe.
class FoldedLayers {
 public:
  // The layer `node` with the batch-norms `before` and `after` (nodes, -1: none); stays where it is.
  const FoldedLayer& get(const Graph& graph, ParameterStore& store, int node, int before, int after);
  // Brings them up to date. Nobody may be reading those that are not: all of them after a change of weights, else those
  // that are new.
  void renew(bool weights_changed) noexcept;

 private:
  std::mutex mutex_;
  std::map<std::tuple<int, int, int>, FoldedLayer> layers_;
  Buffer rows_;  // as large as the largest kernel: nothing is allocated when weights change
};

}  // namespace fastbn
