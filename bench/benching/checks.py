"""Cheap float64 checks of large results: random projections where an operator is linear, else sampled outputs.

A product Y = A B of size n^3 is checked in n^2: Y v = A (B v) for a random v. If Y is wrong anywhere, Y v is
wrong there but for a v that happens to be orthogonal to the error, which has probability zero.
Errors are relative to the reference's root mean square; `assert_close` bounds their rms and, fifty times
wider, the greatest. The bounds hold for Winograd too; the accuracy contracts are the tests' affair.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DATA_TOLERANCE = 2e-5
FILTER_TOLERANCE = 1e-4  # one chain over 100,000 pixels
SAMPLES = 512


def assert_close(name: str, result: Array, reference: Array, tolerance: float) -> None:
    assert result.shape == reference.shape, f"{name}: shape {result.shape}, expected {reference.shape}"
    scale = float(np.sqrt(np.mean(np.square(reference)))) or 1.0
    error = np.abs(result - reference) / scale
    rms, greatest = float(np.sqrt(np.mean(np.square(error)))), float(error.max())
    assert rms <= tolerance, f"{name}: rms error {rms:.1e} of the rms, allowed {tolerance:.0e}"
    assert greatest <= 50 * tolerance, f"{name}: greatest error {greatest:.1e} of the rms, allowed {50 * tolerance:.0e}"


def activate(values: Array, activation: str | None) -> Array:
    if activation == "relu":
        return np.maximum(values, 0)
    if activation == "leaky_relu":
        return np.where(values < 0, 0.2 * values, values)
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-values)))
    if activation == "tanh":
        return np.asarray(np.tanh(values))
    if activation == "softmax":
        powers = np.exp(values - values.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True))
    return values


def through_activation(dy: Array, y: Array, activation: str | None) -> Array:
    """dy' = dy act'(y)."""
    if activation == "relu":
        return np.where(y > 0, dy, 0)
    if activation == "leaky_relu":
        return np.where(y < 0, 0.2 * dy, dy)
    if activation == "sigmoid":
        return dy * y * (1 - y)
    if activation == "tanh":
        return dy * (1 - y * y)
    if activation == "softmax":
        return np.asarray(y * (dy - (dy * y).sum(-1, keepdims=True)))
    return dy


def _signs(count: int) -> Array:
    return np.where(np.random.default_rng(count).integers(0, 2, count) > 0, 1.0, -1.0)


def _places(shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """(image, row, column) of SAMPLES random pixels and of the corners of the first and last image."""
    batch, height, width = shape[:3]
    random = np.random.default_rng(batch * height * width)
    corners = [(n, y, x) for n in (0, batch - 1) for y in (0, height - 1) for x in (0, width - 1)]
    drawn = random.integers(0, (batch, height, width), (SAMPLES, 3))
    n, y, x = np.concatenate([np.array(corners), drawn]).T
    return n, y, x


def conv2d_forward(
    x: Array, kernel: Array, bias: Array | None, y: Array, stride: int, pad: int, activation: str | None
) -> None:
    """All channels of sampled pixels."""
    n, oy, ox = _places(y.shape)
    total = np.zeros((n.size, kernel.shape[3]))
    for ky in range(kernel.shape[0]):
        for kx in range(kernel.shape[1]):
            iy, ix = oy * stride + ky - pad, ox * stride + kx - pad
            inside = (iy >= 0) & (iy < x.shape[1]) & (ix >= 0) & (ix < x.shape[2])
            total[inside] += x[n[inside], iy[inside], ix[inside]].astype(np.float64) @ kernel[ky, kx]
    if bias is not None:
        total += bias
    assert_close("y", y[n, oy, ox], activate(total, activation), DATA_TOLERANCE)
    assert np.isfinite(y).all()


def conv2d_backward_data(dy: Array, kernel: Array, dx: Array, stride: int, pad: int) -> None:
    """All channels of sampled pixels; dy is already through the activation."""
    n, iy, ix = _places(dx.shape)
    total = np.zeros((n.size, kernel.shape[2]))
    for ky in range(kernel.shape[0]):
        for kx in range(kernel.shape[1]):
            up, left = iy + pad - ky, ix + pad - kx
            oy, ox = up // stride, left // stride
            inside = (up % stride == 0) & (left % stride == 0) & (oy >= 0) & (ox >= 0)
            inside &= (oy < dy.shape[1]) & (ox < dy.shape[2])
            total[inside] += dy[n[inside], oy[inside], ox[inside]].astype(np.float64) @ kernel[ky, kx].T
    assert_close("dx", dx[n, iy, ix], total, DATA_TOLERANCE)
    assert np.isfinite(dx).all()


def conv2d_backward_filter(dy: Array, x: Array, dkernel: Array, dbias: Array | None, stride: int, pad: int) -> None:
    """Projected over the output channels: dkernel v = sum x (dy v)."""
    v = _signs(dy.shape[3])
    projected = (dy.reshape(-1, v.size) @ v).ravel()
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))).astype(np.float64)
    height, width = dy.shape[1:3]
    reference = np.empty(dkernel.shape[:3])
    for ky in range(dkernel.shape[0]):
        for kx in range(dkernel.shape[1]):
            rows = slice(ky, ky + (height - 1) * stride + 1, stride)
            columns = slice(kx, kx + (width - 1) * stride + 1, stride)
            reference[ky, kx] = projected @ padded[:, rows, columns].reshape(projected.size, -1)
    assert_close("dkernel", dkernel.astype(np.float64) @ v, reference, FILTER_TOLERANCE)
    if dbias is not None:
        assert_close("dbias", dbias, dy.sum((0, 1, 2), np.float64), FILTER_TOLERANCE)


def dense_forward(x: Array, kernel: Array, bias: Array | None, y: Array, activation: str | None) -> None:
    rows = np.unique(np.linspace(0, len(x) - 1, 32).astype(int))
    total = x[rows].astype(np.float64) @ kernel
    assert_close("y", y[rows], activate(total if bias is None else total + bias, activation), DATA_TOLERANCE)
    assert np.isfinite(y).all()


def dense_backward_data(dy: Array, kernel: Array, dx: Array) -> None:
    """Projected over the input features: dx v = dy (kernel^T v)."""
    v = _signs(dx.shape[1])
    reference = dy.astype(np.float64) @ (v @ kernel)
    assert_close("dx", dx.astype(np.float64) @ v, reference, DATA_TOLERANCE)


def dense_backward_filter(dy: Array, x: Array, dkernel: Array, dbias: Array | None) -> None:
    """Projected over the output features: dkernel v = x^T (dy v)."""
    v = _signs(dy.shape[1])
    assert_close("dkernel", dkernel.astype(np.float64) @ v, (dy @ v) @ x.astype(np.float64), FILTER_TOLERANCE)
    if dbias is not None:
        assert_close("dbias", dbias, dy.sum(0, np.float64), FILTER_TOLERANCE)


def _channels(*arrays: Array) -> tuple[Array, list[Array]]:
    """At most eight channels of each as float64 matrices (rows, channels)."""
    count = arrays[0].shape[-1]
    some = np.unique(np.linspace(0, count - 1, 8).astype(int))
    return some, [array.reshape(-1, count)[:, some].astype(np.float64) for array in arrays]


def batch_norm_forward(
    x: Array, gamma: Array, beta: Array, y: Array, mean: Array, variance: Array, epsilon: float, activation: str | None
) -> None:
    some, (values, result) = _channels(x, y)
    centre, spread = values.mean(0), values.var(0)
    assert_close("mean", mean[some], centre, 1e-6)
    assert_close("variance", variance[some], spread, 1e-6)
    reference = (values - centre) / np.sqrt(spread + epsilon) * gamma[some] + beta[some]
    assert_close("y", result, activate(reference, activation), 1e-6)


def batch_norm_backward(
    dy: Array, x: Array, y: Array, gamma: Array, outputs: tuple[Array, ...], epsilon: float, activation: str | None
) -> None:
    dx, dgamma, dbeta = outputs
    some, (gradient, values, output, result) = _channels(dy, x, y, dx)
    gradient = through_activation(gradient, output, activation)
    rstd = 1 / np.sqrt(values.var(0) + epsilon)
    centred = (values - values.mean(0)) * rstd
    sums, products = gradient.sum(0), (gradient * centred).sum(0)
    reference = gamma[some] * rstd * (gradient - sums / len(values) - centred * products / len(values))
    assert_close("dx", result, reference, 2e-6)
    assert_close("dgamma", dgamma[some], products, 1e-4)
    assert_close("dbeta", dbeta[some], sums, 1e-4)


def _taps(x: Array, out: Array, pool: int, stride: int, pad: int) -> list[Array]:
    """The views of x, padded with -inf, that each place of the window sees."""
    after = max((out.shape[1] - 1) * stride + pool - x.shape[1] - pad, 0)
    padded = np.pad(x, ((0, 0), (pad, after), (pad, after), (0, 0)), constant_values=-np.inf)
    side = (out.shape[1] - 1) * stride + 1
    return [padded[:, ky : ky + side : stride, kx : kx + side : stride] for ky in range(pool) for kx in range(pool)]


def max_pool2d_forward(x: Array, y: Array, index: Array, pool: int, stride: int, pad: int) -> None:
    """Exact; the index is the first place of the window that holds the maximum."""
    taps = _taps(x, y, pool, stride, pad)
    best = taps[0].copy()
    place = np.zeros(y.shape, np.int32)
    for i, tap in enumerate(taps[1:], 1):
        place[tap > best] = i
        np.maximum(best, tap, out=best)
    np.testing.assert_array_equal(y, best)
    np.testing.assert_array_equal(index, place)


def max_pool2d_backward(dy: Array, index: Array, dx: Array, pool: int, stride: int, pad: int) -> None:
    reference = np.zeros((dx.shape[0], dx.shape[1] + 2 * pool, dx.shape[2] + 2 * pool, dx.shape[3]))
    side = (dy.shape[1] - 1) * stride + 1
    for ky in range(pool):
        for kx in range(pool):
            view = reference[:, ky : ky + side : stride, kx : kx + side : stride]
            view += np.where(index == ky * pool + kx, dy, 0)
    inner = reference[:, pad : pad + dx.shape[1], pad : pad + dx.shape[2]]
    assert_close("dx", dx, inner, 1e-6)


def dropout(x: Array, y: Array, rate: float) -> None:
    """Each element is dropped, or x / (1 - rate); the share of dropped ones is within six deviations."""
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / (1 - rate), rtol=1e-6)
    alive = np.count_nonzero(x)
    share = 1 - np.count_nonzero(kept) / alive
    assert abs(share - rate) <= 6 * np.sqrt(rate * (1 - rate) / alive), f"share of dropped elements: {share:.4f}"


def cross_entropy_forward(logits: Array, labels: Array, loss: Array, probabilities: Array) -> None:
    p = activate(logits.astype(np.float64), "softmax")
    assert_close("probabilities", probabilities, p, 1e-6)
    assert_close("loss", loss, -np.log(p[np.arange(len(p)), labels]), 1e-5)


def cross_entropy_backward(probabilities: Array, labels: Array, dlogits: Array, scale: float) -> None:
    reference = probabilities.astype(np.float64)
    reference[np.arange(len(reference)), labels] -= 1
    assert_close("dlogits", dlogits, reference * scale, 1e-6)


def update(kind: str, options: dict[str, Any], before: list[Array], gradient: Array, after: Array) -> None:
    """One update of a sample. before: weights and slots; formulas and defaults of Keras 3."""
    some = np.random.default_rng(gradient.size).integers(0, gradient.size, 10_000)
    w, *slots = (array.ravel()[some].astype(np.float64) for array in before)
    g = gradient.ravel()[some].astype(np.float64)
    rate = options["learning_rate"]
    if kind == "sgd":
        velocity = options["momentum"] * slots[0] - rate * g
        w = w + (options["momentum"] * velocity - rate * g if options["nesterov"] else velocity)
    elif kind == "rmsprop":
        w = w - rate * g / np.sqrt(options["rho"] * slots[0] + (1 - options["rho"]) * g * g + 1e-7)
    else:
        m, v = slots[0] + (g - slots[0]) * 0.1, slots[1] + (g * g - slots[1]) * 0.001
        w = w - rate * np.sqrt(1 - 0.999) / (1 - 0.9) * m / (np.sqrt(v) + 1e-7)
    assert_close("weights", after.ravel()[some], w, 1e-6)
