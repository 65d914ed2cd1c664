"""What `fit` prints: a bar with metrics, samples/s and time left on a terminal, and one plain line an epoch."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

INTERVAL = 0.2  # seconds between two drawings of the bar


def resolve_verbose(operation: str, verbose: Any) -> int:
    """0: silent, 1: a bar where it can be drawn, 2: one line an epoch."""
    level = 1 if verbose == "auto" else verbose
    if level not in (0, 1, 2):
        raise ValueError(f"{operation}: verbose must be 'auto', 0, 1 or 2. Received: {verbose!r}")
    return int(level)


def format_logs(logs: dict[str, float]) -> str:
    return " - ".join(f"{name}: {value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{name}: {value:.3e}"
                      for name, value in logs.items())  # fmt: skip


class EpochProgress:
    """Progress of one epoch. `due` is the time of the next drawing: the loop compares it with the clock."""

    def __init__(self, epoch: int, epochs: int, samples: int, verbose: int) -> None:
        self.label = f"Epoch {epoch + 1:{len(str(epochs))}}/{epochs}"
        self.samples = samples
        self.verbose = verbose
        self.start = time.perf_counter()
        self._train_seconds: float | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        draws = verbose == 1 and sys.stdout.isatty()
        self.due = self.start + INTERVAL if draws else float("inf")

    def draw(self, done: int, logs: dict[str, float]) -> None:
        """Draw the bar; called when `due` has passed."""
        if self._progress is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn(self.label),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[logs]}"),
                auto_refresh=False,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=self.samples, rate="", logs="")
        assert self._task is not None
        rate = done / (time.perf_counter() - self.start)
        self._progress.update(self._task, completed=done, rate=f"{rate:,.0f} samples/s", logs=format_logs(logs))
        self._progress.refresh()
        self.due = time.perf_counter() + INTERVAL

    def trained(self) -> None:
        """The last step was made: validation does not count in the samples/s."""
        self._train_seconds = time.perf_counter() - self.start

    def close(self) -> None:
        """Take the bar away; also after an interrupt."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def finish(self, logs: dict[str, float]) -> None:
        """Print the epoch's line."""
        self.close()
        if self.verbose:
            seconds = time.perf_counter() - self.start
            rate = self.samples / max(self._train_seconds or seconds, 1e-9)
            print(f"{self.label} - {seconds:.1f} s - {rate:,.0f} samples/s - {format_logs(logs)}", flush=True)
