"""dense: y = act(x W + b) over the last axis."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oracles.pointwise import activation_backward, activation_forward

Array = npt.NDArray[np.float64]


def dense_forward(
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    activation: str | None = None,
    alpha: float = 0.0,
) -> Array:
    """y[..., o] = act(bias[o] + sum_k x[..., k] kernel[k, o])"""
    y = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    if bias is not None:
        y = y + np.asarray(bias, np.float64)
    return activation_forward(y, activation, alpha)


def dense_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    *,
    y: npt.ArrayLike | None = None,
    activation: str | None = None,
    alpha: float = 0.0,
) -> tuple[Array, Array, Array]:
    """dx = dy' W^T, dkernel = x^T dy', dbias = sum of the rows of dy'; dy' is dy through the activation."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    dy = np.asarray(dy, np.float64) if y is None else activation_backward(dy, y, activation, alpha)
    rows = dy.reshape(-1, kernel.shape[1])
    return dy @ kernel.T, x.reshape(-1, kernel.shape[0]).T @ rows, rows.sum(axis=0)
