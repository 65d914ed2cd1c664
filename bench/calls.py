"""What a call of an operator costs by each way into fastbn, in microseconds, as the table of docs/embedding.md.

    python bench/calls.py

The call is y = relu(x kernel + bias) of one row of 16, on one thread: 256 multiply-adds, so that what is left is the
way in. The fastest of 50 runs; C, C++ and Cython are compiled against the installed package by the compilers on the
path.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import fastbn
from fastbn import kernels, ops

SOURCES = Path(__file__).resolve().parent / "ways"
SIZE, CALLS, RUNS, RELU = 16, 2000, 50, 1


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {done.stderr}")
    return done.stdout


def least(seconds_of: Callable[[int], float], calls: int = CALLS) -> float:
    """Microseconds of a call in the fastest run; seconds_of(calls) are those of a run."""
    seconds_of(calls)
    return min(seconds_of(calls) for _ in range(RUNS)) / calls * 1e6


def timed(call: Callable[[], object]) -> Callable[[int], float]:
    def seconds_of(calls: int) -> float:
        repeat = range(calls)
        start = time.perf_counter()
        for _ in repeat:
            call()
        return time.perf_counter() - start

    return seconds_of


def compiled(source: str, compiler: str, folder: Path) -> float:
    library = Path(fastbn.config.get_cmake_dir()).parents[1]
    flags = ["-O2", f"-I{fastbn.config.get_include()}", f"-L{library}", f"-Wl,-rpath,{library}"]
    run(compiler, *flags, SOURCES / source, "-lfastbn", "-o", "call", cwd=folder)
    return float(run(folder / "call", cwd=folder))


def cython_module(folder: Path) -> ModuleType:
    from Cython.Build import cythonize

    cythonize([shutil.copy(SOURCES / "call.pyx", folder)], quiet=True)
    includes = [f"-I{fastbn.config.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    made = folder / f"call{sysconfig.get_config_var('EXT_SUFFIX')}"
    run("cc", "-shared", "-fPIC", "-O2", *includes, "call.c", "-o", made, cwd=folder)
    spec = importlib.util.spec_from_file_location("call", made)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_ctypes(arrays: list[Any]) -> float:
    """A foreign-function interface: descriptors once, then calls with addresses."""
    library = ctypes.CDLL(str(next(Path(fastbn.config.get_cmake_dir()).parents[1].glob("libfastbn.so"))))

    class Exec(ctypes.Structure):
        _fields_ = (("struct_size", ctypes.c_size_t), ("num_threads", ctypes.c_int32), ("rest", ctypes.c_int64 * 7))

    class Dense(ctypes.Structure):
        _fields_ = (
            ("struct_size", ctypes.c_size_t),
            ("sizes", ctypes.c_int64 * 3),
            ("activation", ctypes.c_int32),
            ("alpha", ctypes.c_float),
            ("reserved", ctypes.c_int64 * 4),
        )

    d = ctypes.byref(Dense(ctypes.sizeof(Dense), (1, SIZE, SIZE), RELU))
    how = ctypes.byref(Exec(ctypes.sizeof(Exec), 1))
    function, pointers = library.fbn_dense_forward, [ctypes.c_void_p(a.ctypes.data) for a in arrays]
    if function(d, *pointers, how) != 0:
        raise RuntimeError("ctypes: the call failed")
    return least(timed(lambda: function(d, *pointers, how)))


def rows() -> list[tuple[str, float]]:
    x, kernel, bias = np.ones((1, SIZE), np.float32), np.ones((SIZE, SIZE), np.float32), np.ones(SIZE, np.float32)
    y = np.empty((1, SIZE), np.float32)
    fastbn.set_num_threads(1)
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table.append(("C", compiled("call.c", "cc", folder)))
        table.append(("C++", compiled("call.cpp", "c++", folder)))
        module = cython_module(folder)
        for way, loop in (("pointers", module.pointers), ("memoryviews", module.memoryviews)):
            table.append((f"Cython, {way}", least(lambda calls, loop=loop: loop(x, kernel, bias, y, calls), 20000)))
    table.append(("ctypes", by_ctypes([x, kernel, bias, y])))
    table.append(("Python, fastbn.kernels", least(timed(lambda: kernels.dense_forward(x, kernel, bias, y, RELU)))))
    into = timed(lambda: ops.dense_forward(x, kernel, bias, activation="relu", out=y))
    table.append(("Python, fastbn.ops with out=", least(into)))
    table.append(("Python, fastbn.ops", least(timed(lambda: ops.dense_forward(x, kernel, bias, activation="relu")))))
    return table


def main() -> None:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    machine = names[0].partition(":")[2].strip() if names else platform.machine()
    compiler = run(shutil.which("cc") or "cc", "--version", cwd=SOURCES).splitlines()[0]
    versions = f"fastbn {fastbn.__version__}, Python {platform.python_version()}, NumPy {np.__version__}, {compiler}"
    print(f"{versions}, {machine}\n\n| way in | microseconds a call |\n|---|---|")
    for way, microseconds in rows():
        print(f"| {way} | {microseconds:.3g} |")


if __name__ == "__main__":
    main()
