"""A study end to end: the command, results.json, figures, and the report, which needs nothing else."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fastbn import study
from fastbn.cli.app import Studies, app
from fastbn.study import _figures, _html, _palette
from fastbn.study._claims import less
from fastbn.study._live import show_time
from fastbn.study._outcome import StudyOutcome
from fastbn.study._verdicts import RULE, Effect, Verdict

runner = CliRunner()
Studied = tuple[Path, study.Outcome]
VOID = {"meta", "br", "hr", "img", "link", "input"}


@pytest.mark.usefixtures("few_digits")
def test_the_command(tmp_path: Path) -> None:
    arguments = [
        "study",
        "accelerate",
        "--data",
        "digits",
        "--epochs",
        "2",
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "o"),
    ]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "20/20 accelerate: relu, no BN, seed 4:" in result.output
    table = result.output[result.output.index("ratio [95 %]") :]
    assert len(re.findall(r"(holds|does not hold|undecided) +[\d.e-]+ \[", table)) == 5
    for name in ("results.json", "figures", "report.html", "report.md"):
        assert (tmp_path / "o" / name).exists()
        assert f"Written: {tmp_path / 'o' / name}" in result.output
    again = runner.invoke(app, arguments)
    assert again.exit_code == 0
    assert "20 of 20 cells found done." in again.output
    more = runner.invoke(app, [*arguments, "--seeds", "6"])
    assert more.exit_code == 1
    assert "fastbn study: the folder holds 20 of the 24 cells asked for" in more.output


def test_the_command_names_every_study() -> None:
    assert [name.value for name in Studies] == ["all", *study.STUDIES]
    assert runner.invoke(app, ["study", "nothing"]).exit_code == 2
    assert runner.invoke(app, ["study", "depth", "--seeds", "0"]).exit_code == 2


def test_numbers_below_one() -> None:
    for name in ("seeds", "epochs", "jobs"):
        with pytest.raises(ValueError, match=rf"study: {name} must be at least 1\. Received: {name}=0"):
            study.run("depth", **{name: 0})


def test_without_its_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, few_digits: object) -> None:
    import builtins

    real = builtins.__import__

    def refuse(name: str, *arguments: object, **options: object) -> object:
        if name == "joblib":
            raise ImportError("No module named 'joblib'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    result = runner.invoke(app, ["study", "depth", "--data", "digits", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "fastbn study: needs the packages of the extra `study`: pip install fastbn[study]" in result.output


def test_results_hold_everything(studied: Studied) -> None:
    results = json.loads((studied[0] / "results.json").read_text())
    assert results["seeds"] == 5
    assert results["rule"] == RULE
    (found,) = results["studies"]
    cells = {cell["key"]: cell for cell in results["cells"]}
    assert len(cells) == 15
    for label, keys in found["variants"].items():
        assert [cells[key]["config"]["seed"] for key in keys] == [0, 1, 2, 3, 4]
        momentum = study.STUDIES["momentum"].variants[label].momentum
        assert {cells[key]["config"]["variant"]["momentum"] for key in keys} == {momentum}
        for key in keys:
            for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
                assert len(cells[key]["result"][name]) == 3
            assert len(cells[key]["seconds"]["epochs"]) == 3
    verdict = found["verdicts"][0]
    (effect,) = verdict["effects"]
    ratios = [
        cells[key]["result"]["recalibration"]["train"][0]
        / cells[key]["result"]["recalibration"]["recalibrated_train"][0]
        for key in found["variants"]["momentum 0.99"]
    ]
    assert effect["ratios"] == pytest.approx(ratios)
    assert effect["mean"] == pytest.approx(np.exp(np.log(ratios).mean()))
    assert effect["interval"][0] <= effect["mean"] <= effect["interval"][1]


class _Page(HTMLParser):
    """Open elements, ids, links and what a page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.inner: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("href", "xlink:href", "src") and value:
                (self.inner if value.startswith("#") else self.loaded).append(value.removeprefix("#"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_needs_nothing(studied: Studied) -> None:
    text = (studied[0] / "report.html").read_text()
    page = _Page(text)
    assert page.open == []
    assert page.loaded == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.inner) <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    assert not re.search(r"@import|<script|url\((?!#)", text)
    for claim in study.STUDIES["momentum"].claims:
        assert page.text.count(claim.text) == 2  # in the table and in its study
    assert RULE in page.text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert _palette.INK not in text[text.index("<body>") :]  # lines and words take the page's colour


def test_the_report_as_markdown(studied: Studied) -> None:
    text = (studied[0] / "report.md").read_text()
    for claim in study.STUDIES["momentum"].claims:
        assert text.count(f"| {claim.text} | **") == 1
    assert text.count("| momentum 0.9 | 5 | ") == 1
    targets = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(targets) == 3
    assert all((studied[0] / target).is_file() for target in targets)


def test_figures_are_svg_and_png(studied: Studied) -> None:
    names = {path.stem for path in (studied[0] / "figures").glob("*.svg")}
    assert names == {path.stem for path in (studied[0] / "figures").glob("*.png")}
    assert names == {f"momentum-momentum-{kind}" for kind in ("loss", "stale", "recalibrated")}
    for name in names:
        words = [e.text for e in ET.parse(studied[0] / "figures" / f"{name}.svg").iter() if e.tag.endswith("}text")]
        assert {"momentum 0.99", "momentum 0.9", "momentum 0.5", "epoch"} <= set(words)
        assert (studied[0] / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("few_digits")
def test_the_same_study_draws_the_same_figures(tmp_path: Path) -> None:
    outcome = study.run("accelerate", tmp_path, data="digits", seeds=2, epochs=2, jobs=1)
    for kind in ("loss", "val_loss", "seconds"):
        first = _figures.curves(outcome.studies[0], "relu", kind)
        assert first == _figures.curves(outcome.studies[0], "relu", kind)
    assert _figures.layer_outputs(outcome.studies[0], "relu, one BN")[0].count(">batch_normalization<") == 1


def test_losses_that_are_not_finite_are_left_out_of_figures(studied: Studied, tmp_path: Path) -> None:
    (one,) = studied[1].studies
    records = copy.deepcopy(one.records)
    outcome = replace(studied[1], studies=(StudyOutcome(one.study, records),))
    for record in records["momentum 0.9"]:
        record["result"]["loss"] = [None, None, None]
    records["momentum 0.5"][0]["result"]["loss"][2] = None
    svg, _ = _figures.curves(outcome.studies[0], "momentum", "loss")
    assert ">momentum 0.9<" not in svg
    assert ">momentum 0.5<" in svg
    study.write_report(outcome, tmp_path)
    assert "null" in (tmp_path / "results.json").read_text()
    (row,) = (row for row in outcome.studies[0].rows if row.label == "momentum 0.9")
    assert row.loss[0] == float("inf")


def test_labels_keep_their_distance() -> None:
    for wanted in ([0.5, 0.5, 0.5], [0.0, 0.01, 0.99, 1.0], [1.2, 1.1, -0.3], list(np.linspace(0.4, 0.41, 12)), [0.3]):
        heights = _figures.spread(wanted)
        assert min(heights) >= -1e-12
        assert max(heights) <= 1 + 1e-12
        ordered = [heights[i] for i in np.argsort(wanted, kind="stable")]
        assert (np.diff(ordered) > 0.06).all()
    assert _figures.spread([0.2, 0.8]) == [0.2, 0.8]


def test_lines_are_told_apart_without_colour() -> None:
    styles = [_palette.style(i) for i in range(6)]
    assert len({str(style.dashes) for style in styles}) == len({style.marker for style in styles}) == 6
    with pytest.raises(ValueError, match=r"a group has at most 6 lines\. Received: 7"):
        _palette.style(6)
    assert all(len(group) <= 6 for one in study.STUDIES.values() for group in one.groups.values())


def test_the_pair_that_a_claim_hangs_on() -> None:
    claim = less("", "final_loss", ("a", "b"), ("a", "c"))
    effects = tuple(
        Effect(("a", name), (mean,), mean, low, high, verdict)
        for name, mean, low, high, verdict in (
            ("b", 0.3, 0.2, 0.4, "holds"),
            ("c", 0.7, 0.6, 0.75, "holds"),
            ("d", 1.2, 1.0, 1.5, "does not hold"),
        )
    )
    assert Verdict(claim, effects[:2], "holds").deciding.pair == ("a", "c")
    assert Verdict(claim, effects, "does not hold").deciding.pair == ("a", "d")
    assert effects[0].text == "0.30 [0.20, 0.40]"
    assert Effect(("a", "b"), (), 0.0123, 0.001, 12.3456, "").text == "0.012 [0.001, 12.35]"


def test_times_in_words() -> None:
    assert [show_time(s) for s in (0.4, 59.4, 200, 3900)] == ["0 s", "59 s", "3 min 20 s", "1 h 05 min"]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_report_in_chromium(studied: Studied, tmp_path: Path) -> None:
    """The page fits a desk and a phone, draws every figure, and prints."""
    probe = """<script>document.title = JSON.stringify({
      width: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      figures: [...document.querySelectorAll("figure svg")].filter(s => s.getBoundingClientRect().height > 50).length,
    })</script>"""
    page = tmp_path / "probed.html"
    page.write_text((studied[0] / "report.html").read_text().replace("</main>", "</main>" + probe))
    base = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    for width in (1280, 500):
        options = [f"--window-size={width},900", "--dump-dom", page.as_uri()]
        done = subprocess.run([*base, *options], capture_output=True, text=True, timeout=120, check=True)
        title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
        assert title is not None
        assert json.loads(title[1]) == {"width": 0, "figures": 3}
    pdf = tmp_path / "report.pdf"
    subprocess.run([*base, f"--print-to-pdf={pdf}", page.as_uri()], capture_output=True, timeout=120, check=True)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert os.path.getsize(pdf) > 10_000


def test_inline_figures_take_the_colours_of_the_page() -> None:
    svg = (
        '<?xml version="1.0"?><svg viewBox="0 0 9 9" width="9pt"><metadata>x</metadata><defs><clipPath id="p"/></defs>'
        f'<g id="g" clip-path="url(#p)"><use xlink:href="#p" style="stroke: {_palette.INK}"/></g></svg>'
    )
    text = _html.inline(svg, "one", "A & B")
    assert text.startswith("<svg ")
    assert 'viewBox="0 0 9 9"' in text
    assert 'aria-label="A &amp; B"' in text
    assert "width=" not in text
    assert "metadata" not in text
    assert 'id="one-p"' in text
    assert "url(#one-p)" in text
    assert 'href="#one-p"' in text
    assert "stroke: currentColor" in text
