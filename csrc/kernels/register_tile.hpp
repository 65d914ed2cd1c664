// What a kernel keeps in registers at a time.
#pragma once

namespace fastbn {

// Most of it: narrower results have lower ones.
struct RegisterTile {
  int rows, columns;
};

}  // namespace fastbn
