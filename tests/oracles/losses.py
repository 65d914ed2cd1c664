"""Softmax cross-entropy and mean squared error, one loss a row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oracles.pointwise import activation_forward

Array = npt.NDArray[np.float64]


def one_hot(labels: npt.ArrayLike, classes: int) -> Array:
    return np.eye(classes)[np.asarray(labels, np.int64)]


def _targets(labels: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    labels = np.asarray(labels)
    return np.asarray(labels, np.float64) if labels.shape == shape else one_hot(labels, shape[-1])


def softmax_cross_entropy_forward(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Array, Array]:
    """loss[r] = -sum_k t[r,k] log softmax(logits[r])[k], and the probabilities."""
    z = np.asarray(logits, np.float64)
    t = _targets(labels, z.shape)
    shifted = z - z.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -np.where(t != 0, t * log_p, 0.0).sum(axis=-1), activation_forward(z, "softmax")


def softmax_cross_entropy_backward(probabilities: npt.ArrayLike, labels: npt.ArrayLike, scale: float = 1.0) -> Array:
    """dlogits = (p sum_j t_j - t) scale"""
    p = np.asarray(probabilities, np.float64)
    t = _targets(labels, p.shape)
    return (p * t.sum(axis=-1, keepdims=True) - t) * scale


def mean_squared_error_forward(predictions: npt.ArrayLike, targets: npt.ArrayLike) -> Array:
    """loss[r] = mean_k (p - t)^2"""
    d = np.asarray(predictions, np.float64) - np.asarray(targets, np.float64)
    return (d * d).mean(axis=-1)


def mean_squared_error_backward(predictions: npt.ArrayLike, targets: npt.ArrayLike, scale: float = 1.0) -> Array:
    """dp = 2 (p - t) / columns scale"""
    p = np.asarray(predictions, np.float64)
    return 2 * (p - np.asarray(targets, np.float64)) / p.shape[-1] * scale
