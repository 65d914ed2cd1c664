"""The table of `model.summary()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastbn._arrays import integer

if TYPE_CHECKING:
    from fastbn.models.engine import Engine


def print_summary(name: str, engine: Engine, line_length: int | None, print_fn: Callable[[str], Any] | None) -> None:
    """Layers with output shapes, parameters and forward multiply-adds of one sample, then totals."""
    if line_length is not None:
        line_length = integer("summary", "line_length", line_length)
        if line_length < 1:
            raise ValueError(f"summary: line_length must be at least 1. Received: line_length={line_length}")
    from rich.console import Console
    from rich.table import Table

    network = engine.network
    branched = (
        any(len(t.inputs) > 1 for t in network.tensors)
        or len({i.number for t in network.tensors for i in t.inputs}) < len(network.tensors) - 1
    )
    table = Table(title=f'Model: "{name}"', title_justify="left")
    table.add_column("Layer (type)")
    table.add_column("Output shape")
    table.add_column("Parameters", justify="right")
    table.add_column("Multiply-adds", justify="right")
    if branched:
        table.add_column("Connected to")
    trainable = other = multiply_adds = 0
    for tensor in network.tensors:
        cost = network.cost(tensor)
        trainable, other, multiply_adds = trainable + cost[0], other + cost[1], multiply_adds + cost[2]
        layer = tensor.layer
        row = [
            f"{layer.name} ({type(layer).__name__})",
            str(network.outer_shape(tensor)),
            f"{cost[0] + cost[1]:,}",
            f"{cost[2]:,}",
        ]
        table.add_row(*row, *[", ".join(i.layer.name for i in tensor.inputs)] * branched)
    console = Console(width=line_length, markup=False, highlight=False)
    if line_length is None and not console.is_terminal:
        console.width = 100
    with console.capture() as captured:
        console.print(table)
        console.print(f" Total parameters: {trainable + other:,}")
        console.print(f" Trainable parameters: {trainable:,}")
        console.print(f" Non-trainable parameters: {other:,}")
        console.print(f" Multiply-adds a sample, forward: {multiply_adds:,}")
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    if print_fn is None:
        print(text, flush=True)
        return
    for line in text.splitlines():
        print_fn(line)
