"""Activations and dropout."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from cases import UNIT, Data, tolerance
from cases.pointwise import ACTIVATIONS, DROPOUT, SHAPES
from harness.arrays import VIEWS, Guarded
from harness.compare import assert_same, assert_within
from harness.library import instruction_sets, same_on_all_threads, using_isa

from fastbn import ops

ALPHA = 0.2  # of leaky_relu, its default in ops


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_activation(name, shape, isa):
    data = Data(name)
    x, dy = 3 * data.array(*shape), data.array(*shape)
    y = oracles.activation_forward(x, name, ALPHA)
    (found,) = same_on_all_threads(lambda: ops.activation_forward(x, name))
    length = shape[-1] if name == "softmax" else 1
    below = x.max(axis=-1, keepdims=True, initial=0) - x if name == "softmax" else 0.0  # rounded before exp
    assert_within(found, y, (tolerance(length) + 2 * UNIT * below) * np.abs(y), "y")
    y = y.astype(np.float32)
    (found,) = same_on_all_threads(lambda: ops.activation_backward(dy, y, name))
    size = np.abs(dy)
    if name == "softmax":
        size = y * (size + (size * y).sum(axis=-1, keepdims=True))
    assert_within(found, oracles.activation_backward(dy, y, name, ALPHA), tolerance(length) * size, "dx")


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_every_magnitude(name, isa):
    """From the smallest normal number to the largest, both signs, and the special values."""
    x = np.concatenate([np.geomspace(1.2e-38, 3.4e38, 4001), [0.0, np.inf]]).astype(np.float32)
    x = np.concatenate([x, -x, [np.float32(np.nan)]])
    y = oracles.activation_forward(x, name, ALPHA)
    # sigmoid of -88 and below is a subnormal number or its neighbour, which may be flushed to zero
    assert_within(ops.activation_forward(x, name), y, 8 * UNIT * np.abs(np.where(np.isfinite(y), y, 0.0)) + 1.2e-38)


def test_tanh_keeps_the_sign_of_zero_and_the_digits_of_its_slope_near_one(isa):
    y = ops.activation_forward(np.array([-0.0, 0.0, -1e-30], np.float32), "tanh")
    assert np.signbit(y).tolist() == [True, False, True]
    y = np.nextafter(np.float32(1), np.float32(0), dtype=np.float32) - np.geomspace(1e-7, 0.5, 1001).astype(np.float32)
    exact = 1 - y.astype(np.float64) ** 2
    assert_within(ops.activation_backward(np.ones_like(y), y, "tanh"), exact, 4 * UNIT * exact)


def test_sigmoid_where_float_holds_no_one_beside_its_exponential(isa):
    """Every number of [-18, -15.5]: 1 + e^-x loses the one at 2^24."""
    first, end = (int(np.float32(v).view(np.uint32)) for v in (-15.5, -18.0))
    x = np.arange(first, end, dtype=np.uint32).view(np.float32)
    y = oracles.activation_forward(x.astype(np.float64), "sigmoid", ALPHA)
    assert_within(ops.activation_forward(x, "sigmoid"), y, 2 * np.spacing(y.astype(np.float32)).astype(np.float64))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1000.0, 0.0], [1.0, 0.0]),
        ([-1000.0, -1000.0], [0.5, 0.5]),
        ([3e38, -3e38], [1.0, 0.0]),
        ([np.nan, 1.0], [np.nan, np.nan]),
        ([-np.inf, 2.0], [0.0, 1.0]),
    ],
)
def test_softmax_of_extremes(x, y, isa):
    assert_same(ops.activation_forward(np.array([x], np.float32), "softmax"), [y])


def test_nan_of_one_row_stays_there(isa):
    x = Data("softmax").array(7, 33)
    x[3, 32] = np.nan
    y = ops.activation_forward(x, "softmax")
    assert np.isnan(y[3]).all()
    assert np.isfinite(np.delete(y, 3, axis=0)).all()
    for name in ("relu", "leaky_relu", "sigmoid", "tanh"):
        assert_same(np.isnan(ops.activation_forward(x, name)), np.isnan(x), name)
        dy = np.where(x > 0, np.float32(np.nan), np.float32(1))
        assert np.isnan(ops.activation_backward(dy, np.abs(x), name)[x > 0]).all()


@pytest.mark.parametrize("offset", [0, 4])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_out(name, offset, isa):
    x, dy = Data(name).array(7, 33), Data(name).array(7, 33)
    y, dx = ops.activation_forward(x, name), None
    out = Guarded(x.shape, offset=offset)
    assert ops.activation_forward(x, name, out=out.array) is out.array
    assert_same(out.check(), y)
    dx = ops.activation_backward(dy, y, name)
    out = Guarded(x.shape, offset=offset)
    ops.activation_backward(dy, y, name, out=out.array)
    assert_same(out.check(), dx)
    in_place = x.copy()
    ops.activation_forward(in_place, name, out=in_place)
    assert_same(in_place, y)
    in_place = dy.copy()
    ops.activation_backward(in_place, y, name, out=in_place)
    assert_same(in_place, dx)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_any_layout_of_inputs(name, view):
    x, dy = Data(name).array(3, 5, 17), Data(name).array(3, 5, 17)
    change = VIEWS[view]
    y = ops.activation_forward(x, name)
    assert_same(ops.activation_forward(change(x), name), y)
    assert_same(ops.activation_backward(change(dy), change(y), name), ops.activation_backward(dy, y, name))


@pytest.mark.parametrize(
    ("rounds", "words"),
    [
        (7, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
        (10, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ],
)
def test_philox_of_zeros(rounds, words):
    """The generator's published answers for key and counter 0."""
    assert tuple(oracles.philox(0, [0], 0, rounds)[0]) == words


@pytest.mark.parametrize(("rate", "shape"), DROPOUT, ids=str)
def test_dropout(rate, shape, isa):
    x = Data("dropout").distinct(*shape) + np.float32(0.25 * 2.0**-10)  # nothing is zero
    seed = 5 + 7 * 2**32
    exact = oracles.dropout(x, rate, seed)
    (y,) = same_on_all_threads(lambda: ops.dropout_forward(x, rate, seed))
    assert_same(y == 0, exact == 0)
    assert_within(y, exact, 2 * UNIT * np.abs(exact))
    n, mean = x.size, (1 - rate) * x.size
    assert abs((y != 0).sum() - mean) <= 5 * np.sqrt(n * rate * (1 - rate))
    dy = np.ones(shape, np.float32)
    (dx,) = same_on_all_threads(lambda: ops.dropout_backward(dy, rate, seed))
    assert_same(dx != 0, y != 0)


def test_dropout_where_the_first_sixteen_bits_do_not_decide(isa):
    """Rates beside the bits of elements of the stream: one of the two keeps that element, the other drops it."""
    ones, seed = np.ones(1003, np.float32), 3
    bits = oracles.dropout_bits(seed, ones.size)
    for place in (0, 1, 63, 64, 500, 1002):
        for rate in (bits[place] / 2.0**32, (bits[place] + 1) / 2.0**32):
            y = ops.dropout_forward(ones, rate, seed)
            assert_same(y != 0, bits / 2.0**32 >= rate)


@pytest.mark.parametrize("rate", [2.0**-20, 1e-3, 1 - 2.0**-12])
def test_share_of_small_and_large_rates(rate):
    n = 1 << 22
    kept = np.count_nonzero(ops.dropout_forward(np.ones(n, np.float32), rate, 17))
    assert abs(n - kept - n * rate) <= 5 * np.sqrt(n * rate * (1 - rate)) + 1


def test_dropout_depends_on_seed_and_place_alone():
    ones = np.ones((64, 257), np.float32)
    masks = []
    for name in instruction_sets():
        with using_isa(name):
            masks.append(ops.dropout_forward(ones, 0.5, 11))
    for mask in masks[1:]:
        assert_same(mask, masks[0])
    first = masks[0]
    assert_same(ops.dropout_forward(ones.reshape(-1)[:1000], 0.5, 11), first.reshape(-1)[:1000])
    assert_same(ops.dropout_forward(ones.reshape(2, 32, 257), 0.5, 11).reshape(64, 257), first)
    for seed in (0, 12, 2**40, 2**64 - 1):
        other = ops.dropout_forward(ones, 0.5, seed)
        assert abs((other != first).mean() - 0.5) < 0.02, "masks of two seeds agree too often"
    neighbours = (first.reshape(-1)[1:] == first.reshape(-1)[:-1]).mean()
    assert abs(neighbours - 0.5) < 0.02


def test_dropout_drops_nan_and_rate_1_gives_zeros():
    x = np.full(1000, np.nan, np.float32)
    assert_same(ops.dropout_forward(x, 1.0, 3), np.zeros(1000))
    ones = ops.dropout_forward(np.ones(1000, np.float32), 0.5, 3)
    y = ops.dropout_forward(x, 0.5, 3)
    assert_same(np.isnan(y), ones != 0)
    assert_same(y[ones == 0], np.zeros((ones == 0).sum()))
    assert_same(ops.dropout_forward(x, 0.0, 3), x)


@pytest.mark.parametrize("offset", [0, 4])
def test_dropout_out(offset, isa):
    x = Data("dropout out").array(31, 33)
    for function in (ops.dropout_forward, ops.dropout_backward):
        out = Guarded(x.shape, offset=offset)
        function(x, 0.3, 9, out=out.array)
        assert_same(out.check(), function(x, 0.3, 9))
