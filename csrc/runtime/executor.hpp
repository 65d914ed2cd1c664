// The one place where threads are opened: runs phases of numbered tasks.
//
// A phase's tasks may run in any order on any lane, even one after another on one lane; a phase begins
// when the one before it has ended. Backends: one OpenMP region for all phases (default), the host's
// parallel_for, or the calling thread. Inside, denormals are flushed, and the caller's mode is restored.
// Fork, nesting and concurrent callers are dealt with here and nowhere else.
#pragma once

#include <fastbn/fastbn.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>

#include "ranges.hpp"
#include "status.hpp"
#include "verbose.hpp"

namespace fastbn {

// A non-owning reference to a callable void(int64_t task, int lane); the callable must not throw.
class TaskRef {
 public:
  TaskRef() = default;
  template <class Body>
  requires(!std::is_same_v<std::remove_cvref_t<Body>, TaskRef>)
      TaskRef(Body&& body)  // NOLINT: implicit on purpose, it is a parameter type
      : object_(const_cast<void*>(static_cast<const void*>(&body))), call_([](void* object, int64_t task, int lane) {
          (*static_cast<std::remove_reference_t<Body>*>(object))(task, lane);
        }) {}
  void operator()(int64_t task, int lane) const { call_(object_, task, lane); }

 private:
  void* object_ = nullptr;
  void (*call_)(void*, int64_t, int) = nullptr;
};

struct Phase {
  int64_t tasks;
  TaskRef run;
  // Every lane takes its share from the end. What a phase reads again of the one before is then what the caches hold of
  // it: its last tasks come first.
  bool backwards = false;

  // The i-th task of a share.
  int64_t task(int64_t begin, int64_t end, int64_t i) const { return backwards ? end - 1 - i : begin + i; }
};

// Resolved from fbn_exec (NULL: defaults), once a call. `lanes` bounds the lane argument of every task.
struct Exec {
  int lanes = 1;
  fbn_parallel_for parallel_for = nullptr;
  void* parallel_for_host = nullptr;
  void* workspace = nullptr;
  size_t workspace_size = 0;
  size_t* workspace_query = nullptr;
  int32_t (*interrupted)(void*) = nullptr;
  void* interrupted_host = nullptr;
  mutable int64_t last_asked = 0;  // nanoseconds: all executions of a call share it, however short they are
  std::string description;         // operator, shape, kernel; not empty: execute() says it, with threads and time
};

Exec resolve_exec(const char* operation, const fbn_exec* exec);

// The same with a description, which is made only where FASTBN_VERBOSE asks for it.
template <class Describe>
Exec resolve_exec(const char* operation, const fbn_exec* exec, Describe&& describe) {
  Exec result = resolve_exec(operation, exec);
  if (verbose() && result.workspace_query == nullptr) result.description = concatenate(operation, " ", describe());
  return result;
}

// `work` is the estimated cost of all phases in floating-point operations or bytes (whichever is larger);
// below a measured threshold everything runs on the calling thread. Throws INTERRUPTED where the host asked for an end:
// some tasks have not run then.
void execute(const Exec& exec, std::span<const Phase> phases, double work);
inline void execute(const Exec& exec, std::initializer_list<Phase> phases, double work) {
  execute(exec, std::span<const Phase>(phases.begin(), phases.size()), work);
}

// All of `lanes` where so much work is worth them, else one: what execute() opens, if there are tasks for several.
int worthwhile_lanes(int lanes, double work);

}  // namespace fastbn
