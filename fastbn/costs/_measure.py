"""Measures the rows of a cost table: timed and untimed steps of two copies of a model, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import FLOAT32, allocate
from fastbn.costs._ceilings import VECTOR_FLOATS, Ceilings, ceilings, known_ceilings
from fastbn.costs._table import CostRow, CostTable, Operation, Part, with_shares
from fastbn.layers.core import InputLayer

if TYPE_CHECKING:
    from fastbn.models import Model
    from fastbn.models.engine import Engine

_DATA_BYTES = 64 << 20  # samples are gathered from more than a cache holds, as in training
_RUN_SECONDS = 0.004  # of steps in a row, timed or not
_SECONDS = 1.5  # of measuring, where the number of steps is left open


def _data(engine: Engine, batch: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Random samples, labels and an order, of whole batches."""
    assert engine.training is not None
    rng = np.random.default_rng(0)
    sample_bytes = 4 * int(np.prod(engine.input_shape, dtype=np.int64))
    count = max(1, min(60_000, _DATA_BYTES // sample_bytes) // batch) * batch
    x: npt.NDArray[Any]
    if engine.input_dtype == _core.UINT8:
        x = rng.integers(0, 256, (count, *engine.input_shape), np.uint8)
    else:
        x = allocate("costs", (count, *engine.input_shape), FLOAT32)
        rng.random(dtype=np.float32, out=x)
    y: npt.NDArray[Any]
    if engine.training.loss.kind == _core.LOSS_SOFTMAX_CROSS_ENTROPY:
        classes = rng.integers(0, engine.output_shape[-1], (count, *engine.output_shape[:-1]), np.int32)
        one_hot = engine.training.loss.labels_dtype != _core.INT32
        y = np.eye(engine.output_shape[-1], dtype=np.float32)[classes] if one_hot else classes
    else:
        y = allocate("costs", (count, *engine.output_shape), FLOAT32)
        rng.random(dtype=np.float32, out=y)
    return x, y, rng.permutation(count)


class _Steps:
    """Training steps on batch after batch, as `fit` makes them."""

    def __init__(self, engine: Engine, batch: int, data: tuple[Any, Any, Any]) -> None:
        from fastbn.models.engine import Totals

        assert engine.training is not None
        self.program, self.batch, self.at = engine.program, batch, 0
        self.x, self.y, self.order = data
        self.totals = Totals(engine.training, engine.rows)

    def run(self, count: int) -> float:
        """Seconds of `count` steps."""
        step, add, x, y, order, batch = self.program.train, self.totals.add, self.x, self.y, self.order, self.batch
        at, end = self.at, len(order)
        start = time.perf_counter()
        for _ in range(count):
            add(step(x, y, order, at, batch))
            at = at + batch if at + 2 * batch <= end else 0
        elapsed = time.perf_counter() - start
        self.at = at
        return elapsed


def _middle(values: list[float]) -> tuple[float, float]:
    """Median, and half the distance between the quartiles."""
    if len(values) < 2:
        return values[0], 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return median(values), (high - low) / 2


def model_costs(model: Model, batch: int, steps: int | None, seconds: float = _SECONDS) -> CostTable:
    """The cost table of a compiled model, which stays as it is."""
    engine, training = model._require_training("costs")

    def copied(timing: bool) -> Engine:
        copy = type(engine)(engine.output, engine.seed, training, engine.input_dtype, batch, timing=timing)
        training.optimizer.bind(engine.program)  # a new program takes the optimizer over
        copy.carry_weights(engine)
        return copy

    return cost_table(model.name, engine, copied, batch, steps, seconds)


def cost_table(
    model: str,
    engine: Engine,
    make_engine: Callable[[bool], Engine],
    batch: int,
    steps: int | None,
    seconds: float = _SECONDS,
) -> CostTable:
    """The cost table of a model with this engine; `make_engine(timing)` makes a copy with capacity for the batch.

    steps: to measure, timed; None: as many as `seconds` hold, untimed ones included. 0: none.
    """
    data = _data(engine, batch) if steps != 0 else None
    timed = make_engine(True)
    assert timed.training is not None
    step_seconds = step_spread = timed_seconds = None
    replays = 0
    measured: list[tuple[float, float]] = []
    if data is not None:
        plain = make_engine(False)
        with_timing, without = _Steps(timed, batch, data), _Steps(plain, batch, data)
        without.run(1)
        with_timing.run(1)  # allocates
        once = min(without.run(1), with_timing.run(1))
        run = max(1, min(int(_RUN_SECONDS / max(once, 1e-9)), 200))
        wanted = steps if steps is not None else max(10, int(seconds / 2 / max(once, 1e-9)))
        run = min(run, wanted)
        samples: list[list[float]] = []
        timed_runs, plain_runs = [], []
        for i in range(-(-wanted // run)):
            for which in (with_timing, without) if i % 2 else (without, with_timing):
                which.run(1)  # after the other's the caches hold something else
                timed.program.reset_costs()
                step = which.run(run) / run
                if which is without:
                    plain_runs.append(step)
                    continue
                timed_runs.append(step)
                inside = [row["seconds"] / row["steps"] for row in timed.program.costs(batch)]
                inside[-1] += step - sum(inside)  # the loop outside the program
                samples.append(inside)
        measured = [_middle(list(values)) for values in zip(*samples, strict=True)]
        step_seconds, step_spread = _middle(plain_runs)
        timed_seconds = median(timed_runs)
        replays = len(samples) * run
    bounds = ceilings() if measured else known_ceilings()
    rows = timed.program.costs(batch)
    crossing = sum(row["bytes_crossing"] for row in rows)
    table = CostTable(
        model=model,
        batch_size=batch,
        optimizer=type(timed.training.optimizer).__name__,
        rows=tuple(_grouped(timed, rows, measured)),
        isa=_core.isa_in_use(),
        vector_floats=VECTOR_FLOATS[_core.isa_in_use()],
        threads=_core.get_num_threads(),
        step_seconds=step_seconds,
        step_spread=step_spread,
        timed_step_seconds=timed_seconds,
        replays=replays,
    )
    return with_shares(with_bounds(table, bounds, crossing))


def _grouped(engine: Engine, rows: list[_core.CostRow], measured: list[tuple[float, float]]) -> list[CostRow]:
    """The program's rows by layer, in the order of the layers."""
    operations: dict[int, list[Operation]] = {}  # by node, -1 for the loss
    fused: dict[int, str] = {}
    overhead = []
    for i, row in enumerate(rows):
        seconds, spread = measured[i] if measured else (None, None)
        if row["phase"] == 0:
            if measured:
                overhead.append(CostRow(row["layer"], "overhead", "", (), 0, (), None, seconds, spread))
            continue
        part = Part(row["multiply_adds"], row["bytes_block"], row["bytes_crossing"], row["calls"], seconds, spread)
        operation = Operation(row["operation"], row["direction"], row["phase"], row["note"], part)
        operations.setdefault(row["node"], []).append(operation)
        fused[row["node"]] = row["fused"]
    found = []
    for tensor in engine.network.tensors:
        layer, node = tensor.layer, engine.network.nodes[tensor.number]
        trainable, other, _ = engine.network.cost(tensor)
        before = engine.network.shape(tensor.inputs[0]) if tensor.inputs else ()
        kind = "Input" if isinstance(layer, InputLayer) else type(layer).__name__
        shape = tuple(size for size in engine.network.outer_shape(tensor) if size is not None)
        own = tuple(operations.get(node, ()))
        found.append(CostRow(layer.name, kind, fused.get(node, ""), shape, trainable + other, own, fan_in_shape=before))
    found.append(CostRow("(loss)", "loss", "", (), 0, tuple(operations.get(-1, ()))))
    return found + overhead


def with_bounds(table: CostTable, bounds: Ceilings | None, crossing: int) -> CostTable:
    """The same table with the roofline of each operation; `crossing`: all bytes of a step that leave the block."""
    if bounds is None:
        return table
    beyond = bounds.crossing_bytes(crossing)

    def bounded(operation: Operation) -> Operation:
        part = operation.part
        return replace(
            operation,
            part=replace(
                part,
                compute_seconds=operation.multiplied / bounds.multiply_adds,
                l2_seconds=part.bytes_block / bounds.l2_bytes,
                memory_seconds=part.bytes_crossing / beyond,
            ),
        )

    rows = tuple(replace(row, operations=tuple(map(bounded, row.operations))) for row in table.rows)
    return replace(table, rows=rows, ceilings=bounds)
