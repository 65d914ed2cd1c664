"""Activation functions of arrays, and by name in layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from fastbn import ops
from fastbn._arrays import Float32

__all__ = ["get", "leaky_relu", "linear", "relu", "sigmoid", "softmax", "tanh"]


def linear(x: npt.ArrayLike) -> Float32:
    """x"""
    return ops.activation_forward(x, "linear")


def relu(x: npt.ArrayLike) -> Float32:
    """max(x, 0)"""
    return ops.activation_forward(x, "relu")


def leaky_relu(x: npt.ArrayLike, negative_slope: float = 0.2) -> Float32:
    """x above zero, negative_slope x below"""
    return ops.activation_forward(x, "leaky_relu", alpha=negative_slope)


def sigmoid(x: npt.ArrayLike) -> Float32:
    """1 / (1 + e^-x)"""
    return ops.activation_forward(x, "sigmoid")


def tanh(x: npt.ArrayLike) -> Float32:
    """The hyperbolic tangent."""
    return ops.activation_forward(x, "tanh")


def softmax(x: npt.ArrayLike) -> Float32:
    """e^x / sum e^x over the last axis"""
    return ops.activation_forward(x, "softmax")


_FUNCTIONS: dict[str, Callable[..., Float32]] = {
    f.__name__: f for f in (linear, relu, leaky_relu, sigmoid, tanh, softmax)
}
_ABSENT = {
    "celu",
    "elu",
    "exponential",
    "gelu",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu6",
    "selu",
    "silu",
    "soft_shrink",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparsemax",
    "squareplus",
    "swish",
    "tanh_shrink",
    "threshold",
}


def get(identifier: Any) -> str:
    """The name of an activation given by name or as a function of this module; None is "linear".

    Raises NotImplementedError for activations that Keras has and fastbn has not, ValueError for unknown ones.
    """
    if identifier is None:
        return "linear"
    named = isinstance(identifier, str)
    for name, function in _FUNCTIONS.items():
        if (named and identifier == name) or identifier is function:
            return name
    if named and identifier in _ABSENT:
        raise NotImplementedError(f"activations: only {list(_FUNCTIONS)} are built in. Received: {identifier!r}")
    raise ValueError(f"activations: must be None or one of {list(_FUNCTIONS)}. Received: {identifier!r}")
