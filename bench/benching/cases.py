"""Operators as benchmark cases: a call through `fastbn.ops` with `out=`, its check, its arithmetic and its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastbn import ops

from . import checks

Array = npt.NDArray[Any]


@dataclass
class Case:
    """`call` may be repeated; `check` asserts that its result is right, after at least one call."""

    call: Callable[[], object]
    check: Callable[[], None]
    multiply_adds: int
    bytes: int  # every operand read once and every result written once


def _bytes(*arrays: Array | None) -> int:
    return sum(array.nbytes for array in arrays if array is not None)


def _empty(array: Array) -> Array:
    """Filled with NaN, so that what a kernel forgets to write is seen."""
    return np.full_like(array, np.nan)


def _pads(pad: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (pad, pad), (pad, pad)


def conv_multiply_adds(kernel: Array, y_shape: tuple[int, ...]) -> int:
    return int(np.prod(y_shape[:3])) * kernel.size


def conv2d_forward(
    x: Array, kernel: Array, bias: Array | None, y: Array, stride: int = 1, pad: int = 0, activation: Any = None
) -> Case:
    padding = _pads(pad)
    return Case(
        lambda: ops.conv2d_forward(x, kernel, bias, strides=stride, padding=padding, activation=activation, out=y),
        lambda: checks.conv2d_forward(x, kernel, bias, y, stride, pad, activation),
        conv_multiply_adds(kernel, y.shape),
        _bytes(x, kernel, bias, y),
    )


def conv2d_backward_data(
    dy: Array,
    x: Array,
    kernel: Array,
    y: Array | None,
    dx: Array,
    stride: int = 1,
    pad: int = 0,
    activation: Any = None,
) -> Case:
    options: dict[str, Any] = {"strides": stride, "padding": _pads(pad), "activation": activation, "y": y}

    def check() -> None:
        through = dy if y is None else checks.through_activation(dy, y, activation)
        checks.conv2d_backward_data(through, kernel, dx, stride, pad)

    return Case(
        lambda: ops.conv2d_backward(dy, x, kernel, **options, need=("x",), out=(dx, None, None)),
        check,
        conv_multiply_adds(kernel, dy.shape),
        _bytes(dy, kernel, y, dx),
    )


def conv2d_backward_filter(
    dy: Array,
    x: Array,
    kernel: Array,
    y: Array | None,
    dkernel: Array,
    dbias: Array | None,
    stride: int = 1,
    pad: int = 0,
    activation: Any = None,
) -> Case:
    options: dict[str, Any] = {"strides": stride, "padding": _pads(pad), "activation": activation, "y": y}
    need = ("kernel",) if dbias is None else ("kernel", "bias")

    def check() -> None:
        through = dy if y is None else checks.through_activation(dy, y, activation)
        checks.conv2d_backward_filter(through, x, dkernel, dbias, stride, pad)

    return Case(
        lambda: ops.conv2d_backward(dy, x, kernel, **options, need=need, out=(None, dkernel, dbias)),
        check,
        conv_multiply_adds(kernel, dy.shape),
        _bytes(dy, x, y, dkernel, dbias),
    )


def dense_forward(x: Array, kernel: Array, bias: Array | None, y: Array, activation: Any = None) -> Case:
    return Case(
        lambda: ops.dense_forward(x, kernel, bias, activation=activation, out=y),
        lambda: checks.dense_forward(x, kernel, bias, y, activation),
        len(x) * kernel.size,
        _bytes(x, kernel, bias, y),
    )


def dense_backward_data(dy: Array, x: Array, kernel: Array, y: Array | None, dx: Array, activation: Any = None) -> Case:
    return Case(
        lambda: ops.dense_backward(dy, x, kernel, y=y, activation=activation, need=("x",), out=(dx, None, None)),
        lambda: checks.dense_backward_data(
            dy if y is None else checks.through_activation(dy, y, activation), kernel, dx
        ),
        len(x) * kernel.size,
        _bytes(dy, kernel, y, dx),
    )


def dense_backward_filter(
    dy: Array,
    x: Array,
    kernel: Array,
    y: Array | None,
    dkernel: Array,
    dbias: Array | None,
    activation: Any = None,
) -> Case:
    need = ("kernel",) if dbias is None else ("kernel", "bias")
    out = (None, dkernel, dbias)
    return Case(
        lambda: ops.dense_backward(dy, x, kernel, y=y, activation=activation, need=need, out=out),
        lambda: checks.dense_backward_filter(
            dy if y is None else checks.through_activation(dy, y, activation), x, dkernel, dbias
        ),
        len(x) * kernel.size,
        _bytes(dy, x, y, dkernel, dbias),
    )


def batch_norm_forward(
    x: Array, gamma: Array, beta: Array, outputs: tuple[Array, ...], epsilon: float = 1e-3, activation: Any = None
) -> Case:
    y, mean, variance = outputs
    return Case(
        lambda: ops.batch_norm_forward(x, gamma, beta, epsilon=epsilon, activation=activation, out=outputs),
        lambda: checks.batch_norm_forward(x, gamma, beta, y, mean, variance, epsilon, activation),
        0,
        _bytes(x, x, y),
    )


def batch_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    forward: tuple[Array, ...],
    outputs: tuple[Array, ...],
    epsilon: float = 1e-3,
    activation: Any = None,
) -> Case:
    """The activation's gradient is recomputed from x and beta, as in programs; y serves the check alone."""
    y, mean, variance = forward
    options: dict[str, Any] = {"beta": beta, "epsilon": epsilon, "activation": activation}
    return Case(
        lambda: ops.batch_norm_backward(dy, x, gamma, mean, variance, **options, out=outputs),
        lambda: checks.batch_norm_backward(dy, x, y, gamma, outputs, epsilon, activation),
        0,
        _bytes(x, x, dy, dy, outputs[0]),
    )


def same_pad(side: int, pool: int, stride: int) -> int:
    return max((-(-side // stride) - 1) * stride + pool - side, 0) // 2


def max_pool2d_forward(x: Array, outputs: tuple[Array, Array], pool: int, stride: int, padding: str) -> Case:
    y, index = outputs
    pad = same_pad(x.shape[1], pool, stride) if padding == "same" else 0
    return Case(
        lambda: ops.max_pool2d_forward(x, pool, stride, padding, out=outputs),
        lambda: checks.max_pool2d_forward(x, y, index, pool, stride, pad),
        0,
        _bytes(x, y, index),
    )


def max_pool2d_backward(dy: Array, index: Array, dx: Array, pool: int, stride: int, padding: str) -> Case:
    pad = same_pad(dx.shape[1], pool, stride) if padding == "same" else 0
    return Case(
        lambda: ops.max_pool2d_backward(dy, index, dx.shape, pool, stride, padding, out=dx),
        lambda: checks.max_pool2d_backward(dy, index, dx, pool, stride, pad),
        0,
        _bytes(dy, index, dx),
    )


def avg_pool2d_forward(x: Array, y: Array, pool: int) -> Case:
    """Windows that tile the image."""
    batch, height, width, channels = x.shape
    tiles = (batch, height // pool, pool, width // pool, pool, channels)
    return Case(
        lambda: ops.avg_pool2d_forward(x, pool, out=y),
        lambda: checks.assert_close("y", y, x.reshape(tiles).mean((2, 4), np.float64), 1e-6),
        0,
        _bytes(x, y),
    )


def avg_pool2d_backward(dy: Array, dx: Array, pool: int) -> Case:
    return Case(
        lambda: ops.avg_pool2d_backward(dy, dx.shape, pool, out=dx),
        lambda: checks.assert_close("dx", dx, dy.repeat(pool, 1).repeat(pool, 2) / pool**2, 1e-6),
        0,
        _bytes(dy, dx),
    )


def global_avg_pool2d_forward(x: Array, y: Array) -> Case:
    return Case(
        lambda: ops.global_avg_pool2d_forward(x, out=y),
        lambda: checks.assert_close("y", y, x.mean((1, 2), np.float64), 1e-6),
        0,
        _bytes(x, y),
    )


def global_avg_pool2d_backward(dy: Array, dx: Array) -> Case:
    def check() -> None:
        pixels = dx.shape[1] * dx.shape[2]
        checks.assert_close("dx", dx, np.broadcast_to(dy[:, None, None] / pixels, dx.shape), 1e-6)

    return Case(lambda: ops.global_avg_pool2d_backward(dy, dx.shape, out=dx), check, 0, _bytes(dy, dx))


def activation_forward(x: Array, y: Array, name: Any) -> Case:
    return Case(
        lambda: ops.activation_forward(x, name, out=y),
        lambda: checks.assert_close("y", y, checks.activate(x.astype(np.float64), name), 1e-6),
        0,
        _bytes(x, y),
    )


def activation_backward(dy: Array, y: Array, dx: Array, name: Any) -> Case:
    return Case(
        lambda: ops.activation_backward(dy, y, name, out=dx),
        lambda: checks.assert_close("dx", dx, checks.through_activation(dy.astype(np.float64), y, name), 1e-6),
        0,
        _bytes(dy, y, dx),
    )


def dropout_forward(x: Array, y: Array, rate: float, seed: int) -> Case:
    return Case(lambda: ops.dropout_forward(x, rate, seed, out=y), lambda: checks.dropout(x, y, rate), 0, _bytes(x, y))


def dropout_backward(dy: Array, dx: Array, rate: float, seed: int) -> Case:
    return Case(
        lambda: ops.dropout_backward(dy, rate, seed, out=dx), lambda: checks.dropout(dy, dx, rate), 0, _bytes(dy, dx)
    )


def cross_entropy_forward(logits: Array, labels: Array, outputs: tuple[Array, Array]) -> Case:
    return Case(
        lambda: ops.softmax_cross_entropy_forward(logits, labels, out=outputs),
        lambda: checks.cross_entropy_forward(logits, labels, *outputs),
        0,
        _bytes(logits, labels, *outputs),
    )


def cross_entropy_backward(probabilities: Array, labels: Array, dlogits: Array) -> Case:
    scale = 1 / len(labels)
    return Case(
        lambda: ops.softmax_cross_entropy_backward(probabilities, labels, scale, out=dlogits),
        lambda: checks.cross_entropy_backward(probabilities, labels, dlogits, scale),
        0,
        _bytes(probabilities, labels, dlogits),
    )


UPDATES: dict[str, tuple[Callable[..., object], int, dict[str, Any]]] = {
    "sgd": (ops.sgd_update, 1, {"learning_rate": 0.01, "momentum": 0.9, "nesterov": True}),
    "rmsprop": (ops.rmsprop_update, 1, {"learning_rate": 0.001, "rho": 0.9}),
    "adam": (ops.adam_update, 2, {"learning_rate": 0.001}),
}


def update(kind: str, weights: list[Array], gradients: list[Array], slots: list[list[Array]] | None = None) -> Case:
    """One optimizer's update of a list of arrays, in place; `slots`: one list an array, zeros where not given."""
    function, count, options = UPDATES[kind]
    held = slots or [[np.zeros_like(w) for _ in range(count)] for w in weights]

    def call() -> None:
        for w, g, own in zip(weights, gradients, held, strict=True):
            function(w, g, *own, **options)

    def check() -> None:
        before = [[array.copy() for array in (w, *own)] for w, own in zip(weights, held, strict=True)]
        call()
        for state, g, w in zip(before, gradients, weights, strict=True):
            checks.update(kind, options, state, g, w)

    passes = 3 + 2 * count  # weights and slots are read and written, gradients read
    return Case(call, check, 0, passes * _bytes(*weights))
