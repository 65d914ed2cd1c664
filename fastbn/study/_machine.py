"""Where a cell ran: versions, machine, revision."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastbn import _core


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _revision() -> str:
    """The commit of the sources where this fastbn is installed in place, "+" where they were changed since."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / "pyproject.toml").is_file():
        return ""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + "+" * bool(commit and git("status", "--porcelain", "--", "fastbn", "csrc"))
    except OSError:  # no git
        return ""


@lru_cache(maxsize=1)
def here() -> dict[str, str]:
    """Everything about this process that a reader of its results may ask for."""
    found = {
        "fastbn": _core.version(),
        "revision": _revision(),
        "isa": _core.isa_in_use(),
        "compiler": dict(line.split("=", 1) for line in _core.build_info().splitlines())["compiler"],
        "processor": _processor(),
        "processors": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for name in ("numpy", "joblib", "matplotlib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found
