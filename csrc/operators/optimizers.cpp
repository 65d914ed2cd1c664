#include "optimizers.hpp"

#include <cfloat>
#include <cmath>

#include "checks.hpp"
#include "kernels/kernel_table.hpp"
#include "runtime/executor.hpp"
#include "runtime/memory.hpp"

namespace fastbn {
namespace {

// Values are rounded to float for the kernels, so they must fit into one.
void require_not_negative(const char* operation, const char* name, double value) {
  require(value >= 0 && value <= FLT_MAX, operation, ": ", name, " must be finite and not negative. Received: ", name,
          "=", value);
}

void require_fraction(const char* operation, const char* name, double value, bool one_allowed) {
  require(value >= 0 && (value < 1 || (one_allowed && value == 1)), operation, ": ", name, " must be in [0, 1",
          one_allowed ? "]" : ")", ". Received: ", name, "=", value);
}

}  // namespace

void check_optimizer(const char* operation, const fbn_optimizer& d) {
  require(d.kind >= FBN_SGD && d.kind <= FBN_ADAM, operation,
          ": kind must be SGD, RMSprop or Adam. Received: kind=", d.kind);
  require_not_negative(operation, "learning_rate", d.learning_rate);
  require_not_negative(operation, "weight_decay", d.weight_decay);
  require_not_negative(operation, "weight_decay * learning_rate", d.weight_decay * d.learning_rate);
  if (d.kind == FBN_SGD || d.kind == FBN_RMSPROP) require_fraction(operation, "momentum", d.momentum, true);
  if (d.kind == FBN_RMSPROP) require_fraction(operation, "rho", d.rho, true);
  if (d.kind == FBN_ADAM) {
    require_fraction(operation, "beta_1", d.beta_1, false);
    require_fraction(operation, "beta_2", d.beta_2, false);
  }
  if (d.kind != FBN_SGD) require_not_negative(operation, "epsilon", d.epsilon);
}

const char* optimizer_slot_name(const fbn_optimizer& d, int slot) {
  const char* names[kMaxSlots + 1] = {};
  int count = 0;
  if (d.kind == FBN_SGD) {
    if (d.momentum > 0) names[count++] = "velocity";
  } else if (d.kind == FBN_RMSPROP) {
    names[count++] = "velocity";
    if (d.momentum > 0) names[count++] = "momentum";
    if (d.centered) names[count++] = "average_gradient";
  } else if (d.kind == FBN_ADAM) {
    names[count++] = "momentum";
    names[count++] = "velocity";
    if (d.amsgrad) names[count++] = "velocity_hat";
  }
  return slot >= 0 && slot < count ? names[slot] : nullptr;
}

int optimizer_slot_count(const fbn_optimizer& d) {
  int count = 0;
  while (optimizer_slot_name(d, count) != nullptr) ++count;
  return count;
}

UpdateRule update_rule(const fbn_optimizer& d, int64_t iteration) {
  UpdateRule r{};
  r.kind = d.kind;
  r.nesterov = d.nesterov != 0;
  r.centered = d.centered != 0;
  r.amsgrad = d.amsgrad != 0;
  r.has_momentum = d.momentum > 0;
  r.learning_rate = static_cast<float>(d.learning_rate);
  r.momentum = static_cast<float>(d.momentum);
  r.rho = static_cast<float>(d.rho);
  r.one_minus_rho = static_cast<float>(1 - d.rho);
  r.beta_1_complement = static_cast<float>(1 - d.beta_1);
  r.beta_2_complement = static_cast<float>(1 - d.beta_2);
  r.epsilon = static_cast<float>(d.epsilon);
  r.decay = static_cast<float>(d.weight_decay * d.learning_rate);
  if (d.kind == FBN_ADAM) {
    const double t = static_cast<double>(iteration) + 1;
    r.alpha = static_cast<float>(d.learning_rate * std::sqrt(1 - std::pow(d.beta_2, t)) / (1 - std::pow(d.beta_1, t)));
  }
  return r;
}

void apply_update(const UpdateRule& rule, float* w, const float* g, float* const* slots, int64_t size) noexcept {
  const UpdateConstants constants{rule.learning_rate, rule.decay, rule.epsilon};
  const UpdateKernels& k = kernels().updates;
  if (rule.kind == FBN_SGD) {
    k.sgd(size, constants, rule.momentum, rule.nesterov, w, g, rule.has_momentum ? slots[0] : nullptr);
  } else if (rule.kind == FBN_RMSPROP) {
    k.rmsprop(size, constants, rule.rho, rule.one_minus_rho, rule.momentum, w, g, slots[0],
              rule.has_momentum ? slots[1] : nullptr, rule.centered ? slots[rule.has_momentum ? 2 : 1] : nullptr);
  } else {
    k.adam(size, constants, rule.beta_1_complement, rule.beta_2_complement, rule.alpha, w, g, slots[0], slots[1],
           rule.amsgrad ? slots[2] : nullptr);
  }
}

}  // namespace fastbn

using namespace fastbn;

int32_t fbn_optimizer_slot_count(const fbn_optimizer* d) { return d != nullptr ? optimizer_slot_count(*d) : 0; }

const char* fbn_optimizer_slot_name(const fbn_optimizer* d, int32_t slot) {
  return d != nullptr ? optimizer_slot_name(*d, slot) : nullptr;
}

fbn_status fbn_optimizer_update(const fbn_optimizer* d, int64_t iteration, int64_t size, float* weights,
                                const float* gradient, float* const* slots, const fbn_exec* exec) {
  return guard([&] {
    const char* operation = "optimizer_update";
    require_descriptor(operation, d);
    if (d->kind == FBN_SGD) operation = "sgd_update";
    if (d->kind == FBN_RMSPROP) operation = "rmsprop_update";
    if (d->kind == FBN_ADAM) operation = "adam_update";
    check_optimizer(operation, *d);
    require(iteration >= 0 && iteration <= kMaxIteration, operation, ": iteration must lie in [0, ", kMaxIteration,
            "]. Received: ", iteration);
    require_size(operation, "size", size, 0);
    checked_product(operation, {size});
    require_array(operation, "weights", weights, size);
    require_array(operation, "gradient", gradient, size);
    const int count = optimizer_slot_count(*d);
    require_array(operation, "slots", slots, count);
    for (int i = 0; i < count; ++i) require_array(operation, optimizer_slot_name(*d, i), slots[i], size);
    const Exec how = resolve_exec(operation, exec, [&] { return std::to_string(size); });
    Workspace workspace(operation, how);
    if (workspace.commit()) return;

    const UpdateRule rule = update_rule(*d, iteration);
    const int64_t tasks = task_count(size);
    const auto task = [&](int64_t i, int) {
      const Range part = part_of(size, tasks, i, 64);
      float* parts[kMaxSlots] = {};
      for (int s = 0; s < count; ++s) parts[s] = slots[s] + part.begin;
      apply_update(rule, weights + part.begin, gradient + part.begin, parts, part.size());
    };
    execute(how, {Phase{tasks, task}}, static_cast<double>(size) * (12 + 8 * count));
  });
}
