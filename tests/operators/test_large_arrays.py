"""Results of arrays that exceed the caches go past them where they are aligned: same bits, and nothing beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from harness.arrays import Guarded
from harness.compare import assert_same
from harness.library import same_on_all_threads

from fastbn import ops

MOST = 128 * 2**20  # bytes of a cache: more would take too long here
CHANNELS = 68  # rows of four whole vectors and a part, each a multiple of 16 bytes


def last_cache() -> int:
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * 1024 for size in sizes if size.endswith("K")), default=0)


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Two matrices that, with a result beside one of them, are 1.6 times what the last cache holds."""
    cache = last_cache()
    if not 0 < cache <= MOST:
        pytest.skip(f"a cache of {cache} bytes is not known or too large")
    rows = int(1.6 * cache) // (2 * 4 * CHANNELS)
    random = np.random.default_rng(0)
    return tuple(random.standard_normal((rows, CHANNELS), np.float32) for _ in range(2))


def batch_norm_backward(dy, x, activation, out):
    ones = np.ones(CHANNELS, np.float32)
    mean, variance = np.zeros(CHANNELS), np.ones(CHANNELS)
    options = {"beta": ones, "activation": activation, "out": (out, None, None)}
    return ops.batch_norm_backward(dy, x, ones, mean, variance, **options)[0]


CALLS = {
    "relu": lambda x, dy, out: ops.activation_forward(x, "relu", out=out),
    "sigmoid": lambda x, dy, out: ops.activation_forward(x, "sigmoid", out=out),
    "relu_backward": lambda x, dy, out: ops.activation_backward(dy, x, "relu", out=out),
    "dropout": lambda x, dy, out: ops.dropout_forward(x, 0.25, 7, out=out),
    "batch_norm": lambda x, dy, out: ops.batch_norm_forward(x, activation="relu", out=(out, None, None))[0],
    "batch_norm_sigmoid": lambda x, dy, out: ops.batch_norm_forward(x, activation="sigmoid", out=(out, None, None))[0],
    "batch_norm_residual": lambda x, dy, out: ops.batch_norm_forward(x, residual=dy, out=(out, None, None))[0],
    "batch_norm_inference": lambda x, dy, out: ops.batch_norm_inference(
        x, None, None, np.full(CHANNELS, 0.5), np.full(CHANNELS, 2.0), out=out
    ),
    "batch_norm_backward": lambda x, dy, out: batch_norm_backward(dy, x, "relu", out),
}


@pytest.mark.parametrize("name", CALLS)
def test_same_bits_at_every_alignment(name, arrays, isa):
    x, dy = arrays
    expected = None
    for offset in (4, 0, 16):  # four bytes past 16: no result goes past the caches
        out = Guarded(x.shape, offset=offset)

        def call(out=out):
            return CALLS[name](x, dy, out.array)

        same_on_all_threads(call)
        expected = out.check().copy() if expected is None else expected
        assert_same(out.check(), expected, f"{name} at {offset}")


@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_in_place(name, arrays):
    x = arrays[0].copy()
    expected = ops.activation_forward(x, name)
    ops.activation_forward(x, name, out=x)
    assert_same(x, expected)
