#include "parameters.hpp"

#include <cstring>

namespace fastbn {

Parameter* ParameterStore::find(int node, ParameterRole role) {
  for (int i = first_of_node[static_cast<size_t>(node)]; i < first_of_node[static_cast<size_t>(node) + 1]; ++i)
    if (parameters[static_cast<size_t>(i)].spec.role == role) return &parameters[static_cast<size_t>(i)];
  return nullptr;
}

void update_parameter(const ParameterStore& store, const UpdateRule& rule, Parameter& p, const float* g, int64_t begin,
                      int64_t size) noexcept {
  if (store.keep_gradients) std::memcpy(p.gradient.floats() + begin, g, static_cast<size_t>(size) * sizeof(float));
  float* slots[kMaxSlots] = {};
  for (int i = 0; i < store.slot_count; ++i) slots[i] = p.slots[i].floats() + begin;
  apply_update(rule, p.value.floats() + begin, g, slots, size);
}

}  // namespace fastbn
