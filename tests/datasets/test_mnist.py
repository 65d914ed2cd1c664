"""The real MNIST, where FASTBN_DATA or a cache has it."""

from __future__ import annotations

import numpy as np
import pytest

from fastbn.datasets import _sources, mnist


@pytest.mark.mnist
def test_mnist_is_what_keras_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sources, "_download", lambda *_: pytest.skip("MNIST is neither in FASTBN_DATA nor in a cache"))
    (x_train, y_train), (x_test, y_test) = mnist.load_data()
    assert (x_train.shape, y_train.shape) == ((60000, 28, 28), (60000,))
    assert (x_test.shape, y_test.shape) == ((10000, 28, 28), (10000,))
    assert {array.dtype for array in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)}
    assert y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert x_train.mean() == pytest.approx(33.318421449829934)
