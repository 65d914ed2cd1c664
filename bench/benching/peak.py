"""The machine's peak, measured at start: fused multiply-adds and memory copies on the threads in use.

A large single-precision product comes close to the rate of fused multiply-adds with any good BLAS. NumPy's knows
not every processor, so fastbn's own product is asked too and the faster counts: a lower bound of the peak, which
single operators may pass by a few per cent. A copy of a block far larger than the last-level cache, through NumPy,
gives read + write bandwidth.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastbn import ops


@dataclass(frozen=True)
class Peak:
    gflops: float  # two operations a multiply-add
    copy_gbs: float  # bytes read + bytes written


def _best(run: Callable[[], object], seconds: float) -> float:
    """Shortest time of one call among those that fit into `seconds`."""
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def _together(parts: list[Callable[[], object]]) -> None:
    others = [threading.Thread(target=part) for part in parts[1:]]
    for thread in others:
        thread.start()
    parts[0]()
    for thread in others:
        thread.join()


def measure_copy(threads: int, seconds: float = 0.5, megabytes: int = 128) -> float:
    """GB/s, read + written, of `threads` threads that copy disjoint parts of one block."""
    source = np.ones(megabytes << 18, np.float32)
    target = np.empty_like(source)
    parts = [
        lambda a=a, b=b: np.copyto(b, a)
        for a, b in zip(np.array_split(source, threads), np.array_split(target, threads), strict=True)
    ]
    return 2 * source.nbytes / _best(lambda: _together(parts), seconds) / 1e9


def measure_product(threads: int, seconds: float = 1.2, size: int = 1024) -> float:
    """GFLOP/s of a size x size product: the best of NumPy's, one for each thread, and fastbn's."""
    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    outputs = [np.empty_like(a) for _ in range(threads)]
    parts = [functools.partial(np.matmul, a, a, out=out) for out in outputs]
    times = [
        _best(parts[0], seconds / 3),
        _best(lambda: _together(parts), seconds / 3) / threads,
        _best(lambda: ops.dense_forward(a, a, out=outputs[0]), seconds / 3),
    ]
    return 2 * size**3 / min(times) / 1e9


def measure(threads: int) -> Peak:
    return Peak(gflops=measure_product(threads), copy_gbs=measure_copy(threads))
