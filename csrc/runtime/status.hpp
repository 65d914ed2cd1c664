// Errors inside the library: thrown as Error above the kernels, turned into a status at the C interface.
#pragma once

#include <fastbn/fastbn.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <new>
#include <sstream>
#include <string>

namespace fastbn {

class Error : public std::exception {
 public:
  Error(fbn_status status, std::string message) : status_(status), message_(std::move(message)) {}
  fbn_status status() const noexcept { return status_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  fbn_status status_;
  std::string message_;
};

template <class... Parts>
std::string concatenate(const Parts&... parts) {
  std::ostringstream out;
  out.exceptions(std::ios::badbit);  // else a text for which memory runs out ends early, and nobody is told
  (out << ... << parts);
  return out.str();
}

// Message form: "<operator>: <rule>. Received: <what>".
template <class... Parts>
[[noreturn]] void fail(fbn_status status, const Parts&... parts) {
  throw Error(status, concatenate(parts...));
}

// Unless `holds`, throws INVALID_VALUE with the parts as message.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) [[unlikely]]
    fail(FBN_INVALID_VALUE, parts...);
}

// Records the thread's last error and returns its status.
fbn_status record_error(fbn_status status, const char* message) noexcept;

// Runs `body`; no exception passes. Every function of the C interface that can fail is one guard call.
template <class Body>
fbn_status guard(Body&& body) noexcept {
  try {
    body();
    return FBN_OK;
  } catch (const Error& error) {
    return record_error(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return record_error(FBN_OUT_OF_MEMORY, "fastbn: memory could not be allocated");
  } catch (const std::exception& error) {
    return record_error(FBN_INTERNAL, error.what());
  } catch (...) {
    return record_error(FBN_INTERNAL, "fastbn: unknown error");
  }
}

// a * b * ..., or OUT_OF_MEMORY when the product (of floats, so times four) passes int64. A factor 0 excuses none of
// the others: the product of some of them is a size elsewhere.
int64_t checked_product(const char* operation, std::initializer_list<int64_t> factors);

// Structs of the interface begin with their size and grow at their end alone. What callers compiled against an earlier
// header do not have reads as zero; here stands the size that a struct had when the number of the interface, FBN_ABI,
// was last changed (ABI.md). Structs with `reserved` fields never change their size: they lie in others, or are read in
// place.
template <class Struct>
inline constexpr size_t kFirstSize = sizeof(Struct);
template <>
inline constexpr size_t kFirstSize<fbn_exec> = offsetof(fbn_exec, interrupted);
template <>
inline constexpr size_t kFirstSize<fbn_layer> = 768;
template <>
inline constexpr size_t kFirstSize<fbn_program_options> = 184;
template <>
inline constexpr size_t kFirstSize<fbn_step_result> = 48;
template <>
inline constexpr size_t kFirstSize<fbn_cost_row> = 328;
template <>
inline constexpr size_t kFirstSize<fbn_ceilings> = 96;

// Throws unless a caller's struct has a plausible size, and zeros where this library knows no field.
void require_struct(const char* operation, const void* d, size_t struct_size, size_t least, size_t known);

// A descriptor that is read in place.
template <class Descriptor>
void require_descriptor(const char* operation, const Descriptor* d) {
  static_assert(kFirstSize<Descriptor> == sizeof(Descriptor), "read a descriptor that has grown by read_descriptor");
  require(d != nullptr, operation, ": a descriptor is required. Received: NULL");
  require_struct(operation, d, d->struct_size, sizeof(Descriptor), sizeof(Descriptor));
  if constexpr (requires { d->reserved; })
    require_struct(operation, d, sizeof(Descriptor), sizeof(Descriptor), offsetof(Descriptor, reserved));
}

// The descriptor as this library knows it.
template <class Descriptor>
Descriptor read_descriptor(const char* operation, const Descriptor* d) {
  require(d != nullptr, operation, ": a descriptor is required. Received: NULL");
  require_struct(operation, d, d->struct_size, kFirstSize<Descriptor>, sizeof(Descriptor));
  Descriptor copy{};
  std::memcpy(&copy, d, std::min(d->struct_size, sizeof(Descriptor)));
  copy.struct_size = sizeof(Descriptor);
  return copy;
}

// A result that write_result can fill.
template <class Result>
void require_result(const char* operation, const Result* result) {
  require(result->struct_size >= kFirstSize<Result>, operation, ": the struct_size of a result must be at least ",
          kFirstSize<Result>, ". Received: ", result->struct_size);
}

// Fills as much of a caller's struct as it has; struct_size stays.
template <class Result>
void write_result(Result* to, Result value) {
  const size_t size = value.struct_size = to->struct_size;
  std::memcpy(to, &value, std::min(size, sizeof(Result)));
}

}  // namespace fastbn
