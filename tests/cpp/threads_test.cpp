// The default number of threads under OMP_NUM_THREADS, affinity masks and cgroup quotas, read from made-up trees.
#include "runtime/threads.hpp"

#include <fastbn/fastbn.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "check.hpp"

using namespace fastbn;
namespace fs = std::filesystem;

namespace {

// A root with /proc/self/cgroup and /proc/self/mountinfo; removed at the end.
class Tree {
 public:
  Tree() {
    char pattern[] = "/tmp/fastbn-threads-XXXXXX";
    root_ = mkdtemp(pattern);
  }
  Tree(const char* cgroup, const char* mountinfo) : Tree() {
    write("/proc/self/cgroup", cgroup);
    write("/proc/self/mountinfo", mountinfo);
  }
  ~Tree() { fs::remove_all(root_); }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;
  void write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  ThreadDefault with(int processors, const char* omp = "") const {
    return default_threads(ThreadSources{omp, processors, root_});
  }

 private:
  std::string root_;
};

constexpr const char* kMount2 =
    "24 29 0:22 / /sys rw - sysfs sysfs rw\n"
    "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

void test_environment() {
  const Tree tree("", "");
  CHECK(tree.with(8).threads == 8);
  CHECK(tree.with(8).reason == "8 processors in the affinity mask");
  CHECK(tree.with(1).reason == "1 processor in the affinity mask");
  CHECK(tree.with(8, "3").threads == 3);
  CHECK(tree.with(8, "3").reason == "OMP_NUM_THREADS=3");
  CHECK(tree.with(2, "12").threads == 12);
  CHECK(tree.with(8, " 4,2").threads == 4);
  CHECK(tree.with(8, "99999999").threads == kMaxThreads);
  for (const char* invalid : {"0", "-2", "many", "4x", " "}) CHECK(tree.with(8, invalid).threads == 8);
}

void test_version_2() {
  Tree tree("0::/user.slice/job.scope/inner\n", kMount2);
  const std::string job = "/sys/fs/cgroup/user.slice/job.scope";
  CHECK(tree.with(8).threads == 8);
  tree.write("/sys/fs/cgroup/cpu.max", "600000 100000");
  CHECK(tree.with(8).threads == 6);
  tree.write(job + "/inner/cpu.max", "max 100000");
  CHECK(tree.with(8).threads == 6);
  tree.write(job + "/cpu.max", "150000 100000\n");  // a group above the process' own
  CHECK(tree.with(8).threads == 2);
  CHECK(tree.with(8).reason == "cgroup quota of 1.5 processors (" + job + ")");
  CHECK(tree.with(1).threads == 1);
  CHECK(tree.with(1).reason == "1 processor in the affinity mask");
  tree.write(job + "/inner/cpu.max", "10000 100000");
  CHECK(tree.with(8).threads == 1);
  CHECK(tree.with(8, "5").threads == 5);
}

void test_version_1() {
  Tree tree("5:cpuset:/\n4:cpu,cpuacct:/docker/abc\n0::/\n",
            "41 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
            "42 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n");
  tree.write("/sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "1");  // the wrong hierarchy
  tree.write("/sys/fs/cgroup/cpuset/cpu.cfs_period_us", "1");
  const std::string group = "/sys/fs/cgroup/cpu,cpuacct/docker/abc";
  tree.write(group + "/cpu.cfs_quota_us", "-1");
  tree.write(group + "/cpu.cfs_period_us", "100000");
  CHECK(tree.with(8).threads == 8);
  tree.write(group + "/cpu.cfs_quota_us", "250000");
  CHECK(tree.with(8).threads == 3);
  tree.write("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", "200000");
  tree.write("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "100000");
  CHECK(tree.with(8).threads == 2);
}

void test_containers() {
  // No cgroup namespace: the full path in /proc/self/cgroup, the group itself mounted.
  Tree outside("0::/docker/abc/inner\n", "30 24 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
  outside.write("/sys/fs/cgroup/cpu.max", "300000 100000");
  CHECK(outside.with(8).threads == 3);
  outside.write("/sys/fs/cgroup/inner/cpu.max", "200000 100000");
  CHECK(outside.with(8).threads == 2);
  // A group outside of the namespace's root.
  Tree above("0::/../other\n", kMount2);
  above.write("/sys/fs/cgroup/cpu.max", "100000 100000");
  CHECK(above.with(8).threads == 1);
  // A mount point with a blank in its name; both versions mounted, the smaller quota counts.
  Tree both("3:cpu:/a\n0::/b\n",
            "30 24 0:26 / /my\\040groups/two rw - cgroup2 cgroup2 rw\n"
            "31 24 0:27 / /my\\040groups/cpu rw - cgroup cgroup rw,cpu\n");
  both.write("/my groups/two/b/cpu.max", "500000 100000");
  both.write("/my groups/cpu/a/cpu.cfs_quota_us", "400000");
  both.write("/my groups/cpu/a/cpu.cfs_period_us", "100000");
  CHECK(both.with(8).threads == 4);
}

// Each file of FASTBN_CGROUPS is a machine: a remark, its processors, the threads and the reason that are right there,
// and what its files say ("== path").
void test_recorded_machines() {
  int machines = 0;
  for (const auto& entry : fs::directory_iterator(FASTBN_CGROUPS)) {
    Tree tree;
    int processors = 0, threads = 0;
    std::string reason, path, text;
    std::ifstream file(entry.path());
    const auto value = [](const std::string& line) { return line.substr(line.find(' ') + 1); };
    for (std::string line; std::getline(file, line);) {
      if (line.rfind("== ", 0) == 0) {
        if (!path.empty()) tree.write(path, text);
        path = line.substr(3);
        text.clear();
      } else if (!path.empty()) {
        text += line + "\n";
      } else if (line.rfind("processors ", 0) == 0) {
        processors = std::stoi(value(line));
      } else if (line.rfind("threads ", 0) == 0) {
        threads = std::stoi(value(line));
      } else if (line.rfind("reason ", 0) == 0) {
        reason = value(line);
      }
    }
    tree.write(path, text);
    const ThreadDefault found = tree.with(processors);
    if (found.threads != threads || found.reason != reason) {
      check::fail(entry.path().c_str(), 1, (std::to_string(found.threads) + ", " + found.reason).c_str());
    }
    CHECK(tree.with(processors, "5").threads == 5);
    ++machines;
  }
  CHECK(machines >= 6);
}

void test_interface() {
  CHECK(fbn_get_num_threads() >= 1);
  CHECK(fbn_set_num_threads(7) == FBN_OK);
  CHECK(fbn_get_num_threads() == 7);
  CHECK(std::strcmp(fbn_num_threads_reason(), "set_num_threads(7)") == 0);
  CHECK(fbn_set_num_threads(-1) == FBN_INVALID_VALUE);
  CHECK(std::strstr(fbn_last_error(), "Received: -1") != nullptr);
  CHECK(fbn_set_num_threads(kMaxThreads + 1) == FBN_INVALID_VALUE);
  CHECK(fbn_get_num_threads() == 7);
  CHECK(fbn_set_num_threads(0) == FBN_OK);
  CHECK(std::strstr(fbn_num_threads_reason(), "set_num_threads") == nullptr);
}

}  // namespace

int main() {
  test_environment();
  test_version_2();
  test_version_1();
  test_containers();
  test_recorded_machines();
  test_interface();
  return check::report("threads_test");
}
