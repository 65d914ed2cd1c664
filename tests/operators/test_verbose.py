"""FASTBN_VERBOSE=1: a line on standard error for each operator call and program plan."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

CALLS = """
import numpy as np
from fastbn import layers, ops
from fastbn.models import Sequential
x, k = np.ones((2, 28, 28, 64), np.float32), np.ones((3, 3, 64, 64), np.float32)
y = ops.conv2d_forward(x, k, padding="same")
ops.conv2d_backward(y, x, k, padding="same", algorithm="direct", need=("x", "kernel"))
ops.dense_forward(np.ones((3, 5), np.float32), np.ones((5, 7), np.float32))
ops.max_pool2d_forward(x)
ops.batch_norm_forward(x)
ops.activation_forward(x, "relu")
ops.sgd_update(np.ones(9, np.float32), np.ones(9, np.float32))
ops.conv2d_forward(x[:0], k)
model = Sequential([layers.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
model.compile("sgd", "mse")
model.train_on_batch(np.ones((6, 8, 8, 1), np.float32), np.ones((6, 2), np.float32))
"""


def _said(value: str | None, code: str = CALLS) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name != "FASTBN_VERBOSE"}
    if value is not None:
        environment["FASTBN_VERBOSE"] = value
    here = Path(__file__).parent  # not the root, whose fastbn/ has no compiled modules
    run = [sys.executable, "-c", code]
    return subprocess.run(run, capture_output=True, text=True, timeout=120, env=environment, cwd=here)


def test_every_call_says_what_it_ran() -> None:
    result = _said("1")
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert all(line.startswith("fastbn: ") for line in lines)
    calls = [line for line in lines if " plan for " not in line]
    assert all(re.search(r", \w+, \d+ threads?( \(.+\))?, \d+\.\d{3} ms$", line) for line in calls)
    assert [line.split()[1] for line in calls] == [
        "conv2d_forward", "conv2d_backward", "dense_forward", "max_pool2d_forward", "batch_norm_forward",
        "activation_forward", "sgd_update", "train",
    ]  # fmt: skip
    assert re.search(r"2x28x28x64 -> 28x28x64, kernel 3x3: winograd4 \(tile \d+x\d+; ", calls[0])
    assert re.search(r": dx direct \(tile \d+x\d+; ", calls[1])
    assert re.search(r"; dkernel direct \(tile \d+x\d+; ", calls[1])
    assert "direct was asked for" in calls[1]
    assert re.search(r"3x5 -> 7: W read in place, tile \d+x\d+, ", calls[2])
    assert "window 2x2" in calls[3]
    assert "1568x64" in calls[4]
    assert "train 6 samples" in calls[7]
    plans = [line for line in lines if " plan for " in line]
    assert plans
    assert "conv2d forward: " in plans[-1]
    assert "conv2d backward_filter: " in plans[-1]


def test_nothing_is_said_by_default() -> None:
    for value in (None, "", "0"):
        result = _said(value)
        assert result.returncode == 0
        assert result.stderr == ""


def test_another_value_is_an_error() -> None:
    result = _said("yes")
    assert "ValueError: FASTBN_VERBOSE: must be 0 or 1. Received: 'yes'" in result.stderr


def test_the_command_line_says_so_in_one_line() -> None:
    code = "import sys; sys.argv = ['fastbn', 'explain', 'cnn_small']; from fastbn.cli import main; main()"
    for name in ("FASTBN_ISA", "FASTBN_VERBOSE"):
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {name: "mmx"},
            cwd=Path(__file__).parent,
        )
        assert result.returncode == 1
        assert re.fullmatch(rf"fastbn( explain)?: {name}: must .* Received: 'mmx'\n", result.stderr)


def test_explicit_padding_is_named() -> None:
    result = _said(
        "1",
        CALLS.splitlines()[1]
        + """
from fastbn import ops
ops.conv2d_forward(np.ones((2, 9, 9, 8), np.float32), np.ones((3, 3, 8, 8), np.float32), padding=((1, 0), (2, 3)))
""",
    )
    assert result.returncode == 0, result.stderr
    assert "2x9x9x8 -> 8x12x8, kernel 3x3, padding 1+0x2+3: " in result.stderr
