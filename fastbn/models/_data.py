"""What `fit`, `evaluate` and `predict` are given, as arrays that a program takes: converted once, not per batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import as_array, as_float32, class_numbers, integer

if TYPE_CHECKING:
    from fastbn.models.engine import Engine


def outer_input(operation: str, x: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """x as an array of shape (n, *shape); a last axis of length 1 may be missing."""
    array = as_array(operation, "x", x)
    if array.shape[1:] != shape and (*array.shape[1:], 1) == shape and array.ndim:
        array = array[..., None]
    if array.ndim == 0 or array.shape[1:] != shape:
        raise ValueError(f"{operation}: x must have shape {(None, *shape)}. Received: x.shape={array.shape}")
    return array


def inner_input(operation: str, x: npt.NDArray[Any], engine: Engine) -> npt.NDArray[Any]:
    """x in the dtype and layout of the engine's input."""
    if engine.input_dtype == _core.UINT8:
        if x.dtype != np.uint8:
            raise TypeError(f"{operation}: x must have dtype uint8 for this model. Received: dtype {x.dtype}")
        array: npt.NDArray[Any] = np.ascontiguousarray(x)
    else:
        array = as_float32(operation, "x", x)
    if engine.network.channels_first and array.ndim == 4:
        array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    return array


def inner_labels(operation: str, y: Any, samples: int, engine: Engine) -> npt.NDArray[Any]:
    """y as the loss takes it: float32 (n, output shape), or int32 class numbers (n, output shape but the last axis)."""
    assert engine.training is not None
    loss = engine.training.loss
    if y is None:
        raise ValueError(f"{operation}: y is needed. Received: y=None")
    array = as_array(operation, "y", y)
    shape = (samples, *engine.outer_output_shape)
    if array.ndim == 0 or len(array) != samples:
        raise ValueError(
            f"{operation}: x and y must have as many samples. Received: {samples} in x, y.shape={array.shape}"
        )
    if loss.labels_dtype == _core.INT32:
        return _classes(operation, array, shape)
    if array.shape != shape and (*array.shape, 1) == shape:
        array = array[..., None]
    if array.shape != shape:
        hint = ""
        if loss.kind == _core.LOSS_SOFTMAX_CROSS_ENTROPY and array.shape in (shape[:-1], (*shape[:-1], 1)):
            hint = "; for class numbers take sparse_categorical_crossentropy or utils.to_categorical"
        raise ValueError(
            f"{operation}: y must have shape {shape} for {loss.name}{hint}. Received: y.shape={array.shape}"
        )
    labels = as_float32(operation, "y", array)
    if engine.network.channels_first and labels.ndim == 4:
        labels = np.ascontiguousarray(labels.transpose(0, 2, 3, 1))
    return labels


def _classes(operation: str, array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
    if array.shape == (*shape[:-1], 1):
        array = array[..., 0]
    if array.shape != shape[:-1]:
        raise ValueError(
            f"{operation}: y must be class numbers of shape {shape[:-1]}; for one-hot labels take "
            f"categorical_crossentropy. Received: y.shape={array.shape}"
        )
    return class_numbers(operation, array, shape[-1])


def batch_size_of(operation: str, value: Any) -> int:
    size = 32 if value is None else integer(operation, "batch_size", value)
    if size < 1:
        raise ValueError(f"{operation}: batch_size must be at least 1. Received: batch_size={value!r}")
    return size


def reject(operation: str, **options: Any) -> None:
    """Raises NotImplementedError for the options that are not None."""
    for name, value in options.items():
        if value is not None:
            raise NotImplementedError(
                f"{operation}: {name} is not built in. Received: {name} of {type(value).__name__}"
            )
