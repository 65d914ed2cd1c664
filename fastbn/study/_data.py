"""The data of a study as its networks take them, once a process."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastbn import utils
from fastbn._arrays import Float32


class StudyData(NamedTuple):
    """Pixels / 255 as (n, 784), one-hot labels, and a digest of the bytes they came from."""

    name: str
    x_train: Float32
    y_train: Float32
    x_test: Float32
    y_test: Float32
    digest: str

    def inputs(self, images: bool) -> tuple[Float32, Float32]:
        """Training and test images, as (n, 28, 28, 1) where a network takes those."""
        if not images:
            return self.x_train, self.x_test
        return self.x_train.reshape(-1, 28, 28, 1), self.x_test.reshape(-1, 28, 28, 1)


@lru_cache(maxsize=1)
def load(name: str) -> StudyData:
    """The data set of this name. Raises what `fastbn.datasets.load` does."""
    from fastbn import datasets

    loaded = datasets.load(name)
    digest = hashlib.sha256()
    splits: list[tuple[Float32, Float32]] = []
    for images, labels in (loaded.train, loaded.test):
        digest.update(images.tobytes())
        digest.update(labels.tobytes())
        pixels = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
        splits.append((pixels, utils.to_categorical(labels, 10)))
    return StudyData(loaded.name, *splits[0], *splits[1], digest.hexdigest()[:16])
