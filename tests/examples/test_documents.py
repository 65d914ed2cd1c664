"""The Python blocks of README.md and docs/ run, in the order in which a reader meets them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastbn.datasets import DataSet, digits, fashion_mnist, mnist

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def _blocks(page: Path) -> list[tuple[int, str]]:
    """First line and source of each block."""
    text = page.read_text()
    return [(text.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in _BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page)], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    train, test = digits._generate(400, 0, 0), digits._generate(100, 0, 1)
    for data_set in (mnist, fashion_mnist, digits):
        monkeypatch.setattr(data_set, "load_data", lambda *_, **__: (train, test))
    monkeypatch.setattr("fastbn.datasets.load", lambda name="auto": DataSet("digits", train, test, "Data: digits."))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for line, source in _blocks(page):
        # Empty lines in front, so that a failure shows its line in the page.
        exec(compile("\n" * (line - 1) + source, str(page), "exec"), names)


def test_pages_with_python() -> None:
    with_python = [
        "README.md",
        "data.md",
        "embedding_numpy.md",
        "explain.md",
        "models.md",
        "operators.md",
        "program.md",
    ]
    assert [page.name for page in PAGES if _blocks(page)] == with_python


def test_the_programs_on_their_page(capsys: pytest.CaptureFixture[str]) -> None:
    """The page shows what its blocks print, but for algorithms and the size of blocks, which the machine has."""
    page = ROOT / "docs" / "program.md"
    names: dict[str, object] = {}
    for _, source in _blocks(page):
        exec(source, names)
    shown = "".join(re.findall(r"^```text\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))

    def lines(text: str) -> list[str]:
        text = re.sub(r" +", " ", re.sub(r"(forward|_filter|_data) \([^)]*\)", r"\1", text))
        text = re.sub(r"blocks of \d+ samples?", "blocks", text)
        return re.sub(r"[\d.]+ \w+ for each thread", "", text).split("\n")

    printed = re.sub(r"\n+", "\n", capsys.readouterr().out)
    assert lines(re.sub(r"\n+", "\n", shown)) == lines(printed)


def test_the_readme_has_a_short_example() -> None:
    (_, first), *_ = _blocks(ROOT / "README.md")
    assert len(first.splitlines()) <= 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
