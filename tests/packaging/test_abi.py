"""The promise of ABI.md: csrc/abi.txt is what the installed header and library are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from harness.abi import ROOT, describe
from harness.library import library, path

import fastbn

LISTED = (ROOT / "csrc" / "abi.txt").read_text().splitlines()


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def header() -> Path:
    return Path(fastbn.config.get_include()) / "fastbn" / "fastbn.h"


def test_the_header_is_what_is_listed():
    found = describe(header(), tool("cc"))
    broken = [line for line in LISTED if line not in found]
    assert broken == [], "these lines of csrc/abi.txt are broken: FBN_ABI must change (see ABI.md)"
    assert found == LISTED, "what is new belongs into the list: python tests/harness/abi.py > csrc/abi.txt"


def test_the_library_exports_what_is_listed():
    listing = subprocess.run([tool("nm"), "--dynamic", "--defined-only", str(path())], capture_output=True, text=True)
    exported = {line.split()[-1].partition("@")[0] for line in listing.stdout.splitlines()}
    listed = {found.group(1) for line in LISTED if (found := re.match(r"function .*?(fbn_\w+)\(", line))}
    assert len(listed) > 70
    assert exported == listed


def test_one_number():
    (line,) = (line for line in LISTED if line.startswith("constant FBN_ABI "))
    assert library().fbn_abi() == int(line.split()[-1])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("int32_t num_threads; ", "int64_t num_threads; "), "field fbn_exec.num_threads at 8, 4 bytes: int32_t"),
        (("int64_t rows, in_features,", "int64_t in_features, rows,"), "field fbn_dense.rows at 8, 8 bytes: int64_t"),
        (("FBN_TANH = 4", "FBN_TANH = 7"), "constant FBN_TANH 4"),
        (("fbn_dropout_forward(double rate", "fbn_dropout_forward(float rate"), "function fbn_status fbn_dropout_f"),
        (("FBN_API int32_t fbn_abi(void);", ""), "function int32_t fbn_abi(void)"),
    ],
    ids=["type", "order", "value", "argument", "function"],
)
def test_a_change_is_seen(change, line, tmp_path):
    """The guard itself, on a header that was changed as it must not be."""
    (tmp_path / "fastbn").mkdir()
    text = header().read_text()
    assert change[0] in text
    (tmp_path / "fastbn" / "fastbn.h").write_text(text.replace(*change, 1))
    found = describe(tmp_path / "fastbn" / "fastbn.h", tool("cc"))
    missing = [listed for listed in LISTED if listed not in found]
    assert any(listed.startswith(line) for listed in missing)
