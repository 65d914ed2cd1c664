"""The text of `model.program()`, with colours where rich prints it."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

STYLES = {
    r"(?m)^(phase \d+|program|memory|fused|stored|made again).*$": "bold",
    r"(?m)^  (in blocks of .*|the whole chunk at once)$": "cyan",
    r"(?<=-> )\S.*$": "green",
    r", stored\b": "bold yellow",
    r"\(made again instead of stored\)": "magenta",
}


class ProgramText(str):
    """A program in words: `str` in every respect, coloured by rich's `print` and in notebooks a block of its own."""

    __slots__ = ()

    def __rich__(self) -> Text:
        from rich.text import Text

        text = Text(str(self))
        for pattern, style in STYLES.items():
            text.highlight_regex(pattern, style)
        return text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self)}</pre>"

    def __repr__(self) -> str:  # what a terminal shows of an expression
        return str(self)
