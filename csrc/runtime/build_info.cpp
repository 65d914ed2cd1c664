// What this library was built with. The build defines FASTBN_BUILD_FLAGS, FASTBN_BUILD_TYPE and FASTBN_BUILD_SYSTEM
// for this file alone.
#include <dlfcn.h>
#include <fastbn/fastbn.h>

#include <cstring>
#include <string>

#if FASTBN_OPENMP
#include <omp.h>
#endif

namespace {

#if defined(__clang__)
constexpr const char kCompiler[] = "clang " __clang_version__;
#else
constexpr const char kCompiler[] = "gcc " __VERSION__;
#endif

#if FASTBN_OPENMP
// The runtime that the loader gave us, which need not be the one that we were linked with.
std::string threading_layer() {
  Dl_info info;
  const char* path = dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &info) != 0 ? info.dli_fname : "";
  for (const char* name : {"libgomp", "libiomp5", "libomp"}) {
    if (std::strstr(path, name) != nullptr) return std::string("openmp (") + name + ")";
  }
  return "openmp";
}
#else
std::string threading_layer() { return "serial"; }
#endif

}  // namespace

const char* fbn_threading_layer(void) {
  static const std::string layer = threading_layer();
  return layer.c_str();
}

const char* fbn_build_info(void) {
  static const std::string info = std::string("version=") + fbn_version() + "\ncompiler=" + kCompiler +
                                  "\nflags=" FASTBN_BUILD_FLAGS "\nbuild_type=" FASTBN_BUILD_TYPE
                                  "\nsystem=" FASTBN_BUILD_SYSTEM "\nopenmp=" +
#if FASTBN_OPENMP
                                  std::to_string(_OPENMP);
#else
                                  "off";
#endif
  return info.c_str();
}
