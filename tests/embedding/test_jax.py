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

# Options in the other forms that fastbn.ops takes, and leading axes of dense as rows.
assert (fastbn_jax.conv2d(x[0], k, b, 2, "SAME") == fastbn_jax.conv2d(x[0], k, b, (2, 2), "same")).all()
operands = (floats(2, 4, 8), floats(8, 5), floats(5))
ours = lambda x, k, b: fastbn_jax.dense(x, k, b, "tanh")
y, *_ = compare("dense of rank 3", ours, lambda x, k, b: dense(x, k, b, jnp.tanh), operands)
assert y.shape == (2, 4, 5) and (y == ops.dense_forward(*operands, activation="tanh")).all()

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

#: What breaks a rule, refused while JAX traces.
TRACED = """
import jax, jax.numpy as jnp, numpy as np
import fastbn_jax as F

def o(shape, dtype=np.float32): return jnp.ones(shape, dtype)
image, kernel, bias = o((2, 8, 8, 3)), o((3, 3, 3, 4)), o(4)
def conv(*options, x=image, k=kernel, b=bias, **named): return lambda: F.conv2d(x, k, b, *options, **named)
def norm(*options, x=o((8, 3)), g=o(3), b=o(3)): return lambda: F.batch_norm(x, g, b, *options)

refused = [
    ("dense: the last axis of x must be as long as the first of kernel. Received: x.shape=(64, 8), "
     "kernel.shape=(4096, 5)", lambda: jax.grad(lambda x: F.dense(x, o((4096, 5)), o(5)).sum())(o((64, 8)))),
    ("dense: the last axis of x must be as long as the first of kernel", lambda: F.dense(o((4, 8)), o((16, 5)), o(5))),
    ("dense: bias must have shape (10000000,). Received: bias.shape=(1,)",
     lambda: F.dense(o((4, 8)), o((8, 10_000_000)), o(1))),
    ("dense: x must have rank 2 or more. Received: x.shape=(8,)", lambda: F.dense(o(8), o((8, 5)), o(5))),
    ("dense: kernel must have rank 2. Received: kernel.shape=(8,)", lambda: F.dense(o((4, 8)), o(8), o(5))),
    ("dense: kernel must not be empty", lambda: F.dense(o((4, 0)), o((0, 5)), o(5))),
    ("dense: activation must be None or one of ['linear', 'relu', 'sigmoid', 'tanh']. Received: 'gelu'",
     lambda: F.dense(o((4, 8)), o((8, 5)), o(5), "gelu")),
    ("conv2d: bias must have shape (4,). Received: bias.shape=(1,)", conv(b=o(1))),
    ("conv2d: x must have rank 4. Received: x.shape=(8, 8, 3)", conv(x=o((8, 8, 3)))),
    ("conv2d: kernel must have rank 4. Received: kernel.shape=(3, 3, 4)", conv(k=o((3, 3, 4)))),
    ("conv2d: kernel must have shape (3, 3, 3, 4). Received: kernel.shape=(3, 3, 2, 4)", conv(k=o((3, 3, 2, 4)))),
    ("conv2d: kernel must not be empty", conv(k=o((0, 3, 3, 4)))),
    ("conv2d: only the first axis of x may be empty", conv(x=o((2, 0, 8, 3)))),
    ("conv2d: the dilated kernel must fit into the padded image along the height. Received: height 2, "
     "padding (0, 0), kernel 3, dilation 1", conv(x=o((2, 2, 2, 3)))),
    ("conv2d: the dilated kernel must fit into the padded image along the width", conv(dilation=(1, 4))),
    ("conv2d: strides must lie in [1, 2**31). Received: 0", conv((0, 1))),
    ("conv2d: strides must lie in [1, 2**31). Received: -1", conv(-1)),
    ("conv2d: strides must be an integer or two. Received: (1, 1, 1)", conv((1, 1, 1))),
    ("conv2d: strides must be an integer. Received: 1.5", conv(1.5)),
    ("conv2d: dilation must lie in [1, 2**31). Received: 0", conv(dilation=0)),
    ("conv2d: groups must lie in [1, 2**31). Received: 0", conv(groups=0)),
    ("conv2d: groups must divide in_channels and out_channels. Received: groups 2, in_channels 3, out_channels 4",
     conv(groups=2)),
    ("conv2d: padding must be 'valid', 'same' or ((top, bottom), (left, right)). Received: 'full'",
     conv(padding="full")),
    ("conv2d: padding must be 'valid', 'same' or ((top, bottom), (left, right)). Received: (1, 1)",
     conv(padding=(1, 1))),
    ("conv2d: padding must lie in [0, 2**31). Received: -1", conv(padding=((-1, 0), (0, 0)))),
    ("conv2d: activation must be None or one of", conv(activation=["relu"])),
    ("batch_norm: gamma must have shape (30000,). Received: gamma.shape=(1,)",
     norm(x=o((2, 30000)), g=o(1), b=o(30000))),
    ("batch_norm: beta must have shape (3,). Received: beta.shape=(4,)", norm(b=o(4))),
    ("batch_norm: residual must have shape (8, 3). Received: residual.shape=(3, 8)", norm(o((3, 8)))),
    ("batch_norm: x must have rank 2 or more. Received: x.shape=(3,)", norm(x=o(3))),
    ("batch_norm: x must have a channel. Received: x.shape=(8, 0)", norm(x=o((8, 0)), g=o(0), b=o(0))),
    ("batch_norm: epsilon must be finite and not negative. Received: epsilon=-1", norm(None, -1)),
    ("batch_norm: epsilon must be a number. Received: '1'", norm(None, "1")),
    ("batch_norm: activation must be None or one of", norm(None, 1e-3, "RELU")),
    ("dense: bias must be an array of float32. Received: NoneType", lambda: F.dense(o((4, 8)), o((8, 5)), None)),
]
with jax.enable_x64(True):
    for dtype in ("float16", "bfloat16", "float64", "int32"):
        x = o((4, 8), dtype)
        refused += [
            (f"dense: x must be an array of float32. Received: dtype {dtype}", lambda x=x: F.dense(x, o((8, 5)), o(5))),
            (f"conv2d: kernel must be an array of float32. Received: dtype {dtype}", conv(k=kernel.astype(dtype))),
            (f"conv2d: bias must be an array of float32. Received: dtype {dtype}", conv(b=bias.astype(dtype))),
            (f"batch_norm: x must be an array of float32. Received: dtype {dtype}", norm(x=o((8, 3), dtype))),
            (f"batch_norm: residual must be an array of float32. Received: dtype {dtype}", norm(o((8, 3), dtype))),
        ]
    failures = []
    for message, call in refused:
        types = "must be an array" in message or "must be a number" in message or message.endswith("1.5")
        for kind, attempt in (("plain", call), ("jit", jax.jit(call)), ("abstract", lambda: jax.eval_shape(call))):
            try:
                jax.block_until_ready(attempt())
            except Exception as error:
                if type(error) is not (TypeError if types else ValueError) or not str(error).startswith(message):
                    failures.append((message, kind, repr(error)[:300]))
            else:
                failures.append((message, kind, "accepted"))
assert not failures, "\\n".join(map(str, failures))
assert F.dense(np.ones((4, 8)), np.ones((8, 5)), np.ones(5)).dtype == jnp.float32  # as JAX takes NumPy's float64
print("all refused in words")
"""

#: The adapters called past fastbn_jax.py: whatever has another shape is refused, and no byte beside it is touched.
DIRECT = """
import jax, jax.numpy as jnp, numpy as np
import fastbn_jax

f32, u8 = (lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)), (lambda *s: jax.ShapeDtypeStruct(s, jnp.uint8))
geometry = {"strides": np.array([1, 1]), "padding": np.zeros(4, np.int64), "dilation": np.array([1, 1]),
            "groups": np.int64(1)}
conv, dense, norm = geometry | {"activation": np.int64(1)}, {"activation": np.int64(1)}, {
    "epsilon": np.float64(1e-3), "activation": np.int64(1)}
x, k, y, vector = f32(2, 8, 8, 3), f32(3, 3, 3, 4), f32(2, 6, 6, 4), f32(4)
m, w, v, statistics = f32(4, 8), f32(8, 5), f32(4, 5), u8(2, 8, 8)
calls = {  # names and shapes of operands and of results
    "conv2d_forward": (dict(x=x, kernel=k, bias=vector), dict(y=y), conv),
    "conv2d_backward": (dict(dy=y, x=x, kernel=k, y=y), dict(dx=x, dkernel=k, dbias=vector), conv),
    "dense_forward": (dict(x=m, kernel=w, bias=f32(5)), dict(y=v), dense),
    "dense_backward": (dict(dy=v, x=m, kernel=w, y=v), dict(dx=m, dkernel=w, dbias=f32(5)), dense),
    "batch_norm_forward": (dict(x=m, gamma=f32(8), beta=f32(8), residual=m), dict(y=m, statistics=statistics), norm),
    "batch_norm_backward": (dict(dy=m, x=m, gamma=f32(8), beta=f32(8), statistics=statistics, y=m),
                            dict(dx=m, dgamma=f32(8), dbeta=f32(8), dresidual=m), norm),
}

def call(name, operands, results, attributes):
    arrays = [jnp.ones(s.shape, s.dtype) for s in operands.values()]
    function = jax.ffi.ffi_call("fastbn_" + name, tuple(results.values()))
    jax.block_until_ready(function(*arrays, **attributes))

def refuse(name, rule, operands, results, attributes):
    try:
        call(name, operands, results, attributes)
    except Exception as error:
        found = str(error)
        assert f"{name}: " in found and rule in found and "Received: " in found, (name, rule, found)
    else:
        raise AssertionError((name, rule, "accepted", operands, results, attributes))

tried = 0
for name, (operands, results, attributes) in calls.items():
    call(name, operands, results, attributes)
    for changed, struct in {**operands, **results}.items():
        shapes = [struct.shape[:-1], (*struct.shape, 1)]  # other ranks, and each axis longer and shorter
        shapes += [(*struct.shape[:a], struct.shape[a] + by, *struct.shape[a + 1:])
                   for a in range(len(struct.shape)) for by in (-1, 1, 1000)]
        for shape in shapes:
            def other(named):
                replaced = jax.ShapeDtypeStruct(shape, struct.dtype)
                return {n: replaced if n == changed else s for n, s in named.items()}
            refuse(name, " must ", other(operands), other(results), attributes)
            tried += 1
    for code in (-1, 5, 2**32, -(2**63)):
        refuse(name, "activation must be", operands, results, attributes | {"activation": np.int64(code)})
for name in ("conv2d_forward", "conv2d_backward"):
    operands, results, attributes = calls[name]
    for rule, change in [
        ("strides must be 2 integers. Received: (1,)", {"strides": np.array([1])}),
        ("padding must be 4 integers. Received: (0, 0)", {"padding": np.array([0, 0])}),
        ("dilation must be 2 integers", {"dilation": np.array([1, 1, 1])}),
        ("stride_height must lie in", {"strides": np.array([0, 1])}),
        ("stride_width must lie in", {"strides": np.array([1, -1])}),
        ("pad_left must lie in", {"padding": np.array([0, 0, -1, 0])}),
        ("pad_top must lie in", {"padding": np.array([2**62, 2**62, 0, 0])}),
        ("dilation_height must lie in", {"dilation": np.array([2**62, 1])}),
        ("must fit into the padded image", {"dilation": np.array([4, 1])}),
        ("y must have shape (2, 3, 6, 4). Received: y.shape=(2, 6, 6, 4)", {"strides": np.array([2, 1])}),
        ("groups must divide", {"groups": np.int64(3)}),
        ("groups must lie in", {"groups": np.int64(0)}),
        ("groups must lie in", {"groups": np.int64(-(2**63))}),
        ("groups must lie in", {"groups": np.int64(2**62)}),
    ]:
        refuse(name, rule, operands, results, attributes | change)
print("all", tried, "shapes refused")
"""


def test_consumer(environment, consumer):
    folder = consumer("jax")
    environment.require("jax", f"jax=={jax.__version__}")
    cmake = tool("cmake")
    environment.run(cmake, "-B", "build", f"-DPython_EXECUTABLE={environment.python}", cwd=folder)
    environment.run(cmake, "--build", "build", cwd=folder)
    assert "all within 1e-5" in environment.run(environment.python, "-c", CHECKS, cwd=folder)
    assert "all refused in words" in environment.run(environment.python, "-c", TRACED, cwd=folder)
    assert "shapes refused" in environment.run(environment.python, "-c", DIRECT, cwd=folder)
    environment.run(environment.python, "-c", blocks("embedding_jax.md"), cwd=folder)
    out = environment.run(environment.python, "train.py", cwd=folder)
    assert "largest difference of the losses" in out
