"""The raw extension: it takes arrays that are what the C interface wants, and refuses all others untouched."""

from __future__ import annotations

import numpy as np
import pytest

import fastbn
from fastbn import _core

X = np.arange(12, dtype=np.float32).reshape(3, 4)
KERNEL = np.ones((4, 2), np.float32)
WINDOW = {"pool_size": (2, 2), "strides": (2, 2), "padding": _core.PADDING_VALID, "pads": (0, 0, 0, 0)}


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def dense(x=X, kernel=KERNEL, bias=None, y=None):
    y = np.full((3, 2), 7, np.float32) if y is None else y
    _core.dense_forward(x, kernel, bias, y, _core.LINEAR, 0.0)
    return y


def test_computes_in_place():
    np.testing.assert_array_equal(dense(), X @ KERNEL)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"x": X.astype(np.float64)}, TypeError, "x must have dtype float32. Received: dtype float64"),
        ({"x": X.astype(">f4")}, TypeError, "x must have dtype float32"),
        ({"x": X.astype(np.int32)}, TypeError, "x must have dtype float32"),
        ({"x": X.tolist()}, TypeError, "x must be a NumPy array of float32. Received: list"),
        ({"x": None}, TypeError, "x must be a NumPy array"),
        ({"x": X.reshape(-1)}, ValueError, "x must have rank 2"),
        ({"x": np.asfortranarray(X)}, ValueError, "x must be C-contiguous"),
        ({"x": np.repeat(X, 2, axis=1)[:, ::2]}, ValueError, "x must be C-contiguous"),
        ({"x": unaligned(X)}, ValueError, "aligned"),
        ({"x": X[:, :3].copy()}, ValueError, "kernel.shape"),
        ({"bias": np.zeros(3, np.float32)}, ValueError, r"bias must have shape \(2,\)"),
        ({"y": np.full((2, 3), 7, np.float32)}, ValueError, r"y must have shape \(3, 2\)"),
        ({"y": np.full((3, 2), 7.0)}, TypeError, "y must have dtype float32"),
        ({"y": read_only(np.full((3, 2), 7, np.float32))}, ValueError, "writable"),
        ({"y": np.full((6, 2), 7, np.float32)[::2]}, ValueError, "C-contiguous"),
    ],
)
def test_refuses_other_arrays(arguments, error, words):
    y = arguments.setdefault("y", np.full((3, 2), 7, np.float32))
    with pytest.raises(error, match=rf"dense_forward: .*{words}"):
        dense(**arguments)
    assert (y == 7).all()


def test_refuses_overlap_even_in_part():
    memory = np.full(20, 7, np.float32)
    with pytest.raises(ValueError, match="y must not overlap x"):
        dense(x=memory[:12].reshape(3, 4), y=memory[11:17].reshape(3, 2))
    assert (memory == 7).all()
    dense(x=memory[:12].reshape(3, 4), y=memory[12:18].reshape(3, 2))  # side by side is well


def test_outputs_must_not_overlap_each_other():
    dy, memory = np.ones((3, 2), np.float32), np.full(16, 7, np.float32)
    with pytest.raises(ValueError, match="overlap"):
        _core.dense_backward(
            dy, X, KERNEL, None, memory[:12].reshape(3, 4), memory[8:16].reshape(4, 2), None, _core.LINEAR, 0.0
        )
    assert (memory == 7).all()


def test_in_place_where_it_is_allowed_and_nowhere_else():
    x = np.array([[-1, 2]], np.float32)
    _core.activation_forward(x, x, _core.RELU, 0.0)
    assert x.tolist() == [[0, 2]]
    flat = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="overlap"):
        _core.dropout_forward(flat, flat, 0.5, 1)
    with pytest.raises(ValueError, match="overlap"):  # the same memory but not the same place
        _core.activation_forward(flat[:3].reshape(1, 3), flat[1:].reshape(1, 3), _core.RELU, 0.0)


def test_index_dtype_of_pooling():
    x, y = np.ones((1, 4, 4, 1), np.float32), np.zeros((1, 2, 2, 1), np.float32)
    _core.max_pool2d_forward(x, y, None, **WINDOW)
    assert (y == 1).all()
    with pytest.raises(TypeError, match="index must have dtype uint8"):
        _core.max_pool2d_forward(x, y, np.zeros(y.shape, np.int32), **WINDOW)


def test_statistics_are_float64():
    with pytest.raises(TypeError, match="mean must have dtype float64"):
        _core.batch_norm_partial(X, 0, np.zeros(4, np.float32), np.zeros(4))


def test_enumerations_agree_with_names():
    optimizer = _core.Optimizer(_core.ADAM, learning_rate=0.1, amsgrad=True)
    assert optimizer.slot_names == ["momentum", "velocity", "velocity_hat"]
    with pytest.raises(ValueError, match="takes 3 slots"):
        _core.optimizer_update("adam", optimizer, 0, np.ones(2, np.float32), np.ones(2, np.float32), [])


# ------------------------------------------------------------------ programs


def graph():
    g = _core.Graph()
    source = g.add(_core.LAYER_INPUT, "input", [], shape=(4,))
    return g, g.add(_core.LAYER_DENSE, "dense", [source], units=3, use_bias=True)


def program(**options):
    g, output = graph()
    options = {"max_batch": 4, "seed": 1, **options}
    sgd = _core.Optimizer(_core.SGD, learning_rate=0.1)
    return _core.Program(g, output, loss=_core.LOSS_MEAN_SQUARED_ERROR, optimizer=sgd, **options)


ROWS = np.ones((6, 4), np.float32)
TARGETS = np.zeros((6, 3), np.float32)


def test_graph_shapes_and_costs():
    g, output = graph()
    assert g.shape(output) == (3,)
    assert g.layer_cost(output) == (15, 0, 12)
    with pytest.raises(TypeError, match="no field"):
        g.add(_core.LAYER_DENSE, "other", [0], unit=3)
    with pytest.raises(ValueError, match="unique"):
        g.add(_core.LAYER_DENSE, "dense", [0], units=3)
    with pytest.raises(ValueError, match="node"):
        g.shape(17)


@pytest.mark.parametrize(
    ("x", "y", "index", "begin", "count", "error", "words"),
    [
        (ROWS, TARGETS, None, 0, 5, ValueError, "max_batch"),
        (ROWS, TARGETS, None, 4, 3, ValueError, "begin and count"),
        (ROWS, TARGETS, None, -1, 2, ValueError, "begin and count"),
        (ROWS, TARGETS, np.array([0, 6]), 0, 2, ValueError, r"index must lie in \[0, 6\)"),
        (ROWS, TARGETS, np.array([0, -1]), 0, 2, ValueError, "index must lie in"),
        (ROWS, TARGETS, np.array([0, 1], np.int32), 0, 2, TypeError, "index must have dtype int64"),
        (ROWS, TARGETS, np.array([0, 1]), 1, 2, ValueError, "begin and count"),
        (ROWS[:, :3].copy(), TARGETS, None, 0, 2, ValueError, r"x must have shape \(6, 4\)"),
        (ROWS, TARGETS[:5], None, 0, 2, ValueError, "y must have shape"),
        (ROWS.astype(np.float64), TARGETS, None, 0, 2, TypeError, "x must have dtype float32"),
    ],
)
def test_a_refused_step_changes_nothing(x, y, index, begin, count, error, words):
    p = program()
    before = p.get(0)
    with pytest.raises(error, match=words):
        p.train(x, y, index, begin, count)
    assert p.iteration == 0
    np.testing.assert_array_equal(p.get(0), before)


def test_rows_by_index_and_by_place_are_the_same():
    rng = np.random.default_rng(0)
    x, y = rng.random((6, 4), np.float32), rng.random((6, 3), np.float32)
    order = np.array([5, 2, 3, 4, 0])
    by_index, by_place = program(), program()
    assert by_index.train(x, y, order, 1, 3) == by_place.train(x, y, None, 2, 3)
    np.testing.assert_array_equal(by_index.get(0), by_place.get(0))
    assert by_index.evaluate(x, y, order, 1, 3) == by_place.evaluate(x, y, None, 2, 3)
    out = np.empty((2, 3), np.float32)
    by_index.predict(x, order, 3, 2, out)
    expected = np.empty((6, 3), np.float32)
    by_place.predict(x, None, 0, 6, expected)
    np.testing.assert_array_equal(out, expected[[4, 0]])


def test_parameters():
    p = program(keep_gradients=True)
    assert p.parameters() == [("dense/kernel", (4, 3), True), ("dense/bias", (3,), True)]
    with pytest.raises(ValueError, match="shape"):
        p.set(0, "value", np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match="momentum"):
        p.get(0, "momentum")
    p.set(0, "value", np.zeros((4, 3), np.float32))
    p.train(ROWS, TARGETS, None, 0, 4)
    assert (p.get(1, "gradient") == 0).all()
    with pytest.raises(ValueError, match="learning_rate"):
        p.learning_rate = float("nan")
    with pytest.raises(ValueError, match="node"):
        p.node_output(9, ROWS, None, 0, 1, np.empty((1, 3), np.float32))


def test_texts():
    p = program()
    assert "dense" in p.describe()
    assert {"layer", "operation", "direction", "multiply_adds", "seconds"} <= set(p.costs(4)[0])
    assert _core.isa_in_use() in _core.isa_found().split(",")


SAMPLES, CLASSES = np.ones((4, 5), np.float32), np.array([0, 2, 1, 0], np.int32)


@pytest.fixture(scope="module")
def trained():
    """Of a network with 5 numbers in and 3 classes out."""
    model = fastbn.Sequential([fastbn.Input((5,)), fastbn.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(SAMPLES, CLASSES, verbose=0)
    return model._engine.program


@pytest.mark.parametrize(
    ("x", "y", "taken"),
    [
        (SAMPLES, CLASSES, True),
        (SAMPLES[1:3], CLASSES[1:3], True),
        (read_only(SAMPLES), read_only(CLASSES), True),
        (SAMPLES[:0], CLASSES[:0], False),
        (SAMPLES, CLASSES[:3], False),
        (SAMPLES[:, :4].copy(), CLASSES, False),
        (SAMPLES[..., None], CLASSES, False),
        (np.float32(1), CLASSES, False),
        (SAMPLES[::2], CLASSES[::2], False),
        (unaligned(SAMPLES), CLASSES, False),
        (SAMPLES.astype(np.float64), CLASSES, False),
        (SAMPLES.astype(np.uint8), CLASSES, False),
        (SAMPLES.tolist(), CLASSES, False),
        (np.ma.masked_array(SAMPLES), CLASSES, False),
        (SAMPLES, CLASSES[:, None], False),
        (SAMPLES, CLASSES.astype(np.int64), False),
        (SAMPLES, CLASSES.astype(">i4"), False),
        (SAMPLES, np.array(1, np.int32), False),
        (SAMPLES, np.array([0, 2, 3, 0], np.int32), False),
        (SAMPLES, np.array([0, -1, 2, 0], np.int32), False),
        (SAMPLES, None, False),
    ],
)
def test_what_steps_take_as_it_is(trained, x, y, taken):
    assert trained.takes(x, y) is taken


def test_one_hot_labels_that_steps_take_as_they_are():
    model = fastbn.Sequential([fastbn.Input((5,)), fastbn.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "categorical_crossentropy")
    one_hot = np.eye(3, dtype=np.float32)[CLASSES]
    model.fit(SAMPLES, one_hot, verbose=0)
    takes = model._engine.program.takes
    assert takes(SAMPLES, one_hot)
    assert not takes(SAMPLES, one_hot[:, :2].copy())
    assert not takes(SAMPLES, CLASSES)
