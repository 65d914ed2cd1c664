"""Kernels run on to whole vectors, but not beyond the arrays of the caller: where they would, the process ends."""

from __future__ import annotations

from pathlib import Path

from harness.processes import run_python

TESTS = Path(__file__).parent.parent

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from cases import conv2d, dense
from harness.arrays import walled
from fastbn import ops

def same(found, expected, case):
    for a, e in zip(found, expected, strict=True):
        assert (a is None and e is None) or a.tobytes() == e.tobytes(), case

for at_end in (True, False):
    for case in [case for case in dense.CASES if case.tier == "smoke"]:
        arrays = case.inputs()
        x, kernel, bias, dy = (walled(a, at_end) for a in arrays)
        same([ops.dense_forward(x, kernel, bias)], [ops.dense_forward(*arrays[:3])], case)
        same(ops.dense_backward(dy, x, kernel), ops.dense_backward(arrays[3], *arrays[:2]), case)
    for case in [case for case in conv2d.CASES if case.tier == "smoke"]:
        arrays = case.inputs()
        x, kernel, bias, dy = (walled(a, at_end) for a in arrays)
        same([ops.conv2d_forward(x, kernel, bias, **case.options)],
             [ops.conv2d_forward(*arrays[:3], **case.options)], case)
        same(ops.conv2d_backward(dy, x, kernel, **case.options),
             ops.conv2d_backward(arrays[3], *arrays[:2], **case.options), case)
print("done")
"""


def test_inputs_between_unreadable_pages(isa):
    assert run_python("-c", SCRIPT, str(TESTS), FASTBN_ISA=isa, OMP_NUM_THREADS="2").endswith("done")
