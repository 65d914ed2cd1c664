"""Helpers around models: one-hot labels and seeding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastbn._arrays import Float32, as_array
from fastbn._random import set_random_seed

__all__ = ["set_random_seed", "to_categorical"]


def to_categorical(x: npt.ArrayLike, num_classes: int | None = None) -> Float32:
    """One-hot float32 rows of class numbers: shape (..., num_classes), by default the largest number plus one.

    A last axis of length 1 is dropped first, as in Keras.

    Raises ValueError for numbers outside [0, num_classes), TypeError for arrays that are not of integers.
    """
    labels = as_array("to_categorical", "x", x)
    whole = labels.astype(np.int64)
    if labels.dtype.kind == "f" and not np.array_equal(whole, labels):
        raise TypeError(f"to_categorical: x must hold integers. Received: dtype {labels.dtype}")
    shape = whole.shape
    if len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    whole = whole.reshape(-1)
    if num_classes is None:
        num_classes = int(whole.max()) + 1 if whole.size else 0
    if whole.size and (whole.min() < 0 or whole.max() >= num_classes):
        outside = whole.min() if whole.min() < 0 else whole.max()
        raise ValueError(f"to_categorical: class numbers must lie in [0, {num_classes}). Received: {outside}")
    one_hot = np.zeros((whole.size, num_classes), np.float32)
    one_hot[np.arange(whole.size), whole] = 1
    return one_hot.reshape(*shape, num_classes)
