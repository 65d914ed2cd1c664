"""The JAX consumer in examples/embed/jax, built from the wheel: values, derivatives, jit, errors, against float64."""

from __future__ import annotations

import pytest
from harness.consumers import blocks, tool

jax = pytest.importorskip("jax", reason="JAX is not installed (it is in the test extra)")
if not hasattr(jax, "ffi"):
    pytest.skip("JAX 0.5 or later is needed for jax.ffi", allow_module_level=True)

#: Runs beside fastbn_jax.py. Every function in one process: JAX takes a second to start.
CHECKS = """
import functools, itertools
import jax, jax.numpy as jnp, numpy as np
from jax import lax
import fastbn_jax
from fastbn import ops

rng = np.random.default_rng(0)
def floats(*shape): return rng.standard_normal(shape, np.float32)

def conv(x, k, b, strides, padding, dilation, groups, act):
    y = lax.conv_general_dilated(x, k, strides, padding, rhs_dilation=dilation, feature_group_count=groups,
                                 dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest") + b
    return act(y)

def dense(x, k, b, act): return act(jnp.dot(x, k, precision="highest") + b)

def norm(x, gamma, beta, residual, act):
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    y = (x - mean) / jnp.sqrt(variance + 1e-3) * gamma + beta
    return act(y if residual is None else y + residual)

def worst(found, expected):
    return max(float(np.abs(np.asarray(f, np.float64) - e).max() / max(np.abs(e).max(), 1e-30))
               for f, e in zip(found, expected, strict=True))

def derivatives(f, operands, dy):
    y, back = jax.vjp(f, *operands)
    return (y, *back(dy))

def compare(name, ours, theirs, operands):
    "Value and derivatives of all operands, plain and under jit, within 1e-5 of the largest element."
    dy = floats(*jax.eval_shape(ours, *operands).shape)
    found = derivatives(ours, operands, dy)
    jitted = jax.jit(lambda o, d: derivatives(ours, o, d))(operands, dy)
    with jax.enable_x64(True):
        exact = [np.asarray(o, np.float64) for o in operands]
        expected = [np.asarray(e) for e in derivatives(theirs, exact, np.asarray(dy, np.float64))]
    for kind, results in (("plain", found), ("jit", jitted)):
        error = worst(results, expected)
        assert error <= 1e-5, (name, kind, error)
    return [np.asarray(f) for f in found]

acts = {None: lambda y: y, "relu": jax.nn.relu, "tanh": jnp.tanh}
cases = [
    ((4, 9, 10, 3), (3, 3, 3, 8), (1, 1), "valid", (1, 1), 1, None),
    ((4, 9, 10, 6), (3, 2, 3, 8), (2, 1), "same", (1, 1), 2, "relu"),
    ((2, 12, 12, 64), (3, 3, 64, 64), (1, 1), "same", (1, 1), 1, None),
    ((4, 9, 10, 4), (3, 3, 4, 8), (1, 1), ((2, 1), (0, 3)), (2, 1), 1, "tanh"),
]
for xs, ks, strides, padding, dilation, groups, act in cases:
    pads = padding.upper() if isinstance(padding, str) else padding
    operands = (floats(*xs), floats(*ks), floats(ks[3]))
    ours = lambda x, k, b: fastbn_jax.conv2d(x, k, b, strides, padding, dilation, groups, act)
    theirs = lambda x, k, b: conv(x, k, b, strides, pads, dilation, groups, acts[act])
    y, dx, dk, db = compare("conv2d", ours, theirs, operands)
    options = dict(strides=strides, padding=padding, dilation=dilation, groups=groups, activation=act)
    same = ops.conv2d_forward(*operands, **options)
    assert (y == same).all(), "other bits than fastbn.ops"
for act in acts:
    operands = (floats(33, 20), floats(20, 14), floats(14))
    ours, theirs = lambda x, k, b: fastbn_jax.dense(x, k, b, act), lambda x, k, b: dense(x, k, b, acts[act])
    y, *_ = compare("dense", ours, theirs, operands)
    assert (y == ops.dense_forward(*operands, activation=act)).all()
for shape, act, added in itertools.product([(33, 12), (4, 6, 5, 12)], acts, [False, True]):
    operands = (floats(*shape), floats(12), floats(12)) + ((floats(*shape),) if added else ())
    ours = lambda x, g, b, r=None: fastbn_jax.batch_norm(x, g, b, r, 1e-3, act)
    y, *_ = compare("batch_norm", ours, lambda x, g, b, r=None: norm(x, g, b, r, acts[act]), operands)
    residual = operands[3] if added else None
    assert (y == ops.batch_norm_forward(*operands[:3], activation=act, residual=residual)[0]).all()

x, k, b = floats(3, 5, 7, 7, 3), floats(3, 3, 3, 4), floats(4)
mapped = jax.vmap(lambda x: fastbn_jax.conv2d(x, k, b))(x)
assert (np.asarray(mapped[1]) == ops.conv2d_forward(x[1], k, b)).all()

# Much work on the pool's threads, in one program with JAX's own.
big = floats(64, 32, 32, 32), floats(3, 3, 32, 64), floats(64)
step = jax.jit(lambda x, k, b: jnp.tanh(fastbn_jax.conv2d(jnp.sin(x), k, b, (1, 1), "same")).sum())
first = float(step(*big))
assert all(float(step(*big)) == first for _ in range(5))

try:
    jax.block_until_ready(fastbn_jax.batch_norm(jnp.zeros((0, 4)), jnp.ones(4), jnp.ones(4)))
except Exception as error:
    assert "batch_norm_forward: " in str(error) and "Received: " in str(error), error
else:
    raise AssertionError("statistics of no rows")
print("all within 1e-5, the same bits as fastbn.ops")
"""


def test_consumer(environment, consumer):
    folder = consumer("jax")
    environment.require("jax", f"jax=={jax.__version__}")
    cmake = tool("cmake")
    environment.run(cmake, "-B", "build", f"-DPython_EXECUTABLE={environment.python}", cwd=folder)
    environment.run(cmake, "--build", "build", cwd=folder)
    assert "all within 1e-5" in environment.run(environment.python, "-c", CHECKS, cwd=folder)
    environment.run(environment.python, "-c", blocks("embedding_jax.md"), cwd=folder)
    out = environment.run(environment.python, "train.py", cwd=folder)
    assert "largest difference of the losses" in out
