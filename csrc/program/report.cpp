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

const char* storage_name(Storage storage) {
  switch (storage) {
    case Storage::block:
      return "block";
    case Storage::chunk:
      return "chunk";
    case Storage::arena:
      return "batch";
    case Storage::global:
      return "global";
  }
  return "";
}

std::string step_name(const Step& step, const Graph& graph) {
  return step.node >= 0 ? concatenate(graph.node(step.node).name, ": ", step.operation) : std::string(step.operation);
}

}  // namespace

std::string describe(const Plan& plan, const Graph& graph) {
  std::string text =
      concatenate("program for up to ", plan.capacity, " samples, in chunks of ", plan.chunk, "; ",
                  bytes_text(plan.arena_bytes), " for the batch, ", bytes_text(plan.lane_bytes), " a thread\n");
  for (const Fusion& fusion : plan.fusions) text += "fused: " + fusion.text + "\n";
  int number = 0;
  for (const PhasePlan& phase : plan.phases) {
    if (phase.steps.empty()) continue;
    ++number;
    text += concatenate("phase ", number, ": ");
    if (phase.domain == Domain::single) text += "independent tasks\n";
    if (phase.domain == Domain::features)
      text += concatenate("by columns, ", phase.slice, " of ", phase.columns, " a task\n");
    if (phase.domain == Domain::samples) text += "by samples, a chunk a task\n";
    size_t place = 0;
    const auto steps_of = [&](size_t count, const char* indent) {
      for (size_t i = 0; i < count; ++i, ++place) {
        const Step& step = plan.steps[static_cast<size_t>(phase.steps[place])];
        text += indent + step_name(step, graph);
        if (!step.note.empty()) text += " (" + step.note + ")";
        for (const int v : step.writes) {
          const Value& value = plan.values[static_cast<size_t>(v)];
          if (value.storage == Storage::global) continue;
          text += concatenate(" -> ", value.name, " [", storage_name(value.storage), ", ",
                              bytes_text(value.sample_bytes), " a sample]");
        }
        text += "\n";
      }
    };
    if (phase.domain != Domain::samples) {
      steps_of(phase.steps.size(), "    ");
      continue;
    }
    for (const Segment& segment : phase.segments) {
      text +=
          concatenate("  ", segment.whole_chunk ? "the whole chunk" : concatenate("blocks of ", segment.block), ":\n");
      steps_of(static_cast<size_t>(segment.last_step - segment.first_step) + 1, "    ");
    }
  }
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
      return step.solo ? 1 : plan.tasks(phase, batch);
    case Domain::samples:
      break;
  }
  size_t before = 0;
  for (const Segment& segment : phase.segments) {
    before += static_cast<size_t>(segment.last_step - segment.first_step + 1);
    if (place >= before) continue;
    int64_t calls = 0;
    for (int64_t chunk = 0; chunk < plan.chunks(batch); ++chunk)
      calls += (plan.chunk_size(batch, chunk) + segment.block - 1) / segment.block;
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

void count_bytes(const Plan& plan, const PhasePlan& phase, const Step& step, int64_t batch, fbn_cost_row& row) {
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
          row.bytes_crossing += value.sample_bytes * batch;
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
  for (const PhasePlan& phase : plan.phases) {
    if (phase.steps.empty()) continue;
    ++number;
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
      count_bytes(plan, phase, step, batch, row);
      rows.push_back(row);
    }
  }
  rows.push_back(row_for("(waiting)", "waiting", timings.waiting));
  rows.push_back(row_for("(region)", "region", timings.region));
  rows.push_back(row_for("(loop)", "loop", timings.loop));
  return rows;
}

}  // namespace fastbn
