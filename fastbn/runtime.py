"""Threads and the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastbn import _core
from fastbn._arrays import integer

MOST_THREADS = 1024  # that the C interface takes

__all__ = ["get_num_threads", "num_threads", "set_num_threads"]


def get_num_threads() -> int:
    """Threads that a call uses. The default honours OMP_NUM_THREADS, the affinity mask and the cgroup quota."""
    return _core.get_num_threads()


def set_num_threads(number: int) -> None:
    """Set the threads that a call uses; 0 restores the default. Results never depend on it.

    Raises ValueError where `number` is not in [0, 1024], TypeError where it is not an integer.
    """
    threads = integer("set_num_threads", "number", number)
    if not 0 <= threads <= MOST_THREADS:
        raise ValueError(f"set_num_threads: number must lie in [0, {MOST_THREADS}]. Received: number={threads}")
    _core.set_num_threads(threads)


@contextmanager
def num_threads(number: int) -> Iterator[None]:
    """`set_num_threads` inside a `with` block; the number before it returns afterwards. Of the whole process."""
    before = get_num_threads()
    set_num_threads(number)
    try:
        yield
    finally:
        set_num_threads(before)
