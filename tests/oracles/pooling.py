"""Max, average and global average pooling over NHWC images, cell by cell of the window."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oracles.convolution import Padding, output_size, pair, resolve_padding

Array = npt.NDArray[np.float64]


class _Windows:
    def __init__(self, x_shape, pool_size, strides, padding):
        self.batch, self.height, self.width, self.channels = x_shape
        self.pool = pair(pool_size)
        self.strides = self.pool if strides is None else pair(strides)
        self.pads = resolve_padding(padding, (self.height, self.width), self.pool, self.strides, (1, 1))
        self.out = output_size((self.height, self.width), self.pool, self.strides, (1, 1), padding)

    def cells(self):
        """Each cell of the window: its number, and the places of all windows' inputs in the padded image."""
        for ky in range(self.pool[0]):
            for kx in range(self.pool[1]):
                rows = slice(ky, ky + (self.out[0] - 1) * self.strides[0] + 1, self.strides[0])
                columns = slice(kx, kx + (self.out[1] - 1) * self.strides[1] + 1, self.strides[1])
                yield ky * self.pool[1] + kx, (slice(None), rows, columns)

    def pad(self, x, value):
        return np.pad(x, ((0, 0), *self.pads, (0, 0)), constant_values=value)

    def unpad(self, x):
        (top, _), (left, _) = self.pads
        return x[:, top : top + self.height, left : left + self.width]

    def counts(self):
        """Cells of each window that lie inside the image: (1, out height, out width, 1)."""
        inside = self.pad(np.ones((1, self.height, self.width, 1)), 0.0)
        return sum(inside[window] for _, window in self.cells())


def max_pool2d_forward(x: npt.ArrayLike, pool_size=2, strides=None, padding: Padding = "valid"):
    """y and index (ky * pool_width + kx of the first maximum in row-major order; padding never wins, NaN does)."""
    x = np.asarray(x, np.float64)
    w = _Windows(x.shape, pool_size, strides, padding)
    padded, inside = w.pad(x, 0.0), w.pad(np.ones(x.shape, bool), False)
    y = np.zeros((w.batch, *w.out, w.channels))
    index = np.full(y.shape, -1, np.int64)
    for number, window in w.cells():
        value = padded[window]
        better = (index < 0) | (value > y) | (np.isnan(value) & ~np.isnan(y))
        better &= inside[window]
        y[better], index[better] = value[better], number
    return y, index


def max_pool2d_backward(dy: npt.ArrayLike, index: npt.ArrayLike, x_shape, pool_size=2, strides=None, padding="valid"):
    """dx: every dy goes to the cell that its window chose."""
    dy, index = np.asarray(dy, np.float64), np.asarray(index)
    w = _Windows(x_shape, pool_size, strides, padding)
    dpadded = w.pad(np.zeros(x_shape), 0.0)
    for number, window in w.cells():
        dpadded[window] += np.where(index == number, dy, 0.0)
    return w.unpad(dpadded)


def avg_pool2d_forward(x: npt.ArrayLike, pool_size=2, strides=None, padding: Padding = "valid") -> Array:
    """The mean over each window's cells inside the image."""
    x = np.asarray(x, np.float64)
    w = _Windows(x.shape, pool_size, strides, padding)
    padded = w.pad(x, 0.0)
    total = np.zeros((w.batch, *w.out, w.channels))
    for _, window in w.cells():
        total += padded[window]
    return total / w.counts()


def avg_pool2d_backward(dy: npt.ArrayLike, x_shape, pool_size=2, strides=None, padding: Padding = "valid") -> Array:
    dy = np.asarray(dy, np.float64)
    w = _Windows(x_shape, pool_size, strides, padding)
    dpadded = w.pad(np.zeros(x_shape), 0.0)
    share = dy / w.counts()
    for _, window in w.cells():
        dpadded[window] += share
    return w.unpad(dpadded)


def global_avg_pool2d_forward(x: npt.ArrayLike) -> Array:
    """(batch, height, width, channels) -> (batch, channels)"""
    return np.asarray(x, np.float64).mean(axis=(1, 2))


def global_avg_pool2d_backward(dy: npt.ArrayLike, x_shape) -> Array:
    dy = np.asarray(dy, np.float64)
    return np.broadcast_to(dy[:, None, None, :] / (x_shape[1] * x_shape[2]), x_shape).copy()
