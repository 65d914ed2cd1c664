// Programs used from several threads at once: each trains its own, all predict with one while it trains, and whoever
// would train what is being trained is told so. Run under the thread sanitizer this covers every lock of a program.
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "check.hpp"
#include "networks.hpp"

using namespace networks;

namespace {

constexpr int64_t kSamples = 24;

struct Images {
  std::vector<float> x = std::vector<float>(kSamples * kImageSize);
  std::vector<int32_t> y = std::vector<int32_t>(kSamples);
  Images() {
    uint32_t state = 1;
    for (float& value : x) {
      state = state * 1664525u + 1013904223u;
      value = static_cast<float>(state >> 8) / (1 << 23) - 1;
    }
    for (int64_t i = 0; i < kSamples; ++i) y[static_cast<size_t>(i)] = static_cast<int32_t>(i % kImageClasses);
  }
};
const Images images;

std::vector<float> trained(int steps, int32_t threads) {
  const fbn_exec exec = exec_of(threads);
  fbn_program* program = image_program(kSamples);
  for (int i = 0; i < steps; ++i)
    CHECK(fbn_program_train(program, images.x.data(), images.y.data(), nullptr, kSamples, nullptr, &exec) == FBN_OK);
  std::vector<float> result = weights(program);
  fbn_program_destroy(program);
  return result;
}

template <class Body>
void in_threads(int count, Body body) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) threads.emplace_back([&body, i] { body(i); });
  for (std::thread& thread : threads) thread.join();
}

void test_separate_programs() {
  const std::vector<float> expected = trained(10, 1);
  std::vector<float> found[4];
  in_threads(4, [&](int i) { found[i] = trained(10, i + 1); });
  for (const std::vector<float>& f : found)
    CHECK(f.size() == expected.size() && std::memcmp(f.data(), expected.data(), f.size() * sizeof(float)) == 0);
}

void test_one_program_predicts_for_all() {
  fbn_program* program = image_program(kSamples);
  std::vector<float> expected(kSamples * kImageClasses);
  CHECK(fbn_program_predict(program, images.x.data(), nullptr, kSamples, expected.data(), nullptr) == FBN_OK);
  in_threads(4, [&](int i) {
    const fbn_exec exec = exec_of(i % 3 + 1);
    std::vector<float> out(expected.size());
    for (int round = 0; round < 20; ++round) {
      CHECK(fbn_program_predict(program, images.x.data(), nullptr, kSamples, out.data(), &exec) == FBN_OK);
      CHECK(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)) == 0);
    }
  });
  fbn_program_destroy(program);
}

// Whatever a program can be asked for while two threads train it: a step that is refused changes nothing.
void test_everything_at_once() {
  constexpr int kSteps = 40;  // of each
  fbn_program* program = image_program(kSamples);
  std::atomic<int> training{2};
  in_threads(5, [&](int i) {
    const fbn_exec exec = exec_of(2);
    std::vector<float> out(kSamples * kImageClasses);
    if (i < 2) {
      for (int step = 0; step < kSteps;) {
        const fbn_status status =
            fbn_program_train(program, images.x.data(), images.y.data(), nullptr, kSamples, nullptr, &exec);
        CHECK(status == FBN_OK || status == FBN_BUSY);
        if (status != FBN_BUSY) {
          ++step;
          continue;
        }
        CHECK(std::strstr(fbn_last_error(), "train: the program is training in another thread") != nullptr);
        std::this_thread::yield();
      }
      --training;
      return;
    }
    do {
      if (i == 2) {
        CHECK(fbn_program_predict(program, images.x.data(), nullptr, kSamples, out.data(), &exec) == FBN_OK);
        std::vector<float> pooled(4 * 4 * 8);
        CHECK(fbn_program_node_output(program, 4, images.x.data(), nullptr, 1, pooled.data(), &exec) == FBN_OK);
      } else if (i == 3) {
        fbn_step_result result = networks::empty_result();
        CHECK(fbn_program_evaluate(program, images.x.data(), images.y.data(), nullptr, kSamples, &result, &exec) ==
              FBN_OK);
        CHECK(result.samples == kSamples && result.loss > 0);
        CHECK(weights(program).size() > 0);
      } else {
        int32_t count = 0;
        size_t needed = 0;
        CHECK(fbn_program_costs(program, 1, nullptr, 0, &count) == FBN_OK && count > 0);
        fbn_cost_row row{};  // of no size: nothing may be written
        CHECK(fbn_program_costs(program, 1, &row, 1, &count) == FBN_INVALID_VALUE);
        row.struct_size = sizeof row;
        CHECK(fbn_program_costs(program, 1, &row, 1, &count) == FBN_OK && row.layer[0] != 0);
        CHECK(fbn_program_describe(program, nullptr, 0, &needed) == FBN_OK && needed > 0);
        CHECK(fbn_program_get_iteration(program) <= 2 * kSteps);
        CHECK(fbn_program_get_learning_rate(program) == 0.01);
        for (int k = 0; k < 20; ++k) CHECK(fbn_program_set_learning_rate(program, 0.01) == FBN_OK);
        CHECK(fbn_program_reset_costs(program) == FBN_OK);
        const fbn_status status = fbn_program_set_max_batch(program, kSamples);
        CHECK(status == FBN_OK || status == FBN_BUSY);
      }
      std::this_thread::yield();
    } while (training > 0);
  });
  CHECK(fbn_program_get_iteration(program) == 2 * kSteps);
  const std::vector<float> expected = trained(2 * kSteps, 1), found = weights(program);
  CHECK(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0);
  fbn_program_destroy(program);
}

}  // namespace

int main() {
  CHECK(fbn_set_serial_threshold(0) == FBN_OK);
  test_separate_programs();
  test_one_program_predicts_for_all();
  test_everything_at_once();
  return check::report("callers_test");
}
