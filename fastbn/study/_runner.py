"""Runs cells in parallel processes through joblib and keeps each as it ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from fastbn import runtime
from fastbn.study import _cell
from fastbn.study._cell import Cell
from fastbn.study._store import Store

_WATCH_SECONDS = 0.5


def shared_out(cores: int, jobs: int) -> int:
    """Threads of each of `jobs` processes that run at once on these cores."""
    return max(1, cores // jobs)


def _in_worker(values: dict[str, Any], threads: int | None, owner: int) -> dict[str, Any]:
    """A cell, in whichever process joblib chose; `owner` is the one that runs the study."""
    if os.getppid() == owner:
        _end_with(owner)
    return _cell.run(values, threads)


@cache
def _end_with(owner: int) -> None:
    """End this process as soon as the one that started it is gone: nobody would take its cells."""

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_cells(
    cells: Sequence[Cell],
    store: Store,
    *,
    jobs: int | None = None,
    backend: str | None = None,
    said: Callable[[Cell, float], object] = lambda cell, seconds: None,
) -> None:
    """Run the cells in this order and write each record as its cell ends; `said` is told, with its seconds.

    jobs: processes at once, which share this machine's cores out; None: one a core, or one a worker of another
    backend. backend: joblib's name of one, None for processes here. Workers of other backends choose their threads
    themselves (OMP_NUM_THREADS).
    """
    from joblib import Parallel, delayed, parallel_config

    if not cells:
        return
    threads: int | None = None
    if backend is None:
        cores = runtime.get_num_threads()
        jobs = min(jobs or cores, len(cells))
        threads = shared_out(cores, jobs)
    by_key = {cell.key: cell for cell in cells}
    work = delayed(_in_worker)
    with parallel_config(backend=backend or "loky"):
        parallel = Parallel(
            n_jobs=jobs or -1,
            batch_size=1,  # a cell is kept when it ends, not when its neighbours do
            pre_dispatch="all" if backend else "n_jobs",
            return_as="generator_unordered",
        )
        for record in parallel(work(cell.values(), threads, os.getpid()) for cell in cells):
            store.write(record)
            said(by_key[record["key"]], record["seconds"]["cell"])
