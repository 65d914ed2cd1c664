"""Losses against their oracles."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from cases import UNIT, Data, tolerance
from cases.pointwise import LOSSES
from harness.arrays import VIEWS, Guarded
from harness.compare import assert_same, assert_within
from harness.library import same_on_all_threads

from fastbn import ops


@pytest.mark.parametrize(("rows", "classes"), LOSSES)
def test_cross_entropy(rows, classes, isa):
    data = Data("losses")
    logits, labels = 3 * data.array(rows, classes), data.labels(rows, classes)
    soft = np.abs(data.array(rows, classes))
    loss, p = oracles.softmax_cross_entropy_forward(logits, labels)
    below = logits.max(axis=-1, keepdims=True, initial=0) - logits  # exp turns its rounding into a relative error
    for t in (labels, oracles.one_hot(labels, classes).astype(np.float32)):
        found = same_on_all_threads(lambda t=t: ops.softmax_cross_entropy_forward(logits, t))
        size = np.abs(logits).max(axis=-1, initial=0) + np.log(classes)
        assert_within(found[0], loss, tolerance(classes) * (size + 1), "loss")
        assert_within(found[1], p, (tolerance(classes) + 2 * UNIT * below) * p, "probabilities")
    loss, _ = oracles.softmax_cross_entropy_forward(logits, soft)
    found, _ = ops.softmax_cross_entropy_forward(logits, soft)
    assert_within(found, loss, tolerance(classes) * ((size + 1) * soft.sum(axis=-1) + loss), "loss of soft labels")
    p = p.astype(np.float32)
    for t in (labels, oracles.one_hot(labels, classes).astype(np.float32), soft):
        exact = oracles.softmax_cross_entropy_backward(p, t)
        (found,) = same_on_all_threads(lambda t=t: ops.softmax_cross_entropy_backward(p, t))
        sums = np.ones((rows, 1)) if t is labels else t.sum(axis=-1, keepdims=True)
        targets = oracles.one_hot(labels, classes) if t is labels else t
        assert_within(found, exact, tolerance(classes) * (p * sums + targets), "dlogits")
        scaled = ops.softmax_cross_entropy_backward(p, t, scale=0.125)
        assert_within(scaled, exact / 8, tolerance(classes) * (p * sums + targets) / 8, "scaled dlogits")


def test_labels_of_any_kind_give_the_same_bits():
    data = Data("kinds")
    logits, labels = data.array(33, 10), data.labels(33, 10)
    loss, p = ops.softmax_cross_entropy_forward(logits, labels)
    dlogits = ops.softmax_cross_entropy_backward(p, labels)
    kinds = [labels.astype(t) for t in (np.int64, np.uint8, np.int8, np.uint64)]
    one_hot = oracles.one_hot(labels, 10)
    for t in [*kinds, one_hot.astype(np.float32), one_hot, one_hot.astype(np.int64)]:
        assert_same(ops.softmax_cross_entropy_forward(logits, t)[0], loss)
        assert_same(ops.softmax_cross_entropy_backward(p, t), dlogits)


@pytest.mark.parametrize("classes", [1, 3, 10, 16, 33, 64, 70])
def test_a_sample_has_the_same_bits_wherever_it_stands(classes, isa):
    data = Data("alone")
    logits, labels = 3 * data.array(37, classes), data.labels(37, classes)
    loss, p = ops.softmax_cross_entropy_forward(logits, labels)
    dlogits, y = ops.softmax_cross_entropy_backward(p, labels), ops.activation_forward(logits, "softmax")
    for first, end in ((0, 1), (3, 4), (5, 36), (16, 24)):
        part = slice(first, end)
        found = ops.softmax_cross_entropy_forward(logits[part], labels[part])
        assert_same(found[0], loss[part])
        assert_same(found[1], p[part])
        assert_same(ops.softmax_cross_entropy_backward(p[part], labels[part]), dlogits[part])
        assert_same(ops.activation_forward(logits[part], "softmax"), y[part])


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4, 1e30])
def test_cross_entropy_is_stable(scale, isa):
    logits = (np.array([[2, 1, 0], [0, 0, 0], [-1, 0, -3]]) * scale).astype(np.float32)
    labels = np.array([1, 2, 1], np.int32)
    loss, p = ops.softmax_cross_entropy_forward(logits, labels)
    exact, exact_p = oracles.softmax_cross_entropy_forward(logits, labels)
    assert_within(loss, exact, 8 * UNIT * (np.abs(exact) + 1))
    assert_within(p, exact_p, 8 * UNIT * exact_p + 1.2e-38)


def test_nan_of_one_row_stays_there(isa):
    data = Data("nan")
    logits, labels = data.array(9, 17), data.labels(9, 17)
    logits[4, 16] = np.nan
    loss, p = ops.softmax_cross_entropy_forward(logits, labels)
    assert np.isnan(loss[4])
    assert np.isnan(p[4]).all()
    assert np.isfinite(np.delete(loss, 4)).all()
    assert np.isfinite(np.delete(p, 4, axis=0)).all()


@pytest.mark.parametrize(("rows", "columns"), LOSSES)
def test_mean_squared_error(rows, columns, isa):
    data = Data("mse")
    p, t = data.array(rows, columns), data.array(rows, columns)
    loss = oracles.mean_squared_error_forward(p, t)
    (found,) = same_on_all_threads(lambda: ops.mean_squared_error_forward(p, t))
    assert_within(found, loss, tolerance(columns) * loss, "loss")
    exact = oracles.mean_squared_error_backward(p, t)
    (found,) = same_on_all_threads(lambda: ops.mean_squared_error_backward(p, t))
    assert_within(found, exact, 8 * UNIT * np.abs(exact), "dp")
    scaled = ops.mean_squared_error_backward(p, t, scale=0.25)
    assert_within(scaled, exact / 4, 8 * UNIT * np.abs(exact) / 4, "scaled dp")


@pytest.mark.parametrize("offset", [0, 4])
def test_writes_all_of_out_and_nothing_else(offset, isa):
    data = Data("out")
    logits, labels, t = data.array(13, 17), data.labels(13, 17), data.array(13, 17)
    loss, p = ops.softmax_cross_entropy_forward(logits, labels)
    outs = Guarded(loss.shape, offset=offset), Guarded(p.shape, offset=offset)
    ops.softmax_cross_entropy_forward(logits, labels, out=(outs[0].array, outs[1].array))
    assert_same(outs[0].check(), loss)
    assert_same(outs[1].check(), p)
    for function, arguments in (
        (ops.softmax_cross_entropy_backward, (p, labels)),
        (ops.mean_squared_error_forward, (logits, t)),
        (ops.mean_squared_error_backward, (logits, t)),
    ):
        result = function(*arguments)
        out = Guarded(result.shape, offset=offset)
        function(*arguments, out=out.array)
        assert_same(out.check(), result)


@pytest.mark.parametrize("view", VIEWS)
def test_any_layout_of_inputs(view):
    data = Data("views")
    logits, labels, t = data.array(13, 17), data.labels(13, 17), data.array(13, 17)
    change = VIEWS[view]
    loss, p = ops.softmax_cross_entropy_forward(logits, labels)
    found = ops.softmax_cross_entropy_forward(change(logits), change(labels))
    assert_same(found[0], loss)
    assert_same(found[1], p)
    found = ops.softmax_cross_entropy_backward(change(p), change(labels))
    assert_same(found, ops.softmax_cross_entropy_backward(p, labels))
    assert_same(ops.mean_squared_error_forward(change(logits), change(t)), ops.mean_squared_error_forward(logits, t))
    assert_same(ops.mean_squared_error_backward(change(logits), change(t)), ops.mean_squared_error_backward(logits, t))
