"""`fastbn demo`: the question's three networks and the article's, trained and set side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fastbn import networks, utils
from fastbn.callbacks import Callback
from fastbn.datasets import DataSet
from fastbn.explain._networks import QUESTION_SECONDS
from fastbn.explain._sentences import FOLLOWS
from fastbn.optimizers import SGD

if TYPE_CHECKING:
    from fastbn.models import Sequential

__all__ = ["Row", "run", "table", "verdict"]

_BATCH = 128
_SEED = 0


@dataclass(frozen=True)
class Row:
    """One trained network. `accuracy` is on the test images; `multiply_adds` are of one image's forward pass."""

    network: str
    parameters: int
    multiply_adds: int
    seconds: float  # an epoch
    accuracy: float


@dataclass(frozen=True)
class _Run:
    network: str
    build: Callable[[], Sequential]
    optimizer: Callable[[], Any]
    epochs: int
    images: bool  # (28, 28, 1) rather than (784,)


def _rmsprop() -> str:
    return "rmsprop"


def _article_sgd() -> SGD:
    return SGD(learning_rate=0.01, momentum=0.9, nesterov=True)


_RUNS = (
    _Run("mlp", networks.mlp, _rmsprop, 1, images=False),
    _Run("cnn", networks.cnn, _rmsprop, 1, images=True),
    _Run("cnn_small", networks.cnn_small, _rmsprop, 1, images=True),
    _Run("article", lambda: networks.article("sigmoid", 0), _article_sgd, 2, images=False),
    _Run("article + BN", lambda: networks.article("sigmoid", 1), _article_sgd, 2, images=False),
)


class _Advance(Callback):
    """Moves a progress bar by one after every batch."""

    def __init__(self, advance: Callable[[], None]) -> None:
        super().__init__()
        self._advance = advance

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._advance()


def _train(run: _Run, data: DataSet, progress: Progress) -> Row:
    shape = (28, 28, 1) if run.images else (784,)

    def scaled(x: NDArray[np.uint8]) -> NDArray[np.float32]:
        images: NDArray[np.float32] = x.reshape(-1, *shape) / np.float32(255)
        return images

    utils.set_random_seed(_SEED)
    model = run.build()
    model.compile(optimizer=run.optimizer(), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    x_train, y_train = scaled(data.train[0]), data.train[1]
    batches = -(-len(x_train) // _BATCH)
    task = progress.add_task(run.network, total=batches * run.epochs)
    advance = _Advance(lambda: progress.advance(task))
    start = time.perf_counter()
    model.fit(x_train, y_train, batch_size=_BATCH, epochs=run.epochs, verbose=0, callbacks=[advance])
    seconds = (time.perf_counter() - start) / run.epochs
    _, accuracy = model.evaluate(scaled(data.test[0]), data.test[1], batch_size=500, verbose=0)
    return Row(run.network, model.count_params(), model.count_multiply_adds(), seconds, accuracy)


def table(rows: list[Row]) -> Table:
    """The rows, beside the seconds that the question reports."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    out.add_column("network")
    for heading in ("parameters", "multiply-adds", "s/epoch", "question's", "accuracy"):
        out.add_column(heading, justify="right")
    for row in rows:
        theirs = QUESTION_SECONDS.get(row.network)
        out.add_row(
            row.network,
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
            f"{row.seconds:.2f}",
            "" if theirs is None else f"{theirs:.0f}",
            f"{row.accuracy:.2%}",
        )
    return out


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def verdict(rows: list[Row]) -> str:
    """One sentence on time against arithmetic and on batch-norm, computed from the rows."""
    by_name = {row.network: row for row in rows}
    mlp, cnn, small = by_name["mlp"], by_name["cnn"], by_name["cnn_small"]

    def deviation(row: Row) -> float:
        return (row.seconds / mlp.seconds) / (row.multiply_adds / mlp.multiply_adds)

    def against_mlp(row: Row) -> str:
        arithmetic, seconds = row.multiply_adds / mlp.multiply_adds, row.seconds / mlp.seconds
        theirs = QUESTION_SECONDS[row.network] / QUESTION_SECONDS["mlp"]
        return (
            f"{row.network} does {_ratio(arithmetic)} times the arithmetic of mlp in {_ratio(seconds)} times its time "
            f"(the question: {_ratio(theirs)})"
        )

    if small.seconds < mlp.seconds < cnn.seconds:
        judgement = "the order of the times is that of arithmetic, not of the number of parameters"
        if all(abs(math.log(deviation(row))) <= math.log(FOLLOWS) for row in (cnn, small)):
            judgement = "time follows arithmetic, not the number of parameters"
    elif small.seconds >= mlp.seconds:
        judgement = "cnn_small takes longer than mlp with less arithmetic, so here time does not follow arithmetic"
    else:
        judgement = "cnn is faster than mlp with more arithmetic, so here time does not follow arithmetic"
    plain, normalised = by_name["article"], by_name["article + BN"]
    change = "raises" if normalised.accuracy > plain.accuracy else "does not raise"
    return (
        f"{against_mlp(cnn)} and {against_mlp(small)}: {judgement}; one batch-norm {change} the article's sigmoid "
        f"network after two epochs ({plain.accuracy:.1%} without, {normalised.accuracy:.1%} with)."
    )


def run(data: DataSet, console: Console) -> list[Row]:
    """Train every network of the demo, show progress, then the table and the verdict; returns the rows."""
    console.print(data.note, highlight=False)
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    rows = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for entry in _RUNS:
            row = _train(entry, data, progress)
            rows.append(row)
            console.print(
                f"{row.network:12} {row.seconds:6.2f} s an epoch, accuracy {row.accuracy:.2%}", highlight=False
            )
    console.print(table(rows))
    console.print(verdict(rows), highlight=False)
    return rows
