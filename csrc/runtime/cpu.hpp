// What the processor has besides its instruction sets.
#pragma once

#include <cstdint>

namespace fastbn {

// Of one core; 1 MiB where the system does not say.
int64_t l2_cache_bytes() noexcept;

}  // namespace fastbn
