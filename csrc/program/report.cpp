// A plan in words and in numbers: what each phase does, what is stored, what every step costs.
#include <cstdio>
#include <cstring>

#include "plan.hpp"
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
  for (const std::string& fusion : plan.fusions) text += "fused: " + fusion + "\n";
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

std::vector<fbn_cost_row> cost_rows(const Plan& plan, const Graph& graph, int64_t batch,
                                    const std::vector<double>& seconds, double wall, int64_t steps) {
  std::vector<fbn_cost_row> rows;
  const auto row_for = [&](const char* layer, const char* operation) {
    fbn_cost_row row{};
    row.struct_size = sizeof row;
    std::snprintf(row.layer, sizeof row.layer, "%s", layer);
    std::snprintf(row.operation, sizeof row.operation, "%s", operation);
    row.steps = steps;
    return row;
  };
  double explained = 0;
  for (size_t p = 0; p < plan.phases.size(); ++p) {
    for (const int s : plan.phases[p].steps) {
      const Step& step = plan.steps[static_cast<size_t>(s)];
      fbn_cost_row row = row_for(step.node >= 0 ? graph.node(step.node).name.c_str() : "(loss)", step.operation);
      row.direction = step.direction;
      row.phase = static_cast<int32_t>(p);
      row.multiply_adds = step.multiply_adds * batch;
      row.bytes_block = step.fixed_bytes;
      for (const auto* list : {&step.reads, &step.writes})
        for (const int v : *list) {
          const Value& value = plan.values[static_cast<size_t>(v)];
          (value.storage == Storage::arena ? row.bytes_crossing : row.bytes_block) += value.sample_bytes * batch;
        }
      if (std::strncmp(step.operation, "gather", 6) == 0 || std::strcmp(step.operation, "output") == 0)
        for (const int v : step.operation[0] == 'g' ? step.writes : step.reads)
          row.bytes_crossing += plan.values[static_cast<size_t>(v)].sample_bytes * batch;
      row.seconds = seconds[static_cast<size_t>(s)];
      explained += row.seconds;
      rows.push_back(row);
    }
  }
  fbn_cost_row waiting = row_for("(waiting)", "waiting");
  waiting.seconds = wall > explained ? wall - explained : 0;
  rows.push_back(waiting);
  return rows;
}

}  // namespace fastbn
