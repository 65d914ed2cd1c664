"""Models of one description in Keras and in fastbn: the same weights in the same order, outputs, history."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from cases.networks import BY_NAME, CROSS_ENTROPY
from harness.compare import assert_within
from harness.keras_peer import load
from oracles.network import build

import fastbn

keras = load()


def pair_of_models(case, seed=1):
    theirs, ours = build(list(case.layers), keras), build(list(case.layers), fastbn)
    parameters = case.network.initial_parameters(seed=seed)
    rng = np.random.default_rng(seed)
    for layer in theirs.layers:
        for variable in layer.weights:
            value = parameters[f"{layer.name}/{variable.name}"]
            if variable.name == "moving_variance":
                value = rng.uniform(0.5, 2, value.shape)
            variable.assign(np.float32(value))
    ours.set_weights(weights_of(theirs))
    return theirs, ours


def weights_of(keras_model):
    return [np.asarray(v.value) for v in keras_model.weights]


# Between them every kind of layer.
NAMES = ["bn_everywhere", "concatenate", "regression_image", "residual_projection", "sequence", "uint8", "windows"]


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_predictions(name):
    case = BY_NAME[name]
    theirs, ours = pair_of_models(case)
    assert ours.count_params() == theirs.count_params()
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    for a, e in zip(ours.get_weights(), weights_of(theirs), strict=True):
        np.testing.assert_array_equal(a, e)
    x, _ = case.data(9)
    expected = theirs.predict_on_batch(x)
    assert_within(ours.predict(x, verbose=0), expected, 1e-5 * np.abs(expected).max(), "prediction")


@pytest.mark.parametrize("name", ["mlp", "cnn_bn", "regression"])
def test_fit_and_evaluate(name):
    """Two epochs without shuffling, a ragged last batch, validation data: the same history, the same weights."""
    case = BY_NAME[name]
    theirs, ours = pair_of_models(case)
    x, labels = case.data(50)
    x_val, labels_val = case.data(23, seed=1)
    histories = []
    for library, model in ((keras, theirs), (fastbn, ours)):
        if case.loss == CROSS_ENTROPY:
            loss, metrics = "sparse_categorical_crossentropy", ["accuracy"]
        else:
            loss, metrics = "mean_squared_error", ["mean_absolute_error"]
        model.compile(optimizer=library.optimizers.SGD(0.02, momentum=0.9), loss=loss, metrics=metrics)
        options = {"batch_size": case.batch, "epochs": 2, "shuffle": False, "verbose": 0}
        histories.append(model.fit(x, labels, validation_data=(x_val, labels_val), **options).history)
    assert set(histories[1]) == set(histories[0])
    for key, values in histories[0].items():
        np.testing.assert_allclose(histories[1][key], values, rtol=2e-4, atol=1e-6, err_msg=key)
    found, expected = ours.evaluate(x, labels, verbose=0), theirs.evaluate(x, labels, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    for a, e in zip(ours.get_weights(), weights_of(theirs), strict=True):
        assert_within(a, e, 1e-4 * np.abs(e).max() + 1e-6, "weights after two epochs")


def test_one_hot_labels():
    case = BY_NAME["mlp"]
    x, labels = case.data()
    one_hot = oracles.one_hot(labels, 10)
    found = []
    for library, model in zip((keras, fastbn), pair_of_models(case), strict=True):
        model.compile(library.optimizers.SGD(0.1), "categorical_crossentropy", metrics=["accuracy"])
        model.train_on_batch(x, one_hot)
        found.append(model.evaluate(x, one_hot, verbose=0))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
