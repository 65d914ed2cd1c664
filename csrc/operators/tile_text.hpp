// The register tile of a kernel in words, for what FASTBN_VERBOSE says.
#pragma once

#include <string>

#include "kernels/register_tile.hpp"
#include "runtime/status.hpp"

namespace fastbn {

inline std::string text(const RegisterTile& tile) { return concatenate("tile ", tile.rows, "x", tile.columns); }

}  // namespace fastbn
