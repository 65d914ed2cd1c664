"""No memory left: an operator, a model and a plan say so, and work again when there is some."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

SETUP = """
import resource
import numpy as np
import fastbn
from fastbn import layers, ops

def limit(extra):
    "Room for `extra` bytes more than there are now; None: all."
    if extra is None:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return
    used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, resource.RLIM_INFINITY))

# Opens the team of threads: where that fails, libgomp ends the process.
ops.activation_forward(np.ones(1 << 18, np.float32), "relu")

def refused(call):
    try:
        call()
    except MemoryError as error:
        assert "Received" in str(error) or "allocate" in str(error), error
        return True
    return False
"""

OPERATOR = """
x, kernel = np.ones((4000, 512), np.float32), np.ones((512, 512), np.float32)
y = np.full((4000, 512), -7, np.float32)
images, filters = np.ones((8, 64, 64, 32), np.float32), np.ones((3, 3, 32, 32), np.float32)
z = np.full((8, 62, 62, 32), -7, np.float32)
limit(1 << 16)
assert refused(lambda: np.ones(1 << 25))  # the limit holds
failed = [refused(lambda: ops.dense_forward(x, kernel, out=y)),
          refused(lambda: ops.conv2d_forward(images, filters, out=z))]
limit(None)
assert any(failed), failed
assert (y == -7).all() or not failed[0]
assert (z == -7).all() or not failed[1]
assert (ops.dense_forward(x, kernel, out=y) == 512).all()
assert np.allclose(ops.conv2d_forward(images, filters, out=z), 288)
"""

MODEL = """
x, labels = np.ones((64, 32, 32, 16), np.float32), np.zeros(64, np.int32)

def make():
    fastbn.utils.set_random_seed(3)
    model = fastbn.Sequential([fastbn.Input((32, 32, 16)), layers.Conv2D(64, 3), layers.BatchNormalization(),
                               layers.ReLU(), layers.Flatten(), layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model

expected, model = make(), make()
before = [w.copy() for w in model.get_weights()]
limit(1 << 20)
assert refused(lambda: model.train_on_batch(x, labels))
limit(None)
assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
for m in (expected, model):
    m.train_on_batch(x, labels)
assert all((a == b).all() for a, b in zip(expected.get_weights(), model.get_weights(), strict=True))
limit(1 << 20)
assert refused(lambda: model.predict(x, verbose=0))
limit(None)
assert (model.predict(x, verbose=0) == expected.predict(x, verbose=0)).all()
"""


@pytest.mark.parametrize("body", [OPERATOR, MODEL], ids=["operator", "model"])
def test_no_memory(body):
    code = textwrap.dedent(SETUP + body)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
