"""Dropout, reshaping, rescaling and merging."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fastbn import _core
from fastbn._arrays import integer, number
from fastbn.backend import standardize_data_format
from fastbn.layers.layer import Context, Fields, Layer


class Dropout(Layer):
    """In training x / (1 - rate) with probability 1 - rate, else 0; otherwise x.

    Raises ValueError where rate is not in [0, 1].
    """

    def __init__(self, rate: float, noise_shape: Any = None, seed: int | None = None, **options: Any) -> None:
        super().__init__(noise_shape=noise_shape, **options)
        self.rate = number("Dropout", "rate", rate)
        if not 0 <= self.rate <= 1:
            raise ValueError(f"Dropout: rate must be in [0, 1]. Received: rate={rate!r}")
        self.seed = None if seed is None else integer("Dropout", "seed", seed)
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"Dropout: seed must be None or in [0, 2^63). Received: seed={seed!r}")

    def fields(self, context: Context) -> Fields:
        # 0 stands for a seed derived from the model's.
        return _core.LAYER_DROPOUT, {"rate": self.rate, "seed": 0 if self.seed is None else self.seed + 1}


def _order_matters(context: Context) -> bool:
    """Whether flattening (C, H, W) and (H, W, C) give different orders."""
    height, width, channels = context.shape
    return channels > 1 and height * width > 1


class Flatten(Layer):
    """All axes of a sample as one. Images are read in the order (H, W, C), whatever the layout is, as in Keras."""

    def __init__(self, data_format: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.flatten_format = standardize_data_format(data_format, "Flatten")

    def fields(self, context: Context) -> Fields:
        if context.is_outer_image() and self.flatten_format != "channels_first" and _order_matters(context):
            raise NotImplementedError(
                f"Flatten '{self.name}': channels_first images need Flatten(data_format='channels_first'). "
                f"Received: data_format={self.flatten_format!r}"
            )
        return _core.LAYER_RESHAPE, {"shape": (math.prod(context.shape),)}


class Reshape(Layer):
    """Another shape of a sample with as many elements; one size may be -1.

    Raises ValueError where the number of elements differs.
    """

    def __init__(self, target_shape: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        sizes = tuple(integer("Reshape", "target_shape", size) for size in target_shape)
        if not sizes or sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ValueError(
                "Reshape: target_shape must be positive sizes, one of which may be -1. "
                f"Received: target_shape={tuple(target_shape)}"
            )
        self.target_shape = sizes

    def fields(self, context: Context) -> Fields:
        size = math.prod(context.shape)
        known = math.prod(extent for extent in self.target_shape if extent != -1)
        if size % known or (-1 not in self.target_shape and size != known):
            raise ValueError(
                f"Reshape '{self.name}': the number of elements must stay. "
                f"Received: {size} elements, target_shape={self.target_shape}"
            )
        shape = tuple(size // known if extent == -1 else extent for extent in self.target_shape)
        inner = shape
        if context.channels_first and len(shape) == 3:
            inner = (shape[1], shape[2], shape[0])
        turned = len(shape) == 3 and context.channels_first and shape[0] > 1 and shape[1] * shape[2] > 1
        if turned or (context.is_outer_image() and _order_matters(context)):
            raise NotImplementedError(f"Reshape '{self.name}': of channels_first images is not built in.")
        return _core.LAYER_RESHAPE, {"shape": inner}


class Rescaling(Layer):
    """y = x scale + offset. As the first layer it takes uint8 data as they are."""

    def __init__(self, scale: float, offset: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.scale = number("Rescaling", "scale", scale)
        self.offset = number("Rescaling", "offset", offset)
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)):
            raise ValueError(f"Rescaling: scale and offset must be finite. Received: {scale!r} and {offset!r}")

    def fields(self, context: Context) -> Fields:
        return _core.LAYER_RESCALING, {"scale_factor": self.scale, "offset": self.offset}


class Add(Layer):
    """The sum of two or more inputs of one shape."""

    def _many_inputs(self) -> bool:
        return True

    def fields(self, context: Context) -> Fields:
        return _core.LAYER_ADD, {}


class Concatenate(Layer):
    """Two or more inputs behind one another along the channels, which is the last axis of channels_last."""

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = integer("Concatenate", "axis", axis)

    def _many_inputs(self) -> bool:
        return True

    def fields(self, context: Context) -> Fields:
        rank = len(context.shape) + 1
        axis = self.axis + rank if self.axis < 0 else self.axis
        channels = 1 if context.is_outer_image() else rank - 1
        if axis != channels:
            raise NotImplementedError(
                f"Concatenate '{self.name}': axis must be that of the channels, {channels} for these inputs. "
                f"Received: axis={self.axis}"
            )
        return _core.LAYER_CONCATENATE, {}
