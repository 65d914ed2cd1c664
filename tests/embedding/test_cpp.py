"""examples/embed/cpp trains a CNN to the bits that a model in Python reaches; no exceptions; from sources."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from harness.consumers import ROOT, Environment, copy_of, run, tool

FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]

# Trains `cnn` as anybody does, and says what it started from: the program's seed and the orders of its epochs.
TRAIN = """
import copy, sys
import numpy as np
import fastbn
from fastbn import _random, networks, utils

def idx(name):
    data = open(f"{sys.argv[1]}/{name}", "rb").read()
    rank = data[3]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(np.frombuffer(data, ">i4", rank, 4))

def weights(file):
    for weight in model.get_weights():
        file.write(weight.tobytes())

epochs = int(sys.argv[2])
x, y = idx("train-images-idx3-ubyte")[..., None] / np.float32(255), idx("train-labels-idx1-ubyte")
utils.set_random_seed(2026)
model = networks.cnn()
model.compile("adam", "sparse_categorical_crossentropy")
with open("expected.bin", "wb") as file:
    weights(file)
    generator = copy.deepcopy(_random.generator())
    np.concatenate([generator.permutation(len(x)) for _ in range(epochs)]).tofile("orders.bin")
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    weights(file)
print(model._engine.seed)
"""

DIGITS = """
import numpy as np
from fastbn.datasets import digits

(x, y), (test_x, test_y) = digits.load_data()
for part, images, labels in (("train", x[:1500], y[:1500]), ("t10k", test_x[:300], test_y[:300])):
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        with open(f"{part}-{kind}-ubyte", "wb") as file:
            file.write(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes())
            file.write(np.ascontiguousarray(array, np.uint8).tobytes())
"""


STRICT = "-Wall -Wextra -Wpedantic -Wshadow -Werror"


def build(environment: Environment, folder: Path, *options: str, flags: str = STRICT) -> Path:
    environment.run(tool("cmake"), "-B", "build", f"-DCMAKE_CXX_FLAGS={flags}", *options, cwd=folder)
    environment.run(tool("cmake"), "--build", "build", "--parallel", "2", cwd=folder)
    return folder / "build"


@pytest.fixture(scope="module")
def built(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tool("c++")
    folder = copy_of("cpp", tmp_path_factory.mktemp("cpp"))
    return build(environment, folder, f"-Dfastbn_DIR={environment.fastbn('--cmakedir')}")


def assert_same_weights(environment: Environment, program: Path, data: Path, folder: Path, epochs: int) -> str:
    """What the program printed; its weights, before and after, are those of the model in Python."""
    seed = environment.run(environment.python, "-c", TRAIN, data, str(epochs), cwd=folder).strip()
    arguments = [seed, str(epochs), "found.bin", "orders.bin"]
    said = environment.run(program, *arguments, cwd=folder, FASTBN_DATA=str(data))
    found, expected = (folder / "found.bin").read_bytes(), (folder / "expected.bin").read_bytes()
    half = len(expected) // 2
    assert half == 4 * 110_986
    assert found[:half] == expected[:half], "the initial weights differ"
    assert found[half:] == expected[half:], "the trained weights differ"
    assert found[half:] != found[:half]
    return said


def test_digits_give_the_weights_of_a_model(environment, built, tmp_path):
    """The ragged last batch included: 1,500 samples are 11 batches of 128 and one of 92."""
    environment.run(environment.python, "-c", DIGITS, cwd=tmp_path)
    assert_same_weights(environment, built / "train_mnist", tmp_path, tmp_path, epochs=2)
    # Without an order from outside it shuffles by itself.
    environment.run(built / "train_mnist", "7", "1", "own.bin", cwd=tmp_path, FASTBN_DATA=str(tmp_path))
    assert (tmp_path / "own.bin").stat().st_size == (tmp_path / "expected.bin").stat().st_size


@pytest.mark.mnist
def test_mnist_gives_the_weights_of_a_model(environment, built, tmp_path):
    source = Path(os.environ.get("FASTBN_DATA", ""))
    if not all((source / f"{name}.gz").is_file() or (source / name).is_file() for name in FILES):
        pytest.skip("the MNIST files are not in FASTBN_DATA")
    for name in FILES:
        packed = source / f"{name}.gz"
        data = gzip.decompress(packed.read_bytes()) if packed.is_file() else (source / name).read_bytes()
        (tmp_path / name).write_bytes(data)
    said = assert_same_weights(environment, built / "train_mnist", tmp_path, tmp_path, epochs=1)
    print(said)  # shown by -s
    assert float(said.split()[-1]) > 0.97


def test_missing_data_is_said(environment, built, tmp_path):
    with pytest.raises(AssertionError, match="cannot read"):
        environment.run(built / "train_mnist", "1", "1", "weights.bin", cwd=tmp_path, FASTBN_DATA=str(tmp_path))


def test_without_exceptions(environment, built, tmp_path):
    lines = environment.run(built / "no_exceptions", cwd=tmp_path).splitlines()
    assert lines[0] == "14 0 20 0"  # x W + b = (4, 5), (10, 11) + (10, -20), relu
    assert lines[1] == "1 dense 'dense': units must be at least 1. Received: -1"
    assert lines[2] == "1 dense_forward: y must hold 4 values. Received: 3"


def test_every_wrapper_gives_what_the_c_interface_gives(environment, tmp_path):
    pkgconfig = {"PKG_CONFIG_PATH": environment.fastbn("--pkgconfigdir")}
    flags = environment.run(tool("pkg-config"), "--cflags", "--libs", "fastbn", cwd=tmp_path, **pkgconfig).split()
    source = Path(__file__).with_name("operators.cpp")
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
    environment.run(tool("c++"), "-std=c++17", *warnings, source, *flags, "-o", "operators", cwd=tmp_path)
    assert environment.run(tmp_path / "operators", cwd=tmp_path) == "passed\n"


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("standard", ["c++17", "c++20"])
def test_the_header_compiles(environment, compiler, standard, tmp_path):
    (tmp_path / "twice.cpp").write_text("#include <fastbn/fastbn.hpp>\n#include <fastbn/fastbn.hpp>\n")
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
    command = [tool(compiler), f"-std={standard}", *warnings, environment.fastbn("--includes"), "-fsyntax-only"]
    for exceptions in ("-fexceptions", "-fno-exceptions"):
        environment.run(*command, exceptions, "twice.cpp", cwd=tmp_path)


@pytest.mark.slow
def test_from_sources_and_after_an_install_that_was_moved(tmp_path):
    """As a part of another project (FetchContent, which is add_subdirectory), which is then installed and moved."""
    tool("c++")
    folder = copy_of("cpp", tmp_path)
    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    cmake = tool("cmake")
    environment = Environment(Path(sys.prefix))
    # The flags of the project around it are not for fastbn: neither its warnings nor its arithmetic.
    program = build(environment, folder, f"-DFASTBN_SOURCES={ROOT}", *launcher, flags=f"{STRICT} -ffast-math")
    first = run(program / "no_exceptions", cwd=folder)
    commands = [entry["command"] for entry in json.loads((program / "compile_commands.json").read_text())]
    ours = [command for command in commands if str(ROOT / "csrc") in command.partition(" -c ")[2]]
    assert len(ours) > 50
    for command in ours:
        assert command.rindex("-fno-fast-math") > command.rindex("-ffast-math")

    run(cmake, "--install", "build", "--prefix", tmp_path / "installed", cwd=folder)
    shutil.rmtree(folder)
    (tmp_path / "installed").rename(tmp_path / "moved")
    folder = copy_of("cpp", tmp_path)
    program = build(environment, folder, f"-DCMAKE_PREFIX_PATH={tmp_path / 'moved'}")
    assert run(program / "no_exceptions", cwd=folder) == first
    lines = run(tool("ldd"), program / "no_exceptions", cwd=folder).splitlines()
    (library,) = (line for line in lines if "libfastbn" in line)
    assert str(tmp_path / "moved") in library
    assert "libfastbn.so.1 " in library, "the soname carries the number of the binary interface"

    (pc,) = (tmp_path / "moved").rglob("fastbn.pc")
    folder = copy_of("c", tmp_path)
    run(tool("make"), cwd=folder, PKG_CONFIG_PATH=str(pc.parent))
    assert "right" in run(folder / "network", "weights.bin", cwd=folder)
