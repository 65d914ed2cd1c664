"""How lines are told apart: by dashes and markers first, so that grey print and colour-blind readers lose nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INK, GRID, PAPER = "#1c1f24", "#d8dce2", "#ffffff"


@dataclass(frozen=True)
class Style:
    color: str
    dashes: Any  # matplotlib's
    marker: str


#: Colours of Okabe and Ito's order of hues, of a lightness that white and black paper both bear.
_STYLES = (
    Style("#8b7a2e", "solid", "o"),
    Style("#3b7dd8", (0, (6, 2)), "s"),
    Style("#d9662b", (0, (1, 1.5)), "^"),
    Style("#2f9e6b", (0, (6, 2, 1, 2)), "D"),
    Style("#a65fc9", (0, (10, 2, 1, 2, 1, 2)), "v"),
    Style("#6f7885", (0, (3, 5)), "P"),
)


def style(place: int) -> Style:
    """The style of the line at this place of its group. Raises ValueError where there are more lines than styles."""
    if place >= len(_STYLES):
        raise ValueError(f"figure: a group has at most {len(_STYLES)} lines. Received: {place + 1}")
    return _STYLES[place]
