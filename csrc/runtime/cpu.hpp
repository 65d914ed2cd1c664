// What the processor has besides its instruction sets.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace fastbn {

// Of one core; 1 MiB where the system does not say.
int64_t l2_cache_bytes() noexcept;

// Of the first processor's data cache of a level, 0 where the system does not say or has none.
int64_t data_cache_bytes(int level) noexcept;

// Whether arrays of `size` floats, those that are not NULL, are together one and a half times what the last cache holds
// and no result lies where it is read: little of what is written will then be found in the caches. False where the
// cache is not known.
bool exceed_caches(int64_t size, std::initializer_list<const float*> read,
                   std::initializer_list<const float*> written) noexcept;

}  // namespace fastbn
