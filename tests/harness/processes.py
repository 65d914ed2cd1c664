"""Python programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile


def run_python(*arguments: str, timeout: float = 120, **environment: str) -> str:
    """What `python ARGUMENTS` prints, outside the sources; a failure or a hang fails the test."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=tempfile.gettempdir(),
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
