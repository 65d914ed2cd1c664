"""Dense (fully connected) layers over the last axis, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import (
    FLOAT32,
    Float32,
    as_float32,
    number,
    optional_float32,
    require_rank,
    require_shape,
    reshaped,
    result,
    results,
)
from fastbn.ops._options import Activation, Need, activation_code, check_need


def _operands(op: str, x: npt.ArrayLike, kernel: npt.ArrayLike) -> tuple[Float32, Float32, int]:
    xs, ks = as_float32(op, "x", x), as_float32(op, "kernel", kernel)
    if xs.ndim < 2:
        raise ValueError(f"{op}: x must have rank 2 or more. Received: x.shape={xs.shape}")
    require_rank(op, "kernel", ks, 2)
    if xs.shape[-1] != ks.shape[0]:
        raise ValueError(
            f"{op}: the last axis of x must be as long as the first of kernel. "
            f"Received: x.shape={xs.shape}, kernel.shape={ks.shape}"
        )
    return xs, ks, math.prod(xs.shape[:-1])


def dense_forward(
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    activation: Activation = None,
    alpha: float = 0.2,
    out: Float32 | None = None,
) -> Float32:
    """y = act(x kernel + bias) over the last axis of x.

    x: (..., in), kernel: (in, out), bias: (out,), y: (..., out); alpha: slope of leaky_relu below zero.

    Raises ValueError for shapes that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "dense_forward"
    xs, ks, rows = _operands(op, x, kernel)
    bs = optional_float32(op, "bias", bias)
    code = activation_code(op, activation)
    alpha = number(op, "alpha", alpha)
    require_shape(op, "bias", bs, ks.shape[1:])
    y = result(op, out, xs.shape[:-1] + ks.shape[1:], (x, kernel, bias))
    fan_in, fan_out = ks.shape
    _core.dense_forward(reshaped(xs, (rows, fan_in)), ks, bs, reshaped(y, (rows, fan_out)), code, alpha)
    return y


def dense_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    *,
    y: npt.ArrayLike | None = None,
    activation: Activation = None,
    alpha: float = 0.2,
    need: Need = ("x", "kernel", "bias"),
    out: Sequence[Float32 | None] | None = None,
) -> tuple[Float32 | None, Float32 | None, Float32 | None]:
    """Gradients (dx, dkernel, dbias) of `dense_forward`; None for those that `need` does not name.

    With dy' = dy act'(y) and rows as the leading axes:  dx = dy' kernel^T, dkernel = x^T dy', dbias = sum_rows dy'.

    y: the forward result, wanted where there is an activation. out: (dx, dkernel, dbias), each an array or None.

    Raises ValueError for shapes that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "dense_backward"
    check_need(op, need)
    xs, ks, rows = _operands(op, x, kernel)
    dys, ys = as_float32(op, "dy", dy), optional_float32(op, "y", y)
    code = activation_code(op, activation)
    alpha = number(op, "alpha", alpha)
    if code != _core.LINEAR and ys is None:
        raise ValueError(f"{op}: y is needed where there is an activation. Received: y=None, activation={activation!r}")
    shape = xs.shape[:-1] + ks.shape[1:]
    require_shape(op, "dy", dys, shape)
    require_shape(op, "y", ys, shape)
    wanted = [
        (xs.shape, FLOAT32) if "x" in need else None,
        (ks.shape, FLOAT32) if "kernel" in need else None,
        (ks.shape[1:], FLOAT32) if "bias" in need else None,
    ]
    dx, dkernel, dbias = results(op, out, wanted, (dy, x, kernel, y))
    fan_in, fan_out = ks.shape
    _core.dense_backward(
        reshaped(dys, (rows, fan_out)),
        reshaped(xs, (rows, fan_in)),
        ks,
        None if ys is None else reshaped(ys, (rows, fan_out)),
        None if dx is None else reshaped(dx, (rows, fan_in)),
        dkernel,
        dbias,
        code,
        alpha,
    )
    return dx, dkernel, dbias
