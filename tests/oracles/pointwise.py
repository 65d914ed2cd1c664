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


def philox(key: int, counters: npt.ArrayLike, counter_high: int, rounds: int) -> npt.NDArray[np.uint64]:
    """(n, 4) 32-bit words of Philox4x32, a row for each 64-bit counter."""
    low32 = np.uint64(0xFFFFFFFF)
    low, high = np.asarray(counters, np.uint64), np.uint64(counter_high)
    c0, c1 = low & low32, low >> np.uint64(32)
    c2, c3 = np.full_like(low, high & low32), np.full_like(low, high >> np.uint64(32))
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(rounds):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1 = (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & low32
        c2, c3 = (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & low32
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def dropout_bits(seed: int, size: int) -> Array:
    """32 bits an element: 16 from counters (.., 0), 16 more from counters (.., 1).

    Blocks of 64 elements have 8 counters: the first half of a block takes words 0 and 1 of each counter in turn,
    lower 16 bits first, the second half words 2 and 3.
    """
    blocks = -(-size // 64)
    parts = []
    for high in (0, 1):
        words = philox(seed, np.arange(blocks * 8), high, 7)
        halves = np.stack([words & np.uint64(0xFFFF), words >> np.uint64(16)], axis=-1)  # (counters, word, half)
        halves = halves.reshape(blocks, 8, 2, 4).transpose(0, 2, 1, 3)
        parts.append(halves.reshape(-1)[:size])
    return (parts[0] << np.uint64(16) | parts[1]).astype(np.float64)


def dropout(x: npt.ArrayLike, rate: float, seed: int) -> Array:
    """x / (1 - rate) where an element's bits are at least rate * 2^32, else 0; its own backward."""
    x = np.asarray(x, np.float64)
    if rate >= 1:
        return np.zeros_like(x)
    threshold = min(np.floor(rate * 2.0**32 + 0.5), 2.0**32 - 1)
    return np.where(dropout_bits(seed, x.size).reshape(x.shape) >= threshold, x / (1 - rate), 0.0)
