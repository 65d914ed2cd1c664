// Descriptions of programs: graphs of layers, options, and a few calls of what comes of them.
#include <cinttypes>

#include "input.hpp"

namespace fuzz {
namespace {

struct Graph {
  fbn_graph* graph = nullptr;
  std::vector<int64_t> sizes;  // of each node's value; -1: too large to run
  std::vector<int32_t> dtypes;
  int64_t work = 0;        // multiply-adds of a sample, parameters
  int64_t parameters = 0;  // -1: too many
  Graph() { checked(fbn_graph_create(&graph)); }
  ~Graph() { fbn_graph_destroy(graph); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
};

fbn_initializer initializer(Input& in) {
  if (in.byte() < 200) return {};
  fbn_initializer i{};
  i.kind = in.choice(13);
  i.a = in.number();
  i.b = in.number();
  i.seed = in.byte();
  return i;
}

void add_layer(Input& in, Graph& g) {
  const int32_t nodes = static_cast<int32_t>(g.sizes.size());
  fbn_layer l{};
  l.struct_size = in.struct_size<fbn_layer>();
  l.kind = nodes == 0 ? FBN_LAYER_INPUT : in.choice(14) % 14;
  char name[8];
  std::snprintf(name, sizeof name, "n%d", in.byte() < 250 ? nodes : 0);
  l.name = in.byte() < 252 ? name : nullptr;
  const bool merges = l.kind == FBN_LAYER_ADD || l.kind == FBN_LAYER_CONCATENATE;
  l.num_inputs = in.byte() < 248 ? (l.kind == FBN_LAYER_INPUT ? 0 : merges ? 2 : 1) : in.choice(FBN_MAX_INPUTS + 2);
  for (int32_t i = 0; i < l.num_inputs && i < FBN_MAX_INPUTS; ++i)
    l.inputs[i] = in.byte() < 180 ? nodes - 1 : in.choice(nodes + 1);
  l.dtype = in.byte() < 200 ? FBN_FLOAT32 : in.choice(3);
  l.rank = in.flag() ? 3 : in.choice(FBN_MAX_RANK + 1);
  if (l.kind == FBN_LAYER_RESHAPE && nodes > 0 && in.flag()) {
    l.rank = 1;
    l.shape[0] = l.inputs[0] >= 0 && l.inputs[0] < nodes ? g.sizes[static_cast<size_t>(l.inputs[0])] : 1;
  } else {
    for (int i = 0; i < FBN_MAX_RANK && i < l.rank; ++i) l.shape[i] = in.extent();
  }
  switch (l.kind) {
    case FBN_LAYER_CONV2D:
      l.conv.out_channels = in.extent();
      l.conv.kernel_height = in.extent();
      l.conv.kernel_width = in.extent();
      l.conv.stride_height = in.flag() ? 1 : in.extent();
      l.conv.stride_width = in.flag() ? 1 : in.extent();
      l.conv.dilation_height = in.flag() ? 1 : in.extent();
      l.conv.dilation_width = in.flag() ? 1 : in.extent();
      l.conv.groups = in.flag() ? 1 : in.extent();
      l.conv.padding = in.flag() ? FBN_PADDING_SAME : in.choice(3);
      l.conv.pad_top = l.conv.pad_left = l.conv.padding == FBN_PADDING_EXPLICIT ? in.size() : 0;
      l.conv.activation = in.choice(6);
      l.conv.alpha = static_cast<float>(in.number());
      break;
    case FBN_LAYER_MAX_POOL2D:
    case FBN_LAYER_AVG_POOL2D:
      l.pool.pool_height = in.extent();
      l.pool.pool_width = in.extent();
      l.pool.stride_height = in.extent();
      l.pool.stride_width = in.extent();
      l.pool.padding = in.choice(3);
      l.pool.pad_bottom = l.pool.pad_right = l.pool.padding == FBN_PADDING_EXPLICIT ? in.size() : 0;
      break;
    default:
      break;
  }
  l.units = in.extent();
  l.use_bias = in.flag();
  l.activation = in.choice(6);
  l.alpha = static_cast<float>(in.number());
  l.epsilon = in.flag() ? 1e-3 : in.number();
  l.momentum = in.flag() ? 0.9 : in.number();
  l.center = in.flag();
  l.scale = in.flag();
  l.rate = in.flag() ? 0.5 : in.number();
  l.scale_factor = in.number();
  l.offset = in.number();
  l.frozen = in.byte() >= 220;
  l.kernel_initializer = initializer(in);
  l.gamma_initializer = initializer(in);

  int32_t node = -7;
  if (checked(fbn_graph_add(g.graph, &l, &node)) != FBN_OK) {
    if (node != -7) broken("a layer that was refused has a number");
    return;
  }
  if (node != nodes) broken("layers are numbered in order");
  int32_t rank = 0;
  int64_t shape[FBN_MAX_RANK] = {}, trained = 0, other = 0, multiply_adds = 0;
  checked(fbn_graph_shape(g.graph, node, &rank, shape));
  if (rank < 1 || rank > FBN_MAX_RANK) broken("a shape without axes");
  int64_t size = 1;
  for (int32_t i = 0; i < rank; ++i) {
    if (shape[i] < 1) broken("an empty axis");
    size = size < 0 ? -1 : elements({size, shape[i]});
  }
  checked(fbn_graph_layer_cost(g.graph, node, &trained, &other, &multiply_adds));
  if (trained < 0 || other < 0 || multiply_adds < 0) broken("a negative cost");
  g.sizes.push_back(size);
  g.dtypes.push_back(l.kind == FBN_LAYER_INPUT ? l.dtype : FBN_FLOAT32);
  // Saturating: what is too large for one layer is too large for all.
  const int64_t count = trained > kMaxElements || other > kMaxElements ? -1 : trained + other;
  g.parameters = g.parameters < 0 || count < 0 ? -1 : g.parameters + count;
  g.work = g.work < 0 || multiply_adds > kMaxWork ? -1 : g.work + multiply_adds;
}

fbn_program_options options(Input& in) {
  fbn_program_options o{};
  o.struct_size = in.struct_size<fbn_program_options>();
  o.max_batch = in.flag() ? 4 : in.size();
  o.seed = in.byte();
  o.loss = in.byte() < 230 ? in.byte() % 3 : in.choice(3);
  o.labels_dtype = in.flag() && o.loss == FBN_LOSS_SOFTMAX_CROSS_ENTROPY ? FBN_INT32 : in.choice(3);
  o.optimizer.kind = in.choice(3);
  o.optimizer.learning_rate = in.flag() ? 0.1 : in.number();
  o.optimizer.momentum = in.flag() ? 0 : in.number();
  o.optimizer.nesterov = in.flag();
  o.optimizer.rho = in.flag() ? 0.9 : in.number();
  o.optimizer.centered = in.flag();
  o.optimizer.beta_1 = in.flag() ? 0.9 : in.number();
  o.optimizer.beta_2 = in.flag() ? 0.999 : in.number();
  o.optimizer.amsgrad = in.flag();
  o.optimizer.epsilon = in.flag() ? 1e-7 : in.number();
  o.optimizer.weight_decay = in.flag() ? 0 : in.number();
  o.conv_algorithm = in.choice(2);
  o.keep_gradients = in.flag();
  o.timing = in.flag();
  o.block_bytes = in.flag() ? 0 : in.size();
  return o;
}

constexpr int64_t kRows = 6;  // of the data; a program is asked for up to as many of them

void use(Input& in, fbn_program* program, const Graph& g, int32_t output, const fbn_program_options& o) {
  size_t needed = 0;
  if (in.byte() >= 200 && checked(fbn_program_describe(program, nullptr, 0, &needed)) == FBN_OK) {
    std::vector<char> text(in.flag() ? needed : needed / 2 + 1);
    checked(fbn_program_describe(program, text.data(), text.size(), nullptr));
    if (std::memchr(text.data(), 0, text.size()) == nullptr) broken("a text without an end");
  }

  int32_t rows = 0;
  if (checked(fbn_program_costs(program, in.size(), nullptr, 0, &rows)) == FBN_OK) {
    std::vector<fbn_cost_row> costs(static_cast<size_t>(rows / 2));
    checked(fbn_program_costs(program, 1, costs.data(), static_cast<int32_t>(costs.size()), &rows));
  }

  const int32_t parameters = fbn_program_parameter_count(program);
  static constexpr const char* kWhat[] = {"value", "gradient", "momentum", "velocity", "none", nullptr};
  for (int i = 0; i < 2; ++i) {
    const int32_t p = in.choice(parameters + 2) - 1;
    int32_t rank = 0, trainable = 0;
    int64_t shape[FBN_MAX_RANK], size = 1;
    const fbn_status known = checked(fbn_program_parameter_info(program, p, &rank, shape, &trainable));
    if ((known == FBN_OK) != (fbn_program_parameter_name(program, p) != nullptr)) broken("a parameter without a name");
    if (known == FBN_OK)
      for (int32_t k = 0; k < rank; ++k) size *= shape[k];
    std::vector<float> value(static_cast<size_t>(size));
    const char* what = kWhat[in.byte() % std::size(kWhat)];
    if (checked(fbn_program_get(program, p, what, value.data())) == FBN_OK)
      checked(fbn_program_set(program, p, what, value.data()));
  }
  if (in.flag()) checked(fbn_program_set_iteration(program, in.size()));
  if (in.flag()) checked(fbn_program_set_learning_rate(program, in.number()));
  int64_t max_batch = o.max_batch;
  if (in.byte() > 200) {
    const int64_t wanted = in.size();
    if (checked(fbn_program_set_max_batch(program, wanted)) == FBN_OK) max_batch = wanted;
  }

  // Values of every node, and hence the arena of a plan, are small from here on.
  for (const int64_t size : g.sizes)
    if (size < 0) return;
  if (g.work < 0 || g.parameters < 0) return;
  int64_t input_size = 0;
  int32_t input_dtype = FBN_FLOAT32;
  for (size_t i = 0; i < g.sizes.size(); ++i)
    if (i == 0) input_size = g.sizes[i], input_dtype = g.dtypes[i];
  Arrays a(in);
  const void* x =
      input_dtype == FBN_UINT8 ? static_cast<const void*>(a.in<uint8_t>(kRows * input_size)) : a.in(kRows * input_size);
  const int64_t out_size = g.sizes[static_cast<size_t>(output)];
  const void* y =
      o.labels_dtype == FBN_INT32 ? static_cast<const void*>(a.in<int32_t>(kRows * out_size)) : a.in(kRows * out_size);
  for (int step = 0; step < 3; ++step) {
    fbn_exec exec = exec_of(in);
    if (exec.num_threads > 4 && exec.num_threads <= 1024) exec.num_threads = 4;  // a scratch for each
    int64_t index[kRows];
    for (int64_t& i : index) i = in.byte() < 250 ? in.byte() % kRows : -1 - in.byte();
    const int64_t* rows_used = in.flag() ? index : nullptr;
    const int64_t n = in.byte() < 250 ? in.byte() % (kRows + 1) : -1 - in.byte();
    fbn_step_result result{};
    result.struct_size = sizeof result;
    switch (in.byte() % 4) {
      case 0:
      case 1:
        if (max_batch > 64) break;
        checked(fbn_program_train(program, x, y, rows_used, n, &result, &exec));
        break;
      case 2:
        checked(fbn_program_evaluate(program, x, y, rows_used, n, &result, &exec));
        break;
      default: {
        const int32_t node = in.flag() ? output : in.choice(static_cast<int32_t>(g.sizes.size()) + 1);
        const bool known = node >= 0 && static_cast<size_t>(node) < g.sizes.size();
        const int64_t size = known ? g.sizes[static_cast<size_t>(node)] : 1;
        float* out = a.out(std::max<int64_t>(n, 0) * size);
        checked(in.flag() && node == output ? fbn_program_predict(program, x, rows_used, n, out, &exec)
                                            : fbn_program_node_output(program, node, x, rows_used, n, out, &exec));
      }
    }
  }
  if (fbn_program_get_iteration(program) < 0) broken("a negative iteration");
}

}  // namespace

void fuzz_program(Input& in) {
  Graph g;
  const int layers = in.byte() % 10 + 1;
  for (int i = 0; i < layers; ++i) add_layer(in, g);
  if (g.sizes.empty()) return;
  const int32_t last = static_cast<int32_t>(g.sizes.size()) - 1;
  const int32_t output = in.byte() < 240 ? last : in.choice(last + 2);
  const fbn_program_options o = options(in);
  // Weights are filled when the program is made: few of them, else more than any machine has are refused at once.
  if (g.parameters < 0 || g.parameters > kMaxElements) return;
  fbn_program* program = nullptr;
  const fbn_status status = checked(fbn_program_create(g.graph, output, &o, &program));
  if ((status == FBN_OK) != (program != nullptr)) broken("a program without a status");
  if (status == FBN_OK) use(in, program, g, output, o);
  fbn_program_destroy(program);
}

}  // namespace fuzz
