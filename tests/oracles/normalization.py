"""Batch normalisation with biased variance, as Keras, over every axis but one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oracles.pointwise import activation_backward, activation_forward

Array = npt.NDArray[np.float64]


def _matrix(x: npt.ArrayLike, axis: int) -> Array:
    """(..., channels, ...) -> (rows, channels)"""
    moved = np.moveaxis(np.asarray(x, np.float64), axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def _image(matrix: Array, shape: tuple[int, ...], axis: int) -> Array:
    moved = np.moveaxis(np.empty(shape), axis, -1).shape
    return np.moveaxis(matrix.reshape(moved), -1, axis)


def _vector(value: npt.ArrayLike | None, channels: int, default: float) -> Array:
    return np.full(channels, default) if value is None else np.asarray(value, np.float64)


def batch_norm_forward(x, gamma=None, beta=None, *, axis=-1, epsilon=1e-3, activation=None, alpha=0.0, residual=None):
    """y = act((x - mean) / sqrt(variance + epsilon) gamma + beta + residual); y, mean, variance of the batch."""
    m = _matrix(x, axis)
    mean = m.mean(axis=0)
    mean = np.where((m == m[0]).all(axis=0), m[0], mean)  # a constant channel's mean is its value, without rounding
    variance = ((m - mean) ** 2).mean(axis=0)
    y = batch_norm_inference(
        x,
        gamma,
        beta,
        mean,
        variance,
        axis=axis,
        epsilon=epsilon,
        activation=activation,
        alpha=alpha,
        residual=residual,
    )
    return y, mean, variance


def batch_norm_inference(
    x, gamma, beta, mean, variance, *, axis=-1, epsilon=1e-3, activation=None, alpha=0.0, residual=None
):
    """The same with given statistics."""
    m = _matrix(x, axis)
    channels = m.shape[1]
    rstd = 1 / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    y = (m - np.asarray(mean, np.float64)) * (rstd * _vector(gamma, channels, 1.0)) + _vector(beta, channels, 0.0)
    if residual is not None:
        y = y + _matrix(residual, axis)
    return _image(activation_forward(y, activation, alpha), np.shape(x), axis)


def batch_norm_backward(
    dy, x, gamma, mean, variance, *, axis=-1, epsilon=1e-3, y=None, activation=None, alpha=0.0, frozen=False
):
    """dx, dgamma, dbeta, dresidual.

    With dy' = dy through the activation, xc = x - mean, r = 1 / sqrt(variance + epsilon):

    dbeta = sum dy';  dgamma = r sum dy' xc;  dx = gamma r (dy' - mean dy' - xc r^2 mean(dy' xc)), frozen: gamma r dy'.
    """
    m, mean = _matrix(x, axis), np.asarray(mean, np.float64)
    d = _matrix(dy, axis) if y is None else activation_backward(_matrix(dy, axis), _matrix(y, axis), activation, alpha)
    r = 1 / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    xc = m - mean
    scale = r * _vector(gamma, m.shape[1], 1.0)
    dx = scale * d if frozen or not len(m) else scale * (d - d.mean(axis=0) - xc * r**2 * (d * xc).mean(axis=0))
    shape = np.shape(x)
    return _image(dx, shape, axis), r * (d * xc).sum(axis=0), d.sum(axis=0), _image(d, shape, axis)


def batch_norm_partial(x, *, axis=-1):
    """count, mean, m2 = sum (x - mean)^2 of a shard."""
    m = _matrix(x, axis)
    mean = m.mean(axis=0) if len(m) else np.zeros(m.shape[1])
    return len(m), mean, ((m - mean) ** 2).sum(axis=0)


def batch_norm_merge(counts, means, m2s):
    """mean and variance of the union of shards."""
    counts = np.asarray(counts, np.float64)[:, None]
    means, m2s = np.asarray(means, np.float64), np.asarray(m2s, np.float64)
    mean = (counts * means).sum(axis=0) / counts.sum()
    return mean, (m2s + counts * (means - mean) ** 2).sum(axis=0) / counts.sum()
