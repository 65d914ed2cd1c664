// A plan in words and in numbers: what each phase does, what is stored, what every step costs.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "kernels/kernel_table.hpp"
#include "operators/conv2d.hpp"
#include "planner.hpp"
#include "runtime/status.hpp"

namespace fastbn {
namespace {

std::string bytes_text(int64_t bytes) {
  char text[32];
  if (bytes < 10 * 1024) {
    std::snprintf(text, sizeof text, "%lld B", static_cast<long long>(bytes));
  } else if (bytes < 10 * 1024 * 1024) {
    std::snprintf(text, sizeof text, "%.1f KiB", static_cast<double>(bytes) / 1024);
  } else {
    std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1024 * 1024));
  }
  return text;
}

std::string step_name(const Step& step, const Graph& graph) {
  return step.node >= 0 ? concatenate(graph.node(step.node).name, ": ", step.operation) : std::string(step.operation);
}

// Who uses each value with a sample axis: numbers of phases, as the report counts them, and of steps.
struct Use {
  int first_phase = 0, last_phase = 0;
  std::vector<int> readers;
};

std::vector<Use> uses_of(const Plan& plan) {
  std::vector<Use> uses(plan.values.size());
  int number = 0;
  for (const PhasePlan& phase : plan.phases) {
    if (phase.steps.empty()) continue;
    ++number;
    for (const int s : phase.steps) {
      const Step& step = plan.steps[static_cast<size_t>(s)];
      for (const auto* list : {&step.reads, &step.writes})
        for (const int v : *list) {
          Use& use = uses[static_cast<size_t>(v)];
          if (use.first_phase == 0) use.first_phase = number;
          use.last_phase = number;
          if (list == &step.reads) use.readers.push_back(s);
        }
    }
  }
  return uses;
}

// What a step makes and where it goes, as "name, 3.0 KiB, stored"; empty where all of it are sums.
std::string results_of(const Plan& plan, const Step& step, const std::vector<Use>& uses) {
  std::string text;
  for (const int v : step.writes) {
    const Value& value = plan.values[static_cast<size_t>(v)];
    if (value.storage == Storage::global) continue;
    const Use& use = uses[static_cast<size_t>(v)];
    const bool stored = use.first_phase != use.last_phase;
    text += concatenate(text.empty() ? "" : "; ", value.name, " ", bytes_text(value.sample_bytes),
                        stored                            ? ", stored"
                        : value.storage == Storage::chunk ? ", kept for the chunk"
                        : value.storage == Storage::arena ? ", kept for the phase"
                                                          : "");
  }
  return text;
}

std::string stored_values(const Plan& plan, const Graph& graph, const std::vector<Use>& uses) {
  std::string text;
  for (size_t i = 0; i < plan.values.size(); ++i) {
    const Value& value = plan.values[i];
    const Use& use = uses[i];
    if (value.storage == Storage::global || use.first_phase == use.last_phase) continue;
    text += concatenate("  ", value.name, ", ", bytes_text(value.sample_bytes), " a sample, phases ", use.first_phase,
                        " to ", use.last_phase, ", read by ");
    for (size_t r = 0; r < use.readers.size(); ++r)
      text += (r == 0 ? "" : ", ") + step_name(plan.steps[static_cast<size_t>(use.readers[r])], graph);
    text += "\n";
  }
  return text;
}

// A copy of a value made in a later phase, from what is stored: the bytes of its own that are not.
std::string remade_values(const Plan& plan, const Graph& graph) {
  std::string text;
  int number = 0;
  for (const PhasePlan& phase : plan.phases) {
    if (phase.steps.empty()) continue;
    ++number;
    for (const int s : phase.steps) {
      const Step& step = plan.steps[static_cast<size_t>(s)];
      if (!step.again) continue;
      std::string from;
      for (const int v : step.reads)
        if (plan.values[static_cast<size_t>(v)].storage != Storage::global)
          from += (from.empty() ? "" : ", ") + plan.values[static_cast<size_t>(v)].name;
      text += concatenate("  ", step_name(step, graph), ", phase ", number, ", from ", from.empty() ? "the data" : from,
                          ": ", bytes_text(plan.values[static_cast<size_t>(step.writes[0])].sample_bytes),
                          " a sample are neither written nor read\n");
    }
  }
  return text;
}

}  // namespace

std::string describe(const Plan& plan, const Graph& graph) {
  const std::vector<Use> uses = uses_of(plan);
  int64_t stored = 0;
  for (size_t i = 0; i < plan.values.size(); ++i)
    if (uses[i].first_phase != uses[i].last_phase) stored += plan.values[i].sample_bytes;
  std::string text =
      concatenate("program for up to ", plan.capacity, " samples in chunks of ", plan.chunk,
                  "\nmemory: ", bytes_text(plan.arena_bytes), " for the batch, ", bytes_text(plan.lane_bytes),
                  " for each thread; ", bytes_text(stored), " stored for a sample\n");
  const auto section = [&text](const char* title, const std::string& lines) {
    if (!lines.empty()) text += concatenate("\n", title, "\n", lines);
  };
  std::string fused;
  for (const Fusion& fusion : plan.fusions) fused += "  " + fusion.text + "\n";
  section("fused", fused);

  int number = 0;
  for (const PhasePlan& phase : plan.phases) {
    if (phase.steps.empty()) continue;
    ++number;
    text += concatenate("\nphase ", number, ": ");
    if (phase.domain == Domain::single) text += "each step by itself\n";
    if (phase.domain == Domain::features)
      text += concatenate("split by columns, ", std::min(phase.slice, phase.columns), " of ", phase.columns, " a task",
                          phase.slices() > 1 ? ", or more on few threads\n" : "\n");
    if (phase.domain == Domain::samples)
      text += concatenate("split by samples, a chunk a task", phase.backwards ? ", the last one first" : "", "\n");
    size_t place = 0;
    const auto steps_of = [&](size_t count) {
      std::vector<std::string> names;
      size_t width = 0;
      for (size_t i = 0; i < count; ++i) {
        const Step& step = plan.steps[static_cast<size_t>(phase.steps[place + i])];
        names.push_back(step_name(step, graph));
        if (!step.note.empty()) names.back() += " (" + step.note + ")";
        width = std::max(width, names.back().size());
      }
      for (size_t i = 0; i < count; ++i, ++place) {
        const std::string results = results_of(plan, plan.steps[static_cast<size_t>(phase.steps[place])], uses);
        text += "    " + names[i];
        if (!results.empty()) text += std::string(width - names[i].size(), ' ') + "  -> " + results;
        text += "\n";
      }
    };
    if (phase.domain != Domain::samples) {
      steps_of(phase.steps.size());
      continue;
    }
    for (const Segment& segment : phase.segments) {
      text += segment.whole_chunk
                  ? "  the whole chunk at once\n"
                  : concatenate("  in blocks of ", segment.block, segment.block == 1 ? " sample" : " samples", "\n");
      steps_of(static_cast<size_t>(segment.last_step - segment.first_step) + 1);
    }
  }
  section("stored, because a later phase reads it", stored_values(plan, graph, uses));
  section("made again instead of stored", remade_values(plan, graph));
  return text;
}

std::string summary(const PlanRequest& request, const Plan& plan) {
  static constexpr const char* kModes[] = {"train", "evaluate", "predict"};
  size_t phases = 0;
  for (const PhasePlan& phase : plan.phases) phases += phase.steps.empty() ? 0 : 1;
  std::string text =
      concatenate(kModes[static_cast<int>(request.mode)], " plan for up to ", plan.capacity, " samples, ",
                  kernels().name, ": ", plan.steps.size(), " steps in ", phases, " phases, chunks of ", plan.chunk,
                  ", ", bytes_text(plan.arena_bytes), " for the batch, ", bytes_text(plan.lane_bytes), " a thread");
  for (const Fusion& fusion : plan.fusions) text += "; " + fusion.text;
  constexpr struct {
    const char* operation;
    ConvPass pass;
  } kPasses[] = {{"forward", ConvPass::forward},
                 {"backward_data", ConvPass::backward_data},
                 {"backward_filter", ConvPass::backward_filter}};
  for (const Step& step : plan.steps) {
    if (step.node < 0 || request.graph->node(step.node).layer.kind != FBN_LAYER_CONV2D) continue;
    const Node& node = request.graph->node(step.node);
    const Conv2dGeometry g = resolve_conv2d(node.name.c_str(), node.layer.conv);
    for (const auto& p : kPasses) {
      if (std::strcmp(step.operation, p.operation) == 0)
        text += concatenate("; ", node.name, " ", p.operation, ": ", step.note, " (",
                            algorithm_reason(g, p.pass, request.conv_algorithm), ")");
    }
  }
  return text;
}

void Timings::add(const Plan& plan, const uint64_t* ticks, int lanes, uint64_t begin, uint64_t end, double wall,
                  double total) {
  // Lanes that the executor did not open, because the work was too small or another region was open, ran no task.
  uint64_t first = end, last = begin;
  int present = 0;
  for (int lane = 0; lane < lanes; ++lane) {
    const uint64_t* own = ticks + static_cast<size_t>(lane) * plan.lane_ticks();
    if (own[kFirstTick] == 0) continue;
    ++present;
    first = std::min(first, own[kFirstTick]);
    last = std::max(last, own[kLastTick]);
  }
  first = std::max(first, begin);
  last = std::clamp(last, first, std::max(first, end));
  const double tick = end > begin ? wall / static_cast<double>(end - begin) : 0;
  double working = 0;
  for (size_t i = 0; i < steps.size() && present > 0; ++i) {
    uint64_t sum = 0;
    for (int lane = 0; lane < lanes; ++lane)
      sum += ticks[static_cast<size_t>(lane) * plan.lane_ticks() + kStepTicks + i];
    const double seconds = static_cast<double>(sum) * tick / present;
    steps[i] += seconds;
    working += seconds;
  }
  const double inside = static_cast<double>(last - first) * tick;
  waiting += inside - working;
  region += wall - inside;
  loop += total - wall;
  ++replays;
}

namespace {

// How often a step's function is called for a batch.
int64_t calls_of(const Plan& plan, const PhasePlan& phase, size_t place, int64_t batch) {
  const Step& step = plan.steps[static_cast<size_t>(phase.steps[place])];
  switch (phase.domain) {
    case Domain::single:
      return step.tasks;
    case Domain::features:
      return step.solo ? 1 : plan.tasks(phase, batch, fbn_get_num_threads());
    case Domain::samples:
      break;
  }
  size_t before = 0;
  for (const Segment& segment : phase.segments) {
    before += static_cast<size_t>(segment.last_step - segment.first_step + 1);
    if (place >= before) continue;
    int64_t calls = 0;
    for (int64_t chunk = 0; chunk < plan.chunks(batch); ++chunk)
      calls += ceil_div(plan.chunk_size(batch, chunk), segment.block);
    return calls;
  }
  return 0;
}

// Bytes of a value without a sample axis in a step of `batch` samples.
int64_t global_bytes(const Plan& plan, int v, int64_t batch) {
  const Value& value = plan.values[static_cast<size_t>(v)];
  if (v == plan.loss || v == plan.correct || v == plan.absolute) return value.bytes / plan.capacity * batch;
  // What a samples phase writes has a part for each chunk; only those of this batch are touched.
  if (value.phase >= 0 && plan.phases[static_cast<size_t>(value.phase)].domain == Domain::samples)
    return value.bytes / kChunks * std::min(kChunks, plan.chunks(batch));
  return value.bytes;
}

// The values with a sample axis that steps of more than one phase use.
std::vector<bool> crossing_values(const Plan& plan) {
  std::vector<int> used(plan.values.size(), -1);
  std::vector<bool> crossing(plan.values.size(), false);
  for (size_t p = 0; p < plan.phases.size(); ++p)
    for (const int s : plan.phases[p].steps) {
      const Step& step = plan.steps[static_cast<size_t>(s)];
      for (const auto* list : {&step.reads, &step.writes})
        for (const int v : *list) {
          const size_t i = static_cast<size_t>(v);
          crossing[i] = crossing[i] || (used[i] >= 0 && used[i] != static_cast<int>(p));
          used[i] = static_cast<int>(p);
        }
    }
  return crossing;
}

// `crossing`: the values that still have to come into this phase or leave it. A task takes a value in, or makes it,
// once; the later steps of the task find it there.
void count_bytes(const Plan& plan, const PhasePlan& phase, const Step& step, int64_t batch, std::vector<bool>& crossing,
                 fbn_cost_row& row) {
  bool sums_into_global = false;
  for (const auto* list : {&step.reads, &step.writes})
    for (const int v : *list) {
      const Value& value = plan.values[static_cast<size_t>(v)];
      switch (value.storage) {
        case Storage::block:
        case Storage::chunk:
          row.bytes_block += value.sample_bytes * batch;
          break;
        case Storage::arena:
          (crossing[static_cast<size_t>(v)] ? row.bytes_crossing : row.bytes_block) += value.sample_bytes * batch;
          crossing[static_cast<size_t>(v)] = false;
          break;
        case Storage::global:
          row.bytes_crossing += global_bytes(plan, v, batch);
          sums_into_global = sums_into_global || list == &step.writes;
      }
    }
  // Weights, optimizer slots and partial sums. In a samples phase each call goes over them again: partial sums stay
  // with the chunk (what leaves it is a global value, counted above), weights come once from outside.
  if (phase.domain == Domain::samples) {
    row.bytes_block += step.fixed_bytes * (row.calls - (sums_into_global ? 0 : 1));
    if (!sums_into_global) row.bytes_crossing += step.fixed_bytes;
  } else {
    row.bytes_crossing += step.fixed_bytes;
  }
  // Data sets lie outside.
  if (std::strncmp(step.operation, "gather", 6) == 0)
    for (const int v : step.writes) row.bytes_crossing += plan.values[static_cast<size_t>(v)].sample_bytes * batch;
}

}  // namespace

std::vector<fbn_cost_row> cost_rows(const Plan& plan, const Graph& graph, int64_t batch, const Timings& timings) {
  std::vector<fbn_cost_row> rows;
  const auto row_for = [&](const char* layer, const char* operation, double seconds) {
    fbn_cost_row row{};
    row.struct_size = sizeof row;
    std::snprintf(row.layer, sizeof row.layer, "%s", layer);
    std::snprintf(row.operation, sizeof row.operation, "%s", operation);
    row.seconds = seconds;
    row.node = -1;
    row.steps = timings.replays;
    return row;
  };
  int32_t number = 0;
  const std::vector<bool> crosses = crossing_values(plan);
  for (const PhasePlan& phase : plan.phases) {
    if (phase.steps.empty()) continue;
    ++number;
    std::vector<bool> crossing = crosses;
    for (size_t place = 0; place < phase.steps.size(); ++place) {
      const size_t s = static_cast<size_t>(phase.steps[place]);
      const Step& step = plan.steps[s];
      const char* layer = step.node >= 0 ? graph.node(step.node).name.c_str() : "(loss)";
      fbn_cost_row row = row_for(layer, step.operation, timings.steps[s]);
      std::snprintf(row.note, sizeof row.note, "%s", step.note.c_str());
      for (const Fusion& fusion : plan.fusions)
        if (fusion.node == step.node) std::snprintf(row.fused, sizeof row.fused, "%s", fusion.partners.c_str());
      row.node = step.node;
      row.direction = step.direction;
      row.phase = number;
      row.multiply_adds = step.multiply_adds * batch;
      row.calls = calls_of(plan, phase, place, batch);
      count_bytes(plan, phase, step, batch, crossing, row);
      rows.push_back(row);
    }
  }
  rows.push_back(row_for("(waiting)", "waiting", timings.waiting));
  rows.push_back(row_for("(region)", "region", timings.region));
  rows.push_back(row_for("(loop)", "loop", timings.loop));
  return rows;
}

}  // namespace fastbn
