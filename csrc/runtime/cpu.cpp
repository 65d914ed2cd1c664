// Which instruction sets the machine has, and the kernel table in use. Compiled with the baseline's flags: nothing
// in here may run an instruction that has not been found yet.
#include "cpu.hpp"

#include <fastbn/fastbn.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>

#include "kernels/kernel_table.hpp"
#include "status.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fastbn {

int64_t l2_cache_bytes() noexcept {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return 1 << 20;
}

namespace {

// A property of a cache of the first processor, as the kernel's table has it; empty where there is none.
struct CacheProperty {
  char text[32] = "";

  CacheProperty(int index, const char* name) noexcept {
    char path[96];
    std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", index, name);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    const ssize_t size = read(file, text, sizeof text - 1);
    text[size > 0 ? size : 0] = '\0';
    close(file);
  }
};

}  // namespace

// sysconf multiplies the last level by the number of its instances, so the kernel's own table is asked first.
int64_t data_cache_bytes(int level) noexcept {
  for (int index = 0; index < 8; ++index) {
    if (std::atoi(CacheProperty(index, "level").text) != level) continue;
    if (CacheProperty(index, "type").text[0] == 'I') continue;  // of instructions
    const CacheProperty size(index, "size");
    if (std::strchr(size.text, 'K') != nullptr) return std::strtoll(size.text, nullptr, 10) * 1024;
  }
#ifdef _SC_LEVEL3_CACHE_SIZE
  constexpr int kNames[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
  if (level >= 1 && level <= 3) return std::max<int64_t>(0, sysconf(kNames[level - 1]));
#endif
  return 0;
}

bool exceed_caches(int64_t size, std::initializer_list<const float*> read,
                   std::initializer_list<const float*> written) noexcept {
  static const int64_t bytes = std::max(data_cache_bytes(2), data_cache_bytes(3));
  int64_t arrays = 0;
  for (const float* from : read) arrays += from != nullptr ? 1 : 0;
  for (const float* to : written) {
    if (to == nullptr) continue;
    ++arrays;
    if (std::find(read.begin(), read.end(), to) != read.end()) return false;
  }
  constexpr int64_t kFloat = sizeof(float);
  return bytes > 0 && size > bytes / kFloat / 2 * 3 / std::max<int64_t>(1, arrays);
}

#if FASTBN_COMPILED_AVX512
const KernelTable& kernel_table_avx512();
#endif
#if FASTBN_COMPILED_AVX2
const KernelTable& kernel_table_avx2();
#endif
#if FASTBN_COMPILED_NEON
const KernelTable& kernel_table_neon();
#endif
const KernelTable& kernel_table_baseline();

namespace {

#if defined(__x86_64__)
struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf) {
  Registers r;
  __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);  // leaves zeros where the leaf is missing
  return r;
}

constexpr bool has_bits(unsigned value, unsigned bits) { return (value & bits) == bits; }

// The operating system saves the register state named by `mask` (XCR0).
bool system_saves(unsigned mask) {
  if (!has_bits(cpuid(1).ecx, bit_OSXSAVE)) return false;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return has_bits(low, mask);
}

// Read once: under a hypervisor every cpuid is a trap.
bool found_avx2() {
  static const bool found =
      system_saves(0x06) && has_bits(cpuid(1).ecx, bit_AVX | bit_FMA | bit_F16C) && has_bits(cpuid(7).ebx, bit_AVX2);
  return found;
}

bool found_avx512() {
  static const bool found = found_avx2() && system_saves(0xe6) &&
                            has_bits(cpuid(7).ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
  return found;
}
#endif

bool always_found() { return true; }

struct InstructionSet {
  const char* name;
  bool (*found)();
  const KernelTable& (*table)();  // NULL: not in this build
};

// Best first.
constexpr InstructionSet kSets[] = {
#if defined(__x86_64__)
#if FASTBN_COMPILED_AVX512
    {"avx512", found_avx512, kernel_table_avx512},
#else
    {"avx512", found_avx512, nullptr},
#endif
#if FASTBN_COMPILED_AVX2
    {"avx2", found_avx2, kernel_table_avx2},
#else
    {"avx2", found_avx2, nullptr},
#endif
#elif defined(__aarch64__)
#if FASTBN_COMPILED_NEON
    {"neon", always_found, kernel_table_neon},
#else
    {"neon", always_found, nullptr},
#endif
#endif
    {"baseline", always_found, kernel_table_baseline},
};

template <class Predicate>
std::string list_sets(Predicate holds) {
  std::string names;
  for (const InstructionSet& set : kSets) {
    if (!holds(set)) continue;
    if (!names.empty()) names += ',';
    names += set.name;
  }
  return names;
}

bool usable(const InstructionSet& set) { return set.table != nullptr && set.found(); }

// `origin` is what asked for the set, for the message.
const InstructionSet& set_by_name(const char* origin, const char* name) {
  for (const InstructionSet& set : kSets) {
    if (std::strcmp(set.name, name) == 0 && usable(set)) return set;
  }
  fail(FBN_INVALID_VALUE, origin, ": must name an instruction set that this build and this machine have (",
       list_sets(usable), "). Received: '", name, "'");
}

const InstructionSet& default_set() {
  const char* name = std::getenv("FASTBN_ISA");
  if (name != nullptr && *name != '\0') return set_by_name("FASTBN_ISA", name);
  for (const InstructionSet& set : kSets) {
    if (usable(set)) return set;
  }
  return kSets[std::size(kSets) - 1];
}

std::atomic<const KernelTable*> table_in_use{nullptr};

}  // namespace

const KernelTable& kernels() {
  const KernelTable* table = table_in_use.load(std::memory_order_acquire);
  if (table == nullptr) [[unlikely]] {
    const KernelTable* chosen = &default_set().table();
    // A fbn_set_isa in between stays.
    if (table_in_use.compare_exchange_strong(table, chosen, std::memory_order_acq_rel)) table = chosen;
  }
  return *table;
}

const KernelTable& kernels_of(const char* operation, const char* isa) { return set_by_name(operation, isa).table(); }

}  // namespace fastbn

using namespace fastbn;

const char* fbn_isa_compiled(void) {
  const char* result = "";
  guard([&] {
    static const std::string names = list_sets([](const InstructionSet& set) { return set.table != nullptr; });
    result = names.c_str();
  });
  return result;
}

const char* fbn_isa_found(void) {
  const char* result = "";
  guard([&] {
    static const std::string names = list_sets([](const InstructionSet& set) { return set.found(); });
    result = names.c_str();
  });
  return result;
}

const char* fbn_isa_in_use(void) {
  const char* name = nullptr;
  guard([&] { name = kernels().name; });
  return name;
}

fbn_status fbn_set_isa(const char* name) {
  return guard([&] {
    require(name != nullptr, "fbn_set_isa: a name is required. Received: NULL");
    table_in_use.store(&set_by_name("fbn_set_isa", name).table(), std::memory_order_release);
  });
}
