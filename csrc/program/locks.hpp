// The locks of a program, and what becomes of them when the process forks.
//
// Only the thread that forks lives on in the child; what another one had locked would stay locked there. So a fork
// waits for whoever is changing a program and keeps others from beginning to: the child finds every program whole, and
// gets locks of its own, which nobody holds. It waits for no readers, who may want something that the forking thread
// has (an interpreter's lock, say), and no longer than kForkPatience. A program that is being changed even then is not
// whole in the child, and every call says so there.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>

#include "runtime/fair_mutex.hpp"

namespace fastbn {

class ProgramLocks {
 public:
  static constexpr std::chrono::milliseconds kForkPatience{10000};

  ProgramLocks();
  ~ProgramLocks();
  ProgramLocks(const ProgramLocks&) = delete;
  ProgramLocks& operator=(const ProgramLocks&) = delete;

  // In the order in which they are taken.
  std::mutex& training() { return set_->training; }    // whose step it is
  FairSharedMutex& state() { return set_->state; }     // weights, plan of training, iteration, learning rate, costs
  std::mutex& inference() { return set_->inference; }  // the other plans, folded layers, packed kernels, idle memory

  // Throws BUSY in a child that was forked in the middle of a change.
  void require_whole(const char* operation) const;

 private:
  struct Set {
    std::mutex training, inference;
    FairSharedMutex state;
  };
  struct ForkHandlers;

  void before_fork(std::chrono::steady_clock::time_point until);
  void after_fork_in_parent();
  void after_fork_in_child();

  std::unique_ptr<Set> set_ = std::make_unique<Set>();
  bool whole_ = true;
  bool has_state_ = false, has_inference_ = false;      // what the fork under way has locked
  bool own_change_ = false;                             // the thread that forks is the one that changes the program
  ProgramLocks *previous_ = nullptr, *next_ = nullptr;  // of all that live
};

}  // namespace fastbn
