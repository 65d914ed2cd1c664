"""The source distribution: every tracked file but the gate's own is in it, and it builds the wheel of the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".ci/", "docs/studies/")

pytestmark = pytest.mark.slow


def run(command: list[str], folder: Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The tracked files as they are now, apart from what lies around them in a working tree."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone")
    folder = tmp_path_factory.mktemp("tree")
    for name in run(["git", "ls-files"], ROOT).splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    run(["git", "init", "-q"], folder)
    run(["git", "add", "-A"], folder)
    return folder


def build(kind: str, source: Path, out: Path) -> Path:
    """The one file that the build backend makes of `source`, with the tools of this environment."""
    code = f"import sys; from scikit_build_core import build; print(build.build_{kind}(sys.argv[1]))"
    pytest.importorskip("scikit_build_core", reason="the build requirements are not installed")
    pytest.importorskip("pybind11", reason="the build requirements are not installed")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    result = subprocess.run(
        [sys.executable, "-c", code, str(out)], capture_output=True, text=True, cwd=source, env=environment
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (made,) = out.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return made


@pytest.fixture(scope="module")
def unpacked(tree, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    shutil.unpack_archive(build("sdist", tree, folder), folder)
    (top,) = (path for path in folder.iterdir() if path.is_dir())
    return top


def files_of(folder: Path) -> set[str]:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(".git/")}


def test_every_tracked_file_is_in_it(tree, unpacked):
    wanted = {name for name in files_of(tree) if not name.startswith(LEFT_OUT)}
    assert files_of(unpacked) == wanted | {"PKG-INFO"}


def test_it_builds_the_wheel_of_the_tree(tree, unpacked, tmp_path):
    names = []
    for source in (tree, unpacked):
        out = tmp_path / source.name
        out.mkdir()
        with zipfile.ZipFile(build("wheel", source, out)) as wheel:
            names.append(sorted(wheel.namelist()))
    assert names[0] == names[1]
