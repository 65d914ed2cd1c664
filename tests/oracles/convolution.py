"""conv2d over NHWC images with HWIO kernels, as a sum over the kernel's taps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from oracles.pointwise import activation_backward, activation_forward

Array = npt.NDArray[np.float64]
Padding = str | Sequence[Sequence[int]]


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, second = value
    return int(first), int(second)


def resolve_padding(
    padding: Padding, size: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)). "same" as Keras: ceil(in / stride) outputs, the odd cell after."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        pads = []
        for n, k, s, d in zip(size, window, strides, dilation, strict=True):
            out = -(-n // s)
            total = max((out - 1) * s + (k - 1) * d + 1 - n, 0)
            pads.append((total // 2, total - total // 2))
        return pads[0], pads[1]
    (top, bottom), (left, right) = padding
    return (int(top), int(bottom)), (int(left), int(right))


def output_size(
    size: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int], padding: Padding
) -> tuple[int, int]:
    pads = resolve_padding(padding, size, window, strides, dilation)
    out = [
        (n + sum(p) - (k - 1) * d - 1) // s + 1
        for n, k, s, d, p in zip(size, window, strides, dilation, pads, strict=True)
    ]
    return out[0], out[1]


class _Taps:
    """Views of a padded image array, one per kernel tap: all input cells that the tap multiplies."""

    def __init__(self, x_shape, kernel_shape, strides, padding, dilation, groups):
        self.batch, self.height, self.width, self.channels = x_shape
        self.kernel_height, self.kernel_width, self.group_in, self.out_channels = kernel_shape
        self.strides, self.dilation, self.groups = pair(strides), pair(dilation), groups
        size, window = (self.height, self.width), (self.kernel_height, self.kernel_width)
        self.pads = resolve_padding(padding, size, window, self.strides, self.dilation)
        self.out = output_size(size, window, self.strides, self.dilation, padding)

    def pad(self, x: Array) -> Array:
        return np.pad(x, ((0, 0), *self.pads, (0, 0)))

    def unpad(self, x: Array) -> Array:
        (top, _), (left, _) = self.pads
        return x[:, top : top + self.height, left : left + self.width]

    def __iter__(self):
        for ky in range(self.kernel_height):
            for kx in range(self.kernel_width):
                y0, x0 = ky * self.dilation[0], kx * self.dilation[1]
                rows = slice(y0, y0 + (self.out[0] - 1) * self.strides[0] + 1, self.strides[0])
                columns = slice(x0, x0 + (self.out[1] - 1) * self.strides[1] + 1, self.strides[1])
                yield ky, kx, (slice(None), rows, columns)

    def matrices(self, image: Array, depth: int) -> Array:
        """(n, h, w, groups * depth) -> (groups, n h w, depth)"""
        return image.reshape(-1, self.groups, depth).transpose(1, 0, 2)

    def image(self, matrices: Array, depth: int) -> Array:
        return matrices.transpose(1, 0, 2).reshape(self.batch, *self.out, self.groups * depth)


def conv2d_forward(
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    activation: str | None = None,
    alpha: float = 0.0,
) -> Array:
    """y[n,oy,ox,o] = act(bias[o] + sum_{ky,kx,c} x[n, oy s + ky d - pad, ox s + kx d - pad, c] kernel[ky,kx,c,o])"""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    t = _Taps(x.shape, kernel.shape, strides, padding, dilation, groups)
    group_out = t.out_channels // groups
    padded = t.pad(x)
    y = np.zeros((t.batch, *t.out, t.out_channels))
    for ky, kx, window in t:
        weights = kernel[ky, kx].reshape(t.group_in, groups, group_out).transpose(1, 0, 2)
        y += t.image(t.matrices(padded[window], t.group_in) @ weights, group_out)
    if bias is not None:
        y += np.asarray(bias, np.float64)
    return activation_forward(y, activation, alpha)


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
    activation: str | None = None,
    alpha: float = 0.0,
) -> tuple[Array, Array, Array]:
    """dx, dkernel, dbias: dy goes back through the activation, then along every tap of the forward sum."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    dy = np.asarray(dy, np.float64) if y is None else activation_backward(dy, y, activation, alpha)
    t = _Taps(x.shape, kernel.shape, strides, padding, dilation, groups)
    group_out = t.out_channels // groups
    padded = t.pad(x)
    dpadded = np.zeros_like(padded)
    dkernel = np.zeros(kernel.shape)
    dy_matrices = t.matrices(dy, group_out)
    for ky, kx, window in t:
        weights = kernel[ky, kx].reshape(t.group_in, groups, group_out).transpose(1, 0, 2)
        dpadded[window] += t.image(dy_matrices @ weights.transpose(0, 2, 1), t.group_in)
        taps = t.matrices(padded[window], t.group_in).transpose(0, 2, 1) @ dy_matrices
        dkernel[ky, kx] = taps.transpose(1, 0, 2).reshape(t.group_in, t.out_channels)
    return t.unpad(dpadded), dkernel, dy.sum(axis=(0, 1, 2))
