"""A few drawn digits as the data of a study, in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastbn.datasets import DataSet, digits
from fastbn.study import _data


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> Iterator[DataSet]:
    """600 images to train on and 200 to test on, whichever data set is asked for."""
    data = DataSet("digits", digits._generate(600, 0, 0), digits._generate(200, 0, 1), "Data: a few digits.")
    monkeypatch.setattr("fastbn.datasets.load", lambda name="auto": data)
    _data.load.cache_clear()
    yield data
    _data.load.cache_clear()
