// A shared mutex under which writers do not starve: glibc's lets readers in as long as others read.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <thread>

namespace fastbn {

// Readers that come while writers wait let one of them go first. But they wait no longer than kPatience: a thread may
// read again while it reads (from a signal handler, say), and that is what the writer waits for.
class FairSharedMutex {
 public:
  static constexpr std::chrono::milliseconds kPatience{1000};

  void lock() {
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
    {
      std::unique_lock turn(turn_);
      if (writers_ > 0) {  // by the system's clock: thread sanitizers know its wait
        const auto until = std::chrono::system_clock::now() + kPatience;
        turned_.wait_until(turn, until, [this, before = turns_] { return turns_ != before; });
      }
    }
    state_.lock_shared();
  }
  // Past writers that wait, but not past one that writes.
  bool try_lock_shared() { return state_.try_lock_shared(); }
  void unlock_shared() { state_.unlock_shared(); }

 private:
  std::shared_mutex state_;
  std::atomic<std::thread::id> writer_{};
  std::mutex turn_;
  std::condition_variable turned_;
  int writers_ = 0;     // that wait
  uint64_t turns_ = 0;  // writers that have got in
};

}  // namespace fastbn
