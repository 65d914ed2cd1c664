"""What layers cost: tables of parameters, multiply-adds, bytes and seconds, and the machine's ceilings beside them."""

from __future__ import annotations

from fastbn.costs._ceilings import Ceilings, ceilings, known_ceilings, measure_ceilings
from fastbn.costs._predict import measure_rates
from fastbn.costs._table import CostRow, CostTable, Operation, Part
from fastbn.costs._torch import from_torch

__all__ = [
    "Ceilings",
    "CostRow",
    "CostTable",
    "Operation",
    "Part",
    "ceilings",
    "from_torch",
    "known_ceilings",
    "measure_ceilings",
    "measure_rates",
]
