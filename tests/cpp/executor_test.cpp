// Phases and tasks: each task once, phases in order, every backend, nesting, concurrent callers, fork, denormals.
#include "runtime/executor.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "check.hpp"
#include "runtime/threads.hpp"

#if FASTBN_OPENMP
#include <omp.h>
#endif

using namespace fastbn;

namespace {

constexpr double kMuchWork = 1e12;

Exec exec_of(int lanes) {
  Exec exec;
  exec.lanes = lanes;
  return exec;
}

// Three phases that depend on each other: squares, prefix sums over blocks of tasks, and their differences again.
bool dependent_phases(const Exec& exec, int64_t n) {
  std::vector<int64_t> squares(static_cast<size_t>(n)), reversed(squares), sums(squares);
  std::atomic<int> bad_lanes{0}, calls{0};
  const auto note = [&](int lane) {
    if (lane < 0 || lane >= exec.lanes) ++bad_lanes;
    ++calls;
  };
  const auto square = [&](int64_t i, int lane) {
    note(lane);
    squares[i] = i * i;
  };
  const auto reverse = [&](int64_t i, int lane) {
    note(lane);
    reversed[i] = squares[n - 1 - i];
  };
  const auto sum = [&](int64_t i, int lane) {
    note(lane);
    sums[i] = squares[i] + reversed[i] + reversed[n - 1 - i];
  };
  execute(exec, {{n, square}, {n, reverse}, {n, sum}}, kMuchWork);
  bool good = bad_lanes == 0 && calls == 3 * n;
  for (int64_t i = 0; i < n; ++i) good = good && sums[i] == 2 * i * i + (n - 1 - i) * (n - 1 - i);
  return good;
}

void test_phases() {
  for (const int lanes : {1, 2, 3, 7}) {
    for (const int64_t n : {0, 1, 2, 5, 7, 64, 1000}) CHECK(dependent_phases(exec_of(lanes), n));
  }
  // Many phases on more threads than processors: barriers that only spin would take minutes.
  const auto begin = std::chrono::steady_clock::now();
  std::vector<int64_t> counts(16);
  const auto add = [&](int64_t i, int) { ++counts[i]; };
  const std::vector<Phase> phases(2000, Phase{16, add});
  execute(exec_of(16), phases, kMuchWork);
  for (const int64_t count : counts) CHECK(count == 2000);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(60));
}

// Every task once, and of each thread the tasks of its share from the end: those of another that it takes come behind.
void test_backwards() {
  for (const int lanes : {1, 2, 3, 7}) {
    for (const int64_t n : {1, 2, 5, 64, 1000}) {
      std::vector<std::vector<int64_t>> order(static_cast<size_t>(lanes));
      std::vector<int64_t> counts(static_cast<size_t>(n));
      const auto note = [&](int64_t i, int lane) {
        order[lane].push_back(i);
        ++counts[i];
      };
      execute(exec_of(lanes), {Phase{n, note}, Phase{n, note, true}}, kMuchWork);
      for (const int64_t count : counts) CHECK(count == 2);
      if (lanes > 1) continue;
      for (int64_t i = 0; i < n; ++i) CHECK(order[0][i] == i && order[0][n + i] == n - 1 - i);
    }
  }
  for (const int lanes : {2, 3, 7}) {
    constexpr int64_t kTasks = 100;
    std::vector<int64_t> last(static_cast<size_t>(lanes), -1);
    std::atomic<int> wrong{0};
    const auto note = [&](int64_t i, int lane) {
      const Range share = part_of(kTasks, lanes, lane);
      if (i < share.begin || i >= share.end) return;  // another's
      if (last[lane] >= 0 && i >= last[lane]) ++wrong;
      last[lane] = i;
    };
    execute(exec_of(lanes), {Phase{kTasks, note, true}}, kMuchWork);
    CHECK(wrong == 0);
  }
}

// Two tasks that wait for each other: true only if two threads run them.
bool runs_in_parallel(const Exec& exec) {
  std::atomic<int> started{0};
  std::atomic<bool> met{true};
  const auto meet = [&](int64_t, int) {
    ++started;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (started < 2) {
      if (std::chrono::steady_clock::now() > deadline) {
        met = false;
        return;
      }
      std::this_thread::yield();
    }
  };
  execute(exec, {{2, meet}}, kMuchWork);
  return met;
}

void test_threshold() {
  fbn_set_serial_threshold(-1);
  const auto self = std::this_thread::get_id();
  bool here = true;
  const auto look = [&](int64_t, int lane) { here = here && lane == 0 && std::this_thread::get_id() == self; };
  execute(exec_of(4), {{100, look}}, 1000.0);
  CHECK(here);
  fbn_set_serial_threshold(0);
  CHECK(fbn_set_serial_threshold(std::nan("")) == FBN_INVALID_VALUE);
}

void test_nesting() {
  std::atomic<int> good{0};
  const auto outer = [&](int64_t, int) {
    const auto self = std::this_thread::get_id();
    bool here = true;
    const auto inner = [&](int64_t, int lane) { here = here && lane == 0 && std::this_thread::get_id() == self; };
    execute(exec_of(4), {{8, inner}, {8, inner}}, kMuchWork);
    if (here && dependent_phases(exec_of(3), 20)) ++good;
  };
  execute(exec_of(3), {{9, outer}}, kMuchWork);
  CHECK(good == 9);
}

#if FASTBN_OPENMP
void test_foreign_region() {
  int good = 0;
#pragma omp parallel num_threads(3) reduction(+ : good)
  {
    const auto self = std::this_thread::get_id();
    bool here = true;
    const auto look = [&](int64_t, int lane) { here = here && lane == 0 && std::this_thread::get_id() == self; };
    execute(exec_of(4), {{8, look}}, kMuchWork);
    good += here && omp_get_num_threads() == 3;
  }
  CHECK(good == 3);
}
#endif

void test_concurrent_callers() {
  std::atomic<int> good{0};
  std::vector<std::thread> callers;
  callers.reserve(4);
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) good += dependent_phases(exec_of(3), 100);
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(good == 200);
}

// The exit code of a child that runs `body`, which must end within 30 seconds.
template <class Body>
int in_child(Body&& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(30);
    _exit(body() ? 0 : 1);
  }
  int state = 0;
  waitpid(child, &state, 0);
  return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
}

bool works(bool parallel) {
  for (int i = 0; i < 20; ++i) {
    if (!dependent_phases(exec_of(3), 50)) return false;
  }
  return !parallel || runs_in_parallel(exec_of(2));
}

void test_fork(bool parallel) {
  CHECK(works(parallel));
  CHECK(in_child([&] { return works(parallel) && in_child([&] { return works(parallel); }) == 0; }) == 0);
  CHECK(works(parallel));
  // While another thread holds the region.
  std::atomic<bool> stop{false}, started{false};
  std::thread busy([&] {
    while (!stop) {
      dependent_phases(exec_of(2), 2000);
      started = true;
    }
  });
  while (!started) std::this_thread::yield();
  for (int i = 0; i < 10; ++i) CHECK(in_child([&] { return works(parallel); }) == 0);
  stop = true;
  busy.join();
}

// A host with threads of its own: task i on lane i % lanes.
struct Host {
  int lanes;
  int32_t lane_offset = 0;
  int64_t skipped = 0;
};

void host_parallel_for(void* pointer, int64_t count, fbn_task task, void* argument) {
  const Host& host = *static_cast<const Host*>(pointer);
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(host.lanes));
  for (int32_t lane = 0; lane < host.lanes; ++lane) {
    threads.emplace_back([&, lane] {
      for (int64_t i = lane; i < count - host.skipped; i += host.lanes) task(i, lane + host.lane_offset, argument);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

Exec host_exec(Host& host) {
  Exec exec = exec_of(host.lanes);
  exec.parallel_for = host_parallel_for;
  exec.parallel_for_host = &host;
  return exec;
}

void test_host() {
  for (const int lanes : {2, 3}) {
    Host host{lanes};
    for (const int64_t n : {0, 1, 2, 100}) CHECK(dependent_phases(host_exec(host), n));
    CHECK(runs_in_parallel(host_exec(host)));
  }
  const auto nothing = [](int64_t, int) {};
  Host wrong_lane{3, 1}, lazy{3, 0, 2};
  CHECK(check::error_of(FBN_INVALID_VALUE, [&] {
          execute(host_exec(wrong_lane), {{9, nothing}}, kMuchWork);
        }).find("Received: lane 3") != std::string::npos);
  CHECK(check::error_of(FBN_INVALID_VALUE, [&] {
          execute(host_exec(lazy), {{9, nothing}}, kMuchWork);
        }).find("Received: 7 calls") != std::string::npos);
}

// True if denormals are kept by the calling thread's arithmetic now.
bool keeps_denormals() {
  volatile float small = 1e-38f;
  const volatile float denormal = small * 0.01f;
  return denormal != 0.0f;
}

void test_denormals() {
  Host host{2};
  Exec backends[] = {exec_of(1), exec_of(2), host_exec(host)};
  for (const Exec& exec : backends) {
    std::atomic<int> flushed{0};
    const auto look = [&](int64_t, int) { flushed += !keeps_denormals(); };
    CHECK(keeps_denormals());
    execute(exec, {{8, look}, {8, look}}, kMuchWork);
    CHECK(flushed == 16);
    CHECK(keeps_denormals());
  }
#if FASTBN_OPENMP
  int kept = 0;
#pragma omp parallel num_threads(2) reduction(+ : kept)
  kept += keeps_denormals();
  CHECK(kept == 2);  // the runtime's threads are given back as they were, too
#endif
}

void test_resolve() {
  fbn_exec exec{};
  exec.struct_size = sizeof exec;
  CHECK(resolve_exec("op", nullptr).lanes == fbn_get_num_threads());
  CHECK(resolve_exec("op", &exec).lanes == fbn_get_num_threads());
  exec.num_threads = 5;
  CHECK(resolve_exec("op", &exec).lanes == 5);
  exec.num_threads = -1;
  CHECK(check::error_of(FBN_INVALID_VALUE, [&] { resolve_exec("op", &exec); }) ==
        "op: exec.num_threads must lie in [0, 1024]. Received: -1");
  exec.num_threads = 0;
  exec.struct_size = 8;
  CHECK(!check::error_of(FBN_INVALID_VALUE, [&] { resolve_exec("op", &exec); }).empty());
  exec.struct_size = sizeof exec;
  exec.workspace = reinterpret_cast<void*>(uintptr_t{4097});
  CHECK(!check::error_of(FBN_INVALID_VALUE, [&] { resolve_exec("op", &exec); }).empty());
}

void test_part_of() {
  for (const int64_t total : {0, 1, 5, 64, 1000}) {
    for (const int64_t parts : {1, 2, 3, 7}) {
      for (const int64_t grain : {1, 16}) {
        int64_t end = 0;
        for (int64_t i = 0; i < parts; ++i) {
          const Range range = part_of(total, parts, i, grain);
          CHECK(range.begin == end && range.end >= range.begin);
          CHECK(range.begin % grain == 0 || range.begin == total);
          end = range.end;
        }
        CHECK(end == total);
      }
    }
  }
}

}  // namespace

// --no-fork: qemu-user cannot fork a process that has threads.
int main(int argc, char** argv) {
  const bool may_fork = argc < 2 || std::strcmp(argv[1], "--no-fork") != 0;
  CHECK(fbn_set_serial_threshold(0) == FBN_OK);
#if FASTBN_OPENMP
  constexpr bool parallel = true;
#else
  constexpr bool parallel = false;
#endif
  test_part_of();
  test_phases();
  test_backwards();
  test_threshold();
  if (parallel) CHECK(runs_in_parallel(exec_of(2)));
  test_nesting();
  test_concurrent_callers();
  test_host();
  test_denormals();
  test_resolve();
#if FASTBN_OPENMP
  test_foreign_region();
#endif
  if (may_fork) test_fork(parallel);
  return check::report("executor_test");
}
