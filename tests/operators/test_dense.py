"""dense against its oracle, on every instruction set and thread count."""

from __future__ import annotations

import functools

import numpy as np
import oracles
import pytest
from cases import UNIT, Data, tolerance
from cases.dense import CASES, DenseCase
from harness.arrays import VIEWS, Guarded
from harness.compare import assert_same, assert_within
from harness.library import same_on_all_threads
from harness.tiers import tiered

from fastbn import ops

BY_NAME = {case.name: case for case in CASES}
GRADIENTS = ("dx", "dkernel", "dbias")


@functools.lru_cache(maxsize=4)
def expected(case: DenseCase):
    x, kernel, bias, dy = case.inputs()
    exact_y = oracles.dense_forward(x, kernel, bias, activation=case.activation)
    y = exact_y.astype(np.float32) if case.activation else None
    gradients = oracles.dense_backward(dy, x, kernel, y=y, activation=case.activation)
    size = [None if a is None else np.abs(a) for a in (x, kernel, bias, dy)]
    y_size = oracles.dense_forward(*size[:3])
    return (x, kernel, bias, dy, y), exact_y, y_size, gradients, oracles.dense_backward(size[3], size[0], size[1])


@pytest.mark.parametrize("case", tiered(CASES))
def test_forward(case, isa):
    (x, kernel, bias, _, _), y, y_size, _, _ = expected(case)
    (found,) = same_on_all_threads(lambda: ops.dense_forward(x, kernel, bias, activation=case.activation))
    assert found.dtype == np.float32
    assert_within(found, y, tolerance(case.in_features + 1) * y_size + 8 * UNIT * np.abs(y), "y")


@pytest.mark.parametrize("case", tiered(CASES))
def test_backward(case, isa):
    (x, kernel, _, dy, y), _, _, gradients, sizes = expected(case)
    found = same_on_all_threads(lambda: ops.dense_backward(dy, x, kernel, y=y, activation=case.activation))
    lengths = case.out_features, case.rows, case.rows
    for name, a, e, length, size in zip(GRADIENTS, found, gradients, lengths, sizes, strict=True):
        assert a.dtype == np.float32
        assert_within(a, e, tolerance(length) * size, name)


@pytest.mark.parametrize("case", tiered(CASES))
def test_whole_numbers_are_exact(case, isa):
    x, kernel, bias, dy = case.inputs(integers=True)
    assert 9 * max(case.in_features, case.out_features, case.rows) + 3 < 2**24
    (found,) = same_on_all_threads(lambda: ops.dense_forward(x, kernel, bias))
    assert_same(found, oracles.dense_forward(x, kernel, bias), "y")
    found = same_on_all_threads(lambda: ops.dense_backward(dy, x, kernel))
    for name, a, e in zip(GRADIENTS, found, oracles.dense_backward(dy, x, kernel), strict=True):
        assert_same(a, e, name)


SOME = ["one_row", "primes", "features_17_31", "features_33_257", "features_257_33", "rank_4", "one_output"]


@pytest.mark.parametrize("offset", [0, 4])
@pytest.mark.parametrize("name", [*SOME, "empty_batch", "one_input", "many_rows"])
def test_writes_all_of_out_and_nothing_else(name, offset, isa):
    case = BY_NAME[name]
    x, kernel, bias, dy = case.inputs()
    y = ops.dense_forward(x, kernel, bias, activation=case.activation)
    out = Guarded(y.shape, offset=offset)
    assert ops.dense_forward(x, kernel, bias, activation=case.activation, out=out.array) is out.array
    assert_same(out.check(), y)
    gradients = ops.dense_backward(dy, x, kernel, y=y, activation=case.activation)
    outs = [Guarded(g.shape, offset=offset) for g in gradients]
    ops.dense_backward(dy, x, kernel, y=y, activation=case.activation, out=tuple(o.array for o in outs))
    for o, g in zip(outs, gradients, strict=True):
        assert_same(o.check(), g)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", SOME)
def test_any_layout_of_inputs(name, view):
    case = BY_NAME[name]
    x, kernel, bias, dy = case.inputs()
    y = ops.dense_forward(x, kernel, bias, activation=case.activation)
    change = VIEWS[view]
    assert_same(ops.dense_forward(change(x), change(kernel), change(bias), activation=case.activation), y)
    found = ops.dense_backward(change(dy), change(x), change(kernel), y=change(y), activation=case.activation)
    for a, e in zip(found, ops.dense_backward(dy, x, kernel, y=y, activation=case.activation), strict=True):
        assert_same(a, e)


@pytest.mark.parametrize("name", SOME)
def test_needed_gradients_alone_are_the_same(name):
    case = BY_NAME[name]
    x, kernel, _, dy = case.inputs()
    keys = ("x", "kernel", "bias")
    every = dict(zip(keys, ops.dense_backward(dy, x, kernel), strict=True))
    for need in (("x",), ("kernel",), ("bias",), ("kernel", "bias")):
        for key, gradient in zip(keys, ops.dense_backward(dy, x, kernel, need=need), strict=True):
            if key in need:
                assert_same(gradient, every[key], key)
            else:
                assert gradient is None


@pytest.mark.parametrize(
    "name", ["primes", "features_17_31", "features_33_257", "batch_4", "few_rows_10", "few_rows_1", "cnn_head"]
)
def test_a_row_does_not_depend_on_its_batch(name, isa):
    case = BY_NAME[name]
    x, kernel, bias, dy = case.inputs()
    y = ops.dense_forward(x, kernel, bias)
    dx = ops.dense_backward(dy, x, kernel, need=("x",))[0]
    for i in range(len(x)):
        assert_same(ops.dense_forward(x[i : i + 1], kernel, bias)[0], y[i])
        assert_same(ops.dense_backward(dy[i : i + 1], x[i : i + 1], kernel, need=("x",))[0][0], dx[i])


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("name", SOME)
def test_nan_and_infinity_reach_what_they_should(name, special, isa):
    case = BY_NAME[name]
    x, kernel, bias, dy = (None if a is None else a.copy() for a in case.inputs())
    x.reshape(-1, case.in_features)[-1, -1] = special
    y = ops.dense_forward(x, kernel, bias)
    with np.errstate(invalid="ignore"):
        exact = oracles.dense_forward(x, kernel, bias)
        exact_gradients = oracles.dense_backward(dy, x, kernel)
    assert_same(np.isnan(y), np.isnan(exact))
    assert_same(np.isfinite(y), np.isfinite(exact))
    for a, e in zip(ops.dense_backward(dy, x, kernel), exact_gradients, strict=True):
        assert_same(np.isfinite(a), np.isfinite(e))
    kernel[0, 0] = special
    dy.reshape(-1, case.out_features)[0, 0] = special
    with np.errstate(invalid="ignore"):
        exact_gradients = oracles.dense_backward(dy, x, kernel)
    for a, e in zip(ops.dense_backward(dy, x, kernel), exact_gradients, strict=True):
        assert_same(np.isfinite(a), np.isfinite(e))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, bool])
def test_other_dtypes_are_converted(dtype):
    data = Data("dtypes", integers=True)
    x, kernel = np.abs(data.array(5, 6)).astype(dtype), np.abs(data.array(6, 4)).astype(dtype)
    y = ops.dense_forward(x, kernel)
    assert y.dtype == np.float32
    assert_same(y, oracles.dense_forward(x, kernel))
