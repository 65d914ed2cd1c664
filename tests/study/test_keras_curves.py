"""The article's network beside Keras (JAX) on real MNIST, from its initial weights and in its order of batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness.keras_peer import load

from fastbn.datasets import mnist
from fastbn.study import STUDIES
from fastbn.study._variants import Variant

keras = load()

pytestmark = [pytest.mark.mnist, pytest.mark.slow]

EPOCHS = 2
CASES = {
    "sigmoid, no BN": Variant("sigmoid", 0),
    "sigmoid, one BN": Variant("sigmoid", 1),
    "sigmoid, four BN": Variant("sigmoid", 4),
    "relu, no BN": Variant("relu", 0),
    "relu, one BN": Variant("relu", 1),
    "batch 64": Variant("sigmoid", 1, batch_size=64),
    "batch 1024": Variant("sigmoid", 1, batch_size=1024),
}


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    try:
        (pixels, labels), _ = mnist.load_data()
    except (OSError, ValueError) as error:
        pytest.skip(f"needs the real MNIST: {error}")
    return pixels.reshape(-1, 784).astype(np.float32) / np.float32(255), np.eye(10, dtype=np.float32)[labels]


def keras_model(variant: Variant) -> Any:
    """The article's network by Keras' own layers."""
    model = keras.Sequential([keras.Input((784,))])
    for i, units in enumerate((512, 256, 128, 64)):
        model.add(keras.layers.Dense(units, activation=variant.activation))
        if i < variant.batch_norms:
            model.add(keras.layers.BatchNormalization())
    model.add(keras.layers.Dense(10, activation="softmax"))
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    model.compile(optimizer, "categorical_crossentropy")
    return model


@pytest.mark.parametrize("name", CASES)
def test_losses_of_two_epochs(name: str, images: tuple[np.ndarray, np.ndarray]) -> None:
    """Mean training losses of the first two epochs within 1e-3 of Keras'."""
    variant, (x, y) = CASES[name], images
    keras.utils.set_random_seed(0)
    theirs, ours = keras_model(variant), variant.compiled()
    ours.set_weights(theirs.get_weights())
    rng, losses = np.random.default_rng(0), []
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        options: dict[str, Any] = {"batch_size": variant.batch_size, "shuffle": False, "verbose": 0}
        pair = [model.fit(x[order], y[order], **options).history["loss"][0] for model in (ours, theirs)]
        losses.append(pair)
    found, expected = np.array(losses).T
    print(f"\n{name}: {np.abs(found - expected)} from {expected}")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_the_cases_are_those_of_the_studies() -> None:
    for name in ("accelerate", "batch"):
        sizes = {v.batch_size for v in STUDIES[name].variants.values()}
        assert {v.batch_size for v in CASES.values()} & sizes
    assert set(STUDIES["accelerate"].variants.values()) <= set(CASES.values())
