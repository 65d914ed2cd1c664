"""Writes what came out: results.json, the figures, report.html and report.md."""

from __future__ import annotations

from pathlib import Path

from fastbn._files import whole_file
from fastbn.study import _figures, _markdown
from fastbn.study._html import page
from fastbn.study._outcome import Outcome, StudyOutcome
from fastbn.study._panels import PANELS
from fastbn.study._store import Store, dumped


def _figures_of(outcome: StudyOutcome) -> list[tuple[str, str, str, bytes]]:
    """Name, caption, SVG and PNG of each figure."""
    study, found = outcome.study, []
    seeds = min(map(len, outcome.records.values()))
    band = "mean over seeds; the band goes from the least to the greatest" if seeds > 1 else "one seed"
    for group in study.groups:
        for kind in study.panels:
            name = f"{study.name}-{_figures.slug(group)}-{kind}"
            caption = f"{group}: {PANELS[kind].title}; {band}."
            found.append((name, caption, *_figures.curves(outcome, group, kind)))
    for label in study.layers_of:
        name = f"{study.name}-{_figures.slug(label)}-layers"
        caption = f"{label}: outputs at test time, from the first seed: median, middle half, from 5 to 95 percent."
        found.append((name, caption, *_figures.layer_outputs(outcome, label)))
    return found


def write(outcome: Outcome, out: str | Path) -> list[Path]:
    """Write everything into a folder, each file whole or not at all, and return the paths of what to open."""
    store = Store(Path(out))
    figures: dict[str, list[tuple[str, str, str]]] = {}
    for study in outcome.studies:
        for name, caption, svg, png in _figures_of(study):
            store.put(f"figures/{name}.svg", svg)
            with whole_file(store.folder / "figures" / f"{name}.png") as part:
                part.write_bytes(png)
            figures.setdefault(study.study.name, []).append((name, caption, svg))
    store.put("results.json", dumped(outcome.to_dict()) + "\n")
    store.put("report.html", page(outcome, figures))
    named = {study: [(name, caption) for name, caption, _ in found] for study, found in figures.items()}
    store.put("report.md", _markdown.page(outcome, named))
    return [store.folder / name for name in ("results.json", "figures", "report.html", "report.md")]
