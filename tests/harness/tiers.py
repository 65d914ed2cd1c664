"""Case tables as pytest parameters; tiers: tests of every run, `slow` ones, `soak`s of minutes, and `as_shipped`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from fastbn import _core

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
        if tier in marks_asked_for or (tier == "slow" and "mnist" in marks_asked_for):
            continue
        for item in items:
            if item.get_closest_marker(tier):
                item.add_marker(pytest.mark.skip(reason=f"{tier}: {how}"))
    if "-fsanitize" in _core.build_info():
        for item in items:
            if item.get_closest_marker("as_shipped"):
                item.add_marker(pytest.mark.skip(reason="as_shipped: a sanitizer slows it, or preloads itself"))
