"""Max, average and global average pooling of images, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import (
    FLOAT32,
    INT32,
    Float32,
    Shape,
    all_results,
    as_array,
    as_float32,
    four_sizes,
    pair,
    require_rank,
    require_shape,
    result,
)
from fastbn.ops._options import (
    DataFormat,
    Padding,
    first_shape,
    is_channels_first,
    on_behalf,
    remembered,
    resolve_padding,
    to_first,
    to_last,
)

Index = npt.NDArray[Any]
_INDEX, _WIDE_INDEX = np.dtype(np.uint8), INT32


def _geometry(op: str, pool_size: Any, strides: Any, padding: Any) -> dict[str, Any]:
    size = pair(op, "pool_size", pool_size)
    kind, pads = resolve_padding(op, padding)
    return {
        "pool_size": size,
        "strides": size if strides is None else pair(op, "strides", strides),
        "padding": kind,
        "pads": pads,
    }


def _planned(op: str, x: Shape, pool_size: Any, strides: Any, padding: Any) -> tuple[dict[str, Any], Shape, bool]:
    """The geometry, the shape of the result, and whether indices need more than a byte."""
    geometry = _geometry(op, pool_size, strides, padding)
    extents, wide = on_behalf(op, _core.pool2d_output_shape, x, **geometry)
    return geometry, tuple(extents), bool(wide)


def _images(op: str, name: str, value: npt.ArrayLike, first: bool) -> Float32:
    array = as_float32(op, name, value)
    require_rank(op, name, array, 4)
    return to_last(array) if first else array


def _x_shape(op: str, x_shape: Sequence[int], first: bool) -> Shape:
    """The channels_last shape of the forward function's input."""
    shape = four_sizes(op, "x_shape", x_shape)
    return (shape[0], shape[2], shape[3], shape[1]) if first else shape


def _result(op: str, out: Any, shape: Shape, first: bool, inputs: Sequence[Any]) -> tuple[Float32, Float32]:
    """The array for a channels_last result of this shape as the caller sees it, and the one to compute it in."""
    array = result(op, out, first_shape(shape) if first else shape, inputs)
    return array, (result(op, None, shape, ()) if first else array)


def _finish(array: Float32, target: Float32) -> Float32:
    if target is not array:
        array[...] = to_first(target)
    return array


def max_pool2d_forward(
    x: npt.ArrayLike,
    pool_size: int | Sequence[int] = 2,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    *,
    data_format: DataFormat = "channels_last",
    out: Sequence[npt.NDArray[Any] | None] | None = None,
) -> tuple[Float32, Index]:
    """The maximum of each window; returns y and the index of the maximum in its window.

    index = ky * pool_width + kx of the first maximum in row-major order, uint8 for windows of up to 256 cells, else
    int32; `max_pool2d_backward` takes it. NaN wins, padding never does. strides None: the pool size.
    out: (y, index), each an array or None.

    Raises ValueError for shapes or options that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "max_pool2d_forward"
    first = is_channels_first(op, data_format)
    xs = _images(op, "x", x, first)
    geometry, shape, wide = remembered(_planned, op, xs.shape, options=(pool_size, strides, padding))
    outer = first_shape(shape) if first else shape
    index_dtype = _WIDE_INDEX if wide else _INDEX
    y, index = all_results(op, out, [(outer, FLOAT32), (outer, index_dtype)], (x,))
    if first:
        y_last, index_last = np.empty(shape, np.float32), np.empty(shape, index_dtype)
        _core.max_pool2d_forward(xs, y_last, index_last, **geometry)
        y[...] = to_first(y_last)
        index[...] = to_first(index_last)
    else:
        _core.max_pool2d_forward(xs, y, index, **geometry)
    return y, index


def max_pool2d_backward(
    dy: npt.ArrayLike,
    index: npt.ArrayLike,
    x_shape: Sequence[int],
    pool_size: int | Sequence[int] = 2,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    *,
    data_format: DataFormat = "channels_last",
    out: Float32 | None = None,
) -> Float32:
    """dx of `max_pool2d_forward`: each dy goes to the cell that its window's index names, summed where windows overlap.

    An index that names no cell of the window, or one outside the image, contributes nothing.

    Raises ValueError for shapes or options that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "max_pool2d_backward"
    first = is_channels_first(op, data_format)
    shape = _x_shape(op, x_shape, first)
    geometry, extents, wide = remembered(_planned, op, shape, options=(pool_size, strides, padding))
    dys = _images(op, "dy", dy, first)
    chosen = as_array(op, "index", index)
    require_rank(op, "index", chosen, 4)
    dtype = _WIDE_INDEX if wide else _INDEX
    if chosen.dtype != dtype:
        raise TypeError(f"{op}: index must have dtype {dtype} for this window. Received: dtype {chosen.dtype}")
    chosen = to_last(chosen) if first else np.ascontiguousarray(chosen)
    require_shape(op, "dy", dys, extents)
    require_shape(op, "index", chosen, extents)
    dx, target = _result(op, out, shape, first, (dy, index))
    _core.max_pool2d_backward(dys, chosen, target, **geometry)
    return _finish(dx, target)


def avg_pool2d_forward(
    x: npt.ArrayLike,
    pool_size: int | Sequence[int] = 2,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    *,
    data_format: DataFormat = "channels_last",
    out: Float32 | None = None,
) -> Float32:
    """The average of each window over its cells inside the image (padding does not count, as Keras).

    Raises ValueError for shapes or options that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "avg_pool2d_forward"
    first = is_channels_first(op, data_format)
    xs = _images(op, "x", x, first)
    geometry, shape, _ = remembered(_planned, op, xs.shape, options=(pool_size, strides, padding))
    y, target = _result(op, out, shape, first, (x,))
    _core.avg_pool2d_forward(xs, target, **geometry)
    return _finish(y, target)


def avg_pool2d_backward(
    dy: npt.ArrayLike,
    x_shape: Sequence[int],
    pool_size: int | Sequence[int] = 2,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    *,
    data_format: DataFormat = "channels_last",
    out: Float32 | None = None,
) -> Float32:
    """dx of `avg_pool2d_forward`: each dy is shared evenly by the cells of its window inside the image.

    Raises ValueError for shapes or options that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "avg_pool2d_backward"
    first = is_channels_first(op, data_format)
    shape = _x_shape(op, x_shape, first)
    geometry, extents, _ = remembered(_planned, op, shape, options=(pool_size, strides, padding))
    dys = _images(op, "dy", dy, first)
    require_shape(op, "dy", dys, extents)
    dx, target = _result(op, out, shape, first, (dy,))
    _core.avg_pool2d_backward(dys, target, **geometry)
    return _finish(dx, target)


def global_avg_pool2d_forward(
    x: npt.ArrayLike, *, data_format: DataFormat = "channels_last", out: Float32 | None = None
) -> Float32:
    """The average over all pixels: (N, H, W, C) -> (N, C).

    Raises ValueError for other ranks, TypeError for arrays that are not of real numbers.
    """
    op = "global_avg_pool2d_forward"
    xs = _images(op, "x", x, is_channels_first(op, data_format))
    y = result(op, out, (xs.shape[0], xs.shape[3]), (x,))
    _core.global_avg_pool2d_forward(xs, y)
    return y


def global_avg_pool2d_backward(
    dy: npt.ArrayLike,
    x_shape: Sequence[int],
    *,
    data_format: DataFormat = "channels_last",
    out: Float32 | None = None,
) -> Float32:
    """dx of `global_avg_pool2d_forward`: dy / pixels everywhere.

    Raises ValueError for shapes that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "global_avg_pool2d_backward"
    first = is_channels_first(op, data_format)
    shape = _x_shape(op, x_shape, first)
    dys = as_float32(op, "dy", dy)
    require_shape(op, "dy", dys, (shape[0], shape[3]))
    dx, target = _result(op, out, shape, first, (dy,))
    _core.global_avg_pool2d_backward(dys, target)
    return _finish(dx, target)
