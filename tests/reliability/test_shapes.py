"""Random shapes, strides, dilations, groups, paddings, layouts and views of every operator against float64; memory."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
from cases import Data, tolerance
from harness.arrays import VIEWS
from harness.compare import assert_same, assert_within
from harness.library import using_threads
from harness.tiers import short_and_long
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastbn
from fastbn import layers, ops

SHORT, LONG = 25, 2600  # examples of each of the eight tests: the long run has more than 20,000
SIZE = st.integers(0, 67)
LENGTH = st.integers(1, 67)
LAYOUTS = st.sampled_from(["channels_last", "channels_last", "channels_first"])
VIEW = st.sampled_from([None, *VIEWS])
THREADS = st.sampled_from([1, 3])


def search(examples: int, body: Callable[..., None], *strategies: Any) -> None:
    """body(*drawn) for that many drawn examples: always the same in the short form."""
    short = examples == SHORT
    options = settings(
        max_examples=examples,
        deadline=None,
        derandomize=short,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    options(given(*strategies)(body))()


def seen(x: np.ndarray, view: str | None) -> np.ndarray:
    return x if view is None else VIEWS[view](x)


def to_layout(x: np.ndarray, layout: str) -> np.ndarray:
    return x if layout == "channels_last" else np.ascontiguousarray(np.moveaxis(x, -1, 1))


def from_layout(x: np.ndarray, layout: str) -> np.ndarray:
    return x if layout == "channels_last" else np.moveaxis(x, 1, -1)


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    group_in, group_out = draw(st.integers(1, 67 // groups)), draw(st.integers(1, 67 // groups))
    kernel = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    strides = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = (1, 1) if max(strides) > 1 else (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    pads = st.integers(0, 5)
    padding = draw(st.one_of(st.sampled_from(["valid", "same"]), st.tuples(*[st.tuples(pads, pads)] * 2)))
    size = []
    for axis in range(2):
        around = sum(padding[axis]) if isinstance(padding, tuple) else 0
        least = 1 if padding == "same" else max(1, (kernel[axis] - 1) * dilation[axis] + 1 - around)
        size.append(draw(st.integers(least, max(least, draw(st.sampled_from([8, 24, 67]))))))
    batch = draw(st.integers(0, 4))
    if batch * size[0] * size[1] * kernel[0] * kernel[1] * group_in * group_out * groups > 2e7:  # the oracle is slow
        batch, size = min(batch, 1), [max(s if s <= 20 else 20, 1) for s in size]
        padding = "same"
    options = {"strides": strides, "dilation": dilation, "padding": padding, "groups": groups}
    return (batch, *size, groups * group_in), (*kernel, group_in, groups * group_out), options


@pytest.mark.parametrize("examples", short_and_long(SHORT, LONG))
def test_conv2d(examples):
    def body(case, layout, view, threads):
        x_shape, kernel_shape, options = case
        data = Data("shapes", integers=True)
        x, kernel, bias = data.array(*x_shape), data.array(*kernel_shape), data.array(kernel_shape[3])
        y = oracles.conv2d_forward(x, kernel, bias, **options)
        dy = data.array(*y.shape)
        outside = {**options, "algorithm": "direct", "data_format": layout}
        given_x, given_dy = seen(to_layout(x, layout), view), seen(to_layout(dy, layout), view)
        with using_threads(threads):
            found = ops.conv2d_forward(given_x, seen(kernel, view), bias, **outside)
            gradients = ops.conv2d_backward(given_dy, given_x, seen(kernel, view), **outside)
        assert_same(from_layout(found, layout), y)
        dx, dkernel, dbias = oracles.conv2d_backward(dy, x, kernel, **options)
        assert_same(from_layout(gradients[0], layout), dx, "dx")
        assert_same(gradients[1], dkernel, "dkernel")
        assert_same(gradients[2], dbias, "dbias")

    search(examples, body, convolutions(), LAYOUTS, VIEW, THREADS)


@pytest.mark.parametrize("examples", short_and_long(SHORT, LONG))
def test_dense(examples):
    def body(rows, fan_in, fan_out, view, threads):
        data = Data("shapes", integers=True)
        x, kernel, bias = data.array(rows, fan_in), data.array(fan_in, fan_out), data.array(fan_out)
        dy = data.array(rows, fan_out)
        with using_threads(threads):
            found = ops.dense_forward(seen(x, view), seen(kernel, view), bias)
            gradients = ops.dense_backward(seen(dy, view), seen(x, view), seen(kernel, view))
        assert_same(found, oracles.dense_forward(x, kernel, bias))
        for a, e in zip(gradients, oracles.dense_backward(dy, x, kernel), strict=True):
            assert_same(a, e)

    search(examples, body, SIZE, LENGTH, LENGTH, VIEW, THREADS)


@st.composite
def pools(draw):
    size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    strides = draw(st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4))))
    pads = [st.integers(0, n - 1) for n in size]
    padding = draw(st.one_of(st.sampled_from(["valid", "same"]), st.tuples(*(st.tuples(p, p) for p in pads))))
    image = [draw(st.integers(n, n + 14)) for n in size]
    return (draw(st.integers(0, 3)), *image, draw(st.integers(1, 67))), (size, strides, padding)


@pytest.mark.parametrize("examples", short_and_long(SHORT, LONG))
def test_max_pool(examples):
    def body(case, layout, view, threads):
        shape, options = case
        data = Data("shapes", integers=True)
        x = data.array(*shape)
        y, index = oracles.max_pool2d_forward(x, *options)
        dy = data.array(*y.shape)
        with using_threads(threads):
            found, at = ops.max_pool2d_forward(seen(to_layout(x, layout), view), *options, data_format=layout)
            outside = to_layout(x, layout).shape
            dx = ops.max_pool2d_backward(seen(to_layout(dy, layout), view), at, outside, *options, data_format=layout)
        assert_same(from_layout(found, layout), y)
        assert_same(from_layout(dx, layout), oracles.max_pool2d_backward(dy, index, shape, *options))

    search(examples, body, pools(), LAYOUTS, VIEW, THREADS)


@pytest.mark.parametrize("examples", short_and_long(SHORT, LONG))
def test_average_pools(examples):
    def body(case, layout, view, threads):
        shape, options = case
        data = Data("shapes")
        x = data.array(*shape)
        y = oracles.avg_pool2d_forward(x, *options)
        dy = data.array(*y.shape)
        outside, image = to_layout(x, layout).shape, {"data_format": layout}
        with using_threads(threads):
            found = ops.avg_pool2d_forward(seen(to_layout(x, layout), view), *options, **image)
            dx = ops.avg_pool2d_backward(seen(to_layout(dy, layout), view), outside, *options, **image)
            mean = ops.global_avg_pool2d_forward(seen(to_layout(x, layout), view), **image)
        assert_within(from_layout(found, layout), y, 1e-6 * (1 + np.abs(y)))
        exact = oracles.avg_pool2d_backward(dy, shape, *options)
        assert_within(from_layout(dx, layout), exact, 2e-5)
        assert_within(mean, oracles.global_avg_pool2d_forward(x), 1e-5)

    search(examples, body, pools(), LAYOUTS, VIEW, THREADS)


@pytest.mark.parametrize("examples", short_and_long(SHORT, LONG))
def test_batch_norm(examples):
    def body(shape, axis, activation, residual, view, threads):
        axis = axis % len(shape)
        data = Data("shapes")
        x, dy = data.array(*shape), data.array(*shape)
        gamma, beta = data.array(shape[axis]), data.array(shape[axis])
        r = data.array(*shape) if residual else None
        options = {"activation": activation, "epsilon": 0.1, "axis": axis}
        with using_threads(threads):
            found = ops.batch_norm_forward(seen(x, view), gamma, beta, residual=seen(r, view), **options)
            gradients = ops.batch_norm_backward(
                seen(dy, view), seen(x, view), gamma, *found[1:], beta=beta, y=found[0], residual=residual, **options
            )
        for a, e in zip(found, oracles.batch_norm_forward(x, gamma, beta, residual=r, **options), strict=True):
            assert_within(a, e, 2e-6 * (1 + np.abs(e)))
        exact = oracles.batch_norm_backward(dy, x, gamma, *found[1:], y=found[0], **options)
        for a, e in zip(gradients, exact, strict=False):
            assert_within(a, e, 2e-6 * (1 + np.abs(e).max()))

    shapes = st.lists(st.integers(1, 67), min_size=2, max_size=2) | st.lists(st.integers(1, 12), min_size=2, max_size=5)
    search(examples, body, shapes, st.integers(-5, 4), st.sampled_from([None, "relu"]), st.booleans(), VIEW, THREADS)


@pytest.mark.parametrize("examples", short_and_long(SHORT, LONG))
def test_activations_and_dropout(examples):
    def body(shape, name, view, threads):
        data = Data("shapes")
        x, dy = data.array(*shape), data.array(*shape)
        with using_threads(threads):
            y = ops.activation_forward(seen(x, view), name, alpha=0.2)
            dx = ops.activation_backward(seen(dy, view), seen(y, view), name, alpha=0.2)
            dropped = ops.dropout_forward(seen(x, view), 0.4, 11), ops.dropout_backward(seen(dy, view), 0.4, 11)
        assert_within(y, oracles.activation_forward(x, name, 0.2), 1e-6 * (1 + np.abs(x)))
        assert_within(dx, oracles.activation_backward(dy, y, name, 0.2), 2e-6 * (1 + np.abs(dy).max(initial=0)))
        mask = dropped[0] != 0
        assert_within(dropped[0], np.where(mask, x / 0.6, 0), 1e-6 * np.abs(x))
        assert_within(dropped[1], np.where(mask, dy / 0.6, 0), 1e-6 * np.abs(dy))

    names = st.sampled_from(["relu", "leaky_relu", "sigmoid", "tanh", "softmax"])
    shapes = st.tuples(SIZE, LENGTH) | st.lists(st.integers(1, 9), min_size=1, max_size=4)
    search(examples, body, shapes, names, VIEW, THREADS)


@pytest.mark.parametrize("examples", short_and_long(SHORT, LONG))
def test_losses(examples):
    def body(rows, classes, hot, view, threads):
        data = Data("shapes")
        logits, labels, target = data.array(rows, classes), data.labels(rows, classes), data.array(rows, classes)
        chosen = oracles.one_hot(labels, classes).astype(np.float32) if hot else labels
        with using_threads(threads):
            loss, p = ops.softmax_cross_entropy_forward(seen(logits, view), chosen)
            dlogits = ops.softmax_cross_entropy_backward(p, chosen, 0.5)
            squared = ops.mean_squared_error_forward(seen(logits, view), seen(target, view))
            dsquared = ops.mean_squared_error_backward(seen(logits, view), seen(target, view), 0.5)
        exact_loss, exact_p = oracles.softmax_cross_entropy_forward(logits, labels)
        assert_within(loss, exact_loss, 2e-6 * (1 + np.abs(exact_loss)))
        assert_within(p, exact_p, 1e-6)
        assert_within(dlogits, oracles.softmax_cross_entropy_backward(exact_p, labels, 0.5), 1e-6)
        exact = oracles.mean_squared_error_forward(logits, target)
        assert_within(squared, exact, tolerance(classes) * (1 + exact))
        assert_within(dsquared, oracles.mean_squared_error_backward(logits, target, 0.5), 1e-6 * (1 + np.abs(dsquared)))

    search(examples, body, SIZE, LENGTH, st.booleans(), VIEW, THREADS)


@pytest.mark.parametrize("examples", short_and_long(SHORT, LONG))
def test_updates(examples):
    def body(shape, threads):
        data = Data("shapes")
        w, g, v = data.array(*shape), data.array(*shape), np.abs(data.array(*shape))
        expected_v = 0.9 * v.astype(np.float64) - 0.1 * g
        found, velocity = w.copy(), v.copy()
        with using_threads(threads):
            ops.sgd_update(found, g, velocity, learning_rate=0.1, momentum=0.9)
        assert_within(velocity, expected_v, 1e-6 * (1 + np.abs(v) + np.abs(g)))
        assert_within(found, w + expected_v, 1e-6 * (1 + np.abs(w) + np.abs(expected_v)))

    search(examples, body, st.lists(st.integers(1, 40), min_size=1, max_size=3), THREADS)


def resident_bytes() -> int:
    """What is in memory after the collector and the allocator have given back what nobody uses."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("shapes", short_and_long(20, 1000))
def test_memory_of_many_shapes_is_flat(shapes):
    """Operators and models of ever other shapes, ten epochs: the resident size stays where it was."""
    rng = np.random.default_rng(4)

    def use(number: int) -> None:
        for _ in range(number):
            n, h, c, f = (int(v) for v in rng.integers(1, (9, 30, 40, 40)))
            x, kernel = np.ones((n, h + 2, h + 2, c), np.float32), np.ones((3, 3, c, f), np.float32)
            y = ops.conv2d_forward(x, kernel)
            ops.conv2d_backward(y, x, kernel)
            ops.batch_norm_forward(y)
            ops.dense_forward(x.reshape(n, -1), np.ones(((h + 2) ** 2 * c, f), np.float32))
            model = fastbn.Sequential([fastbn.Input((h + 2, h + 2, c)), layers.Conv2D(f, 3), layers.Flatten()])
            model.add(layers.Dense(3, activation="softmax"))
            model.compile("adam", "sparse_categorical_crossentropy")
            model.fit(x, np.zeros(n, np.int32), epochs=10 if shapes == 20 else 1, verbose=0)
            model.predict(x)

    use(shapes // 4)
    before = resident_bytes()
    use(shapes)
    grown = (resident_bytes() - before) / 2**20
    print(f"{shapes} shapes: {grown:.1f} MiB more")
    assert grown < 24

    model = fastbn.Sequential([fastbn.Input((28, 28, 1)), layers.Conv2D(8, 3), layers.Flatten(), layers.Dense(10)])
    model.compile("adam", "mean_squared_error")
    x, y = np.ones((600, 28, 28, 1), np.float32), np.ones((600, 10), np.float32)
    model.fit(x, y, epochs=2, verbose=0)
    before = resident_bytes()
    model.fit(x, y, epochs=10, verbose=0)
    grown = (resident_bytes() - before) / 2**20
    print(f"ten epochs: {grown:.1f} MiB more")
    assert grown < 4
