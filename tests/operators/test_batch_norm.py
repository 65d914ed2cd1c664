"""batch_norm against its oracle, on every instruction set and thread count."""

from __future__ import annotations

import functools

import numpy as np
import oracles
import pytest
from cases import UNIT, Data
from cases.batch_norm import CASES, BatchNormCase
from harness.arrays import VIEWS, Guarded
from harness.compare import assert_same, assert_within
from harness.library import same_on_all_threads
from harness.tiers import tiered

from fastbn import ops

BY_NAME = {case.name: case for case in CASES}

# Sums are float64, so no bound grows with the number of rows: each counts the float32 roundings of one element, and
# those of the values that a sum is made of.
ROUNDINGS = 12 * UNIT


def forward_options(case):
    return {"axis": case.axis, "epsilon": case.epsilon, "activation": case.activation}


def channelwise(v, case):
    """(channels) -> broadcastable over the case's shape"""
    shape = [1] * len(case.shape)
    shape[case.axis] = -1
    return np.asarray(v, np.float64).reshape(shape)


@functools.lru_cache(maxsize=4)
def expected(case: BatchNormCase):
    x, gamma, beta, residual, dy = case.inputs()
    y, mean, variance = oracles.batch_norm_forward(x, gamma, beta, residual=residual, **forward_options(case))
    return (x, gamma, beta, residual, dy), y, mean, variance


def y_bound(case, x, gamma, beta, residual, mean, variance):
    scale = np.abs(1.0 if gamma is None else gamma) / np.sqrt(variance + case.epsilon)
    size = np.abs(x - channelwise(mean, case)) * channelwise(scale, case)
    size = size + channelwise(np.abs(0.0 if beta is None else beta) * np.ones(case.channels), case)
    return ROUNDINGS * (size + (0.0 if residual is None else np.abs(residual)))


@pytest.mark.parametrize("case", tiered(CASES))
def test_forward(case, isa):
    (x, gamma, beta, residual, _), y, mean, variance = expected(case)
    found, found_mean, found_variance = same_on_all_threads(
        lambda: ops.batch_norm_forward(x, gamma, beta, residual=residual, **forward_options(case))
    )
    assert found.dtype == np.float32
    assert found_mean.dtype == found_variance.dtype == np.float64
    assert_within(found_mean, mean, 1e-15 * np.abs(mean) + 1e-7 * np.sqrt(variance), "mean")
    assert_within(found_variance, variance, 2e-7 * variance, "variance")
    assert_within(found, y, y_bound(case, x, gamma, beta, residual, mean, variance) + 4 * UNIT * np.abs(y), "y")


@pytest.mark.parametrize("case", tiered(CASES))
def test_inference(case, isa):
    (x, gamma, beta, residual, _), _, _, _ = expected(case)
    data = Data(case.name, 1)
    mean = case.offset + case.spread * data.array(case.channels).astype(np.float64)
    variance = case.spread**2 * (0.1 + data.array(case.channels).astype(np.float64) ** 2)
    options = dict(forward_options(case), residual=residual)
    y = oracles.batch_norm_inference(x, gamma, beta, mean, variance, **options)
    (found,) = same_on_all_threads(lambda: ops.batch_norm_inference(x, gamma, beta, mean, variance, **options))
    assert_within(found, y, y_bound(case, x, gamma, beta, residual, mean, variance) + 4 * UNIT * np.abs(y), "y")


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("case", tiered(CASES))
def test_backward(case, frozen, isa):
    (x, gamma, beta, residual, dy), y, mean, variance = expected(case)
    y = y.astype(np.float32) if case.activation else None
    options = {**forward_options(case), "y": y, "frozen": frozen}
    dx, dgamma, dbeta, dresidual = oracles.batch_norm_backward(dy, x, gamma, mean, variance, **options)
    found = same_on_all_threads(
        lambda: ops.batch_norm_backward(
            dy, x, gamma, mean, variance, beta=beta, residual=residual is not None, **options
        )
    )
    r = 1 / np.sqrt(variance + case.epsilon)
    xc = np.abs(x - channelwise(mean, case))
    others = tuple(i for i in range(x.ndim) if i != case.axis % x.ndim)
    size = np.abs(dy)
    scale = channelwise(r * np.abs(1.0 if gamma is None else gamma), case)
    if frozen:
        dx_size = scale * size
    else:
        mean_size = size.mean(axis=others, keepdims=True)
        slope = (size * xc).mean(axis=others, keepdims=True)
        dx_size = scale * (size + mean_size + xc * channelwise(r**2, case) * slope)
    dgamma_size, dbeta_size = r * (size * xc).sum(axis=others), size.sum(axis=others)
    assert_within(found[0], dx, ROUNDINGS * dx_size, "dx")
    assert_within(found[1], dgamma, ROUNDINGS * dgamma_size, "dgamma")
    assert_within(found[2], dbeta, ROUNDINGS * dbeta_size, "dbeta")
    if residual is not None:
        assert_within(found[3], dresidual, 4 * UNIT * size, "dresidual")


@pytest.mark.parametrize("name", [c.name for c in CASES if c.activation and not c.residual and c.tier == "smoke"])
def test_backward_without_y_recomputes_the_activation(name, isa):
    case = BY_NAME[name]
    x, gamma, beta, _, dy = case.inputs()
    y, mean, variance = ops.batch_norm_forward(x, gamma, beta, **forward_options(case))
    arguments = dy, x, gamma, mean, variance
    given = ops.batch_norm_backward(*arguments, beta=beta, y=y, **forward_options(case))
    beta = np.zeros(case.channels) if beta is None else beta
    recomputed = ops.batch_norm_backward(*arguments, beta=beta, **forward_options(case))
    for a, e in zip(recomputed, given, strict=True):
        assert_same(a, e)


def exact_data(rows, channels, seed):
    """(x, gamma, beta, residual, dy) whose batch-norm with epsilon 1/16 is exact in float32.

    Each channel is a shuffle of +-{3, 1, 1, 1} / 4 (variance 3/16, so 1 / sqrt(variance + epsilon) = 2) or of
    +-{7, 3, 1, 1} / 4 (variance 15/16: 1), about a whole number; everything else is a small whole number.
    """
    assert rows % 8 == 0
    rng = np.random.default_rng(seed)
    tables = np.array([[3, 1, 1, 1, -3, -1, -1, -1], [7, 3, 1, 1, -7, -3, -1, -1]]) / 4
    x = np.stack(
        [rng.permutation(np.tile(tables[c % 2], rows // 8)) + rng.integers(-9, 10) for c in range(channels)], axis=1
    )
    gamma, beta = rng.integers(-2, 3, channels), rng.integers(-3, 4, channels)
    residual, dy = rng.integers(-3, 4, (rows, channels)), rng.integers(-4, 5, (rows, channels))
    return tuple(a.astype(np.float32) for a in (x, gamma, beta, residual, dy))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("rows", "channels"), [(8, 1), (16, 15), (64, 17), (1024, 33), (4096, 5)])
def test_exact(rows, channels, activation, residual, isa):
    x, gamma, beta, r, dy = exact_data(rows, channels, 0)
    options = {"epsilon": 1 / 16, "activation": activation}
    r = r if residual else None
    exact = oracles.batch_norm_forward(x, gamma, beta, residual=r, **options)
    found = same_on_all_threads(lambda: ops.batch_norm_forward(x, gamma, beta, residual=r, **options))
    y, mean, variance = exact
    # Merging shards divides by their counts: the mean's last bit of float64 shows where y is 0.
    np.testing.assert_allclose(found[0], y, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found[1], mean, rtol=1e-15, atol=1e-15)  # merging shards divides by their counts
    np.testing.assert_allclose(found[2], variance, rtol=1e-14)
    exact = oracles.batch_norm_backward(dy, x, gamma, mean, variance, y=y, **options)
    found = same_on_all_threads(
        lambda: ops.batch_norm_backward(dy, x, gamma, mean, variance, beta=beta, y=y, residual=residual, **options)
    )
    for name, a, e in zip(("dx", "dgamma", "dbeta", "dresidual"), found, exact, strict=False):
        assert_same(a, e, name)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 1e-20, 3e7])
@pytest.mark.parametrize("rows", [1, 2, 7, 257, 10007])
def test_a_constant_channel_has_no_variance(rows, value, isa):
    x = np.full((rows, 3), value, np.float32)
    x[:, 1] += np.arange(rows, dtype=np.float32)  # a neighbour that varies
    y, mean, variance = ops.batch_norm_forward(x, None, np.full(3, 0.5, np.float32))
    for c in (0, 2):
        assert variance[c] == 0.0
        assert mean[c] == np.float64(np.float32(value))
        assert_same(y[:, c], np.full(rows, 0.5))


def test_offset_does_not_cost_digits(isa):
    """float32 sums of squares would lose everything here: the offset is 10^7 spreads."""
    data = Data("offset")
    x = (1e6 + 0.1 * data.array(5003, 9).astype(np.float64)).astype(np.float32)
    _, mean, variance = ops.batch_norm_forward(x, epsilon=1e-5)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(variance, exact.var(axis=0), rtol=1e-6)


SOME = ["primes", "channels_17", "channels_33", "no_center", "no_scale", "image_residual", "axis_1", "one_row"]


@pytest.mark.parametrize("offset", [0, 4])
@pytest.mark.parametrize("name", SOME)
def test_writes_all_of_out_and_nothing_else(name, offset, isa):
    case = BY_NAME[name]
    x, gamma, beta, residual, dy = case.inputs()
    options = forward_options(case)
    y, mean, variance = ops.batch_norm_forward(x, gamma, beta, residual=residual, **options)
    outs = Guarded(y.shape, offset=offset), Guarded(mean.shape, np.float64), Guarded(mean.shape, np.float64)
    ops.batch_norm_forward(x, gamma, beta, residual=residual, out=tuple(o.array for o in outs), **options)
    for o, e in zip(outs, (y, mean, variance), strict=True):
        assert_same(o.check(), e)
    out = Guarded(y.shape, offset=offset)
    ops.batch_norm_inference(x, gamma, beta, mean, variance, residual=residual, out=out.array, **options)
    assert_same(out.check(), ops.batch_norm_inference(x, gamma, beta, mean, variance, residual=residual, **options))
    options.update(beta=beta, y=y, residual=residual is not None)
    gradients = ops.batch_norm_backward(dy, x, gamma, mean, variance, **options)
    outs = tuple(Guarded(g.shape, offset=offset) for g in gradients)
    ops.batch_norm_backward(dy, x, gamma, mean, variance, out=tuple(o.array for o in outs), **options)
    for o, e in zip(outs, gradients, strict=True):
        assert_same(o.check(), e)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", SOME)
def test_any_layout_of_inputs(name, view):
    case = BY_NAME[name]
    x, gamma, beta, residual, dy = case.inputs()
    options = forward_options(case)
    change = VIEWS[view]
    y, mean, variance = ops.batch_norm_forward(x, gamma, beta, residual=residual, **options)
    found = ops.batch_norm_forward(change(x), change(gamma), change(beta), residual=change(residual), **options)
    for a, e in zip(found, (y, mean, variance), strict=True):
        assert_same(a, e)
    options.update(residual=residual is not None)
    gradients = ops.batch_norm_backward(dy, x, gamma, mean, variance, beta=beta, y=y, **options)
    found = ops.batch_norm_backward(
        change(dy), change(x), change(gamma), change(mean), change(variance), beta=change(beta), y=change(y), **options
    )
    for a, e in zip(found, gradients, strict=True):
        assert_same(a, e)


def test_four_shards_equal_one_batch(isa):
    x = Data("shards").array(1000, 21) * 3 + 50
    shards = [ops.batch_norm_partial(part) for part in np.split(x, [250, 250, 613])]  # one of them empty
    mean, variance = ops.batch_norm_merge(*zip(*shards, strict=True))
    _, whole_mean, whole_variance = ops.batch_norm_forward(x)
    np.testing.assert_allclose(mean, whole_mean, rtol=1e-14)
    np.testing.assert_allclose(variance, whole_variance, rtol=1e-12)


@pytest.mark.parametrize(("activation", "residual"), [(None, False), ("relu", False), ("relu", True)])
def test_backward_of_four_shards_equals_that_of_one_batch(activation, residual, isa):
    case = BY_NAME["channels_257"]
    x, gamma, beta, _, dy = case.inputs()
    r = Data("shards").array(*x.shape) if residual else None
    options = {"activation": activation, "beta": beta}
    y, mean, variance = ops.batch_norm_forward(x, gamma, beta, activation=activation, residual=r)
    whole = ops.batch_norm_backward(dy, x, gamma, mean, variance, y=y, residual=residual, **options)
    parts = [slice(0, 5), slice(5, 5), slice(5, 16), slice(16, 23)]
    shards = [(dy[p], x[p], gamma, mean, variance, {"y": y[p], "residual": residual, **options}) for p in parts]
    sums = [ops.batch_norm_backward_partial(*shard[:-1], **shard[-1]) for shard in shards]
    sum_dy, sum_dy_xc = ops.batch_norm_backward_merge(*zip(*sums, strict=True))
    applied = [ops.batch_norm_backward_apply(*shard[:-1], sum_dy, sum_dy_xc, len(x), **shard[-1]) for shard in shards]
    for i, expected_part in enumerate((whole[0], *whole[3:])):
        found = np.concatenate([a[i] for a in applied])
        assert_within(found, expected_part, 4 * UNIT * np.abs(expected_part).max(), "dx" if i == 0 else "dresidual")
    rstd = 1 / np.sqrt(variance + 1e-3)
    assert_within(whole[1], rstd * sum_dy_xc, 2 * UNIT * np.abs(whole[1]).max(), "dgamma")
    assert_within(whole[2], sum_dy, 2 * UNIT * np.abs(whole[2]).max(), "dbeta")


# rows, channels, chunks of a shard: batches of one chunk, of a few, and of so many that chunks grow with the batch
CHUNKED = {
    "one_chunk": (50, 300, 1),
    "chunks": (64 * 4 - 9, 300, 1),
    "three": (64 * 3, 257, 1),
    "pairs": (64 * 7 + 1, 300, 2),
    "fours": (780 * 13 + 5, 21, 4),
    "many": (6417, 300, 16),
    "one_channel": (16384 * 4 + 3, 1, 2),
}


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("name", CHUNKED)
def test_shards_of_whole_chunks_give_the_bits_of_one_batch(name, activation, isa):
    rows, channels, chunks = CHUNKED[name]
    step = ops.batch_norm_chunk_rows(rows, channels) * chunks
    parts = [slice(i, min(i + step, rows)) for i in range(0, rows, step)]
    data = Data("chunks")
    x, dy, gamma, beta = data.array(rows, channels) * 3 + 50, data.array(rows, channels), *data.array(2, channels)
    options = {"activation": activation, "beta": beta}
    y, mean, variance = ops.batch_norm_forward(x, gamma, activation=activation, beta=beta)
    statistics = ops.batch_norm_merge(
        *zip(*(ops.batch_norm_partial(x[p], total_rows=rows) for p in parts), strict=True)
    )
    assert_same(statistics[0], mean, "mean")
    assert_same(statistics[1], variance, "variance")
    for p in parts:
        assert_same(ops.batch_norm_inference(x[p], gamma, beta, *statistics, activation=activation), y[p], "y")

    dx, dgamma, dbeta = ops.batch_norm_backward(dy, x, gamma, mean, variance, **options)
    shards = [
        ops.batch_norm_backward_partial(dy[p], x[p], gamma, mean, variance, total_rows=rows, **options) for p in parts
    ]
    sums = ops.batch_norm_backward_merge(*zip(*shards, strict=True))
    for p in parts:
        found = ops.batch_norm_backward_apply(dy[p], x[p], gamma, mean, variance, *sums, rows, **options)
        assert_same(found[0], dx[p], "dx")
    assert_same(sums[0].astype(np.float32), dbeta, "dbeta")
    assert_same((sums[1] * (1 / np.sqrt(variance + 1e-3))).astype(np.float32), dgamma, "dgamma")


def test_a_shard_is_cut_as_its_batch_is():
    """Without the batch's rows a shard has chunks of its own: near, but not the same bits."""
    rows, channels = 6417, 300
    x = Data("chunks").array(rows, channels) * 3 + 50
    step = ops.batch_norm_chunk_rows(rows, channels)
    assert step == 101
    assert ops.batch_norm_chunk_rows(step, channels) == 64
    _, mean, _ = ops.batch_norm_forward(x)
    shards = [ops.batch_norm_partial(x[i : i + step]) for i in range(0, rows, step)]
    found, _ = ops.batch_norm_merge(*zip(*shards, strict=True))
    np.testing.assert_allclose(found, mean, rtol=1e-14)
    assert (found != mean).any()


def test_nan_of_one_channel_stays_there(isa):
    case = BY_NAME["channels_33"]
    x, gamma, beta, _, dy = (None if a is None else a.copy() for a in case.inputs())
    x[3, 32] = np.nan
    y, mean, variance = ops.batch_norm_forward(x, gamma, beta, activation="relu")
    assert np.isnan(y[:, 32]).all()
    assert np.isnan(mean[32])
    assert np.isnan(variance[32])
    assert np.isfinite(y[:, :32]).all()
    dx, dgamma, dbeta = ops.batch_norm_backward(dy, x, gamma, mean, variance, y=y, activation="relu")
    assert np.isnan(dx[:, 32]).all()
    assert np.isnan(dgamma[32])
    assert np.isfinite(dx[:, :32]).all()
    assert np.isfinite(dgamma[:32]).all()
    assert np.isfinite(dbeta[:32]).all()


def test_empty_batch():
    gamma, mean, variance = np.ones(4, np.float32), np.zeros(4), np.ones(4)
    empty = np.zeros((0, 4), np.float32)
    with pytest.raises(ValueError, match=r"batch_norm.*Received"):
        ops.batch_norm_forward(empty, gamma)
    assert ops.batch_norm_inference(empty, gamma, gamma, mean, variance).shape == (0, 4)
    dx, dgamma, dbeta = ops.batch_norm_backward(empty, empty, gamma, mean, variance)
    assert dx.shape == (0, 4)
    assert_same(dgamma, np.zeros(4))
    assert_same(dbeta, np.zeros(4))
