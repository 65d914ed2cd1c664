// Memory of a plan: what lies in a block, in a chunk, for the whole batch, and where.
#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "planner.hpp"
#include "runtime/cpu.hpp"

namespace fastbn {

namespace {

// First-fit over intervals [from, to] in the order of `from`: offsets of blocks that do not overlap while alive.
class IntervalAllocator {
 public:
  int64_t place(int64_t size, int from, int to) {
    std::erase_if(live_, [from](const Live& l) { return l.to < from; });
    std::sort(live_.begin(), live_.end(), [](const Live& a, const Live& b) { return a.offset < b.offset; });
    int64_t offset = 0;
    for (const Live& l : live_) {
      if (offset + size <= l.offset) break;
      offset = std::max(offset, l.offset + l.size);
    }
    live_.push_back({offset, size, to});
    peak_ = std::max(peak_, offset + size);
    return offset;
  }
  // A block that ends with its reader may go on under another value: the only one at this offset that still lives,
  // since `place` has erased those that ended before.
  void extend(int64_t offset, int to) {
    for (Live& l : live_)
      if (l.offset == offset) l.to = std::max(l.to, to);
  }
  int64_t peak() const { return peak_; }

 private:
  struct Live {
    int64_t offset, size;
    int to;
  };
  std::vector<Live> live_;
  int64_t peak_ = 0;
};

}  // namespace

void Planner::allocate() {
  auto& values = plan_->values;
  struct Life {
    int phase = -1, first = -1, last = -1;  // steps, in execution order
    int first_phase = -1, last_phase = -1;
    int segment = -1;
    bool one_segment = true;
  };
  std::vector<Life> lives(values.size());
  std::vector<int> order;  // steps in execution order
  int segment = -1;
  for (size_t p = 0; p < plan_->phases.size(); ++p) {
    PhasePlan& current = plan_->phases[p];
    ++segment;
    for (const int index : current.steps) {
      Step& s = plan_->steps[static_cast<size_t>(index)];
      const int place = static_cast<int>(order.size());
      order.push_back(index);
      if (current.domain == Domain::samples) {
        if (current.segments.empty() || current.segments.back().whole_chunk != s.whole_chunk) {
          ++segment;
          current.segments.push_back({place, place, s.whole_chunk, plan_->chunk});
        }
        current.segments.back().last_step = place;
      }
      for (const auto* list : {&s.reads, &s.writes})
        for (const int v : *list) {
          Life& life = lives[static_cast<size_t>(v)];
          if (life.first < 0) {
            life.first = place;
            life.first_phase = static_cast<int>(p);
            life.segment = segment;
          }
          life.last = place;
          life.last_phase = static_cast<int>(p);
          life.one_segment = life.one_segment && life.segment == segment;
        }
      plan_->scratch_bytes = std::max(plan_->scratch_bytes, round_up(s.scratch_floats * 4, 64));
    }
  }

  // Globals live as long as the plan; whole-batch values over the phases that use them.
  int64_t arena = 0;
  for (Value& v : values)
    if (v.sample_bytes == 0) {
      v.offset = arena;
      arena += round_up(v.bytes, 64);
    }
  IntervalAllocator whole_batch;
  std::vector<size_t> by_start(values.size());
  for (size_t i = 0; i < values.size(); ++i) by_start[i] = i;
  std::stable_sort(by_start.begin(), by_start.end(),
                   [&](size_t a, size_t b) { return lives[a].first < lives[b].first; });
  for (const size_t i : by_start) {
    Value& v = values[i];
    const Life& life = lives[i];
    if (v.sample_bytes == 0 || life.first < 0) continue;
    const bool samples = plan_->phases[static_cast<size_t>(life.first_phase)].domain == Domain::samples;
    if (samples && life.first_phase == life.last_phase) {
      v.storage = life.one_segment ? Storage::block : Storage::chunk;
      continue;
    }
    v.storage = Storage::arena;
    v.offset =
        arena + whole_batch.place(round_up(v.sample_bytes * plan_->capacity, 64), life.first_phase, life.last_phase);
  }
  plan_->arena_bytes = arena + whole_batch.peak();

  // Bytes a sample of whole-batch values that a segment's block has in the cache at a time: from the step that makes or
  // reads one first to the last that reads it.
  const auto passing_bytes = [&](const Segment& s) {
    std::map<int, std::pair<int, int>> used;  // value -> places
    for (int place = s.first_step; place <= s.last_step; ++place) {
      const Step& step = plan_->steps[static_cast<size_t>(order[static_cast<size_t>(place)])];
      for (const auto* list : {&step.reads, &step.writes})
        for (const int v : *list)
          if (values[static_cast<size_t>(v)].storage == Storage::arena)
            used.emplace(v, std::make_pair(place, place)).first->second.second = place;
    }
    int64_t most = 0;
    for (int place = s.first_step; place <= s.last_step; ++place) {
      int64_t now = 0;
      for (const auto& [v, places] : used)
        if (places.first <= place && place <= places.second) now += values[static_cast<size_t>(v)].sample_bytes;
      most = std::max(most, now);
    }
    return most;
  };

  // Lane scratch of samples phases: values of a chunk, then values of a block; offsets in bytes a sample.
  const int64_t budget = request_.block_bytes > 0 ? request_.block_bytes : l2_cache_bytes() * 3 / 4;
  int64_t lane = 0;
  for (size_t p = 0; p < plan_->phases.size(); ++p) {
    PhasePlan& current = plan_->phases[p];
    if (current.domain != Domain::samples) continue;
    // The steps of a segment run block by block: what one of them makes of a block must not lie where another one, even
    // if it comes before, finds its part of the next block.
    const auto segment_of = [&](int place) {
      return std::find_if(current.segments.begin(), current.segments.end(),
                          [place](const Segment& s) { return place <= s.last_step; });
    };
    IntervalAllocator chunk_values;
    for (const size_t i : by_start)
      if (values[i].storage == Storage::chunk && lives[i].first_phase == static_cast<int>(p))
        values[i].offset =
            chunk_values.place(round_up(values[i].sample_bytes, 64), segment_of(lives[i].first)->first_step,
                               segment_of(lives[i].last)->last_step);
    current.chunk_region = chunk_values.peak() * plan_->chunk;
    int64_t block_region = 0;
    for (Segment& s : current.segments) {
      IntervalAllocator block_values;
      int64_t fixed = 0, grain = 1;
      for (int place = s.first_step; place <= s.last_step; ++place) {
        const Step& step = plan_->steps[static_cast<size_t>(order[static_cast<size_t>(place)])];
        fixed = std::max(fixed, step.scratch_floats * 4 + step.fixed_bytes);
        grain = std::lcm(grain, step.block_grain);
        for (const size_t i : by_start) {
          Value& v = values[i];
          if (v.storage != Storage::block || lives[i].first != place || lives[i].first_phase != static_cast<int>(p))
            continue;
          const int64_t size = round_up(v.sample_bytes, 64);
          if (step.in_place_out == static_cast<int>(i)) {
            const size_t in = static_cast<size_t>(step.in_place_in);
            if (values[in].storage == Storage::block && lives[in].last == place &&
                round_up(values[in].sample_bytes, 64) == size) {
              v.offset = values[in].offset;
              block_values.extend(v.offset, lives[i].last);
              continue;
            }
          }
          v.offset = block_values.place(size, lives[i].first, lives[i].last);
        }
      }
      s.block_sample_bytes = block_values.peak();
      if (!s.whole_chunk) {
        const int64_t cached = s.block_sample_bytes + passing_bytes(s);
        const int64_t fit = (budget - fixed) / std::max<int64_t>(cached, 1) / grain * grain;
        s.block = std::min(std::max(fit, grain), plan_->chunk);
      }
      block_region = std::max(block_region, s.block * s.block_sample_bytes);
    }
    lane = std::max(lane, current.chunk_region + block_region);
  }
  plan_->lane_bytes = round_up(plan_->scratch_bytes + lane, 4096);

  for (const Step& s : plan_->steps) {
    double bytes = 0;
    for (const auto* list : {&s.reads, &s.writes})
      for (const int v : *list) bytes += static_cast<double>(values[static_cast<size_t>(v)].sample_bytes);
    plan_->work_per_sample += std::max(2.0 * static_cast<double>(s.multiply_adds) / 16, bytes);
    plan_->work_fixed += static_cast<double>(s.fixed_bytes);
  }
}

}  // namespace fastbn
