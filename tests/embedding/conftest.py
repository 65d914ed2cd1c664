"""The wheel, made once a session, and the environments that it is installed in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.consumers import Environment, beside, copy_of, from_index, wheel_of_this_environment


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of_this_environment(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session", params=["beside", pytest.param("from_index", marks=pytest.mark.slow)])
def environment(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with the wheel: one that borrows the dependencies, and a complete one (slow)."""
    make = {"beside": beside, "from_index": from_index}[request.param]
    made = make(tmp_path_factory.mktemp("environment") / "venv", wheel)
    found = made.run(made.python, "-c", "import fastbn; print(fastbn.__file__)", cwd=made.folder).strip()
    assert Path(found).is_relative_to(made.folder), "another fastbn is found first"
    return made


@pytest.fixture
def consumer(tmp_path: Path) -> Callable[[str], Path]:
    """consumer(name): a copy of examples/embed/NAME in a folder of its own."""
    return lambda example: copy_of(example, tmp_path)
