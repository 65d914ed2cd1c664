"""Losses of huge logits, the functions that round, long sums."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from harness.compare import unit
from harness.tiers import short_and_long

from fastbn import ops

LEAST_NORMAL = np.float32(2.0**-126)


def exact(name: str, x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    if name == "tanh":
        return np.tanh(x)
    with np.errstate(over="ignore"):
        e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1 + e)


@pytest.mark.parametrize("stride", short_and_long(8191, 1))
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_functions_within_2_ulp(name, stride, isa):
    """Every `stride`-th float32, all of them in the long run. exp itself: tests/cpp/vector_math_test.cpp."""
    worst = 0.0
    step = 1 << 22
    count = -(-(1 << 32) // stride)
    for begin in range(0, count, step):
        words = np.arange(begin, min(begin + step, count), dtype=np.uint64) * np.uint64(stride)
        x = words.astype(np.uint32).view(np.float32)
        y = ops.activation_forward(x, name)
        assert np.array_equal(np.isnan(y), np.isnan(x))
        normal = (np.abs(x) >= LEAST_NORMAL) & (np.abs(x) < np.inf)
        e = exact(name, x[normal])
        normal_result = np.abs(e) >= LEAST_NORMAL
        off = np.abs(y[normal][normal_result] - e[normal_result]) / unit(e[normal_result])
        worst = max(worst, float(off.max(initial=0)))
    assert worst <= 2.0, f"{name}: {worst} units in the last place"


@pytest.mark.parametrize("columns", [2, 10, 17, 1000])
@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_cross_entropy_of_large_logits(size, columns, isa):
    rng = np.random.default_rng(1)
    logits = np.float32(size * rng.choice([-1, -0.5, 0, 0.5, 1], (64, columns)) + rng.standard_normal((64, columns)))
    labels = rng.integers(0, columns, 64).astype(np.int32)
    loss, probabilities = ops.softmax_cross_entropy_forward(logits, labels)
    dlogits = ops.softmax_cross_entropy_backward(probabilities, labels, 1.0)
    z = logits.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    sums = np.exp(z).sum(axis=1)
    exact_loss = np.log(sums) - z[np.arange(64), labels]
    exact_p = np.exp(z) / sums[:, None]
    assert np.isfinite(loss).all()
    # the loss is a difference of two logits: their rounding shows, nothing more
    assert (np.abs(loss - exact_loss) <= 4 * unit(np.maximum(np.abs(exact_loss), 1))).all()
    assert (np.abs(probabilities - exact_p) <= 8 * unit(np.ones(1))).all()
    assert (np.abs(dlogits - (exact_p - oracles.one_hot(labels, columns))) <= 8 * unit(np.ones(1))).all()


@pytest.mark.parametrize("rows", short_and_long(1_000_000, 10_000_000))
def test_sums_of_a_million_terms(rows):
    """Sums over rows: none loses more than 4 units in the last place of the sum of magnitudes."""
    rng = np.random.default_rng(2)
    x = rng.random((rows, 3), np.float32) + np.float32(1.0)  # all positive: a running float32 sum would lose 2^-4
    dy = np.float32(1.0) + rng.random((rows, 3), np.float32)
    gamma, exact_x = np.ones(3, np.float32), x.astype(np.float64)
    _, mean, variance = ops.batch_norm_forward(x, gamma, gamma)
    assert (np.abs(mean - exact_x.mean(axis=0)) <= 4 * unit(exact_x.mean(axis=0))).all()
    assert (np.abs(variance - exact_x.var(axis=0)) <= 4 * unit(exact_x.var(axis=0))).all()
    _, dgamma, dbeta = ops.batch_norm_backward(dy, x, gamma, mean, variance)
    exact_dy = dy.astype(np.float64)
    assert (np.abs(dbeta - exact_dy.sum(axis=0)) <= 4 * unit(exact_dy.sum(axis=0))).all()
    xc, r = exact_x - exact_x.mean(axis=0), 1 / np.sqrt(exact_x.var(axis=0) + 1e-3)
    size = np.abs(exact_dy * xc).sum(axis=0) * r
    assert (np.abs(dgamma - (exact_dy * xc).sum(axis=0) * r) <= 4 * unit(size)).all()
    # the gradients of a dense layer and of a 1 x 1 convolution: chains of float32, added up
    kernel = np.ones((3, 5), np.float32)
    g = np.repeat(dy[:, :1], 5, axis=1)
    expected = exact_x.T @ g.astype(np.float64)
    bound = 64 * unit(expected)
    _, dkernel, dbias = ops.dense_backward(g, x, kernel)
    assert (np.abs(dkernel - expected) <= bound).all(), np.abs(dkernel - expected) / unit(expected)
    assert (np.abs(dbias - g.astype(np.float64).sum(axis=0)) <= 4 * unit(dbias)).all()
    images = (rows // 1000, 1000 // 8, 8)
    _, dkernel, dbias = ops.conv2d_backward(g.reshape(*images, 5), x.reshape(*images, 3), kernel[None, None])
    assert (np.abs(dkernel[0, 0] - expected) <= bound).all(), np.abs(dkernel[0, 0] - expected) / unit(expected)
    assert (np.abs(dbias - g.astype(np.float64).sum(axis=0)) <= 4 * unit(dbias)).all()
    pooled = ops.global_avg_pool2d_forward(x.reshape(1, rows // 8, 8, 3))
    assert (np.abs(pooled - exact_x.mean(axis=0)) <= 64 * unit(exact_x.mean(axis=0))).all()
