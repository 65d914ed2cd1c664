#include "locks.hpp"

#include <pthread.h>

#include <new>
#include <thread>

#include "runtime/status.hpp"

namespace fastbn {
namespace {

std::mutex registry;  // guards the list; held across a fork
ProgramLocks* first = nullptr;

template <class Try>
bool retry(std::chrono::steady_clock::time_point until, Try&& attempt) {
  while (!attempt()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

}  // namespace

struct ProgramLocks::ForkHandlers {
  ForkHandlers() {
    // Handlers before a fork run last come, first served. An OpenMP runtime that locks itself for the fork must do so
    // after the steps that we wait for have ended: it registers its handlers when it is first asked for something.
    (void)fbn_get_num_threads();
    if (pthread_atfork(prepare, parent, child) != 0) throw std::bad_alloc();
  }
  static void prepare() {
    registry.lock();
    const auto until = std::chrono::steady_clock::now() + kForkPatience;
    for (ProgramLocks* p = first; p != nullptr; p = p->next_) p->before_fork(until);
  }
  static void parent() {
    for (ProgramLocks* p = first; p != nullptr; p = p->next_) p->after_fork_in_parent();
    registry.unlock();
  }
  static void child() {
    for (ProgramLocks* p = first; p != nullptr; p = p->next_) p->after_fork_in_child();
    registry.unlock();
  }
};

ProgramLocks::ProgramLocks() {
  static const ForkHandlers handlers;
  const std::lock_guard lock(registry);
  next_ = first;
  if (first != nullptr) first->previous_ = this;
  first = this;
}

ProgramLocks::~ProgramLocks() {
  const std::lock_guard lock(registry);
  (previous_ != nullptr ? previous_->next_ : first) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
}

void ProgramLocks::require_whole(const char* operation) const {
  if (!whole_)
    fail(FBN_BUSY, operation,
         ": the program must be whole. Received: one that another thread was changing when this process was forked");
}

void ProgramLocks::before_fork(std::chrono::steady_clock::time_point until) {
  // A step may fork, in a host's parallel_for; it goes on in the child.
  own_change_ = set_->state.is_mine();
  has_state_ = !own_change_ && retry(until, [this] { return set_->state.try_lock_shared(); });
  has_inference_ = retry(until, [this] { return set_->inference.try_lock(); });
}

void ProgramLocks::after_fork_in_parent() {
  if (has_inference_) set_->inference.unlock();
  if (has_state_) set_->state.unlock_shared();
}

// The old locks stay, of no use but to what this thread locked before it forked and will unlock there. They are not
// destroyed: waiting threads of the parent have left their marks in them.
void ProgramLocks::after_fork_in_child() {
  whole_ = whole_ && (has_state_ || own_change_) && has_inference_;
  Set* fresh = new (std::nothrow) Set;
  if (fresh == nullptr) {
    whole_ = false;
    return;
  }
  if (has_state_) mutexes_read.remove(&set_->state);
  (void)set_.release();
  set_.reset(fresh);
}

}  // namespace fastbn
