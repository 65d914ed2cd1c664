"""Activations and dropout, forward and backward, over arrays of any shape."""

from __future__ import annotations

import math

import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import Float32, any_integer, as_float32, number, require_shape, reshaped, result
from fastbn.ops._options import Activation, activation_code


def _matrix_shape(op: str, shape: tuple[int, ...], code: int) -> tuple[int, int]:
    if code == _core.SOFTMAX and (not shape or shape[-1] == 0):
        raise ValueError(f"{op}: softmax needs a last axis that is not empty. Received: x.shape={shape}")
    columns = shape[-1] if shape else 1
    return math.prod(shape[:-1]), columns


def activation_forward(
    x: npt.ArrayLike, name: Activation, *, alpha: float = 0.2, out: Float32 | None = None
) -> Float32:
    """y = name(x), elementwise; softmax is over the last axis.

    relu: max(x, 0). leaky_relu: x above zero, alpha x below. sigmoid: 1 / (1 + e^-x). tanh.
    softmax: e^(x - max x) / sum e^(x - max x). NaN stays NaN. out may be x itself.

    Raises ValueError for an unknown name, TypeError for arrays that are not of real numbers.
    """
    op = "activation_forward"
    xs = as_float32(op, "x", x)
    code = activation_code(op, name, softmax=True)
    alpha = number(op, "alpha", alpha)
    shape = _matrix_shape(op, xs.shape, code)
    y = result(op, out, xs.shape, (x,), in_place=x)
    _core.activation_forward(reshaped(xs, shape), reshaped(y, shape), code, alpha)
    return y


def activation_backward(
    dy: npt.ArrayLike,
    y: npt.ArrayLike,
    name: Activation,
    *,
    alpha: float = 0.2,
    out: Float32 | None = None,
) -> Float32:
    """dx of `activation_forward`, from its result y.

    relu: dy where y > 0. leaky_relu: dy, or alpha dy where y < 0. sigmoid: dy y (1 - y). tanh: dy (1 - y^2).
    softmax: y (dy - sum dy y). out may be dy itself.

    Raises ValueError for an unknown name or other shapes, TypeError for arrays that are not of real numbers.
    """
    op = "activation_backward"
    dys, ys = as_float32(op, "dy", dy), as_float32(op, "y", y)
    require_shape(op, "y", ys, dys.shape)
    code = activation_code(op, name, softmax=True)
    alpha = number(op, "alpha", alpha)
    shape = _matrix_shape(op, dys.shape, code)
    dx = result(op, out, dys.shape, (dy, y), in_place=dy)
    _core.activation_backward(reshaped(dys, shape), reshaped(ys, shape), reshaped(dx, shape), code, alpha)
    return dx


def _seed(op: str, seed: int) -> int:
    drawn = any_integer(op, "seed", seed)
    if not 0 <= drawn < 2**64:
        raise ValueError(f"{op}: seed must lie in [0, 2^64). Received: {drawn}")
    return drawn


def dropout_forward(x: npt.ArrayLike, rate: float, seed: int, *, out: Float32 | None = None) -> Float32:
    """y[i] = x[i] / (1 - rate) with probability 1 - rate, else 0; rate 1 gives zeros.

    Which elements stay is decided by `seed` and the element's place alone: the same call gives the same mask on any
    number of threads, and the backward function needs no mask. The probability is that of a 32-bit threshold, within
    2^-33 of 1 - rate; the numbers are those of Philox4x32-7 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
    3", SC 2011).

    Raises ValueError for a rate outside [0, 1], TypeError for arrays that are not of real numbers.
    """
    op = "dropout_forward"
    xs = as_float32(op, "x", x)
    y = result(op, out, xs.shape, (x,))
    _core.dropout_forward(xs.reshape(xs.size), y.reshape(xs.size), number(op, "rate", rate), _seed(op, seed))
    return y


def dropout_backward(dy: npt.ArrayLike, rate: float, seed: int, *, out: Float32 | None = None) -> Float32:
    """dx of `dropout_forward` with the same rate and seed: the same function of dy.

    Raises ValueError for a rate outside [0, 1], TypeError for arrays that are not of real numbers.
    """
    op = "dropout_backward"
    dys = as_float32(op, "dy", dy)
    dx = result(op, out, dys.shape, (dy,))
    _core.dropout_backward(dys.reshape(dys.size), dx.reshape(dys.size), number(op, "rate", rate), _seed(op, seed))
    return dx
