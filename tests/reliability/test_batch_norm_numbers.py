"""Batch-norm within 4 units in the last place of float64, on data that float32 statistics lose.

The oracle computes in extended precision about the mean in float64. y, mean, variance and dx are compared with the
channel's largest result, dgamma and dbeta, which are sums, with the sum of magnitudes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from harness.compare import unit
from harness.programs import Program
from oracles.network import Layer

from fastbn import ops

EPSILON = 1e-3
ULPS = 4.0
LEAST_NORMAL = 2.0**-126
OUTPUTS = ("y", "mean", "variance", "dx", "dgamma", "dbeta")
CHANNELS = 19  # a vector and a part of one, on every instruction set


@dataclass(frozen=True)
class Numbers:
    name: str
    x: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    dy: np.ndarray


def cases() -> Iterator[Numbers]:
    rng = np.random.default_rng(20)

    def make(name: str, x: np.ndarray, gamma: float = 1.0, beta: float = 0.5, dy_offset: float = 0.0) -> Numbers:
        x = x.astype(np.float32)
        channels = x.shape[1]
        return Numbers(
            name,
            x,
            np.float32(gamma * rng.uniform(0.5, 2.0, channels) * rng.choice([-1, 1], channels)),
            np.float32(beta * rng.standard_normal(channels)),
            np.float32(dy_offset + rng.standard_normal(x.shape)),
        )

    def normal(rows: int) -> np.ndarray:
        return rng.standard_normal((rows, CHANNELS))

    for offset, std, rows in itertools.product((0, 1e2, 1e4, 1e6), (1e-2, 1e-1, 1), (8, 49, 4096)):
        yield make(f"offset {offset:g}, std {std:g}, {rows} rows", offset + std * normal(rows))
    for scale, gamma in itertools.product((1e10, 1e20, 1e30, 1e-10), (1, 1e-20, 1e20)):
        yield make(f"|x| to {scale:g}, gamma {gamma:g}", scale * normal(500), gamma, beta=0)
    for gamma in (1e-30, 1e-6, 1e6, 1e30):
        yield make(f"gamma {gamma:g}", normal(500), gamma)
    for value, rows in itertools.product((0.0, 0.1, 1e4, 3e7, -1e30), (1, 2, 5000)):
        yield make(f"constant {value:g}, {rows} rows", np.full((rows, CHANNELS), value))
    for dy_offset in (1e2, 1e4):
        yield make(f"dy with mean {dy_offset:g}", normal(500), dy_offset=dy_offset)
    yield make("3 rows", normal(3))
    yield make("one image of 7 x 7", 3 + normal(49))
    follows = make("dy that follows x", normal(500))
    yield Numbers(follows.name, follows.x, follows.gamma, follows.beta, 2 * follows.x + np.float32(1e-3) * follows.dy)


CASES = list(cases())


def oracle(case: Numbers) -> tuple[np.ndarray, ...]:
    """The six results, and the sums of magnitudes of dgamma and dbeta."""
    x, gamma, beta, dy = (a.astype(np.longdouble) for a in (case.x, case.gamma, case.beta, case.dy))
    mean = np.where((x == x[0]).all(axis=0), x[0], x.mean(axis=0)).astype(np.float64)
    xc = x - mean
    variance = (xc * xc).mean(axis=0)
    r = 1 / np.sqrt(variance + np.longdouble(EPSILON))
    sum_dy, sum_dy_xc = dy.sum(axis=0), (dy * xc).sum(axis=0)
    dx = gamma * r * (dy - sum_dy / len(x) - xc * r * r * sum_dy_xc / len(x))
    magnitudes = r * np.abs(dy * xc).sum(axis=0), np.abs(dy).sum(axis=0)
    return (xc * (r * gamma) + beta, mean, variance, dx, r * sum_dy_xc, sum_dy, *magnitudes)


def ulps_off(case: Numbers, found: tuple[np.ndarray, ...]) -> dict[str, float]:
    """The largest error of each output in units in the last place."""
    *expected, dgamma_size, dbeta_size = oracle(case)
    sizes = {"dgamma": dgamma_size, "dbeta": dbeta_size}
    off = {}
    for name, a, e in zip(OUTPUTS, found, expected, strict=True):
        error, size = np.abs(np.asarray(a, np.longdouble) - e), np.abs(sizes.get(name, e))
        if e.ndim == 2:
            error, size = error.max(axis=0), size.max(axis=0)
        error = np.maximum(error - LEAST_NORMAL, 0)  # results below the least normal number are 0
        off[name] = float(np.nan_to_num(error / unit(size), nan=np.inf).max())
    return off


def by_ops(case: Numbers) -> tuple[np.ndarray, ...]:
    y, mean, variance = ops.batch_norm_forward(case.x, case.gamma, case.beta, epsilon=EPSILON)
    dx, dgamma, dbeta = ops.batch_norm_backward(case.dy, case.x, case.gamma, mean, variance, epsilon=EPSILON)
    return y, mean, variance, dx, dgamma, dbeta


def worst(compute: Callable[[Numbers], tuple[np.ndarray, ...]]) -> dict[str, float]:
    """The largest error of each output over all cases; also what `docs/reliability.md` tabulates."""
    off = [ulps_off(case, compute(case)) for case in CASES]
    return {name: max(o[name] for o in off) for name in OUTPUTS}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_within_4_ulp(case, isa):
    found = by_ops(case)
    off = ulps_off(case, found)
    assert max(off.values()) <= ULPS, f"{case.name}: {off}"
    if case.name.startswith("constant"):
        assert (found[2] == 0).all()
        assert (found[0] == case.beta).all()


def test_one_row_has_no_gradient(isa):
    x = np.random.default_rng(0).standard_normal((1, CHANNELS)).astype(np.float32)
    gamma = np.ones(CHANNELS, np.float32)
    y, mean, variance = ops.batch_norm_forward(x, gamma, gamma)
    dx, dgamma, dbeta = ops.batch_norm_backward(x, x, gamma, mean, variance)
    assert (y == 1).all()
    assert (variance == 0).all()
    assert (dx == 0).all()
    assert (dgamma == 0).all()
    assert (dbeta == x[0]).all()


@pytest.mark.parametrize("layout", ["dense", "image"])
@pytest.mark.parametrize("case", [c for c in CASES if 8 <= len(c.x) <= 4096], ids=lambda case: case.name)
def test_programs_are_as_good(case, layout, isa):
    """The same through a program: statistics in the epilogue of the layer before, a layer that passes x on.

    The loss is sum((y - t)^2) / n of float32 y: dgamma and dbeta follow from the y that was computed.
    """
    rows = len(case.x)
    if np.abs(case.x).max() > 1e15 or np.abs(case.gamma).max() > 1e15:
        pytest.skip("the squared error would overflow")
    unit_kernel = np.eye(CHANNELS, dtype=np.float32)
    if layout == "dense":
        network = [Layer("input", "input", shape=(CHANNELS,)), Layer("dense", "same", units=CHANNELS, use_bias=False)]
        x = case.x
    else:
        pixels = next(n for n in (7, 8, 10) if rows % n == 0)
        network = [Layer("input", "input", shape=(1, pixels, CHANNELS))]
        network.append(Layer("conv2d", "same", filters=CHANNELS, kernel_size=1, use_bias=False))
        x, unit_kernel = case.x.reshape(-1, 1, pixels, CHANNELS), unit_kernel[None, None]
    network.append(Layer("batch_norm", "norm", epsilon=EPSILON, momentum=0.0))
    program = Program(network, "mean_squared_error", max_batch=len(x), keep_gradients=True)
    program.set({"same/kernel": unit_kernel, "norm/gamma": case.gamma, "norm/beta": case.beta})
    target = np.zeros_like(x)
    program.train(x, target)
    gradients = program.get("gradient", ["norm/gamma", "norm/beta"])
    statistics = program.get("value", ["norm/moving_mean", "norm/moving_variance"])  # momentum 0: the batch's
    y = oracle(case)[0].astype(np.float32)
    scale = np.float32(2 / y.size)
    made = Numbers(case.name, case.x, case.gamma, case.beta, y * scale)
    _, mean, variance, _, dgamma, dbeta, dgamma_size, dbeta_size = oracle(made)
    r = 1 / np.sqrt(variance + EPSILON)
    found = (
        (statistics["norm/moving_mean"], mean, np.abs(mean)),
        (statistics["norm/moving_variance"], variance, np.abs(variance)),
        (gradients["norm/gamma"], dgamma, dgamma_size),
        (gradients["norm/beta"], dbeta, dbeta_size),
    )
    for name, (a, e, size) in zip(("mean", "variance", "dgamma", "dbeta"), found, strict=True):
        # The last bit of the mean in float64 moves every x - mean the same way: it shows where dy has a mean.
        rounding = LEAST_NORMAL + (2 * np.spacing(np.abs(mean)) * np.abs(dbeta) * r if name == "dgamma" else 0)
        off = np.maximum(np.abs(a - e) - rounding, 0) / unit(size)
        assert off.max() <= ULPS, f"{name}: {off.max()} units in the last place"
