// The Python class `Optimizer` holds this; programs take it too.
#pragma once

#include <fastbn/fastbn.h>

namespace fastbn_python {

struct Optimizer {
  fbn_optimizer d;
};

}  // namespace fastbn_python
