"""Shapes that nobody thought of: whole numbers, so that kernels and oracles have to agree exactly."""

from __future__ import annotations

import numpy as np
import oracles
from cases import Data
from harness.compare import assert_same
from harness.library import using_threads
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn import ops

BOUNDED = settings(max_examples=120, deadline=None, derandomize=True, database=None)


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    group_in, group_out = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    kernel = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    strides = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = (1, 1) if max(strides) > 1 else (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    pads = st.integers(0, 4)
    explicit = st.tuples(st.tuples(pads, pads), st.tuples(pads, pads))
    padding = draw(st.one_of(st.sampled_from(["valid", "same"]), explicit))
    size = []
    for axis in range(2):
        around = sum(padding[axis]) if isinstance(padding, tuple) else 0
        least = 1 if padding == "same" else max(1, (kernel[axis] - 1) * dilation[axis] + 1 - around)
        size.append(draw(st.integers(least, least + 12)))
    x = draw(st.integers(0, 3)), *size, groups * group_in
    options = {"strides": strides, "dilation": dilation, "padding": padding, "groups": groups}
    return x, (*kernel, group_in, groups * group_out), options


@BOUNDED
@given(convolutions(), st.sampled_from([1, 3]))
def test_conv2d(case, threads):
    x_shape, kernel_shape, options = case
    data = Data("hypothesis", integers=True)
    x, kernel, bias = data.array(*x_shape), data.array(*kernel_shape), data.array(kernel_shape[3])
    y = oracles.conv2d_forward(x, kernel, bias, **options)
    dy = data.array(*y.shape)
    with using_threads(threads):
        assert_same(ops.conv2d_forward(x, kernel, bias, algorithm="direct", **options), y)
        found = ops.conv2d_backward(dy, x, kernel, algorithm="direct", **options)
    for name, a, e in zip(
        ("dx", "dkernel", "dbias"), found, oracles.conv2d_backward(dy, x, kernel, **options), strict=True
    ):
        assert_same(a, e, name)


@BOUNDED
@given(st.integers(0, 70), st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]))
def test_dense(rows, fan_in, fan_out, threads):
    data = Data("hypothesis", integers=True)
    x, kernel, bias, dy = (
        data.array(rows, fan_in),
        data.array(fan_in, fan_out),
        data.array(fan_out),
        data.array(rows, fan_out),
    )
    with using_threads(threads):
        assert_same(ops.dense_forward(x, kernel, bias), oracles.dense_forward(x, kernel, bias))
        found = ops.dense_backward(dy, x, kernel)
    for a, e in zip(found, oracles.dense_backward(dy, x, kernel), strict=True):
        assert_same(a, e)


@st.composite
def pools(draw):
    size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    strides = draw(st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4))))
    pads = [st.integers(0, n - 1) for n in size]
    explicit = st.tuples(*(st.tuples(p, p) for p in pads))
    padding = draw(st.one_of(st.sampled_from(["valid", "same"]), explicit))
    image = [draw(st.integers(n, n + 9)) for n in size]
    return (draw(st.integers(0, 3)), *image, draw(st.integers(1, 40))), (size, strides, padding)


@BOUNDED
@given(pools(), st.sampled_from([1, 3]))
def test_max_pool(case, threads):
    shape, options = case
    data = Data("hypothesis", integers=True)
    x = data.array(*shape)
    y, index = oracles.max_pool2d_forward(x, *options)
    dy = data.array(*y.shape)
    with using_threads(threads):
        found, found_index = ops.max_pool2d_forward(x, *options)
        dx = ops.max_pool2d_backward(dy, found_index, shape, *options)
    assert_same(found, y)
    assert_same(found_index, index)
    assert_same(dx, oracles.max_pool2d_backward(dy, index, shape, *options))
    np.testing.assert_allclose(ops.avg_pool2d_forward(x, *options), oracles.avg_pool2d_forward(x, *options), rtol=1e-6)
    np.testing.assert_allclose(
        ops.avg_pool2d_backward(dy, shape, *options),
        oracles.avg_pool2d_backward(dy, shape, *options),
        rtol=1e-6,
        atol=1e-5,
    )


@BOUNDED
@given(st.integers(1, 300), st.integers(1, 70), st.booleans(), st.sampled_from([None, "relu"]), st.sampled_from([1, 3]))
def test_batch_norm(rows, channels, residual, activation, threads):
    data = Data("hypothesis")
    x, gamma, beta, r, dy = (
        data.array(rows, channels),
        data.array(channels),
        data.array(channels),
        data.array(rows, channels) if residual else None,
        data.array(rows, channels),
    )
    options = {"activation": activation, "epsilon": 0.1}
    with using_threads(threads):
        found = ops.batch_norm_forward(x, gamma, beta, residual=r, **options)
        y, mean, variance = found
        gradients = ops.batch_norm_backward(dy, x, gamma, mean, variance, beta=beta, y=y, residual=residual, **options)
    for a, e in zip(found, oracles.batch_norm_forward(x, gamma, beta, residual=r, **options), strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-6, atol=1e-5)
    exact = oracles.batch_norm_backward(dy, x, gamma, mean, variance, y=y, **options)
    for a, e in zip(gradients, exact, strict=False):
        np.testing.assert_allclose(a, e, rtol=2e-6, atol=1e-5 * max(1.0, np.abs(e).max()))
