#include "fusion.hpp"

#include <algorithm>
#include <utility>

#include "runtime/status.hpp"

namespace fastbn {
namespace {

struct Rewriter {
  const Graph& graph;
  bool training;
  int32_t loss;
  int output_node;
  std::vector<Op> ops;
  int output;  // value

  int uses(int value) const {
    int count = value == output ? 1 : 0;
    for (const Op& op : ops) {
      count += static_cast<int>(std::count(op.inputs.begin(), op.inputs.end(), value));
      count += op.residual == value ? 1 : 0;
    }
    return count;
  }
  // The operator that writes `value`, if `value` is read once, by an operator.
  Op* sole_producer(int value) {
    if (value == output || uses(value) != 1) return nullptr;
    for (Op& op : ops)
      if (op.output == value) return &op;
    return nullptr;
  }
  void replace_uses(int from, int to) {
    for (Op& op : ops) {
      std::replace(op.inputs.begin(), op.inputs.end(), from, to);
      if (op.residual == from) op.residual = to;
    }
    if (output == from) output = to;
  }
  // `op` takes over what `consumer` wrote; `consumer` is removed by the caller.
  void absorb(Op& op, const Op& consumer) {
    op.fused.push_back(graph.node(consumer.node).name);
    op.fused.insert(op.fused.end(), consumer.fused.begin(), consumer.fused.end());
    op.output = consumer.output;
  }
};

// Every rule looks at operator i and returns true when it has removed it or changed the list.
using Rule = bool (*)(Rewriter&, size_t i);

// softmax at the output + cross-entropy: the loss works on logits and its gradient is p - t.
bool softmax_cross_entropy(Rewriter& r, size_t i) {
  const Op& op = r.ops[i];
  if (r.loss != FBN_LOSS_SOFTMAX_CROSS_ENTROPY || op.kind != OpKind::activation || op.activation != FBN_SOFTMAX ||
      op.output != r.output || r.uses(op.output) != 1)
    return false;
  const int64_t channels = r.graph.node(op.node).channels(), classes = r.graph.node(r.output_node).channels();
  require(channels == classes, "program: the softmax before the loss must be over the output's last axis, '",
          r.graph.node(op.node).name, "'. Received: ", channels, " channels, and ", classes, " of the output");
  r.output = op.inputs[0];
  r.ops.erase(r.ops.begin() + static_cast<ptrdiff_t>(i));
  return true;
}

// Dropout outside training, dropout of nothing, and the linear activation are the identity.
bool identity(Rewriter& r, size_t i) {
  const Op& op = r.ops[i];
  const bool no_dropout = op.kind == OpKind::dropout && (!r.training || r.graph.node(op.node).layer.rate == 0);
  const bool linear = op.kind == OpKind::activation && op.activation == FBN_LINEAR;
  if (!no_dropout && !linear) return false;
  const int from = op.output, to = op.inputs[0];
  r.ops.erase(r.ops.begin() + static_cast<ptrdiff_t>(i));
  r.replace_uses(from, to);
  return true;
}

// conv or dense + activation, batch-norm + activation: applied while the result is in registers.
bool producer_activation(Rewriter& r, size_t i) {
  const Op consumer = r.ops[i];
  if (consumer.kind != OpKind::activation || consumer.activation == FBN_SOFTMAX) return false;
  Op* producer = r.sole_producer(consumer.inputs[0]);
  if (producer == nullptr || producer->activation != FBN_LINEAR) return false;
  if (producer->kind != OpKind::conv2d && producer->kind != OpKind::dense && producer->kind != OpKind::batch_norm)
    return false;
  producer->activation = consumer.activation;
  producer->alpha = consumer.alpha;
  r.absorb(*producer, consumer);
  r.ops.erase(r.ops.begin() + static_cast<ptrdiff_t>(i));
  return true;
}

// batch-norm + residual: the sum is made as the normalised value is written.
bool batch_norm_add(Rewriter& r, size_t i) {
  const Op consumer = r.ops[i];
  if (consumer.kind != OpKind::add || consumer.inputs.size() != 2) return false;
  for (size_t side = 2; side-- > 0;) {  // the later operand first: the end of a residual branch
    Op* producer = r.sole_producer(consumer.inputs[side]);
    const int other = consumer.inputs[1 - side];
    if (producer == nullptr || producer->kind != OpKind::batch_norm || producer->activation != FBN_LINEAR ||
        producer->residual >= 0)
      continue;
    producer->residual = other;
    r.absorb(*producer, consumer);
    Op moved = std::move(*producer);  // must now come after the producer of `other`: take the place of the sum
    const size_t from = static_cast<size_t>(producer - r.ops.data());
    r.ops[i] = std::move(moved);
    r.ops.erase(r.ops.begin() + static_cast<ptrdiff_t>(from));
    return true;
  }
  return false;
}

// conv or dense + batch-norm outside training, where it is y = s x + t for each channel: part of the layer's weights. A
// reshape may lie between them where channel c of the layer is channel c mod n of the batch-norm for every pixel. A
// batch-norm in front of a layer stays: s x + t in the weights would be a sum of s W x and of t W, and where channels
// lie far from zero these cancel, while x - mean keeps its digits.
bool batch_norm_behind(Rewriter& r, size_t i) {
  const Op consumer = r.ops[i];
  if (r.training || consumer.kind != OpKind::batch_norm || consumer.residual >= 0) return false;
  Op* producer = r.sole_producer(consumer.inputs[0]);
  if (producer == nullptr || (producer->kind != OpKind::conv2d && producer->kind != OpKind::dense) ||
      producer->activation != FBN_LINEAR || producer->folded >= 0 ||
      r.graph.node(producer->node).channels() % r.graph.node(consumer.node).channels() != 0)
    return false;
  producer->folded = consumer.node;
  producer->activation = consumer.activation;
  producer->alpha = consumer.alpha;
  r.absorb(*producer, consumer);
  r.ops.erase(r.ops.begin() + static_cast<ptrdiff_t>(i));
  return true;
}

// relu + max-pool = max-pool + relu: the full activation is never written.
bool relu_max_pool(Rewriter& r, size_t i) {
  Op& pool = r.ops[i];
  if (pool.kind != OpKind::max_pool2d || pool.activation != FBN_LINEAR) return false;
  Op* producer = r.sole_producer(pool.inputs[0]);
  if (producer == nullptr || producer->activation != FBN_RELU ||
      (producer->kind != OpKind::conv2d && producer->kind != OpKind::dense))
    return false;
  producer->activation = FBN_LINEAR;
  pool.activation = FBN_RELU;
  pool.fused.push_back(r.graph.node(producer->node).name + " relu");
  return true;
}

// An addition goes into a batch-norm before that may go into weights: the sum is then made in one pass.
constexpr Rule kRules[] = {softmax_cross_entropy, identity,          producer_activation,
                           batch_norm_add,        batch_norm_behind, relu_max_pool};

OpKind op_kind(int32_t layer_kind) {
  switch (layer_kind) {
    case FBN_LAYER_INPUT:
      return OpKind::input;
    case FBN_LAYER_CONV2D:
      return OpKind::conv2d;
    case FBN_LAYER_DENSE:
      return OpKind::dense;
    case FBN_LAYER_BATCH_NORM:
      return OpKind::batch_norm;
    case FBN_LAYER_ACTIVATION:
      return OpKind::activation;
    case FBN_LAYER_MAX_POOL2D:
      return OpKind::max_pool2d;
    case FBN_LAYER_AVG_POOL2D:
      return OpKind::avg_pool2d;
    case FBN_LAYER_GLOBAL_AVG_POOL2D:
      return OpKind::global_avg_pool2d;
    case FBN_LAYER_DROPOUT:
      return OpKind::dropout;
    case FBN_LAYER_RESCALING:
      return OpKind::rescaling;
    case FBN_LAYER_ADD:
      return OpKind::add;
    case FBN_LAYER_CONCATENATE:
      return OpKind::concatenate;
    default:
      fail(FBN_INTERNAL, "program: no operator for this kind of layer");
  }
}

}  // namespace

FusedGraph fuse(const Graph& graph, int output, bool training, int32_t loss) {
  const auto& nodes = graph.nodes();
  std::vector<bool> wanted(nodes.size(), false);
  wanted[static_cast<size_t>(output)] = true;
  for (size_t i = nodes.size(); i-- > 0;)
    if (wanted[i])
      for (const int input : nodes[i].inputs) wanted[static_cast<size_t>(input)] = true;

  // A value of its own per node; a reshape is another view of its input's value, and a layer's own softmax a
  // separate operator, whose value stands under number nodes + node until the layer's is known to be final.
  Rewriter r{graph, training, loss, output, {}, output};
  std::vector<int> value(nodes.size());
  const int count = static_cast<int>(nodes.size());
  for (int i = 0; i < count; ++i) {
    if (!wanted[static_cast<size_t>(i)]) continue;
    const Node& node = nodes[static_cast<size_t>(i)];
    value[static_cast<size_t>(i)] = i;
    if (node.layer.kind == FBN_LAYER_RESHAPE) {
      value[static_cast<size_t>(i)] = value[static_cast<size_t>(node.inputs[0])];
      continue;
    }
    Op op{op_kind(node.layer.kind), i, {}, i, FBN_LINEAR, 0, -1, {}};
    for (const int input : node.inputs) op.inputs.push_back(value[static_cast<size_t>(input)]);
    const bool activates = op.kind == OpKind::activation || op.kind == OpKind::conv2d || op.kind == OpKind::dense;
    if (activates) op.alpha = node.layer.alpha;
    if (activates && node.layer.activation == FBN_SOFTMAX && op.kind != OpKind::activation) {
      op.output = count + i;
      r.ops.push_back(op);
      r.ops.push_back({OpKind::activation, i, {count + i}, i, FBN_SOFTMAX, 0, -1, {}});
      continue;
    }
    if (activates) op.activation = node.layer.activation;
    r.ops.push_back(std::move(op));
  }
  r.output = value[static_cast<size_t>(output)];

  bool changed = true;
  while (changed) {
    changed = false;
    for (const Rule rule : kRules)
      for (size_t i = 0; i < r.ops.size(); ++i)
        if (rule(r, i)) {
          changed = true;
          --i;  // the list has shifted (or wraps to the beginning, which ++i undoes)
        }
  }
  return {std::move(r.ops), r.output};
}

}  // namespace fastbn
