"""Is a call slower on two threads than on one?"""

from __future__ import annotations

import time
from collections.abc import Callable

import fastbn

NOISE = 1.05  # two runs of the same thing differ by as much


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def two_over_one(call: Callable[[], object], pairs: int = 9, block: float = 2e-3) -> float:
    """Time on two threads over time on one, the best of `pairs` blocks each, taken in turns."""
    one = two = float("inf")
    threads = fastbn.get_num_threads()
    try:
        call()
        repeats = max(1, int(block / _seconds(call, 1)))
        for _ in range(pairs):
            fastbn.set_num_threads(2)
            call()  # wakes the team
            two = min(two, _seconds(call, repeats))
            fastbn.set_num_threads(1)
            one = min(one, _seconds(call, repeats))
    finally:
        fastbn.set_num_threads(threads)
    return two / one


def assert_not_slower(call: Callable[[], object]) -> float:
    """Measured again where it looks slower; returns the ratio."""
    ratios = []
    for pairs in (5, 15, 45):
        ratios.append(two_over_one(call, pairs))
        if ratios[-1] <= NOISE:
            return ratios[-1]
    raise AssertionError(f"slower on two threads than on one: {', '.join(f'{r:.3f}' for r in ratios)} times the time")
