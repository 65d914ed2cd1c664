"""What a call of fastbn costs from NumPy, PyTorch and JAX beside its kernel, and what it copies.

    python bench/embedding.py [--jax examples/embed/jax] [--seconds 0.3]

Microseconds of a call so small that its kernel takes next to nothing, least of many blocks of calls, one thread.
Copies: operands that the kernels did not read, or results that they did not write, where the host has them; looked up
for convolutions in PyTorch, for the others as tests/embedding finds it. `--jax`: a copy of examples/embed/jax, built.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

import fastbn
from fastbn import _core, ops


def microseconds(call: Callable[[], Any], seconds: float) -> float:
    """The least mean of a block of 50 calls."""
    for _ in range(50):
        call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(50):
            call()
        best = min(best, (time.perf_counter() - begin) / 50)
    return 1e6 * best


def row(way: str, call: str, taken: float, theirs: float | None, copies: str) -> None:
    beside = "" if theirs is None else f"{theirs:.1f}"
    print(f"| {way} | {call} | {taken:.1f} | {beside} | {copies} |")


def numpy_rows(seconds: float) -> None:
    x, w, b = np.ones((2, 4), np.float32), np.ones((4, 4), np.float32), np.ones(4, np.float32)
    y = np.empty((2, 4), np.float32)
    taken = microseconds(lambda: ops.dense_forward(x, w, b, out=y), seconds)
    row("NumPy", "`ops.dense_forward(..., out=)`", taken, microseconds(lambda: np.matmul(x, w, out=y), seconds), "0")
    images, kernel = np.ones((1, 4, 4, 4), np.float32), np.ones((3, 3, 4, 4), np.float32)
    out = np.empty((1, 2, 2, 4), np.float32)
    row("NumPy", "`ops.conv2d_forward(..., out=)`", microseconds(
        lambda: ops.conv2d_forward(images, kernel, out=out), seconds), None, "0")  # fmt: skip
    if find_spec("torch"):
        import torch

        tx, tw, tb = torch.ones(2, 4), torch.ones(4, 4), torch.ones(4)
        taken = microseconds(lambda: ops.dense_forward(tx, tw, tb, out=y), seconds)
        row("NumPy", "the same of three DLPack tensors", taken, None, "0")


def torch_rows(seconds: float) -> None:
    import torch
    from torch import nn

    import fastbn.torch as fbt

    torch.set_num_threads(1)
    way = f"PyTorch {torch.__version__}"
    seen: dict[str, tuple[Any, ...]] = {}

    def recorded(name: str) -> None:
        original = getattr(_core, name)

        def call(*arguments: Any) -> Any:
            seen[name] = arguments
            return original(*arguments)

        setattr(_core, name, call)

    def pairs(text: str, ours: nn.Module, theirs: nn.Module, x: torch.Tensor, copies: str) -> None:
        with torch.no_grad():
            taken = [microseconds(lambda m=m: m(x), seconds) for m in (ours, theirs)]
        row(way, f"{text}, forward", taken[0], taken[1], copies)
        dy = torch.ones_like(theirs(x))

        def both(module: nn.Module) -> None:
            module(x).backward(dy)

        taken = [microseconds(lambda m=m: both(m), seconds) for m in (ours, theirs)]
        row(way, f"{text}, forward + backward", taken[0], taken[1], copies)

    def copied(layout: torch.memory_format) -> str:
        """Of x, weight, y, dx and dweight of a convolution."""
        conv, x = fbt.Conv2d(4, 4, 3), torch.ones(2, 4, 5, 5).contiguous(memory_format=layout).requires_grad_()
        y = conv(x)
        y.backward(torch.ones_like(y))
        forward, backward = seen["conv2d_forward_at"], seen["conv2d_backward_at"]
        places = {
            "x": (x, forward[8]), "weight": (conv.weight, forward[9]), "y": (y, forward[11]),
            "dx": (x.grad, backward[12]), "dweight": (conv.weight.grad, backward[13]),
        }  # fmt: skip
        return ", ".join(name for name, (tensor, at) in places.items() if tensor.data_ptr() != at) or "0"

    originals = {name: getattr(_core, name) for name in ("conv2d_forward_at", "conv2d_backward_at")}
    for name in originals:
        recorded(name)
    last, first = copied(torch.channels_last), copied(torch.contiguous_format)
    for name, original in originals.items():
        setattr(_core, name, original)

    x = torch.ones(1, 4, 4, 4)
    pairs("`Linear`", fbt.Linear(4, 4), nn.Linear(4, 4), torch.ones(2, 4), "0")
    images = x.contiguous(memory_format=torch.channels_last)
    plain = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    pairs("`Conv2d`, channels_last", fbt.Conv2d(4, 4, 3), plain, images, last)
    pairs("`Conv2d`, contiguous", fbt.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), x, first)
    pairs("`BatchNorm2d`", fbt.BatchNorm2d(4), nn.BatchNorm2d(4), images, "0")
    chain = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).to(memory_format=torch.channels_last)
    pairs("`FusedConvBNReLU2d`, channels_last", fbt.FusedConvBNReLU2d(4, 4, 3), chain, images, "0")


def jax_rows(folder: str, seconds: float) -> None:
    sys.path.insert(0, folder)
    import fastbn_jax
    import jax
    import jax.numpy as jnp

    way = f"JAX {jax.__version__}"
    x, w, b = jnp.ones((2, 4)), jnp.ones((4, 4)), jnp.ones(4)
    ours, theirs = jax.jit(fastbn_jax.dense), jax.jit(lambda x, w, b: x @ w + b)
    taken = [microseconds(lambda f=f: f(x, w, b).block_until_ready(), seconds) for f in (ours, theirs)]
    row(way, "`dense` under jit", taken[0], taken[1], "0")

    def gradient(f: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(jax.grad(lambda x, w, b: f(x, w, b).sum(), (0, 1, 2)))

    ours, theirs = gradient(fastbn_jax.dense), gradient(lambda x, w, b: x @ w + b)
    taken = [microseconds(lambda f=f: jax.block_until_ready(f(x, w, b)), seconds) for f in (ours, theirs)]
    row(way, "`dense` and its gradient under jit", taken[0], taken[1], "0")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jax", metavar="FOLDER", help="a built copy of examples/embed/jax")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one measurement")
    options = parser.parse_args()
    fastbn.set_num_threads(1)
    print("| way in | call | microseconds | the host's own | copies |\n|---|---|---:|---:|---|")
    numpy_rows(options.seconds)
    if find_spec("torch"):
        torch_rows(options.seconds)
    if options.jax:
        jax_rows(options.jax, options.seconds)


if __name__ == "__main__":
    main()
