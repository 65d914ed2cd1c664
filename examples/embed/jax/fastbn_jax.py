"""fastbn's conv2d, dense layer and fused batch-norm as JAX functions with derivatives; they work under jit.

Images are (batch, height, width, channels), kernels (height, width, in / groups, out) and (in, out). The library that
`adapters.cpp` is compiled to lies in build/ beside this file.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ACTIVATIONS = {None: 0, "relu": 1, "sigmoid": 3, "tanh": 4}  # fbn_activation in fastbn.h

_library = ctypes.CDLL(str(Path(__file__).resolve().parent / "build" / "libfastbn_jax.so"))
for _operator in ("conv2d", "dense", "batch_norm"):
    for _direction in ("forward", "backward"):
        _name = f"fastbn_{_operator}_{_direction}"
        jax.ffi.register_ffi_target(_name, jax.ffi.pycapsule(getattr(_library, _name)), platform="cpu")


def _call(name, results, *operands, **attributes):
    return jax.ffi.ffi_call(name, results, vmap_method="sequential")(*operands, **attributes)


def _like(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


# ------------------------------------------------------------------------------------------------------------- conv2d


def _pads(size, kernel, stride, dilation, padding):
    """(before, after) along one axis: "valid", "same" (the odd one after) or a pair."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        reach = dilation * (kernel - 1) + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        return total // 2, total - total // 2
    return padding


def _geometry(x_shape, kernel_shape, strides, padding, dilation, groups, activation):
    both = (padding, padding) if isinstance(padding, str) else padding
    pads = [_pads(x_shape[1 + a], kernel_shape[a], strides[a], dilation[a], both[a]) for a in (0, 1)]
    sizes = [
        (x_shape[1 + a] + sum(pads[a]) - dilation[a] * (kernel_shape[a] - 1) - 1) // strides[a] + 1 for a in (0, 1)
    ]
    attributes = {
        "strides": np.array(strides, np.int64),
        "padding": np.array(pads, np.int64).reshape(4),
        "dilation": np.array(dilation, np.int64),
        "groups": np.int64(groups),
        "activation": np.int64(ACTIVATIONS[activation]),
    }
    return (x_shape[0], *sizes, kernel_shape[3]), attributes


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6, 7))
def conv2d(x, kernel, bias, strides=(1, 1), padding="valid", dilation=(1, 1), groups=1, activation=None):
    """y = act(convolution(x, kernel) + bias); padding is "valid", "same" or ((top, bottom), (left, right))."""
    shape, attributes = _geometry(x.shape, kernel.shape, strides, padding, dilation, groups, activation)
    return _call("fastbn_conv2d_forward", _like(*shape), x, kernel, bias, **attributes)


def _conv2d_forward(x, kernel, bias, *options):
    y = conv2d(x, kernel, bias, *options)
    return y, (x, kernel, y)


def _conv2d_backward(strides, padding, dilation, groups, activation, saved, dy):
    x, kernel, y = saved
    _, attributes = _geometry(x.shape, kernel.shape, strides, padding, dilation, groups, activation)
    results = (_like(*x.shape), _like(*kernel.shape), _like(kernel.shape[3]))
    return _call("fastbn_conv2d_backward", results, dy, x, kernel, y, **attributes)


conv2d.defvjp(_conv2d_forward, _conv2d_backward)


# -------------------------------------------------------------------------------------------------------------- dense


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def dense(x, kernel, bias, activation=None):
    """y = act(x kernel + bias); x: (rows, in)."""
    attributes = {"activation": np.int64(ACTIVATIONS[activation])}
    return _call("fastbn_dense_forward", _like(x.shape[0], kernel.shape[1]), x, kernel, bias, **attributes)


def _dense_forward(x, kernel, bias, activation):
    y = dense(x, kernel, bias, activation)
    return y, (x, kernel, y)


def _dense_backward(activation, saved, dy):
    x, kernel, y = saved
    attributes = {"activation": np.int64(ACTIVATIONS[activation])}
    results = (_like(*x.shape), _like(*kernel.shape), _like(kernel.shape[1]))
    return _call("fastbn_dense_backward", results, dy, x, kernel, y, **attributes)


dense.defvjp(_dense_forward, _dense_backward)


# --------------------------------------------------------------------------------------------------------- batch-norm


def _batch_norm(x, gamma, beta, residual, epsilon, activation):
    rows, channels = x.size // x.shape[-1], x.shape[-1]
    added = jnp.zeros((0, channels), jnp.float32) if residual is None else residual.reshape(rows, channels)
    results = (_like(rows, channels), jax.ShapeDtypeStruct((2, channels, 8), jnp.uint8))
    attributes = {"epsilon": np.float64(epsilon), "activation": np.int64(ACTIVATIONS[activation])}
    operands = (x.reshape(rows, channels), gamma, beta, added)
    y, statistics = _call("fastbn_batch_norm_forward", results, *operands, **attributes)
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
    rows, channels = x.size // x.shape[-1], x.shape[-1]
    results = (_like(rows, channels), _like(channels), _like(channels), _like(0 if added is None else rows, channels))
    attributes = {"epsilon": np.float64(epsilon), "activation": np.int64(ACTIVATIONS[activation])}
    matrices = [array.reshape(rows, channels) for array in (dy, x, y)]
    operands = (matrices[0], matrices[1], gamma, beta, statistics, matrices[2])
    dx, dgamma, dbeta, dresidual = _call("fastbn_batch_norm_backward", results, *operands, **attributes)
    return dx.reshape(x.shape), dgamma, dbeta, None if added is None else dresidual.reshape(x.shape)


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)
