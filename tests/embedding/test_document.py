"""The short programs of docs/embedding.md, as they stand there: each is written, built by its commands, and runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness.consumers import ROOT, Environment, tool

PAGE = (ROOT / "docs" / "embedding.md").read_text()
USE = """
import numpy as np, mine
y = np.empty((1, 2), np.float32)
mine.layer(*(np.array(a, np.float32) for a in ([[1, 2]], [[1, 0], [0, -1]], [10, 1])), y)
print(*map(int, y[0]))
"""


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def build(title: str, environment: Environment, folder: Path) -> str:
    """Writes the section's named files, runs its first commands, and returns what they print."""
    text = section(title)
    files = re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert files
    for name, source in files:
        assert len(source.splitlines()) <= 12, "ten lines or so"
        (folder / name).write_text(source)
    commands = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]
    return environment.run("sh", "-ec", commands, cwd=folder)


@pytest.mark.parametrize(("title", "compiler"), [("C", "cc"), ("C++", "c++")])
def test_compiled_programs(title, compiler, environment, tmp_path):
    tool(compiler)
    tool("pkg-config")
    assert build(title, environment, tmp_path).split()[-2:] == ["11", "0"]


def test_cython(environment, tmp_path):
    pytest.importorskip("Cython", reason="Cython is not installed (it is in the test extra)")
    build("Cython", environment, tmp_path)
    assert environment.run(environment.python, "-c", USE, cwd=tmp_path).split() == ["11", "0"]


def test_the_table_names_every_way():
    """One row a way, each with its figure."""
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 11
    for way, needs, microseconds, copies in rows:
        assert re.match(r" \d+(\.\d+)?\b", microseconds), way
        assert needs.strip()
        assert copies.strip()
