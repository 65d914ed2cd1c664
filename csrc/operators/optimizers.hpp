// SGD, RMSprop, Adam: one pass over weights, gradient and slots. Formulas of Keras 3.
#pragma once

#include <fastbn/fastbn.h>

#include <cstdint>

namespace fastbn {

inline constexpr int kMaxSlots = 3;
inline constexpr int64_t kMaxIteration = int64_t{1} << 53;  // a double, as Adam's powers take it, still counts by ones

// Throws INVALID_VALUE for NaN, negative or out-of-range hyper-parameters, naming the rule.
void check_optimizer(const char* operation, const fbn_optimizer& d);
int optimizer_slot_count(const fbn_optimizer& d);
const char* optimizer_slot_name(const fbn_optimizer& d, int slot);

// The step's constants, computed once per step in double and rounded to float.
struct UpdateRule {
  int32_t kind;
  bool nesterov, centered, amsgrad, has_momentum;
  float learning_rate, momentum, rho, one_minus_rho, beta_1_complement, beta_2_complement, epsilon, alpha, decay;
};
UpdateRule update_rule(const fbn_optimizer& d, int64_t iteration);

// w, slots <- one update with gradient g over `size` contiguous elements. Elementwise: any split gives the same bits.
void apply_update(const UpdateRule& rule, float* w, const float* g, float* const* slots, int64_t size) noexcept;

}  // namespace fastbn
