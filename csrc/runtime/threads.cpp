#include "threads.hpp"

#include <fastbn/fastbn.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

#include "status.hpp"

#if FASTBN_OPENMP
#include <omp.h>
#endif

namespace fastbn {
namespace {

// ---- cgroup quota. Version 1 (hierarchies per controller) and 2 (one), mounted anywhere, seen from inside or outside
// a cgroup namespace; a machine may mount both.

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) parts.push_back(part);
  return parts;
}

bool contains(const std::vector<std::string>& parts, const std::string& wanted) {
  return std::find(parts.begin(), parts.end(), wanted) != parts.end();
}

// mountinfo writes blanks and backslashes of paths as \ooo.
std::string unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>(std::strtol(text.substr(i + 1, 3).c_str(), nullptr, 8));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

struct Mount {
  std::string root;   // the group of the hierarchy that is mounted
  std::string point;  // where
};

// The mount of the cgroup 2 hierarchy, or of the version 1 hierarchy with the `cpu` controller.
std::optional<Mount> find_mount(const std::string& root, bool version_2) {
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    // id parent major:minor root point options [optional fields ...] - type source super-options
    const auto words = split(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 6 || words.end() - dash < 4) continue;
    if (version_2 ? dash[1] != "cgroup2" : dash[1] != "cgroup" || !contains(split(dash[3], ','), "cpu")) continue;
    return Mount{unescape(words[3]), unescape(words[4])};
  }
  return std::nullopt;
}

// The process' group in that hierarchy.
std::optional<std::string> find_group(const std::string& root, bool version_2) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    // id:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (version_2 ? controllers.empty() : contains(split(controllers, ','), "cpu")) return line.substr(second + 1);
  }
  return std::nullopt;
}

std::optional<double> read_quota(const std::string& folder, bool version_2) {
  double quota = 0, period = 0;
  if (version_2) {
    std::ifstream file(folder + "/cpu.max");  // "max 100000" or "150000 100000"
    if (!(file >> quota >> period)) return std::nullopt;
  } else {
    std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
    if (!(quota_file >> quota) || !(period_file >> period)) return std::nullopt;
  }
  if (quota <= 0 || period <= 0) return std::nullopt;  // -1: no quota
  return quota / period;
}

struct Quota {
  double processors;
  std::string folder;
};

// The smallest quota of the group and those above it up to the mount point.
std::optional<Quota> hierarchy_quota(const std::string& root, bool version_2) {
  const auto mount = find_mount(root, version_2);
  auto group = find_group(root, version_2);
  if (!mount || !group) return std::nullopt;
  // A container without a cgroup namespace sees the full path and a mount of its own group only; a group outside of
  // what is mounted ("/../other") can be looked at only from the mount point.
  const std::string prefix = mount->root == "/" ? "" : mount->root;
  if (group->compare(0, prefix.size(), prefix) == 0) group->erase(0, prefix.size());
  if (!group->empty() && (group->front() != '/' || group->find("/..") != std::string::npos)) group->clear();
  std::optional<Quota> smallest;
  for (;;) {
    while (!group->empty() && group->back() == '/') group->pop_back();
    const std::string folder = mount->point + *group;
    const auto quota = read_quota(root + folder, version_2);
    if (quota && (!smallest || *quota < smallest->processors)) smallest = Quota{*quota, folder};
    if (group->empty()) return smallest;
    group->erase(group->rfind('/'));
  }
}

// ---- affinity

int affinity_processors() {
#if FASTBN_OPENMP
  // With OMP_PROC_BIND the runtime has bound the first thread before anybody could ask: it knows the mask of before.
  return std::max(1, omp_get_num_procs());
#else
  for (int capacity = 1024; capacity <= 1 << 20; capacity *= 2) {
    cpu_set_t* set = CPU_ALLOC(capacity);
    if (set == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(capacity);
    const int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return 1;
#endif
}

std::string plural(int n, const char* noun) { return std::to_string(n) + " " + noun + (n == 1 ? "" : "s"); }

const ThreadDefault& process_default() {
#if FASTBN_OPENMP
  static const ThreadDefault value = default_threads(machine_sources());
#else
  static const ThreadDefault value{1, "built without OpenMP"};
#endif
  return value;
}

std::atomic<int32_t> threads_set{0};  // by fbn_set_num_threads; 0: the default

enum class Decider { kSet, kRuntime, kDefault };

struct Decision {
  int32_t threads;
  Decider by;
};

Decision decide() {
  const int32_t set = threads_set.load(std::memory_order_relaxed);
  if (set > 0) return {set, Decider::kSet};
  const int32_t threads = process_default().threads;
#if FASTBN_OPENMP
  // omp_set_num_threads (threadpoolctl calls it) limits the calling thread's regions; it may only lower the default.
  const int limit = omp_get_max_threads();
  if (limit < threads) return {std::max(1, limit), Decider::kRuntime};
#endif
  return {threads, Decider::kDefault};
}

}  // namespace

ThreadSources machine_sources() {
  const char* variable = std::getenv("OMP_NUM_THREADS");
  return {variable != nullptr ? variable : "", processors(), ""};
}

ThreadDefault default_threads(const ThreadSources& sources) {
  char* end = nullptr;
  const long asked = std::strtol(sources.omp_num_threads.c_str(), &end, 10);
  while (*end == ' ') ++end;
  if (asked > 0 && (*end == '\0' || *end == ',')) {
    return {static_cast<int>(std::min<long>(asked, kMaxThreads)), "OMP_NUM_THREADS=" + sources.omp_num_threads};
  }
  ThreadDefault result{std::min(sources.processors, static_cast<int>(kMaxThreads)),
                       plural(sources.processors, "processor") + " in the affinity mask"};
  for (const bool version_2 : {true, false}) {
    const auto quota = hierarchy_quota(sources.root, version_2);
    if (!quota) continue;
    const double rounded = std::max(1.0, std::ceil(quota->processors));
    if (rounded >= result.threads) continue;
    std::ostringstream reason;
    reason << "cgroup quota of " << quota->processors << " processors (" << quota->folder << ")";
    result = {static_cast<int>(rounded), reason.str()};
  }
  return result;
}

int processors() {
  static const int value = affinity_processors();
  return value;
}

}  // namespace fastbn

using namespace fastbn;

int32_t fbn_get_num_threads(void) {
  int32_t threads = 1;
  guard([&] { threads = decide().threads; });
  return threads;
}

fbn_status fbn_set_num_threads(int32_t num_threads) {
  return guard([&] {
    require(num_threads >= 0 && num_threads <= kMaxThreads, "fbn_set_num_threads: num_threads must lie in [0, ",
            kMaxThreads, "]. Received: ", num_threads);
    threads_set.store(num_threads, std::memory_order_relaxed);
  });
}

const char* fbn_num_threads_reason(void) {
  static thread_local char text[64];
  const char* reason = "";
  guard([&] {
    const Decision decision = decide();
    reason = decision.by == Decider::kDefault ? process_default().reason.c_str() : text;
    std::snprintf(text, sizeof text, "%s(%d)", decision.by == Decider::kSet ? "set_num_threads" : "omp_set_num_threads",
                  decision.threads);
  });
  return reason;
}
