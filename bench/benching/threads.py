"""How much faster is a call on two threads than on one?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fastbn

NOISE = 1.05  # two runs of the same thing differ by as much
LONG = 100e-6  # seconds on one thread, from which on a second one should nearly halve them


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


@dataclass(frozen=True)
class Times:
    """Seconds of a call."""

    one: float
    two: float

    @property
    def ratio(self) -> float:
        return self.two / self.one


def on_one_and_two(call: Callable[[], object], pairs: int = 9, block: float = 2e-3) -> Times:
    """The best of `pairs` blocks on each number of threads, taken in turns."""
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
    return Times(one, two)


def assert_not_slower(call: Callable[[], object]) -> Times:
    """Measured again where it looks slower."""
    ratios = []
    for pairs in (25, 75):
        times = on_one_and_two(call, pairs)
        if times.ratio <= NOISE:
            return times
        ratios.append(times.ratio)
    raise AssertionError(f"slower on two threads than on one: {', '.join(f'{r:.3f}' for r in ratios)} times the time")


def summary(benchmarks: list[Any]) -> list[str]:
    """How much faster the longer rows are on two threads: the geometric mean, and the rows that gain least."""
    rows = [
        (b.extra_info["seconds_on_one"] / b.extra_info["seconds_on_two"], b.name)
        for b in benchmarks
        if b.extra_info.get("seconds_on_one", 0) > LONG
    ]
    if not rows:
        return []
    mean = math.exp(sum(math.log(gain) for gain, _ in rows) / len(rows))
    lines = [f"{len(rows)} rows of more than {1e6 * LONG:.0f} us on one thread: {mean:.2f} times as fast on two"]
    return lines + [f"{gain:6.2f}  {name}" for gain, name in sorted(rows)[:10]]
