"""Metrics. A model computes them from what each step counts; called on arrays they work on their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import Float32, as_array, as_float32, require_shape
from fastbn.losses import Loss, mean_squared_error

__all__ = [
    "CategoricalAccuracy",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "SparseCategoricalAccuracy",
    "categorical_accuracy",
    "mean_absolute_error",
    "mean_squared_error",
    "sparse_categorical_accuracy",
]

Source = Literal["correct", "absolute_error", "squared_error"]


def categorical_accuracy(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Float32:
    """1 where the largest prediction is at the place of the largest label, else 0."""
    t, p = as_array("categorical_accuracy", "y_true", y_true), as_array("categorical_accuracy", "y_pred", y_pred)
    require_shape("categorical_accuracy", "y_true", t, p.shape)
    return np.asarray(t.argmax(axis=-1) == p.argmax(axis=-1), np.float32)


def sparse_categorical_accuracy(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Float32:
    """1 where the largest prediction is at the place that the class number names, else 0."""
    op = "sparse_categorical_accuracy"
    t, p = as_array(op, "y_true", y_true), as_array(op, "y_pred", y_pred)
    if t.shape == (*p.shape[:-1], 1):
        t = t[..., 0]
    require_shape(op, "y_true", t, p.shape[:-1])
    return np.asarray(t == p.argmax(axis=-1), np.float32)


def mean_absolute_error(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Float32:
    """mean_k |p[k] - t[k]| over the last axis."""
    t, p = as_float32("mean_absolute_error", "y_true", y_true), as_float32("mean_absolute_error", "y_pred", y_pred)
    require_shape("mean_absolute_error", "y_true", t, p.shape)
    return np.asarray(np.abs(p - t).mean(axis=-1), np.float32)


class Metric:
    """A mean over samples. In `compile` it names what a model reports; on its own it collects arrays."""

    default_name = "metric"
    source: Source = "correct"
    labels_dtype = _core.FLOAT32

    @property
    def grows(self) -> bool:
        """Whether better models have larger values."""
        return self.source == "correct"

    def __init__(self, name: str | None = None) -> None:
        self.name = self.default_name if name is None else name
        self.reset_state()

    @staticmethod
    def function(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Float32:
        """The value of each sample."""
        raise NotImplementedError

    def reset_state(self) -> None:
        """Forget what was collected."""
        self._sum, self._count = 0.0, 0

    def update_state(self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> None:
        """Collect the values of some samples."""
        values = self.function(y_true, y_pred)
        self._sum += float(values.sum(dtype=np.float64))
        self._count += values.size

    def result(self) -> float:
        """The mean of what was collected; 0 of nothing."""
        return self._sum / self._count if self._count else 0.0

    def __call__(self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> float:
        self.update_state(y_true, y_pred)
        return self.result()


class CategoricalAccuracy(Metric):
    """How often the largest prediction is at the place of the largest label."""

    default_name = "categorical_accuracy"
    function = staticmethod(categorical_accuracy)


class SparseCategoricalAccuracy(Metric):
    """How often the largest prediction is at the place that the class number names."""

    default_name = "sparse_categorical_accuracy"
    labels_dtype = _core.INT32
    function = staticmethod(sparse_categorical_accuracy)


class MeanSquaredError(Metric):
    """The mean of the squared errors."""

    default_name = "mean_squared_error"
    source: Source = "squared_error"
    function = staticmethod(mean_squared_error)


class MeanAbsoluteError(Metric):
    """The mean of the absolute errors."""

    default_name = "mean_absolute_error"
    source: Source = "absolute_error"
    function = staticmethod(mean_absolute_error)


_NAMES: dict[str, type[Metric]] = {
    "categorical_accuracy": CategoricalAccuracy,
    "CategoricalAccuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "SparseCategoricalAccuracy": SparseCategoricalAccuracy,
    "mean_squared_error": MeanSquaredError,
    "MeanSquaredError": MeanSquaredError,
    "mse": MeanSquaredError,
    "MSE": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "MeanAbsoluteError": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
    "MAE": MeanAbsoluteError,
}
_FUNCTIONS: tuple[tuple[Callable[..., Float32], type[Metric]], ...] = (
    (categorical_accuracy, CategoricalAccuracy),
    (sparse_categorical_accuracy, SparseCategoricalAccuracy),
    (mean_squared_error, MeanSquaredError),
    (mean_absolute_error, MeanAbsoluteError),
)


def get(identifier: Any, loss: Loss) -> Metric:
    """The metric that `compile` was given, for a model with this loss; "accuracy" follows the kind of labels.

    Raises NotImplementedError for metrics that cannot be had beside this loss, ValueError for unknown ones.
    """
    metric: Metric | None = None
    if isinstance(identifier, Metric):
        metric = identifier
    elif isinstance(identifier, str):
        if identifier.lower() in ("accuracy", "acc"):
            sparse = loss.labels_dtype == _core.INT32
            metric = (SparseCategoricalAccuracy if sparse else CategoricalAccuracy)(name=identifier)
        elif identifier in _NAMES:
            metric = _NAMES[identifier](name=identifier)
    else:
        for function, made in _FUNCTIONS:
            if identifier is function or identifier is made:
                metric = made()
    if metric is None:
        known = ["accuracy", *sorted(_NAMES)]
        if callable(identifier):
            raise NotImplementedError(f"metrics: only {known} are built in. Received: {identifier!r}")
        raise ValueError(f"metrics: must be one of {known}. Received: {identifier!r}")
    cross_entropy = loss.kind == _core.LOSS_SOFTMAX_CROSS_ENTROPY
    if (metric.source == "correct") != cross_entropy or (cross_entropy and metric.labels_dtype != loss.labels_dtype):
        raise NotImplementedError(
            f"metrics: '{metric.name}' is not computed beside the loss '{loss.name}'. Received: {identifier!r}"
        )
    return metric
