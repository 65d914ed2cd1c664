#include "memory.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <limits>
#include <utility>

#include "ranges.hpp"
#include "status.hpp"

namespace fastbn {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kHugeFrom = size_t{4} << 20;
constexpr size_t kKeptBytes = size_t{256} << 20;  // a thread's buffer beyond this is freed after the call
constexpr size_t kMaxBytes = std::numeric_limits<int64_t>::max() - kHugePage;

// The calling thread's kept buffer; `lent` while a Workspace of this thread uses it.
struct Kept {
  Buffer buffer;
  bool lent = false;
};
thread_local Kept kept;

}  // namespace

Buffer::Buffer(size_t bytes) {
  if (bytes == 0) return;
  const bool huge = bytes >= kHugeFrom;
  if (bytes <= kMaxBytes) {
    const size_t alignment = huge ? kHugePage : kAlignment;
    const size_t rounded = round_up(bytes, alignment);
    data_ = std::aligned_alloc(alignment, rounded);
    if (data_ != nullptr && huge) madvise(data_, rounded, MADV_HUGEPAGE);  // advice: refused is as good
  }
  if (data_ == nullptr) {
    fail(FBN_OUT_OF_MEMORY, "fastbn: a buffer must fit into the memory of this machine. Received: ", bytes, " bytes");
  }
  size_ = bytes;
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    std::free(data_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Buffer::~Buffer() { std::free(data_); }

size_t Workspace::reserve_bytes(int64_t count, size_t size) {
  constexpr size_t room = kMaxBytes - kAlignment;
  const size_t offset = size_;
  if (count < 0 || offset > room || static_cast<size_t>(count) > (room - offset) / size) {
    fail(FBN_OUT_OF_MEMORY, operation_, ": the byte count of the workspace must fit into 63 bits. Received: ", count,
         " values of ", size, " bytes");
  }
  size_ = round_up(offset + static_cast<size_t>(count) * size, kAlignment);
  return offset;
}

bool Workspace::commit() {
  if (exec_.workspace_query != nullptr) {
    *exec_.workspace_query = size_;
    return true;
  }
  if (exec_.workspace != nullptr) {
    require(exec_.workspace_size >= size_, operation_, ": the workspace must hold ", size_,
            " bytes. Received: ", exec_.workspace_size);
    base_ = static_cast<char*>(exec_.workspace);
  } else if (kept.lent || size_ > kKeptBytes) {
    owned_ = Buffer(size_);
    base_ = static_cast<char*>(owned_.data());
  } else {
    if (kept.buffer.size() < size_) {
      kept.buffer = Buffer();  // first, so that both are never held at once
      kept.buffer = Buffer(size_);
    }
    kept.lent = uses_kept_ = true;
    base_ = static_cast<char*>(kept.buffer.data());
  }
  return false;
}

Workspace::~Workspace() {
  if (uses_kept_) kept.lent = false;
}

}  // namespace fastbn
