// A step that has run once allocates nothing: training, evaluation and prediction, whole and ragged batches, on one
// thread and on several. The allocator's functions are taken over and every call is counted, on any thread.
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <random>
#include <vector>

#include "check.hpp"
#include "networks.hpp"

extern "C" {
// glibc's own
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {

std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};

void count() {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

extern "C" {
void* malloc(size_t size) {
  count();
  return __libc_malloc(size);
}
void* calloc(size_t number, size_t size) {
  count();
  return __libc_calloc(number, size);
}
void* realloc(void* pointer, size_t size) {
  count();
  return __libc_realloc(pointer, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  count();
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** pointer, size_t alignment, size_t size) {
  count();
  *pointer = __libc_memalign(alignment, size);
  return *pointer == nullptr ? ENOMEM : 0;
}
}

namespace {

template <class Body>
int64_t allocations_of(Body&& body) {
  allocations = 0;
  counting = true;
  body();
  counting = false;
  return allocations;
}

void test_counting() {
  CHECK(allocations_of([] { std::vector<int> v(100); }) == 1);
  CHECK(allocations_of([] { std::free(std::aligned_alloc(64, 4096)); }) == 1);
}

void test_steps(int32_t threads) {
  constexpr int64_t kBatch = 64, kRows = 4 * kBatch;
  fbn_exec exec{};
  exec.struct_size = sizeof exec;
  exec.num_threads = threads;
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> x(static_cast<size_t>(kRows * networks::kImageSize));
  for (float& value : x) value = uniform(random);
  std::vector<int32_t> y(kRows);
  std::vector<int64_t> order(kRows);
  for (size_t i = 0; i < kRows; ++i) {
    y[i] = static_cast<int32_t>(i % networks::kImageClasses);
    order[i] = static_cast<int64_t>((i * 37) % kRows);
  }
  std::vector<float> out(static_cast<size_t>(kRows * networks::kImageClasses));
  fbn_program* program = networks::image_program(kBatch);
  fbn_step_result result{};
  const auto everything = [&] {
    for (int64_t begin = 0; begin < kRows; begin += kBatch)
      CHECK(fbn_program_train(program, x.data(), y.data(), order.data() + begin, kBatch, &result, &exec) == FBN_OK);
    CHECK(fbn_program_train(program, x.data(), y.data(), nullptr, kBatch - 7, &result, &exec) == FBN_OK);
    CHECK(fbn_program_evaluate(program, x.data(), y.data(), nullptr, kRows, &result, &exec) == FBN_OK);
    CHECK(fbn_program_predict(program, x.data(), nullptr, kRows, out.data(), &exec) == FBN_OK);
  };
  everything();
  CHECK(allocations_of(everything) == 0);
  fbn_program_destroy(program);
}

}  // namespace

int main() {
  test_counting();
  for (const int32_t threads : {1, 2, 3}) test_steps(threads);
  return check::report("allocations_test");
}
