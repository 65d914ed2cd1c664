// The graph: layers in the order they were added, with inferred shapes and the parameters they own.
#pragma once

#include <fastbn/fastbn.h>

#include <cstdint>
#include <string>
#include <vector>

#include "operators/conv2d.hpp"
#include "operators/pooling.hpp"

namespace fastbn {

using Shape = std::vector<int64_t>;  // of one sample

int64_t element_count(const Shape& shape);
std::string shape_text(const Shape& shape);

enum class ParameterRole { kernel, bias, gamma, beta, moving_mean, moving_variance };

struct ParameterSpec {
  std::string name;  // "<layer>/kernel"
  ParameterRole role;
  Shape shape;
  fbn_initializer initializer;
  int64_t fan_in, fan_out;
  bool trainable;
};

struct Node {
  fbn_layer layer;  // its name and inputs are in the two fields below
  std::string name;
  std::vector<int> inputs;
  Shape shape;
  int32_t dtype = FBN_FLOAT32;
  std::vector<ParameterSpec> parameters;
  int64_t multiply_adds = 0;  // forward, one sample
  Conv2dGeometry conv{};      // conv2d only
  Pool2dGeometry pool{};      // max and average pooling only

  int64_t size() const { return element_count(shape); }
  int64_t channels() const { return shape.back(); }
};

class Graph {
 public:
  // Validates the layer, infers its shape and returns its node. Throws naming the layer and the rule.
  int add(const fbn_layer& layer);
  const std::vector<Node>& nodes() const { return nodes_; }
  const Node& node(int index) const;

 private:
  void infer(Node& node) const;
  std::vector<Node> nodes_;
};

}  // namespace fastbn

struct fbn_graph {
  fastbn::Graph graph;
};
