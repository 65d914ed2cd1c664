"""The generator behind initial weights, dropout seeds and shuffling."""

from __future__ import annotations

import os
import random

import numpy as np

_generator = np.random.default_rng()


def set_random_seed(seed: int) -> None:
    """Seed Python's, NumPy's and fastbn's random numbers: the same seed gives the same weights, masks and order.

    Raises ValueError where `seed` is not an integer in [0, 2^32).
    """
    global _generator
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ValueError(f"set_random_seed: seed must be an integer in [0, 2^32). Received: {seed!r}")
    random.seed(int(seed))
    np.random.seed(int(seed))  # noqa: NPY002  what scripts draw from, as in Keras
    _generator = np.random.default_rng(int(seed))


def generator() -> np.random.Generator:
    return _generator


def draw_seed() -> int:
    """A seed for a program: never 0."""
    return int(_generator.integers(1, 2**63))


def _after_fork_in_child() -> None:
    """Go on from the same state without the old generator's lock, which a thread that is not there may have."""
    global _generator
    used = _generator.bit_generator
    fresh = type(used)()
    fresh.state = used.state
    _generator = np.random.Generator(fresh)


os.register_at_fork(after_in_child=_after_fork_in_child)
