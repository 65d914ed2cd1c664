// What a host may do while a program calls it, in its thread pool or in `interrupted`: use other programs, read this
// one, and be refused, not kept waiting, where it would change this one.
#include <cstring>
#include <functional>
#include <vector>

#include "check.hpp"
#include "networks.hpp"

using namespace networks;

namespace {

constexpr int64_t kSamples = 300;  // more than one batch of inference

struct Images {
  std::vector<float> x = std::vector<float>(kSamples * kImageSize);
  std::vector<int32_t> y = std::vector<int32_t>(kSamples);
  Images() {
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i % 17) / 17;
    for (size_t i = 0; i < y.size(); ++i) y[i] = static_cast<int32_t>(i % kImageClasses);
  }
};
const Images images;

// A pool of the host's: what it does before the tasks of a phase, and how many of its tasks it leaves out.
struct Pool {
  std::function<void()> before;
  std::function<int64_t(int64_t)> left_out = [](int64_t) { return 0; };

  fbn_exec exec() {
    fbn_exec e = exec_of(2);
    e.parallel_for_host = this;
    e.parallel_for = [](void* host, int64_t count, fbn_task task, void* argument) {
      Pool& pool = *static_cast<Pool*>(host);
      if (pool.before) pool.before();
      const int64_t end = count - pool.left_out(count);
      for (int64_t i = 0; i < end; ++i) task(i, static_cast<int32_t>(i % 2), argument);
    };
    return e;
  }
};

std::vector<float> predict(fbn_program* program, const fbn_exec* exec, fbn_status expected = FBN_OK) {
  std::vector<float> out(kSamples * kImageClasses, -1.0f);
  CHECK(fbn_program_predict(program, images.x.data(), nullptr, kSamples, out.data(), exec) == expected);
  return out;
}

fbn_status train(fbn_program* program, const fbn_exec* exec) {
  return fbn_program_train(program, images.x.data(), images.y.data(), nullptr, 64, nullptr, exec);
}

void test_other_programs() {
  fbn_program *outer = image_program(64), *twin = image_program(64), *other = dense_program(),
              *large = image_program(64);
  const float x[4][3] = {{1, 0, 0}, {0, 1, 0}, {1, 0, 1}, {0, 1, 1}};
  int calls = 0;
  Pool pool;
  pool.before = [&] {
    float out[4][2];
    CHECK(fbn_program_predict(other, x, nullptr, 4, &out[0][0], nullptr) == FBN_OK);
    predict(large, nullptr);
    ++calls;
  };
  const fbn_exec exec = pool.exec();
  CHECK(predict(outer, &exec) == predict(twin, nullptr));
  for (int step = 0; step < 3; ++step) CHECK(train(outer, &exec) == FBN_OK && train(twin, nullptr) == FBN_OK);
  CHECK(weights(outer) == weights(twin) && calls > 6);
  CHECK(predict(outer, &exec) == predict(twin, nullptr));
  for (fbn_program* program : {outer, twin, other, large}) fbn_program_destroy(program);
}

void test_the_same_program() {
  fbn_program* program = image_program(64);
  const std::vector<float> expected = predict(program, nullptr), before = weights(program);
  int calls = 0;
  Pool pool;
  pool.before = [&] {
    CHECK(predict(program, nullptr) == expected);
    CHECK(fbn_program_set(program, 0, "value", before.data()) == FBN_BUSY);
    CHECK(std::strstr(fbn_last_error(), "callback") != nullptr);
    CHECK(fbn_program_set_learning_rate(program, 0.5) == FBN_BUSY);
    CHECK(fbn_program_set_max_batch(program, 8) == FBN_BUSY);
    CHECK(train(program, nullptr) == FBN_BUSY);
    ++calls;
  };
  const fbn_exec exec = pool.exec();
  CHECK(predict(program, &exec) == expected && calls > 0);

  Pool of_a_step;
  of_a_step.before = [&] {
    predict(program, nullptr, FBN_BUSY);
    CHECK(fbn_program_get(program, 0, "value", nullptr) != FBN_OK);
    CHECK(train(program, nullptr) == FBN_BUSY);
    ++calls;
  };
  calls = 0;
  const fbn_exec step = of_a_step.exec();
  CHECK(train(program, &step) == FBN_OK && calls > 0);
  CHECK(fbn_program_set_learning_rate(program, 0.5) == FBN_OK && train(program, nullptr) == FBN_OK);
  fbn_program_destroy(program);
}

// A pool that leaves tasks out ends the step in the middle: inference is of the weights that are there.
void test_a_broken_step() {
  int phases = 0;
  Pool count;
  count.before = [&] { ++phases; };
  const fbn_exec counting = count.exec();
  fbn_program *program = image_program(64), *other = image_program(64);
  CHECK(train(program, &counting) == FBN_OK);
  predict(program, nullptr);
  int left = phases;
  Pool broken;
  broken.left_out = [&](int64_t) { return --left == 0 ? 1 : 0; };
  const fbn_exec breaking = broken.exec();
  const std::vector<float> before = weights(program);
  CHECK(train(program, &breaking) == FBN_INVALID_VALUE);
  const std::vector<float> now = weights(program);
  CHECK(now != before);
  const float* from = now.data();
  for (int32_t p = 0; p < fbn_program_parameter_count(program); ++p) {
    int32_t rank = 0;
    int64_t shape[FBN_MAX_RANK], size = 1;
    CHECK(fbn_program_parameter_info(program, p, &rank, shape, nullptr) == FBN_OK);
    for (int32_t i = 0; i < rank; ++i) size *= shape[i];
    CHECK(fbn_program_set(other, p, "value", from) == FBN_OK);
    from += size;
  }
  CHECK(predict(program, nullptr) == predict(other, nullptr));
  fbn_program_destroy(program);
  fbn_program_destroy(other);
}

}  // namespace

int main() {
  CHECK(fbn_set_serial_threshold(0) == FBN_OK);
  test_other_programs();
  test_the_same_program();
  test_a_broken_step();
  return check::report("callbacks_test");
}
