"""Bad input to programs and graphs: the right exception, and nothing changes."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from cases.networks import BY_NAME
from harness.arrays import Guarded
from harness.compare import assert_same
from harness.programs import Program, layer_fields, make_graph
from oracles.network import Layer

from fastbn import _core

CASE = BY_NAME["cnn_bn"]
NAN = float("nan")


@pytest.fixture
def program():
    return Program(CASE.layers, CASE.loss, oracles.Adam(0.01), max_batch=CASE.batch, keep_gradients=True)


def state(program):
    names = CASE.network.trainable()
    slots = [program.get(slot, names) for slot in ("momentum", "velocity")]
    values = [v.tobytes() for d in (program.get(), *slots) for v in d.values()]
    return program.core.iteration, values


X, LABELS = CASE.data()
INDEX = np.arange(CASE.batch, dtype=np.int64)

STEPS = {
    "label_above": ((X, np.full_like(LABELS, 10), None, 0, 4), ValueError, "label"),
    "last_label_below": ((X, np.append(LABELS[:-1], -1).astype(np.int32), None, 0, CASE.batch), ValueError, "label"),
    "x_shape": ((X[:, 1:].copy(), LABELS, None, 0, 4), ValueError, "x must have shape"),
    "x_rank": ((X[0], LABELS, None, 0, 1), ValueError, "rank"),
    "x_dtype": ((X.astype(np.float64), LABELS, None, 0, 4), TypeError, "float32"),
    "x_bytes": ((X.astype(np.uint8), LABELS, None, 0, 4), TypeError, "float32"),
    "labels_dtype": ((X, LABELS.astype(np.int64), None, 0, 4), TypeError, "int32"),
    "labels_length": ((X, LABELS[1:].copy(), None, 0, 4), ValueError, "y must have shape"),
    "too_many": ((np.tile(X, (2, 1, 1, 1)), np.tile(LABELS, 2), None, 0, CASE.batch + 1), ValueError, "max_batch"),
    "count_past_the_end": ((X, LABELS, None, 10, CASE.batch), ValueError, "count"),
    "begin_negative": ((X, LABELS, None, -1, 4), ValueError, "begin"),
    "count_negative": ((X, LABELS, None, 0, -1), ValueError, "count"),
    "index_above": ((X, LABELS, INDEX + 1, 0, CASE.batch), ValueError, "index"),
    "index_below": ((X, LABELS, INDEX - 1, 0, CASE.batch), ValueError, "index"),
    "index_dtype": ((X, LABELS, INDEX.astype(np.int32), 0, 4), TypeError, "int64"),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps(name, program):
    program.train(X, LABELS)
    before = state(program)
    arguments, error, words = STEPS[name]
    for method in (program.core.train, program.core.evaluate):
        if name == "too_many" and method == program.core.evaluate:
            continue  # any number may be evaluated
        with pytest.raises(error) as caught:
            method(*arguments)
        assert words in str(caught.value)
        assert "Received: " in str(caught.value)
    assert state(program) == before
    program.train(X, LABELS)  # it goes on


def test_prediction(program):
    out = Guarded((CASE.batch, 10))
    wrong = [
        (X[:, 1:].copy(), out.array, ValueError),
        (X, out.array[1:], ValueError),
        (X, out.array.astype(np.float64), TypeError),
        (X, out.array[:, ::-1], (ValueError, TypeError)),
    ]
    for x, to, error in wrong:
        with pytest.raises(error, match="Received: "):
            program.core.predict(x, None, 0, CASE.batch, to)
        out.check_untouched()
    with pytest.raises(ValueError, match=r"node.*Received: "):
        program.core.node_output(99, X, None, 0, CASE.batch, out.array)
    out.check_untouched()
    program.core.predict(X, None, 0, CASE.batch, out.array)
    assert_same(out.check(), program.predict(X))


def test_parameters(program):
    kernel = program.get(names=["conv_1/kernel"])["conv_1/kernel"]
    for arguments, error in (
        ((0, "value", kernel[1:].copy()), ValueError),
        ((0, "value", kernel.astype(np.float64)), TypeError),
        ((0, "weight", kernel), ValueError),
        ((0, "velocity_hat", kernel), ValueError),
        ((99, "value", kernel), ValueError),
        ((-1, "value", kernel), ValueError),
    ):
        with pytest.raises(error, match="Received: "):
            program.core.set(*arguments)
    for parameter, what in ((0, "nothing"), (99, "value"), (-1, "value")):
        with pytest.raises(ValueError, match="Received: "):
            program.core.get(parameter, what)
    with pytest.raises(ValueError, match=r"iteration.*Received: "):
        program.core.iteration = -1
    for rate in (NAN, -1.0):
        with pytest.raises(ValueError, match=r"learning_rate.*Received: "):
            program.core.learning_rate = rate
    assert_same(program.get(names=["conv_1/kernel"])["conv_1/kernel"], kernel)


IMAGE = Layer("input", "input", shape=(6, 6, 2))
ROW = Layer("input", "input", shape=(8,))

GRAPHS = {
    "kernel_above_image": [IMAGE, Layer("conv2d", "a", filters=3, kernel_size=7)],
    "conv_of_a_row": [ROW, Layer("conv2d", "a", filters=3, kernel_size=3)],
    "no_filters": [IMAGE, Layer("conv2d", "a", filters=0, kernel_size=3)],
    "stride_zero": [IMAGE, Layer("conv2d", "a", filters=2, kernel_size=3, strides=0)],
    "groups": [IMAGE, Layer("conv2d", "a", filters=3, kernel_size=3, groups=2)],
    "pool_above_image": [IMAGE, Layer("max_pool2d", "a", pool_size=7)],
    "pool_of_a_row": [ROW, Layer("avg_pool2d", "a", pool_size=2)],
    "no_units": [ROW, Layer("dense", "a", units=0)],
    "negative_units": [ROW, Layer("dense", "a", units=-3)],
    "rate": [ROW, Layer("dropout", "a", rate=1.5)],
    "rate_nan": [ROW, Layer("dropout", "a", rate=NAN)],
    "epsilon": [ROW, Layer("batch_norm", "a", epsilon=-1.0)],
    "epsilon_nan": [ROW, Layer("batch_norm", "a", epsilon=NAN)],
    "momentum": [ROW, Layer("batch_norm", "a", momentum=1.5)],
    "reshape": [ROW, Layer("reshape", "a", shape=(3, 3))],
    "scale": [ROW, Layer("rescaling", "a", scale=NAN)],
    "add": [ROW, Layer("dense", "b", units=3), Layer("add", "a", ("b", "input"))],
    "concatenate": [IMAGE, Layer("max_pool2d", "b", pool_size=2), Layer("concatenate", "a", ("b", "input"))],
    "twice_a_name": [ROW, Layer("dense", "a", units=3), Layer("dense", "a", units=3)],
    "no_extent": [Layer("input", "a", shape=(0, 3))],
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name):
    """The last layer is the wrong one; the message names it."""
    *good, bad = GRAPHS[name]
    graph, nodes = make_graph(good)
    inputs = [nodes[i] for i in bad.inputs] or list(nodes.values())[-1:]
    kind, fields = layer_fields(bad)
    with pytest.raises(ValueError, match=r"'a'.*Received: |Received: 'a'"):
        graph.add(kind, bad.name, inputs, **fields)


@pytest.mark.parametrize("units", [2**40, 2**61])
def test_sizes_beyond_int64(units):
    graph, _ = make_graph([Layer("input", "input", shape=(2**24,))])
    with pytest.raises(MemoryError, match="Received: "):
        graph.add(_core.LAYER_DENSE, "dense", [0], units=units, use_bias=False)


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"max_batch": -1}, {"block_bytes": -1}], ids=str)
def test_programs(options):
    with pytest.raises(ValueError, match="Received: "):
        Program(CASE.layers, CASE.loss, **options)


@pytest.mark.parametrize(
    "optimizer",
    [oracles.SGD(NAN), oracles.SGD(0.1, momentum=-0.5), oracles.RMSprop(0.1, rho=2.0), oracles.Adam(0.1, beta_2=1.0)],
    ids=str,
)
def test_optimizers(optimizer):
    with pytest.raises(ValueError, match="Received: "):
        Program(CASE.layers, CASE.loss, optimizer)
