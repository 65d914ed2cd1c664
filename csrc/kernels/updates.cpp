#include "updates.hpp"

#include "lengths.hpp"
#include "sgd.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

template <class Body>
FASTBN_INLINE void for_each_vector(int64_t size, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) body(i, Constant<kLanes>{});
  if (i < size) body(i, size - i);
}

void sgd(int64_t size, UpdateConstants k, float momentum, int32_t nesterov, float* w, const float* g, float* velocity) {
  if (!velocity) {
    for_each_vector(size, [&](int64_t i, auto n) {
      store_n(w + i, sgd_step(k.learning_rate, k.decay, load_n(w + i, n), load_n(g + i, n)), n);
    });
    return;
  }
  for_each_vector(size, [&](int64_t i, auto n) {
    vfloat v = load_n(velocity + i, n);
    const vfloat updated =
        sgd_step(k.learning_rate, k.decay, momentum, nesterov != 0, load_n(w + i, n), load_n(g + i, n), v);
    store_n(velocity + i, v, n);
    store_n(w + i, updated, n);
  });
}

template <bool Centered, bool Momentum>
FASTBN_INLINE void rmsprop_pass(int64_t size, UpdateConstants k, float rho_, float one_minus_rho, float momentum,
                                float* w, const float* g, float* velocity, float* m, float* average) {
  const vfloat rate = broadcast(k.learning_rate), decay = broadcast(k.decay), epsilon = broadcast(k.epsilon);
  const vfloat rho = broadcast(rho_), complement = broadcast(one_minus_rho), mu = broadcast(momentum);
  for_each_vector(size, [&](int64_t i, auto n) {
    const vfloat gradient = load_n(g + i, n), old = load_n(w + i, n), kept = fma(-old, decay, old);
    const vfloat v = fma(rho, load_n(velocity + i, n), complement * (gradient * gradient));
    store_n(velocity + i, v, n);
    vfloat spread = v;
    if constexpr (Centered) {
      const vfloat a = fma(rho, load_n(average + i, n), complement * gradient);
      store_n(average + i, a, n);
      spread = v - a * a;
    }
    vfloat step = rate * gradient / square_root(spread + epsilon);
    if constexpr (Momentum) {
      step = fma(mu, load_n(m + i, n), step);
      store_n(m + i, step, n);
    }
    store_n(w + i, kept - step, n);
  });
}

void rmsprop(int64_t size, UpdateConstants k, float rho, float one_minus_rho, float momentum, float* w, const float* g,
             float* velocity, float* m, float* average) {
  if (average) {
    if (m) return rmsprop_pass<true, true>(size, k, rho, one_minus_rho, momentum, w, g, velocity, m, average);
    return rmsprop_pass<true, false>(size, k, rho, one_minus_rho, momentum, w, g, velocity, m, average);
  }
  if (m) return rmsprop_pass<false, true>(size, k, rho, one_minus_rho, momentum, w, g, velocity, m, average);
  return rmsprop_pass<false, false>(size, k, rho, one_minus_rho, momentum, w, g, velocity, m, average);
}

template <bool Amsgrad>
FASTBN_INLINE void adam_pass(int64_t size, UpdateConstants k, float beta_1_complement, float beta_2_complement,
                             float alpha_, float* w, const float* g, float* m, float* v, float* vh) {
  const vfloat decay = broadcast(k.decay), epsilon = broadcast(k.epsilon), alpha = broadcast(alpha_);
  const vfloat c1 = broadcast(beta_1_complement), c2 = broadcast(beta_2_complement);
  for_each_vector(size, [&](int64_t i, auto n) {
    const vfloat gradient = load_n(g + i, n), old = load_n(w + i, n), kept = fma(-old, decay, old);
    const vfloat m_old = load_n(m + i, n), v_old = load_n(v + i, n);
    const vfloat m_new = fma(gradient - m_old, c1, m_old);
    const vfloat v_new = fma(fma(gradient, gradient, -v_old), c2, v_old);
    store_n(m + i, m_new, n);
    store_n(v + i, v_new, n);
    vfloat spread = v_new;
    if constexpr (Amsgrad) {
      const vfloat highest = load_n(vh + i, n);
      spread = highest > v_new ? highest : v_new;  // NaN of v passes
      store_n(vh + i, spread, n);
    }
    store_n(w + i, kept - alpha * m_new / (square_root(spread) + epsilon), n);
  });
}

void adam(int64_t size, UpdateConstants k, float beta_1_complement, float beta_2_complement, float alpha, float* w,
          const float* g, float* m, float* v, float* vh) {
  if (vh) return adam_pass<true>(size, k, beta_1_complement, beta_2_complement, alpha, w, g, m, v, vh);
  return adam_pass<false>(size, k, beta_1_complement, beta_2_complement, alpha, w, g, m, v, vh);
}

}  // namespace

void fill_updates(UpdateKernels& kernels) { kernels = {sgd, rmsprop, adam}; }

}  // namespace FASTBN_ISA
}  // namespace fastbn
