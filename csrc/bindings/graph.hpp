// The Python class `Graph`: the C graph, and what a program must know of its nodes to check arrays.
#pragma once

#include <memory>
#include <mutex>

#include "arrays.hpp"

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
  // The C graph is not for two threads at once. Nothing of Python is touched while it is held.
  mutable std::mutex mutex;
};

}  // namespace fastbn_python
