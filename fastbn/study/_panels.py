"""What figures show: a curve a cell, by the name of the panel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastbn.study._numbers import Record, epoch_seconds, losses


@dataclass(frozen=True)
class Panel:
    """`curve` makes the values of a record, the first at epoch `first`; with `clock` they stand over seconds."""

    title: str
    curve: Callable[[Record], list[float]]
    first: int = 1
    clock: bool = False

    def x(self, records: list[Record]) -> list[float]:
        """Where the points of a variant stand: epochs, or the mean over its cells of the seconds spent by then."""
        if not self.clock:
            return [float(self.first + i) for i in range(len(self.curve(records[0])))]
        return [float(t) for t in np.mean([np.cumsum(epoch_seconds(record)) for record in records], axis=0)]


def _recalibration(name: str) -> Callable[[Record], list[float]]:
    def curve(record: Record) -> list[float]:
        return [math.inf if value is None else value for value in record["result"]["recalibration"][name]]

    return curve


def _shift(record: Record) -> list[float]:
    """Mean over layers, epoch by epoch."""
    moved = [[math.nan if v is None else v for v in values] for values in record["result"]["layers"]["shift"].values()]
    return [float(value) for value in np.mean(moved, axis=0)]


PANELS = {
    "loss": Panel("training loss over epochs", losses),
    "val_loss": Panel("validation loss over epochs", lambda record: losses(record, "val_loss")),
    "seconds": Panel("training loss over seconds of training, on one core", losses, clock=True),
    "stale": Panel("loss on training images, moving statistics", _recalibration("train")),
    "recalibrated": Panel("loss on training images, recalibrated statistics", _recalibration("recalibrated_train")),
    "shift": Panel("movement of the layers' inputs in an epoch, in standard deviations", _shift),
}
