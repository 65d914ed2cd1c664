// Programs of a forked child: whole and usable whatever other threads of the parent were doing with them.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "check.hpp"
#include "networks.hpp"

using namespace networks;

namespace {

constexpr int64_t kSamples = 24;
constexpr int kSteps = 400;

struct Images {
  std::vector<float> x = std::vector<float>(kSamples * kImageSize, 0.25f);
  std::vector<int32_t> y = std::vector<int32_t>(kSamples);
  Images() {
    for (size_t i = 0; i < x.size(); ++i) x[i] += static_cast<float>(i * i % 17) / 17;
    for (size_t i = 0; i < y.size(); ++i) y[i] = static_cast<int32_t>(i % kImageClasses);
  }
};
const Images images;

fbn_status train(fbn_program* program, const fbn_exec& exec) {
  return fbn_program_train(program, images.x.data(), images.y.data(), nullptr, kSamples, nullptr, &exec);
}

fbn_status predict(fbn_program* program, const fbn_exec& exec) {
  std::vector<float> out(kSamples * kImageClasses);
  return fbn_program_predict(program, images.x.data(), nullptr, kSamples, out.data(), &exec);
}

// Whether body() holds in a child, which is killed where it hangs.
template <class Body>
bool holds_in_child(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(body() ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  if (status != 0) std::fprintf(stderr, "the child ended with %d (%d: it hung)\n", status, SIGALRM);
  return status == 0;
}

// The weights after each of the first steps.
std::vector<std::vector<float>> all_states() {
  fbn_program* program = image_program(kSamples);
  std::vector<std::vector<float>> states{weights(program)};
  for (int i = 0; i <= kSteps; ++i) {
    CHECK(train(program, exec_of(1)) == FBN_OK);
    states.push_back(weights(program));
  }
  fbn_program_destroy(program);
  return states;
}

// The child has the weights that a whole number of steps gives, predicts and trains on.
void test_fork_during_steps() {
  const std::vector<std::vector<float>> states = all_states();
  for (const int32_t threads : {1, 2}) {
    fbn_program* program = image_program(kSamples);
    std::atomic<bool> done{false};
    std::thread trainer([&] {
      for (int i = 0; i < kSteps; ++i) CHECK(train(program, exec_of(threads)) == FBN_OK);
      done = true;
    });
    std::thread reader([&] {
      while (!done) CHECK(predict(program, exec_of(1)) == FBN_OK);
    });
    int children = 0;
    while (!done || children == 0) {
      ++children;
      CHECK(holds_in_child([&] {
        const size_t steps = static_cast<size_t>(fbn_program_get_iteration(program));
        if (weights(program) != states[steps]) return false;
        if (predict(program, exec_of(1)) != FBN_OK || train(program, exec_of(threads)) != FBN_OK) return false;
        return weights(program) == states[steps + 1] && fbn_program_set_max_batch(program, 1) == FBN_OK;
      }));
    }
    trainer.join();
    reader.join();
    CHECK(weights(program) == states[kSteps]);
    fbn_program_destroy(program);
  }
}

// A reader that wants what the forking thread holds, as a prediction wants the interpreter's lock, is not waited for.
void test_fork_past_a_reader() {
  fbn_program* program = image_program(kSamples);
  struct Host {
    std::mutex interpreter;
    std::atomic<bool> wants{false};
  } host;
  host.interpreter.lock();
  std::thread reader([&] {
    fbn_exec exec = exec_of(2);
    exec.parallel_for_host = &host;
    exec.parallel_for = [](void* h, int64_t count, fbn_task task, void* argument) {
      static_cast<Host*>(h)->wants = true;
      const std::lock_guard lock(static_cast<Host*>(h)->interpreter);
      for (int64_t i = 0; i < count; ++i) task(i, 0, argument);
    };
    CHECK(predict(program, exec) == FBN_OK);
  });
  while (!host.wants) std::this_thread::yield();
  const auto start = std::chrono::steady_clock::now();
  CHECK(holds_in_child([&] { return predict(program, exec_of(1)) == FBN_OK && train(program, exec_of(1)) == FBN_OK; }));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
  host.interpreter.unlock();
  reader.join();
  fbn_program_destroy(program);
}

struct Pool {
  pid_t child = -1;
  std::atomic<bool> entered{false}, go_on{false};
};

// A step that forks itself goes on in the parent and in the child, and waits for nobody.
void test_fork_by_a_step() {
  fbn_program* program = image_program(kSamples);
  Pool pool;
  fbn_exec exec = exec_of(2);
  exec.parallel_for_host = &pool;
  exec.parallel_for = [](void* h, int64_t count, fbn_task task, void* argument) {
    Pool& p = *static_cast<Pool*>(h);
    if (p.child < 0 && (p.child = fork()) == 0) alarm(60);
    for (int64_t i = 0; i < count; ++i) task(i, 0, argument);
  };
  const auto start = std::chrono::steady_clock::now();
  const bool good = train(program, exec) == FBN_OK && train(program, exec_of(1)) == FBN_OK;
  if (pool.child == 0) _exit(good && fbn_program_get_iteration(program) == 2 ? 0 : 1);
  int status = -1;
  CHECK(good && waitpid(pool.child, &status, 0) == pool.child && status == 0);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
  fbn_program_destroy(program);
}

// A step that does not end in time: the child is told.
void test_fork_in_an_endless_step() {
  fbn_program *program = image_program(kSamples), *other = image_program(kSamples);
  Pool pool;
  std::thread trainer([&] {
    fbn_exec exec = exec_of(2);
    exec.parallel_for_host = &pool;
    exec.parallel_for = [](void* h, int64_t count, fbn_task task, void* argument) {
      Pool& p = *static_cast<Pool*>(h);
      p.entered = true;
      while (!p.go_on) std::this_thread::yield();
      for (int64_t i = 0; i < count; ++i) task(i, 0, argument);
    };
    CHECK(train(program, exec) == FBN_OK);
  });
  while (!pool.entered) std::this_thread::yield();
  CHECK(holds_in_child([&] {
    for (const fbn_status status : {predict(program, exec_of(1)), train(program, exec_of(1)),
                                    fbn_program_set_max_batch(program, 1), fbn_program_set_iteration(program, 1)})
      if (status != FBN_BUSY || std::strstr(fbn_last_error(), "when this process was forked") == nullptr) return false;
    float out[8 * 9 * 2];
    return fbn_program_get(program, 0, "value", out) == FBN_BUSY && fbn_program_get_iteration(program) == 0 &&
           train(other, exec_of(1)) == FBN_OK;
  }));
  pool.go_on = true;
  trainer.join();
  CHECK(predict(program, exec_of(1)) == FBN_OK);
  fbn_program_destroy(program);
  fbn_program_destroy(other);
}

// In a child, whose regions run in another thread than the caller's, the host is asked as it is in the parent.
void test_interrupted_in_a_child() {
  constexpr int64_t kSize = 28, kChannels = 128, kBatch = 64;  // 59 billion operations
  fbn_conv2d d{};
  d.struct_size = sizeof d;
  d.batch = kBatch;
  d.height = d.width = kSize;
  d.in_channels = d.out_channels = kChannels;
  d.kernel_height = d.kernel_width = 3;
  d.stride_height = d.stride_width = d.dilation_height = d.dilation_width = d.groups = 1;
  d.padding = FBN_PADDING_SAME;
  d.algorithm = FBN_ALGORITHM_DIRECT;
  const std::vector<float> x(kBatch * kSize * kSize * kChannels, 0.5f), kernel(9 * kChannels * kChannels, 0.25f);
  std::vector<float> y(x.size());
  fbn_exec exec = exec_of(2);
  exec.interrupted = [](void*) -> int32_t { return 1; };
  CHECK(fbn_conv2d_forward(&d, x.data(), kernel.data(), nullptr, y.data(), &exec) == FBN_INTERRUPTED);
  CHECK(holds_in_child([&] {
    return fbn_conv2d_forward(&d, x.data(), kernel.data(), nullptr, y.data(), &exec) == FBN_INTERRUPTED &&
           fbn_conv2d_forward(&d, x.data(), kernel.data(), nullptr, y.data(), &exec) == FBN_INTERRUPTED;
  }));
}

}  // namespace

int main() {
  CHECK(fbn_set_serial_threshold(0) == FBN_OK);
  test_fork_during_steps();
  test_fork_past_a_reader();
  test_fork_by_a_step();
  test_fork_in_an_endless_step();
  test_interrupted_in_a_child();
  return check::report("fork_test");
}
