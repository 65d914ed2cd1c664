"""Callbacks of `fit`, `evaluate` and `predict`, under Keras' names."""

from __future__ import annotations

import csv
import inspect
import math
import os
import string
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from fastbn.models import Model

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
]

Logs: TypeAlias = dict[str, float]


class Callback:
    """Base of the callbacks: every method does nothing.

    `self.model` is the model and `self.params` {"epochs", "steps", "verbose"}. Batch methods that are not overridden
    cost nothing. Logs of a training batch are means over the epoch so far, those of a predicted one its "outputs";
    where something begins they are empty.
    """

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}
        self._model: Model | None = None

    @property
    def model(self) -> Model:
        """The model that calls."""
        model: Model | None = getattr(self, "_model", None)  # subclasses may leave out super().__init__()
        if model is None:
            raise RuntimeError(f"{type(self).__name__}: has no model before a method of one runs it")
        return model

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def set_model(self, model: Model) -> None:
        self._model = model

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch, with its logs."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before an epoch; they count from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After an epoch and its validation; what is added to `logs` goes into the history."""

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Another name of on_train_batch_begin."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Another name of on_train_batch_end."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a training step."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a training step."""
        self.on_batch_end(batch, logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before an evaluation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After an evaluation, with its logs."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of an evaluation."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """After a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of a prediction."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of a prediction."""


def _overrides(callback: Callback, method: str) -> bool:
    return method in vars(callback) or getattr(type(callback), method) is not getattr(Callback, method)


def as_callbacks(given: Callback | Iterable[Callback] | None) -> list[Callback]:
    """One callback, several or none as a list."""
    if given is None:
        return []
    if isinstance(given, Callback):
        return [given]
    if not isinstance(given, Iterable):
        raise TypeError(f"callbacks: must be instances of Callback. Received: {given!r}")
    return list(given)


class CallbackList:
    """Several callbacks as one; `train_batches`, `test_batches`, `predict_batches` say whether any looks at batches."""

    def __init__(self, callbacks: Iterable[Callback], model: Model, params: dict[str, Any]) -> None:
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks: must be instances of Callback. Received: {callback!r}")
            callback.set_params(params)
            callback.set_model(model)

        def any_overrides(*methods: str) -> bool:
            return any(_overrides(c, m) for c in self.callbacks for m in methods)

        self.train_batches = any_overrides(
            "on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"
        )
        self.test_batches = any_overrides("on_test_batch_begin", "on_test_batch_end")
        self.predict_batches = any_overrides("on_predict_batch_begin", "on_predict_batch_end")

    def call(self, method: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, method)(*arguments)


class History(Callback):
    """What `fit` returns: `history`, a list of values per epoch for each name, and `epoch`, their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)


class _Monitor:
    """Whether a monitored value got better: smaller losses and errors, larger accuracies, or as `mode` says."""

    def __init__(self, owner: str, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"{owner}: mode must be 'auto', 'min' or 'max'. Received: {mode!r}")
        self.owner, self.monitor, self.mode = owner, monitor, mode
        self.larger = mode == "max"
        self.min_delta = abs(float(min_delta))
        if math.isnan(self.min_delta):
            raise ValueError(f"{owner}: min_delta must be a number. Received: {min_delta!r}")

    def begin(self, model: Model) -> None:
        """Ask the model's metrics for the direction. Raises ValueError where none has this name and `mode` is auto."""
        if self.mode != "auto":
            return
        name = self.monitor.removeprefix("val_")
        grows = {metric.name: metric.grows for metric in model.metrics} | {"loss": False}
        if name not in grows and not name.endswith(("acc", "accuracy")):
            raise ValueError(
                f"{self.owner}: mode must be 'min' or 'max' where monitor is neither the loss nor a metric of the "
                f"model, which has {list(grows)}. Received: monitor={self.monitor!r}, mode='auto'"
            )
        self.larger = grows.get(name, True)

    def improves(self, value: float, best: float | None) -> bool:
        if best is None:
            return True
        return value - self.min_delta > best if self.larger else value + self.min_delta < best


class EarlyStopping(Callback):
    """Stop when the monitored value has not got better for `patience` epochs; never in the first.

    With restore_best_weights the weights of the best epoch are put back at the end of the training.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.monitor = monitor
        self.patience = patience
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self._monitor = _Monitor("EarlyStopping", monitor, mode, min_delta)
        self._reset()

    def _reset(self) -> None:
        self.wait = 0
        self.stopped_epoch = 0
        self.best: float | None = None
        self.best_weights: list[Any] | None = None
        self.best_epoch = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._monitor.begin(self.model)
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        current = _monitored(self.monitor, "EarlyStopping", logs)
        if current is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)
        self.wait += 1
        if self._monitor.improves(current, self.best):
            self.best = current
            self._keep(epoch)
            if self.baseline is None or self._monitor.improves(current, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _keep(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = self.model.get_weights()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping", flush=True)
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose:
                print(f"Weights of the best epoch restored: {self.best_epoch + 1}", flush=True)
            self.model.set_weights(self.best_weights)


def _monitored(monitor: str, owner: str, logs: Logs | None) -> float | None:
    if logs is None or monitor not in logs:
        import warnings

        warnings.warn(f"{owner}: '{monitor}' is not in the logs, which have {sorted(logs or {})}", stacklevel=3)
        return None
    return logs[monitor]


class ModelCheckpoint(Callback):
    """Save the weights after each epoch, or each one that is better than all before (save_best_only).

    filepath ends in .npz and may hold fields like "{epoch:02d}" (from 1) and "{val_loss:.3f}"; its folder is made where
    it is not there, a file is written whole or not at all.

    Raises ValueError for another kind of file or fields without a name.
    """

    def __init__(
        self,
        filepath: str | Path,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = True,
        mode: str = "auto",
        save_freq: str = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__()
        if not save_weights_only or save_freq != "epoch":
            raise NotImplementedError(
                "ModelCheckpoint: weights are saved, after epochs. "
                f"Received: save_weights_only={save_weights_only}, save_freq={save_freq!r}"
            )
        self.filepath = os.fspath(filepath)
        if not self.filepath.endswith(".npz"):
            raise ValueError(
                f"ModelCheckpoint: weights are written as .npz files. Received: filepath={self.filepath!r}"
            )
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(self.filepath) if field is not None]
        except ValueError as error:
            raise ValueError(f"ModelCheckpoint: filepath: {error}. Received: {self.filepath!r}") from None
        if any(not field.isidentifier() for field in fields):
            raise ValueError(
                f"ModelCheckpoint: fields of filepath must be epoch or names of logs. Received: {self.filepath!r}"
            )
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.best = initial_value_threshold
        self._monitor = _Monitor("ModelCheckpoint", monitor, mode)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.save_best_only:
            self._monitor.begin(self.model)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_best_only:
            current = _monitored(self.monitor, "ModelCheckpoint", logs)
            if current is None or not self._monitor.improves(current, self.best):
                return
            self.best = current
        try:
            path = self.filepath.format(epoch=epoch + 1, **(logs or {}))
        except KeyError as error:
            raise KeyError(
                f"ModelCheckpoint: filepath names {error}, which is not in the logs. Received: {self.filepath!r}"
            ) from None
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.model.save_weights(path)
        if self.verbose:
            print(f"Epoch {epoch + 1}: weights saved to {path}", flush=True)


class LearningRateScheduler(Callback):
    """Set the learning rate before each epoch to schedule(epoch, learning_rate), or schedule(epoch)."""

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        super().__init__()
        self.schedule = schedule
        try:
            inspect.signature(schedule).bind(0, 0.0)
            self._takes_rate = True
        except TypeError:
            self._takes_rate = False
        except ValueError:  # a function of C without a signature
            self._takes_rate = True
        self.verbose = verbose

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        optimizer = self.model.optimizer
        assert optimizer is not None
        rate = (optimizer.learning_rate,) if self._takes_rate else ()
        optimizer.learning_rate = self.schedule(epoch, *rate)
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {optimizer.learning_rate:g}", flush=True)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None and self.model.optimizer is not None:
            logs["learning_rate"] = self.model.optimizer.learning_rate


class LambdaCallback(Callback):
    """A callback made of functions: any method of `Callback` as a keyword."""

    def __init__(self, **methods: Callable[..., None] | None) -> None:
        super().__init__()
        for name, method in methods.items():
            if not name.startswith("on_") or not hasattr(Callback, name):
                raise TypeError(f"LambdaCallback: no such method. Received: {name}")
            if method is not None:
                setattr(self, name, method)


class CSVLogger(Callback):
    """Write the epoch's number and logs as a line of a CSV file; `append` continues a file."""

    def __init__(self, filename: str | Path, separator: str = ",", append: bool = False) -> None:
        super().__init__()
        self.filename = Path(filename)
        self.separator = separator
        self.append = append
        self._file: IO[str] | None = None
        self._names: list[str] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._names = None
        if self.append and self.filename.exists() and self.filename.stat().st_size:
            with open(self.filename, newline="") as file:
                self._names = next(csv.reader(file, delimiter=self.separator))
        self._file = open(self.filename, "a" if self.append else "w", newline="")  # noqa: SIM115  closed at the end

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        assert self._file is not None
        row: Mapping[str, float] = {"epoch": epoch, **(logs or {})}
        if self._names is None:
            self._names = list(row)
            csv.writer(self._file, delimiter=self.separator).writerow(self._names)
        csv.writer(self._file, delimiter=self.separator).writerow([row.get(name, "NA") for name in self._names])
        self._file.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
