"""The installed package: its files, what importing it costs and loads."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness.installed import needs_wheel

WANTED = [
    r"fastbn/__init__\.py",
    r"fastbn/py\.typed",
    r"fastbn/_core\..*so",
    r"fastbn/_core\.pyi",
    r"fastbn/kernels\..*so",
    r"fastbn/kernels\.pxd",
    r"fastbn/ops/__init__\.py",
    r"fastbn/.*libfastbn\.so.*",
    r"fastbn/.*include/fastbn/fastbn\.h",
    r"fastbn/.*include/fastbn/fastbn\.hpp",
    r"fastbn/.*fastbnConfig\.cmake",
    r"fastbn/.*fastbnConfigVersion\.cmake",
    r"fastbn/.*fastbn\.pc",
    r"fastbn-.*/licenses/LICENSE.*",
    r"fastbn-.*/entry_points\.txt",
]
UNWANTED = r"(^|/)(tests|bench|csrc|docs|examples)/|\.(cpp|o|a|cmake\.in|pyx|c)$|^fastbn/(?!include/).*\.hpp$"


@needs_wheel
def test_files_of_the_wheel():
    files = [str(f) for f in importlib.metadata.files("fastbn") or []]
    for pattern in WANTED:
        assert any(re.fullmatch(pattern, f) for f in files), f"nothing matches {pattern}"
    assert [f for f in files if re.search(UNWANTED, f) and f.startswith("fastbn")] == []
    assert len([f for f in files if "libfastbn" in f]) == 1, "the library lies there once"


@needs_wheel
@pytest.mark.as_shipped
def test_size_of_the_wheel():
    files = importlib.metadata.files("fastbn") or []
    assert sum(f.locate().stat().st_size for f in files) < 30e6  # unpacked; the wheel itself stays under 10 MB


def test_dependencies():
    required = importlib.metadata.requires("fastbn") or []
    plain = {re.split(r"[ <>=!~;\[]", r)[0] for r in required if "extra ==" not in r}
    assert plain == {"numpy", "rich", "typer", "pooch"}
    extras = set(importlib.metadata.metadata("fastbn").get_all("Provides-Extra") or [])
    assert extras == {"test", "study", "peers", "torch"}


def python(code: str, folder: Path) -> str:
    """Output of a new interpreter, run where no sources lie about."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=folder).stdout


IMPORT = """
import sys, time, numpy
before = set(sys.modules)
start = time.perf_counter()
import fastbn
seconds = time.perf_counter() - start
new = {name.partition('.')[0] for name in set(sys.modules) - before}
print(seconds, *sorted(name for name in new if name not in sys.stdlib_module_names))
"""


def test_import_is_quick_and_loads_numpy_only(tmp_path):
    seconds = []
    for _ in range(3):
        first, *modules = python(IMPORT, tmp_path).split()
        seconds.append(float(first))
        foreign = [m for m in modules if not m.startswith(("fastbn", "numpy", "_cython", "cython_runtime"))]
        assert foreign == []
    assert min(seconds) < 0.5


def test_import_starts_no_threads(tmp_path):
    code = "import fastbn, os; print(len(os.listdir('/proc/self/task')))"
    baseline = "import numpy, os; print(len(os.listdir('/proc/self/task')))"
    assert int(python(code, tmp_path)) <= int(python(baseline, tmp_path))


@pytest.mark.as_shipped
@pytest.mark.parametrize("name", ["baseline", "nonsense"])
def test_environment_chooses_the_instruction_set(name, tmp_path):
    code = (
        "import numpy as np; from fastbn import _core, ops; "
        "ops.dense_forward(np.ones((2, 2)), np.ones((2, 2))); print(_core.isa_in_use())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env={"FASTBN_ISA": name, "PATH": ""}, capture_output=True, text=True, cwd=tmp_path
    )
    if name == "baseline":
        assert result.stdout.strip() == "baseline"
    else:
        assert result.returncode != 0
        assert "FASTBN_ISA" in result.stderr
        assert "nonsense" in result.stderr


@needs_wheel
def test_sources_without_modules_say_so():
    """A Python that is started in the root of the repository finds the sources first."""
    run = subprocess.run(
        [sys.executable, "-c", "import fastbn"], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert run.returncode != 0
    assert "ImportError: fastbn: the folder" in run.stderr
    assert "pip install -e . --no-build-isolation" in run.stderr
