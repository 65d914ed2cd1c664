"""Dense shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cases import Data, Float32


@dataclass(frozen=True)
class DenseCase:
    name: str
    leading: tuple[int, ...]  # every axis of x but the last
    in_features: int
    out_features: int
    activation: str | None = None
    use_bias: bool = True
    tier: str = "smoke"

    def __str__(self) -> str:
        return self.name

    @property
    def rows(self) -> int:
        return math.prod(self.leading)

    @property
    def multiply_adds(self) -> int:
        return self.rows * self.in_features * self.out_features

    def inputs(self, seed: int = 0, integers: bool = False) -> tuple[Float32, Float32, Float32 | None, Float32]:
        """x, kernel, bias (None without), dy."""
        data = Data(self.name, seed, integers)
        x, kernel = data.array(*self.leading, self.in_features), data.array(self.in_features, self.out_features)
        dy = data.array(*self.leading, self.out_features)
        return x, kernel, data.array(self.out_features) if self.use_bias else None, dy


CASES = [
    DenseCase("ones", (1,), 1, 1),
    DenseCase("one_row", (1,), 37, 19),
    DenseCase("one_input", (7,), 1, 33),
    DenseCase("one_output", (7,), 33, 1, "sigmoid"),
    DenseCase("primes", (13,), 31, 17, "relu"),
    DenseCase("features_15_16", (15,), 15, 16, "tanh"),
    DenseCase("features_16_15", (16,), 16, 15),
    DenseCase("features_17_31", (17,), 17, 31),
    DenseCase("features_33_257", (31,), 33, 257, "relu"),
    DenseCase("features_257_33", (33,), 257, 33, use_bias=False),
    DenseCase("rank_3", (2, 5), 12, 7),
    DenseCase("rank_4", (2, 3, 4), 9, 10, "relu"),
    DenseCase("empty_batch", (0,), 12, 7),
    DenseCase("empty_axis", (3, 0), 12, 7),
    DenseCase("features_101_600", (523,), 101, 600),
    DenseCase("rows_1100_to_130", (1100,), 50, 130),
    DenseCase("many_rows", (1031,), 13, 9),
    DenseCase("batch_4", (4,), 784, 512, "sigmoid"),
    DenseCase("few_rows_10", (4,), 301, 10, "relu"),
    DenseCase("few_rows_1", (3,), 5, 1),  # whole vectors of W's last rows would lie behind it
    DenseCase("few_rows_23", (11,), 2, 23, use_bias=False),
    DenseCase("rows_8_to_16", (8,), 45, 16),
    DenseCase("mlp_1", (128,), 784, 512, "relu"),
    DenseCase("mlp_3", (128,), 512, 10),
    DenseCase("cnn_head", (32,), 9216, 10),
    DenseCase("full_1024", (1024,), 784, 512, tier="full"),
    DenseCase("full_wide", (64,), 4099, 2053, tier="full"),
]
