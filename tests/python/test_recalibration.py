"""`recalibrate_batch_norm`: moving statistics that are those of the data, layer by layer."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from fastbn import Input, Model, Sequential, callbacks, layers, utils
from fastbn.models import engine
from fastbn.optimizers import SGD

RNG = np.random.default_rng(0)
X = (3 * RNG.standard_normal((200, 6)) + 5).astype(np.float32)
Y = np.eye(3, dtype=np.float32)[RNG.integers(0, 3, 200)]
IMAGES = RNG.integers(0, 256, (60, 8, 8, 3), np.uint8)


def dense(momentum: float = 0.99) -> Sequential:
    utils.set_random_seed(1)
    return Sequential(
        [
            Input((6,)),
            layers.BatchNormalization(momentum=momentum),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(momentum=momentum),
            layers.Dense(3, activation="softmax"),
        ]
    )


def statistics(model: Model) -> list[np.ndarray]:
    return [
        w for layer in model.layers if isinstance(layer, layers.BatchNormalization) for w in layer.get_weights()[2:]
    ]


def test_statistics_are_those_of_one_batch_of_everything() -> None:
    """momentum 0 and a training step over all of x leave the batch's statistics; with a rate of 0 nothing else."""
    stepped = dense(momentum=0.0)
    stepped.compile(SGD(0.0), "categorical_crossentropy")
    stepped.train_on_batch(X, Y)
    model = dense()
    before = model.get_weights()
    model.recalibrate_batch_norm(X)
    for found, expected in zip(statistics(model), statistics(stepped), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for i, (found, expected) in enumerate(zip(model.get_weights(), before, strict=True)):
        if i not in (2, 3, 8, 9):  # the moving ones: gamma, beta, mean, variance; kernel, bias; gamma, beta, ...
            np.testing.assert_array_equal(found, expected)


def test_later_layers_see_what_recalibrated_ones_give() -> None:
    model = dense()
    model.recalibrate_batch_norm(X)
    outputs = model.layer_outputs(X)
    hidden = outputs["dense"].astype(np.float64)
    mean, variance = statistics(model)[2:]
    np.testing.assert_allclose(mean, hidden.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, hidden.var(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["batch_normalization"].mean(axis=0), 0, atol=1e-5)


def test_more_samples_than_a_call_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dense()
    whole.recalibrate_batch_norm(X)
    monkeypatch.setattr(engine, "CHUNK", 37)
    parts = dense()
    parts.recalibrate_batch_norm(X)
    for found, expected in zip(statistics(parts), statistics(whole), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_images_of_bytes(data_format: str) -> None:
    shape, axis, images = (8, 8, 3), -1, IMAGES
    if data_format == "channels_first":
        shape, axis, images = (3, 8, 8), 1, IMAGES.transpose(0, 3, 1, 2)
    inputs = Input(shape)
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, data_format=data_format)(x)
    x = layers.BatchNormalization(axis=axis)(x)
    x = layers.GlobalAveragePooling2D(data_format=data_format)(x)
    model = Model(inputs, layers.Dense(2, activation="softmax")(x))
    model.recalibrate_batch_norm(images)
    values = model.layer_outputs(images)["conv2d"].astype(np.float64)
    axes = (0, 2, 3) if data_format == "channels_first" else (0, 1, 2)
    mean, variance = statistics(model)
    np.testing.assert_allclose(mean, values.mean(axis=axes), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, values.var(axis=axes), rtol=1e-4)


def test_frozen_layers_keep_theirs() -> None:
    model = dense()
    model.layers[2].trainable = False
    model.recalibrate_batch_norm(X)
    first, _, mean, variance = statistics(model)
    assert abs(first - 5).max() < 1
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_array_equal(variance, 1)


def test_training_goes_on_as_before() -> None:
    """Only moving statistics change: the losses of training are the same bits, evaluation is not."""
    model = dense()
    model.compile(SGD(0.05, momentum=0.9), "categorical_crossentropy")
    model.fit(X, Y, batch_size=50, verbose=0)
    other = copy.deepcopy(model)
    other.recalibrate_batch_norm(X)
    assert model.evaluate(X, Y, verbose=0) != other.evaluate(X, Y, verbose=0)
    histories = [m.fit(X, Y, batch_size=50, epochs=2, shuffle=False, verbose=0).history for m in (model, other)]
    assert histories[0] == histories[1]


def test_during_training() -> None:
    """From a callback, with data of another dtype than the training's, too."""
    utils.set_random_seed(0)
    model = Sequential([Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.BatchNormalization(), layers.Flatten()])
    model.add(layers.Dense(2, activation="softmax"))
    model.compile("sgd", "sparse_categorical_crossentropy")
    labels = RNG.integers(0, 2, len(IMAGES))
    found = []

    def recalibrate(epoch: int, logs: dict | None = None) -> None:
        model.recalibrate_batch_norm(IMAGES.astype(np.float32))
        found.append(statistics(model)[0])

    model.fit(IMAGES, labels, verbose=0, callbacks=callbacks.LambdaCallback(on_epoch_end=recalibrate))
    np.testing.assert_allclose(found[0], (IMAGES / 255).mean(axis=(0, 1, 2)), rtol=1e-5)


def test_a_model_without_batch_norm_stays() -> None:
    model = Sequential([Input((6,)), layers.Dense(2)])
    before = model.get_weights()
    model.recalibrate_batch_norm(X)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X[:0], ValueError, r"recalibrate_batch_norm: there must be samples\. Received: x\.shape=\(0, 6\)"),
        (X[:, :5], ValueError, r"recalibrate_batch_norm: x must have shape \(None, 6\)\. Received"),
        (X.astype(complex), TypeError, r"recalibrate_batch_norm: x must hold real numbers\. Received"),
        (None, ValueError, r"recalibrate_batch_norm: x is needed\. Received"),
    ],
)
def test_bad_data(x: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dense().recalibrate_batch_norm(x)
