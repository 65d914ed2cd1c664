"""A tensor of more than 2^31 elements: no index, offset or count in the library is 32 bits wide.

pytest -m slow tests/reliability/test_large.py; needs 10 GB of free memory, and says so where there is less.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastbn import ops

pytestmark = pytest.mark.slow

ELEMENTS = 2**31 + 2**21  # 8.6 GB of float32
NEEDED = 10 * 2**30


def available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.fixture(scope="module")
def flat() -> np.ndarray:
    """0, 1, ..., 7, 0, 1, ... - with 100 in place of the first, of element 2^31 - 1, of 2^31 and of the last."""
    if available() < NEEDED:
        pytest.skip(f"needs {NEEDED >> 30} GB of free memory, {available() >> 30} GB are there")
    x = np.empty(ELEMENTS, np.float32)
    x.reshape(-1, 8)[...] = np.arange(8, dtype=np.float32)
    for place in (0, 2**31 - 1, 2**31, ELEMENTS - 1):
        x[place] = 100
    return x


def test_dense(flat):
    x = flat.reshape(-1, 2048)
    kernel = np.zeros((2048, 2), np.float32)
    kernel[0, 0] = kernel[2047, 1] = 1
    y = ops.dense_forward(x, kernel)
    assert np.array_equal(y, x[:, [0, 2047]])
    _, dkernel, dbias = ops.dense_backward(y, x, kernel, need=("kernel", "bias"))
    column = y.astype(np.float64)
    np.testing.assert_allclose(dbias, column.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(dkernel[[0, 2047]], column.T @ column, rtol=1e-6)


def test_conv2d(flat):
    x = flat.reshape(1, 2**10 + 1, 2**15, 64)
    kernel = np.zeros((1, 1, 64, 4), np.float32)
    kernel[0, 0, [0, 1, 62, 63], [0, 1, 2, 3]] = 1
    y = ops.conv2d_forward(x, kernel, strides=(1, 31))
    assert np.array_equal(y, x[:, :, ::31][..., [0, 1, 62, 63]])


def test_pooling(flat):
    x = flat.reshape(1, 2**10 + 1, 2**15, 64)
    y, index = ops.max_pool2d_forward(x, (1, 2**9))
    assert y[0, 0, 0, 0] == y[0, -2, -1, 63] == y[0, -1, 0, 0] == y[0, -1, -1, 63] == 100
    assert (y == 100).sum() == 4
    assert index[0, -1, -1, 63] == 2**9 - 1
    assert index[0, -1, 0, 0] == index[0, 0, 0, 0] == 0
    mean = ops.global_avg_pool2d_forward(x)
    others = np.arange(64) % 8
    added = np.zeros(64)
    added[0], added[63] = 2 * 100, 2 * (100 - 7)  # elements 0 and 2^31; 2^31 - 1 and the last
    np.testing.assert_allclose(mean[0], others + added / (ELEMENTS // 64), rtol=1e-6)


def test_batch_norm_statistics(flat):
    x = flat.reshape(-1, 64)
    count, mean, m2 = ops.batch_norm_partial(x)
    assert count == ELEMENTS // 64
    added = np.zeros(64)
    added[0], added[63] = 2 * 100, 2 * (100 - 7)
    # Sums are of distances to the first row, 100 here: its rounding in float64 remains.
    np.testing.assert_allclose(mean, np.arange(64) % 8 + added / count, rtol=1e-13, atol=1e-14)
    exact = np.zeros(64)
    exact[0], exact[63] = 2 * 100**2, 2 * (100 - 7) ** 2
    exact -= added**2 / count
    np.testing.assert_allclose(m2, exact, rtol=1e-9, atol=1e-9)


def test_activation_in_place(flat):
    """Last: it changes the tensor."""
    flat[[1, 2**31 - 2, 2**31 + 1, ELEMENTS - 2]] = -1
    ops.activation_forward(flat.reshape(-1, 2048), "relu", out=flat.reshape(-1, 2048))
    assert not flat[[1, 2**31 - 2, 2**31 + 1, ELEMENTS - 2]].any()
    assert flat[2**31] == flat[-1] == flat[0] == 100
    assert flat[2**31 + 2] == 2
