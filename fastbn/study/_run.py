"""Runs studies from their names to their outcome."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastbn._arrays import integer
from fastbn.study import _data, _machine, _numbers
from fastbn.study._cell import Cell
from fastbn.study._live import Progress
from fastbn.study._outcome import Outcome, StudyOutcome
from fastbn.study._runner import run_cells
from fastbn.study._store import Store
from fastbn.study._studies import Study, chosen

if TYPE_CHECKING:
    from rich.console import Console


def _at_least_one(**options: int | None) -> None:
    for name, value in options.items():
        if value is not None and integer("study", name, value) < 1:
            raise ValueError(f"study: {name} must be at least 1. Received: {name}={value!r}")


def _cells(studies: list[Study], seeds: int, epochs: int, data: _data.StudyData) -> dict[str, list[tuple[str, Cell]]]:
    """For each study its cells with the labels of their variants, seed by seed."""
    here = _machine.here()
    return {
        study.name: [
            (label, Cell(variant, seed, epochs, data.name, data.digest, here["isa"], here["fastbn"]))
            for label, variant in study.variants.items()
            for seed in range(seeds)
        ]
        for study in studies
    }


def run(
    name: str = "all",
    out: str | Path = "fastbn-study",
    *,
    data: str = "auto",
    seeds: int = 5,
    epochs: int = 10,
    jobs: int | None = None,
    resume: bool = False,
    backend: str | None = None,
    console: Console | None = None,
    command: str = "",
) -> Outcome:
    """Run a study, or "all" four of the article's, and return what came out; every cell is kept in `out` as it ends.

    Each variant is trained from the seeds 0 .. seeds - 1. A cell that `out` holds already is not run again: one that
    two studies share, and with `resume` those of an earlier call. jobs, backend: see `run_cells`; with "dask" a
    `dask.distributed.Client` must be there. `console` shows progress (None: nobody looks).
    Interrupted (Ctrl-C), it returns what has ended of the studies that have a cell of every variant.

    Raises ValueError for unknown names, numbers below one, a damaged cell, or a folder with cells of a study that has
    not finished where `resume` is false; OSError where `out` cannot be written; what `fastbn.datasets.load` raises;
    ImportError where joblib is not installed.
    """
    from rich.console import Console

    studies = chosen(name)
    _at_least_one(seeds=seeds, epochs=epochs, jobs=jobs)
    loaded = _data.load(data)
    store = Store(Path(out))
    labelled = _cells(studies, seeds, epochs, loaded)
    labels: dict[str, tuple[str, str]] = {}
    wanted: dict[str, Cell] = {}
    for title, pairs in labelled.items():
        for label, cell in pairs:
            labels.setdefault(cell.key, (title, label))
            wanted.setdefault(cell.key, cell)
    done = [cell for key, cell in wanted.items() if store.has(key)]
    if store.any_cells() and len(done) < len(wanted) and not resume:
        raise ValueError(
            f"study: the folder holds {len(done)} of the {len(wanted)} cells asked for, and maybe others; go on there "
            f"with --resume, or take another folder. Received: {store.folder}"
        )

    if len(done) < len(wanted):
        store.require_writable()

    def last_loss(key: str) -> float:
        return _numbers.losses(store.read(key))[-1]

    samples = len(loaded.x_train)
    shown = console or Console(quiet=True)
    with Progress(labels, wanted.values(), done, samples, shown, last_loss) as progress:
        left = [cell for key, cell in wanted.items() if not store.has(key)]
        # Seed by seed, so that an interrupted study has every variant; the longest first, so that jobs end together.
        work = {variant: variant.work(samples, epochs) for variant in {cell.variant for cell in left}}
        left.sort(key=lambda cell: (cell.seed, -work[cell.variant]))
        try:
            run_cells(left, store, jobs=jobs, backend=backend, said=progress.ended)
        except KeyboardInterrupt:
            ended = sum(store.has(key) for key in wanted)
            shown.print(f"Interrupted: {ended} of {len(wanted)} cells are kept; --resume goes on.", highlight=False)
    outcomes = []
    for study in studies:
        records: dict[str, list[_numbers.Record]] = {}
        for label, cell in labelled[study.name]:
            if store.has(cell.key):
                records.setdefault(label, []).append(store.read(cell.key))
        if len(records) == len(study.variants):
            outcomes.append(StudyOutcome(study, records))
    if not outcomes:
        raise KeyboardInterrupt
    return Outcome(command or f"fastbn study {name}", loaded.name, seeds, epochs, tuple(outcomes), len(wanted))
