"""Case tables as pytest parameters, and the tiers of tests: those of every run, `slow` ones, and `soak`s of minutes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

TIERS = {"slow": "run with -m slow", "soak": "takes minutes: run with -m soak"}


def tiered(cases: Iterable[Any]) -> list[Any]:
    """One parameter a case; "full" ones are slow."""
    return [pytest.param(case, id=str(case), marks=[pytest.mark.slow] * (case.tier == "full")) for case in cases]


def short_and_long(short: Any, long: Any) -> list[Any]:
    """Two sizes of one test: the short one of every run, and the long one, a soak."""
    return [pytest.param(short, id="short"), pytest.param(long, id="long", marks=pytest.mark.soak)]


def skip_tiers(marks_asked_for: str, items: list[pytest.Item]) -> None:
    """Skip the tests of every tier that was not asked for."""
    for tier, how in TIERS.items():
        if tier in marks_asked_for or "mnist" in marks_asked_for:
            continue
        for item in items:
            if item.get_closest_marker(tier):
                item.add_marker(pytest.mark.skip(reason=f"{tier}: {how}"))
