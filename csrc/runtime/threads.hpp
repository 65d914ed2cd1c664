// How many threads a call uses by default, and in words why.
#pragma once

#include <cstdint>
#include <string>

namespace fastbn {

inline constexpr int32_t kMaxThreads = 1024;

// What the default is computed from. Tests build their own; machine_sources() reads this process.
struct ThreadSources {
  std::string omp_num_threads;  // value of the environment variable, empty if unset
  int processors = 1;           // in the affinity mask
  std::string root;             // put before /proc/self/cgroup, /proc/self/mountinfo and the cgroup mounts
};

struct ThreadDefault {
  int threads;
  std::string reason;
};

ThreadSources machine_sources();

// OMP_NUM_THREADS if it is a positive number (the first of a list); else the processors of the affinity mask, at
// most the quota of the process' cgroup and of every group above it, rounded up.
ThreadDefault default_threads(const ThreadSources& sources);

// Processors in the affinity mask of the process, read once.
int processors();

}  // namespace fastbn
