// Aligned buffers, and the workspace of one operator call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "executor.hpp"

namespace fastbn {

inline constexpr size_t kAlignment = 64;  // a cache line, and the widest vector

// 64-byte aligned, uninitialised; large ones ask for huge pages. Throws OUT_OF_MEMORY.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();
  void* data() const { return data_; }
  float* floats() const { return static_cast<float*>(data_); }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Temporary memory of one call: the caller's workspace where exec has one (INVALID_VALUE if too small),
// else a buffer of the calling thread that is kept for the next call up to a bound. Use:
//
//   Workspace workspace(operation, exec);
//   const size_t packed = workspace.reserve<float>(n);           // any number of times
//   if (workspace.commit()) return;                              // true: the call was only a size query
//   float* p = workspace.at<float>(packed);
class Workspace {
 public:
  Workspace(const char* operation, const Exec& exec) : operation_(operation), exec_(exec) {}
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  template <class T>
  size_t reserve(int64_t count) {
    return reserve_bytes(count, sizeof(T));
  }
  bool commit();
  template <class T>
  T* at(size_t offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }

 private:
  size_t reserve_bytes(int64_t count, size_t size);
  const char* operation_;
  const Exec& exec_;
  size_t size_ = 0;
  char* base_ = nullptr;
  Buffer owned_;
  bool uses_kept_ = false;
};

}  // namespace fastbn
