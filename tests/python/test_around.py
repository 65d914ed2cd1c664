"""What is around models: names by which things are found, helpers, printing, and scripts written for Keras."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastbn
from fastbn import activations, initializers, layers, losses, metrics, optimizers, utils


def test_to_categorical():
    np.testing.assert_array_equal(utils.to_categorical([0, 2, 1]), np.eye(3)[[0, 2, 1]])
    assert utils.to_categorical([[1], [0]], 4).shape == (2, 4)
    assert utils.to_categorical(np.zeros((2, 3), np.uint8), 5).shape == (2, 3, 5)
    assert utils.to_categorical([1.0, 0.0]).dtype == np.float32
    assert utils.to_categorical([]).shape == (0, 0)
    with pytest.raises(ValueError, match=r"\[0, 2\). Received: 2"):
        utils.to_categorical([0, 2], 2)
    with pytest.raises(ValueError, match="Received: -1"):
        utils.to_categorical([0, -1])
    with pytest.raises(TypeError, match="integers"):
        utils.to_categorical([0.5])


def test_set_random_seed():
    import random

    drawn = []
    for _ in range(2):
        utils.set_random_seed(7)
        kernel = fastbn.Sequential([fastbn.Input((3,)), layers.Dense(2)]).get_weights()[0]
        drawn.append((random.random(), np.random.rand(), kernel.tobytes()))  # noqa: NPY002  what scripts use
    assert drawn[0] == drawn[1]
    for seed in (-1, 2**32, 1.5, "a"):
        with pytest.raises(ValueError, match="set_random_seed"):
            utils.set_random_seed(seed)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sgd", optimizers.SGD),
        ("SGD", optimizers.SGD),
        ("RMSprop", optimizers.RMSprop),
        ("adam", optimizers.Adam),
        ("AdamW", optimizers.AdamW),
        (optimizers.Adam, optimizers.Adam),
    ],
)
def test_optimizers_by_name(name, kind):
    assert type(optimizers.get(name)) is kind


def test_optimizers_are_keras():
    assert optimizers.SGD(lr=0.5).learning_rate == 0.5
    sgd = optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    assert type(sgd)(**sgd.get_config()).get_config() == sgd.get_config()
    assert sgd.get_config()["weight_decay"] is None
    assert optimizers.AdamW().weight_decay == 0.004
    adam = optimizers.Adam(1e-3, 0.8, 0.9, 1e-5)
    assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.8, 0.9, 1e-5)
    assert optimizers.RMSprop(epsilon=None).epsilon == 1e-7
    assert repr(optimizers.SGD(0.1)).startswith("SGD(learning_rate=0.1")
    optimizers.SGD(decay=0.0, clipnorm=None)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: optimizers.SGD(float("nan")), ValueError, "SGD: learning_rate"),
        (lambda: optimizers.SGD(-1.0), ValueError, "learning_rate"),
        (lambda: optimizers.SGD("fast"), TypeError, "learning_rate"),
        (lambda: optimizers.SGD(lambda: 0.1), NotImplementedError, "LearningRateScheduler"),
        (lambda: optimizers.SGD(momentum=1.5), ValueError, "momentum"),
        (lambda: optimizers.Adam(beta_1=1.0), ValueError, "beta_1"),
        (lambda: optimizers.Adam(beta_2=float("nan")), ValueError, "beta_2"),
        (lambda: optimizers.RMSprop(rho=-0.1), ValueError, "rho"),
        (lambda: optimizers.Adam(clipnorm=1.0), NotImplementedError, "clipnorm"),
        (lambda: optimizers.Adam(use_ema=True), NotImplementedError, "use_ema"),
        (lambda: optimizers.Adam(beta=1.0), TypeError, "no such argument"),
        (lambda: initializers.Constant(float("nan")), ValueError, "finite"),
        (lambda: initializers.HeNormal(seed=-1), ValueError, "seed"),
        (lambda: losses.CategoricalCrossentropy(label_smoothing=0.1), NotImplementedError, "label"),
        (lambda: losses.MeanSquaredError(reduction="sum"), NotImplementedError, "reduction"),
        (lambda: losses.SparseCategoricalCrossentropy(ignore_class=0), NotImplementedError, "ignore_class"),
        (lambda: fastbn.set_num_threads(-1), ValueError, "set_num_threads"),
        (lambda: fastbn.set_num_threads(1.5), TypeError, "set_num_threads"),
    ],
)
def test_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    "name", ["glorot_uniform", "GlorotUniform", initializers.GlorotUniform, initializers.glorot_uniform]
)
def test_initializers_by_name(name):
    assert isinstance(initializers.get(name), initializers.GlorotUniform)


def test_losses_on_arrays():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32)
    t = np.eye(3, dtype=np.float32)[[0, 1]]
    expected = -np.log([0.7, 0.1])
    np.testing.assert_allclose(losses.categorical_crossentropy(t, p), expected, rtol=1e-6)
    np.testing.assert_allclose(losses.sparse_categorical_crossentropy([0, 1], p), expected, rtol=1e-6)
    np.testing.assert_allclose(losses.sparse_categorical_crossentropy([[0], [1]], np.log(p), True), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.CategoricalCrossentropy()(t, 3 * p), expected.mean(), rtol=1e-6)  # renormalised
    np.testing.assert_allclose(losses.mean_squared_error(t, p), ((p - t) ** 2).mean(axis=1), rtol=1e-6)
    assert losses.categorical_crossentropy(t[:1], np.array([[0.0, 1.0, 0.0]]))[0] == pytest.approx(-np.log(1e-7))
    with pytest.raises(ValueError, match=r"\[0, 3\)"):
        losses.sparse_categorical_crossentropy([0, 3], p)
    with pytest.raises(ValueError, match="y_true"):
        losses.categorical_crossentropy(t[:, :2], p)


def test_metrics_on_arrays():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    metric = metrics.SparseCategoricalAccuracy()
    assert metric([0, 1], p) == 0.5
    assert metric([0, 2], p) == 0.75
    metric.reset_state()
    assert metric.result() == 0
    assert metrics.categorical_accuracy(np.eye(3)[[0, 1]], p).tolist() == [1, 0]
    assert metrics.MeanAbsoluteError()([[1.0]], [[3.0]]) == 2
    assert metrics.MeanSquaredError(name="error").name == "error"


def test_activations():
    x = np.array([-1, 0, 2], np.float32)
    assert activations.relu(x).tolist() == [0, 0, 2]
    np.testing.assert_allclose(activations.leaky_relu(x), [-0.2, 0, 2])
    assert activations.softmax(x[None]).sum() == pytest.approx(1)
    assert activations.get(activations.tanh) == "tanh"
    assert layers.Dense(2, activation=activations.relu).activation == "relu"


def test_threads():
    before = fastbn.get_num_threads()
    with fastbn.num_threads(3):
        assert fastbn.get_num_threads() == 3
    assert fastbn.get_num_threads() == before


# ------------------------------------------------------------------- printing


def small():
    model = fastbn.Sequential([fastbn.Input((4,)), layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


X = np.ones((30, 4), np.float32)


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_one_plain_line_an_epoch(verbose, capsys):
    small().fit(X, X[:, :2], epochs=2, verbose=verbose, validation_split=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Epoch 1/2 - ")
    for word in ("samples/s", " s - ", "loss: ", "val_loss: "):
        assert word in lines[1]


def test_silence(capsys):
    model = small()
    model.fit(X, X[:, :2], verbose=0)
    model.evaluate(X, X[:, :2], verbose=0)
    model.predict(X)
    assert capsys.readouterr().out == ""


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    from fastbn.models import _progress

    monkeypatch.setattr(_progress, "INTERVAL", 0.0)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    small().fit(X, X[:, :2], batch_size=10, epochs=2, verbose=1)
    shown = capsys.readouterr().out
    assert "20/30" in shown
    assert "samples/s" in shown
    assert "Epoch 2/2 - " in shown.splitlines()[-1]


def test_summary(capsys):
    model = fastbn.Sequential([fastbn.Input((6, 6, 1)), layers.Conv2D(2, 3), layers.BatchNormalization()])
    model.summary()
    shown = capsys.readouterr().out
    for word in (
        "conv2d (Conv2D)",
        "(None, 4, 4, 2)",
        "Total parameters: 28",
        "Trainable parameters: 24",
        "forward: 288",
    ):
        assert word in shown
    lines = []
    model.summary(print_fn=lines.append, line_length=120)
    assert any("batch_normalization (BatchNormalization)" in line for line in lines)
    source = fastbn.Input((3,))
    lines.clear()
    fastbn.Model(source, layers.Add()([source, layers.Dense(3)(source)])).summary(print_fn=lines.append)
    assert any("input_layer, dense" in line for line in lines)


# ----------------------------------------------------------- scripts for Keras

SCRIPT = """
import sys
import fastbn as keras
assert "rich" not in sys.modules and "typer" not in sys.modules and "pooch" not in sys.modules
from fastbn import backend as K
from fastbn.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D
from fastbn.models import Sequential
from fastbn.optimizers import RMSprop
import numpy as np

assert K.image_data_format() == "channels_last"
x = np.random.default_rng(0).random((64, 12, 12, 1)).astype("float32")
y = keras.utils.to_categorical(np.arange(64) % 3, 3)
model = keras.models.Sequential()
model.add(Conv2D(4, kernel_size=(3, 3), activation="relu", input_shape=(12, 12, 1)))
model.add(keras.layers.MaxPooling2D(pool_size=(2, 2)))
model.add(Dropout(0.25))
model.add(Flatten())
model.add(Dense(3, activation="softmax"))
model.compile(
    loss=keras.losses.categorical_crossentropy, optimizer=keras.optimizers.RMSprop(lr=0.01), metrics=["accuracy"]
)
history = model.fit(x, y, batch_size=16, epochs=2, verbose=0, validation_data=(x, y))
assert sorted(history.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
score = model.evaluate(x, y, verbose=0)
assert len(score) == 2
assert keras.callbacks.EarlyStopping and keras.initializers.HeNormal and keras.datasets.mnist.load_data
"""


def test_a_script_for_keras():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, cwd=Path(__file__).parent)


def test_names():
    for name in fastbn.__all__:
        assert getattr(fastbn, name) is not None
    with pytest.raises(AttributeError, match="no_such"):
        fastbn.no_such  # noqa: B018
    assert "datasets" in dir(fastbn)
