"""Settings of the process, under Keras' names."""

from __future__ import annotations

from typing import Literal, cast

__all__ = ["clear_session", "epsilon", "floatx", "image_data_format", "set_image_data_format"]

DataFormat = Literal["channels_last", "channels_first"]

_data_format: DataFormat = "channels_last"


def image_data_format() -> DataFormat:
    """The layout that image layers take where they are given none."""
    return _data_format


def set_image_data_format(data_format: str) -> None:
    """Set the layout that image layers take where they are given none: "channels_last" or "channels_first".

    Raises ValueError for anything else.
    """
    global _data_format
    _data_format = standardize_data_format(data_format, "set_image_data_format")


def standardize_data_format(data_format: str | None, operation: str) -> DataFormat:
    """`data_format` in lower case, or the process' where it is None. Raises ValueError for unknown layouts."""
    if data_format is None:
        return _data_format
    lower = str(data_format).lower()
    if lower not in ("channels_last", "channels_first"):
        raise ValueError(
            f"{operation}: data_format must be 'channels_last' or 'channels_first'. Received: {data_format!r}"
        )
    return cast(DataFormat, lower)


def floatx() -> str:
    """The dtype of weights and activations."""
    return "float32"


def epsilon() -> float:
    """The small number that optimizers add to denominators where they are given none."""
    return 1e-7


def clear_session() -> None:
    """Does nothing: models keep no state in common. For scripts written for Keras."""
