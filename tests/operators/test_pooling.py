"""Pooling against its oracles, on every instruction set and thread count."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from cases import UNIT, Data, tolerance
from cases.pooling import CASES, GLOBAL
from harness.arrays import VIEWS, Guarded
from harness.compare import assert_same, assert_within
from harness.library import same_on_all_threads
from harness.tiers import tiered

from fastbn import ops

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("integers", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("case", tiered(CASES))
def test_max_pool(case, integers, isa):
    x, dy = case.inputs(integers=integers)  # whole numbers: many ties, the first maximum is chosen
    y, index = oracles.max_pool2d_forward(x, **case.options)
    found_y, found_index = same_on_all_threads(lambda: ops.max_pool2d_forward(x, **case.options))
    assert_same(found_y, y, "y")
    assert_same(found_index, index, "index")
    assert found_index.dtype == (np.uint8 if case.window <= 256 else np.int32)
    dx = oracles.max_pool2d_backward(dy, index, x.shape, **case.options)
    size = oracles.max_pool2d_backward(np.abs(dy), index, x.shape, **case.options)
    (found,) = same_on_all_threads(lambda: ops.max_pool2d_backward(dy, found_index, x.shape, **case.options))
    assert_within(found, dx, 0.0 if integers else tolerance(case.window) * size, "dx")


@pytest.mark.parametrize("case", tiered(CASES))
def test_avg_pool(case, isa):
    x, dy = case.inputs()
    (found,) = same_on_all_threads(lambda: ops.avg_pool2d_forward(x, **case.options))
    size = oracles.avg_pool2d_forward(np.abs(x), **case.options)
    assert_within(found, oracles.avg_pool2d_forward(x, **case.options), tolerance(case.window) * size, "y")
    (found,) = same_on_all_threads(lambda: ops.avg_pool2d_backward(dy, x.shape, **case.options))
    size = oracles.avg_pool2d_backward(np.abs(dy), x.shape, **case.options)
    dx = oracles.avg_pool2d_backward(dy, x.shape, **case.options)
    assert_within(found, dx, tolerance(case.window) * size, "dx")


@pytest.mark.parametrize("name", ["cnn", "one_window", "window_256"])
def test_avg_pool_of_whole_numbers_is_exact(name, isa):
    case = BY_NAME[name]
    x, dy = case.inputs(integers=True)
    assert_same(ops.avg_pool2d_forward(x, **case.options), oracles.avg_pool2d_forward(x, **case.options))
    dx = ops.avg_pool2d_backward(dy, x.shape, **case.options)
    assert_same(dx, oracles.avg_pool2d_backward(dy, x.shape, **case.options))


@pytest.mark.parametrize("shape", GLOBAL, ids=str)
def test_global_avg_pool(shape, isa):
    data = Data("global")
    x, dy = data.array(*shape), data.array(shape[0], shape[3])
    (found,) = same_on_all_threads(lambda: ops.global_avg_pool2d_forward(x))
    size = oracles.global_avg_pool2d_forward(np.abs(x))
    assert_within(found, oracles.global_avg_pool2d_forward(x), tolerance(shape[1] * shape[2]) * size, "y")
    (found,) = same_on_all_threads(lambda: ops.global_avg_pool2d_backward(dy, shape))
    dx = oracles.global_avg_pool2d_backward(dy, shape)
    assert_within(found, dx, 4 * UNIT * np.abs(dx), "dx")


@pytest.mark.parametrize("shape", [(2, 4, 4, 17), (3, 8, 2, 5)], ids=str)
def test_global_avg_pool_of_whole_numbers_is_exact(shape, isa):
    data = Data("global", integers=True)
    x, dy = data.array(*shape), data.array(shape[0], shape[3])
    assert_same(ops.global_avg_pool2d_forward(x), oracles.global_avg_pool2d_forward(x))
    assert_same(ops.global_avg_pool2d_backward(dy, shape), oracles.global_avg_pool2d_backward(dy, shape))


SPECIAL = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("special", SPECIAL, ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "cnn_small",
        "channels_2",
        "channels_8",
        "odd_image",
        "channels_33",
        "same",
        "explicit_asymmetric",
        "window_289",
        "cnn",
    ],
)
def test_nan_and_infinity(name, special, isa):
    case = BY_NAME[name]
    x, _ = case.inputs()
    rng = np.random.default_rng(0)
    x[rng.random(x.shape) < 0.05] = special
    y, index = oracles.max_pool2d_forward(x, **case.options)
    found_y, found_index = ops.max_pool2d_forward(x, **case.options)
    assert_same(found_y, y, "y")
    assert_same(found_index, index, "index")
    with np.errstate(invalid="ignore"):
        exact = oracles.avg_pool2d_forward(x, **case.options)
    average = ops.avg_pool2d_forward(x, **case.options)
    assert_same(np.isnan(average), np.isnan(exact))
    assert_same(np.isfinite(average), np.isfinite(exact))


def test_a_window_of_minus_infinity(isa):
    x = np.full((1, 4, 4, 3), -np.inf, np.float32)
    y, index = ops.max_pool2d_forward(x, 3, 2, "same")
    exact_y, exact_index = oracles.max_pool2d_forward(x, 3, 2, "same")
    assert_same(y, exact_y)
    assert_same(index, exact_index)


def test_nan_in_dy_goes_where_the_window_points(isa):
    case = BY_NAME["channels_33"]
    x, dy = case.inputs()
    _, index = ops.max_pool2d_forward(x, **case.options)
    dy[0, 1, 1, 5] = np.nan
    dx = ops.max_pool2d_backward(dy, index, x.shape, **case.options)
    assert np.isnan(dx).sum() == 1
    dx = ops.avg_pool2d_backward(dy, x.shape, **case.options)
    assert np.isnan(dx).sum() == case.window
    assert np.isfinite(dx[1:]).all()


SOME = [
    "cnn_small",
    "channels_1",
    "channels_8",
    "odd_image",
    "channels_17",
    "channels_31",
    "same",
    "explicit_asymmetric",
    "stride_above_window",
    "empty_batch",
]


@pytest.mark.parametrize("offset", [0, 4])
@pytest.mark.parametrize("name", SOME)
def test_writes_all_of_out_and_nothing_else(name, offset, isa):
    case = BY_NAME[name]
    x, dy = case.inputs()
    y, index = ops.max_pool2d_forward(x, **case.options)
    outs = Guarded(y.shape, offset=offset), Guarded(index.shape, index.dtype, offset)
    ops.max_pool2d_forward(x, out=tuple(o.array for o in outs), **case.options)
    assert_same(outs[0].check(), y)
    assert_same(outs[1].check(), index)
    for arguments, function in (
        ((x,), ops.avg_pool2d_forward),
        ((dy, index, x.shape), ops.max_pool2d_backward),
        ((dy, x.shape), ops.avg_pool2d_backward),
    ):
        result = function(*arguments, **case.options)
        out = Guarded(result.shape, offset=offset)
        function(*arguments, out=out.array, **case.options)
        assert_same(out.check(), result)


@pytest.mark.parametrize("offset", [0, 4])
def test_global_writes_all_of_out_and_nothing_else(offset, isa):
    x, dy = Data("global out").array(3, 5, 3, 17), Data("global out").array(3, 17)
    out = Guarded((3, 17), offset=offset)
    ops.global_avg_pool2d_forward(x, out=out.array)
    assert_same(out.check(), ops.global_avg_pool2d_forward(x))
    out = Guarded(x.shape, offset=offset)
    ops.global_avg_pool2d_backward(dy, x.shape, out=out.array)
    assert_same(out.check(), ops.global_avg_pool2d_backward(dy, x.shape))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["odd_image", "channels_17", "same"])
def test_any_layout_of_inputs(name, view):
    case = BY_NAME[name]
    x, dy = case.inputs()
    change = VIEWS[view]
    y, index = ops.max_pool2d_forward(x, **case.options)
    found = ops.max_pool2d_forward(change(x), **case.options)
    assert_same(found[0], y)
    assert_same(found[1], index)
    assert_same(
        ops.max_pool2d_backward(change(dy), np.asfortranarray(index), x.shape, **case.options),
        ops.max_pool2d_backward(dy, index, x.shape, **case.options),
    )
    assert_same(ops.avg_pool2d_forward(change(x), **case.options), ops.avg_pool2d_forward(x, **case.options))
    assert_same(
        ops.avg_pool2d_backward(change(dy), x.shape, **case.options),
        ops.avg_pool2d_backward(dy, x.shape, **case.options),
    )
    assert_same(ops.global_avg_pool2d_forward(change(x)), ops.global_avg_pool2d_forward(x))


def test_channels_first():
    case = BY_NAME["explicit_asymmetric"]
    x, dy = case.inputs()

    def first(a):
        return a.transpose(0, 3, 1, 2)

    options = {**case.options, "data_format": "channels_first"}
    y, index = ops.max_pool2d_forward(x, **case.options)
    found_y, found_index = ops.max_pool2d_forward(first(x), **options)
    assert_same(found_y, first(y))
    shape = first(x).shape
    dx = first(ops.max_pool2d_backward(dy, index, x.shape, **case.options))
    assert_same(ops.max_pool2d_backward(first(dy), found_index, shape, **options), dx)
    assert_same(ops.avg_pool2d_forward(first(x), **options), first(ops.avg_pool2d_forward(x, **case.options)))
    dx = first(ops.avg_pool2d_backward(dy, x.shape, **case.options))
    assert_same(ops.avg_pool2d_backward(first(dy), shape, **options), dx)
    found = ops.global_avg_pool2d_forward(first(x), data_format="channels_first")
    assert_same(found, ops.global_avg_pool2d_forward(x))


@pytest.mark.parametrize("pool", [2, (4, 5)])
def test_a_stride_far_longer_than_the_image_costs_nothing(pool, isa):
    x = np.arange(20, dtype=np.float32).reshape(1, 4, 5, 1)
    height, width = (pool, pool) if pool == 2 else pool
    corner = x[:, :height, :width]
    far = 2**31 - 1
    assert ops.max_pool2d_forward(x, pool, strides=(far, far))[0].ravel().tolist() == [corner.max()]
    assert ops.avg_pool2d_forward(x, pool, strides=(far, far)).ravel().tolist() == [corner.mean()]
