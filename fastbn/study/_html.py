"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import math
import re
from html import escape
from importlib.resources import files

from fastbn.study._claims import NUMBERS
from fastbn.study._outcome import Outcome, StudyOutcome
from fastbn.study._palette import GRID, INK, PAPER
from fastbn.study._verdicts import DOES_NOT, HOLDS, RULE, Effect, Verdict

_MARKS = {HOLDS: ("holds", "✓"), DOES_NOT: ("not", "✗")}


def page(outcome: Outcome, figures: dict[str, list[tuple[str, str, str]]]) -> str:
    """The whole page. figures: study -> (name, caption, SVG) of each."""
    names = ", ".join(study.study.name for study in outcome.studies)
    body = [
        f"<h1>Batch-norm, {outcome.seeds} seed{'s' * (outcome.seeds != 1)}: {escape(names)}</h1>",
        f"<p class=lead>An article's claims about batch-norm, each from {outcome.seeds} "
        f"run{'s' * (outcome.seeds != 1)} of {outcome.epochs} epoch{'s' * (outcome.epochs != 1)} a variant on "
        f"{escape(outcome.note)}.</p>",
        ""
        if outcome.whole
        else f"<p><strong>Interrupted: {len(outcome.cells)} of {outcome.wanted} runs have ended.</strong></p>",
        _contents(outcome),
        _summary(outcome),
        f"<section><h2>The rule</h2><p>{escape(RULE)}</p></section>",
    ]
    for study in outcome.studies:
        body.append(_study(study, figures.get(study.study.name, [])))
    body.append(_machine(outcome))
    style = (files("fastbn.study") / "report.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>fastbn study: {escape(names)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def inline(svg: str, name: str, caption: str) -> str:
    """A figure as part of the page: it takes the page's colours and width, and its ids are its own."""
    svg = svg[svg.index("<svg") :]
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    assert box is not None
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', rest)
    rest = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', rest)
    rest = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", rest)
    for color, taken in ((INK, "currentColor"), (GRID, "var(--line)"), (PAPER, "none")):
        rest = rest.replace(color, taken)
    # matplotlib writes text without a colour where it would be black.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box.group(1)}" '
        f'fill="currentColor" role="img" aria-label="{escape(caption)}">{rest}'
    ).strip()


def _contents(outcome: Outcome) -> str:
    items = "".join(
        f'<li><a href="#{study.study.name}">{escape(study.study.title)}</a></li>' for study in outcome.studies
    )
    return f"<nav><ul>{items}</ul></nav>"


def _badge(verdict: str) -> str:
    kind, mark = _MARKS.get(verdict, ("open", "?"))
    return f'<span class="{kind}">{mark} {escape(verdict)}</span>'


def _summary(outcome: Outcome) -> str:
    lines = []
    for study in outcome.studies:
        for verdict in study.verdicts:
            effect, name = verdict.deciding, study.study.name
            lines.append(
                f'<tr><th scope="row"><a href="#{name}">{name}</a></th>'
                f"<td class=words>{escape(verdict.claim.text)}</td><td class=verdict>{_badge(verdict.verdict)}</td>"
                f"<td>{effect.text}</td><td>{escape(verdict.claim.rule)}</td></tr>"
            )
    head = "".join(
        f'<th scope="col"{" class=words" * (i == 1)}>{text}</th>'
        for i, text in enumerate(("study", "claim", "verdict", "ratio [95 %]", "range"))
    )
    return (
        "<section><h2>Verdicts</h2><div class=scroll tabindex=0><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        "<p class=note>Where a claim is about several pairs, the ratio is that of the pair it hangs on.</p></section>"
    )


def _study(outcome: StudyOutcome, figures: list[tuple[str, str, str]]) -> str:
    study = outcome.study
    parts = [f'<section id="{study.name}"><h2>{escape(study.title)}</h2><p>{escape(study.question)}</p>']
    parts += [_claim(verdict) for verdict in outcome.verdicts]
    parts.append("<h3>Figures</h3><div class=figures>")
    for name, caption, svg in figures:
        parts.append(f"<figure>{inline(svg, name, caption)}<figcaption>{escape(caption)}</figcaption></figure>")
    parts.append("</div>")
    parts.append(_rows(outcome))
    parts.append("</section>")
    return "".join(parts)


def _claim(verdict: Verdict) -> str:
    claim = verdict.claim
    compared = NUMBERS[claim.number] if claim.against is None else f"{NUMBERS[claim.number]} / {NUMBERS[claim.against]}"
    target = f", target: {claim.target}" if claim.target is not None else ""
    lines = "".join(
        f'<tr><th scope="row">{escape(effect.pair[0])}'
        + (f" / {escape(effect.pair[1])}" if claim.against is None else "")
        + f"</th><td>{effect.text}</td><td>{_bar(effect, claim.low, claim.high)}</td>"
        f"<td class=verdict>{_badge(effect.verdict)}</td></tr>"
        for effect in verdict.effects
    )
    return (
        f"<h3>{_badge(verdict.verdict)}: {escape(claim.text)}</h3>"
        f"<p class=note>Said by: {escape(claim.source)}. Compared: {escape(compared + target)}. "
        f"Range: {escape(claim.rule)}.</p>"
        f"<div class=scroll tabindex=0><table><tbody>{lines}</tbody></table></div>"
    )


def _bar(effect: Effect, low: float, high: float) -> str:
    """The interval on a logarithmic line from 1/10 to 10, over the claim's range."""

    def at(value: float) -> float:
        return 50 + 50 * max(-1.0, min(1.0, math.log10(max(value, 1e-9))))

    start, end = at(low) if low > 0 else 0.0, at(high) if high < math.inf else 100.0
    words = f"{effect.text} over the range {low:g} to {high:g}"
    return (
        f'<svg class=interval viewBox="0 0 100 14" role="img" aria-label="{escape(words)}">'
        f'<rect class=range x="{start:.1f}" y="1" width="{end - start:.1f}" height="12"/>'
        '<line class=one x1="50" x2="50" y1="0" y2="14"/>'
        f'<line class=bar x1="{at(effect.low) - 0.5:.1f}" x2="{at(effect.high) + 0.5:.1f}" y1="7" y2="7"/>'
        f'<circle cx="{at(effect.mean):.1f}" cy="7" r="2.5"/></svg>'
    )


def _plus_minus(value: tuple[float, float], digits: int = 4) -> str:
    return f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"


def _rows(outcome: StudyOutcome) -> str:
    noisy = any(row.noise is not None for row in outcome.rows)
    headings = ["variant", "seeds", "training loss", "validation loss", "validation accuracy", "seconds an epoch"]
    headings += ["spread of the gradient's norm"] * noisy
    head = "".join(f'<th scope="col"{" class=words" * (i == 0)}>{text}</th>' for i, text in enumerate(headings))
    lines = []
    for row in outcome.rows:
        cells = [
            str(row.seeds),
            _plus_minus(row.loss),
            _plus_minus(row.val_loss),
            f"{row.val_accuracy[0]:.2%} ± {100 * row.val_accuracy[1]:.2f}",
            _plus_minus(row.seconds, 2),
        ]
        if noisy:
            cells.append("" if row.noise is None else _plus_minus(row.noise, 3))
        lines.append(
            f'<tr><th scope="row">{escape(row.label)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        )
    return (
        f"<h3>After the last epoch</h3><div class=scroll tabindex=0><table class=numbers><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        "<p class=note>Mean and standard deviation over seeds. Seconds are those of one core.</p>"
    )


def _machine(outcome: Outcome) -> str:
    parts = [f"<section><h2>How it was made</h2><p><code>{escape(outcome.command)}</code></p>"]
    for machine in outcome.machines:
        items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in machine.items() if value)
        parts.append(f"<dl>{items}</dl>")
    parts.append(f"<p class=note>{len(outcome.cells)} runs; results.json has every epoch of each.</p></section>")
    return "".join(parts)
