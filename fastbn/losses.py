"""Losses. In a model the gradient is computed in C++; called on arrays they give the loss of each sample or the mean.

Softmax and cross-entropy are one function of the logits inside a model: probabilities are not clipped to
[1e-7, 1 - 1e-7] as in Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastbn import _core, ops
from fastbn._arrays import Float32, as_array, as_float32, class_numbers, require_shape
from fastbn.ops._options import on_behalf

__all__ = [
    "CategoricalCrossentropy",
    "Loss",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "categorical_crossentropy",
    "get",
    "mean_squared_error",
    "sparse_categorical_crossentropy",
]


def _cross_entropy(op: str, y_true: npt.NDArray[Any], y_pred: npt.ArrayLike, from_logits: bool) -> Float32:
    if from_logits:
        return on_behalf(op, ops.softmax_cross_entropy_forward, y_pred, y_true)[0]
    p = as_float32(op, "y_pred", y_pred)
    p = np.clip(p / p.sum(axis=-1, keepdims=True), 1e-7, 1 - 1e-7)
    if y_true.shape == p.shape:
        return np.asarray(-(y_true * np.log(p)).sum(axis=-1), np.float32)
    chosen = np.take_along_axis(p, y_true[..., None], axis=-1)
    return np.asarray(-np.log(chosen[..., 0]), np.float32)


def categorical_crossentropy(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, from_logits: bool = False) -> Float32:
    """-sum_k t[k] log p[k] of each sample, p renormalised and clipped to [1e-7, 1 - 1e-7], or softmax of logits."""
    op = "categorical_crossentropy"
    t = as_float32(op, "y_true", y_true)
    require_shape(op, "y_true", t, np.shape(y_pred))
    return _cross_entropy(op, t, y_pred, from_logits)


def sparse_categorical_crossentropy(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, from_logits: bool = False) -> Float32:
    """-log p[class] of each sample; y_true holds class numbers."""
    op = "sparse_categorical_crossentropy"
    shape = np.shape(y_pred)
    t = as_array(op, "y_true", y_true)
    if t.shape == (*shape[:-1], 1) and t.shape != shape[:-1]:
        t = t[..., 0]
    require_shape(op, "y_true", t, shape[:-1])
    return _cross_entropy(op, class_numbers(op, t, shape[-1]), y_pred, from_logits)


def mean_squared_error(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Float32:
    """mean_k (p[k] - t[k])^2 over the last axis."""
    op = "mean_squared_error"
    p, t = as_float32(op, "y_pred", y_pred), as_float32(op, "y_true", y_true)
    require_shape(op, "y_true", t, p.shape)
    return on_behalf(op, ops.mean_squared_error_forward, p, t)


class Loss:
    """Base of the losses that a model can be compiled with."""

    name = "loss"
    kind = _core.LOSS_NONE
    labels_dtype = _core.FLOAT32
    from_logits = False

    def __init__(self, reduction: str | None, name: str | None) -> None:
        if reduction not in ("sum_over_batch_size", None):
            raise NotImplementedError(
                f"{type(self).__name__}: reduction must be 'sum_over_batch_size'. Received: {reduction!r}"
            )
        if name is not None:
            self.name = name

    def call(self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Float32:
        """The loss of each sample."""
        raise NotImplementedError

    def __call__(self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> float:
        return float(np.mean(self.call(y_true, y_pred), dtype=np.float64))


class CategoricalCrossentropy(Loss):
    """Cross-entropy of one-hot labels with the probabilities of a softmax, or with logits (from_logits=True)."""

    name = "categorical_crossentropy"
    kind = _core.LOSS_SOFTMAX_CROSS_ENTROPY

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        super().__init__(reduction, name)
        if label_smoothing != 0 or axis != -1:
            raise NotImplementedError(
                f"CategoricalCrossentropy: label smoothing and other axes than the last are not built in. "
                f"Received: label_smoothing={label_smoothing}, axis={axis}"
            )
        self.from_logits = bool(from_logits)

    def call(self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Float32:
        return categorical_crossentropy(y_true, y_pred, self.from_logits)


class SparseCategoricalCrossentropy(Loss):
    """Cross-entropy of class numbers with the probabilities of a softmax, or with logits (from_logits=True)."""

    name = "sparse_categorical_crossentropy"
    kind = _core.LOSS_SOFTMAX_CROSS_ENTROPY
    labels_dtype = _core.INT32

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        super().__init__(reduction, name)
        if ignore_class is not None:
            raise NotImplementedError(
                f"SparseCategoricalCrossentropy: ignore_class is not built in. Received: {ignore_class!r}"
            )
        self.from_logits = bool(from_logits)

    def call(self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Float32:
        return sparse_categorical_crossentropy(y_true, y_pred, self.from_logits)


class MeanSquaredError(Loss):
    """mean_k (p[k] - t[k])^2"""

    name = "mean_squared_error"
    kind = _core.LOSS_MEAN_SQUARED_ERROR

    def __init__(self, reduction: str | None = "sum_over_batch_size", name: str | None = None) -> None:
        super().__init__(reduction, name)

    def call(self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Float32:
        return mean_squared_error(y_true, y_pred)


_CLASSES: tuple[Callable[[], Loss], ...] = (CategoricalCrossentropy, SparseCategoricalCrossentropy, MeanSquaredError)
_FUNCTIONS = (categorical_crossentropy, sparse_categorical_crossentropy, mean_squared_error)
_NAMES: dict[str, Callable[[], Loss]] = {
    **{f.__name__: c for f, c in zip(_FUNCTIONS, _CLASSES, strict=True)},
    "CategoricalCrossentropy": CategoricalCrossentropy,
    "SparseCategoricalCrossentropy": SparseCategoricalCrossentropy,
    "MeanSquaredError": MeanSquaredError,
    "mse": MeanSquaredError,
    "MSE": MeanSquaredError,
}
_ABSENT = {
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_hinge",
    "cosine_similarity",
    "ctc",
    "dice",
    "hinge",
    "huber",
    "kl_divergence",
    "kld",
    "log_cosh",
    "logcosh",
    "mae",
    "mape",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "msle",
    "poisson",
    "squared_hinge",
    "tversky",
}


def get(identifier: Any) -> Loss:
    """A loss from a name, a function of this module, a class or an instance.

    Raises NotImplementedError for losses that Keras has and fastbn has not, ValueError for unknown ones.
    """
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, str):
        if identifier in _NAMES:
            return _NAMES[identifier]()
        if identifier.lower() in _ABSENT:
            raise NotImplementedError(f"losses: only {sorted(_NAMES)} are built in. Received: {identifier!r}")
        raise ValueError(f"losses: must be one of {sorted(_NAMES)}. Received: {identifier!r}")
    for function, loss in zip(_FUNCTIONS, _CLASSES, strict=True):
        if identifier is function or identifier is loss:
            return loss()
    if callable(identifier):
        raise NotImplementedError(f"losses: a function of one's own has no gradient here. Received: {identifier!r}")
    raise ValueError(f"losses: must be one of {sorted(_NAMES)}. Received: {identifier!r}")
