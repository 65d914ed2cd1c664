"""Pooling windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import oracles

from cases import Data, Float32


@dataclass(frozen=True)
class PoolCase:
    name: str
    x: tuple[int, int, int, int]
    pool_size: tuple[int, int] = (2, 2)
    strides: tuple[int, int] | None = None
    padding: str | tuple[tuple[int, int], tuple[int, int]] = "valid"
    tier: str = "smoke"

    def __str__(self) -> str:
        return self.name

    @property
    def options(self) -> dict[str, Any]:
        return {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        strides = self.strides or self.pool_size
        size = oracles.output_size(self.x[1:3], self.pool_size, strides, (1, 1), self.padding)
        return (self.x[0], *size, self.x[3])

    @property
    def window(self) -> int:
        return self.pool_size[0] * self.pool_size[1]

    def inputs(self, seed: int = 0, integers: bool = False) -> tuple[Float32, Float32]:
        """x, dy."""
        data = Data(self.name, seed, integers)
        return data.array(*self.x), data.array(*self.out_shape)


CASES = [
    PoolCase("ones", (1, 1, 1, 1), (1, 1)),
    PoolCase("one_window", (2, 2, 2, 3)),
    PoolCase("cnn", (8, 24, 24, 64)),
    PoolCase("cnn_small", (8, 24, 24, 4)),
    PoolCase("channels_1", (3, 8, 8, 1)),
    PoolCase("channels_2", (3, 9, 11, 2)),
    PoolCase("channels_4_odd_image", (3, 7, 9, 4)),
    PoolCase("channels_8", (3, 10, 14, 8)),
    PoolCase("channels_12", (2, 6, 22, 12)),
    PoolCase("odd_image", (3, 7, 9, 5)),
    PoolCase("channels_15", (2, 6, 6, 15), (3, 3)),
    PoolCase("channels_16", (2, 6, 6, 16), (2, 3)),
    PoolCase("channels_17", (2, 6, 6, 17), (3, 2)),
    PoolCase("channels_31", (2, 5, 7, 31), (2, 2), (1, 1)),
    PoolCase("channels_33", (2, 9, 9, 33), (3, 3), (2, 2)),
    PoolCase("channels_257", (1, 4, 5, 257), (2, 2), (1, 2)),
    PoolCase("same", (2, 7, 7, 8), (3, 3), (2, 2), "same"),
    PoolCase("same_even", (2, 8, 6, 8), (2, 2), (1, 1), "same"),
    PoolCase("same_one_pixel", (2, 1, 1, 4), (3, 3), (1, 1), "same"),
    PoolCase("same_above_image", (2, 3, 2, 4), (5, 5), (2, 2), "same"),
    PoolCase("stride_above_window", (2, 11, 10, 6), (2, 2), (3, 4)),
    PoolCase("explicit", (2, 6, 7, 9), (3, 3), (2, 2), ((1, 1), (1, 1))),
    PoolCase("explicit_asymmetric", (2, 6, 7, 9), (3, 4), (1, 2), ((2, 0), (1, 3))),
    PoolCase("whole_image", (3, 6, 5, 7), (6, 5)),
    PoolCase("window_256", (2, 16, 17, 3), (16, 16), (1, 1)),
    PoolCase("window_289", (2, 18, 19, 3), (17, 17), (1, 1)),
    PoolCase("empty_batch", (0, 6, 6, 4)),
    PoolCase("prime_batch", (13, 5, 5, 3), (2, 2), (1, 1)),
    PoolCase("full_resnet", (4, 112, 112, 64), (3, 3), (2, 2), ((1, 1), (1, 1)), "full"),
]

GLOBAL = [  # (batch, height, width, channels)
    (1, 1, 1, 1),
    (2, 7, 7, 17),
    (3, 5, 3, 33),
    (2, 13, 11, 257),
    (0, 4, 4, 6),
    (64, 24, 24, 16),
]
