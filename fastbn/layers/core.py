"""Inputs, dense layers and activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn import _core, activations, initializers
from fastbn._arrays import integer, number
from fastbn.layers.layer import Context, Fields, Layer, Tensor, sample_shape
from fastbn.ops._options import ACTIVATIONS

Initializer = str | initializers.Initializer | type[initializers.Initializer]
KERAS_LEAKY_SLOPE = 0.2  # of the activation by name; the layer LeakyReLU has 0.3


def activation_fields(layer: Layer, name: str, context: Context, alpha: float = KERAS_LEAKY_SLOPE) -> dict[str, Any]:
    """Fields for an activation. Raises NotImplementedError for a softmax over what is not the last axis inside."""
    if name == "softmax" and context.is_outer_image():
        raise NotImplementedError(f"'{layer.name}': softmax of channels_first images is not built in.")
    return {"activation": ACTIVATIONS[name], "alpha": alpha}


class InputLayer(Layer):
    """Where data come in."""

    def __init__(
        self,
        shape: Any = None,
        batch_size: int | None = None,
        dtype: Any = None,
        batch_shape: Any = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        if batch_shape is not None:
            shape = tuple(batch_shape)[1:]
        if shape is None:
            shape = unsupported.pop("input_shape", None)
        super().__init__(name=name, input_shape=shape, **unsupported)
        if self.declared_shape is None:
            raise ValueError("Input: shape is needed. Received: shape=None")
        if dtype is not None and np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.uint8)):
            raise NotImplementedError(f"Input: dtype must be float32 or uint8. Received: dtype={dtype!r}")
        self.dtype = None if dtype is None else np.dtype(dtype).name

    def fields(self, context: Context) -> Fields:
        assert self.declared_shape is not None
        shape = self.declared_shape
        if context.channels_first and len(shape) == 3:
            shape = (shape[1], shape[2], shape[0])
        dtype = _core.UINT8 if self.dtype == "uint8" else context.input_dtype
        return _core.LAYER_INPUT, {"shape": shape, "dtype": dtype}


def Input(
    shape: Any = None,
    batch_size: int | None = None,
    dtype: Any = None,
    batch_shape: Any = None,
    name: str | None = None,
) -> Tensor:
    """The symbolic value that a model begins with.

    shape: of one sample. dtype: "float32", or "uint8" where the data go into a `Rescaling` layer. batch_size is not
    used: a model takes any.
    """
    layer = InputLayer(shape, batch_size, dtype, batch_shape, name)
    layer._tensor = Tensor(layer, ())
    return layer._tensor


class Dense(Layer):
    """y = act(x kernel + bias) over the last axis.

    Weights: kernel (in, units), bias (units). Initial weights: glorot_uniform and zeros.

    Raises ValueError where units is not positive.
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        *,
        input_dim: int | None = None,
        **options: Any,
    ) -> None:
        if input_dim is not None:
            options["input_shape"] = sample_shape("Dense", input_dim)
        super().__init__(**options)
        self.units = integer("Dense", "units", units)
        if self.units < 1:
            raise ValueError(f"Dense: units must be at least 1. Received: units={units}")
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)

    def fields(self, context: Context) -> Fields:
        if context.is_outer_image():
            raise NotImplementedError(
                f"Dense '{self.name}': the last axis of channels_first images is not the channels; put Flatten before."
            )
        return _core.LAYER_DENSE, {
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": self.kernel_initializer.fields,
            "bias_initializer": self.bias_initializer.fields,
            **activation_fields(self, self.activation, context),
        }


class Activation(Layer):
    """An activation as a layer: relu, leaky_relu (slope 0.2), sigmoid, tanh, softmax or linear."""

    def __init__(self, activation: Any, **options: Any) -> None:
        super().__init__(**options)
        self.activation = activations.get(activation)

    def fields(self, context: Context) -> Fields:
        return _core.LAYER_ACTIVATION, activation_fields(self, self.activation, context)


class ReLU(Layer):
    """x above zero, negative_slope x below."""

    def __init__(
        self, max_value: float | None = None, negative_slope: float = 0.0, threshold: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        if max_value is not None or threshold != 0:
            raise NotImplementedError(
                f"ReLU: max_value and threshold are not built in. "
                f"Received: max_value={max_value}, threshold={threshold}"
            )
        self.negative_slope = _slope("ReLU", negative_slope)

    def fields(self, context: Context) -> Fields:
        name = "leaky_relu" if self.negative_slope else "relu"
        return _core.LAYER_ACTIVATION, activation_fields(self, name, context, self.negative_slope)


class LeakyReLU(Layer):
    """x above zero, negative_slope x below."""

    def __init__(self, negative_slope: float = 0.3, **options: Any) -> None:
        super().__init__(**options)
        self.negative_slope = _slope("LeakyReLU", negative_slope)

    def fields(self, context: Context) -> Fields:
        return _core.LAYER_ACTIVATION, activation_fields(self, "leaky_relu", context, self.negative_slope)


def _slope(owner: str, value: float) -> float:
    slope = number(owner, "negative_slope", value)
    if not 0 <= slope < float("inf"):
        raise ValueError(f"{owner}: negative_slope must be finite and not negative. Received: {value!r}")
    return slope


class Softmax(Layer):
    """e^x / sum e^x over the last axis."""

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = integer("Softmax", "axis", axis)

    def fields(self, context: Context) -> Fields:
        if self.axis not in (-1, len(context.shape)):
            raise NotImplementedError(
                f"Softmax '{self.name}': axis must be the last. Received: axis={self.axis}, input of rank "
                f"{len(context.shape) + 1}"
            )
        return _core.LAYER_ACTIVATION, activation_fields(self, "softmax", context)
