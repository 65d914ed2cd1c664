"""Fixtures: instruction sets x thread counts, and which tests are slow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `import oracles`, `import cases` under any import mode


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from harness.tiers import skip_tiers

    skip_tiers(config.option.markexpr, items)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "isa" in metafunc.fixturenames:
        from harness.library import instruction_sets

        metafunc.parametrize("isa", instruction_sets(), indirect=True, scope="function")


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once per instruction set that this machine has."""
    from harness.library import using_isa

    with using_isa(request.param):
        yield request.param
