// The Python class `Graph`: the C graph, and what a program must know of its nodes to check arrays.
#pragma once

#include "arrays.hpp"

#include <memory>
#include <mutex>

namespace fastbn_python {

struct Node {
  int32_t kind;
  int32_t dtype;
  Shape shape;  // of one sample
};

struct Graph {
  struct Destroy {
    void operator()(fbn_graph* graph) const { fbn_graph_destroy(graph); }
  };
  std::unique_ptr<fbn_graph, Destroy> graph;
  std::vector<Node> nodes;
  mutable std::mutex mutex;  // the C graph is not for two threads at once
};

}  // namespace fastbn_python
