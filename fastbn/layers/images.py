"""Convolution and pooling of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastbn import _core, activations, initializers
from fastbn._arrays import integer, pair
from fastbn.backend import standardize_data_format
from fastbn.layers.core import Initializer, activation_fields
from fastbn.layers.layer import Context, Fields, Layer
from fastbn.ops._options import Padding, resolve_padding


def _positive(owner: str, name: str, value: Any) -> tuple[int, int]:
    both = pair(owner, name, value)
    if min(both) < 1:
        raise ValueError(f"{owner}: {name} must be at least 1. Received: {name}={value!r}")
    return both


class Conv2D(Layer):
    """2-D convolution (cross-correlation) with bias and activation.

    Weights: kernel (kernel height, kernel width, channels / groups, filters), bias (filters). padding is "valid",
    "same" or ((top, bottom), (left, right)).

    Raises ValueError for sizes that are not positive or groups that do not divide the filters.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.filters = integer("Conv2D", "filters", filters)
        self.groups = integer("Conv2D", "groups", groups)
        if self.filters < 1 or self.groups < 1 or self.filters % self.groups:
            raise ValueError(
                "Conv2D: filters and groups must be at least 1, and groups divide filters. "
                f"Received: filters={filters}, groups={groups}"
            )
        self.kernel_size = _positive("Conv2D", "kernel_size", kernel_size)
        self.strides = _positive("Conv2D", "strides", strides)
        self.dilation_rate = _positive("Conv2D", "dilation_rate", dilation_rate)
        self.padding = padding
        self._padding = resolve_padding("Conv2D", padding)
        self.data_format = standardize_data_format(data_format, "Conv2D")
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)

    def fields(self, context: Context) -> Fields:
        return _core.LAYER_CONV2D, {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "dilation": self.dilation_rate,
            "groups": self.groups,
            "padding": self._padding[0],
            "pads": self._padding[1],
            "use_bias": self.use_bias,
            "kernel_initializer": self.kernel_initializer.fields,
            "bias_initializer": self.bias_initializer.fields,
            # Channels are last inside whatever the layout is, but a softmax of Keras is over the last axis outside.
            **activation_fields(self, self.activation, context),
        }


class _Pooling2D(Layer):
    kind = _core.LAYER_MAX_POOL2D

    def __init__(
        self,
        pool_size: int | Sequence[int] = (2, 2),
        strides: int | Sequence[int] | None = None,
        padding: Padding = "valid",
        data_format: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        owner = type(self).__name__
        self.pool_size = _positive(owner, "pool_size", pool_size)
        self.strides = self.pool_size if strides is None else _positive(owner, "strides", strides)
        self.padding = padding
        self._padding = resolve_padding(owner, padding)
        self.data_format = standardize_data_format(data_format, owner)

    def fields(self, context: Context) -> Fields:
        return self.kind, {
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self._padding[0],
            "pads": self._padding[1],
        }


class MaxPooling2D(_Pooling2D):
    """The maximum of each window; strides None: the pool size. NaN wins, padding never does."""


class AveragePooling2D(_Pooling2D):
    """The average of each window over its cells inside the image; strides None: the pool size."""

    kind = _core.LAYER_AVG_POOL2D


class GlobalAveragePooling2D(Layer):
    """The average over all pixels of each channel."""

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if keepdims:
            raise NotImplementedError("GlobalAveragePooling2D: keepdims is not built in. Received: keepdims=True")
        self.data_format = standardize_data_format(data_format, "GlobalAveragePooling2D")

    def fields(self, context: Context) -> Fields:
        return _core.LAYER_GLOBAL_AVG_POOL2D, {}
