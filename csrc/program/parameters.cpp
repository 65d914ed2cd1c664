#include "parameters.hpp"

#include <cstring>

namespace fastbn {

Buffer parameter_buffer(const Parameter& p) {
  const size_t bytes = static_cast<size_t>(p.size + (p.in_panels ? kDensePanel : 0)) * sizeof(float);
  Buffer buffer(bytes);
  std::memset(buffer.data(), 0, bytes);
  return buffer;
}

void write_parameter(const Parameter& p, const float* rows, const Buffer& to) {
  if (p.in_panels) return p.dense().pack_kernel(rows, to.floats());
  std::memcpy(to.data(), rows, static_cast<size_t>(p.size) * sizeof(float));
}

void read_parameter(const Parameter& p, const Buffer& from, float* rows) {
  if (p.in_panels) return p.dense().unpack_kernel(from.floats(), rows);
  std::memcpy(rows, from.data(), static_cast<size_t>(p.size) * sizeof(float));
}

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
