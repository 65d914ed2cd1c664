// Replay: where a value of a sample lies, and what a task of a phase does.
#include "plan.hpp"

#include "runtime/ticks.hpp"

namespace fastbn {

char* StepContext::address(int value) const {
  const Value& v = run->plan->values[static_cast<size_t>(value)];
  switch (v.storage) {
    case Storage::block:
      return block_base + v.offset * block;
    case Storage::chunk:
      return chunk_base + v.offset * run->plan->chunk + (first - chunk_first) * v.sample_bytes;
    case Storage::arena:
      return run->arena + v.offset + first * v.sample_bytes;
    case Storage::global:
      return run->arena + v.offset;
  }
  return nullptr;
}

int64_t Plan::tasks(const PhasePlan& phase, int64_t batch, int lanes) const {
  switch (phase.domain) {
    case Domain::samples:
      return chunks(batch);
    case Domain::features:
      return ceil_div(phase.columns, phase.task_columns(lanes));
    case Domain::single: {
      int64_t count = 0;
      for (const int s : phase.steps) count += steps[static_cast<size_t>(s)].tasks;
      return count;
    }
  }
  return 0;
}

namespace {

// Runs the steps of a task. With timing, each is charged with the ticks since the one before it ended.
class StepRunner {
 public:
  StepRunner(const Plan& plan, const Run& run, int lane)
      : plan_(plan),
        ticks_(run.lane_ticks == nullptr ? nullptr : run.lane_ticks + static_cast<size_t>(lane) * plan.lane_ticks()) {
    if (ticks_ == nullptr) return;
    last_ = read_ticks();
    if (ticks_[kFirstTick] == 0) ticks_[kFirstTick] = last_;
  }
  ~StepRunner() {
    if (ticks_ != nullptr) ticks_[kLastTick] = last_;
  }
  StepRunner(const StepRunner&) = delete;
  StepRunner& operator=(const StepRunner&) = delete;

  void operator()(int step, const StepContext& c) {
    plan_.steps[static_cast<size_t>(step)].run(c);
    if (ticks_ == nullptr) return;
    const uint64_t now = read_ticks();
    ticks_[kStepTicks + static_cast<size_t>(step)] += now - last_;
    last_ = now;
  }

 private:
  const Plan& plan_;
  uint64_t* ticks_;
  uint64_t last_ = 0;
};

}  // namespace

void Plan::run_task(const PhasePlan& phase, const Run& run, int64_t task, int lane) const {
  char* const base = run.lanes + lane * lane_bytes;
  StepContext c{};
  c.run = &run;
  c.scratch = reinterpret_cast<float*>(base);
  c.chunk_base = base + scratch_bytes;
  c.block_base = c.chunk_base + phase.chunk_region;
  c.task = task;
  StepRunner run_step(*this, run, lane);
  switch (phase.domain) {
    case Domain::features: {
      const int64_t columns = phase.task_columns(run.lane_count);
      c.count = run.batch;
      c.begin = task * columns;
      c.end = std::min(c.begin + columns, phase.columns);
      for (const int s : phase.steps) {
        const Step& step = steps[static_cast<size_t>(s)];
        if (!step.solo || task == 0) run_step(s, c);
      }
      return;
    }
    case Domain::single:
      for (const int s : phase.steps) {
        const Step& step = steps[static_cast<size_t>(s)];
        if (c.task < step.tasks) return run_step(s, c);
        c.task -= step.tasks;
      }
      return;
    case Domain::samples: {
      c.end = -1;
      c.chunk = task;
      c.chunk_first = task * chunk;
      const int64_t last = c.chunk_first + chunk_size(run.batch, task);
      auto step = phase.steps.begin();
      for (const Segment& segment : phase.segments) {
        const auto segment_end = step + (segment.last_step - segment.first_step + 1);
        c.block = segment.block;
        for (c.first = c.chunk_first; c.first < last; c.first += segment.block) {
          c.count = std::min(segment.block, last - c.first);
          c.chunk_start = c.first == c.chunk_first;
          for (auto s = step; s != segment_end; ++s) run_step(*s, c);
        }
        step = segment_end;
      }
      return;
    }
  }
}

}  // namespace fastbn
