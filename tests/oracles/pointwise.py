"""Activations. Backward takes y, the forward result, as the kernels do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def activation_forward(x: npt.ArrayLike, name: str | None, alpha: float = 0.0) -> Array:
    """y = name(x); softmax over the last axis; alpha is leaky_relu's slope below zero. NaN stays NaN."""
    x = np.asarray(x, np.float64)
    if name in (None, "linear"):
        return x.copy()
    if name == "relu":
        return np.where(x <= 0, 0.0, x)  # a comparison with NaN is false: NaN is kept
    if name == "leaky_relu":
        return np.where(x < 0, alpha * x, x)
    if name == "sigmoid":
        with np.errstate(over="ignore"):
            return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))
    if name == "tanh":
        return np.tanh(x)
    if name == "softmax":
        if x.size == 0:
            return x.copy()
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)
    raise ValueError(f"unknown activation {name}")


def activation_backward(dy: npt.ArrayLike, y: npt.ArrayLike, name: str | None, alpha: float = 0.0) -> Array:
    """dx = dy * d name(x) / dx, from y = name(x)."""
    dy, y = np.asarray(dy, np.float64), np.asarray(y, np.float64)
    if name in (None, "linear"):
        return dy.copy()
    if name == "relu":
        return np.where(y > 0, dy, 0.0)
    if name == "leaky_relu":
        return np.where(y < 0, alpha * dy, dy)
    if name == "sigmoid":
        return dy * y * (1 - y)
    if name == "tanh":
        return dy * (1 - y * y)
    if name == "softmax":
        return y * (dy - (dy * y).sum(axis=-1, keepdims=True))
    raise ValueError(f"unknown activation {name}")
