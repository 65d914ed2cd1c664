#include "verbose.hpp"

#include <cstdio>
#include <cstdlib>

#include "status.hpp"

namespace fastbn {

bool verbose() {
  static const std::string value = [] {
    const char* given = std::getenv("FASTBN_VERBOSE");
    return std::string(given != nullptr ? given : "");
  }();
  if (value.empty() || value == "0") return false;
  require(value == "1", "FASTBN_VERBOSE: must be 0 or 1. Received: '", value, "'");
  return true;
}

void say(const std::string& text) noexcept { std::fprintf(stderr, "fastbn: %s\n", text.c_str()); }

}  // namespace fastbn
