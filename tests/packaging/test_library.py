"""The shared library: what it exports, its version, its header."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from harness.library import library, path

import fastbn


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def header() -> Path:
    return Path(fastbn.config.get_include()) / "fastbn" / "fastbn.h"


def declared() -> set[str]:
    """Functions that the public header declares."""
    text = re.sub(r"/\*.*?\*/", "", header().read_text(), flags=re.DOTALL)
    return set(re.findall(r"FBN_API[^;(]*?\b(fbn_\w+)\s*\(", text))


def test_exports_the_c_interface_and_nothing_else():
    listing = subprocess.run(
        [tool("nm"), "--dynamic", "--defined-only", str(path())], check=True, capture_output=True, text=True
    )
    exported = {line.split()[-1].partition("@")[0] for line in listing.stdout.splitlines()}
    assert len(declared()) > 60
    assert exported == declared()


def test_the_extension_module_exports_nothing_of_the_library():
    from fastbn import _core

    listing = subprocess.run(
        [tool("nm"), "--dynamic", "--defined-only", _core.__file__], check=True, capture_output=True, text=True
    )
    exported = {line.split()[-1] for line in listing.stdout.splitlines()}
    assert "PyInit__core" in exported
    assert not {name for name in exported if name.startswith(("fbn_", "_ZN6fastbn"))}


def test_one_version():
    version = importlib.metadata.version("fastbn")
    text = header().read_text()
    parts = [re.search(rf"#define FBN_VERSION_{part} (\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    assert ".".join(p.group(1) for p in parts if p) == version
    assert library().fbn_version().decode() == version
    assert fastbn.__version__ == version


@pytest.mark.parametrize(
    ("compiler", "standard", "suffix"),
    [("cc", "c11", ".c"), ("cc", "c17", ".c"), ("c++", "c++17", ".cpp"), ("c++", "c++20", ".cpp")],
)
def test_header_compiles(compiler, standard, suffix, tmp_path):
    source = tmp_path / f"consumer{suffix}"
    source.write_text(
        "#include <fastbn/fastbn.h>\n#include <fastbn/fastbn.h>\nint main(void) { return fbn_version() == 0; }\n"
    )
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
    include = f"-I{fastbn.config.get_include()}"
    result = subprocess.run(
        [tool(compiler), f"-std={standard}", *warnings, include, "-fsyntax-only", str(source)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
