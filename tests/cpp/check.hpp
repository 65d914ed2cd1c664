// The least that a test needs: CHECK counts failures and prints them; a test program returns report().
#pragma once

#include <cstdio>

#include "runtime/status.hpp"

namespace check {

inline int failures = 0;

inline void fail(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
  ++failures;
}

// The message of the Error that `body` throws with this status; empty if it does anything else.
template <class Body>
std::string error_of(fbn_status status, Body&& body) {
  try {
    body();
  } catch (const fastbn::Error& error) {
    return error.status() == status ? error.what() : "";
  }
  return "";
}

inline int report(const char* name) {
  std::printf("%s: %s\n", name, failures == 0 ? "passed" : "FAILED");
  return failures == 0 ? 0 : 1;
}

}  // namespace check

#define CHECK(condition)                                           \
  do {                                                             \
    if (!(condition)) check::fail(__FILE__, __LINE__, #condition); \
  } while (false)
