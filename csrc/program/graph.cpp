// Validation and shape inference of layers.
#include "graph.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/status.hpp"

namespace fastbn {

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

std::string shape_text(const Shape& shape) {
  std::string text = "(";
  for (const int64_t extent : shape) text += std::to_string(extent) + ", ";
  if (shape.size() > 1) text.resize(text.size() - 2);
  if (shape.size() == 1) text.pop_back();
  return text + ")";
}

namespace {

const char* kind_name(int32_t kind) {
  static constexpr const char* kNames[] = {
      "input",   "conv2d",  "dense",     "batch_norm", "activation", "max_pool2d", "avg_pool2d", "global_avg_pool2d",
      "dropout", "reshape", "rescaling", "add",        "concatenate"};
  return kind >= 0 && kind < static_cast<int32_t>(std::size(kNames)) ? kNames[kind] : "unknown";
}

std::string where(const Node& node) { return concatenate(kind_name(node.layer.kind), " '", node.name, "'"); }

void require_rank(const Node& node, const Shape& input, size_t rank) {
  require(input.size() == rank, where(node), ": the input must have rank ", rank,
          " without the batch. Received: shape ", shape_text(input));
}

void check_activation(const Node& node, bool softmax_allowed) {
  const int32_t a = node.layer.activation;
  require(a >= FBN_LINEAR && a <= (softmax_allowed ? FBN_SOFTMAX : FBN_TANH), where(node),
          ": unknown activation. Received: ", a);
  require(std::isfinite(node.layer.alpha) && (a != FBN_LEAKY_RELU || node.layer.alpha >= 0), where(node),
          ": alpha must be finite and, for leaky_relu, not negative. Received: ", node.layer.alpha);
}

// The byte count of a value or a parameter passes int64 nowhere. Factor by factor: checked_product wants a list.
void check_size(const Node& node, const Shape& shape) {
  int64_t size = 1;
  for (const int64_t extent : shape) size = checked_product(where(node).c_str(), {size, std::max<int64_t>(extent, 1)});
}

void add_parameter(Node& node, ParameterRole role, const char* suffix, Shape shape, const fbn_initializer& initializer,
                   int64_t fan_in, int64_t fan_out) {
  const bool statistic = role == ParameterRole::moving_mean || role == ParameterRole::moving_variance;
  require(initializer.kind >= FBN_INIT_DEFAULT && initializer.kind <= FBN_INIT_LECUN_NORMAL, where(node),
          ": unknown initializer for ", suffix, ". Received: ", initializer.kind);
  check_size(node, shape);
  node.parameters.push_back({node.name + "/" + suffix, role, std::move(shape), initializer, fan_in, fan_out,
                             !statistic && !node.layer.frozen});
}

}  // namespace

const Node& Graph::node(int index) const {
  require(index >= 0 && index < static_cast<int>(nodes_.size()), "graph: no such node. Received: ", index);
  return nodes_[static_cast<size_t>(index)];
}

int Graph::add(const fbn_layer& layer) {
  Node node;
  node.layer = layer;
  require(layer.name != nullptr && layer.name[0] != '\0', "graph: a layer needs a name. Received: an empty one");
  node.name = layer.name;
  node.layer.name = nullptr;
  for (const Node& other : nodes_)
    require(other.name != node.name, "graph: layer names must be unique. Received: '", node.name, "' twice");
  require(layer.kind >= FBN_LAYER_INPUT && layer.kind <= FBN_LAYER_CONCATENATE,
          "graph: unknown kind of layer. Received: ", layer.kind);
  require(layer.num_inputs >= 0 && layer.num_inputs <= FBN_MAX_INPUTS, where(node), ": at most ", FBN_MAX_INPUTS,
          " inputs. Received: ", layer.num_inputs);
  const bool merges = layer.kind == FBN_LAYER_ADD || layer.kind == FBN_LAYER_CONCATENATE;
  const int least = layer.kind == FBN_LAYER_INPUT ? 0 : merges ? 2 : 1;
  require(merges ? layer.num_inputs >= least : layer.num_inputs == least, where(node), ": takes ",
          merges ? "at least " : "", least, " input(s). Received: ", layer.num_inputs);
  for (int i = 0; i < layer.num_inputs; ++i) {
    require(layer.inputs[i] >= 0 && layer.inputs[i] < static_cast<int>(nodes_.size()), where(node),
            ": an input must be an earlier node. Received: ", layer.inputs[i]);
    node.inputs.push_back(layer.inputs[i]);
  }
  infer(node);
  check_size(node, node.shape);
  nodes_.push_back(std::move(node));
  return static_cast<int>(nodes_.size()) - 1;
}

void Graph::infer(Node& node) const {
  const fbn_layer& l = node.layer;
  const Node* input = node.inputs.empty() ? nullptr : &nodes_[static_cast<size_t>(node.inputs[0])];
  if (input != nullptr) {
    node.shape = input->shape;
    require(input->dtype == FBN_FLOAT32 || l.kind == FBN_LAYER_RESCALING, where(node),
            ": a uint8 input must go through a rescaling layer first. Received: dtype uint8");
  }
  switch (l.kind) {
    case FBN_LAYER_INPUT:
    case FBN_LAYER_RESHAPE: {
      require(l.rank >= 1 && l.rank <= FBN_MAX_RANK, where(node), ": the rank must be 1 to ", FBN_MAX_RANK,
              ". Received: ", l.rank);
      Shape shape(l.shape, l.shape + l.rank);
      for (const int64_t extent : shape)
        require(extent >= 1, where(node), ": every extent must be at least 1. Received: shape ", shape_text(shape));
      check_size(node, shape);
      if (l.kind == FBN_LAYER_INPUT) {
        require(l.dtype == FBN_FLOAT32 || l.dtype == FBN_UINT8, where(node),
                ": the dtype must be float32 or uint8. Received: ", l.dtype);
        node.dtype = l.dtype;
      } else {
        require(element_count(shape) == input->size(), where(node),
                ": the number of elements must stay. Received: ", shape_text(input->shape), " to ", shape_text(shape));
      }
      node.shape = std::move(shape);
      break;
    }
    case FBN_LAYER_CONV2D: {
      require_rank(node, input->shape, 3);
      fbn_conv2d d = l.conv;
      d.struct_size = sizeof d;
      d.batch = 1;
      d.height = input->shape[0];
      d.width = input->shape[1];
      d.in_channels = input->shape[2];
      node.layer.activation = d.activation;  // softmax is a layer of its own to the fusion rules
      node.layer.alpha = d.alpha;
      check_activation(node, true);
      d.activation = FBN_LINEAR;
      node.conv = resolve_conv2d(where(node).c_str(), d);
      node.layer.conv = d;
      const Conv2dGeometry& g = node.conv;
      node.shape = {g.out_height, g.out_width, g.out_channels};
      checked_product(where(node).c_str(), {g.out_height, g.out_width, g.kernel_size()});
      node.multiply_adds = g.multiply_adds();
      const int64_t window = g.kernel_height * g.kernel_width;
      add_parameter(node, ParameterRole::kernel, "kernel",
                    {g.kernel_height, g.kernel_width, g.in_channels / g.groups, g.out_channels}, l.kernel_initializer,
                    window * (g.in_channels / g.groups), window * g.out_channels);
      if (l.use_bias)
        add_parameter(node, ParameterRole::bias, "bias", {g.out_channels}, l.bias_initializer, g.out_channels,
                      g.out_channels);
      break;
    }
    case FBN_LAYER_DENSE: {
      require(!input->shape.empty(), where(node), ": the input must have a last axis. Received: shape ()");
      require(l.units >= 1, where(node), ": units must be at least 1. Received: ", l.units);
      check_activation(node, true);
      const int64_t fan_in = input->shape.back();
      node.shape.back() = l.units;
      node.multiply_adds = checked_product(where(node).c_str(), {input->size(), l.units});
      add_parameter(node, ParameterRole::kernel, "kernel", {fan_in, l.units}, l.kernel_initializer, fan_in, l.units);
      if (l.use_bias) add_parameter(node, ParameterRole::bias, "bias", {l.units}, l.bias_initializer, l.units, l.units);
      break;
    }
    case FBN_LAYER_BATCH_NORM: {
      require(l.epsilon >= 0 && std::isfinite(l.epsilon), where(node),
              ": epsilon must be finite and not negative. Received: ", l.epsilon);
      require(l.momentum >= 0 && l.momentum <= 1, where(node), ": momentum must be in [0, 1]. Received: ", l.momentum);
      const int64_t c = node.channels();
      if (l.scale) add_parameter(node, ParameterRole::gamma, "gamma", {c}, l.gamma_initializer, c, c);
      if (l.center) add_parameter(node, ParameterRole::beta, "beta", {c}, l.beta_initializer, c, c);
      add_parameter(node, ParameterRole::moving_mean, "moving_mean", {c}, l.mean_initializer, c, c);
      add_parameter(node, ParameterRole::moving_variance, "moving_variance", {c}, l.variance_initializer, c, c);
      break;
    }
    case FBN_LAYER_ACTIVATION:
      check_activation(node, true);
      break;
    case FBN_LAYER_MAX_POOL2D:
    case FBN_LAYER_AVG_POOL2D: {
      require_rank(node, input->shape, 3);
      fbn_pool2d d = l.pool;
      d.struct_size = sizeof d;
      d.batch = 1;
      d.height = input->shape[0];
      d.width = input->shape[1];
      d.channels = input->shape[2];
      node.pool = resolve_pool2d(where(node).c_str(), d);
      node.layer.pool = d;
      node.shape = {node.pool.out_height, node.pool.out_width, d.channels};
      break;
    }
    case FBN_LAYER_GLOBAL_AVG_POOL2D:
      require_rank(node, input->shape, 3);
      node.shape = {input->shape[2]};
      break;
    case FBN_LAYER_DROPOUT:
      require(l.rate >= 0 && l.rate <= 1, where(node), ": rate must be in [0, 1]. Received: ", l.rate);
      break;
    case FBN_LAYER_RESCALING:
      require(std::isfinite(l.scale_factor) && std::isfinite(l.offset), where(node),
              ": scale and offset must be finite. Received: ", l.scale_factor, " and ", l.offset);
      break;
    case FBN_LAYER_ADD:
      for (const int other : node.inputs)
        require(nodes_[static_cast<size_t>(other)].shape == node.shape, where(node),
                ": all inputs must have one shape. Received: ", shape_text(node.shape), " and ",
                shape_text(nodes_[static_cast<size_t>(other)].shape));
      break;
    case FBN_LAYER_CONCATENATE: {
      int64_t channels = 0;
      for (const int other : node.inputs) {
        const Shape& shape = nodes_[static_cast<size_t>(other)].shape;
        require(shape.size() == node.shape.size() && std::equal(shape.begin(), shape.end() - 1, node.shape.begin()),
                where(node), ": all inputs must agree but in the last axis. Received: ", shape_text(node.shape),
                " and ", shape_text(shape));
        channels += shape.back();
        check_size(node, {channels});
      }
      node.shape.back() = channels;
      break;
    }
    default:
      fail(FBN_INTERNAL, "graph: unknown kind of layer");
  }
}

}  // namespace fastbn
