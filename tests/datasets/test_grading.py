"""The drawn digits are as hard as they are meant to be, measured with fastbn's own networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fastbn import networks, utils
from fastbn.datasets import digits
from fastbn.layers import Dense, Input
from fastbn.models import Sequential


def _linear() -> Sequential:
    return Sequential([Input((784,)), Dense(10, activation="softmax")])


def _accuracy(build: Callable[[], Sequential], shape: tuple[int, ...], epochs: int) -> float:
    (x_train, y_train), (x_test, y_test) = digits.load_data()
    utils.set_random_seed(0)
    model = build()
    model.compile(optimizer="rmsprop", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    scale = np.float32(1 / 255)
    model.fit(x_train.reshape(-1, *shape) * scale, y_train, batch_size=128, epochs=epochs, verbose=0)
    return float(model.evaluate(x_test.reshape(-1, *shape) * scale, y_test, batch_size=500, verbose=0)[1])


@pytest.mark.slow
def test_a_linear_model_stays_at_or_below_93_percent() -> None:
    assert 0.85 < _accuracy(_linear, (784,), epochs=20) <= 0.93


@pytest.mark.slow
def test_mlp_reaches_97_percent_in_five_epochs() -> None:
    assert _accuracy(networks.mlp, (784,), epochs=5) >= 0.97


@pytest.mark.slow
def test_cnn_reaches_98_and_a_half_percent_in_five_epochs() -> None:
    assert _accuracy(networks.cnn, (28, 28, 1), epochs=5) >= 0.985
