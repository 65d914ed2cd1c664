"""What every data set of fastbn.datasets returns."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: Images (n, 28, 28) and labels (n,), both uint8.
Split: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class DataSet(NamedTuple):
    """A data set by name, with one plain sentence on which one it is and why."""

    name: str
    train: Split
    test: Split
    note: str
