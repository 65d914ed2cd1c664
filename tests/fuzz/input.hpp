// What a fuzz input says, and the memory that a call gets for it.
#pragma once

#include <fastbn/fastbn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace fuzz {

// A broken promise: the fuzzer keeps the input.
[[noreturn]] inline void broken(const char* what) {
  std::fprintf(stderr, "fuzz: %s; last error: '%s'\n", what, fbn_last_error());
  std::abort();
}

// Reads values off the input; past its end everything is 0.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : at_(data), left_(size) {}

  uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *at_++;
  }
  bool flag() { return byte() % 2 != 0; }
  // Mostly within [0, n), else anything.
  int32_t choice(int32_t n) {
    const uint8_t b = byte();
    return b >= 250 ? static_cast<int32_t>(raw<uint32_t>()) : b % n;
  }
  // A size: small, about a vector long, or one that nobody can mean.
  int64_t size() {
    static constexpr int64_t kOdd[] = {
        -1, 15, 16, 17, 31, 33, 65, int64_t{1} << 31, (int64_t{1} << 32) + 1, INT64_MAX, INT64_MIN};
    const uint8_t b = byte();
    if (b < 224) return b % 9;
    return b < 250 ? kOdd[static_cast<size_t>(b - 224) % std::size(kOdd)] : static_cast<int64_t>(raw<uint64_t>());
  }
  // As size(), but mostly at least 1: strides, channels, window sizes.
  int64_t extent() {
    const int64_t n = size();
    return n == 0 && byte() < 240 ? 1 : n;
  }
  double number() {
    static constexpr double kOdd[] = {0,
                                      1,
                                      -1,
                                      1e-3,
                                      0.5,
                                      0.9,
                                      0.999,
                                      1e-300,
                                      1e300,
                                      std::numeric_limits<double>::infinity(),
                                      std::numeric_limits<double>::quiet_NaN()};
    const uint8_t b = byte();
    return b < 220 ? kOdd[b % 7] : b < 250 ? kOdd[b % std::size(kOdd)] : raw<double>();
  }
  template <class T>
  T raw() {
    T value{};
    uint8_t bytes[sizeof(T)];
    for (uint8_t& b : bytes) b = byte();
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
  template <class D>
  size_t struct_size() {
    const uint8_t b = byte();
    return b < 248 ? sizeof(D) : static_cast<size_t>(b - 248) * 8;
  }

 private:
  const uint8_t* at_;
  size_t left_;
};

// Elements that a call may touch if it is to run; what is larger is only validated.
constexpr int64_t kMaxElements = 1 << 12;
constexpr int64_t kMaxWork = 1 << 18;  // multiply-adds
constexpr size_t kMaxWorkspace = 1 << 20;

// The product, or -1 where a factor is negative or the product passes kMaxElements.
inline int64_t elements(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  bool empty = false;
  for (const int64_t f : factors) {
    if (f < 0) return -1;
    empty = empty || f == 0;
  }
  if (empty) return 0;
  for (const int64_t f : factors) {
    if (f > kMaxElements / product) return -1;
    product *= f;
  }
  return product;
}

// The arrays of one call: each of exactly its size, so that the sanitizer sees every step beyond. Inputs hold numbers
// off the fuzz input, infinities and NaN among them; outputs a pattern that stands where a call was refused.
class Arrays {
 public:
  explicit Arrays(Input& input) : input_(input), missing_(input.byte()), fill_(input.byte()) {
    if (missing_ < 128) missing_ = 0;  // else one bit for each of the first arrays that is NULL
  }
  // `size` < 0: larger than what is run, an address that no one may read through.
  template <class T = float>
  T* in(int64_t size, bool optional = false) {
    if (optional && input_.flag()) return nullptr;
    T* p = take<T>(size, false);
    for (int64_t i = 0; p != nullptr && i < size; ++i) p[i] = value<T>(i);
    return p;
  }
  template <class T = float>
  T* out(int64_t size, bool optional = false) {
    if (optional && input_.flag()) return nullptr;
    T* p = take<T>(size, true);
    if (p != nullptr && size > 0) std::memset(p, kPattern, static_cast<size_t>(size) * sizeof(T));
    return p;
  }
  bool runs() const { return runs_; }
  void check_untouched() const {
    for (const Block& b : blocks_) {
      if (!b.output) continue;
      for (size_t i = 0; i < b.bytes; ++i)
        if (b.memory[i] != kPattern) broken("a call that failed has written to an output");
    }
  }

 private:
  static constexpr uint8_t kPattern = 0xa5;
  struct Block {
    std::unique_ptr<uint8_t[]> memory;
    size_t bytes;
    bool output;
  };

  template <class T>
  T* take(int64_t size, bool output) {
    const unsigned place = count_++;
    if (place < 7 && (missing_ >> place & 1) != 0) return nullptr;
    if (size < 0) {
      runs_ = false;
      size = 0;
    }
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    blocks_.push_back({std::unique_ptr<uint8_t[]>(new uint8_t[bytes]), bytes, output});
    return reinterpret_cast<T*>(blocks_.back().memory.get());
  }
  template <class T>
  T value(int64_t i) {
    static constexpr double kValues[] = {0, 1, -1, 0.5, 3, -2.25, 1e4, 1e-3};
    static constexpr double kOdd[] = {std::numeric_limits<double>::infinity(),
                                      -std::numeric_limits<double>::infinity(),
                                      std::numeric_limits<double>::quiet_NaN(),
                                      1e30,
                                      -1e30,
                                      1e-42,
                                      -0.0};
    if constexpr (!std::is_floating_point_v<T>) {
      return static_cast<T>(fill_ < 200 ? i % 3 : input_.raw<T>());
    } else {
      if (fill_ >= 200 && i % 5 == fill_ % 5) return static_cast<T>(kOdd[static_cast<size_t>(i + fill_) % 7]);
      return static_cast<T>(kValues[static_cast<size_t>(i * (fill_ | 1)) % 8]);
    }
  }

  Input& input_;
  uint8_t missing_, fill_;
  unsigned count_ = 0;
  bool runs_ = true;
  std::vector<Block> blocks_;
};

// Every answer is a status, and every failure has a message.
inline fbn_status checked(fbn_status status) {
  if (status < FBN_OK || status > FBN_BUSY) broken("not a status");
  if (status == FBN_INTERNAL) broken("a broken invariant");
  if (status != FBN_OK && fbn_last_error()[0] == '\0') broken("a failure without a message");
  return status;
}

inline fbn_exec exec_of(Input& input) {
  fbn_exec exec{};
  exec.struct_size = input.struct_size<fbn_exec>();
  exec.num_threads = input.byte() < 240 ? input.byte() % 4 : input.raw<int32_t>();
  return exec;
}

// A call of an operator: first what workspace it needs, which reads and writes nothing; then, where that is little, the
// call itself, half of the time in a workspace of exactly that size.
template <class Body>
void call(Input& input, Arrays& arrays, bool runs, Body body) {
  fbn_exec exec = exec_of(input);
  size_t needed = 0;
  exec.workspace_query = &needed;
  const fbn_status status = checked(body(&exec));
  arrays.check_untouched();
  if (!runs || !arrays.runs() || needed > kMaxWorkspace) return;
  exec.workspace_query = nullptr;
  std::unique_ptr<void, void (*)(void*)> workspace(nullptr, std::free);
  if (input.flag() && needed > 0) {
    const size_t room = (needed + 63) / 64 * 64;
    workspace.reset(std::aligned_alloc(64, room));
    exec.workspace = workspace.get();
    exec.workspace_size = input.byte() < 240 ? room : needed - 1;
  }
  const fbn_status run = checked(body(&exec));
  if (run != FBN_OK) arrays.check_untouched();
  if (status != FBN_OK && run == FBN_OK) broken("a call that its own query refused has run");
}

void fuzz_operator(Input& input);
void fuzz_program(Input& input);

}  // namespace fuzz
