"""Central finite differences: the check that every backward oracle has to pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def numeric_gradient(f: Callable[[Array], Array], x: Array, dy: Array, step: float = 1e-5) -> Array:
    """d sum(dy f(x)) / dx, element by element."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        kept = x[place]
        x[place] = kept + step
        above = f(x)
        x[place] = kept - step
        below = f(x)
        x[place] = kept
        gradient[place] = (dy * (above - below)).sum() / (2 * step)
    return gradient


def assert_gradient(f: Callable[[Array], Array], x: Array, dy: Array, gradient: Array, tolerance: float = 1e-7) -> None:
    numeric = numeric_gradient(f, x.copy(), dy)
    scale = max(1.0, float(np.abs(numeric).max(initial=0.0)))
    np.testing.assert_allclose(gradient, numeric, rtol=0, atol=tolerance * scale)
