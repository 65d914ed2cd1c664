"""Callbacks: when they are called, with what, and what each does."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import fastbn
from fastbn import callbacks, layers, utils

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 4)).astype(np.float32)
Y = X[:, :1] * 2


def make():
    utils.set_random_seed(1)
    model = fastbn.Sequential([fastbn.Input((4,)), layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    return model


class Recorder(callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __getattribute__(self, name):
        if name.startswith("on_") and name not in ("on_batch_begin", "on_batch_end"):
            return lambda *arguments: self.calls.append((name, *arguments))
        return super().__getattribute__(name)

    def on_train_batch_end(self, batch, logs=None): ...

    def on_test_batch_end(self, batch, logs=None): ...

    def on_predict_batch_end(self, batch, logs=None): ...


def test_order_of_calls():
    recorder = Recorder()
    model = make()
    model.fit(X, Y, batch_size=20, validation_data=(X[:30], Y[:30]), callbacks=[recorder], verbose=0)
    names = [call[0] for call in recorder.calls]
    step = ["on_train_batch_begin", "on_train_batch_end"]
    test = ["on_test_begin", *["on_test_batch_begin", "on_test_batch_end"] * 2, "on_test_end"]
    assert names == ["on_train_begin", "on_epoch_begin", *step * 3, *test, "on_epoch_end", "on_train_end"]
    batches = [call for call in recorder.calls if call[0] == "on_train_batch_end"]
    assert [call[1] for call in batches] == [0, 1, 2]
    assert list(batches[0][2]) == ["loss", "mae"]
    epoch_logs = recorder.calls[-2][2]
    assert list(epoch_logs) == ["loss", "mae", "val_loss", "val_mae"]
    assert batches[-1][2] == {name: epoch_logs[name] for name in ("loss", "mae")}
    assert recorder.params == {"epochs": 1, "steps": 3, "verbose": 0}
    assert recorder.model is model
    recorder.calls.clear()
    model.predict(X, batch_size=20, callbacks=[recorder])
    names = [call[0] for call in recorder.calls]
    step = ["on_predict_batch_begin", "on_predict_batch_end"]
    assert names == ["on_predict_begin", *step * 3, "on_predict_end"]


def test_old_names_of_batch_methods():
    class Old(callbacks.Callback):
        seen = 0

        def on_batch_end(self, batch, logs=None):
            self.seen += 1

    old = Old()
    make().fit(X, Y, batch_size=25, callbacks=[old], verbose=0)
    assert old.seen == 2


def test_stop_training_from_a_batch():
    class Stop(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    model = make()
    history = model.fit(X, Y, batch_size=10, epochs=5, callbacks=[Stop()], verbose=0)
    assert model.optimizer.iterations == 2
    assert history.epoch == [0]


class Scripted(callbacks.Callback):
    """Puts values of its own into the logs, before the callbacks behind it."""

    def __init__(self, values, name="val_loss"):
        super().__init__()
        self.values, self.name = values, name

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]


def run(values, stopping, name="val_loss"):
    model = make()
    seen = []
    remember = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()))
    history = model.fit(X, Y, epochs=len(values), callbacks=[remember, Scripted(values, name), stopping], verbose=0)
    return len(history.epoch), seen, model.get_weights()


@pytest.mark.parametrize(
    ("values", "options", "epochs"),
    [
        ([3, 2, 1, 2, 3, 4], {}, 4),
        ([3, 2, 1, 2, 3, 4], {"patience": 2}, 5),
        ([3, 2, 1, 2, 0.5, 4, 4], {"patience": 2}, 7),
        ([3, 3, 3], {}, 2),
        ([3, 2.95, 2.9, 2.85], {"min_delta": 0.2, "patience": 2}, 3),
        ([1, 2, 3, 2], {"mode": "max"}, 4),
        ([5, 4, 3, 2, 1], {"baseline": 0.5, "patience": 2}, 5),
        ([3, 4, 5, 6], {"start_from_epoch": 2}, 4),
        ([3, 4, 5], {"patience": 0, "start_from_epoch": 5}, 3),
    ],
)
def test_early_stopping(values, options, epochs):
    assert run(values, callbacks.EarlyStopping(**options))[0] == epochs


def test_early_stopping_of_accuracy_and_of_nothing():
    assert run([0.5, 0.6, 0.4, 0.9], callbacks.EarlyStopping("val_accuracy"), "val_accuracy")[0] == 3
    with pytest.warns(UserWarning, match="val_acc"):
        assert run([1, 2], callbacks.EarlyStopping("val_acc"))[0] == 2
    with pytest.raises(ValueError, match="mode"):
        callbacks.EarlyStopping(mode="up")


@pytest.mark.parametrize(("values", "best"), [([3, 1, 2, 3], 1), ([3, 2, 1], 2), ([1, 2, 3], 0)])
def test_best_weights_come_back(values, best):
    _, seen, final = run(values, callbacks.EarlyStopping(patience=2, restore_best_weights=True))
    for a, b in zip(seen[best], final, strict=True):
        np.testing.assert_array_equal(a, b)


def test_model_checkpoint(tmp_path):
    model = make()
    best = callbacks.ModelCheckpoint(tmp_path / "best.npz", save_best_only=True)
    every = callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}-{val_loss:.1f}.npz")
    seen = []
    remember = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()))
    model.fit(X, Y, epochs=3, callbacks=[remember, Scripted([3, 1, 2]), best, every], verbose=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["01-3.0.npz", "02-1.0.npz", "03-2.0.npz", "best.npz"]
    for name, epoch in (("best.npz", 1), ("03-2.0.npz", 2)):
        model.load_weights(tmp_path / name)
        for a, b in zip(model.get_weights(), seen[epoch], strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(NotImplementedError, match="save_weights_only"):
        callbacks.ModelCheckpoint("x.npz", save_weights_only=False)
    with pytest.raises(KeyError, match="no_such"):
        model.fit(X, Y, callbacks=[callbacks.ModelCheckpoint("{no_such}.npz")], verbose=0)


def test_learning_rate_scheduler():
    model = make()
    schedule = callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    history = model.fit(X, Y, epochs=3, callbacks=[schedule], verbose=0).history
    np.testing.assert_allclose(history["learning_rate"], [0.005, 0.0025, 0.00125])
    assert model.optimizer.learning_rate == 0.00125


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    model = make()
    history = model.fit(X, Y, epochs=2, callbacks=[callbacks.CSVLogger(path)], verbose=0).history
    model.fit(X, Y, epochs=1, callbacks=[callbacks.CSVLogger(path, append=True)], verbose=0)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "0"]
    assert [float(row["loss"]) for row in rows[:2]] == history["loss"]
    model.fit(X, Y, epochs=1, callbacks=[callbacks.CSVLogger(path)], verbose=0)
    assert len(path.read_text().splitlines()) == 2


def test_lambda_callback():
    seen = []
    made = callbacks.LambdaCallback(
        on_train_begin=lambda logs: seen.append("begin"), on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    make().fit(X, Y, batch_size=25, callbacks=[made], verbose=0)
    assert seen == ["begin", 0, 1]
    with pytest.raises(TypeError, match="no such method"):
        callbacks.LambdaCallback(on_epoch=print)


def test_one_callback_needs_no_list():
    model, seen = make(), []
    note = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append("fit"),
        on_test_end=lambda logs: seen.append("evaluate"),
        on_predict_end=lambda logs: seen.append("predict"),
    )
    model.fit(X, Y, verbose=0, callbacks=note)
    model.evaluate(X, Y, verbose=0, callbacks=note)
    model.predict(X, callbacks=note)
    assert seen == ["fit", "evaluate", "predict"]


def test_logs_are_never_none():
    """Empty where something begins, with the outputs of a predicted batch."""
    seen = {}

    def note(name):
        def method(*arguments):
            seen.setdefault(name, arguments[-1])

        return method

    names = [name for name in dir(callbacks.Callback) if name.startswith("on_") and "_batch_" not in name]
    names += [f"on_{kind}_batch_{end}" for kind in ("train", "test", "predict") for end in ("begin", "end")]
    called = callbacks.LambdaCallback(**{name: note(name) for name in names})
    model = make()
    model.fit(X, Y, verbose=0, validation_data=(X, Y), callbacks=[called])
    model.predict(X, batch_size=20, callbacks=[called])
    assert set(seen) == set(names)
    assert all(isinstance(logs, dict) for logs in seen.values())
    assert {name for name, logs in seen.items() if not logs} == {n for n in names if n.endswith("_begin")} | {
        "on_predict_end"
    }
    np.testing.assert_array_equal(seen["on_predict_batch_end"]["outputs"], model.predict(X[:20]))


def test_stop_training_within_an_epoch():
    """Whoever sets it: the epoch ends after the batch, though no callback looks at batches."""

    class Stop(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.stop_training = True

    model = make()
    model.fit(X, Y, batch_size=1, epochs=3, verbose=0, callbacks=[Stop()])
    assert model.optimizer.iterations == 1


def test_steps_of_a_callback_leave_the_learning_rate():
    model, other = make(), make()
    other.set_weights(model.get_weights())

    class Extra(callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            optimizer, rate = self.model.optimizer, self.model.optimizer.learning_rate
            optimizer.learning_rate = 0.0
            self.model.train_on_batch(X[:8], Y[:8])
            optimizer.learning_rate = rate

    model.fit(X, Y, batch_size=10, shuffle=False, verbose=0, callbacks=[Extra()])
    other.fit(X, Y, batch_size=10, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def classifier(metric):
    model = fastbn.Sequential([fastbn.Input((4,)), layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[metric])
    return model


@pytest.mark.parametrize("owner", [callbacks.EarlyStopping, callbacks.ModelCheckpoint])
def test_the_direction_is_that_of_the_metric(owner, tmp_path):
    labels = np.arange(len(X)) % 3
    arguments = {} if owner is callbacks.EarlyStopping else {"filepath": tmp_path / "w.npz", "save_best_only": True}
    for monitor, larger in (("val_top", True), ("top", True), ("val_loss", False)):
        called = owner(monitor=monitor, **arguments)
        model = classifier(fastbn.metrics.SparseCategoricalAccuracy(name="top"))
        model.fit(X, labels, validation_data=(X, labels), verbose=0, callbacks=[called])
        assert called._monitor.larger == larger
    model = classifier("accuracy")
    with pytest.raises(ValueError, match="mode must be 'min' or 'max' where monitor is neither"):
        model.fit(X, labels, verbose=0, callbacks=[owner(monitor="f1", **arguments)])
    assert model.optimizer.iterations == 0
    model.fit(X, labels, verbose=0, callbacks=[owner(monitor="loss", mode="max", **arguments)])


@pytest.mark.parametrize("name", ["w.weights.h5", "w{epoch.npz", "w{0}.npz", "w{}.npz", "w}.npz"])
def test_names_of_checkpoints_are_checked_at_once(name):
    with pytest.raises(ValueError, match=r"ModelCheckpoint: .*Received: .*w"):
        callbacks.ModelCheckpoint(name)


def test_the_folder_of_a_checkpoint_is_made(tmp_path):
    make().fit(X, Y, verbose=0, callbacks=[callbacks.ModelCheckpoint(tmp_path / "new" / "{epoch}" / "w.npz")])
    make().load_weights(tmp_path / "new" / "1" / "w.npz")


def test_a_schedule_of_the_epoch_alone():
    model = make()
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[callbacks.LearningRateScheduler(lambda epoch: 0.5**epoch)])
    assert model.history.history["learning_rate"] == [1.0, 0.5, 0.25]
    schedule = callbacks.LearningRateScheduler(lambda epoch, rate=1.0: rate / 2)
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[schedule])
    assert model.history.history["learning_rate"] == [0.125, 0.0625]


def test_validation_epochs_count_from_the_first_of_all():
    def validated(**options):
        seen = []
        called = callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(epoch) if "val_loss" in logs else None
        )
        make().fit(X, Y, validation_data=(X, Y), verbose=0, callbacks=[called], **options)
        return seen

    assert validated(epochs=4, validation_freq=2) == [1, 3]
    assert validated(epochs=4, initial_epoch=1, validation_freq=2) == [1, 3]
    assert validated(epochs=4, validation_freq=[1, 3]) == [0, 2]
    for wrong, error in ((0, ValueError), ("2", TypeError), ([1.5], TypeError)):
        with pytest.raises(error, match="validation_freq"):
            validated(validation_freq=wrong)


def test_metrics_of_one_name_are_numbered():
    model = fastbn.Sequential([fastbn.Input((4,)), layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae", "mae", fastbn.metrics.MeanSquaredError(name="loss")])
    assert model.metrics_names == ["loss", "mae", "mae_1", "loss_1"]
    found = model.evaluate(X, Y, verbose=0)
    assert len(found) == 4
    assert found[1] == found[2]
    assert found[0] == pytest.approx(found[3])
