"""The libfastbn that `import fastbn` loaded, reached through its C interface: instruction set, threads, threshold."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import fastbn  # noqa: F401  loads the library

THREADS = (1, 2, 3, 7)


@functools.cache
def path() -> Path:
    """Where the loaded libfastbn lies: there is one per process."""
    found = {line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()}
    (library,) = {Path(p) for p in found if Path(p).name.startswith("libfastbn.so")}
    return library


@functools.cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path()))
    for name in ("isa_compiled", "isa_found", "isa_in_use", "last_error", "version", "build_info", "threading_layer"):
        getattr(loaded, f"fbn_{name}").restype = ctypes.c_char_p
    loaded.fbn_set_serial_threshold.argtypes = [ctypes.c_double]
    loaded.fbn_set_isa.argtypes = [ctypes.c_char_p]
    return loaded


def instruction_sets() -> list[str]:
    """Those that this build has and this machine runs, best first."""
    return str(library().fbn_isa_found().decode()).split(",")


def isa_in_use() -> str:
    return str(library().fbn_isa_in_use().decode())


def _check(status: int) -> None:
    if status:
        raise RuntimeError(library().fbn_last_error().decode())


@contextmanager
def using_isa(name: str) -> Iterator[None]:
    before = library().fbn_isa_in_use()
    _check(library().fbn_set_isa(name.encode()))
    try:
        yield
    finally:
        _check(library().fbn_set_isa(before))


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """`count` threads for every call, however small its work."""
    _check(library().fbn_set_num_threads(count))
    _check(library().fbn_set_serial_threshold(0.0))
    try:
        yield
    finally:
        _check(library().fbn_set_serial_threshold(-1.0))
        _check(library().fbn_set_num_threads(0))


def same_on_all_threads(compute: Callable[[], object]) -> tuple[np.ndarray, ...]:
    """The arrays that compute() returns on one thread, after checking that every thread count gives their bits."""
    with using_threads(1):
        expected = _arrays(compute())
    for threads in THREADS[1:]:
        with using_threads(threads):
            found = _arrays(compute())
        assert len(found) == len(expected)
        for i, (a, b) in enumerate(zip(expected, found, strict=True)):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes(), f"result {i} on {threads} threads differs from that on one"
    return expected


def _arrays(result: object) -> tuple[np.ndarray, ...]:
    results = result if isinstance(result, tuple) else (result,)
    return tuple(np.array(a) for a in results if a is not None)
