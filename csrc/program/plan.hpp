// A plan: one way through a program (training, evaluation or prediction) as phases of tasks.
//
// A phase is a list of steps with one partition axis. Its tasks may run in any order:
//   samples   a task is a chunk of the batch; the steps run depth-first over blocks of the chunk that fit the
//             cache. Chunk boundaries are part of the numeric plan (a function of the capacity alone); the size of
//             a block is not: no step's result depends on it.
//   features  a task is a range of columns of (rows, columns) matrices, for all samples: dense layers and what
//             works column by column (batch-norm, dropout, activations) behind or before them.
//   single    every step brings its own number of independent tasks: packing, statistics, updates.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "graph.hpp"
#include "operators/optimizers.hpp"
#include "parameters.hpp"
#include "runtime/ranges.hpp"

namespace fastbn {

enum class Domain { samples, features, single };

enum class Storage {
  block,  // lane scratch, one block of samples
  chunk,  // lane scratch, one chunk: crosses from one segment of a phase to the next
  arena,  // the whole batch: crosses a phase
  global  // no sample axis: statistics, partial sums
};

struct Value {
  std::string name;
  int64_t sample_bytes = 0;  // 0: global
  int64_t bytes = 0;         // of a global
  int phase = -1;            // that writes it
  bool crosses = false;
  Storage storage = Storage::block;
  int64_t offset = 0;           // arena, global: bytes; block, chunk: bytes per sample of the window
  std::function<int()> remake;  // emits the steps that make it again in the current phase (planning only)
  int remakes = 0;              // batch-norms among these
};

struct Plan;

// One replay of a plan.
struct Run {
  const Plan* plan = nullptr;
  int64_t batch = 0;
  const void* x = nullptr;
  const void* y = nullptr;
  const int64_t* index = nullptr;  // rows of x and y, or nullptr for 0..batch
  float* out = nullptr;            // prediction: rows of this run's samples
  char* arena = nullptr;
  char* lanes = nullptr;  // lane scratch, plan->lane_bytes each
  int lane_count = 1;
  UpdateRule rule{};
  uint64_t iteration = 0;          // keys the dropout masks
  uint64_t* lane_ticks = nullptr;  // timing: [lane][Plan::lane_ticks()], or nullptr
  int64_t row(int64_t sample) const { return index != nullptr ? index[sample] : sample; }
};

// What a step is to work on. In a samples phase: `count` samples from `first`; in a features phase: all samples,
// columns [begin, end); in a single phase: part `task` of the step's own tasks.
struct StepContext {
  const Run* run;
  int64_t first, count;
  int64_t begin, end;  // end < 0: all columns
  int64_t task;
  int64_t chunk, chunk_first;
  bool chunk_start;
  float* scratch;                 // of the step
  char *chunk_base, *block_base;  // lane scratch for values of this chunk, of this block
  int64_t block;                  // capacity of the block in samples

  // The columns to work on of a matrix with `columns` of them.
  Range columns(int64_t columns) const { return end < 0 ? Range{0, columns} : Range{begin, end}; }

  template <class T = float>
  T* at(int value) const {
    return reinterpret_cast<T*>(address(value));
  }

 private:
  char* address(int value) const;
};

struct Step {
  int node = -1;  // layer it belongs to, or -1
  const char* operation = "";
  int32_t direction = FBN_FORWARD;
  std::vector<int> reads, writes;
  std::function<void(const StepContext&)> run;
  int64_t scratch_floats = 0;
  bool whole_chunk = false;                 // samples: runs once a chunk, not once a block
  bool solo = false;                        // features: runs in the first task only
  int64_t tasks = 1;                        // single
  int in_place_out = -1, in_place_in = -1;  // out may take the memory of in, where in ends here
  int64_t multiply_adds = 0;                // a sample
  int64_t block_grain = 1;                  // samples: blocks begin at multiples of this many
  int64_t fixed_bytes = 0;                  // weights and the like, read or written once a call
  bool again = false;                       // makes a value that another phase has made too
  std::string note;                         // for the report: the algorithm, or what happens here too
};

// A task of a features phase takes as many slices as leave each lane so many tasks, since each task packs the other
// side of its products again; and at most so many columns.
inline constexpr int64_t kTasksOfLane = 2, kWidestTask = 256;

struct Segment {  // consecutive steps of a samples phase with one block size
  int first_step, last_step;
  bool whole_chunk;
  int64_t block;  // samples
  int64_t block_sample_bytes = 0;
};

struct PhasePlan {
  Domain domain;
  int64_t columns = 0, rows_per_sample = 0;  // features
  int64_t slice = 0;                         // features: fewest columns of a task
  std::vector<int> steps;
  std::vector<Segment> segments;  // samples
  int64_t chunk_region = 0;       // samples: bytes of chunk storage in the lane scratch
  bool backwards = false;         // tasks are taken from the end

  int64_t slices() const { return ceil_div(columns, slice); }
  int64_t task_columns(int lanes) const {
    return slice * std::clamp<int64_t>(slices() / (kTasksOfLane * lanes), 1, std::max<int64_t>(1, kWidestTask / slice));
  }
};

// Layers that became part of an operator.
struct Fusion {
  int node;              // that names the operator
  std::string partners;  // comma-separated
  std::string text;      // one line for the report
};

// Where a lane's ticks are: when its first task began and its last one ended, then what each step took.
inline constexpr size_t kFirstTick = 0, kLastTick = 1, kStepTicks = 2;

struct Plan {
  int64_t capacity = 0;
  int64_t chunk = 0;  // samples
  std::vector<Value> values;
  std::vector<Step> steps;
  std::vector<PhasePlan> phases;
  int64_t arena_bytes = 0;
  int64_t scratch_bytes = 0;  // step scratch at the start of a lane
  int64_t lane_bytes = 0;
  int loss = -1, absolute = -1, correct = -1;  // globals: one float, float, byte a row
  int64_t loss_rows = 1;                       // a sample
  double work_per_sample = 0, work_fixed = 0;  // for the executor's threshold
  std::vector<Fusion> fusions;

  int64_t chunks(int64_t batch) const { return ceil_div(batch, chunk); }
  int64_t chunk_size(int64_t batch, int64_t i) const { return std::min(chunk, batch - i * chunk); }
  int64_t tasks(const PhasePlan& phase, int64_t batch, int lanes) const;
  // Ticks of a lane, a multiple of two cache lines: lanes do not write into each other's.
  size_t lane_ticks() const { return round_up(kStepTicks + steps.size(), 16); }
  void run_task(const PhasePlan& phase, const Run& run, int64_t task, int lane) const;
};

enum class Mode { train, evaluate, predict };

struct PlanRequest {
  const Graph* graph;
  int output;
  Mode mode;
  int32_t loss, labels_dtype;
  int64_t capacity;
  int64_t block_bytes;  // 0: from the machine
  uint64_t seed;
  int32_t conv_algorithm;
};

// Plans are made once per mode; `store` outlives them.
std::unique_ptr<Plan> make_plan(const PlanRequest& request, ParameterStore& store);

// The plan in words, phase by phase.
std::string describe(const Plan& plan, const Graph& graph);

// The plan in one line: its size, what was fused, and the kernels that were chosen, with why.
std::string summary(const PlanRequest& request, const Plan& plan);

// Where the seconds of `replays` training steps went: they add up to the time inside Program::train.
struct Timings {
  std::vector<double> steps;  // of the plan, in thread-seconds / threads
  double waiting = 0, region = 0, loop = 0;
  int64_t replays = 0;

  void reset(size_t count) {
    *this = Timings{};
    steps.assign(count, 0.0);
  }
  // One replay: `ticks` of each lane, all of which ran from `begin` to `end` ticks, `wall` seconds, of a call that has
  // taken `total` seconds.
  void add(const Plan& plan, const uint64_t* ticks, int lanes, uint64_t begin, uint64_t end, double wall, double total);
};

// One row a step, then "(waiting)", "(region)" and "(loop)".
std::vector<fbn_cost_row> cost_rows(const Plan& plan, const Graph& graph, int64_t batch, const Timings& timings);

}  // namespace fastbn
