"""Recorded steps against float64 forward and backward passes of the same network."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from cases import UNIT
from cases.networks import BY_NAME, CASES, CROSS_ENTROPY
from cases.optimizers import OPTIMIZERS
from harness.compare import assert_same, assert_within
from harness.programs import Program
from oracles.network import Layer

# Of the largest element of a tensor. Rounding passes through every layer between loss and parameter; batch-norm over a
# dozen samples multiplies it.
OF_MAXIMUM = 1e-5


def assert_close(found, expected, what, share=OF_MAXIMUM):
    assert_within(found, expected, share * np.abs(expected).max(initial=0.0) + 1e-12, what)


def scale_of(name, gradients):
    """Largest element; of a bias or beta before a batch-norm, whose gradient is nothing but rounding, its layer's."""
    layer = name.split("/")[0]
    of_layer = max(np.abs(g).max() for n, g in gradients.items() if n.split("/")[0] == layer)
    return max(np.abs(gradients[name]).max(), 0.05 * of_layer)


def start(case, **options):
    program = Program(case.layers, case.loss, max_batch=case.batch, keep_gradients=True, **options)
    parameters = case.network.initial_parameters(seed=1)
    program.set(parameters)
    return program, parameters


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case, isa):
    program, parameters = start(case)
    assert program.names == list(parameters)
    x, labels = case.data()
    exact = case.network.step(parameters, x, labels, case.loss)
    loss, samples, correct, *_ = program.train(x, labels)
    assert samples == case.batch
    assert loss == pytest.approx(exact.loss, rel=1e-5)
    if case.loss == CROSS_ENTROPY:
        assert correct == (exact.output.argmax(axis=-1) == labels).sum()
    found = program.get("gradient", list(exact.gradients))
    for name, gradient in exact.gradients.items():
        bound = OF_MAXIMUM * scale_of(name, exact.gradients)
        assert_within(found[name], gradient, bound, f"gradient of {name}")
    after = program.get()
    for name, value in exact.state.items():
        assert_close(after[name], value, name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_ragged_batch(case):
    """Fewer samples than the program's capacity; the last one odd."""
    program, parameters = start(case)
    n = case.batch // 2 + 1
    x, labels = case.data(n)
    exact = case.network.step(parameters, x, labels, case.loss)
    loss, samples, *_ = program.train(x, labels)
    assert samples == n
    assert loss == pytest.approx(exact.loss, rel=1e-5)
    for name, gradient in exact.gradients.items():
        found = program.get("gradient", [name])[name]
        assert_within(found, gradient, 2 * OF_MAXIMUM * scale_of(name, exact.gradients), f"gradient of {name}")


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("network", ["mlp", "cnn_bn"])
def test_updates(network, name):
    """Three steps: each update against the oracle's, from the program's own float32 gradients, weights and slots."""
    case, optimizer = BY_NAME[network], OPTIMIZERS[name]
    program, _ = start(case, optimizer=optimizer)
    trainable = case.network.trainable()
    for iteration in range(3):
        assert program.core.iteration == iteration
        x, labels = case.data(seed=iteration)
        before = program.get()
        slots = {slot: program.get(slot, trainable) for slot in optimizer.slot_names()}
        program.train(x, labels)
        gradients, after = program.get("gradient", trainable), program.get()
        for parameter in trainable:
            w, g = before[parameter].astype(np.float64), gradients[parameter]
            values = [slots[slot][parameter].astype(np.float64) for slot in optimizer.slot_names()]
            optimizer.update(w, g, values, iteration)
            for slot, value in zip(optimizer.slot_names(), values, strict=True):
                found = program.get(slot, [parameter])[parameter]
                assert_within(found, value, 16 * UNIT * np.abs(value).max() + 1e-30, f"{slot} of {parameter}")
            change = np.abs(w - before[parameter])
            factor = 256 if getattr(optimizer, "centered", False) else 32
            bound = factor * UNIT * change.max() + 2 * UNIT * np.abs(w)
            assert_within(after[parameter], w, bound, parameter)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_goes_on_as_the_oracle_does(case):
    """Ten steps of SGD beside a float64 trajectory: nothing is forgotten between steps."""
    optimizer = oracles.SGD(0.02, momentum=0.9, nesterov=True)
    program, parameters = start(case, optimizer=optimizer)
    slots = {name: optimizer.slots(value) for name, value in parameters.items()}
    for iteration in range(10):
        x, labels = case.data(seed=iteration)
        exact = case.network.train(parameters, slots, x, labels, case.loss, optimizer, iteration)
        loss, *_ = program.train(x, labels)
        assert loss == pytest.approx(exact.loss, rel=1e-4)
    after = program.get()
    for name, value in parameters.items():
        assert_close(after[name], value, name, 2e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_outputs_and_prediction(case, isa):
    program, parameters = start(case)
    parameters = dict(parameters)
    rng = np.random.default_rng(5)
    for name, value in parameters.items():  # moving statistics that are not the initial ones
        if name.endswith("moving_mean"):
            parameters[name] = rng.standard_normal(value.shape).astype(np.float32).astype(np.float64)
        if name.endswith("moving_variance"):
            parameters[name] = rng.uniform(0.5, 2, value.shape).astype(np.float32).astype(np.float64)
    program.set(parameters)
    x, labels = case.data(7)
    exact = case.network.layer_outputs(parameters, x)
    for name, value in exact.items():
        if name != "input":
            assert_close(program.predict(x, name), value, f"output of {name}")
    output = case.network.predict(parameters, x)
    assert_close(program.predict(x), output, "prediction")
    loss, samples, correct, absolute, squared = program.evaluate(x, labels)
    assert samples == 7
    if case.loss == CROSS_ENTROPY:
        logits = output if case.layers[-1].options.get("activation") != "softmax" else None
        losses = case.network.losses(output, labels, case.loss, logits)
        assert correct == (output.argmax(axis=-1) == labels).sum()
    else:
        losses = case.network.losses(output, labels, case.loss)
        difference = (output - labels).reshape(7, -1)
        assert absolute == pytest.approx(np.abs(difference).mean(axis=1).sum(), rel=1e-5)
        assert squared == pytest.approx((difference**2).mean(axis=1).sum(), rel=1e-5)
    assert loss == pytest.approx(losses.mean(), rel=1e-5)
    assert_same_state(program, parameters)


def assert_same_state(program, parameters):
    for name, value in program.get().items():
        assert_same(value, np.float32(parameters[name]), name)


@pytest.mark.parametrize("samples", [0, 1, 11, 12, 13, 50])
@pytest.mark.parametrize("name", ["cnn", "cnn_bn", "mlp", "regression", "uint8", "concatenate"])
def test_any_number_of_samples(name, samples):
    """More than the program's capacity, or fewer: a sample's prediction does not depend on its company."""
    case = BY_NAME[name]
    program = Program(case.layers, case.loss, max_batch=12)
    parameters = case.network.initial_parameters(seed=1)
    program.set(parameters)
    x, labels = case.data(50)
    every = program.predict(x)
    found = program.predict(x[:samples])
    assert_same(found, every[:samples])
    loss, counted, *_ = program.evaluate(x[:samples], labels[:samples])
    assert counted == samples
    if samples:
        losses = case.network.losses(case.network.predict(parameters, x[:samples]), labels[:samples], case.loss)
        assert loss == pytest.approx(losses.mean(), rel=1e-5)
    assert_same(every[:3], np.concatenate([program.predict(x[i : i + 1]) for i in range(3)]))


@pytest.mark.parametrize("name", ["cnn", "cnn_bn", "mlp", "frozen"])
def test_an_empty_step_changes_nothing(name):
    case = BY_NAME[name]
    program, _ = start(case)
    before = program.get()
    x, labels = case.data(0)
    assert program.train(x, labels)[1] == 0
    assert_same_state(program, before)


def test_frozen_layers_stay():
    case = BY_NAME["frozen"]
    program, parameters = start(case, optimizer=oracles.Adam(0.01, weight_decay=0.1))
    for step in range(3):
        program.train(*case.data(seed=step))
    after = program.get()
    for name, value in parameters.items():
        same = np.array_equal(after[name], np.float32(value))
        frozen = name.split("/")[0] in case.network.frozen()
        assert same == frozen, name


def test_nan_of_one_sample_stays_there():
    for name in ("cnn", "cnn_bn", "mlp", "residual"):
        case = BY_NAME[name]
        program, _ = start(case)
        x, _ = case.data(9)
        clean = program.predict(x)
        x[4].fill(np.nan)
        y = program.predict(x)
        assert np.isnan(y[4]).all()
        assert_same(np.delete(y, 4, axis=0), np.delete(clean, 4, axis=0))


def test_bytes_are_scaled_only_by_a_rescaling_layer():
    case = BY_NAME["uint8"]
    program, parameters = start(case)
    x, _ = case.data(9)
    assert_close(program.predict(x), case.network.predict(parameters, x), "prediction")
    with pytest.raises((ValueError, TypeError), match="Received"):
        Program([case.layers[0], *case.layers[2:]], case.loss)
    with pytest.raises(TypeError, match="Received"):
        program.core.predict(x.astype(np.float32), None, 0, 9, np.zeros((9, 5), np.float32))


def test_moving_statistics_after_many_steps():
    case = BY_NAME["bn_everywhere"]
    program, parameters = start(case, optimizer=oracles.SGD(0.0))
    for seed in range(20):
        x, labels = case.data(seed=seed)
        state = case.network.step(parameters, x, labels, case.loss).state
        parameters.update(state)
        program.train(x, labels)
    after = program.get()
    for name in state:
        assert_close(after[name], parameters[name], name)


@pytest.mark.parametrize("classes", [1, 2, 7, 10, 16, 17, 40, 64, 70])
@pytest.mark.parametrize("one_hot", [False, True])
def test_the_first_greatest_logit_is_the_prediction(classes, one_hot, isa):
    """Ties, infinities and NaN as NumPy's argmax has them, one sample at a time and all at once."""
    rng = np.random.default_rng(classes)
    x = rng.integers(-1, 2, (61, classes)).astype(np.float32)  # many ties
    x[rng.random(x.shape) < 0.05] = np.inf
    x[rng.random(x.shape) < 0.05] = -np.inf
    x[rng.random(x.shape) < 0.05] = np.nan
    x[1], x[2] = -np.inf, np.nan
    greatest = x.argmax(axis=-1)
    hit = rng.random(61) < 0.5
    labels = np.where(hit, greatest, (greatest + 1) % classes).astype(np.int32)
    expected = labels == greatest
    targets = oracles.one_hot(labels, classes).astype(np.float32) if one_hot else labels
    layers = [Layer("input", "input", shape=(classes,)), Layer("activation", "linear", activation="linear")]
    program = Program(layers, CROSS_ENTROPY, max_batch=61, one_hot=one_hot)
    assert program.evaluate(x, targets)[2] == expected.sum()
    for i in range(61):
        assert program.evaluate(x[i : i + 1], targets[i : i + 1])[2] == expected[i]
