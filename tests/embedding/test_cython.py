"""examples/embed/cython: one source compiled as C and as C++, linked with nothing, gives the bits of fastbn.ops."""

from __future__ import annotations

import subprocess

import pytest
from harness.consumers import copy_of, tool

COMPARE = """
import importlib, sys
import numpy as np
from fastbn import ops
import fastbn

consumer = importlib.import_module(sys.argv[1])
assert consumer.version() == fastbn.__version__
rng = np.random.default_rng(5)
f4 = np.float32
x, target = rng.standard_normal((64, 20), f4), rng.random((64, 3), f4)
kernel, bias = rng.standard_normal((20, 3), f4), np.zeros(3, f4)
y, dy = np.empty((64, 3), f4), np.empty((64, 3), f4)
dkernel, dbias, loss = np.empty((20, 3), f4), np.empty(3, f4), np.empty(64, f4)
expected_kernel, expected_bias = kernel.copy(), bias.copy()

consumer.gradients(x, target, kernel, bias, y, dy, dkernel, dbias, loss)
first = loss.mean()
views = dkernel.copy(), dbias.copy()
consumer.train(x, target, kernel, bias, y, dy, dkernel, dbias, loss, 1, 0.0)
assert dkernel.tobytes() == views[0].tobytes() and dbias.tobytes() == views[1].tobytes()

consumer.train(x, target, kernel, bias, y, dy, dkernel, dbias, loss, 50, 2.0)
for step in range(50):
    out = ops.dense_forward(x, expected_kernel, expected_bias, activation="sigmoid")
    dout = ops.mean_squared_error_backward(out, target, 1 / 64)
    _, dk, db = ops.dense_backward(dout, x, expected_kernel, y=out, activation="sigmoid", need=("kernel", "bias"))
    ops.sgd_update(expected_kernel, dk, learning_rate=2.0)
    ops.sgd_update(expected_bias, db, learning_rate=2.0)
assert kernel.tobytes() == expected_kernel.tobytes()
assert bias.tobytes() == expected_bias.tobytes()
assert loss.mean() < first

try:
    consumer.gradients(x, target, kernel[:-1], bias, y, dy, dkernel, dbias, loss)
except ValueError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def built(environment, tmp_path_factory):
    pytest.importorskip("Cython", reason="Cython is not installed (it is in the test extra)")
    tool("cc")
    tool("c++")
    folder = copy_of("cython", tmp_path_factory.mktemp("cython"))
    environment.run(environment.python, "setup.py", "build_ext", "--inplace", cwd=folder)
    return folder


@pytest.mark.parametrize(("module", "source"), [("perceptron_c", "c"), ("perceptron_cpp", "cpp")])
def test_gives_the_bits_of_ops(environment, built, module, source):
    assert (built / f"{module}.{source}").is_file(), f"{module} was not compiled as {source}"
    said = environment.run(environment.python, "-c", COMPARE, module, cwd=built)
    assert said.startswith("dense_forward: shapes must be x (rows, in), kernel (in, out), bias (out), y (rows, out).")
    assert "Received: x (64, 20), kernel (19, 3), bias (3), y (64, 3)" in said


def test_links_nothing_of_fastbn(built):
    for module in built.glob("perceptron_*.so"):
        listing = subprocess.run([tool("readelf"), "--dynamic", module], check=True, capture_output=True, text=True)
        assert "NEEDED" in listing.stdout
        assert "fastbn" not in listing.stdout
