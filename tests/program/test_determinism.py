"""The same bits on any number of threads, for any cache budget, on every repetition, however rows are handed over."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from cases.networks import BY_NAME, CASES, CROSS_ENTROPY
from harness.compare import assert_same
from harness.library import THREADS, using_threads
from harness.programs import Program
from oracles.network import Layer

OPTIMIZER = oracles.RMSprop(0.01, momentum=0.5)


def with_dropout(layers):
    """The same network with its dropout layers switched on: masks must not depend on threads either."""
    return [
        Layer("dropout", layer.name, layer.inputs, rate=0.25) if layer.kind == "dropout" else layer for layer in layers
    ]


def trained(case, *, steps=4, batch=None, one_hot=False, threads=1, layers=None, optimizer=OPTIMIZER, **options):
    """Bytes of everything that training leaves behind, weights, slots, moving statistics, losses, and predictions."""
    batch = case.batch if batch is None else batch
    with using_threads(threads):
        layers = with_dropout(case.layers) if layers is None else layers
        program = Program(layers, case.loss, optimizer, max_batch=batch, one_hot=one_hot, **options)
        program.set(case.network.initial_parameters(seed=2))
        losses = []
        for step in range(steps):
            n = batch if step % 2 == 0 else batch - 5  # a ragged batch in between
            x, labels = case.data(n, seed=step)
            if one_hot:
                labels = oracles.one_hot(labels, case.network.shapes[case.layers[-1].name][-1])
            losses.append(program.train(x, labels)[0])
        names = case.network.trainable()
        state = {f"{n}:{slot}": v for slot in optimizer.slot_names() for n, v in program.get(slot, names).items()}
        return {**program.get(), **state, "losses": np.array(losses), "predictions": program.predict(x)}


def assert_bits(found, expected, what):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes(), f"{name} differs: {what}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_threads_and_repetition(case, isa):
    expected = trained(case)
    for threads in (*THREADS[1:], 1):
        assert_bits(trained(case, threads=threads), expected, f"{threads} threads")


@pytest.mark.parametrize("batch", [12, 61])  # chunks of one sample, and of four: one block and four
@pytest.mark.parametrize("block_bytes", [1, 1000, 20_000, 10**9])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_block_bytes(case, block_bytes, batch):
    options = {"batch": batch, "steps": 2}
    expected = trained(case, **options)
    found = trained(case, block_bytes=block_bytes, **options)
    assert_bits(found, expected, f"block_bytes={block_bytes}")
    found = trained(case, block_bytes=block_bytes, threads=3, **options)
    assert_bits(found, expected, f"block_bytes={block_bytes}, 3 threads")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sample_is_predicted_alone_as_among_others(case):
    x, _ = case.data(61)
    program = Program(case.layers, max_batch=61, block_bytes=1)
    together = program.predict(x)
    assert_same(np.concatenate([program.predict(x[i : i + 1]) for i in range(len(x))]), together)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_keeping_gradients_and_timing_change_nothing(case):
    expected = trained(case)
    assert_bits(trained(case, keep_gradients=True), expected, "keep_gradients")
    assert_bits(trained(case, timing=True, threads=2), expected, "timing")


SGDS = [
    oracles.SGD(0.1),
    oracles.SGD(0.1, momentum=0.9),
    oracles.SGD(0.1, momentum=0.9, nesterov=True),
    oracles.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    oracles.SGD(0.1, weight_decay=0.01),
]


@pytest.mark.parametrize("optimizer", SGDS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sgd_in_the_place_of_a_gradient(case, optimizer, isa):
    """Products of dense layers end in the update; where gradients are kept, the update follows: the same bits."""
    expected = trained(case, optimizer=optimizer, keep_gradients=True)
    assert_bits(trained(case, optimizer=optimizer, threads=2), expected, "updated in place")


@pytest.mark.parametrize("case", [c for c in CASES if c.loss == CROSS_ENTROPY], ids=str)
def test_labels_as_numbers_or_one_hot(case):
    assert_bits(trained(case, one_hot=True), trained(case), "one-hot labels")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_by_index(case):
    """Gathering rows inside the step equals gathering them before."""
    x, labels = case.data(40)
    index = np.random.default_rng(3).permutation(40).astype(np.int64)
    programs = [Program(with_dropout(case.layers), case.loss, OPTIMIZER, max_batch=case.batch) for _ in range(3)]
    for begin in range(0, 36, case.batch):
        count = min(case.batch, 36 - begin)
        rows = index[begin : begin + count]
        results = (
            programs[0].train(x[rows], labels[rows]),
            programs[1].train(x, labels, index, begin, count),
            programs[2].train(x[index], labels[index], None, begin, count),
        )
        assert results[0] == results[1] == results[2]
    for program in programs[1:]:
        assert_bits(program.get(), programs[0].get(), "rows by index")
    assert_same(programs[1].predict(x[index]), programs[0].predict(x)[index])
    whole = programs[0].evaluate(x, labels, index)
    assert whole[2] == programs[0].evaluate(x, labels)[2]
    assert whole[0] == pytest.approx(programs[0].evaluate(x, labels)[0], rel=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn_bn"])
def test_the_seed_decides(name):
    case = BY_NAME[name]

    def weights(seed):
        program = Program(with_dropout(case.layers), case.loss, OPTIMIZER, max_batch=case.batch, seed=seed)
        start = program.get()
        for step in range(2):
            program.train(*case.data(seed=step))
        return start, program.get()

    (start, end), (same_start, same_end), (other_start, _) = weights(4), weights(4), weights(5)
    assert_bits(same_start, start, "initial weights of one seed")
    assert_bits(same_end, end, "weights after two steps of one seed")
    assert any(other_start[n].tobytes() != start[n].tobytes() for n in start)


@pytest.mark.parametrize("name", ["mlp", "cnn_bn"])
def test_state_can_be_moved(name):
    """Weights, slots and the iteration carry a training run over to another program, bit by bit."""
    case = BY_NAME[name]
    first = Program(case.layers, case.loss, oracles.Adam(0.01), max_batch=case.batch)
    for step in range(3):
        first.train(*case.data(seed=step))
    second = Program(case.layers, case.loss, oracles.Adam(0.01), max_batch=case.batch, seed=99)
    second.set(first.get())
    for slot in ("momentum", "velocity"):
        second.set(first.get(slot, case.network.trainable()), slot)
    second.core.iteration = first.core.iteration
    for step in range(3, 5):
        assert first.train(*case.data(seed=step)) == second.train(*case.data(seed=step))
    assert_bits(second.get(), first.get(), "moved state")
