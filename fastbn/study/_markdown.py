"""The report as Markdown, for where a folder of results is read: verdicts, tables, figures by their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastbn.study._outcome import Outcome, StudyOutcome
from fastbn.study._verdicts import RULE


def page(outcome: Outcome, figures: dict[str, list[tuple[str, str]]]) -> str:
    """The whole text. figures: study -> (name, caption) of each, in `figures/`."""
    names = ", ".join(study.study.name for study in outcome.studies)
    parts = [
        f"# Batch-norm, {outcome.seeds} seed{'s' * (outcome.seeds != 1)}: {names}",
        f"`{outcome.command}`: {len(outcome.cells)} runs of at most {outcome.epochs} epochs on {outcome.note}. "
        "The whole, with intervals drawn, is in report.html; every epoch in results.json.",
    ]
    if not outcome.whole:
        parts.append(f"**Interrupted: {len(outcome.cells)} of {outcome.wanted} runs have ended.**")
    parts += ["## Verdicts", verdicts(outcome), RULE]
    for study in outcome.studies:
        parts += [f"## {study.study.title}", study.study.question, _rows(study)]
        parts += [f"![{caption}](figures/{name}.svg)" for name, caption in figures.get(study.study.name, [])]
    parts.append("## Machine")
    for machine in outcome.machines:
        parts.append("\n".join(f"- {name}: {value}" for name, value in machine.items() if value))
    return "\n\n".join(parts) + "\n"


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def verdicts(outcome: Outcome) -> str:
    """Each claim with its verdict and the ratio of the pair that it hangs on."""
    lines = []
    for study in outcome.studies:
        for verdict in study.verdicts:
            claim, effect = verdict.claim, verdict.deciding
            lines.append([study.study.name, claim.text, f"**{verdict.verdict}**", effect.text, claim.rule])
    return _table(["study", "claim", "verdict", "ratio [95 %]", "range"], lines)


def _rows(outcome: StudyOutcome) -> str:
    headings = ["variant", "seeds", "training loss", "validation loss", "validation accuracy", "s an epoch, one core"]
    noisy = any(row.noise is not None for row in outcome.rows)
    lines = []
    for row in outcome.rows:
        cells = [row.label, str(row.seeds)]
        cells += [f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in (row.loss, row.val_loss)]
        cells += [f"{row.val_accuracy[0]:.2%} ± {100 * row.val_accuracy[1]:.2f}"]
        cells += [f"{row.seconds[0]:.2f} ± {row.seconds[1]:.2f}"]
        if noisy:
            cells.append("" if row.noise is None else f"{row.noise[0]:.3f} ± {row.noise[1]:.3f}")
        lines.append(cells)
    return _table([*headings, *["spread of the gradient's norm"] * noisy], lines)
