"""The machine's peak, measured at start: fused multiply-adds and memory copies on the threads in use.

Both go through NumPy, so they do not depend on the code that they judge. A large single-precision
product comes within a few per cent of the FMA rate with any good BLAS; a copy of a block far larger
than the last-level cache gives read + write bandwidth.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


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


def measure_product(threads: int, seconds: float = 0.8, size: int = 1024) -> float:
    """GFLOP/s of `threads` independent size x size products, one a thread where the BLAS can be held to one."""
    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    outputs = [np.empty_like(a) for _ in range(threads)]
    flops = 2 * size**3
    whole = flops / _best(lambda: np.matmul(a, a, out=outputs[0]), seconds / 2) / 1e9
    parts = [lambda out=out: np.matmul(a, a, out=out) for out in outputs]
    apart = threads * flops / _best(lambda: _together(parts), seconds / 2) / 1e9
    return max(whole, apart)


def measure(threads: int) -> Peak:
    return Peak(gflops=measure_product(threads), copy_gbs=measure_copy(threads))
