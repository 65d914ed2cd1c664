"""Case tables as pytest parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def tiered(cases: Iterable[Any]) -> list[Any]:
    """One parameter a case; "full" ones are slow."""
    return [pytest.param(case, id=str(case), marks=[pytest.mark.slow] * (case.tier == "full")) for case in cases]
