// Errors inside the library: thrown as Error above the kernels, turned into a status at the C interface.
#pragma once

#include <fastbn/fastbn.h>

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

// True when `d` (NULL allowed) carries the struct size of this library's version or a later one.
template <class Descriptor>
void require_descriptor(const char* operation, const Descriptor* d) {
  require(d != nullptr, operation, ": a descriptor is required. Received: NULL");
  require(d->struct_size >= sizeof(Descriptor), operation, ": descriptor.struct_size must be at least ",
          sizeof(Descriptor), ". Received: ", d->struct_size);
}

}  // namespace fastbn
