#include "program.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

#include "initializers.hpp"
#include "operators/losses.hpp"
#include "runtime/random.hpp"
#include "runtime/status.hpp"
#include "runtime/ticks.hpp"

namespace fastbn {
namespace {

constexpr int64_t kInferenceBatch = 256;  // capacity of the evaluation and prediction plans

// The number of rows is the caller's to know; what lies before the first is wrong for all.
void check_index(const char* operation, const int64_t* index, int64_t n) {
  for (int64_t i = 0; index != nullptr && i < n; ++i)
    require(index[i] >= 0, operation, ": an index must not be negative. Received: index[", i, "] = ", index[i]);
}

}  // namespace

Program::Program(const Graph& graph, int output, const fbn_program_options& options)
    : graph_(graph), output_(output), options_(options) {
  const Node& out = graph_.node(output);
  require(options.loss >= FBN_LOSS_NONE && options.loss <= FBN_LOSS_MEAN_SQUARED_ERROR,
          "program: unknown loss. Received: ", options.loss);
  require(options.conv_algorithm == FBN_ALGORITHM_AUTO || options.conv_algorithm == FBN_ALGORITHM_DIRECT,
          "program: conv_algorithm must be auto or direct. Received: ", options.conv_algorithm);
  require(options.block_bytes >= 0, "program: block_bytes must not be negative. Received: ", options.block_bytes);
  if (options.loss != FBN_LOSS_NONE) {
    require(options.max_batch >= 1, "program: max_batch must be at least 1. Received: ", options.max_batch);
    const bool classes = options.labels_dtype == FBN_INT32;
    require(classes || options.labels_dtype == FBN_FLOAT32,
            "program: labels must be float32 or int32. Received: dtype ", options.labels_dtype);
    require(!classes || options.loss == FBN_LOSS_SOFTMAX_CROSS_ENTROPY,
            "program: int32 labels need the softmax cross-entropy loss. Received: loss ", options.loss);
    check_optimizer("program", options.optimizer);
  }
  int inputs = 0;
  for (const Node& node : graph_.nodes()) inputs += node.layer.kind == FBN_LAYER_INPUT ? 1 : 0;
  require(inputs == 1, "program: the graph must have one input layer. Received: ", inputs);
  require(out.dtype == FBN_FLOAT32 && out.layer.kind != FBN_LAYER_INPUT,
          "program: the output must be a float32 layer behind the input. Received: '", out.name, "'");

  store_.keep_gradients = options.keep_gradients != 0;
  store_.slot_count = options.loss == FBN_LOSS_NONE ? 0 : optimizer_slot_count(options.optimizer);
  size_t count = 0;
  for (const Node& node : graph_.nodes()) count += node.parameters.size();
  store_.parameters.reserve(count);
  for (const Node& node : graph_.nodes()) {
    store_.first_of_node.push_back(static_cast<int>(store_.parameters.size()));
    for (const ParameterSpec& spec : node.parameters) {
      Parameter p;
      p.spec = spec;
      p.size = element_count(spec.shape);
      p.in_panels = node.layer.kind == FBN_LAYER_DENSE && spec.role == ParameterRole::kernel;
      p.value = parameter_buffer(p);
      std::vector<float> initial(static_cast<size_t>(p.size));
      initialize(spec, derive_seed(options.seed, store_.parameters.size()), initial.data());
      write_parameter(p, initial.data(), p.value);
      if (spec.trainable) {
        for (int slot = 0; slot < store_.slot_count; ++slot) p.slots[slot] = parameter_buffer(p);
        if (store_.keep_gradients) p.gradient = parameter_buffer(p);
      }
      store_.parameters.push_back(std::move(p));
    }
  }
  store_.first_of_node.push_back(static_cast<int>(store_.parameters.size()));

  for (size_t i = 0; i < graph_.nodes().size(); ++i) {
    const Node& node = graph_.nodes()[i];
    if (node.layer.kind != FBN_LAYER_CONV2D) continue;
    fbn_conv2d d = node.layer.conv;
    d.algorithm = options.conv_algorithm;
    PackedKernel packed{
        Conv2dPlan(node.name.c_str(), d), store_.find(static_cast<int>(i), ParameterRole::kernel), {}, {}};
    packed.forward = Buffer(static_cast<size_t>(packed.plan.packed_forward_size()) * sizeof(float));
    packed.backward = Buffer(static_cast<size_t>(packed.plan.packed_backward_size()) * sizeof(float));
    store_.packed.emplace(static_cast<int>(i), std::move(packed));
  }

  if (options.loss != FBN_LOSS_NONE) plan_training(options.max_batch);
}

void Program::require_runnable(const char* operation) const {
  locks_.require_whole(operation);
  require(&kernels() == &kernels_, operation, ": the instruction set must be that of the program's plans, ",
          kernels_.name, ". Received: ", kernels().name, ", which fbn_set_isa has chosen since the program was made");
}

// The capacity and its plan change together or, where planning fails, not at all.
void Program::plan_training(int64_t max_batch) {
  const PlanRequest request{&graph_,
                            output_,
                            Mode::train,
                            options_.loss,
                            options_.labels_dtype,
                            max_batch,
                            options_.block_bytes,
                            options_.seed,
                            options_.conv_algorithm};
  auto plan = make_plan(request, store_);
  timings_.reset(plan->steps.size());
  training_.idle.clear();
  training_.plan = std::move(plan);
  options_.max_batch = max_batch;
}

void Program::set_max_batch(int64_t max_batch) {
  require_runnable("set_max_batch");
  require(options_.loss != FBN_LOSS_NONE,
          "set_max_batch: the program was made without a loss. Received: FBN_LOSS_NONE");
  require(max_batch >= 1, "set_max_batch: max_batch must be at least 1. Received: ", max_batch);
  const std::unique_lock training(locks_.training(), std::try_to_lock);
  if (!training) fail(FBN_BUSY, "set_max_batch: the program is training in another thread");
  const std::unique_lock state(locks_.state());
  if (max_batch == options_.max_batch) return;
  plan_training(max_batch);
}

Program::Replayable& Program::inference(Mode mode, int node) {
  const std::lock_guard lock(locks_.inference());
  auto& entry = inference_[{static_cast<int>(mode), node}];
  if (!entry) {
    auto made = std::make_unique<Replayable>();
    const PlanRequest request{&graph_,
                              node,
                              mode,
                              options_.loss,
                              options_.labels_dtype,
                              kInferenceBatch,
                              options_.block_bytes,
                              options_.seed,
                              options_.conv_algorithm};
    made->plan = make_plan(request, store_);
    entry = std::move(made);
  }
  return *entry;
}

// What a replay needs: the arena, then the lanes' scratch, then their ticks.
struct Program::Pieces {
  size_t arena, lanes, ticks;  // bytes, each a multiple of the alignment
  size_t bytes() const { return arena + lanes + ticks; }
};

Program::Pieces Program::pieces(const Plan& plan, int lanes, bool timing) {
  const auto aligned = [](size_t bytes) { return round_up(bytes, kAlignment); };
  const size_t count = static_cast<size_t>(lanes);
  return {aligned(static_cast<size_t>(plan.arena_bytes)), aligned(static_cast<size_t>(plan.lane_bytes) * count),
          timing ? aligned(count * plan.lane_ticks() * sizeof(uint64_t)) : 0};
}

// Memory of a replay: the caller's workspace, or what is taken from the idle ones and returned at the end.
class Program::Lease {
 public:
  Lease(const char* operation, Replayable& owner, ProgramLocks& locks, const Exec& exec, bool timing)
      : owner_(owner), locks_(locks) {
    const Plan& plan = *owner.plan;
    const int lanes = exec.lanes;
    const Pieces needed = pieces(plan, lanes, timing);
    if (exec.workspace != nullptr) {
      require(exec.workspace_size >= needed.bytes(), operation, ": the workspace must hold ", needed.bytes(),
              " bytes. Received: ", exec.workspace_size);
      arena_ = static_cast<char*>(exec.workspace);
      lanes_ = arena_ + needed.arena;
      ticks_ = lanes_ + needed.lanes;
      return;
    }
    {
      const std::lock_guard lock(locks.inference());
      if (!owner.idle.empty()) {
        memory_ = std::move(owner.idle.back());
        owner.idle.pop_back();
      }
    }
    if (!memory_) {
      memory_ = std::make_unique<Memory>();
      memory_->arena = Buffer(needed.arena);
    }
    if (memory_->lane_count < lanes) {
      memory_->lanes = Buffer(needed.lanes);
      memory_->ticks = Buffer(needed.ticks);
      memory_->lane_count = lanes;
    }
    arena_ = static_cast<char*>(memory_->arena.data());
    lanes_ = static_cast<char*>(memory_->lanes.data());
    ticks_ = static_cast<char*>(memory_->ticks.data());
  }
  ~Lease() {
    if (!memory_) return;
    const std::lock_guard lock(locks_.inference());
    try {
      owner_.idle.push_back(std::move(memory_));
    } catch (...) {  // no room to keep it: it is freed
    }
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  char* arena() const { return arena_; }
  char* lanes() const { return lanes_; }
  uint64_t* ticks() const { return reinterpret_cast<uint64_t*>(ticks_); }

 private:
  Replayable& owner_;
  ProgramLocks& locks_;
  std::unique_ptr<Memory> memory_;  // nullptr: the caller's workspace
  char *arena_ = nullptr, *lanes_ = nullptr, *ticks_ = nullptr;
};

namespace {

// The phases of a replay as the executor takes them. Each thread keeps the lists of its last one, so that nothing is
// allocated; a replay inside another (which a host's callback may make) finds none there and has its own.
class Schedule {
 public:
  struct Runner {
    const Run* run;
    const PhasePlan* phase;
    void operator()(int64_t task, int lane) const { run->plan->run_task(*phase, *run, task, lane); }
  };
  struct Lists {
    std::vector<Runner> runners;
    std::vector<Phase> phases;
  };

  Schedule() : lists_(std::exchange(kept, {})) {
    lists_.runners.clear();
    lists_.phases.clear();
  }
  ~Schedule() { kept = std::move(lists_); }
  Schedule(const Schedule&) = delete;
  Schedule& operator=(const Schedule&) = delete;

  Lists& lists() { return lists_; }

 private:
  static thread_local Lists kept;
  Lists lists_;
};
thread_local Schedule::Lists Schedule::kept;

}  // namespace

void Program::replay(Replayable& target, Run& run, const Exec& exec) {
  const Plan& plan = *target.plan;
  run.plan = &plan;
  run.lane_count = exec.lanes;
  Schedule schedule;
  auto& [runners, phases] = schedule.lists();
  runners.reserve(plan.phases.size());
  phases.reserve(plan.phases.size());
  for (const PhasePlan& phase : plan.phases) {
    if (phase.steps.empty()) continue;
    runners.push_back({&run, &phase});
    phases.push_back({plan.tasks(phase, run.batch, run.lane_count), TaskRef(runners.back()), phase.backwards});
  }
  const double work = plan.work_fixed + plan.work_per_sample * static_cast<double>(run.batch);
  if (exec.description.empty()) return execute(exec, phases, work);
  Exec described = exec;
  described.description += concatenate(run.batch, run.batch == 1 ? " sample" : " samples");
  execute(described, phases, work);
}

void Program::sum_losses(const Plan& plan, const Run& run, fbn_step_result& result) const {
  const auto at = [&](int value) { return run.arena + plan.values[static_cast<size_t>(value)].offset; };
  const int64_t rows = run.batch * plan.loss_rows;
  const float* loss = reinterpret_cast<const float*>(at(plan.loss));
  double sum = 0;
  for (int64_t i = 0; i < rows; ++i) sum += static_cast<double>(loss[i]);
  result.loss += sum / static_cast<double>(plan.loss_rows);
  result.samples += run.batch;
  if (options_.loss == FBN_LOSS_SOFTMAX_CROSS_ENTROPY) {
    const uint8_t* correct = reinterpret_cast<const uint8_t*>(at(plan.correct));
    for (int64_t i = 0; i < rows; ++i) result.correct += correct[i];
  } else {
    const float* absolute = reinterpret_cast<const float*>(at(plan.absolute));
    for (int64_t i = 0; i < run.batch; ++i) result.absolute_error += static_cast<double>(absolute[i]);
    result.squared_error += sum;
  }
}

void Program::check_batch_labels(const char* operation, const void* y, const int64_t* index, int64_t n) const {
  if (options_.labels_dtype != FBN_INT32) return;
  const Node& out = graph_.node(output_);
  const int64_t rows = out.size() / out.channels();
  const int32_t* labels = static_cast<const int32_t*>(y);
  if (index == nullptr) return check_labels(operation, labels, n * rows, out.channels());
  for (int64_t i = 0; i < n; ++i) check_labels(operation, labels + index[i] * rows, rows, out.channels());
}

void Program::train(const void* x, const void* y, const int64_t* index, int64_t n, fbn_step_result* result,
                    const Exec& exec) {
  require_runnable("train");
  const auto entered = std::chrono::steady_clock::now();
  require(options_.loss != FBN_LOSS_NONE, "train: the program was made without a loss. Received: FBN_LOSS_NONE");
  fbn_step_result sums{};
  const std::unique_lock training(locks_.training(), std::try_to_lock);
  if (!training) fail(FBN_BUSY, "train: the program is training in another thread");
  require(n >= 0 && n <= options_.max_batch, "train: the batch must be at most max_batch = ", options_.max_batch,
          ". Received: ", n);
  const bool timing = options_.timing != 0;
  if (exec.workspace_query != nullptr) {
    *exec.workspace_query = pieces(*training_.plan, exec.lanes, timing).bytes();
    return;
  }
  if (n > 0) {
    check_index("train", index, n);
    check_batch_labels("train", y, index, n);
    const std::unique_lock state(locks_.state());
    Lease lease("train", training_, locks_, exec, timing);
    Run run;
    run.batch = n;
    run.x = x;
    run.y = y;
    run.index = index;
    run.arena = lease.arena();
    run.lanes = lease.lanes();
    run.rule = update_rule(options_.optimizer, iteration_);
    run.iteration = static_cast<uint64_t>(iteration_);
    if (timing) {
      run.lane_ticks = lease.ticks();
      std::fill_n(run.lane_ticks, static_cast<size_t>(exec.lanes) * training_.plan->lane_ticks(), uint64_t{0});
    }
    const auto start = std::chrono::steady_clock::now();
    Exec whole = exec;
    whole.interrupted = nullptr;  // a step is taken whole or not at all
    packed_ = false;              // whatever becomes of the step
    const uint64_t begin = read_ticks();
    replay(training_, run, whole);
    const uint64_t end = read_ticks();
    const auto stop = std::chrono::steady_clock::now();
    ++iteration_;
    sum_losses(*training_.plan, run, sums);
    sums.loss /= static_cast<double>(n);
    if (timing) {
      const std::chrono::duration<double> wall = stop - start, total = std::chrono::steady_clock::now() - entered;
      timings_.add(*training_.plan, run.lane_ticks, exec.lanes, begin, end, wall.count(), total.count());
    }
  }
  if (result != nullptr) write_result(result, sums);
}

// Brings the packed kernels and the folded layers up to date; callers hold the state shared and have their plan, so
// that the folded layers it reads are there.
void Program::repack() {
  const std::lock_guard lock(locks_.inference());
  store_.folded.renew(!packed_);
  if (packed_) return;
  for (auto& [node, packed] : store_.packed)
    packed.plan.pack_forward(packed.kernel->value.floats(), packed.forward.floats());
  packed_ = true;
}

void Program::evaluate(const void* x, const void* y, const int64_t* index, int64_t n, fbn_step_result* result,
                       const Exec& exec) {
  require_runnable("evaluate");
  require(options_.loss != FBN_LOSS_NONE, "evaluate: the program was made without a loss. Received: FBN_LOSS_NONE");
  require(n >= 0, "evaluate: the number of samples must not be negative. Received: ", n);
  if (exec.workspace_query != nullptr) {
    *exec.workspace_query = pieces(*inference(Mode::evaluate, output_).plan, exec.lanes, false).bytes();
    return;
  }
  check_index("evaluate", index, n);
  check_batch_labels("evaluate", y, index, n);
  fbn_step_result sums{};
  if (n > 0) {
    Replayable& target = inference(Mode::evaluate, output_);
    const Node& out = graph_.node(output_);
    const std::shared_lock state(locks_.state());
    repack();
    Lease lease("evaluate", target, locks_, exec, false);
    for (int64_t first = 0; first < n; first += kInferenceBatch) {
      Run run;
      run.batch = std::min(kInferenceBatch, n - first);
      run.index = index != nullptr ? index + first : nullptr;
      run.x = x;
      run.y = y;
      if (index == nullptr) {
        run.x = static_cast<const char*>(x) + first * input_row_bytes();
        run.y = static_cast<const char*>(y) +
                first * 4 * (options_.labels_dtype == FBN_INT32 ? out.size() / out.channels() : out.size());
      }
      run.arena = lease.arena();
      run.lanes = lease.lanes();
      replay(target, run, exec);
      sum_losses(*target.plan, run, sums);
    }
    sums.loss /= static_cast<double>(n);
  }
  if (result != nullptr) write_result(result, sums);
}

void Program::predict(int node, const void* x, const int64_t* index, int64_t n, float* out, const Exec& exec) {
  require_runnable("predict");
  require(n >= 0, "predict: the number of samples must not be negative. Received: ", n);
  const Node& target_node = graph_.node(node);
  require(target_node.dtype == FBN_FLOAT32, "predict: the node must be float32. Received: '", target_node.name, "'");
  if (exec.workspace_query != nullptr) {
    *exec.workspace_query = pieces(*inference(Mode::predict, node).plan, exec.lanes, false).bytes();
    return;
  }
  if (n == 0) return;
  check_index("predict", index, n);
  Replayable& target = inference(Mode::predict, node);
  const std::shared_lock state(locks_.state());
  repack();
  Lease lease("predict", target, locks_, exec, false);
  for (int64_t first = 0; first < n; first += kInferenceBatch) {
    Run run;
    run.batch = std::min(kInferenceBatch, n - first);
    run.index = index != nullptr ? index + first : nullptr;
    run.x = index != nullptr ? x : static_cast<const char*>(x) + first * input_row_bytes();
    run.out = out + first * target_node.size();
    run.arena = lease.arena();
    run.lanes = lease.lanes();
    replay(target, run, exec);
  }
}

int64_t Program::input_row_bytes() const {
  for (const Node& node : graph_.nodes())
    if (node.layer.kind == FBN_LAYER_INPUT) return node.size() * (node.dtype == FBN_UINT8 ? 1 : 4);
  return 0;
}

const Buffer& Program::buffer(int parameter, const char* what) const {
  require(parameter >= 0 && parameter < static_cast<int>(store_.parameters.size()),
          "program: no such parameter. Received: ", parameter);
  require(what != nullptr, "program: `what` must name the value, the gradient or a slot. Received: NULL");
  const Parameter& p = store_.parameters[static_cast<size_t>(parameter)];
  if (std::strcmp(what, "value") == 0) return p.value;
  if (p.spec.trainable) {
    if (std::strcmp(what, "gradient") == 0) {
      require(store_.keep_gradients, "program: gradients are kept only with keep_gradients. Received: 'gradient' of ",
              p.spec.name);
      return p.gradient;
    }
    for (int slot = 0; slot < store_.slot_count; ++slot)
      if (std::strcmp(what, optimizer_slot_name(options_.optimizer, slot)) == 0) return p.slots[slot];
  }
  fail(FBN_INVALID_VALUE, "program: ", p.spec.name, " has a value",
       p.spec.trainable ? ", a gradient and the optimizer's slots" : "", ". Received: '", what, "'");
}

void Program::get(int parameter, const char* what, float* out) const {
  locks_.require_whole("program_get");
  const std::shared_lock state(locks_.state());
  const Buffer& from = buffer(parameter, what);  // checks the number
  read_parameter(store_.parameters[static_cast<size_t>(parameter)], from, out);
}

void Program::set(int parameter, const char* what, const float* in) {
  locks_.require_whole("program_set");
  const std::unique_lock state(locks_.state());
  const Buffer& to = buffer(parameter, what);  // checks the number
  write_parameter(store_.parameters[static_cast<size_t>(parameter)], in, to);
  packed_ = false;
}

void Program::set_iteration(int64_t iteration) {
  locks_.require_whole("set_iteration");
  require(iteration >= 0 && iteration <= kMaxIteration, "program: the iteration must lie in [0, ", kMaxIteration,
          "]. Received: ", iteration);
  const std::unique_lock state(locks_.state());
  iteration_ = iteration;
}

int64_t Program::iteration() const {
  const std::shared_lock state(locks_.state());
  return iteration_;
}

double Program::learning_rate() const {
  const std::shared_lock state(locks_.state());
  return options_.optimizer.learning_rate;
}

void Program::set_learning_rate(double learning_rate) {
  locks_.require_whole("set_learning_rate");
  const std::unique_lock state(locks_.state());
  fbn_optimizer changed = options_.optimizer;
  changed.learning_rate = learning_rate;
  check_optimizer("program", changed);
  options_.optimizer = changed;
}

std::vector<fbn_cost_row> Program::costs(int64_t batch) const {
  locks_.require_whole("costs");
  require(options_.loss != FBN_LOSS_NONE, "costs: the program was made without a loss. Received: FBN_LOSS_NONE");
  const std::shared_lock state(locks_.state());
  require(batch >= 0 && batch <= options_.max_batch,
          "costs: the batch must be at most max_batch = ", options_.max_batch, ". Received: ", batch);
  return cost_rows(*training_.plan, graph_, batch, timings_);
}

void Program::reset_costs() {
  locks_.require_whole("reset_costs");
  const std::unique_lock state(locks_.state());
  timings_.reset(timings_.steps.size());
}

std::string Program::describe() const {
  locks_.require_whole("describe");
  const std::shared_lock state(locks_.state());
  if (training_.plan != nullptr) return fastbn::describe(*training_.plan, graph_);
  ParameterStore& store = const_cast<ParameterStore&>(store_);  // a plan points into the store but does not run here
  const PlanRequest request{&graph_,
                            output_,
                            Mode::predict,
                            FBN_LOSS_NONE,
                            FBN_FLOAT32,
                            kInferenceBatch,
                            options_.block_bytes,
                            options_.seed,
                            options_.conv_algorithm};
  const std::lock_guard lock(locks_.inference());
  return fastbn::describe(*make_plan(request, store), graph_);
}

}  // namespace fastbn
