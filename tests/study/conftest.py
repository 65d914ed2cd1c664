"""A few drawn digits as the data of a study, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastbn import study
from fastbn.datasets import DataSet, digits
from fastbn.study import _data


@contextmanager
def _few_digits() -> Iterator[None]:
    data = DataSet("digits", digits._generate(600, 0, 0), digits._generate(200, 0, 1), "Data: a few digits.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastbn.datasets.load", lambda name="auto": data)
        _data.load.cache_clear()
        yield
    _data.load.cache_clear()


@pytest.fixture
def few_digits() -> Iterator[None]:
    """600 images to train on and 200 to test on, whichever data set is asked for."""
    with _few_digits():
        yield


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, study.Outcome]:
    """A study of three variants, five seeds and three epochs: its folder, with the report, and what came out."""
    folder = tmp_path_factory.mktemp("studied")
    with _few_digits():
        outcome = study.run("momentum", folder, data="digits", seeds=5, epochs=3, jobs=1)
    study.write_report(outcome, folder)
    return folder, outcome
