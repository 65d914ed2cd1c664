"""Predicted steps: exact where the figures follow the model, and near the measured ones on this machine."""

from __future__ import annotations

import random
from statistics import median

import pytest
from harness.costs import layer, network

from fastbn import layers, networks
from fastbn.costs._predict import _fit, fit_rates, kernel_rates, predict_step
from fastbn.models import Sequential


def test_fit_finds_coefficients_that_are_there() -> None:
    rng = random.Random(0)
    true = [2e-11, 0.0, 5e-11, 1e-6]
    points = []
    for _ in range(12):
        features = [rng.uniform(1e6, 1e9), rng.uniform(1e4, 1e7), rng.uniform(1e4, 1e7), float(rng.randint(1, 100))]
        points.append((features, sum(a * b for a, b in zip(true, features, strict=True))))
    assert _fit(points) == pytest.approx(true, rel=1e-3, abs=1e-14)


def test_fit_has_no_negative_rates() -> None:
    assert min(_fit([([1e6, 0, 0, 1], 2e-3), ([2e6, 0, 0, 10], 1e-3)])) >= 0
    assert _fit([([0, 0, 0, 4], 2e-6)]) == pytest.approx([0, 0, 0, 5e-7])


def test_prediction_of_tables_that_follow_the_model() -> None:
    def made(scale: int) -> object:
        row = layer("a", scale * 1e-3, scale * 1_000_000, block=scale * 500, calls=16 * scale)
        return network("net", row, waiting=scale * 1e-4, loop=3e-6).table

    rates = fit_rates([made(1), made(2), made(5)])
    for scale in (1, 3, 40):
        assert predict_step(made(scale), rates) == pytest.approx(scale * 1.1e-3 + 3e-6, rel=1e-6)


def test_unknown_operations_count_with_the_roofline() -> None:
    rates = {"operations": {}, "waiting": 0.0, "region": 0.0, "loop": 0.0}
    table = network("net", layer("a", 1.0, 100_000_000)).table
    assert predict_step(table, rates) == pytest.approx(table["a"].total.bound_seconds)


def drawn(seed: int) -> tuple[Sequential, int]:
    """A network and a batch size, drawn by seed."""
    rng = random.Random(seed)
    batch = 2 ** rng.randint(3, 9)
    if rng.random() < 0.5:
        model = Sequential([layers.Input((rng.choice((64, 200, 784)),))])
        for _ in range(rng.randint(1, 4)):
            model.add(
                layers.Dense(rng.choice((24, 64, 100, 256, 512, 900)), activation=rng.choice(("relu", "sigmoid")))
            )
            if rng.random() < 0.3:
                model.add(layers.Dropout(0.2))
    else:
        model = Sequential([layers.Input((rng.choice((16, 22, 28, 40)),) * 2 + (1,))])
        for i in range(rng.randint(1, 3)):
            model.add(layers.Conv2D(rng.choice((4, 8, 16, 24, 32, 64)), 3, activation="relu"))
            if i == 1:
                model.add(layers.MaxPooling2D(2))
        model.add(layers.Flatten())
    model.add(layers.Dense(10, activation="softmax"))
    model.compile("rmsprop", "sparse_categorical_crossentropy")
    return model, batch


def _error(model: Sequential, batch: int) -> float:
    rates = kernel_rates()
    table = model.costs(batch)
    return predict_step(table, rates) / table.step_seconds - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn_small"])
def test_prediction_of_the_questions_networks(name: str) -> None:
    model = getattr(networks, name)()
    model.compile("rmsprop", "sparse_categorical_crossentropy")
    error = _error(model, 128)
    print(f"{name}: {error:+.0%}")
    assert abs(error) <= 0.25


@pytest.mark.slow
def test_prediction_of_networks_drawn_by_seed() -> None:
    errors = [_error(*drawn(seed)) for seed in range(20)]
    print(" ".join(f"{error:+.0%}" for error in errors))
    assert median(map(abs, errors)) <= 0.25
    assert max(map(abs, errors)) <= 0.50
