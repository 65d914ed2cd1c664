#include "executor.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <new>
#include <thread>

#include "kernels/kernel_table.hpp"
#include "status.hpp"
#include "threads.hpp"

#if FASTBN_OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fastbn {
namespace {

// Several lanes are opened only for as much work as this each, up to a few: all of them or one, since OpenMP runtimes
// allocate, and start or end threads, where a team has another size than the last. Measured on two cores whose team is
// awake: y = relu(x) over 262,144 bytes takes 3.2 us on one lane and 3.5 us on two, over twice as many 4.6 and 4.0 us;
// a dense product of 627,200 operations 8.0 and 7.4 us, both with the 2.5 us that a call from Python takes.
constexpr int kLanesForWork = 8;
constexpr double kLaneWork = 3 << 16;
std::atomic<double> serial_threshold{-1};  // negative: 2 * kLaneWork

// The thread's floating-point control word, and what every task sees, whatever the caller's: round to nearest, nothing
// trapped, denormals read and written as zero.
#if defined(__x86_64__)
using FloatControl = unsigned;
constexpr FloatControl kTaskControl = 0x1f80 | 0x8000 | 0x0040;  // masks | FTZ | DAZ
FloatControl float_control() { return _mm_getcsr(); }
void set_float_control(FloatControl control) { _mm_setcsr(control); }
#elif defined(__aarch64__)
using FloatControl = uint64_t;
constexpr FloatControl kTaskControl = uint64_t{1} << 24;  // FZ
FloatControl float_control() {
  FloatControl control;
  __asm__ volatile("mrs %0, fpcr" : "=r"(control));
  return control;
}
void set_float_control(FloatControl control) { __asm__ volatile("msr fpcr, %0" : : "r"(control) : "memory"); }
#else
using FloatControl = unsigned;
constexpr FloatControl kTaskControl = 0;
FloatControl float_control() { return 0; }
void set_float_control(FloatControl) {}
#endif

// Sets a control word; the destructor restores the one before.
class FloatMode {
 public:
  explicit FloatMode(FloatControl control) : saved_(float_control()) { set_float_control(control); }
  ~FloatMode() { set_float_control(saved_); }
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
  FloatControl saved_;
};

// This thread is running tasks: a call from inside one runs serially.
thread_local bool inside_task = false;

class TaskScope {
 public:
  TaskScope() : outer_(inside_task) { inside_task = true; }
  ~TaskScope() { inside_task = outer_; }
  TaskScope(const TaskScope&) = delete;
  TaskScope& operator=(const TaskScope&) = delete;

 private:
  bool outer_;
  const FloatMode mode_{kTaskControl};
};

constexpr int64_t kAskEvery = 50'000'000;  // nanoseconds
int64_t coarse_now() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

// Whether the host wants the call to end. The calling thread asks it; the others see the answer.
class Interruption {
 public:
  explicit Interruption(const Exec& exec) : exec_(exec) {}
  bool possible() const { return exec_.interrupted != nullptr; }
  bool wanted() const { return wanted_.load(std::memory_order_relaxed); }
  void ask() {
    const int64_t time = coarse_now();
    if (time - exec_.last_asked < kAskEvery) return;
    exec_.last_asked = time;
    const FloatMode mode(callers_mode_);
    if (exec_.interrupted(exec_.interrupted_host) != 0) wanted_.store(true, std::memory_order_relaxed);
  }

 private:
  const Exec& exec_;
  const FloatControl callers_mode_ = float_control();
  std::atomic<bool> wanted_{false};
};

void run_serial(std::span<const Phase> phases, Interruption& interruption) {
  const TaskScope scope;
  for (const Phase& phase : phases) {
    for (int64_t i = 0; i < phase.tasks; ++i) {
      if (interruption.possible()) {
        interruption.ask();
        if (interruption.wanted()) return;
      }
      phase.run(phase.task(0, phase.tasks, i), 0);
    }
  }
}

// ------------------------------------------------------------------------------------------- the host's thread pool

struct HostPhase {
  const Phase* phase;
  int lanes;
  Interruption* interruption;
  pthread_t caller = pthread_self();
  std::atomic<int64_t> done{0};
  std::atomic<int32_t> bad_lane{-1};
  std::atomic<bool> bad_call{false};
};

void run_host_task(int64_t task, int32_t lane, void* argument) {
  HostPhase& host = *static_cast<HostPhase*>(argument);
  if (lane < 0 || lane >= host.lanes || task < 0 || task >= host.phase->tasks) {
    host.bad_lane.store(lane, std::memory_order_relaxed);
    host.bad_call.store(true, std::memory_order_relaxed);
    return;
  }
  {
    if (host.interruption->possible() && pthread_equal(host.caller, pthread_self())) host.interruption->ask();
    const TaskScope scope;
    if (!host.interruption->wanted()) host.phase->run(task, lane);
  }
  host.done.fetch_add(1, std::memory_order_release);
}

void run_host(const Exec& exec, std::span<const Phase> phases, Interruption& interruption) {
  for (const Phase& phase : phases) {
    if (phase.tasks <= 1) {
      run_serial({&phase, 1}, interruption);
      continue;
    }
    HostPhase host{&phase, exec.lanes, &interruption};
    exec.parallel_for(exec.parallel_for_host, phase.tasks, run_host_task, &host);
    require(!host.bad_call.load(std::memory_order_relaxed), "fbn_exec.parallel_for: lane must lie in [0, ", exec.lanes,
            ") and index in [0, count). Received: lane ", host.bad_lane.load(std::memory_order_relaxed));
    const int64_t done = host.done.load(std::memory_order_acquire);
    require(done == phase.tasks, "fbn_exec.parallel_for: must call the task once for each of ", phase.tasks,
            " indices before it returns. Received: ", done, " calls");
  }
}

#if FASTBN_OPENMP
// ----------------------------------------------------------------------------------------------- the OpenMP region

void futex_wait(std::atomic<uint32_t>* word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}
void futex_wake_all(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Sense-reversing: `epoch` is the sense, it changes when the last one arrives. Waits in three steps: spinning (the
// others are a few microseconds behind), giving the processor away (there are more threads than processors), sleeping.
class Barrier {
 public:
  void reset(bool crowded) {
    arrived_.store(0, std::memory_order_relaxed);
    spins_ = crowded ? 0 : 1000;
  }

  void wait(int count) {
    const uint32_t epoch = epoch_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
      arrived_.store(0, std::memory_order_relaxed);
      // Sequentially consistent, as are the sleepers' steps: either they see the new epoch or we see them.
      epoch_.store(epoch + 1, std::memory_order_seq_cst);
      if (sleepers_.load(std::memory_order_seq_cst) > 0) futex_wake_all(&epoch_);
      return;
    }
    for (int i = 0; i < spins_; ++i) {
      if (epoch_.load(std::memory_order_acquire) != epoch) return;
      pause_cpu();
    }
    for (int i = 0; i < 100; ++i) {
      if (epoch_.load(std::memory_order_acquire) != epoch) return;
      sched_yield();
    }
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (epoch_.load(std::memory_order_seq_cst) == epoch) futex_wait(&epoch_, epoch);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

 private:
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<int> sleepers_{0};
  int spins_ = 0;
};

// A lane's contiguous share of a phase. The lane takes from it first, which keeps data with its thread from call to
// call; others take what is left when their own is empty.
struct alignas(64) Share {
  std::atomic<int64_t> taken{0};
  Range tasks{0, 0};
};

// The one region that may be open in this process; whoever holds `open` owns all of it.
struct Region {
  std::atomic<bool> open{false};
  std::span<const Phase> phases;
  int lanes = 0;
  Interruption* interruption = nullptr;
  int asking_lane = 0;       // the calling thread's; -1: it runs no lane
  std::atomic<int> left{0};  // lanes that have ended
  Barrier barrier;
  Share shares[2][kMaxThreads];  // of even and odd phases: one is filled while the other is in use

  void share_out(size_t phase, int lane) {
    Share& share = shares[phase % 2][lane];
    share.tasks = part_of(phases[phase].tasks, lanes, lane);
    share.taken.store(0, std::memory_order_relaxed);
  }
};
Region region;
// How the lanes get to the region: release and acquire here and on Region::left are all the ordering that the
// executor relies on at the ends of a region.
std::atomic<Region*> published{nullptr};

// `present` lanes take part; the runtime may grant fewer threads than asked for.
void run_lane(Region& r, int lane, int present) {
  {
    const TaskScope scope;
    Interruption& interruption = *r.interruption;
    for (size_t p = 0; p < r.phases.size(); ++p) {
      if (p + 1 < r.phases.size()) {
        for (int absent = lane; absent < r.lanes; absent += present) r.share_out(p + 1, absent);
      }
      const Phase& phase = r.phases[p];
      for (int i = 0; i < r.lanes; ++i) {
        Share& share = r.shares[p % 2][lane + i < r.lanes ? lane + i : lane + i - r.lanes];
        const Range tasks = share.tasks;
        while (share.taken.load(std::memory_order_relaxed) < tasks.size()) {
          const int64_t taken = share.taken.fetch_add(1, std::memory_order_relaxed);
          if (taken >= tasks.size()) break;
          if (interruption.possible()) {
            if (lane == r.asking_lane) interruption.ask();
            if (interruption.wanted()) continue;
          }
          phase.run(phase.task(tasks.begin, tasks.end, taken), lane);
        }
      }
      if (p + 1 < r.phases.size()) r.barrier.wait(present);
    }
  }
  r.left.fetch_add(1, std::memory_order_acq_rel);
}

// No variable is shared with the region: the lanes read everything through `published`.
void open_region(int lanes) {
#pragma omp parallel num_threads(lanes)
  { run_lane(*published.load(std::memory_order_acquire), omp_get_thread_num(), omp_get_num_threads()); }
}

// A thread that survived a fork has a dead OpenMP team, and a region that it opens hangs under libgomp. A fresh thread
// has a team of its own, so such a thread hands its regions to one, which stays for the next.
class RegionServer {
 public:
  RegionServer() {
    std::thread([this] { serve(); }).detach();
  }

  void run(int lanes, Interruption& interruption) {
    std::unique_lock lock(mutex_);
    lanes_ = lanes;
    changed_.notify_all();
    const auto done = [this] { return lanes_ == 0; };
    if (!interruption.possible()) return changed_.wait(lock, done);
    while (!changed_.wait_for(lock, std::chrono::nanoseconds(kAskEvery), done)) {
      lock.unlock();  // the host's callback may take its time
      interruption.ask();
      lock.lock();
    }
  }

 private:
  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return lanes_ > 0; });
      lock.unlock();  // lanes_ stays as it is: nobody asks for a region before this one is done
      open_region(lanes_);
      lock.lock();
      lanes_ = 0;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  int lanes_ = 0;  // asked for; 0 when done
};

thread_local bool team_is_dead = false;
RegionServer* server = nullptr;  // of this process; owned by the holder of region.open, never destroyed

void after_fork_in_child() {
  team_is_dead = true;
  server = nullptr;  // its thread is gone
  region.open.store(false, std::memory_order_relaxed);
  new (&region.barrier) Barrier;
}
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, after_fork_in_child);

// False: somebody else has the region.
bool run_region(int lanes, std::span<const Phase> phases, Interruption& interruption) {
  if (region.open.exchange(true, std::memory_order_acquire)) return false;
  struct Closer {
    ~Closer() { region.open.store(false, std::memory_order_release); }
  } closer;
  if (team_is_dead && server == nullptr) server = new RegionServer;  // before anything has run: it may throw
  region.phases = phases;
  region.lanes = lanes;
  region.interruption = &interruption;
  region.asking_lane = team_is_dead ? -1 : 0;
  region.left.store(0, std::memory_order_relaxed);
  region.barrier.reset(lanes > processors());
  for (int lane = 0; lane < lanes; ++lane) region.share_out(0, lane);
  published.store(&region, std::memory_order_release);
  if (team_is_dead) {
    server->run(lanes, interruption);
  } else {
    open_region(lanes);
  }
  (void)region.left.load(std::memory_order_acquire);
  return true;
}

// More threads than processors only take turns, and every phase ends with all of them switched to: 64 on one processor
// took 1.7 times as long as one. Tests (threshold 0) get what they ask for, so that races show on small machines.
int worthwhile_threads(int lanes) {
  return serial_threshold.load(std::memory_order_relaxed) == 0 ? lanes : std::min(lanes, processors());
}
#endif  // FASTBN_OPENMP

// How a call ran: on how many lanes and, on one, why.
struct Ran {
  int lanes;
  const char* why;
};

Ran run(const Exec& exec, std::span<const Phase> phases, double work, Interruption& interruption) {
  int64_t most_tasks = 0;
  for (const Phase& phase : phases) most_tasks = std::max(most_tasks, phase.tasks);
  const int lanes = most_tasks > 1 ? worthwhile_lanes(exec.lanes, work) : 1;
  const auto serial = [&](const char* why) {
    run_serial(phases, interruption);
    return Ran{1, exec.lanes > 1 ? why : ""};
  };
  if (inside_task) return serial(" (inside another call)");
  if (lanes < 2) return serial(" (too little work for more)");
  if (exec.parallel_for != nullptr) {
    run_host(exec, phases, interruption);
    return {exec.lanes, " (the host's)"};
  }
#if FASTBN_OPENMP
  if (omp_in_parallel()) return serial(" (inside a parallel region)");
  const int threads = worthwhile_threads(lanes);
  if (threads < 2) return serial(" (one processor)");
  if (run_region(threads, phases, interruption)) return {threads, ""};
  return serial(" (another call has the others)");
#else
  return serial(" (built without OpenMP)");
#endif
}

}  // namespace

int worthwhile_lanes(int lanes, double work) {
  const double set = serial_threshold.load(std::memory_order_relaxed);
  const double lane_work = set < 0 ? kLaneWork : set / 2;
  return work < std::min(lanes, kLanesForWork) * lane_work ? 1 : std::max(1, lanes);
}

Exec resolve_exec(const char* operation, const fbn_exec* exec) {
  kernels();  // a FASTBN_ISA that cannot be had fails here, before anything runs
  Exec result;
  if (exec == nullptr) {
    result.lanes = fbn_get_num_threads();
    return result;
  }
  const fbn_exec e = read_descriptor(operation, exec);
  require(e.num_threads >= 0 && e.num_threads <= kMaxThreads, operation, ": exec.num_threads must lie in [0, ",
          kMaxThreads, "]. Received: ", e.num_threads);
  require(reinterpret_cast<uintptr_t>(e.workspace) % 64 == 0, operation,
          ": exec.workspace must be aligned to 64 bytes. Received: ", e.workspace);
  result.lanes = e.num_threads > 0 ? e.num_threads : fbn_get_num_threads();
  result.parallel_for = e.parallel_for;
  result.parallel_for_host = e.parallel_for_host;
  result.workspace = e.workspace;
  result.workspace_size = e.workspace_size;
  result.workspace_query = e.workspace_query;
  result.interrupted = e.interrupted;
  result.interrupted_host = e.interrupted_host;
  if (result.interrupted != nullptr) result.last_asked = coarse_now();
  return result;
}

void execute(const Exec& exec, std::span<const Phase> phases, double work) {
  Interruption interruption(exec);
  if (exec.description.empty()) {
    run(exec, phases, work, interruption);
  } else {
    const auto start = std::chrono::steady_clock::now();
    const Ran ran = run(exec, phases, work, interruption);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
    char time[32];
    std::snprintf(time, sizeof time, "%.3f ms", taken.count());
    say(concatenate(exec.description, ", ", kernels().name, ", ", ran.lanes, ran.lanes == 1 ? " thread" : " threads",
                    ran.why, ", ", time));
  }
  if (interruption.wanted()) fail(FBN_INTERRUPTED, "fastbn: interrupted by the host");
}

}  // namespace fastbn

using namespace fastbn;

fbn_status fbn_set_serial_threshold(double work) {
  return guard([&] {
    require(work == work, "fbn_set_serial_threshold: work must not be NaN. Received: ", work);
    serial_threshold.store(work, std::memory_order_relaxed);
  });
}
