"""The table of a study under way: cells done, time left, and the losses so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from fastbn.study._cell import Cell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def show_time(seconds: float) -> str:
    """ "12 s", "3 min 20 s", "1 h 05 min" """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Counts cells as they end. On a terminal a live table, elsewhere a line for each cell.

    labels: cell -> study and variant; the first study that has a cell shows it. Time left is guessed from the work of
    the cells that are left, at the rate of those that have ended.
    """

    def __init__(
        self,
        labels: dict[str, tuple[str, str]],
        cells: Iterable[Cell],
        done: Iterable[Cell],
        samples: int,
        console: Console,
        last_loss: Callable[[str], float | None],
    ) -> None:
        self.labels = labels
        self.console = console
        self.total: dict[tuple[str, str], int] = {}
        self.done: dict[tuple[str, str], int] = {}
        self.losses: dict[tuple[str, str], list[float]] = {}
        work: dict[object, float] = {}
        self._work: dict[str, float] = {}
        for cell in cells:
            if cell.variant not in work:
                work[cell.variant] = cell.variant.work(samples, cell.epochs)
            self._work[cell.key] = work[cell.variant]
            self.total[labels[cell.key]] = self.total.get(labels[cell.key], 0) + 1
        self._last_loss = last_loss
        self._left = set(self._work)
        self._worked = 0.0
        self._live: object | None = None
        self.found = 0
        for cell in done:
            self._count(cell)
            self.found += 1
        self._begin = time.perf_counter()

    def _count(self, cell: Cell) -> None:
        label = self.labels[cell.key]
        self.done[label] = self.done.get(label, 0) + 1
        self._left.discard(cell.key)
        loss = self._last_loss(cell.key)
        if loss is not None:
            self.losses.setdefault(label, []).append(loss)

    def time_left(self) -> float | None:
        """Seconds, None before the first cell has ended."""
        if not self._worked:
            return None
        return sum(self._work[key] for key in self._left) / self._worked * (time.perf_counter() - self._begin)

    def __enter__(self) -> Progress:
        if self.found:
            self.console.print(f"{self.found} of {len(self._work)} cells found done.", highlight=False)
        if self.console.is_terminal and self._left:
            from rich.live import Live

            live = Live(console=self.console, get_renderable=self.table, refresh_per_second=2, transient=True)
            live.start()
            self._live = live
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()  # type: ignore[attr-defined]

    def ended(self, cell: Cell, seconds: float) -> None:
        """A cell has ended and is kept."""
        self._count(cell)
        self._worked += self._work[cell.key]
        if self._live is None:
            study, variant = self.labels[cell.key]
            left = self.time_left()
            self.console.print(
                f"{len(self._work) - len(self._left)}/{len(self._work)} {study}: {variant}, seed {cell.seed}: "
                f"{seconds:.1f} s" + ("" if left is None else f", {show_time(left)} left"),
                highlight=False,
            )

    def table(self) -> Table:
        from rich import box
        from rich.table import Table

        left = self.time_left()
        counts = f"{len(self._work) - len(self._left)} of {len(self._work)} cells"
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            title=f"{counts}, {'time left unknown yet' if left is None else show_time(left) + ' left'}",
        )
        for heading, justify in (("study", "left"), ("variant", "left"), ("done", "right"), ("last loss", "right")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        shown = ""
        for (study, variant), total in self.total.items():
            done, losses = self.done.get((study, variant), 0), self.losses.get((study, variant), [])
            mean = f"{sum(losses) / len(losses):.4g}" if losses else ""
            table.add_row("" if study == shown else study, variant, f"{done}/{total}", mean)
            shown = study
        return table
