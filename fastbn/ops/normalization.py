"""Batch normalisation over any axis: training, inference, backward, and split-phase statistics.

Statistics are biased (divided by the count) as in Keras, and float64. Activation and residual addition are fused.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import (
    FLOAT32,
    FLOAT64,
    Float32,
    Float64,
    Shape,
    all_results,
    allocate,
    as_array,
    as_float32,
    as_float64,
    integer,
    number,
    optional_float32,
    require_shape,
    result,
    results,
)
from fastbn.ops._options import Activation, activation_code


class _Axis:
    """How an array with its channels at `axis` is seen as a (rows, channels) matrix."""

    def __init__(self, operation: str, shape: Shape, axis: int) -> None:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"{operation}: axis must name an axis of x. Received: axis={axis}, x.shape={shape}")
        self.operation = operation
        self.shape = shape
        self.axis = axis % len(shape)
        self.last = self.axis == len(shape) - 1
        self.is_matrix = self.last and len(shape) == 2
        self.channels = shape[self.axis]
        self.moved = (*shape[: self.axis], *shape[self.axis + 1 :], self.channels)
        self.matrix_shape = (math.prod(self.moved[:-1]), self.channels)

    def matrix(self, array: Float32) -> Float32:
        if self.is_matrix:
            return array
        moved = array if self.last else np.ascontiguousarray(np.moveaxis(array, self.axis, -1))
        return moved.reshape(self.matrix_shape)

    def take(self, name: str, value: npt.ArrayLike | None) -> Float32 | None:
        """An operand of x's shape as a matrix."""
        if value is None:
            return None
        array = as_float32(self.operation, name, value)
        require_shape(self.operation, name, array, self.shape)
        return self.matrix(array)

    def target(self, array: Float32 | None) -> Float32 | None:
        """The matrix that a result of x's shape is computed into."""
        if array is None or self.is_matrix:
            return array
        return array.reshape(self.matrix_shape) if self.last else allocate(self.operation, self.matrix_shape, FLOAT32)

    def finish(self, array: Float32 | None, target: Float32 | None) -> None:
        if array is not None and target is not None and not self.last:
            array[...] = np.moveaxis(target.reshape(self.moved), -1, self.axis)

    def vector(self, name: str, value: npt.ArrayLike | None) -> Float32 | None:
        array = optional_float32(self.operation, name, value)
        require_shape(self.operation, name, array, (self.channels,))
        return array

    def statistic(self, name: str, value: npt.ArrayLike) -> Float64:
        array = as_float64(self.operation, name, value)
        require_shape(self.operation, name, array, (self.channels,))
        return array


_view = functools.lru_cache(maxsize=256)(_Axis)  # a microsecond for each call of a small layer


def _begin(operation: str, x: npt.ArrayLike, axis: Any) -> tuple[_Axis, Float32]:
    array = as_float32(operation, "x", x)
    if array.ndim < 2:
        raise ValueError(f"{operation}: x must have rank 2 or more. Received: x.shape={array.shape}")
    view = _view(operation, array.shape, integer(operation, "axis", axis))
    return view, view.matrix(array)


def batch_norm_forward(
    x: npt.ArrayLike,
    gamma: npt.ArrayLike | None = None,
    beta: npt.ArrayLike | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-3,
    activation: Activation = None,
    alpha: float = 0.2,
    residual: npt.ArrayLike | None = None,
    out: Sequence[npt.NDArray[Any] | None] | None = None,
) -> tuple[Float32, Float64, Float64]:
    """Normalise with the statistics of the batch; returns y, mean, variance.

    y = act((x - mean) / sqrt(variance + epsilon) gamma + beta + residual)

    mean and variance are taken over all axes but `axis`, biased, float64, of shape (C,); gamma None means ones, beta
    None zeros. x: any rank of 2 or more; y and residual: its shape. out: (y, mean, variance), each an array or None.

    Raises ValueError for shapes that do not fit or no rows, TypeError for arrays that are not of real numbers.
    """
    op = "batch_norm_forward"
    view, xs = _begin(op, x, axis)
    gs, bs, rs = view.vector("gamma", gamma), view.vector("beta", beta), view.take("residual", residual)
    code = activation_code(op, activation)
    epsilon, alpha = number(op, "epsilon", epsilon), number(op, "alpha", alpha)
    wanted = [(view.shape, FLOAT32), ((view.channels,), FLOAT64), ((view.channels,), FLOAT64)]
    y, mean, variance = all_results(op, out, wanted, (x, gamma, beta, residual))
    target = view.target(y)
    _core.batch_norm_forward(xs, gs, bs, rs, target, mean, variance, epsilon, code, alpha)
    view.finish(y, target)
    return y, mean, variance


def batch_norm_inference(
    x: npt.ArrayLike,
    gamma: npt.ArrayLike | None,
    beta: npt.ArrayLike | None,
    moving_mean: npt.ArrayLike,
    moving_variance: npt.ArrayLike,
    *,
    axis: int = -1,
    epsilon: float = 1e-3,
    activation: Activation = None,
    alpha: float = 0.2,
    residual: npt.ArrayLike | None = None,
    out: Float32 | None = None,
) -> Float32:
    """Normalise with given statistics.

    y = act((x - moving_mean) / sqrt(moving_variance + epsilon) gamma + beta + residual)

    moving_variance must not be negative: y is NaN where moving_variance + epsilon is below zero.

    Raises ValueError for shapes that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "batch_norm_inference"
    view, xs = _begin(op, x, axis)
    gs, bs, rs = view.vector("gamma", gamma), view.vector("beta", beta), view.take("residual", residual)
    ms, vs = view.statistic("moving_mean", moving_mean), view.statistic("moving_variance", moving_variance)
    code = activation_code(op, activation)
    epsilon, alpha = number(op, "epsilon", epsilon), number(op, "alpha", alpha)
    y = result(op, out, view.shape, (x, gamma, beta, moving_mean, moving_variance, residual))
    target = view.target(y)
    _core.batch_norm_inference(xs, gs, bs, ms, vs, rs, target, epsilon, code, alpha)
    view.finish(y, target)
    return y


def _total_rows(op: str, view: _Axis, total_rows: Any) -> int:
    return view.matrix_shape[0] if total_rows is None else integer(op, "total_rows", total_rows)


class _Backward:
    """The operands that all three backward functions take, as the kernels want them."""

    def __init__(
        self,
        op: str,
        dy: npt.ArrayLike,
        x: npt.ArrayLike,
        gamma: npt.ArrayLike | None,
        mean: npt.ArrayLike,
        variance: npt.ArrayLike,
        beta: npt.ArrayLike | None,
        axis: int,
        epsilon: float,
        y: npt.ArrayLike | None,
        activation: Activation,
        alpha: float,
        residual: bool,
    ) -> None:
        self.view, xs = _begin(op, x, axis)
        dys, ys = self.view.take("dy", dy), self.view.take("y", y)
        gs, bs = self.view.vector("gamma", gamma), self.view.vector("beta", beta)
        ms, vs = self.view.statistic("mean", mean), self.view.statistic("variance", variance)
        code = activation_code(op, activation)
        self.arrays = (dys, xs, gs, bs, ms, vs, ys)
        self.options = (number(op, "epsilon", epsilon), code, number(op, "alpha", alpha), bool(residual))
        if code != _core.LINEAR and y is None and (beta is None or residual):
            raise ValueError(
                f"{op}: with an activation y is needed, or beta where nothing was added. "
                f"Received: activation={activation!r}, y=None, beta={'None' if beta is None else 'an array'}, "
                f"residual={residual}"
            )


def batch_norm_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    gamma: npt.ArrayLike | None,
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    *,
    beta: npt.ArrayLike | None = None,
    axis: int = -1,
    epsilon: float = 1e-3,
    y: npt.ArrayLike | None = None,
    activation: Activation = None,
    alpha: float = 0.2,
    residual: bool = False,
    frozen: bool = False,
    out: Sequence[Float32 | None] | None = None,
) -> tuple[Float32, ...]:
    """Gradients (dx, dgamma, dbeta) of `batch_norm_forward`, and dresidual as a fourth where `residual` is true.

    With dy' = dy act'(y), xc = x - mean, r = 1 / sqrt(variance + epsilon) and n rows:
    dbeta = sum dy', dgamma = r sum dy' xc, dx = gamma r (dy' - dbeta / n - xc r dgamma / n), dresidual = dy'.
    frozen: mean and variance are constants (inference statistics), and dx = gamma r dy'.

    With an activation y (the forward result) is needed, or beta where no residual was added.
    out: one array or None for each gradient.

    Raises ValueError for shapes that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "batch_norm_backward"
    b = _Backward(op, dy, x, gamma, mean, variance, beta, axis, epsilon, y, activation, alpha, residual)
    view = b.view
    vector = ((view.channels,), FLOAT32)
    wanted = [(view.shape, FLOAT32), vector, vector] + [(view.shape, FLOAT32)] * bool(residual)
    arrays = results(op, out, wanted, (dy, x, gamma, mean, variance, beta, y))
    dx, dgamma, dbeta = arrays[:3]
    dresidual = arrays[3] if residual else None
    to_x, to_residual = view.target(dx), view.target(dresidual)
    _core.batch_norm_backward(*b.arrays, to_x, dgamma, dbeta, to_residual, *b.options, bool(frozen))
    view.finish(dx, to_x)
    view.finish(dresidual, to_residual)
    return tuple(array for array in arrays if array is not None)


def batch_norm_chunk_rows(total_rows: int, channels: int) -> int:
    """Rows of one chunk of a batch of `total_rows` rows: the sums of a batch are the sums of its chunks, merged.

    Shards of 1, 2, 4, ... chunks each (the last may be shorter) give the bits of the whole batch; see
    `batch_norm_partial`. Raises ValueError for sizes that are none.
    """
    op = "batch_norm_chunk_rows"
    return _core.batch_norm_chunk_rows(integer(op, "total_rows", total_rows), integer(op, "channels", channels))


def batch_norm_partial(
    x: npt.ArrayLike, *, total_rows: int | None = None, axis: int = -1
) -> tuple[int, Float64, Float64]:
    """Statistics of one shard of a batch, for `batch_norm_merge`: count, mean, m2 = sum (x - mean)^2 per channel.

    total_rows: rows of the whole batch (all axes but `axis`), of which x is one shard; it decides how sums are cut into
    chunks. None: x alone. The merged statistics are those of the whole batch within rounding, and bit for bit where
    every shard is 1, 2, 4, ... chunks (`batch_norm_chunk_rows`) of it and the last one what is left.

    Raises ValueError for fewer rows in total than in x, TypeError for arrays that are not of real numbers.
    """
    op = "batch_norm_partial"
    view, xs = _begin(op, x, axis)
    rows = _total_rows(op, view, total_rows)
    mean, m2 = np.empty(view.channels), np.empty(view.channels)
    _core.batch_norm_partial(xs, rows, mean, m2)
    return view.matrix_shape[0], mean, m2


def batch_norm_merge(counts: npt.ArrayLike, means: npt.ArrayLike, m2s: npt.ArrayLike) -> tuple[Float64, Float64]:
    """Mean and biased variance of a whole batch from its shards, merged pairwise in the order given (Chan et al. 1979).

    counts: (shards,) integers; means, m2s: (shards, C), one row per result of `batch_norm_partial`. Shards without rows
    count for nothing.

    Raises ValueError for shapes that do not fit or no rows, TypeError for counts that are not integers.
    """
    op = "batch_norm_merge"
    ns = as_array(op, "counts", counts)
    if not ns.size:
        raise ValueError(f"{op}: there must be shards. Received: counts.shape={ns.shape}")
    if ns.dtype.kind not in "iu":
        raise TypeError(f"{op}: counts must be integers. Received: dtype {ns.dtype}")
    ns = np.ascontiguousarray(ns, np.int64)
    ms, ss = as_float64(op, "means", means), as_float64(op, "m2s", m2s)
    if ms.ndim != 2:
        raise ValueError(f"{op}: means must have shape (shards, channels). Received: means.shape={ms.shape}")
    mean, variance = np.empty(ms.shape[1]), np.empty(ms.shape[1])
    _core.batch_norm_merge(ns, ms, ss, mean, variance)
    return mean, variance


def batch_norm_backward_partial(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    gamma: npt.ArrayLike | None,
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    *,
    total_rows: int | None = None,
    beta: npt.ArrayLike | None = None,
    axis: int = -1,
    epsilon: float = 1e-3,
    y: npt.ArrayLike | None = None,
    activation: Activation = None,
    alpha: float = 0.2,
    residual: bool = False,
) -> tuple[Float64, Float64]:
    """Sums of one shard for the backward pass: sum dy' and sum dy' (x - mean) per channel, float64.

    mean and variance are those of the whole batch, total_rows its rows (None: x alone), as in `batch_norm_partial`.
    `batch_norm_backward_merge` adds the sums of all shards; then `batch_norm_backward_apply` gives each shard's dx.

    Raises ValueError for shapes that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "batch_norm_backward_partial"
    b = _Backward(op, dy, x, gamma, mean, variance, beta, axis, epsilon, y, activation, alpha, residual)
    rows = _total_rows(op, b.view, total_rows)
    sum_dy, sum_dy_xc = np.empty(b.view.channels), np.empty(b.view.channels)
    _core.batch_norm_backward_partial(*b.arrays, rows, sum_dy, sum_dy_xc, *b.options)
    return sum_dy, sum_dy_xc


def batch_norm_backward_merge(sums_dy: npt.ArrayLike, sums_dy_xc: npt.ArrayLike) -> tuple[Float64, Float64]:
    """Sums over a whole batch from those of its shards, added pairwise in the order given.

    sums_dy, sums_dy_xc: (shards, C), one row per result of `batch_norm_backward_partial`, without those of empty shards
    where bits matter. dbeta is the first result, dgamma the second times r = 1 / sqrt(variance + epsilon).

    Raises ValueError for shapes that do not fit, TypeError for arrays that are not of real numbers.
    """
    op = "batch_norm_backward_merge"
    dys, xcs = as_float64(op, "sums_dy", sums_dy), as_float64(op, "sums_dy_xc", sums_dy_xc)
    if dys.ndim != 2 or not dys.size:
        raise ValueError(f"{op}: sums_dy must have shape (shards, channels). Received: sums_dy.shape={dys.shape}")
    sum_dy, sum_dy_xc = np.empty(dys.shape[1]), np.empty(dys.shape[1])
    _core.batch_norm_backward_merge(dys, xcs, sum_dy, sum_dy_xc)
    return sum_dy, sum_dy_xc


def batch_norm_backward_apply(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    gamma: npt.ArrayLike | None,
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    sum_dy: npt.ArrayLike,
    sum_dy_xc: npt.ArrayLike,
    total_rows: int,
    *,
    beta: npt.ArrayLike | None = None,
    axis: int = -1,
    epsilon: float = 1e-3,
    y: npt.ArrayLike | None = None,
    activation: Activation = None,
    alpha: float = 0.2,
    residual: bool = False,
) -> tuple[Float32, ...]:
    """dx of one shard (and dresidual where `residual` is true) from the sums over all shards and their row count."""
    op = "batch_norm_backward_apply"
    b = _Backward(op, dy, x, gamma, mean, variance, beta, axis, epsilon, y, activation, alpha, residual)
    view = b.view
    s1, s2 = view.statistic("sum_dy", sum_dy), view.statistic("sum_dy_xc", sum_dy_xc)
    rows = integer(op, "total_rows", total_rows)
    dx = allocate(op, view.shape, FLOAT32)
    dresidual = allocate(op, view.shape, FLOAT32) if residual else None
    to_x, to_residual = view.target(dx), view.target(dresidual)
    _core.batch_norm_backward_apply(*b.arrays, s1, s2, rows, to_x, to_residual, *b.options)
    view.finish(dx, to_x)
    view.finish(dresidual, to_residual)
    return (dx,) if dresidual is None else (dx, dresidual)
