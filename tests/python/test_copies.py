"""Copies of models: pickle and deepcopy carry layers, weights, settings and the optimizer's state."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from harness.compare import assert_same

import fastbn
from fastbn import layers, optimizers

COPIES = {"pickle": lambda model: pickle.loads(pickle.dumps(model)), "deepcopy": copy.deepcopy}
X = np.random.default_rng(1).random((24, 6, 6, 2), np.float32)
Y = np.arange(24) % 3


def sequential():
    return fastbn.Sequential(
        [
            layers.Conv2D(4, 3, activation="relu", input_shape=(6, 6, 2)),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax"),
        ]
    )


def branched():
    inputs = fastbn.Input((6, 6, 2))
    a = layers.Conv2D(4, 3, padding="same")(inputs)
    b = layers.Conv2D(4, 1)(inputs)
    x = layers.Dropout(0.2)(layers.Flatten()(layers.Add()([a, b])))
    return fastbn.Model(inputs, layers.Dense(3, activation="softmax")(x))


def trained(make, optimizer):
    fastbn.utils.set_random_seed(3)
    model = make()
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    return model


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("make", [sequential, branched])
@pytest.mark.parametrize(
    "optimizer", [lambda: optimizers.SGD(0.1, momentum=0.9), optimizers.RMSprop, optimizers.Adam], ids=str
)
def test_a_copy_goes_on_with_the_same_bits(how, make, optimizer):
    model = trained(make, optimizer())
    made = COPIES[how](model)
    assert [layer.name for layer in made.layers] == [layer.name for layer in model.layers]
    assert made.optimizer.iterations == model.optimizer.iterations == 6
    assert made.history.history == model.history.history
    before = model.get_weights()
    assert made.train_on_batch(X[:8], Y[:8]) == model.train_on_batch(X[:8], Y[:8])
    for ours, theirs, old in zip(model.get_weights(), made.get_weights(), before, strict=True):
        assert_same(theirs, ours)
        assert not np.array_equal(theirs, old)
    assert_same(made.predict(X, verbose=0), model.predict(X, verbose=0))
    again = model.get_weights()
    made.fit(X, Y, batch_size=8, verbose=0)
    for weight, kept in zip(model.get_weights(), again, strict=True):
        assert_same(weight, kept)  # nothing is shared


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_models_without_weights_or_settings(how):
    empty = COPIES[how](fastbn.Sequential([layers.Dense(3)]))
    assert empty.predict(np.ones((2, 4), np.float32), verbose=0).shape == (2, 3)
    plain = sequential()
    assert_same(COPIES[how](plain).predict(X, verbose=0), plain.predict(X, verbose=0))
    grown = COPIES[how](plain)
    grown.add(layers.Dense(2))
    assert (grown.output_shape, plain.output_shape) == ((None, 2), (None, 3))


def test_a_long_chain():
    model = fastbn.Sequential([layers.Dense(2, input_shape=(2,)), *(layers.Dense(2) for _ in range(400))])
    x = np.ones((1, 2), np.float32)
    assert_same(pickle.loads(pickle.dumps(model)).predict(x, verbose=0), model.predict(x, verbose=0))


def test_another_process_reads_it(tmp_path):
    model = trained(branched, "adam")
    file = tmp_path / "model.pickle"
    file.write_bytes(pickle.dumps(model))
    np.save(tmp_path / "x.npy", X)
    code = (
        "import pickle, sys, numpy as np; from fastbn import layers\n"
        "model = pickle.load(open(sys.argv[1], 'rb')); x = np.load(sys.argv[2])\n"
        "np.save(sys.argv[3], model.predict(x, verbose=0))\n"
    )
    arguments = [sys.executable, "-c", code, str(file), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run(arguments, check=True, cwd=tmp_path)
    assert_same(np.load(tmp_path / "y.npy"), model.predict(X, verbose=0))


def test_a_copy_of_a_layer_belongs_to_no_model():
    model = sequential()
    made = copy.deepcopy(model.layers[0])
    with pytest.raises(ValueError, match="is not part of a model yet"):
        made.get_weights()
    assert fastbn.Sequential([fastbn.Input((6, 6, 2)), made]).output_shape == (None, 4, 4, 4)


def test_shallow_copies_are_refused():
    with pytest.raises(TypeError, match=r"copy: .*deepcopy"):
        copy.copy(sequential())


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("optimizer", [lambda: optimizers.SGD(0.1, momentum=0.9), optimizers.Adam, optimizers.SGD])
@pytest.mark.parametrize("first", [True, False])
def test_what_is_trainable_is_that_of_compile(how, optimizer, first):
    """Layers frozen or thawed after `compile` go on as they were, in copies and for data of another dtype, too."""
    x = np.random.default_rng(2).integers(0, 256, (24, 4, 4, 1), np.uint8)
    fastbn.utils.set_random_seed(3)
    parts = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(5, name="a"), layers.BatchNormalization()]
    model = fastbn.Sequential([fastbn.Input((4, 4, 1)), *parts, layers.Dense(3, activation="softmax")])
    model.get_layer("a").trainable = first
    model.compile(optimizer(), "sparse_categorical_crossentropy")
    model.fit(x, Y, verbose=0)
    model.trainable = not first
    made = COPIES[how](model)
    outputs = model.predict(x.astype(np.float32))  # another engine
    assert_same(made.predict(x.astype(np.float32)), outputs)
    before = model.get_layer("a").get_weights()
    for each in (model, made):
        each.fit(x, Y, shuffle=False, verbose=0)
        assert np.array_equal(each.get_layer("a").get_weights()[0], before[0]) != first
    for a, b in zip(model.get_weights(), made.get_weights(), strict=True):
        assert_same(a, b)
    model.compile(optimizer(), "sparse_categorical_crossentropy")  # and from the next one on as they say
    before = model.get_weights()
    model.fit(x, Y, verbose=0)
    assert np.array_equal(model.get_weights()[0], before[0]) == first


@pytest.mark.parametrize("built", [True, False])
def test_a_frozen_layer_that_is_added_after_compile(built):
    model = fastbn.Sequential([*([fastbn.Input((4,))] if built else []), layers.Dense(3, name="a")])
    model.compile("adam", "mse")
    model.add(layers.Dense(2, name="b", trainable=False))
    x = np.ones((8, 4), np.float32)
    model.predict(x)
    before = model.get_weights()
    model.fit(x, np.ones((8, 2)), verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [True, True, False, False]


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (optimizers.SGD(), "momentum"),
        (optimizers.SGD(), "nesterov"),
        (optimizers.RMSprop(), "rho"),
        (optimizers.Adam(), "amsgrad"),
        (optimizers.AdamW(), "weight_decay"),
    ],
)
def test_settings_of_an_optimizer_hold(made, name):
    before = getattr(made, name)
    with pytest.raises(AttributeError, match=f"{type(made).__name__}: {name} cannot be set"):
        setattr(made, name, 0.5)
    assert getattr(made, name) == before
    made.learning_rate = 0.25
    assert copy.deepcopy(made).learning_rate == made.lr == 0.25
    with pytest.raises(ValueError, match="learning_rate"):
        made.learning_rate = 1e39
