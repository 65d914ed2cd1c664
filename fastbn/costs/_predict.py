"""Predicts a step from the analytic columns and from what the machine's kernels do a second.

seconds of an operation = a multiply-adds + b bytes in the block + c bytes that cross + d calls

with a, b, c, d >= 0 for each kind of operation. They are the kernels' own ceilings: measured once for this machine, on
reference networks, and kept beside the other ceilings. Multiply-adds are those that the algorithm does, with the vector
lanes that stay empty. No network has constants of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from fastbn.costs._ceilings import keep_measured, read_measured
from fastbn.costs._table import CostRow, CostTable, Operation
from fastbn.models import Sequential

Rates = dict[str, Any]
_REFERENCE_SECONDS = 0.25  # of measuring, each


def _padded(width: int, vector: int) -> float:
    return -(-width // vector) * vector / width


def _features(table: CostTable, row: CostRow, operation: Operation) -> list[float]:
    part = operation.part
    width = row.output_shape[-1] if row.output_shape else 1
    if operation.name == "backward_data" and row.fan_in_shape:
        width = row.fan_in_shape[-1]
    channels_in_lanes = part.multiply_adds and operation.note != "narrow"  # whose lanes hold pixels
    lanes = _padded(width, table.vector_floats) if channels_in_lanes else 1.0
    return [operation.multiplied * lanes, part.bytes_block, part.bytes_crossing, part.calls]


def _keys(row: CostRow, operation: Operation) -> tuple[str, str]:
    """The operation with its algorithm, and without for algorithms that no reference has met."""
    whole = f"{row.kind} {operation.name}"
    algorithm = operation.note if operation.direction != "update" else ""
    return f"{whole} {algorithm}", whole


def _fit(points: list[tuple[list[float], float]]) -> list[float]:
    """Coefficients >= 0 with the smallest relative errors, by trying every set of them."""
    features = np.array([point[0] for point in points], np.float64)
    seconds = np.array([point[1] for point in points], np.float64)
    scaled = features / seconds[:, None]
    size = np.maximum(scaled.max(axis=0), 1e-300)
    best: tuple[float, npt.NDArray[np.float64]] = (np.inf, np.zeros(4))
    for count in range(1, 5):
        for chosen in itertools.combinations(range(4), count):
            columns = list(chosen)
            found, *_ = np.linalg.lstsq(scaled[:, columns] / size[columns], np.ones(len(points)), rcond=None)
            if found.min() < 0:
                continue
            error = float(np.square(scaled[:, columns] / size[columns] @ found - 1).sum())
            if error < best[0] * 0.999:
                values = np.zeros(4)
                values[columns] = found / size[columns]
                best = (error, values)
    return [float(value) for value in best[1]]


def fit_rates(tables: list[CostTable]) -> Rates:
    """The rates of all kinds of operations that measured tables have."""
    points: dict[str, list[tuple[list[float], float]]] = {}
    waiting = []
    for table in tables:
        for row in table.layers:
            for operation in row.operations:
                if operation.part.seconds:
                    for key in _keys(row, operation):
                        points.setdefault(key, []).append((_features(table, row, operation), operation.part.seconds))
        busy = sum(row.seconds or 0 for row in table.layers)
        waiting.append((table["(waiting)"].seconds or 0) / busy)
    return {
        "operations": {key: _fit(given) for key, given in points.items()},
        "waiting": median(waiting),  # beside the operations' time
        "region": median(table["(region)"].seconds or 0 for table in tables),
        "loop": median(table["(loop)"].seconds or 0 for table in tables),
    }


def predict_step(table: CostTable, rates: Rates) -> float:
    """Seconds of a step of the table's batch from its analytic columns alone.

    Operations of kinds that the references lack count with the roofline that the ceilings give.
    """
    seconds = 0.0
    known = rates["operations"]
    for row in table.layers:
        for operation in row.operations:
            key = next((key for key in _keys(row, operation) if key in known), None)
            if key is None:
                seconds += operation.part.bound_seconds or 0
            else:
                seconds += float(np.dot(known[key], _features(table, row, operation)))
    return seconds * (1 + float(rates["waiting"])) + float(rates["region"]) + float(rates["loop"])


def known_rates() -> Rates | None:
    """The kernels' rates that were measured on this machine, or None."""
    found = read_measured("kernels")
    return found if isinstance(found, dict) and {"operations", "waiting", "region", "loop"} <= set(found) else None


def measure_rates(said: Callable[[str], object] = lambda text: None) -> Rates:
    """Measure the kernels' rates on reference networks, which takes some ten seconds, and keep them."""
    from fastbn.costs._measure import model_costs

    tables = []
    for name, model, batch in references():
        said(f"measuring the machine's kernels: {name}")
        tables.append(model_costs(model, batch, None, _REFERENCE_SECONDS))
    rates = fit_rates(tables)
    keep_measured("kernels", rates)
    return rates


def kernel_rates(said: Callable[[str], object] = lambda text: None) -> Rates:
    """This machine's rates: the known ones, or else measured now."""
    return known_rates() or measure_rates(said)


def references() -> list[tuple[str, Sequential, int]]:
    """Networks that together run every kind of operation at small and large widths, images and batches."""
    from fastbn import layers

    def dense(widths: tuple[int, ...], fan_in: int, batch: int, optimizer: str, extras: bool) -> tuple[str, Any, int]:
        model = Sequential([layers.Input((fan_in,))])
        for i, width in enumerate(widths):
            model.add(layers.Dense(width, activation="sigmoid" if extras and i % 2 else "relu"))
            if extras:
                model.add(layers.BatchNormalization() if i % 2 else layers.Dropout(0.2))
        model.add(layers.Dense(10, activation="softmax"))
        model.compile(optimizer, "sparse_categorical_crossentropy")
        return f"dense {widths} batch {batch}", model, batch

    def images(
        filters: tuple[int, ...], side: int, channels: int, batch: int, optimizer: str, extras: bool
    ) -> tuple[str, Any, int]:
        model = Sequential([layers.Input((side, side, channels))])
        for i, count in enumerate(filters):
            model.add(layers.Conv2D(count, 3, activation=None if extras else "relu"))
            if extras:
                model.add(layers.BatchNormalization())
                model.add(layers.ReLU())
            if i % 2:
                model.add(layers.MaxPooling2D(2))
                model.add(layers.Dropout(0.25))
        model.add(layers.Flatten())
        model.add(layers.Dense(10, activation="softmax"))
        model.compile(optimizer, "sparse_categorical_crossentropy")
        return f"conv {filters} batch {batch}", model, batch

    return [
        dense((64, 64), 784, 16, "rmsprop", False),
        dense((256, 128, 64), 784, 64, "sgd", True),
        dense((512, 256), 784, 128, "rmsprop", True),
        dense((1024, 512), 784, 256, "adam", False),
        dense((32, 32, 32, 32), 200, 512, "rmsprop", True),
        dense((1024, 1024), 784, 8, "rmsprop", False),
        dense((16, 48), 100, 32, "rmsprop", True),
        dense((768, 128), 400, 512, "rmsprop", False),
        images((4, 4), 28, 1, 64, "rmsprop", False),
        images((8, 8), 20, 1, 256, "rmsprop", False),
        images((8, 16), 28, 3, 16, "rmsprop", True),
        images((16, 16), 36, 1, 32, "rmsprop", False),
        images((32, 32), 28, 1, 64, "rmsprop", False),
        images((32, 64), 16, 3, 8, "rmsprop", False),
        images((12, 24, 48), 28, 1, 64, "rmsprop", True),
        images((64, 64), 14, 1, 128, "rmsprop", False),
        images((4, 32, 8), 24, 1, 128, "rmsprop", False),
        images((6, 10), 14, 1, 500, "rmsprop", True),
        images((16, 32, 64, 64), 32, 1, 32, "rmsprop", False),
        images((48, 48), 24, 1, 16, "rmsprop", True),
    ]
