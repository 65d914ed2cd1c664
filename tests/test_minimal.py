"""The one file that a wheel has to pass where it was built: everything loads, runs, learns."""

from __future__ import annotations

import numpy as np

import fastbn
from fastbn import ops


def test_operators():
    x = np.arange(32, dtype=np.float32).reshape(1, 4, 4, 2)
    kernel = np.ones((3, 3, 2, 1), np.float32)
    y = ops.conv2d_forward(x, kernel)
    expected = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2)).sum(axis=(3, 4, 5))[..., None]
    np.testing.assert_array_equal(y, expected)
    dx, dkernel, dbias = ops.conv2d_backward(np.ones_like(y), x, kernel)
    assert dx.sum() == kernel.sum() * y.size
    assert dbias[0] == y.size
    np.testing.assert_array_equal(dkernel[0, 0, :, 0], x[0, :2, :2].sum(axis=(0, 1)))


def test_training():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 8, 8, 1)).astype(np.float32)
    labels = (x.mean(axis=(1, 2, 3)) > 0).astype(np.int32)
    model = fastbn.Sequential(
        [
            fastbn.Input((8, 8, 1)),
            fastbn.layers.Conv2D(4, 3, activation="relu"),
            fastbn.layers.BatchNormalization(),
            fastbn.layers.MaxPooling2D(),
            fastbn.layers.Flatten(),
            fastbn.layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x, labels, epochs=20, batch_size=32, verbose=0).history
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert model.predict(x[:3], verbose=0).shape == (3, 2)
