"""Comparison of float32 results with float64 oracles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def assert_within(actual: npt.ArrayLike, expected: npt.ArrayLike, bound: npt.ArrayLike, what: str = "result") -> None:
    """|actual - expected| <= bound everywhere; NaN and infinities at the same places."""
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == e.shape, f"{what}: shape {a.shape}, expected {e.shape}"
    if not a.size:
        return
    assert np.array_equal(np.isnan(a), np.isnan(e)), f"{what}: NaN at other places than in the oracle"
    with np.errstate(invalid="ignore"):
        error = np.where(a == e, 0.0, np.abs(a - e))
    error[np.isnan(e)] = 0.0
    excess = error - np.broadcast_to(bound, e.shape)
    worst = np.unravel_index(np.argmax(excess), e.shape)
    allowed = np.broadcast_to(bound, e.shape)[worst]
    assert excess[worst] <= 0, f"{what}{list(map(int, worst))} = {a[worst]!r}, expected {e[worst]!r} +- {allowed:.3g}"


def assert_same(actual: npt.ArrayLike, expected: npt.ArrayLike, what: str = "result") -> None:
    """Equal values; NaN equals NaN."""
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected), err_msg=what, strict=False)


def unit(v: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """One unit in the last place of float32 at |v|."""
    return np.exp2(np.floor(np.log2(np.maximum(np.abs(np.asarray(v, np.float64)), 2.0**-126))) - 23)
