"""Case tables: one list of shapes per operator, read by correctness, gradient, thread and instruction-set tests and by
the benchmarks alike.

Tiers: "smoke" cases run everywhere; "full" ones are larger and are marked slow in the tests. Data comes from a seed
and the case's name, as float32. `integers=True` gives small whole numbers instead, on which every order of summation
gives the same float32, so that results can be compared for equality.

Rounding. A float32 sum of n terms is off by at most n u (sum of magnitudes), u = 2^-24; rounding errors are as good as
independent, so that the deviation grows as sqrt(n). `tolerance(n)` = (8 + 2 sqrt(n)) u is at least six standard
deviations of the worst order (one sequential chain over values of one sign), with eight roundings to spare for what is
done before and after the sum. It is multiplied by the sum of magnitudes, which the oracle computes. Transformed
convolutions (algorithm="auto") spread their error over a tile: they are held to four times the largest magnitude.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

UNIT = 2.0**-24


def tolerance(length: int) -> float:
    """Allowed error of a float32 sum of `length` terms, relative to the sum of their magnitudes."""
    return UNIT * (8 + 2 * math.sqrt(max(length, 1)))


class Data:
    """Arrays of one case, from its name and a seed."""

    def __init__(self, name: str, seed: int = 0, integers: bool = False) -> None:
        self._rng = np.random.default_rng((zlib.crc32(name.encode()), seed))
        self._integers = integers

    def array(self, *shape: int) -> Float32:
        if self._integers:
            return self._rng.integers(-3, 4, shape).astype(np.float32)
        return self._rng.standard_normal(shape).astype(np.float32)

    def distinct(self, *shape: int) -> Float32:
        """No two values alike (up to 2^24 of them)."""
        n = math.prod(shape)
        return ((self._rng.permutation(n) - n / 2) * 2.0**-10).astype(np.float32).reshape(shape)

    def labels(self, rows: int, classes: int) -> npt.NDArray[np.int32]:
        return self._rng.integers(0, classes, rows).astype(np.int32)
