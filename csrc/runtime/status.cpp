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

const char* fbn_version(void) {
  return FASTBN_STRING(FBN_VERSION_MAJOR) "." FASTBN_STRING(FBN_VERSION_MINOR) "." FASTBN_STRING(FBN_VERSION_PATCH);
}
