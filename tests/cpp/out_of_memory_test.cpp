// Memory that runs out: every allocation of the library fails once, the first, the second, ... until a call needs no
// more. The call then says so, has changed nothing, and works when it is repeated.
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "check.hpp"
#include "networks.hpp"

namespace {

int64_t until_failure = -1;  // allocations of this thread that succeed before one fails; negative: all

bool may_allocate() {
  if (until_failure < 0) return true;
  return --until_failure >= 0;
}

}  // namespace

// The library's two ways to memory. Frees go where they always go. Not inlined: g++ then takes malloc and free for
// another pair.
__attribute__((noinline)) void* operator new(size_t size) {
  void* p = may_allocate() ? std::malloc(size != 0 ? size : 1) : nullptr;
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
__attribute__((noinline)) void operator delete(void* p) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, size_t) noexcept { std::free(p); }

extern "C" void* aligned_alloc(size_t alignment, size_t size) {
  void* p = nullptr;
  return may_allocate() && posix_memalign(&p, alignment, size) == 0 ? p : nullptr;
}

namespace {

// Repeats body() with one allocation more each time until it succeeds; unchanged() is asked after every failure.
// Returns how often memory ran out.
template <class Body, class Unchanged>
int exhaust(Body body, Unchanged unchanged) {
  for (int64_t allowed = 0; allowed < 100000; ++allowed) {
    until_failure = allowed;
    const fbn_status status = body();
    const bool ran_out = until_failure < 0;
    until_failure = -1;
    if (!ran_out) {
      CHECK(status == FBN_OK);
      return static_cast<int>(allowed);
    }
    // An allocation that is not needed may fail without harm (memory that would have been kept for the next call).
    if (status == FBN_OK) return static_cast<int>(allowed);
    CHECK(status == FBN_OUT_OF_MEMORY);
    CHECK(std::strlen(fbn_last_error()) > 0);
    CHECK(unchanged());
  }
  CHECK(false);
  return 0;
}

void test_operators() {
  fbn_batch_norm d{};
  d.struct_size = sizeof d;
  d.rows = 1000;
  d.channels = 40;
  d.epsilon = 0.25;
  std::vector<float> x(40000, 3.0f), y(40000, -7.0f);
  double mean[40] = {-7}, variance[40] = {-7};
  const int failures = exhaust(
      [&] {
        return fbn_batch_norm_forward(&d, x.data(), nullptr, nullptr, nullptr, y.data(), mean, variance, nullptr);
      },
      [&] { return y.front() == -7.0f && y.back() == -7.0f && mean[0] == -7 && variance[0] == -7; });
  CHECK(failures >= 1);
  CHECK(y.front() == 0 && y.back() == 0 && mean[39] == 3 && variance[39] == 0);
}

void test_graphs() {
  fbn_graph* graph = nullptr;
  CHECK(exhaust([&] { return fbn_graph_create(&graph); }, [&] { return graph == nullptr; }) >= 1);
  fbn_layer input{};
  input.struct_size = sizeof input;
  input.kind = FBN_LAYER_INPUT;
  input.name = "the input has a name that does not fit into a short string";
  input.rank = 2;
  input.shape[0] = input.shape[1] = 5;
  int32_t node = -1;
  CHECK(exhaust([&] { return fbn_graph_add(graph, &input, &node); }, [&] { return node == -1; }) >= 1);
  CHECK(node == 0);
  fbn_graph_destroy(graph);
}

constexpr int64_t kSamples = 8;

struct Data {
  std::vector<float> x = std::vector<float>(kSamples * networks::kImageSize);
  std::vector<int32_t> y = std::vector<int32_t>(kSamples);
  Data() {
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 11) - 5;
    for (size_t i = 0; i < y.size(); ++i) y[i] = static_cast<int32_t>(i % networks::kImageClasses);
  }
};

void test_programs() {
  const Data data;
  fbn_program *whole = networks::image_program(kSamples), *tried = nullptr;
  // image_program checks every status, which is right only while memory lasts; so the graph is made beforehand.
  fbn_graph* graph = networks::image_graph();
  const fbn_program_options options = networks::image_options(kSamples);
  const int created = exhaust([&] { return fbn_program_create(graph, networks::kImageOutput, &options, &tried); },
                              [&] { return tried == nullptr; });
  CHECK(created > 100);
  fbn_graph_destroy(graph);

  std::vector<float> expected(kSamples * networks::kImageClasses), found(expected.size(), -7.0f);
  const auto train = [&](fbn_program* program) {
    return fbn_program_train(program, data.x.data(), data.y.data(), nullptr, kSamples, nullptr, nullptr);
  };
  for (const bool first : {true, false}) {
    const std::vector<float> before = networks::weights(tried);
    const int64_t iteration = fbn_program_get_iteration(tried);
    CHECK(train(whole) == FBN_OK);
    const int failures =
        exhaust([&] { return train(tried); },
                [&] { return networks::weights(tried) == before && fbn_program_get_iteration(tried) == iteration; });
    CHECK(first ? failures >= 2 : failures == 0);  // the arena and the lanes' scratch; a replay allocates nothing
    // What the last step used may not have been kept for the next.
    if (first) CHECK(train(whole) == FBN_OK && train(tried) == FBN_OK);
  }
  CHECK(fbn_program_predict(whole, data.x.data(), nullptr, kSamples, expected.data(), nullptr) == FBN_OK);
  const int failures =
      exhaust([&] { return fbn_program_predict(tried, data.x.data(), nullptr, kSamples, found.data(), nullptr); },
              [&] { return found.front() == -7.0f && found.back() == -7.0f; });
  CHECK(failures > 10);
  CHECK(found == expected);
  CHECK(networks::weights(whole) == networks::weights(tried));

  CHECK(exhaust([&] { return fbn_program_set_max_batch(tried, 3); }, [&] { return true; }) > 10);
  CHECK(fbn_program_train(tried, data.x.data(), data.y.data(), nullptr, 3, nullptr, nullptr) == FBN_OK);
  size_t needed = 0;
  CHECK(exhaust([&] { return fbn_program_describe(tried, nullptr, 0, &needed); }, [&] { return needed == 0; }) > 1);
  int32_t rows = 0;
  CHECK(exhaust([&] { return fbn_program_costs(tried, 1, nullptr, 0, &rows); }, [&] { return rows == 0; }) > 1);
  fbn_program_destroy(whole);
  fbn_program_destroy(tried);
}

}  // namespace

int main() {
  CHECK(fbn_get_num_threads() > 0);  // reads files once: one that cannot be read for want of memory counts as absent
  test_graphs();
  test_operators();
  test_programs();
  return check::report("out_of_memory_test");
}
