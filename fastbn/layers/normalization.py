"""Batch normalisation."""

from __future__ import annotations

from typing import Any

from fastbn import _core, initializers
from fastbn._arrays import integer, number
from fastbn.layers.core import Initializer
from fastbn.layers.layer import Context, Fields, Layer


class BatchNormalization(Layer):
    """y = (x - mean) / sqrt(variance + epsilon) gamma + beta, over all axes but the channels.

    In training mean and variance (biased) are those of the batch, and the moving ones follow:
    moving = moving momentum + batch (1 - momentum). In inference, and with trainable=False, the moving ones are taken.
    Weights: gamma (scale), beta (center), moving_mean, moving_variance, each (channels).

    Raises ValueError where momentum is not in [0, 1] or epsilon not positive.
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Initializer = "zeros",
        gamma_initializer: Initializer = "ones",
        moving_mean_initializer: Initializer = "zeros",
        moving_variance_initializer: Initializer = "ones",
        **options: Any,
    ) -> None:
        if options.get("renorm_momentum") == 0.99:
            options.pop("renorm_momentum")  # Keras' default, without effect
        super().__init__(**options)
        if isinstance(axis, (list, tuple)) and len(axis) == 1:
            axis = axis[0]
        self.axis = integer("BatchNormalization", "axis", axis)
        self.momentum = number("BatchNormalization", "momentum", momentum)
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"BatchNormalization: momentum must be in [0, 1]. Received: momentum={momentum!r}")
        self.epsilon = number("BatchNormalization", "epsilon", epsilon)
        if not 0 < self.epsilon < float("inf"):
            raise ValueError(f"BatchNormalization: epsilon must be positive. Received: epsilon={epsilon!r}")
        self.center = bool(center)
        self.scale = bool(scale)
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)

    def fields(self, context: Context) -> Fields:
        rank = len(context.shape) + 1
        axis = self.axis + rank if self.axis < 0 else self.axis
        channels = 1 if context.is_outer_image() else rank - 1
        if axis != channels:
            raise NotImplementedError(
                f"BatchNormalization '{self.name}': axis must be that of the channels, {channels} for this input. "
                f"Received: axis={self.axis}"
            )
        return _core.LAYER_BATCH_NORM, {
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "gamma_initializer": self.gamma_initializer.fields,
            "beta_initializer": self.beta_initializer.fields,
            "mean_initializer": self.moving_mean_initializer.fields,
            "variance_initializer": self.moving_variance_initializer.fields,
        }
