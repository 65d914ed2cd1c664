"""Batch-norm shapes and data that float32 statistics stumble over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cases import Data, Float32


@dataclass(frozen=True)
class BatchNormCase:
    name: str
    shape: tuple[int, ...]
    axis: int = -1
    activation: str | None = None
    center: bool = True
    scale: bool = True
    residual: bool = False
    epsilon: float = 1e-3
    offset: float = 0.0  # x is offset + spread * standard normal
    spread: float = 1.0
    tier: str = "smoke"

    def __str__(self) -> str:
        return self.name

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def rows(self) -> int:
        return int(np.prod([n for i, n in enumerate(self.shape) if i != self.axis % len(self.shape)]))

    def inputs(self, seed: int = 0) -> tuple[Float32, Float32 | None, Float32 | None, Float32 | None, Float32]:
        """x, gamma, beta, residual (None where the case has none), dy."""
        data = Data(self.name, seed)
        x = np.float32(self.offset) + np.float32(self.spread) * data.array(*self.shape)
        gamma = data.array(self.channels) if self.scale else None
        beta = data.array(self.channels) if self.center else None
        residual = data.array(*self.shape) if self.residual else None
        return x, gamma, beta, residual, data.array(*self.shape)


CASES = [
    BatchNormCase("one_row", (1, 5)),
    BatchNormCase("one_channel", (37, 1)),
    BatchNormCase("two_rows", (2, 3)),
    BatchNormCase("matrix", (128, 64)),
    BatchNormCase("primes", (31, 13), activation="relu"),
    BatchNormCase("channels_15", (17, 15), activation="relu"),
    BatchNormCase("channels_16", (33, 16), activation="tanh"),
    BatchNormCase("channels_17", (257, 17), activation="sigmoid"),
    BatchNormCase("channels_31", (19, 31), residual=True),
    BatchNormCase("channels_33", (65, 33), activation="relu", residual=True),
    BatchNormCase("channels_257", (23, 257), activation="relu"),
    BatchNormCase("no_center", (41, 12), center=False, activation="relu"),
    BatchNormCase("no_scale", (41, 12), scale=False),
    BatchNormCase("neither", (41, 12), center=False, scale=False, activation="relu"),
    BatchNormCase("image", (4, 7, 6, 32), activation="relu"),
    BatchNormCase("image_residual", (3, 5, 5, 20), activation="relu", residual=True),
    BatchNormCase("rank_3", (4, 9, 8)),
    BatchNormCase("rank_5", (2, 3, 4, 3, 6), residual=True),
    BatchNormCase("axis_1", (4, 6, 5, 7), axis=1, activation="relu"),
    BatchNormCase("axis_1_of_3", (3, 17, 11), axis=1, residual=True),
    BatchNormCase("torch_epsilon", (64, 8), epsilon=1e-5),
    BatchNormCase("offset_1e4", (1000, 8), offset=1e4, spread=1e-2, epsilon=1e-5),
    BatchNormCase("offset_negative", (333, 17), offset=-300.0, activation="relu"),
    BatchNormCase("tiny", (50, 5), spread=1e-6),
    BatchNormCase("large", (50, 5), spread=1e15),
    BatchNormCase("many_rows", (20011, 7), activation="relu"),
    BatchNormCase("cnn_activation", (8, 24, 24, 64), activation="relu"),
    BatchNormCase("full_activation", (64, 24, 24, 64), activation="relu", tier="full"),
    BatchNormCase("full_wide", (4096, 1031), residual=True, tier="full"),
]
