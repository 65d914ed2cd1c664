#include "status.hpp"

#include <cstdio>
#include <limits>

namespace fastbn {
namespace {

// A plain array: recording an error must work when memory has run out, and needs no destructor at thread exit.
constexpr size_t kMessageCapacity = 2048;
thread_local char last_error[kMessageCapacity] = "";

}  // namespace

fbn_status record_error(fbn_status status, const char* message) noexcept {
  std::snprintf(last_error, sizeof last_error, "%s", message);
  return status;
}

void require_struct(const char* operation, const void* d, size_t struct_size, size_t least, size_t known) {
  constexpr size_t kMost = 4096;  // what is larger was never set
  require(struct_size >= least && struct_size <= kMost, operation, ": struct_size must lie in [", least, ", ", kMost,
          "]. Received: ", struct_size);
  const auto* bytes = static_cast<const unsigned char*>(d);
  for (size_t i = known; i < struct_size; ++i) {
    if (bytes[i] != 0)
      fail(FBN_UNSUPPORTED, operation, ": fields that this library does not know must be zero. Received: byte ", i,
           " of a struct of ", struct_size, " is ", int{bytes[i]});
  }
}

int64_t checked_product(const char* operation, std::initializer_list<int64_t> factors) {
  bool empty = false;
  for (const int64_t factor : factors) {
    require(factor >= 0, operation, ": sizes must not be negative. Received: ", factor);
    empty = empty || factor == 0;
  }
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (factor == 0) continue;
    if (factor > std::numeric_limits<int64_t>::max() / 4 / product) {
      std::string received;
      for (const int64_t f : factors) {
        if (!received.empty()) received += " x ";
        received += std::to_string(f);
      }
      fail(FBN_OUT_OF_MEMORY, operation, ": the byte count of a tensor must fit into 63 bits. Received: ", received,
           " float32 values");
    }
    product *= factor;
  }
  return empty ? 0 : product;
}

}  // namespace fastbn

#define FASTBN_STRING_(x) #x
#define FASTBN_STRING(x) FASTBN_STRING_(x)

const char* fbn_last_error(void) { return fastbn::last_error; }

int32_t fbn_abi(void) { return FBN_ABI; }

const char* fbn_version(void) {
  return FASTBN_STRING(FBN_VERSION_MAJOR) "." FASTBN_STRING(FBN_VERSION_MINOR) "." FASTBN_STRING(FBN_VERSION_PATCH);
}
