"""Batch-norm that is part of the weights, in plans of evaluation and prediction: which is and which is not, values,
weights that change, bits."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cases.networks import CROSS_ENTROPY, FLATTEN, act, bn, conv, dense, image, pool
from harness.compare import assert_same, assert_within
from harness.library import same_on_all_threads
from harness.programs import Program
from oracles import SGD
from oracles.network import Layer, Network

import fastbn
from fastbn import layers

OF_MAXIMUM = 4e-6  # of a tensor's largest element

RELU = act("relu", "relu")
MEAN = Layer("global_avg_pool2d", "mean")
OUT = dense("out", 4)


def behind(*middle: Layer, shape: tuple[int, ...] = (9, 8, 6)) -> list[Layer]:
    return [image(*shape), *middle, RELU, MEAN, OUT]


# Networks, and the batch-norms that must become part of weights, by layer.
FOLDED: dict[str, tuple[list[Layer], dict[str, str]]] = {
    "behind conv, valid": (behind(conv("conv", 8), bn("bn")), {"conv": "bn + relu"}),
    "behind conv, same": (behind(conv("conv", 8, padding="same"), bn("bn")), {"conv": "bn + relu"}),
    "behind conv, strided": (
        behind(conv("conv", 10, (3, 2), strides=(2, 1), padding="same"), bn("bn")),
        {"conv": "bn + relu"},
    ),
    "behind conv, dilated": (behind(conv("conv", 5, 2, dilation=2), bn("bn")), {"conv": "bn + relu"}),
    "behind conv, grouped": (behind(conv("conv", 12, groups=3), bn("bn")), {"conv": "bn + relu"}),
    "behind conv, depthwise": (
        behind(conv("conv", 6, groups=6, padding="same", use_bias=False), bn("bn")),
        {"conv": "bn + relu"},
    ),
    "behind conv, winograd": (
        behind(conv("conv", 64, padding="same"), bn("bn"), shape=(28, 28, 64)),
        {"conv": "bn + relu"},
    ),
    "behind conv, narrow": (behind(conv("conv", 4), bn("bn"), shape=(28, 28, 1)), {"conv": "bn + relu"}),
    "behind conv, no bias": (behind(conv("conv", 8, use_bias=False), bn("bn")), {"conv": "bn + relu"}),
    "behind conv, no scale": (behind(conv("conv", 8), bn("bn", scale=False)), {"conv": "bn + relu"}),
    "behind conv, no center": (behind(conv("conv", 8), bn("bn", center=False)), {"conv": "bn + relu"}),
    "behind conv, neither": (
        behind(conv("conv", 8, use_bias=False), bn("bn", center=False, scale=False, epsilon=0.1)),
        {"conv": "bn + relu"},
    ),
    "behind conv, leaky": (
        [image(9, 8, 6), conv("conv", 8), bn("bn"), act("leaky", "leaky_relu", alpha=0.3), MEAN, OUT],
        {"conv": "bn + leaky"},
    ),
    "behind conv, pooled": (
        [image(9, 8, 6), conv("conv", 8), bn("bn"), RELU, pool("pool"), FLATTEN, OUT],
        {"conv": "bn + relu", "pool": "conv relu"},
    ),
    "behind conv, dropout between": (
        [image(9, 8, 6), conv("conv", 8), Layer("dropout", "dropout", rate=0.5), bn("bn"), MEAN, OUT],
        {"conv": "bn"},
    ),
    "behind conv, reshaped": (
        [image(9, 8, 6), conv("conv", 8), Layer("reshape", "reshape", shape=(7, 12, 4)), bn("bn"), RELU, MEAN, OUT],
        {"conv": "bn + relu"},
    ),
    "behind conv, frozen": (behind(conv("conv", 8), bn("bn", frozen=True)), {"conv": "bn + relu"}),
    "behind conv, two branches": (
        [
            image(9, 8, 6),
            conv("a", 8),
            bn("bn_a"),
            act("relu_a", "relu"),
            conv("b", 8, inputs=("input",)),
            bn("bn_b"),
            act("relu_b", "relu"),
            Layer("concatenate", "join", ("relu_a", "relu_b")),
            MEAN,
            OUT,
        ],
        {"a": "bn_a + relu_a", "b": "bn_b + relu_b"},
    ),
    "behind dense": ([image(19), dense("dense", 40), bn("bn"), RELU, OUT], {"dense": "bn + relu"}),
    "behind dense, no bias": ([image(19), dense("dense", 33, use_bias=False), bn("bn"), OUT], {"dense": "bn"}),
    "behind dense, wide": ([image(900), dense("dense", 700), bn("bn"), RELU, OUT], {"dense": "bn + relu"}),
    "behind dense, reshaped": (
        [image(19), dense("dense", 96), Layer("reshape", "reshape", shape=(4, 4, 6)), bn("bn"), RELU, MEAN, OUT],
        {"dense": "bn + relu"},
    ),
    "behind dense, of rows": ([image(5, 7), dense("dense", 9), bn("bn"), FLATTEN, OUT], {"dense": "bn"}),
    "behind the last layer": ([image(9, 8, 6), conv("conv", 8), bn("bn")], {"conv": "bn"}),
}

# Networks with a batch-norm that must stay a step of its own.
KEPT: dict[str, list[Layer]] = {
    "before conv": [image(9, 8, 6), conv("first", 8, activation="tanh"), bn("bn"), conv("conv", 5)],
    "before dense": [image(19), dense("first", 40, "sigmoid"), bn("bn"), dense("dense", 33, "sigmoid")],
    "before conv, same": [
        *(image(9, 8, 6), conv("first", 8, activation="relu"), bn("bn"), conv("conv", 5, padding="same")),
    ],
    "two readers of the convolution": [
        *(image(9, 8, 6), conv("conv", 8), bn("bn"), act("tanh", "tanh")),
        *(Layer("add", "add", ("tanh", "conv")), MEAN, OUT),
    ],
    "two readers of the batch-norm": [
        *(image(9, 8, 6), conv("first", 8, activation="relu"), bn("bn"), conv("conv", 8, 1)),
        *(Layer("concatenate", "join", ("conv", "bn")), MEAN, OUT),
    ],
    "behind an activation": [image(9, 8, 6), conv("conv", 8, activation="relu"), bn("bn"), MEAN, OUT],
    "activation between": [image(9, 8, 6), conv("first", 8, activation="relu"), bn("bn"), RELU, conv("conv", 5)],
    "the last layer": [image(19), dense("dense", 7, "relu"), bn("bn")],
    "residual": [
        *(image(9, 8, 6), conv("conv_0", 8, padding="same", activation="relu")),
        *(conv("conv", 8, padding="same", use_bias=False), bn("bn")),
        *(Layer("add", "add", ("bn", "conv_0")), act("relu_1", "relu"), MEAN, OUT),
    ],
    "another number of channels": [image(9, 8, 6), conv("conv", 8), FLATTEN, bn("bn"), RELU, OUT],
    "on the data": [image(19), bn("bn"), OUT],
}

ALL = {name: chain for name, (chain, _) in FOLDED.items()} | KEPT


def parameters_of(chain: list[Layer], seed: int = 1) -> dict[str, np.ndarray]:
    """Initial ones, but for moving statistics of a batch that was nothing special."""
    rng = np.random.default_rng(seed)
    values = Network(chain).initial_parameters(seed)
    for name, value in values.items():
        if name.endswith("moving_mean"):
            values[name] = rng.standard_normal(value.shape).astype(np.float32).astype(np.float64)
        if name.endswith("moving_variance"):
            values[name] = rng.uniform(0.2, 2, value.shape).astype(np.float32).astype(np.float64)
    return values


def start(chain: list[Layer], loss: str | None = None, **options) -> tuple[Program, dict[str, np.ndarray]]:
    program, parameters = Program(chain, loss, **options), parameters_of(chain)
    program.set(parameters)
    return program, parameters


def data(chain: list[Layer], samples: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((samples, *chain[0].options["shape"])).astype(np.float32)


def assert_close(found, expected, what="result"):
    assert_within(found, expected, OF_MAXIMUM * np.abs(expected).max(), what)


def fused_lines(program: Program) -> list[str]:
    text = program.core.describe()
    if "\nfused\n" not in text:
        return []
    return [line.strip() for line in text.split("\nfused\n")[1].split("\n\n")[0].splitlines()]


@pytest.mark.parametrize("name", FOLDED)
def test_plan_without_normalising(name):
    chain, partners = FOLDED[name]
    program = Program(chain)
    text = program.core.describe()
    assert "normalise" not in text
    assert "coefficients" not in text
    kinds = {layer.name: layer.kind for layer in chain}
    lines = fused_lines(program)
    for layer, fused in partners.items():
        assert f"{kinds[layer]} {layer} + {fused}" in lines


@pytest.mark.parametrize("name", KEPT)
def test_plan_that_normalises(name):
    assert "bn: normalise" in Program(KEPT[name]).core.describe()


@pytest.mark.parametrize("name", ALL)
def test_values(name, isa):
    """Predictions, losses and every layer's output, those of layers with a folded batch-norm among them."""
    chain = ALL[name]
    program, parameters = start(chain, "mean_squared_error")
    network, x = Network(chain), data(chain)
    exact = network.layer_outputs(parameters, x)
    expected = exact[chain[-1].name]
    assert_close(program.predict(x), expected)
    target = np.random.default_rng(3).standard_normal(expected.shape)
    assert program.evaluate(x, target)[0] == pytest.approx(((expected - target) ** 2).mean(), rel=1e-5)
    for layer in chain[1:]:
        assert_close(program.predict(x, layer.name), exact[layer.name], layer.name)
    assert_close(program.predict(x), expected)


@pytest.mark.parametrize("name", FOLDED)
def test_bits(name):
    """Of any number of threads, and of samples one by one."""
    chain, _ = FOLDED[name]
    program, _ = start(chain)
    x = data(chain, 5)
    (every,) = same_on_all_threads(lambda: program.predict(x))
    assert_same(np.concatenate([program.predict(x[i : i + 1]) for i in range(5)]), every)


CHANGING = [
    "behind conv, winograd",
    "behind conv, grouped",
    "behind conv, depthwise",
    "behind dense",
    "behind dense, wide",
]


@pytest.mark.parametrize("name", CHANGING)
def test_weights_that_change(name):
    """After a step, and after weights or statistics were set, the next prediction is of the new ones."""
    chain, _ = FOLDED[name]
    program, _ = start(chain, "mean_squared_error", optimizer=SGD(0.1))
    network, x = Network(chain), data(chain)
    target = np.random.default_rng(3).standard_normal(network.predict(parameters_of(chain), x).shape)

    def check() -> np.ndarray:
        now = {n: v.astype(np.float64) for n, v in program.get().items()}
        expected = network.predict(now, x)
        assert_close(program.predict(x), expected)
        assert program.evaluate(x, target)[0] == pytest.approx(((expected - target) ** 2).mean(), rel=1e-5)
        return expected

    seen = [check()]
    for _ in range(2):
        program.train(x, target)
        seen.append(check())
    program.set({"bn/moving_variance": program.get()["bn/moving_variance"] * 4})
    seen.append(check())
    program.set(parameters_of(chain, seed=7))
    seen.append(check())
    for before, after in itertools.pairwise(seen):
        assert np.abs(after - before).max() > 100 * OF_MAXIMUM * np.abs(after).max()


def test_plans_made_one_after_another():
    """A plan that is made while the weights stay: its layers are folded, others' are not touched."""
    chain, _ = FOLDED["behind dense, wide"]
    program, parameters = start(chain)
    x = data(chain)
    exact = Network(chain).layer_outputs(parameters, x)
    first = program.predict(x)
    for layer in reversed(chain[1:]):
        assert_close(program.predict(x, layer.name), exact[layer.name], layer.name)
        assert_same(program.predict(x), first)


def test_several_threads_ask_at_once():
    chain, _ = FOLDED["behind conv, two branches"]
    x = data(chain)
    names = [layer.name for layer in chain[1:]]
    for _ in range(5):
        program, parameters = start(chain)
        exact = Network(chain).layer_outputs(parameters, x)
        with ThreadPoolExecutor(8) as pool_of_threads:
            found = list(pool_of_threads.map(partial(program.predict, x), names * 4))
        for name, values in zip(names * 4, found, strict=True):
            assert_close(values, exact[name], name)


@pytest.mark.parametrize(
    "chain",
    [
        [image(50), bn("bn"), OUT],
        [image(50), dense("first", 64, "relu"), bn("bn"), OUT],
        [image(14, 14, 3), conv("first", 32, activation="relu"), bn("bn"), conv("conv", 64), MEAN, OUT],
    ],
    ids=["data", "dense", "conv"],
)
def test_channels_far_from_zero(chain):
    """A batch-norm subtracts its means before a layer sums over channels: no digits are lost in sums that cancel."""
    program, parameters = start(chain)
    if "first/bias" in parameters:
        parameters["first/bias"][:] = 1000
    x = data(chain) + np.float32(0 if "first/bias" in parameters else 1e6)
    program.set(parameters)
    z = x if chain[1].name == "bn" else program.predict(x, "first")
    parameters["bn/moving_mean"][:] = z.mean(axis=tuple(range(z.ndim - 1)), dtype=np.float64).astype(np.float32)
    program.set(parameters)
    tail = [image(*z.shape[1:]), *chain[1 if chain[1].name == "bn" else 2 :]]
    expected = Network(tail).predict({n: v for n, v in parameters.items() if not n.startswith("first/")}, z)
    assert_close(program.predict(x), expected)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", FOLDED)
def test_another_sample_does_not_notice(name, poison):
    chain, _ = FOLDED[name]
    program, _ = start(chain)
    x = data(chain)
    clean = program.predict(x)
    x[(4, *(n // 2 for n in x.shape[1:]))] = poison
    found = program.predict(x)
    assert_same(np.delete(found, 4, axis=0), np.delete(clean, 4, axis=0))
    assert found[4].tobytes() != clean[4].tobytes()


@pytest.mark.parametrize("parameter", ["bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance"])
@pytest.mark.parametrize("kind", ["conv, same", "conv, grouped", "conv, depthwise", "dense"])
def test_another_channel_does_not_notice(kind, parameter):
    """NaN among the parameters of one channel of a batch-norm behind a layer stays in that channel."""
    chain, _ = FOLDED[f"behind {kind}"]
    program, parameters = start(chain)
    x = data(chain)
    clean = program.predict(x, "bn")
    parameters[parameter][2] = np.nan
    program.set({parameter: parameters[parameter]})
    found = program.predict(x, "bn")
    assert np.isnan(found[..., 2]).all()
    assert_same(np.delete(found, 2, axis=-1), np.delete(clean, 2, axis=-1))


def test_training_is_not_folded():
    text = Program(behind(conv("conv", 8), bn("bn")), CROSS_ENTROPY).core.describe()
    assert "bn: statistics" in text
    assert "bn: normalise" in text
    frozen = Program(behind(conv("conv", 8), bn("bn", frozen=True)), CROSS_ENTROPY).core.describe()
    assert "bn: normalise" in frozen


def test_a_model_and_its_recalibration():
    """Python's model, compiled or not: predictions follow fit, set_weights and recalibrated statistics."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((60, 8, 8, 3)).astype(np.float32)
    y = rng.integers(0, 4, 60)
    fastbn.utils.set_random_seed(1)
    model = fastbn.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(6, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(5, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )

    def check() -> np.ndarray:
        outputs, (conv_2d, norm, *_) = model.layer_outputs(x), model.layers
        kernel, *_ = conv_2d.get_weights()
        gamma, beta, mean, variance = (w.astype(np.float64) for w in norm.get_weights())
        np.testing.assert_array_equal(outputs["conv2d"], fastbn.ops.conv2d_forward(x, kernel))
        expected = (outputs["conv2d"] - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        np.testing.assert_allclose(outputs["batch_normalization"], expected, rtol=1e-5, atol=1e-5)
        gamma, beta, mean, variance = (w.astype(np.float64) for w in model.layers[4].get_weights())
        flat = (outputs["conv2d_1"] - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        kernel, bias = model.layers[6].get_weights()
        logits = flat.reshape(60, -1) @ kernel + bias
        expected = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected /= expected.sum(axis=1, keepdims=True)
        found = model.predict(x, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        return found

    assert "conv2d conv2d + batch_normalization + re_lu" in model.program()
    seen = [check()]
    model.recalibrate_batch_norm(x)
    seen.append(check())
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=1, batch_size=20, verbose=0)
    seen.append(check())
    model.recalibrate_batch_norm(x)
    seen.append(check())
    model.set_weights([w * np.float32(1.5) for w in model.get_weights()])
    seen.append(check())
    for before, after in itertools.pairwise(seen):
        assert np.abs(after - before).max() > 1e-4


VERBOSE = """
import numpy as np
from fastbn import layers
from fastbn.models import Sequential
model = Sequential([layers.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()])
model.compile("sgd", "mse")
x = np.ones((3, 8, 8, 1), np.float32)
y = model.predict(x, verbose=0)
model.evaluate(x, y, verbose=0)
"""


def test_verbose_lines_name_what_was_folded():
    environment = os.environ | {"FASTBN_VERBOSE": "1"}
    here = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", VERBOSE], capture_output=True, text=True, timeout=120, env=environment, cwd=here
    )
    assert result.returncode == 0, result.stderr
    for mode, folded in (("train", False), ("predict", True), ("evaluate", True)):
        plan = [line for line in result.stderr.splitlines() if f"{mode} plan for " in line][-1]
        assert ("; conv2d conv2d + batch_normalization + re_lu;" in plan) == folded, plan
