"""Models: the seed networks' figures, the same bits as their programs, and the ways of Keras."""

from __future__ import annotations

import os

import numpy as np
import oracles
import pytest
from cases.networks import BY_NAME, CASES
from harness.compare import assert_within
from harness.library import THREADS, using_threads
from oracles.network import build

import fastbn
from fastbn import layers, ops


def mlp():
    return fastbn.Sequential(
        [
            fastbn.Input((784,)),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax"),
        ]
    )


def cnn(first=32, second=64):
    return fastbn.Sequential(
        [
            fastbn.Input((28, 28, 1)),
            layers.Conv2D(first, 3, activation="relu"),
            layers.Conv2D(second, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


SEED_NETWORKS = {  # parameters, forward multiply-adds of one image
    "mlp": (mlp, 669_706, 668_672),
    "cnn": (cnn, 110_986, 10_903_680),
    "cnn_small": (lambda: cnn(4, 4), 5_958, 113_040),
}


@pytest.mark.parametrize("name", SEED_NETWORKS)
def test_figures_of_the_seed_networks(name, capsys):
    make, parameters, multiply_adds = SEED_NETWORKS[name]
    model = make()
    assert model.count_params() == parameters
    model.summary()
    shown = capsys.readouterr().out
    assert f"{parameters:,}" in shown
    assert f"{multiply_adds:,}" in shown


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_costs(case):
    model = build(list(case.layers), fastbn)
    parameters = case.network.initial_parameters(seed=1)
    assert model.count_params() == sum(v.size for v in parameters.values())
    model.set_weights(weights_in_keras_order(model, parameters))
    x, _ = case.data(5)
    exact = case.network.layer_outputs(parameters, x)
    outputs = model.layer_outputs(x)
    for name, value in exact.items():
        if name in outputs:
            assert_within(outputs[name], value, 1e-5 * np.abs(value).max(), name)
    assert set(exact) - {"input"} <= set(outputs)
    predicted = model.predict(x, verbose=0)
    assert_within(predicted, exact[case.layers[-1].name], 1e-5 * np.abs(predicted).max(), "prediction")


def weights_in_keras_order(model, parameters):
    """Layer after layer: what is trained, then moving statistics."""
    order = ("kernel", "gamma", "bias", "beta", "moving_mean", "moving_variance")
    ordered = []
    for layer in model.layers:
        ordered += [parameters[f"{layer.name}/{kind}"] for kind in order if f"{layer.name}/{kind}" in parameters]
    return ordered


@pytest.mark.parametrize("name", ["cnn", "cnn_bn", "residual", "sigmoid_bn"])
def test_fit_gives_the_same_bits_on_any_number_of_threads(name):
    case = BY_NAME[name]
    x, labels = case.data(70)
    expected = None
    for threads in THREADS:
        with using_threads(threads):
            fastbn.utils.set_random_seed(3)
            model = build(list(case.layers), fastbn)
            model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
            history = model.fit(x, labels, batch_size=32, epochs=2, verbose=0, validation_split=0.2).history
        state = [w.tobytes() for w in model.get_weights()], history
        expected = expected or state
        assert state == expected


def test_eager_kernels_follow_the_program():
    """The network written out as calls of fastbn.ops, three steps of nesterov, beside the recorded program."""
    case = BY_NAME["cnn_bn"]
    from harness.programs import Program

    optimizer = oracles.SGD(0.02, momentum=0.9, nesterov=True)
    program = Program(case.layers, case.loss, optimizer, max_batch=case.batch)
    program.set(case.network.initial_parameters(seed=1))
    p = program.get()
    velocity = {name: np.zeros_like(p[name]) for name in case.network.trainable()}
    for step in range(3):
        x, labels = case.data(seed=step)
        conv_1 = ops.conv2d_forward(x, p["conv_1/kernel"])
        bn_1, *moments_1 = ops.batch_norm_forward(conv_1, p["bn_1/gamma"], p["bn_1/beta"], activation="relu")
        pool_1, index = ops.max_pool2d_forward(bn_1)
        options = {"padding": "same", "activation": "relu"}
        conv_2 = ops.conv2d_forward(pool_1, p["conv_2/kernel"], p["conv_2/bias"], **options)
        bn_2, *moments_2 = ops.batch_norm_forward(conv_2, p["bn_2/gamma"], p["bn_2/beta"])
        flat = ops.avg_pool2d_forward(bn_2).reshape(len(x), -1)
        dense_1 = ops.dense_forward(flat, p["dense_1/kernel"], p["dense_1/bias"], activation="relu")
        bn_3, *moments_3 = ops.batch_norm_forward(dense_1, p["bn_3/gamma"], p["bn_3/beta"])
        logits = ops.dense_forward(bn_3, p["dense_2/kernel"], p["dense_2/bias"])
        losses, probabilities = ops.softmax_cross_entropy_forward(logits, labels)

        g = {}
        d = ops.softmax_cross_entropy_backward(probabilities, labels, scale=1 / len(x))
        d, g["dense_2/kernel"], g["dense_2/bias"] = ops.dense_backward(d, bn_3, p["dense_2/kernel"])
        d, g["bn_3/gamma"], g["bn_3/beta"] = ops.batch_norm_backward(d, dense_1, p["bn_3/gamma"], *moments_3)
        d, g["dense_1/kernel"], g["dense_1/bias"] = ops.dense_backward(
            d, flat, p["dense_1/kernel"], y=dense_1, activation="relu"
        )
        d = ops.avg_pool2d_backward(d.reshape(len(x), 2, 2, 16), bn_2.shape)
        d, g["bn_2/gamma"], g["bn_2/beta"] = ops.batch_norm_backward(d, conv_2, p["bn_2/gamma"], *moments_2)
        d, g["conv_2/kernel"], g["conv_2/bias"] = ops.conv2d_backward(
            d, pool_1, p["conv_2/kernel"], y=conv_2, **options
        )
        d = ops.max_pool2d_backward(d, index, bn_1.shape)
        d, g["bn_1/gamma"], g["bn_1/beta"] = ops.batch_norm_backward(
            d, conv_1, p["bn_1/gamma"], *moments_1, y=bn_1, activation="relu"
        )
        _, g["conv_1/kernel"], _ = ops.conv2d_backward(d, x, p["conv_1/kernel"], need=("kernel",))
        for name, v in velocity.items():
            ops.sgd_update(p[name], g[name], v, learning_rate=0.02, momentum=0.9, nesterov=True)
        for name, (mean, variance) in (("bn_1", moments_1), ("bn_2", moments_2), ("bn_3", moments_3)):
            p[f"{name}/moving_mean"] = np.float32(0.99 * p[f"{name}/moving_mean"] + 0.01 * mean)
            p[f"{name}/moving_variance"] = np.float32(0.99 * p[f"{name}/moving_variance"] + 0.01 * variance)

        loss, *_ = program.train(x, labels)
        assert loss == pytest.approx(losses.mean(), rel=1e-5)
        for name, value in program.get().items():
            assert_within(value, p[name], 1e-5 * np.abs(p[name]).max() + 1e-7, f"{name} after step {step}")


def test_trained_alike_whatever_labels_are():
    case = BY_NAME["mlp"]
    x, labels = case.data()
    one_hot = oracles.one_hot(labels, 10)
    found = []
    for loss, y in (
        ("sparse_categorical_crossentropy", labels),
        ("sparse_categorical_crossentropy", labels.astype(np.int64)[:, None]),
        ("categorical_crossentropy", one_hot),
        ("categorical_crossentropy", one_hot.astype(np.float32)),
    ):
        fastbn.utils.set_random_seed(1)
        model = build(list(case.layers), fastbn)
        model.compile(fastbn.optimizers.Adam(0.01), loss)
        for _ in range(3):
            model.train_on_batch(x, y)
        found.append([w.tobytes() for w in model.get_weights()])
    assert all(f == found[0] for f in found[1:])


def test_a_frozen_model_does_not_change():
    case = BY_NAME["cnn_bn"]
    x, labels = case.data()
    model = build(list(case.layers), fastbn)
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    before = model.get_weights()
    model.fit(x, labels, epochs=2, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False] * (len(changed) - 2) + [True, True]


# ------------------------------------------------------------------- real data


@pytest.fixture(scope="module")
def mnist():
    if not os.environ.get("FASTBN_DATA"):
        pytest.skip("FASTBN_DATA does not name a folder with the MNIST files")
    try:
        return fastbn.datasets.mnist.load_data()
    except (OSError, ValueError) as error:
        pytest.skip(f"MNIST cannot be had: {error}")


@pytest.mark.slow
@pytest.mark.mnist
@pytest.mark.parametrize(("name", "least"), [("mlp", 0.979), ("cnn", 0.987)])
def test_accuracy_on_mnist(name, least, mnist):
    """The question's settings (rmsprop, batch 128), five epochs, mean over three seeds."""
    (x, labels), (x_test, labels_test) = mnist
    shape = (-1, 784) if name == "mlp" else (-1, 28, 28, 1)
    x, x_test = (a.reshape(shape).astype(np.float32) / 255 for a in (x, x_test))
    accuracies = []
    for seed in range(3):
        fastbn.utils.set_random_seed(seed)
        model = SEED_NETWORKS[name][0]()
        model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x, labels, batch_size=128, epochs=5, verbose=0)
        accuracies.append(model.evaluate(x_test, labels_test, verbose=0)[1])
    assert np.mean(accuracies) >= least, accuracies
