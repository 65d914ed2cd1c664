// Buffers and workspaces, and the size arithmetic that guards them.
#include "runtime/memory.hpp"

#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "check.hpp"

using namespace fastbn;

namespace {

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kAlignment == 0; }

void test_buffer() {
  for (const size_t bytes : {size_t{1}, size_t{63}, size_t{4096}, (size_t{4} << 20) + 1}) {
    Buffer buffer(bytes);
    CHECK(buffer.size() == bytes && aligned(buffer.data()));
    std::memset(buffer.data(), 1, bytes);
    void* data = buffer.data();
    Buffer moved(std::move(buffer));
    // What a moved-from buffer is, is the point. NOLINTBEGIN(bugprone-use-after-move, clang-analyzer-cplusplus.Move)
    CHECK(moved.data() == data && buffer.data() == nullptr && buffer.size() == 0);
    buffer = std::move(moved);
    CHECK(buffer.data() == data && moved.data() == nullptr);
    // NOLINTEND(bugprone-use-after-move, clang-analyzer-cplusplus.Move)
  }
  CHECK(Buffer(0).data() == nullptr);
  for (const size_t bytes : {size_t{1} << 62, std::numeric_limits<size_t>::max()}) {
    CHECK(!check::error_of(FBN_OUT_OF_MEMORY, [&] { Buffer buffer(bytes); }).empty());
  }
}

void test_workspace() {
  Exec exec;
  char* kept = nullptr;
  for (int call = 0; call < 3; ++call) {
    Workspace workspace("op", exec);
    const size_t a = workspace.reserve<float>(5), b = workspace.reserve<char>(1), c = workspace.reserve<double>(3);
    CHECK(a == 0 && b == 64 && c == 128);
    CHECK(!workspace.commit());
    CHECK(aligned(workspace.at<float>(a)) && aligned(workspace.at<double>(c)));
    if (call > 0) CHECK(workspace.at<char>(0) == kept);  // the thread's buffer again
    kept = workspace.at<char>(0);
    std::memset(kept, 1, 192);
    // One inside another gets memory of its own.
    Workspace inner("op", exec);
    inner.reserve<char>(100);
    CHECK(!inner.commit());
    CHECK(inner.at<char>(0) != kept);
  }
  size_t needed = 0;
  exec.workspace_query = &needed;
  {
    Workspace workspace("op", exec);
    workspace.reserve<float>(17);
    workspace.reserve<float>(1);
    CHECK(workspace.commit());
    CHECK(needed == 192);
  }
  exec.workspace_query = nullptr;
  Buffer given(needed);
  exec.workspace = given.data();
  exec.workspace_size = needed;
  {
    Workspace workspace("op", exec);
    workspace.reserve<float>(48);
    CHECK(!workspace.commit());
    CHECK(workspace.at<void>(0) == given.data());
  }
  CHECK(check::error_of(FBN_INVALID_VALUE, [&] {
          Workspace workspace("op", exec);
          workspace.reserve<float>(49);
          workspace.commit();
        }) == "op: the workspace must hold 256 bytes. Received: 192");
  for (const int64_t count : {int64_t{-1}, int64_t{1} << 62, std::numeric_limits<int64_t>::max()}) {
    CHECK(!check::error_of(FBN_OUT_OF_MEMORY, [&] {
             Workspace workspace("op", exec);
             workspace.reserve<float>(16);
             workspace.reserve<float>(count);
           }).empty());
  }
}

void test_checked_product() {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 4;
  CHECK(checked_product("op", {}) == 1);
  CHECK(checked_product("op", {3, 4, 5}) == 60);
  CHECK(checked_product("op", {kMost}) == kMost);
  CHECK(checked_product("op", {kMost, 0}) == 0);
  CHECK(!check::error_of(FBN_OUT_OF_MEMORY, [] { checked_product("op", {kMost, kMost, 0}); }).empty());
  CHECK(check::error_of(FBN_OUT_OF_MEMORY, [] {
          checked_product("op", {kMost, 2});
        }).find(" x 2 float32 values") != std::string::npos);
  CHECK(!check::error_of(FBN_OUT_OF_MEMORY, [] { checked_product("op", {kMost + 1}); }).empty());
  CHECK(!check::error_of(FBN_OUT_OF_MEMORY, [] {
           checked_product("op", {int64_t{1} << 32, int64_t{1} << 32, int64_t{1} << 32});
         }).empty());
  CHECK(!check::error_of(FBN_INVALID_VALUE, [] { checked_product("op", {2, -1}); }).empty());
}

}  // namespace

int main() {
  test_buffer();
  test_workspace();
  test_checked_product();
  return check::report("memory_test");
}
