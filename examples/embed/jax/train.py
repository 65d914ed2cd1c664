"""Trains a small network in JAX, once with JAX's own operators and once with fastbn's, both under jit.

cmake -B build && cmake --build build
python train.py
"""

from __future__ import annotations

import fastbn_jax
import jax
import jax.numpy as jnp
from jax import lax


def theirs(parameters, x):
    k1, b1, gamma, beta, k2, b2 = parameters
    z = lax.conv_general_dilated(x, k1, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b1
    mean, variance = z.mean((0, 1, 2)), z.var((0, 1, 2))
    y = jax.nn.relu((z - mean) / jnp.sqrt(variance + 1e-3) * gamma + beta)
    return y.mean((1, 2)) @ k2 + b2


def ours(parameters, x):
    k1, b1, gamma, beta, k2, b2 = parameters
    z = fastbn_jax.conv2d(x, k1, b1, (1, 1), "same")
    y = fastbn_jax.batch_norm(z, gamma, beta, None, 1e-3, "relu")
    return fastbn_jax.dense(y.mean((1, 2)), k2, b2)


def trained(network, parameters, x, labels, steps=20):
    def loss(p):
        return -jnp.take_along_axis(jax.nn.log_softmax(network(p, x)), labels[:, None], 1).mean()

    @jax.jit
    def step(p):
        value, gradients = jax.value_and_grad(loss)(p)
        return value, [w - 0.5 * g for w, g in zip(p, gradients, strict=True)]

    losses = []
    for _ in range(steps):
        value, parameters = step(parameters)
        losses.append(float(value))
    return losses


def main():
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (32, 12, 12, 3))
    labels = jax.random.randint(keys[1], (32,), 0, 10)
    parameters = [
        jax.random.normal(keys[2], (3, 3, 3, 16)) * 0.2,
        jnp.zeros(16),
        jnp.ones(16),
        jnp.zeros(16),
        jax.random.normal(keys[3], (16, 10)) * 0.2,
        jnp.zeros(10),
    ]
    own, fast = trained(theirs, parameters, x, labels), trained(ours, parameters, x, labels)
    print("JAX   ", *(f"{loss:.5f}" for loss in own[::4]))
    print("fastbn", *(f"{loss:.5f}" for loss in fast[::4]))
    difference = max(abs(a - b) for a, b in zip(own, fast, strict=True))
    print(f"largest difference of the losses: {difference:.1e}")
    assert difference < 1e-4
    assert fast[-1] < fast[0]


if __name__ == "__main__":
    main()
