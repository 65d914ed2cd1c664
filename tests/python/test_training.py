"""compile, fit, evaluate, predict: Keras' meaning of every argument, and what happens to data on the way."""

from __future__ import annotations

import copy
import gc
import html
import threading

import numpy as np
import pytest
import rich.console

import fastbn
from fastbn import callbacks, layers, losses, metrics, optimizers, utils

RNG = np.random.default_rng(0)
X = RNG.standard_normal((70, 6)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 1)
ONE_HOT = utils.to_categorical(LABELS, 3)


def classifier(
    *extra, activation="softmax", seed=1, optimizer="sgd", loss="sparse_categorical_crossentropy", **options
):
    utils.set_random_seed(seed)
    model = fastbn.Sequential(
        [fastbn.Input((6,)), layers.Dense(8, activation="relu"), *extra, layers.Dense(3, activation=activation)]
    )
    model.compile(optimizer, loss, **options)
    return model


def regressor(optimizer="sgd", **options):
    utils.set_random_seed(1)
    model = fastbn.Sequential([fastbn.Input((6,)), layers.Dense(2)])
    model.compile(optimizer, "mse", **options)
    return model


def weights(model):
    return [w.tobytes() for w in model.get_weights()]


# ----------------------------------------------------------------------- fit


def test_history_has_keras_keys():
    model = classifier(metrics=["accuracy"])
    history = model.fit(X, LABELS, epochs=3, validation_split=0.2, verbose=0)
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert all(len(values) == 3 for values in history.history.values())
    assert history.epoch == [0, 1, 2]
    assert model.history is history
    history = model.fit(X, LABELS, epochs=5, initial_epoch=3, verbose=0, validation_data=(X, LABELS), validation_freq=2)
    assert history.epoch == [3, 4]
    assert len(history.history["val_loss"]) == 1


def test_fit_is_its_batches():
    """The last ragged batch is kept, and the epoch's loss weighs batches by their samples."""
    fitted, stepped = classifier(metrics=["accuracy"]), classifier(metrics=["accuracy"])
    history = fitted.fit(X, LABELS, batch_size=32, shuffle=False, verbose=0).history
    losses, correct = 0.0, 0.0
    for begin in range(0, 70, 32):
        rows = slice(begin, min(begin + 32, 70))
        loss, accuracy = stepped.train_on_batch(X[rows], LABELS[rows])
        losses += loss * (rows.stop - rows.start)
        correct += accuracy * (rows.stop - rows.start)
    assert weights(fitted) == weights(stepped)
    assert history["loss"][0] == pytest.approx(losses / 70, rel=1e-12)
    assert history["accuracy"][0] == pytest.approx(correct / 70, rel=1e-12)
    assert fitted.optimizer.iterations == 3


def test_validation_split_takes_the_last_samples_before_shuffling():
    split = classifier()
    a = split.fit(X, LABELS, validation_split=0.25, epochs=2, verbose=0).history
    at = int(70 * 0.75)
    given = classifier()
    b = given.fit(X[:at], LABELS[:at], validation_data=(X[at:], LABELS[at:]), epochs=2, verbose=0).history
    assert a == b
    assert weights(split) == weights(given)


def test_shuffling_follows_the_seed():
    orders = []
    for seed, shuffle in ((1, True), (1, True), (1, False)):
        model = classifier(seed=seed)
        model.fit(X, LABELS, batch_size=8, shuffle=shuffle, verbose=0)
        orders.append(weights(model))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    model = classifier(seed=1)
    initial = weights(model)
    assert initial == weights(classifier(seed=1))
    assert initial != weights(classifier(seed=2))


def test_every_sample_is_taken_once_an_epoch():
    """A linear model with a learning rate of zero: the mean loss is that of the whole set whatever the order."""
    model = regressor(optimizers.SGD(0.0))
    y = X[:, :2] * 3
    history = model.fit(X, y, batch_size=9, epochs=2, verbose=0).history
    expected = np.mean((model.predict(X) - y) ** 2)
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-6)


def test_nan_goes_on():
    x = X.copy()
    x[3, 2] = np.nan
    history = classifier().fit(x, LABELS, epochs=2, verbose=0).history
    assert np.isnan(history["loss"]).all()


def test_interrupt_leaves_the_model_whole():
    class Interrupt(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    fitted, stepped = classifier(), classifier()
    with pytest.raises(KeyboardInterrupt):
        fitted.fit(X, LABELS, batch_size=8, shuffle=False, verbose=0, callbacks=[Interrupt()])
    for i in range(3):
        stepped.train_on_batch(X[8 * i : 8 * i + 8], LABELS[8 * i : 8 * i + 8])
    assert weights(fitted) == weights(stepped)
    fitted.fit(X, LABELS, verbose=0)


def test_other_batch_sizes_keep_the_state():
    model = classifier(optimizer="adam")
    model.fit(X, LABELS, batch_size=16, verbose=0)
    state = model.optimizer_state()
    model.fit(X, LABELS, batch_size=70, epochs=0, verbose=0)
    after = model.optimizer_state()
    assert after["iterations"] == 5
    for key, value in state.items():
        np.testing.assert_array_equal(after[key], value)
    model.train_on_batch(X, LABELS)
    assert model.optimizer.iterations == 6


def test_dropout_acts_in_training_alone():
    model = classifier(layers.Dropout(0.5))
    np.testing.assert_array_equal(model.predict(X), model.predict(X))
    frozen = classifier(layers.Dropout(0.5), optimizer=optimizers.SGD(0.0))
    losses = [frozen.train_on_batch(X, LABELS) for _ in range(3)]
    assert len(set(losses)) == 3
    assert frozen.evaluate(X, LABELS, verbose=0) == frozen.evaluate(X, LABELS, verbose=0)
    seeded = [classifier(layers.Dropout(0.5, seed=7), optimizer=optimizers.SGD(0.0)) for _ in range(2)]
    assert seeded[0].train_on_batch(X, LABELS) == seeded[1].train_on_batch(X, LABELS)


# ------------------------------------------------------------------- compile


def test_compile_keeps_weights_and_forgets_the_optimizer():
    model = classifier(optimizer="adam")
    model.fit(X, LABELS, epochs=2, verbose=0)
    before, predicted = weights(model), model.predict(X)
    model.compile("rmsprop", "categorical_crossentropy")
    assert weights(model) == before
    np.testing.assert_array_equal(model.predict(X), predicted)
    assert model.optimizer.iterations == 0
    assert all((v == 0).all() for k, v in model.optimizer_state().items() if k != "iterations")


def test_weights_before_and_after_compile_are_the_same():
    utils.set_random_seed(4)
    model = fastbn.Sequential([fastbn.Input((6,)), layers.Dense(3, activation="softmax")])
    first = weights(model)
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert weights(model) == first
    utils.set_random_seed(4)
    model = fastbn.Sequential([fastbn.Input((6,)), layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert weights(model) == first


def test_a_failed_compile_changes_nothing():
    model = classifier(activation=None, loss=losses.SparseCategoricalCrossentropy(from_logits=True))
    optimizer = model.optimizer
    with pytest.raises(NotImplementedError, match="from_logits"):
        model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="compile: conv_algorithm"):
        model.compile("adam", "mse", conv_algorithm="winograd")
    assert model.optimizer is optimizer
    model.train_on_batch(X, LABELS)


@pytest.mark.parametrize(
    ("optimizer", "loss", "options", "error", "words"),
    [
        ("adagrad", "mse", {}, NotImplementedError, "optimizers"),
        ("sgdd", "mse", {}, ValueError, "optimizers"),
        (3, "mse", {}, ValueError, "optimizers"),
        ("sgd", "binary_crossentropy", {}, NotImplementedError, "losses"),
        ("sgd", "crossentropy", {}, ValueError, "losses"),
        ("sgd", lambda t, p: 0, {}, NotImplementedError, "losses"),
        ("sgd", "mse", {"metrics": ["accuracy"]}, NotImplementedError, "accuracy"),
        ("sgd", "categorical_crossentropy", {"metrics": ["mae"]}, NotImplementedError, "mae"),
        (
            "sgd",
            "categorical_crossentropy",
            {"metrics": ["sparse_categorical_accuracy"]},
            NotImplementedError,
            "sparse",
        ),
        ("sgd", "mse", {"metrics": ["f1"]}, ValueError, "metrics"),
        ("sgd", "mse", {"metrics": {"a": "mae"}}, NotImplementedError, "list"),
        ("sgd", "mse", {"loss_weights": [1]}, NotImplementedError, "loss_weights"),
    ],
)
def test_compile_refuses(optimizer, loss, options, error, words):
    with pytest.raises(error, match=words):
        classifier(optimizer=optimizer, loss=loss, **options)


def test_not_compiled():
    model = fastbn.Sequential([fastbn.Input((6,)), layers.Dense(3)])
    for call in (model.fit, model.evaluate, model.train_on_batch):
        with pytest.raises(ValueError, match="compiled first"):
            call(X, LABELS)
    model.compile("sgd")  # without a loss: prediction only
    with pytest.raises(ValueError, match="compiled first"):
        model.fit(X, LABELS)
    assert model.predict(X).shape == (70, 3)


def test_trainable_holds_from_compile_on():
    model = classifier(layers.BatchNormalization())
    model.layers[0].trainable = False
    model.layers[1].trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = model.get_weights()
    model.fit(X, LABELS, verbose=0)
    same = [np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert same == [True] * 6 + [False] * 2
    model.trainable = True
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, LABELS, verbose=0)
    assert not any(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


# ---------------------------------------------------------- losses and metrics


@pytest.mark.parametrize(
    "loss", ["categorical_crossentropy", losses.categorical_crossentropy, losses.CategoricalCrossentropy]
)
@pytest.mark.parametrize("metric", ["accuracy", "acc", metrics.CategoricalAccuracy(), metrics.categorical_accuracy])
def test_categorical(loss, metric):
    model = classifier(loss=loss, metrics=[metric])
    value, accuracy = model.evaluate(X, ONE_HOT, verbose=0)
    p = model.predict(X)
    assert value == pytest.approx(-np.log(p[np.arange(70), LABELS]).mean(), rel=1e-5)
    assert accuracy == pytest.approx((p.argmax(1) == LABELS).mean())
    name = metric if isinstance(metric, str) else "categorical_accuracy"
    assert list(model.evaluate(X, ONE_HOT, verbose=0, return_dict=True)) == ["loss", name]
    assert model.metrics_names == ["loss", name]


def test_from_logits_is_the_same_step():
    fused = classifier(loss="sparse_categorical_crossentropy")
    logits = classifier(activation=None, loss=losses.SparseCategoricalCrossentropy(from_logits=True))
    assert fused.train_on_batch(X, LABELS) == logits.train_on_batch(X, LABELS)
    assert weights(fused) == weights(logits)
    assert not np.allclose(logits.predict(X).sum(axis=1), 1)
    with pytest.raises(NotImplementedError, match="ends in softmax"):
        fused.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True))


def test_mean_squared_error_and_its_metrics():
    model = regressor(metrics=["mae", "mse"])
    y = X[:, 2:4]
    found = model.evaluate(X, y, verbose=0, return_dict=True)
    error = model.predict(X) - y
    assert found["loss"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert found["mse"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert model.train_on_batch(X, y)[1] == pytest.approx(np.abs(error).mean(), rel=1e-5)


def test_one_output_takes_flat_targets():
    model = fastbn.Sequential([fastbn.Input((6,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    assert model.evaluate(X, X[:, 0], verbose=0) == model.evaluate(X, X[:, :1], verbose=0)


def test_accuracy_of_pixels():
    source = fastbn.Input((4, 4, 2))
    model = fastbn.Model(source, layers.Conv2D(3, 1, activation="softmax")(source))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, labels = RNG.random((5, 4, 4, 2), np.float32), RNG.integers(0, 3, (5, 4, 4))
    loss, accuracy = model.evaluate(x, labels, verbose=0)
    p = model.predict(x)
    assert accuracy == pytest.approx((p.argmax(-1) == labels).mean())
    assert loss == pytest.approx(losses.sparse_categorical_crossentropy(labels, p).mean(), rel=1e-5)
    model.fit(x, labels, verbose=0)


def test_evaluate_does_not_depend_on_the_batch_size():
    model = classifier(metrics=["accuracy"])
    x, labels = np.tile(X, (90, 1)), np.tile(LABELS, 90)  # more than one call
    expected = model.evaluate(X, LABELS, verbose=0)
    for size in (1000, 32):
        np.testing.assert_allclose(model.evaluate(x, labels, batch_size=size, verbose=0), expected, rtol=1e-6)
    np.testing.assert_array_equal(model.predict(x), np.tile(model.predict(X), (90, 1)))
    watched = model.evaluate(
        x, labels, batch_size=100, verbose=0, callbacks=[callbacks.LambdaCallback(on_test_batch_end=lambda *_: None)]
    )
    np.testing.assert_allclose(watched, expected, rtol=1e-6)


# ---------------------------------------------------------------------- data


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int16, np.uint8, bool])
def test_data_of_other_dtypes(dtype):
    x = (X > 0).astype(dtype)
    expected = classifier()
    expected.fit(x.astype(np.float32), LABELS, verbose=0)
    model = classifier()
    model.fit(x, LABELS.astype(np.uint8), verbose=0)
    assert weights(model) == weights(expected)


def test_lists_and_views():
    model, expected = classifier(), classifier()
    expected.fit(X, LABELS, shuffle=False, verbose=0)
    model.fit(np.asfortranarray(X), LABELS.tolist(), shuffle=False, verbose=0)
    assert weights(model) == weights(expected)
    np.testing.assert_array_equal(model.predict(X.tolist()), model.predict(X))


def test_bytes_go_in_as_they_are():
    images = RNG.integers(0, 256, (40, 8, 8, 1), np.uint8)
    labels = RNG.integers(0, 3, 40)

    def make():
        utils.set_random_seed(1)
        model = fastbn.Sequential([layers.Rescaling(1 / 255, input_shape=(8, 8, 1)), layers.Flatten()])
        model.add(layers.Dense(3, activation="softmax"))
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    as_bytes, as_floats, mixed = make(), make(), make()
    as_bytes.fit(images, labels, epochs=2, shuffle=False, verbose=0)
    as_floats.fit(images.astype(np.float32), labels, epochs=2, shuffle=False, verbose=0)
    assert weights(as_bytes) == weights(as_floats)
    other = images.astype(np.float64)
    mixed.fit(images, labels, epochs=1, shuffle=False, verbose=0, validation_data=(other, labels))
    mixed.fit(images, labels, epochs=1, shuffle=False, verbose=0)
    assert weights(mixed) == weights(as_bytes)  # the optimizer's state moved along
    np.testing.assert_array_equal(mixed.predict(images), as_bytes.predict(images))


def byte_model(optimizer="adam"):
    utils.set_random_seed(1)
    model = fastbn.Sequential([layers.Rescaling(1 / 255, input_shape=(6,)), layers.Dense(3, activation="softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


BYTES = RNG.integers(0, 256, (70, 6), np.uint8)


@pytest.mark.parametrize("first", [np.uint8, np.float32])
@pytest.mark.parametrize("second", [np.uint8, np.float32, np.float64])
def test_validation_data_of_another_dtype(first, second):
    expected = byte_model().fit(BYTES, LABELS, verbose=0, validation_data=(BYTES, LABELS)).history
    model = byte_model()
    for _ in range(2):
        found = model.fit(
            BYTES.astype(first), LABELS, verbose=0, validation_data=(BYTES.astype(second), LABELS)
        ).history
        assert found == expected
        model = byte_model()
        model.predict(BYTES.astype(second))


def test_a_list_of_one_array_is_the_array():
    plain = byte_model()
    expected = plain.fit(BYTES, LABELS, verbose=0).history
    model = byte_model()
    assert model.fit([BYTES], LABELS, verbose=0).history == expected
    np.testing.assert_array_equal(model.predict([BYTES]), plain.predict(BYTES))
    with pytest.raises(ValueError, match=r"one input.*list of 2"):
        model.predict([BYTES, BYTES])


@pytest.mark.parametrize("method", ["predict", "evaluate", "layer_outputs"])
def test_floats_in_a_callback_do_not_end_the_training_on_bytes(method):
    expected = byte_model()
    expected.fit(BYTES, LABELS, epochs=3, verbose=0)
    seen = []

    class Look(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            look = getattr(self.model, method)
            more = {"y": LABELS, "verbose": 0} if method == "evaluate" else {}
            seen.append(repr(look(BYTES.astype(np.float32), **more)) == repr(look(BYTES, **more)))

    model = byte_model()
    model.fit(BYTES, LABELS, epochs=3, verbose=0, callbacks=[Look()])
    assert seen == [True] * 9
    assert weights(model) == weights(expected)
    assert model.optimizer.iterations == model.optimizer_state()["iterations"] == 9
    model.train_on_batch(BYTES.astype(np.float64), LABELS)
    assert model.optimizer_state()["iterations"] == 10


def test_bytes_in_a_callback_do_not_end_the_training_on_floats():
    expected = byte_model()
    expected.fit(BYTES.astype(np.float32), LABELS, verbose=0)
    look = callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: model.predict(BYTES))
    model = byte_model()
    model.fit(BYTES.astype(np.float32), LABELS, verbose=0, callbacks=[look])
    assert weights(model) == weights(expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: model.compile("sgd", "sparse_categorical_crossentropy"), "compile: .* during fit"),
        (lambda model: model.fit(BYTES, LABELS, verbose=0), "fit: .* during fit"),
        (lambda model: model.train_on_batch(BYTES.astype(np.float32), LABELS), "train_on_batch: .* during fit"),
        (lambda model: model.add(layers.Dense(2)), "add: .* during fit"),
        (lambda model: model.pop(), "pop: .* during fit"),
    ],
    ids=["compile", "fit", "train_on_batch", "add", "pop"],
)
def test_what_would_end_a_training_is_refused_during_it(call, words):
    model = byte_model()
    before = weights(model)
    look = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: call(model))
    with pytest.raises(RuntimeError, match=words):
        model.fit(BYTES, LABELS, verbose=0, callbacks=[look])
    assert weights(model) != before  # the epoch's steps stay
    model.compile("sgd", "sparse_categorical_crossentropy")  # and nothing is refused afterwards


def test_floats_in_another_thread_do_not_end_the_training_on_bytes():
    expected = byte_model()
    expected.fit(BYTES, LABELS, epochs=4, verbose=0)
    model = byte_model()

    def elsewhere(epoch, logs):
        thread = threading.Thread(target=model.predict, args=(BYTES / 2,))
        thread.start()
        thread.join()

    model.fit(BYTES, LABELS, epochs=4, verbose=0, callbacks=[callbacks.LambdaCallback(on_epoch_begin=elsewhere)])
    assert weights(model) == weights(expected)


def test_a_batch_larger_than_the_data_is_the_data():
    expected = classifier()
    expected.fit(X, LABELS, batch_size=70, epochs=2, verbose=0)
    model = classifier()
    model.fit(X, LABELS, batch_size=2**40, epochs=2, verbose=0)
    assert weights(model) == weights(expected)
    with pytest.raises(ValueError, match=r"fit: batch_size must fit into 64 bits. Received: batch_size=11805"):
        model.fit(X, LABELS, batch_size=2**70, verbose=0)


def test_empty_validation_data():
    with pytest.raises(ValueError, match=r"fit: validation_data: there must be samples. Received: x.shape=\(0, 6\)"):
        classifier().fit(X, LABELS, verbose=0, validation_data=(X[:0], LABELS[:0]))


def test_declared_bytes():
    source = fastbn.Input((6,), dtype="uint8")
    model = fastbn.Model(source, layers.Dense(3)(layers.Rescaling(0.5, offset=1)(source)))
    x = RNG.integers(0, 256, (5, 6), np.uint8)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(model.predict(x), (x * 0.5 + 1) @ kernel + bias, rtol=1e-5)
    with pytest.raises(TypeError, match="uint8"):
        model.predict(x.astype(np.float32))


def test_a_missing_axis_of_one_is_added():
    model = fastbn.Sequential([fastbn.Input((8, 8, 1)), layers.Conv2D(2, 3), layers.Flatten()])
    x = RNG.random((3, 8, 8), np.float32)
    np.testing.assert_array_equal(model.predict(x), model.predict(x[..., None]))


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "words"),
    [
        (None, LABELS, {}, ValueError, "x is needed"),
        (X, None, {}, ValueError, "y is needed"),
        (X[:, :5], LABELS, {}, ValueError, r"x must have shape \(None, 6\)"),
        (X[0], LABELS, {}, ValueError, "x must have shape"),
        (X.astype(complex), LABELS, {}, TypeError, "real numbers"),
        (np.full((70, 6), "a"), LABELS, {}, TypeError, "real numbers"),
        ([[1, 2], [3]], LABELS, {}, ValueError, "array"),
        ([X, X], LABELS, {}, ValueError, "one input"),
        ((row for row in X), LABELS, {}, NotImplementedError, "array"),
        (X[:0], LABELS[:0], {}, ValueError, "samples"),
        (X, LABELS[:69], {}, ValueError, "as many samples"),
        (X, ONE_HOT, {}, ValueError, "categorical_crossentropy"),
        (X, LABELS + 1, {}, ValueError, r"must lie in \[0, 3\). Received: 3"),
        (X, LABELS - 1, {}, ValueError, r"must lie in \[0, 3\). Received: -1"),
        (X, LABELS + (1 << 32), {}, ValueError, "must lie in"),
        (X, LABELS + 0.5, {}, (TypeError, ValueError), "class numbers"),
        (X, LABELS * np.nan, {}, ValueError, "class numbers"),
        (X, LABELS.astype(str), {}, TypeError, "real numbers"),
        (X, LABELS, {"batch_size": 0}, ValueError, "batch_size"),
        (X, LABELS, {"batch_size": 2.5}, TypeError, "batch_size"),
        (X, LABELS, {"epochs": -1}, ValueError, "epochs"),
        (X, LABELS, {"validation_split": 1.0}, ValueError, "validation_split"),
        (X, LABELS, {"validation_split": float("nan")}, ValueError, "validation_split"),
        (X, LABELS, {"validation_split": 0.001}, (ValueError,), None),
        (X, LABELS, {"validation_data": X}, ValueError, "validation_data"),
        (X, LABELS, {"validation_data": (X, LABELS[:5])}, ValueError, "as many samples"),
        (X, LABELS, {"validation_data": (X, LABELS, LABELS)}, NotImplementedError, "sample_weight"),
        (X, LABELS, {"sample_weight": np.ones(70)}, NotImplementedError, "sample_weight"),
        (X, LABELS, {"class_weight": {0: 1}}, NotImplementedError, "class_weight"),
        (X, LABELS, {"steps_per_epoch": 3}, NotImplementedError, "steps_per_epoch"),
        (X, LABELS, {"verbose": 3}, ValueError, "verbose"),
        (X, LABELS, {"callbacks": [print]}, TypeError, "Callback"),
    ],
)
def test_fit_refuses_and_changes_nothing(x, y, options, error, words):
    model = classifier()
    before = weights(model)
    if words is None:
        model.fit(x, y, verbose=0, **options)  # one sample of 70 remains for validation
        return
    with pytest.raises(error, match=words):
        model.fit(x, y, **{"verbose": 0, **options})
    assert weights(model) == before
    assert model.optimizer.iterations == 0


def test_one_hot_labels_get_a_hint():
    with pytest.raises(ValueError, match="to_categorical"):
        classifier(loss="categorical_crossentropy").fit(X, LABELS, verbose=0)


def test_empty_prediction():
    assert classifier().predict(X[:0]).shape == (0, 3)


# --------------------------------------------------------------- single steps


def test_single_steps():
    model = classifier(metrics=["accuracy"], keep_gradients=True)
    assert model.test_on_batch(X, LABELS) == model.evaluate(X, LABELS, verbose=0)
    np.testing.assert_array_equal(model.predict_on_batch(X), model.predict(X))
    np.testing.assert_array_equal(model(X), model.predict(X))
    before = model.get_weights()
    logs = model.train_on_batch(X, LABELS, return_dict=True)
    assert list(logs) == ["loss", "accuracy"]
    gradients = model.gradients()
    assert list(gradients) == ["dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"]
    for w, g, after in zip(before, gradients.values(), model.get_weights(), strict=True):
        np.testing.assert_allclose(after, w - 0.01 * g, rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="keep_gradients"):
        classifier().gradients()
    for call in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(NotImplementedError, match="sample_weight"):
            call(X, LABELS, sample_weight=np.ones(70))
    with pytest.raises(NotImplementedError, match="inside another"):
        model(fastbn.Input((6,)))


def test_learning_rate_can_change_at_any_time():
    model = classifier(optimizer=optimizers.SGD(0.1))
    model.optimizer.learning_rate = 0.0
    before = weights(model)
    model.train_on_batch(X, LABELS)
    model.fit(X, LABELS, verbose=0)
    assert weights(model) == before
    model.optimizer.learning_rate = 0.1
    model.fit(X, LABELS, verbose=0)
    assert weights(model) != before
    with pytest.raises(ValueError, match="learning_rate"):
        model.optimizer.learning_rate = float("nan")


def test_optimizer_state_moves_between_models():
    one, other = classifier(optimizer="adam"), classifier(optimizer="adam")
    one.fit(X, LABELS, verbose=0)
    other.set_weights(one.get_weights())
    other.set_optimizer_state(one.optimizer_state())
    one.train_on_batch(X, LABELS)
    other.train_on_batch(X, LABELS)
    assert weights(one) == weights(other)
    state = one.optimizer_state()
    with pytest.raises(ValueError, match="must hold"):
        other.set_optimizer_state({"iterations": 1})
    state["dense/kernel:velocity"] = np.zeros(3)
    with pytest.raises(ValueError, match="dense/kernel:velocity must have shape"):
        other.set_optimizer_state({**state, "iterations": 99})
    assert other.optimizer.iterations == one.optimizer.iterations


def test_costs_leave_the_model_alone():
    model = classifier(optimizer="adam")
    model.fit(X, LABELS, verbose=0)
    before = weights(model)
    table = model.costs(16, steps=2)
    assert weights(model) == before
    assert model.optimizer.iterations == 3
    assert {row.layer for row in table} >= {"dense", "dense_1"}
    assert sum(row.forward.multiply_adds for row in table) == 16 * model.count_multiply_adds()
    assert table.total.seconds > 0
    assert model.costs(16, steps=0).total.seconds is None


def test_program_tells_what_was_fused():
    text = classifier().program()
    assert "dense_1" in text
    assert "softmax cross-entropy" in text


def images_with_everything() -> fastbn.Sequential:
    return fastbn.Sequential(
        [
            fastbn.Input((8, 8, 2)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def test_prediction_is_one_pass_over_blocks():
    text = images_with_everything().program()  # not compiled: the program of a prediction
    phases = text.split("\nphase ")[1:]
    assert [phase.splitlines()[0] for phase in phases] == [
        "1: each step by itself",
        "2: split by samples, a chunk a task",
    ]
    assert [line.strip() for line in phases[0].splitlines()[1:] if line] == ["batch_normalization_1: coefficients"]
    assert "  conv2d conv2d + batch_normalization + re_lu\n" in text  # folded into the weights
    assert "dropout" not in text
    assert "0 B stored for a sample" in text
    assert "statistics" not in text


def test_programs_for_other_batches():
    model = images_with_everything()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.train_on_batch(np.zeros((6, 8, 8, 2), np.float32), np.zeros(6, np.int32))
    assert model.program() == model.program(6)
    text = model.program(batch_size=64)
    assert text.startswith("program for up to 64 samples in chunks of 4\n")
    assert "stored, because a later phase reads it\n  conv2d, 1152 B a sample, phases 2 to " in text
    assert "made again instead of stored\n" in text
    assert model.optimizer.iterations == 1
    assert model.program().startswith("program for up to 6 samples")
    assert text._repr_html_() == f"<pre>{html.escape(text)}</pre>"
    console = rich.console.Console(force_terminal=True, width=200, color_system="truecolor")
    with console.capture() as captured:
        console.print(text)
    assert "\x1b[1mphase 2" in captured.get()
    with pytest.raises(ValueError, match="program: batch_size must be at least 1"):
        model.program(0)


def test_models_in_several_threads():
    """Prediction from several threads at once, while another model trains."""
    from concurrent.futures import ThreadPoolExecutor

    model, other = classifier(), classifier()
    expected = model.predict(X)
    with ThreadPoolExecutor(4) as pool:
        training = pool.submit(other.fit, X, LABELS, epochs=20, verbose=0)
        found = list(pool.map(model.predict, [X] * 30))
        training.result()
    assert all(np.array_equal(f, expected) for f in found)


def test_an_optimizer_serves_one_model():
    """Its learning rate and its iterations are those of one model: a second one is refused, not mixed up with it."""
    rate = optimizers.SGD(0.1)
    first, second = (fastbn.Sequential([fastbn.Input((3,)), layers.Dense(2)]) for _ in range(2))
    first.compile(rate, "mse")
    x, y = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    for _ in range(3):
        first.train_on_batch(x, y)
    with pytest.raises(ValueError, match=r"compile: an optimizer serves one model.*Received: SGD.*'sequential'"):
        second.compile(rate, "mse")
    assert second.optimizer is None
    assert rate.iterations == 3
    first.compile(rate, "mse")  # its own again
    assert rate.iterations == 0
    copied = copy.deepcopy(first)
    with pytest.raises(ValueError, match="compile: an optimizer serves one model"):
        second.compile(copied.optimizer, "mse")
    first.compile("sgd", "mse")  # and free
    second.compile(rate, "mse")
    del second
    gc.collect()
    first.compile(rate, "mse")
