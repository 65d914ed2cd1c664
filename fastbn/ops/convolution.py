"""2-D convolution, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import (
    FLOAT32,
    Float32,
    Shape,
    as_float32,
    four_sizes,
    integer,
    number,
    optional_float32,
    pair,
    require_rank,
    require_shape,
    result,
    results,
)
from fastbn.ops._options import (
    Activation,
    DataFormat,
    Need,
    Padding,
    activation_code,
    algorithm_code,
    check_need,
    first_shape,
    is_channels_first,
    on_behalf,
    remembered,
    resolve_padding,
    to_first,
    to_last,
)


def _geometry(operation: str, strides: Any, padding: Any, dilation: Any, groups: Any) -> dict[str, Any]:
    kind, pads = resolve_padding(operation, padding)
    parts = integer(operation, "groups", groups)
    if parts < 1:
        raise ValueError(f"{operation}: groups must be at least 1. Received: groups={parts}")
    return {
        "strides": pair(operation, "strides", strides),
        "dilation": pair(operation, "dilation", dilation),
        "groups": parts,
        "padding": kind,
        "pads": pads,
    }


def _planned(
    operation: str, x: Shape, kernel: Shape, strides: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[dict[str, Any], Shape]:
    """The geometry, and the shape of the result."""
    geometry = _geometry(operation, strides, padding, dilation, groups)
    return geometry, tuple(on_behalf(operation, _core.conv2d_output_shape, x, kernel, **geometry))


def _images(operation: str, name: str, value: npt.ArrayLike, first: bool) -> Float32:
    array = as_float32(operation, name, value)
    require_rank(operation, name, array, 4)
    return to_last(array) if first else array


class Algorithm(NamedTuple):
    """The kernel that a pass of a convolution gets, its register tile, and why no other."""

    name: str
    reason: str


def conv2d_algorithm(
    x_shape: Sequence[int],
    kernel_shape: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    data_format: DataFormat = "channels_last",
    algorithm: str = "auto",
) -> dict[str, Algorithm]:
    """The kernels that a convolution of these shapes gets: of "forward", "backward_data" and "backward_filter".

    "direct", "pointwise" (direct, 1x1), "depthwise", "narrow" (few channels), "winograd4" or "winograd2". They depend
    on the shapes, the options and the instruction set alone; the batch, x_shape[0], plays no part.

    Raises ValueError for shapes or options that do not fit.
    """
    op = "conv2d_algorithm"
    x, kernel = four_sizes(op, "x_shape", x_shape), four_sizes(op, "kernel_shape", kernel_shape)
    if is_channels_first(op, data_format):
        x = x[0], x[2], x[3], x[1]
    geometry = _geometry(op, strides, padding, dilation, groups)
    plan = algorithm_code(op, algorithm)
    return {
        name: Algorithm(*on_behalf(op, _core.conv2d_algorithm, x, kernel, **geometry, algorithm=plan, pass_=i))
        for i, name in enumerate(("forward", "backward_data", "backward_filter"))
    }


def conv2d_forward(
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    activation: Activation = None,
    alpha: float = 0.2,
    data_format: DataFormat = "channels_last",
    algorithm: str = "auto",
    out: Float32 | None = None,
) -> Float32:
    """2-D convolution (cross-correlation, as every framework), with bias and activation.

    y[n, oy, ox, o] = act(bias[o] + sum_{ky, kx, c} x[n, oy s + ky d - pad, ox s + kx d - pad, c] kernel[ky, kx, c, o])

    x: (N, H, W, C), kernel: (KH, KW, C / groups, O), bias: (O,), y: (N, OH, OW, O); with "channels_first" x and y are
    (N, C, H, W) and the kernel keeps its order. padding: "valid", "same" (Keras: ceil(H / stride) rows, the odd row of
    padding below) or ((top, bottom), (left, right)). alpha: slope of leaky_relu below zero.
    algorithm: "auto" takes the fastest, "direct" the one with the smallest rounding errors.

    Raises ValueError for shapes or options that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "conv2d_forward"
    first = is_channels_first(op, data_format)
    xs, ks = _images(op, "x", x, first), as_float32(op, "kernel", kernel)
    bs = optional_float32(op, "bias", bias)
    require_rank(op, "kernel", ks, 4)
    geometry, shape = remembered(_planned, op, xs.shape, ks.shape, options=(strides, padding, dilation, groups))
    code, plan = activation_code(op, activation), algorithm_code(op, algorithm)
    alpha = number(op, "alpha", alpha)
    y = result(op, out, first_shape(shape) if first else shape, (x, kernel, bias))
    target = result(op, None, shape, ()) if first else y
    _core.conv2d_forward(xs, ks, bs, target, **geometry, activation=code, alpha=alpha, algorithm=plan)
    if first:
        y[...] = to_first(target)
    return y


def conv2d_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    y: npt.ArrayLike | None = None,
    activation: Activation = None,
    alpha: float = 0.2,
    need: Need = ("x", "kernel", "bias"),
    data_format: DataFormat = "channels_last",
    algorithm: str = "auto",
    out: Sequence[Float32 | None] | None = None,
) -> tuple[Float32 | None, Float32 | None, Float32 | None]:
    """Gradients (dx, dkernel, dbias) of `conv2d_forward`; None for those that `need` does not name.

    With dy' = dy act'(y):  dx = the transposed convolution of dy' with the kernel,
    dkernel[ky, kx, c, o] = sum_{n, oy, ox} x[n, oy s + ky d - pad, ox s + kx d - pad, c] dy'[n, oy, ox, o],
    dbias[o] = sum_{n, oy, ox} dy'[n, oy, ox, o].

    y: the forward result, wanted where there is an activation. out: (dx, dkernel, dbias), each an array or None.

    Raises ValueError for shapes or options that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "conv2d_backward"
    first = is_channels_first(op, data_format)
    check_need(op, need)
    xs, ks = _images(op, "x", x, first), as_float32(op, "kernel", kernel)
    require_rank(op, "kernel", ks, 4)
    geometry, shape = remembered(_planned, op, xs.shape, ks.shape, options=(strides, padding, dilation, groups))
    code, plan = activation_code(op, activation), algorithm_code(op, algorithm)
    alpha = number(op, "alpha", alpha)
    dys = _images(op, "dy", dy, first)
    ys = None if y is None else _images(op, "y", y, first)
    if code != _core.LINEAR and ys is None:
        raise ValueError(f"{op}: y is needed where there is an activation. Received: y=None, activation={activation!r}")
    require_shape(op, "dy", dys, shape)
    require_shape(op, "y", ys, shape)
    wanted = [
        (first_shape(xs.shape) if first else xs.shape, FLOAT32) if "x" in need else None,
        (ks.shape, FLOAT32) if "kernel" in need else None,
        (ks.shape[3:], FLOAT32) if "bias" in need else None,
    ]
    dx, dkernel, dbias = results(op, out, wanted, (dy, x, kernel, y))
    target = result(op, None, xs.shape, ()) if first and dx is not None else dx
    _core.conv2d_backward(
        dys,
        xs,
        ks,
        ys,
        target,
        dkernel,
        dbias,
        **geometry,
        activation=code,
        alpha=alpha,
        algorithm=plan,
    )
    if first and dx is not None and target is not None:
        dx[...] = to_first(target)
    return dx, dkernel, dbias
