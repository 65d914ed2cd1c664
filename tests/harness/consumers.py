"""Other people's projects: a fresh environment that holds the wheel, and the tools that build against it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from .installed import editable

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "embed"
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def run(*command: str | Path, cwd: Path, timeout: float = 900, **variables: str) -> str:
    """What a command prints on standard output; a failure or a hang fails the test with all of its output."""
    words = [str(word) for word in command]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"PATH": TOOLS, **variables}
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tool(name: str) -> str:
    """Where a compiler or build tool lies; the test is skipped where it is not installed."""
    found = shutil.which(name, path=TOOLS)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def wheel_of_this_environment(folder: Path) -> Path:
    """The wheel that fastbn was installed from, put together again from its files, which takes no compiler; where the
    install is editable, the wheel of this tree, made by pip with the build requirements of this environment."""
    if not editable():
        return _wheel_again(folder)
    here = all(importlib.util.find_spec(name) for name in ("scikit_build_core", "pybind11", "Cython"))
    isolation = ["--no-build-isolation"] if here else []
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", *isolation, "--wheel-dir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("fastbn-*.whl")
    return wheel


def _wheel_again(folder: Path) -> Path:
    distribution = importlib.metadata.distribution("fastbn")
    (tag,) = re.findall(r"^Tag: (.+)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
    wheel = folder / f"fastbn-{distribution.version}-{tag}.whl"
    of_the_installer = (".pyc", "/RECORD", "/INSTALLER", "/REQUESTED", "/direct_url.json")
    files = [file for file in distribution.files or [] if not str(file).endswith(of_the_installer)]
    files = [file for file in files if file.parts[0] != ".."]  # scripts, which pip makes
    record = f"fastbn-{distribution.version}.dist-info/RECORD"
    rows = [f"{file},{file.hash.mode}={file.hash.value},{file.size}" for file in files if file.hash]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(str(file.locate()), str(file))
        archive.writestr(record, "\n".join([*rows, f"{record},,"]) + "\n")
    return wheel


@dataclass(frozen=True)
class Environment:
    """A virtual environment in which fastbn was installed from the wheel."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *command: str | Path, cwd: Path, timeout: float = 900, **variables: str) -> str:
        """As `run`, with the environment's own programs first on the path."""
        path = f"{self.folder / 'bin'}{os.pathsep}{TOOLS}"
        return run(*command, cwd=cwd, timeout=timeout, **{"PATH": path, **variables})

    def require(self, module: str, *requirements: str) -> None:
        """Installs what a consumer needs beside fastbn, where the environment does not borrow it."""
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        if subprocess.run([self.python, "-c", code], cwd=self.folder, check=False).returncode != 0:
            self.run(self.python, "-m", "pip", "install", *requirements, cwd=self.folder)

    def fastbn(self, option: str) -> str:
        """What `python -m fastbn OPTION` prints: --includes, --cmakedir or --pkgconfigdir."""
        return self.run(self.python, "-m", "fastbn", option, cwd=self.folder).strip()


def beside(folder: Path, wheel: Path) -> Environment:
    """Of the wheel alone: its dependencies are found in the environment that runs the tests. Needs no network."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    environment = Environment(folder)
    pip = [sys.executable, "-m", "pip", "--python", environment.python]
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(environment.run(environment.python, "-c", code, cwd=folder).strip())
    others = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(others) + "\n")
    return environment


def from_index(folder: Path, wheel: Path) -> Environment:
    """With everything installed by pip from the package index, as a user gets it."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    environment = Environment(folder)
    environment.run(environment.python, "-m", "pip", "install", wheel, "cython", "setuptools", cwd=folder)
    return environment


def blocks(page: str) -> str:
    """The Python of a page of docs/ that needs more than fastbn: its ```py blocks, one after another."""
    return "\n".join(re.findall(r"^```py\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL))


def copy_of(example: str, folder: Path) -> Path:
    """A copy of examples/embed/EXAMPLE in a folder where nothing of this repository lies about."""
    return Path(shutil.copytree(EXAMPLES / example, folder / example))
