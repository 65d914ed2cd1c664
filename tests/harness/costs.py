"""Cost tables made of chosen figures, on a machine with round ceilings."""

from __future__ import annotations

from dataclasses import replace

from fastbn.costs import Ceilings, CostRow, CostTable, Operation, Part
from fastbn.costs._measure import with_bounds
from fastbn.costs._table import with_shares
from fastbn.explain import Explained

#: 200 GFLOP/s, L2 200 GB/s, cache behind it 100 GB/s, memory 20 GB/s.
CEILINGS = Ceilings("a processor", 2, "avx512", 1e11, 4e11, 2e11, 1e11, 2e10, 1e-6, 1e-7, 32768, 1 << 20, 1 << 25)


def layer(
    name: str, seconds: float, multiply_adds: int, *, kind: str = "Dense", width: int = 64, parameters: int = 1000,
    block: int = 0, crossing: int = 0, calls: int = 16,
) -> CostRow:  # fmt: skip
    """A layer whose whole cost is in its forward pass, at batch 100."""
    part = Part(multiply_adds, block, crossing, calls, seconds, 0.0)
    return CostRow(name, kind, "", (8, 8, width), parameters, (Operation("forward", "forward", 1, "", part),))


def network(name: str, *rows: CostRow, waiting: float = 1e-6, region: float = 0.0, loop: float = 0.0) -> Explained:
    overhead = [
        CostRow(label, "overhead", "", (), 0, (), None, seconds, 0.0)
        for label, seconds in (("(waiting)", waiting), ("(region)", region), ("(loop)", loop))
    ]
    table = CostTable(name, 100, "SGD", (*rows, *overhead), "avx512", 16, 2, step_seconds=1.0)
    table = with_shares(with_bounds(table, CEILINGS, sum(row.total.bytes_crossing for row in rows)))
    return Explained(name, replace(table, step_seconds=table.total.seconds, step_spread=0.0, replays=7))
