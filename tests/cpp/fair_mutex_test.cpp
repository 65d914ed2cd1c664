// Readers and writers of a program: who goes first, and that nobody waits for ever.
#include "runtime/fair_mutex.hpp"

#include <atomic>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"

using namespace fastbn;

namespace {

using Shared = std::shared_lock<FairSharedMutex>;
using Exclusive = std::unique_lock<FairSharedMutex>;

void sleep_for_a_while() { std::this_thread::sleep_for(std::chrono::milliseconds(100)); }

// A reader that comes while a writer waits goes after it.
void test_writer_before_later_reader() {
  FairSharedMutex mutex;
  std::mutex guard;
  std::string order;
  const auto note = [&](char who) {
    const std::lock_guard lock(guard);
    order += who;
  };
  Shared first(mutex);
  std::thread writer([&] {
    const Exclusive lock(mutex);
    note('w');
  });
  sleep_for_a_while();
  std::thread reader([&] {
    const Shared lock(mutex);
    note('r');
  });
  sleep_for_a_while();
  note('1');
  first.unlock();
  writer.join();
  reader.join();
  CHECK(order == "1wr");
}

// A thread that reads already may read again, though a writer waits for it.
void test_reader_within_reader() {
  FairSharedMutex mutex;
  std::atomic<bool> written{false};
  std::thread writer;
  {
    const Shared outer(mutex);
    writer = std::thread([&] {
      const Exclusive lock(mutex);
      written = true;
    });
    sleep_for_a_while();
    const Shared inner(mutex);
    CHECK(!written);
  }
  writer.join();
  CHECK(written);
}

// Readers that overlap all the time leave a writer its turns, and it leaves them theirs.
void test_all_get_on() {
  FairSharedMutex mutex;
  constexpr int kReaders = 4, kTurns = 200;
  std::atomic<bool> done{false};
  std::atomic<int> reads{0};
  int value = 0;
  std::vector<std::thread> readers;
  readers.reserve(kReaders);
  for (int i = 0; i < kReaders; ++i) {
    readers.emplace_back([&] {
      while (!done) {
        const Shared lock(mutex);
        const int before = value;
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        CHECK(value == before);
        ++reads;
      }
    });
  }
  int turns = 0;
  for (; turns < kTurns || reads < kReaders; ++turns) {
    const Exclusive lock(mutex);
    ++value;
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  CHECK(value == turns);
}

}  // namespace

int main() {
  test_writer_before_later_reader();
  test_reader_within_reader();
  test_all_get_on();
  return check::report("fair_mutex_test");
}
