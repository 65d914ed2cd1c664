"""What holds for tests and bench alike."""

import sys
from pathlib import Path

import pytest

# `python -m pytest` puts this folder first on the path, and its fastbn/ has no compiled modules: what is installed is
# what is tested.
ROOT = Path(__file__).parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


def pytest_configure(config: pytest.Config) -> None:
    """`pytest` runs the tests, `pytest --benchmark-only` the bench."""
    if not config.option.benchmark_only:
        config.option.benchmark_skip = True
