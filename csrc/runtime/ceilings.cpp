// Measures the machine's ceilings: arithmetic, caches, memory, and what a parallel region costs.
#include <fastbn/fastbn.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <string>
#include <vector>

#include "cpu.hpp"
#include "executor.hpp"
#include "kernels/kernel_table.hpp"
#include "memory.hpp"
#include "status.hpp"

namespace fastbn {

namespace {

constexpr double kEnoughWork = std::numeric_limits<double>::infinity();  // never serial

double seconds_of(const auto& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return elapsed.count();
}

// The shortest of the runs that fit into `seconds`; three at least.
double best_of(double seconds, const auto& body) {
  double best = std::numeric_limits<double>::infinity(), spent = 0;
  for (int run = 0; run < 3 || spent < seconds; ++run) {
    const double one = seconds_of(body);
    best = std::min(best, one);
    spent += one;
  }
  return best;
}

// Seconds of one round of `body(rounds)`, each run being long enough to measure.
double seconds_a_round(double seconds, const auto& body) {
  // The shortest of three decides, and what no round at all takes must not count: on a busy machine a thread of the
  // region may start late.
  const double enough = std::max(1e-3, 10 * best_of(0, [&] { body(0); }));
  int64_t rounds = 1;
  while (best_of(0, [&] { body(rounds); }) < enough && rounds < (int64_t{1} << 40)) rounds *= 2;
  return best_of(seconds, [&] { body(rounds); }) / static_cast<double>(rounds);
}

// Bytes a second, read + written, of all lanes that go over arrays of `floats` floats each.
double bytes_a_second(const Exec& exec, const KernelTable& table, Buffer& buffer, int64_t floats, double seconds) {
  const int64_t lanes = exec.lanes;
  const double round = seconds_a_round(seconds, [&](int64_t rounds) {
    const auto pass = [&](int64_t task, int) {
      for (int64_t r = 0; r < rounds; ++r) table.ceilings.scale(buffer.floats() + task * floats, floats, 1.0f);
    };
    execute(exec, {{lanes, TaskRef(pass)}}, kEnoughWork);
  });
  return 8.0 * static_cast<double>(lanes * floats) / round;
}

}  // namespace
}  // namespace fastbn

using namespace fastbn;

fbn_status fbn_measure_ceilings(const char* isa, double seconds, fbn_ceilings* ceilings, const fbn_exec* options) {
  return guard([&] {
    require(ceilings != nullptr, "measure_ceilings: ceilings must not be NULL. Received: NULL");
    require_result("measure_ceilings", ceilings);
    require(seconds > 0 && seconds <= 60, "measure_ceilings: seconds must lie in (0, 60]. Received: ", seconds);
    const Exec exec = resolve_exec("measure_ceilings", options);
    const KernelTable& table = isa == nullptr ? kernels() : kernels_of("measure_ceilings", isa);
    const double share = seconds / 7;
    const int64_t lanes = exec.lanes;
    fbn_ceilings found{};
    found.threads = exec.lanes;
    found.l1_size = data_cache_bytes(1);
    found.l2_size = data_cache_bytes(2);
    found.l3_size = data_cache_bytes(3);

    std::vector<float> sums(static_cast<size_t>(lanes) * 16);
    const double round = seconds_a_round(share, [&](int64_t rounds) {
      const auto chains = [&](int64_t task, int) {
        sums[static_cast<size_t>(task) * 16] = table.ceilings.multiply_adds(rounds * 64, 0.5f);
      };
      execute(exec, {{lanes, TaskRef(chains)}}, kEnoughWork);
    });
    found.multiply_adds = static_cast<double>(lanes * table.ceilings.multiply_adds_of_a_round) * 64 / round;

    const auto floats_in = [](int64_t bytes) { return std::max<int64_t>(bytes / 4 / 64 * 64, 64); };
    const int64_t l1 = floats_in((found.l1_size > 0 ? found.l1_size : 32768) / 2);
    const int64_t l2 = floats_in((found.l2_size > 0 ? found.l2_size : 1 << 20) / 2);
    const int64_t l3 = floats_in(found.l3_size / 2 / lanes);
    const int64_t last = std::max(found.l3_size, found.l2_size * lanes);
    const int64_t memory = floats_in(std::clamp<int64_t>(4 * last, int64_t{64} << 20, int64_t{1} << 30) / lanes);
    Buffer buffer(static_cast<size_t>(std::max({l1, l2, l3, memory}) * lanes) * sizeof(float));
    const auto fill = [&](int64_t task, int) { std::fill_n(buffer.floats() + task * memory, memory, 1.0f); };
    execute(exec, {{lanes, TaskRef(fill)}}, kEnoughWork);  // the pages of a lane are its own
    found.l1_bytes = bytes_a_second(exec, table, buffer, l1, share);
    found.l2_bytes = bytes_a_second(exec, table, buffer, l2, share);
    found.memory_bytes = bytes_a_second(exec, table, buffer, memory, share);
    // A cache behind L2 that holds more than the L2 of all threads; else memory is what comes next.
    found.l3_bytes = l3 > l2 ? bytes_a_second(exec, table, buffer, l3, share) : found.memory_bytes;

    const auto nothing = [](int64_t, int) {};
    const std::vector<Phase> one(1, Phase{lanes, TaskRef(nothing)}), many(101, Phase{lanes, TaskRef(nothing)});
    const auto regions = [&](const std::vector<Phase>& phases) {
      return seconds_a_round(share, [&](int64_t rounds) {
        for (int64_t r = 0; r < rounds; ++r) execute(exec, phases, kEnoughWork);
      });
    };
    found.region_seconds = regions(one);
    found.phase_seconds = std::max(0.0, regions(many) - found.region_seconds) / 100;
    write_result(ceilings, found);
  });
}
