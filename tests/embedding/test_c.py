"""examples/embed/c, built with CMake and with make and pkg-config, gives the bits of fastbn.ops and of a model."""

from __future__ import annotations

import re

import pytest
from harness.consumers import tool

STRICT = "-O1 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Werror"

OPERATORS = """
import sys
import numpy as np
from fastbn import ops

def numbers(shape, step):
    i = np.arange(np.prod(shape), dtype=np.int64)
    return ((i * step % 101).astype(np.float32) / np.float32(64) - np.float32(0.75)).reshape(shape)

x, kernel, bias = numbers((4, 32, 32, 16), 37), numbers((3, 3, 16, 32), 53), numbers((32,), 7)
dy = numbers((4, 32, 32, 32), 29)
y = ops.conv2d_forward(x, kernel, bias, padding="same", activation="relu")
dx, dkernel, dbias = ops.conv2d_backward(dy, x, kernel, padding="same", y=y, activation="relu")
with open(sys.argv[1], "wb") as file:
    for array in (y, dx, dkernel, dbias):
        file.write(array.tobytes())
"""

NETWORK = """
import sys
import numpy as np
from fastbn import Sequential
from fastbn.layers import BatchNormalization, Dense, Input, ReLU
from fastbn.losses import SparseCategoricalCrossentropy
from fastbn.optimizers import SGD

i = np.arange(256)
x = np.stack([i * 37 % 101 / 32 - 1.5625, i * 53 % 97 / 32 - 1.5], axis=1).astype(np.float32)
y = (x[:, 0] * x[:, 0] + x[:, 1] * x[:, 1] < np.float32(1.5)).astype(np.int32)
model = Sequential([Input((2,)), Dense(32, use_bias=False), BatchNormalization(momentum=0.9), ReLU(), Dense(2)])
model.compile(SGD(0.1, momentum=0.9), SparseCategoricalCrossentropy(from_logits=True))
values = np.fromfile(sys.argv[1], np.float32)
values = values[: len(values) // 2]  # what the weights were before
shapes = [w.shape for w in model.get_weights()]
cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
model.set_weights([v.reshape(shape) for v, shape in zip(np.split(values, cuts), shapes)])
for step in range(20):
    model.train_on_batch(x, y)
with open(sys.argv[2], "wb") as file:
    for weight in model.get_weights():
        file.write(weight.tobytes())
"""


@pytest.fixture(params=["cmake", "make"])
def built(request, environment, consumer):
    """The folder of the two programs."""
    folder = consumer("c")
    tool("cc")
    if request.param == "make":
        tool("pkg-config")
        variables = {"PKG_CONFIG_PATH": environment.fastbn("--pkgconfigdir"), "CFLAGS": STRICT}
        environment.run(tool("make"), cwd=folder, **variables)
        return folder
    fastbn_dir = f"-Dfastbn_DIR={environment.fastbn('--cmakedir')}"
    environment.run(tool("cmake"), "-B", "build", fastbn_dir, f"-DCMAKE_C_FLAGS={STRICT}", cwd=folder)
    environment.run(tool("cmake"), "--build", "build", cwd=folder)
    return folder / "build"


def test_operators_give_the_bits_of_ops(environment, built):
    said = environment.run(built / "operators", "found.bin", cwd=built)
    environment.run(environment.python, "-c", OPERATORS, "expected.bin", cwd=built)
    found, expected = (built / "found.bin").read_bytes(), (built / "expected.bin").read_bytes()
    assert len(found) == 4 * (4 * 32 * 32 * (16 + 32) + 3 * 3 * 16 * 32 + 32)
    assert found == expected
    words = said.split()
    assert words[words.index("phases") - 1] != "0", "the library did not ask for the host's threads"


def test_the_network_gives_the_bits_of_a_model(environment, built):
    said = environment.run(built / "network", "found.bin", cwd=built)
    environment.run(environment.python, "-c", NETWORK, "found.bin", "expected.bin", cwd=built)
    found, expected = (built / "found.bin").read_bytes(), (built / "expected.bin").read_bytes()
    assert found[len(found) // 2 :] == expected
    assert found[: len(found) // 2] != expected
    first, last = map(float, re.findall(r"[\d.]+(?= ->|, )", said)[:2])
    assert last < first / 2, said
