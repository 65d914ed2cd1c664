"""Options that several operators share, as the C interface wants them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import Shape, integer

Padding: TypeAlias = str | Sequence[Sequence[int]]
DataFormat: TypeAlias = Literal["channels_last", "channels_first"]
Activation: TypeAlias = Literal["linear", "relu", "leaky_relu", "sigmoid", "tanh", "softmax"] | None
Need: TypeAlias = Collection[Literal["x", "kernel", "bias"]]

ACTIVATIONS = {
    "linear": _core.LINEAR,
    "relu": _core.RELU,
    "leaky_relu": _core.LEAKY_RELU,
    "sigmoid": _core.SIGMOID,
    "tanh": _core.TANH,
    "softmax": _core.SOFTMAX,
}
ALGORITHMS = {"auto": _core.ALGORITHM_AUTO, "direct": _core.ALGORITHM_DIRECT}
NO_PADS = (0, 0, 0, 0)
Result = TypeVar("Result")


def on_behalf(operation: str, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """The result of a function that operators share; its ValueError names the operator that was called."""
    try:
        return function(*arguments, **options)
    except ValueError as error:
        raise ValueError(f"{operation}: {str(error).partition(': ')[2]}") from None


@functools.lru_cache(maxsize=512)
def _remembered(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


_INTEGERS = {int}


def _is_key(option: Any) -> bool:
    """Whether nothing of another meaning is equal to it: True and 1.0 are equal to 1, and lists are no keys."""
    kind = type(option)
    return kind is int or kind is str or option is None or (kind is tuple and {*map(type, option)} == _INTEGERS)


def remembered(function: Callable[..., Result], operation: str, *shapes: Shape, options: tuple[Any, ...]) -> Result:
    """function(operation, *shapes, *options), from memory where it was asked before: microseconds of each call."""
    call = _remembered if all(map(_is_key, options)) else _remembered.__wrapped__
    result: Result = call(function, operation, *shapes, *options)
    return result


def activation_code(operation: str, activation: str | None, softmax: bool = False) -> int:
    """Number of an activation by name; None is linear. Raises ValueError for names that are unknown here."""
    if activation is None:
        return _core.LINEAR
    code = ACTIVATIONS.get(activation) if isinstance(activation, str) else None
    if code is None or (code == _core.SOFTMAX and not softmax):
        allowed = [name for name in ACTIVATIONS if softmax or name != "softmax"]
        raise ValueError(f"{operation}: activation must be None or one of {allowed}. Received: {activation!r}")
    return code


def algorithm_code(operation: str, algorithm: str, name: str = "algorithm") -> int:
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(f"{operation}: {name} must be one of {list(ALGORITHMS)}. Received: {algorithm!r}")
    return ALGORITHMS[algorithm]


def resolve_padding(operation: str, padding: Any) -> tuple[int, tuple[int, int, int, int]]:
    """Kind of padding and (top, bottom, left, right) of "valid", "same" or ((top, bottom), (left, right))."""
    if isinstance(padding, str):
        kinds = {"valid": _core.PADDING_VALID, "same": _core.PADDING_SAME}
        if padding.lower() in kinds:
            return kinds[padding.lower()], NO_PADS
    elif isinstance(padding, (Sequence, np.ndarray)) and not isinstance(padding, (bytes, bytearray)):
        try:
            (top, bottom), (left, right) = padding
        except (TypeError, ValueError):
            pass
        else:
            pads = [integer(operation, "padding", p) for p in (top, bottom, left, right)]
            return _core.PADDING_EXPLICIT, (pads[0], pads[1], pads[2], pads[3])
    raise ValueError(
        f"{operation}: padding must be 'valid', 'same' or ((top, bottom), (left, right)). Received: {padding!r}"
    )


def is_channels_first(operation: str, data_format: str) -> bool:
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            f"{operation}: data_format must be 'channels_last' or 'channels_first'. Received: {data_format!r}"
        )
    return data_format == "channels_first"


_NEEDS = frozenset(("x", "kernel", "bias"))


def check_need(operation: str, need: Collection[str]) -> None:
    try:
        selects = (
            isinstance(need, (tuple, Collection)) and not isinstance(need, (str, bytes)) and _NEEDS.issuperset(need)
        )
    except TypeError:  # something that no set can hold
        selects = False
    if not selects:
        raise ValueError(f"{operation}: need must be a selection of ('x', 'kernel', 'bias'). Received: {need!r}")


def to_last(image: npt.NDArray[Any]) -> Any:
    """(N, C, H, W) -> (N, H, W, C), contiguous."""
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


def to_first(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, H, W, C) -> (N, C, H, W), a view."""
    first: npt.NDArray[Any] = image.transpose(0, 3, 1, 2)
    return first


def first_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    n, h, w, c = shape
    return n, c, h, w
