"""Training beside Keras (JAX backend): teacher-forced steps, free-running losses, distance to a float64 trajectory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import oracles
import pytest
from cases.networks import BY_NAME
from harness.compare import assert_within
from harness.keras_peer import KerasTraining, load, margin, with_logits
from harness.programs import Program

load()

STEPS = 100
NETWORKS = ["kinked", "sigmoid_bn"]  # Conv2D, BN, both poolings, dense; relu, sigmoid, tanh
# Free-running, one unit on the other side of a kink changes the path for good, whoever is right: no kinks here.
SMOOTH_NETWORKS = ["smooth", "sigmoid_bn"]
OPTIMIZERS = {
    "sgd": oracles.SGD(0.05),
    "sgd_momentum": oracles.SGD(0.02, momentum=0.9),
    "sgd_nesterov": oracles.SGD(0.02, momentum=0.9, nesterov=True),
    "rmsprop": oracles.RMSprop(0.001),
    "adam": oracles.Adam(0.001),
}


def batches(case, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless batches of a small labelled set, so that the loss falls as training goes on."""
    x, _ = case.data(512, seed=seed)
    classes = case.network.shapes[case.layers[-1].name][-1]
    teacher = np.random.default_rng(seed).standard_normal((x[0].size, classes))
    labels = (x.reshape(len(x), -1) @ teacher).argmax(axis=1).astype(np.int32)
    rng = np.random.default_rng(seed + 1)
    while True:
        rows = rng.choice(len(x), case.batch, replace=False)
        yield x[rows], labels[rows]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_step_from_keras_states(network, name):
    """From each of 100 Keras states: one fastbn step gives Keras' gradients, slots, weights and moving statistics.

    Batches whose forward pass comes within 1e-5 of a kink are passed over: there both answers are right.
    """
    case, optimizer = with_logits(BY_NAME[network]), OPTIMIZERS[name]
    model = case.network
    keras = KerasTraining(case, optimizer, model.initial_parameters(seed=1))
    program = Program(case.layers, case.loss, optimizer, max_batch=case.batch, keep_gradients=True)
    stream = batches(case)
    for iteration in range(STEPS):
        start = keras.parameters()
        x, labels = next((x, y) for x, y in stream if margin(model, start, x) > 1e-5)
        program.set(start)
        for slot in optimizer.slot_names():
            program.set(keras.slot(slot), slot)
        program.core.iteration = iteration
        loss, gradients = keras.step(x, labels)
        found_loss, *_ = program.train(x, labels)
        assert found_loss == pytest.approx(loss, rel=1e-5)
        found = program.get("gradient", keras.trainable)
        for parameter, gradient in gradients.items():
            compare(found[parameter], gradient, f"step {iteration}: gradient of {parameter}")
        for slot in optimizer.slot_names():
            found = program.get(slot, keras.trainable)
            for parameter, value in keras.slot(slot).items():
                compare(found[parameter], value, f"step {iteration}: {slot} of {parameter}")
        found = program.get()
        for parameter, value in keras.parameters().items():
            compare(found[parameter], value, f"step {iteration}: {parameter}")


def compare(found, expected, what):
    assert_within(found, expected, 1e-5 * np.abs(expected).max(), what)


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n.startswith("sgd")])
@pytest.mark.parametrize("network", SMOOTH_NETWORKS)
def test_free_running_losses(network, name):
    """100 steps of each on its own: losses stay within 1e-4 of Keras'."""
    case, optimizer = with_logits(BY_NAME[network]), OPTIMIZERS[name]
    parameters = case.network.initial_parameters(seed=1)
    keras = KerasTraining(case, optimizer, parameters)
    program = Program(case.layers, case.loss, optimizer, max_batch=case.batch)
    program.set(parameters)
    stream = batches(case)
    losses = []
    for _ in range(STEPS):
        x, labels = next(stream)
        losses.append((program.train(x, labels)[0], keras.step(x, labels)[0]))
    found, expected = np.array(losses).T
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected[-10:].mean() < 0.9 * expected[:10].mean()  # it did learn


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
@pytest.mark.parametrize("network", SMOOTH_NETWORKS)
def test_distance_to_a_float64_trajectory(network, name):
    """Adaptive rates blow up rounding: over 100 steps fastbn strays at most twice as far from float64 as Keras does."""
    case, optimizer = with_logits(BY_NAME[network]), OPTIMIZERS[name]
    keras = KerasTraining(case, optimizer, case.network.initial_parameters(seed=0))
    ours, theirs = 0.0, 0.0
    for seed in range(3):
        exact = case.network.initial_parameters(seed=seed)
        keras.reset(exact)
        program = Program(case.layers, case.loss, optimizer, max_batch=case.batch)
        program.set(exact)
        slots = {parameter: optimizer.slots(exact[parameter]) for parameter in keras.trainable}
        stream = batches(case, seed=seed)
        for iteration in range(STEPS):
            x, labels = next(stream)
            keras.step(x, labels)
            program.train(x, labels)
            case.network.train(exact, slots, x, labels, case.loss, optimizer, iteration)
            ours += distance(program.get(), exact, keras.trainable)
            theirs += distance(keras.parameters(), exact, keras.trainable)
    assert ours <= 2 * theirs


def distance(found, exact, names) -> float:
    return float(np.sqrt(sum(((found[n] - exact[n]) ** 2).sum() for n in names)))
