"""`fastbn study`: an article's studies of batch-norm, over several seeds, with a verdict on every claim.

From below: `_variants` and `_claims` make `_studies`; `_data`, `_probes`, `_machine` serve `_cell`, which trains one
variant from one seed; `_store` keeps cells, `_runner` runs them in parallel, `_live` shows them; `_numbers` and
`_verdicts` judge, `_outcome` holds what came out, `_run` does all this from a study's name. `_palette`, `_figures`,
`_html`, `_markdown` and `_report` draw and write it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastbn.study._outcome import Outcome
from fastbn.study._run import run
from fastbn.study._studies import ARTICLE, STUDIES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ARTICLE", "STUDIES", "Outcome", "run", "write_report"]


def write_report(outcome: Outcome, out: str | Path) -> list[Path]:
    """Write results.json, the figures, report.html and report.md into a folder and return their paths."""
    from fastbn.study._report import write

    return write(outcome, out)
