// A shared mutex under which writers do not starve: glibc's lets readers in as long as others read.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "status.hpp"

namespace fastbn {

// The mutexes that a thread reads at this time, the first kMost of them.
class MutexesRead {
 public:
  void add(const void* mutex) {
    if (count_ < kMost) mutexes_[count_] = mutex;
    ++count_;
  }
  void remove(const void* mutex) {
    --count_;
    for (int i = std::min(count_, kMost - 1); i >= 0; --i)
      if (mutexes_[i] == mutex) {
        mutexes_[i] = count_ < kMost ? mutexes_[count_] : nullptr;
        return;
      }
  }
  bool contains(const void* mutex) const {
    const void* const* end = mutexes_ + std::min(count_, kMost);
    return std::find(mutexes_, end, mutex) != end;
  }

 private:
  static constexpr int kMost = 16;
  const void* mutexes_[kMost] = {};
  int count_ = 0;
};
inline thread_local MutexesRead mutexes_read;

// Readers that come while writers wait let one of them go first. But they wait no longer than kPatience: a thread may
// read again while it reads (from a signal handler, say), and that is what the writer waits for. A thread that reads
// and wants to write would wait for itself: BUSY.
class FairSharedMutex {
 public:
  static constexpr std::chrono::milliseconds kPatience{1000};

  void lock() {
    if (mutexes_read.contains(this))
      fail(FBN_BUSY, "program: a call that only reads it must not change it from its callback or a signal handler");
    {
      const std::lock_guard turn(turn_);
      ++writers_;
    }
    state_.lock();
    {
      const std::lock_guard turn(turn_);
      --writers_;
      ++turns_;
    }
    turned_.notify_all();
    writer_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  }
  void unlock() {
    writer_.store(std::thread::id(), std::memory_order_relaxed);
    state_.unlock();
  }
  // Whether the calling thread is the writer.
  bool is_mine() const { return writer_.load(std::memory_order_relaxed) == std::this_thread::get_id(); }

  void lock_shared() {
    if (is_mine()) fail(FBN_BUSY, "program: a step must not be asked for predictions or weights from its own callback");
    {
      std::unique_lock turn(turn_);
      if (writers_ > 0) {  // by the system's clock: thread sanitizers know its wait
        const auto until = std::chrono::system_clock::now() + kPatience;
        turned_.wait_until(turn, until, [this, before = turns_] { return turns_ != before; });
      }
    }
    state_.lock_shared();
    mutexes_read.add(this);
  }
  // Past writers that wait, but not past one that writes.
  bool try_lock_shared() {
    const bool locked = state_.try_lock_shared();
    if (locked) mutexes_read.add(this);
    return locked;
  }
  void unlock_shared() {
    mutexes_read.remove(this);
    state_.unlock_shared();
  }

 private:
  std::shared_mutex state_;
  std::atomic<std::thread::id> writer_{};
  std::mutex turn_;
  std::condition_variable turned_;
  int writers_ = 0;     // that wait
  uint64_t turns_ = 0;  // writers that have got in
};

}  // namespace fastbn
