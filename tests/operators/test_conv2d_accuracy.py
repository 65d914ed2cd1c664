"""The accuracy contract: rms error against one sequential float32 multiply-add chain over the same sum.

Direct kernels stay within that chain's error; Winograd within 6 times in forward and backward_data, 4 in
backward_filter. On data of both signs and on data behind a relu.
"""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from fastbn import ops

DIRECT, WINOGRAD, WINOGRAD_FILTER = 1.0, 6.0, 4.0
PASSES = ("forward", "backward_data", "backward_filter")
SHAPES = [
    (2, 16, 16, 16, 16),
    (2, 24, 24, 32, 64),
    (1, 14, 14, 128, 48),
    (8, 8, 8, 64, 64),
    (4, 20, 20, 4, 4),
    (1, 8, 8, 384, 352),
]


def chain(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b in float32, every element one chain of fused multiply-adds in order."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for p in range(a.shape[1]):
        product = a[:, p, None].astype(np.float64) * b[None, p].astype(np.float64)
        total = (total + product).astype(np.float32)
    return total


def patches(x: np.ndarray) -> np.ndarray:
    """Rows of pixels, columns of (ky, kx, c), of a 3x3 convolution with padding 1."""
    windows = sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2))
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[-1])


def rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))


def ratios(shape: tuple[int, int, int, int, int], rectified: bool, algorithm: str) -> list[float]:
    """Rms errors of forward, backward_data and backward_filter over those of the chains."""
    n, height, width, channels, filters = shape
    rng = np.random.default_rng(5)
    x = rng.standard_normal((n, height, width, channels), np.float32)
    dy = rng.standard_normal((n, height, width, filters), np.float32)
    if rectified:
        x, dy = np.maximum(x, 0), np.maximum(dy, 0)
    kernel = rng.standard_normal((3, 3, channels, filters), np.float32)
    turned = np.ascontiguousarray(kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    chains = (
        chain(patches(x), kernel.reshape(-1, filters)).reshape(dy.shape),
        chain(patches(dy), turned.reshape(-1, channels)).reshape(x.shape),
        chain(np.ascontiguousarray(patches(x).T), dy.reshape(-1, filters)).reshape(kernel.shape),
    )
    exact = (
        oracles.conv2d_forward(x, kernel, None, padding="same"),
        *oracles.conv2d_backward(dy, x, kernel, padding="same")[:2],
    )
    options = {"padding": "same", "algorithm": algorithm}
    found = (
        ops.conv2d_forward(x, kernel, **options),
        *ops.conv2d_backward(dy, x, kernel, need=("x", "kernel"), **options)[:2],
    )
    return [rms(a - e) / rms(c - e) for a, c, e in zip(found, chains, exact, strict=True)]


@pytest.mark.parametrize("rectified", [False, True], ids=["signed", "rectified"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_rms_error_against_one_chain(shape, rectified, isa):
    if isa == "baseline":
        pytest.skip("without fused multiply-adds a product rounds twice: the contract is for sets that have them")
    limits = {"direct": (DIRECT,) * 3, "auto": (WINOGRAD, WINOGRAD, WINOGRAD_FILTER)}
    for algorithm, most in limits.items():
        for name, ratio, limit in zip(PASSES, ratios(shape, rectified, algorithm), most, strict=True):
            assert ratio <= limit * 1.02, f"{algorithm} {name}: {ratio:.2f} times the chain's rms error"


if __name__ == "__main__":
    print("| images x height x width x channels -> filters | data | direct | auto |\n|---|---|---|---|")
    for shape in SHAPES:
        for rectified in (False, True):
            cells = [" / ".join(f"{r:.2f}" for r in ratios(shape, rectified, a)) for a in ("direct", "auto")]
            size = "x".join(map(str, shape[:4]))
            data = "rectified" if rectified else "signed"
            print(f"| {size} -> {shape[4]} | {data} | {cells[0]} | {cells[1]} |")
