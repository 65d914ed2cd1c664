"""The one number a cell that claims compare, from its record."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

Record: TypeAlias = dict[str, Any]


def losses(record: Record, name: str = "loss") -> list[float]:
    """A curve over epochs; infinity where a loss was not finite."""
    return [math.inf if value is None else float(value) for value in record["result"][name]]


def accuracies(record: Record, name: str = "val_accuracy") -> list[float]:
    return [math.nan if value is None else float(value) for value in record["result"][name]]


def epoch_seconds(record: Record) -> list[float]:
    """Processor seconds of each epoch's training, on one core: what the machine did beside does not count."""
    return [float(value) for value in record["seconds"]["epochs_a_core"]]


def epochs_to_reach(record: Record, target: float) -> float:
    """Epochs until the training loss is `target`, between epochs on a line of its logarithm; before the first epoch
    stands the loss of the initial weights. The number of epochs run where it never is: a lower bound.
    """
    initial = record["result"]["initial_loss"]
    curve = [math.inf if initial is None else float(initial), *losses(record)]
    for epoch, (before, after) in enumerate(pairwise(curve)):
        if before <= target:
            return float(epoch)
        if after <= target:
            if math.isinf(before) or min(after, target) <= 0:
                return float(epoch + 1)
            return epoch + math.log(before / target) / math.log(before / after)
    return float(len(curve) - 1)


def seconds_to_reach(record: Record, target: float) -> float:
    """`epochs_to_reach` in seconds of training."""
    epochs = epochs_to_reach(record, target)
    taken = epoch_seconds(record)
    whole = int(epochs)
    return float(sum(taken[:whole]) + (taken[whole] * (epochs - whole) if whole < len(taken) else 0.0))


def reached(record: Record, target: float) -> bool:
    return min(losses(record), default=math.inf) <= target


def gradient_noise(record: Record) -> float:
    """Standard deviation of the gradient's norm over batches by its mean: at the last look."""
    norms = np.array(list(record["result"]["gradient"]["norms"].values())[-1], np.float64)
    return float(norms.std(ddof=1) / norms.mean())


def input_shift(record: Record) -> float:
    """Mean over layers and epochs of how far the layers' inputs moved; infinity where one had no spread at all."""
    moved = [value for values in record["result"]["layers"]["shift"].values() for value in values]
    return math.inf if any(value is None for value in moved) else float(np.mean(moved))


def number(name: str, record: Record, target: Record | None = None) -> float:
    """A number of `_claims.NUMBERS` of this cell; `target` is the cell whose final loss is to be reached."""
    if name in ("epochs_to_reach", "seconds_to_reach"):
        assert target is not None
        goal = losses(target)[-1]
        return epochs_to_reach(record, goal) if name == "epochs_to_reach" else seconds_to_reach(record, goal)
    if name in ("final_loss", "first_loss"):
        return losses(record)[-1 if name == "final_loss" else 0]
    if name == "final_val_loss":
        return losses(record, "val_loss")[-1]
    if name == "seconds_an_epoch":
        return float(np.median(epoch_seconds(record)))
    if name == "gradient_noise":
        return gradient_noise(record)
    if name == "input_shift":
        return input_shift(record)
    curve = record["result"]["recalibration"]["recalibrated_train" if "recalibrated" in name else "train"]
    value = curve[-1 if name.startswith("last_") else 0]
    return math.inf if value is None else float(value)
