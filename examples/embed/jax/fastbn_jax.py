"""fastbn's conv2d, dense layer and fused batch-norm as JAX functions with derivatives; they work under jit.

Images are (batch, height, width, channels), kernels (height, width, in / groups, out) and (in, out). The library that
`adapters.cpp` is compiled to lies in build/ beside this file.

Arrays are float32. What breaks a rule raises ValueError, another type TypeError, while JAX traces: "dense: bias must
have shape (5,). Received: bias.shape=(1,)".
"""

from __future__ import annotations

import ctypes
import functools
import math
import numbers
import operator
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ACTIVATIONS = {"linear": 0, "relu": 1, "sigmoid": 3, "tanh": 4}  # fbn_activation in fastbn.h

_library = ctypes.CDLL(str(Path(__file__).resolve().parent / "build" / "libfastbn_jax.so"))
for _operator in ("conv2d", "dense", "batch_norm"):
    for _direction in ("forward", "backward"):
        _name = f"fastbn_{_operator}_{_direction}"
        jax.ffi.register_ffi_target(_name, jax.ffi.pycapsule(getattr(_library, _name)), platform="cpu")


def _call(name, results, *operands, **attributes):
    return jax.ffi.ffi_call(name, results, vmap_method="sequential")(*operands, **attributes)


def _like(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _rows(array):
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


# -------------------------------------------------------------------------------------------------------------- rules


def _require(holds, operation, rule, received, error=ValueError):
    if not holds:
        raise error(f"{operation}: {rule}. Received: {received}")


def _floats(operation, **operands):
    for name, value in operands.items():
        received = f"dtype {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
        # as JAX takes it: NumPy's float64 is float32 where there is no float64
        fits = hasattr(value, "dtype") and jnp.result_type(value) == jnp.float32
        _require(fits, operation, f"{name} must be an array of float32", received, TypeError)


def _rank(operation, name, array, least, most=math.inf):
    rule = f"{name} must have rank {least}{'' if most == least else ' or more'}"
    _require(least <= array.ndim <= most, operation, rule, f"{name}.shape={array.shape}")


def _shape(operation, name, array, *shape):
    _require(array.shape == shape, operation, f"{name} must have shape {shape}", f"{name}.shape={array.shape}")


def _integer(operation, name, value, least):
    try:
        number = operator.index(None if isinstance(value, bool) else value)
    except TypeError:
        raise TypeError(f"{operation}: {name} must be an integer. Received: {value!r}") from None
    _require(least <= number < 2**31, operation, f"{name} must lie in [{least}, 2**31)", number)
    return number


def _pair(operation, name, value):
    """(height, width) of an integer or two."""
    both = tuple(value) if isinstance(value, Iterable) else (value, value)
    _require(len(both) == 2, operation, f"{name} must be an integer or two", f"{value!r}")
    return tuple(_integer(operation, name, size, 1) for size in both)


def _activation(operation, name):
    known = name is None or (isinstance(name, str) and name in ACTIVATIONS)
    _require(known, operation, f"activation must be None or one of {list(ACTIVATIONS)}", f"{name!r}")
    return np.int64(ACTIVATIONS[name or "linear"])


# ------------------------------------------------------------------------------------------------------------- conv2d


def _pads(padding, sizes, reaches, strides):
    """((top, bottom), (left, right)) of "valid", "same" (the odd one after) or of themselves."""
    kind = padding.lower() if isinstance(padding, str) else None
    if kind == "valid":
        return (0, 0), (0, 0)
    if kind == "same":
        outs = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
        totals = [max((outs[a] - 1) * strides[a] + reaches[a] - sizes[a], 0) for a in (0, 1)]
        return tuple((total // 2, total - total // 2) for total in totals)
    try:
        (top, bottom), (left, right) = () if kind else padding
    except (TypeError, ValueError):
        rule = "padding must be 'valid', 'same' or ((top, bottom), (left, right))"
        raise ValueError(f"conv2d: {rule}. Received: {padding!r}") from None
    pads = [_integer("conv2d", "padding", pad, 0) for pad in (top, bottom, left, right)]
    return tuple(pads[:2]), tuple(pads[2:])


def _conv2d(x, kernel, strides, padding, dilation, groups, activation):
    """Shape of the result and attributes of the call."""
    op = "conv2d"
    _floats(op, x=x, kernel=kernel)
    _rank(op, "x", x, 4, 4)
    _rank(op, "kernel", kernel, 4, 4)
    _require(all(x.shape[1:]), op, "only the first axis of x may be empty", f"x.shape={x.shape}")
    _require(kernel.size > 0, op, "kernel must not be empty", f"kernel.shape={kernel.shape}")
    strides, dilation = _pair(op, "strides", strides), _pair(op, "dilation", dilation)
    groups = _integer(op, "groups", groups, 1)
    fan_in, fan_out = x.shape[3], kernel.shape[3]
    received = f"groups {groups}, in_channels {fan_in}, out_channels {fan_out}"
    _require(fan_in % groups == fan_out % groups == 0, op, "groups must divide in_channels and out_channels", received)
    _shape(op, "kernel", kernel, *kernel.shape[:2], fan_in // groups, fan_out)
    reaches = [dilation[a] * (kernel.shape[a] - 1) + 1 for a in (0, 1)]
    pads = _pads(padding, x.shape[1:3], reaches, strides)
    sizes = []
    for a, axis in enumerate(("height", "width")):
        size = x.shape[1 + a] + sum(pads[a])
        rule = f"the dilated kernel must fit into the padded image along the {axis}"
        received = f"{axis} {x.shape[1 + a]}, padding {pads[a]}, kernel {kernel.shape[a]}, dilation {dilation[a]}"
        _require(reaches[a] <= size, op, rule, received)
        sizes.append((size - reaches[a]) // strides[a] + 1)
    attributes = {
        "strides": np.array(strides, np.int64),
        "padding": np.array(pads, np.int64).reshape(4),
        "dilation": np.array(dilation, np.int64),
        "groups": np.int64(groups),
        "activation": _activation(op, activation),
    }
    return (x.shape[0], *sizes, fan_out), attributes


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6, 7))
def conv2d(x, kernel, bias, strides=(1, 1), padding="valid", dilation=(1, 1), groups=1, activation=None):
    """y = act(convolution(x, kernel) + bias); padding is "valid", "same" or ((top, bottom), (left, right))."""
    shape, attributes = _conv2d(x, kernel, strides, padding, dilation, groups, activation)
    _floats("conv2d", bias=bias)
    _shape("conv2d", "bias", bias, shape[3])
    return _call("fastbn_conv2d_forward", _like(*shape), x, kernel, bias, **attributes)


def _conv2d_forward(x, kernel, bias, *options):
    y = conv2d(x, kernel, bias, *options)
    return y, (x, kernel, y)


def _conv2d_backward(strides, padding, dilation, groups, activation, saved, dy):
    x, kernel, y = saved
    _, attributes = _conv2d(x, kernel, strides, padding, dilation, groups, activation)
    results = (_like(*x.shape), _like(*kernel.shape), _like(kernel.shape[3]))
    return _call("fastbn_conv2d_backward", results, dy, x, kernel, y, **attributes)


conv2d.defvjp(_conv2d_forward, _conv2d_backward)


# -------------------------------------------------------------------------------------------------------------- dense


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def dense(x, kernel, bias, activation=None):
    """y = act(x kernel + bias) over the last axis; x: (..., in)."""
    op = "dense"
    _floats(op, x=x, kernel=kernel, bias=bias)
    _rank(op, "x", x, 2)
    _rank(op, "kernel", kernel, 2, 2)
    _require(kernel.size > 0, op, "kernel must not be empty", f"kernel.shape={kernel.shape}")
    fan_in, fan_out = kernel.shape
    rule = "the last axis of x must be as long as the first of kernel"
    _require(x.shape[-1] == fan_in, op, rule, f"x.shape={x.shape}, kernel.shape={kernel.shape}")
    _shape(op, "bias", bias, fan_out)
    matrix, attributes = _rows(x), {"activation": _activation(op, activation)}
    y = _call("fastbn_dense_forward", _like(matrix.shape[0], fan_out), matrix, kernel, bias, **attributes)
    return y.reshape(*x.shape[:-1], fan_out)


def _dense_forward(x, kernel, bias, activation):
    y = dense(x, kernel, bias, activation)
    return y, (x, kernel, y)


def _dense_backward(activation, saved, dy):
    x, kernel, y = saved
    matrix, attributes = _rows(x), {"activation": _activation("dense", activation)}
    results = (_like(*matrix.shape), _like(*kernel.shape), _like(kernel.shape[1]))
    operands = (_rows(dy), matrix, kernel, _rows(y))
    dx, dkernel, dbias = _call("fastbn_dense_backward", results, *operands, **attributes)
    return dx.reshape(x.shape), dkernel, dbias


dense.defvjp(_dense_forward, _dense_backward)


# --------------------------------------------------------------------------------------------------------- batch-norm


def _batch_norm(x, gamma, beta, residual, epsilon, activation):
    op = "batch_norm"
    _floats(op, x=x, gamma=gamma, beta=beta)
    _rank(op, "x", x, 2)
    channels = x.shape[-1]
    _require(channels > 0, op, "x must have a channel", f"x.shape={x.shape}")
    _shape(op, "gamma", gamma, channels)
    _shape(op, "beta", beta, channels)
    if residual is not None:
        _floats(op, residual=residual)
        _shape(op, "residual", residual, *x.shape)
    _require(isinstance(epsilon, numbers.Real), op, "epsilon must be a number", f"{epsilon!r}", TypeError)
    _require(0 <= epsilon < math.inf, op, "epsilon must be finite and not negative", f"epsilon={epsilon}")
    matrix = _rows(x)
    added = jnp.zeros((0, channels), jnp.float32) if residual is None else _rows(residual)
    results = (_like(*matrix.shape), jax.ShapeDtypeStruct((2, channels, 8), jnp.uint8))
    attributes = {"epsilon": np.float64(epsilon), "activation": _activation(op, activation)}
    y, statistics = _call("fastbn_batch_norm_forward", results, matrix, gamma, beta, added, **attributes)
    return y.reshape(x.shape), statistics


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def batch_norm(x, gamma, beta, residual=None, epsilon=1e-3, activation=None):
    """y = act((x - mean) / sqrt(variance + epsilon) gamma + beta + residual), statistics of the batch, last axis."""
    return _batch_norm(x, gamma, beta, residual, epsilon, activation)[0]


def _batch_norm_forward(x, gamma, beta, residual, epsilon, activation):
    y, statistics = _batch_norm(x, gamma, beta, residual, epsilon, activation)
    added = None if residual is None else jnp.zeros(0)  # whether, as a tree of arrays can say it
    return y, (x, gamma, beta, statistics, y, added)


def _batch_norm_backward(epsilon, activation, saved, dy):
    x, gamma, beta, statistics, y, added = saved
    rows, channels = _rows(x).shape
    results = (_like(rows, channels), _like(channels), _like(channels), _like(0 if added is None else rows, channels))
    attributes = {"epsilon": np.float64(epsilon), "activation": _activation("batch_norm", activation)}
    operands = (_rows(dy), _rows(x), gamma, beta, statistics, _rows(y))
    dx, dgamma, dbeta, dresidual = _call("fastbn_batch_norm_backward", results, *operands, **attributes)
    return dx.reshape(x.shape), dgamma, dbeta, None if added is None else dresidual.reshape(x.shape)


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)
