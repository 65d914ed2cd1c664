"""Softmax cross-entropy on logits and mean squared error, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import (
    FLOAT32,
    INT32,
    Float32,
    all_results,
    as_array,
    as_float32,
    class_numbers,
    number,
    require_shape,
    reshaped,
    result,
)


def _labels(op: str, labels: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Class numbers as int32 (rows,), or probabilities as float32 (rows, classes)."""
    array = as_array(op, "labels", labels)
    rows = math.prod(shape[:-1])
    if array.shape == shape:
        return as_float32(op, "labels", array).reshape(rows, shape[-1])
    if array.shape == shape[:-1]:
        if array.dtype.kind not in "iu":
            raise TypeError(f"{op}: class numbers must be integers. Received: labels of dtype {array.dtype}")
        if not _core.is_plain(array, INT32):  # the kernels refuse what is out of range
            array = class_numbers(op, array, shape[-1])
        return reshaped(array, (rows,))
    raise ValueError(
        f"{op}: labels must be class numbers of shape {shape[:-1]} or probabilities of shape {shape}. "
        f"Received: labels.shape={array.shape}"
    )


def _rows(op: str, name: str, value: npt.ArrayLike) -> tuple[Float32, tuple[int, int]]:
    array = as_float32(op, name, value)
    if array.ndim < 2 or array.shape[-1] == 0:
        raise ValueError(f"{op}: {name} must have shape (..., classes). Received: {name}.shape={array.shape}")
    return array, (math.prod(array.shape[:-1]), array.shape[-1])


def softmax_cross_entropy_forward(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    out: Sequence[Float32 | None] | None = None,
) -> tuple[Float32, Float32]:
    """Cross-entropy of softmax(logits) against labels; returns the loss of each sample and the probabilities.

    loss = -sum_k t[k] log softmax(logits)[k], computed stably from the logits (no clipping of probabilities).
    labels: class numbers (one integer a sample) or probabilities t, one-hot for instance. out: (loss, probabilities).

    Raises ValueError for shapes that do not fit or classes out of range, TypeError for arrays of other dtypes.
    """
    op = "softmax_cross_entropy_forward"
    zs, shape = _rows(op, "logits", logits)
    ts = _labels(op, labels, zs.shape)
    loss, probabilities = all_results(op, out, [(zs.shape[:-1], FLOAT32), (zs.shape, FLOAT32)], (logits, labels))
    _core.softmax_cross_entropy_forward(reshaped(zs, shape), ts, loss.reshape(shape[0]), reshaped(probabilities, shape))
    return loss, probabilities


def softmax_cross_entropy_backward(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    scale: float = 1.0,
    *,
    out: Float32 | None = None,
) -> Float32:
    """dlogits = (p sum_k t[k] - t) scale; scale is 1 / samples where the loss is the mean over samples.

    Raises ValueError for shapes that do not fit or classes out of range, TypeError for arrays of other dtypes.
    """
    op = "softmax_cross_entropy_backward"
    ps, shape = _rows(op, "probabilities", probabilities)
    ts = _labels(op, labels, ps.shape)
    scale = number(op, "scale", scale)
    dlogits = result(op, out, ps.shape, (probabilities, labels))
    _core.softmax_cross_entropy_backward(reshaped(ps, shape), ts, reshaped(dlogits, shape), scale)
    return dlogits


def mean_squared_error_forward(
    predictions: npt.ArrayLike, targets: npt.ArrayLike, *, out: Float32 | None = None
) -> Float32:
    """loss = mean_k (p[k] - t[k])^2 over the last axis, one value a sample.

    Raises ValueError for shapes that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "mean_squared_error_forward"
    ps, shape = _rows(op, "predictions", predictions)
    ts = as_float32(op, "targets", targets)
    require_shape(op, "targets", ts, ps.shape)
    loss = result(op, out, ps.shape[:-1], (predictions, targets))
    _core.mean_squared_error_forward(reshaped(ps, shape), reshaped(ts, shape), loss.reshape(shape[0]))
    return loss


def mean_squared_error_backward(
    predictions: npt.ArrayLike,
    targets: npt.ArrayLike,
    scale: float = 1.0,
    *,
    out: Float32 | None = None,
) -> Float32:
    """dpredictions = 2 (p - t) / columns scale; scale is 1 / samples where the loss is the mean over samples.

    Raises ValueError for shapes that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "mean_squared_error_backward"
    ps, shape = _rows(op, "predictions", predictions)
    ts = as_float32(op, "targets", targets)
    require_shape(op, "targets", ts, ps.shape)
    scale = number(op, "scale", scale)
    dpredictions = result(op, out, ps.shape, (predictions, targets))
    _core.mean_squared_error_backward(
        reshaped(ps, shape), reshaped(ts, shape), reshaped(dpredictions, shape), number(op, "scale", scale)
    )
    return dpredictions
