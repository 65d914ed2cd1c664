"""Projects that build on the installed package: CMake, pkg-config and Cython."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from harness.installed import needs_wheel

import fastbn

pytestmark = [pytest.mark.slow, needs_wheel]

# One dense layer on numbers that have to come out exactly.
PROGRAM = r"""
#include <fastbn/fastbn.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  fbn_dense d;
  float x[6] = {1, 2, 3, 4, 5, 6}, kernel[6] = {1, 0, 0, 1, 1, 1}, bias[2] = {10, -20}, y[4];
  memset(&d, 0, sizeof d);
  d.struct_size = sizeof d;
  d.rows = 2;
  d.in_features = 3;
  d.out_features = 2;
  d.activation = FBN_RELU;
  if (fbn_dense_forward(&d, x, kernel, bias, y, NULL) != FBN_OK) {
    fprintf(stderr, "%s\n", fbn_last_error());
    return 1;
  }
  printf("%s %g %g %g %g\n", fbn_version(), y[0], y[1], y[2], y[3]);
  d.rows = -1;
  return fbn_dense_forward(&d, x, kernel, bias, y, NULL) == FBN_INVALID_VALUE ? 0 : 2;
}
"""
EXPECTED = f"{fastbn.__version__} 14 0 20 0"  # x W + b = (4, 5), (10, 11) + (10, -20)


def run(command: list[str], **options) -> str:
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def tool(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def where(option: str, folder: Path) -> str:
    return run([sys.executable, "-m", "fastbn", option], cwd=folder).strip()


@pytest.mark.parametrize(("language", "suffix"), [("C", "c"), ("CXX", "cpp")])
def test_cmake(language, suffix, tmp_path):
    (tmp_path / f"main.{suffix}").write_text(PROGRAM)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\n"
        f"project(consumer LANGUAGES {language})\n"
        f"find_package(fastbn {fastbn.__version__} CONFIG REQUIRED)\n"
        f"add_executable(consumer main.{suffix})\n"
        "target_link_libraries(consumer PRIVATE fastbn::fastbn)\n"
    )
    cmake = tool("cmake")
    run([cmake, "-S", str(tmp_path), "-B", str(tmp_path / "build"), f"-Dfastbn_DIR={where('--cmakedir', tmp_path)}"])
    run([cmake, "--build", str(tmp_path / "build")])
    assert run([str(tmp_path / "build" / "consumer")]).strip() == EXPECTED


def test_pkg_config(tmp_path):
    (tmp_path / "main.c").write_text(PROGRAM)
    environment = {**os.environ, "PKG_CONFIG_PATH": where("--pkgconfigdir", tmp_path)}
    pkg_config = tool("pkg-config")
    flags = run([pkg_config, "--cflags", "--libs", "fastbn"], env=environment).split()
    version = run([pkg_config, "--modversion", "fastbn"], env=environment).strip()
    assert version == fastbn.__version__
    run([tool("cc"), str(tmp_path / "main.c"), "-o", str(tmp_path / "consumer"), *flags])
    assert run([str(tmp_path / "consumer")]).strip() == EXPECTED


CYTHON = """
# cython: language_level=3
from fastbn.kernels cimport fbn_dense, fbn_dense_forward, fbn_version
from libc.string cimport memset

def dense(float[:, ::1] x, float[:, ::1] kernel, float[:, ::1] y):
    cdef fbn_dense d
    memset(&d, 0, sizeof(d))
    d.struct_size = sizeof(d)
    d.rows = x.shape[0]
    d.in_features = x.shape[1]
    d.out_features = kernel.shape[1]
    cdef int status
    with nogil:
        status = fbn_dense_forward(&d, &x[0, 0], &kernel[0, 0], NULL, &y[0, 0], NULL)
    return status, fbn_version()
"""
USE = """
import numpy as np, consumer
x, kernel, y = np.arange(6, dtype="f4").reshape(2, 3), np.ones((3, 2), "f4"), np.zeros((2, 2), "f4")
status, version = consumer.dense(x, kernel, y)
print(status, version.decode(), y.tolist())
"""


def test_cython(tmp_path):
    pytest.importorskip("Cython", reason="Cython is not installed (it is in the test extra)")
    (tmp_path / "consumer.pyx").write_text(CYTHON)
    run([sys.executable, "-m", "cython", "-3", "consumer.pyx"], cwd=tmp_path)
    includes = [f"-I{fastbn.config.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    output = f"consumer{sysconfig.get_config_var('EXT_SUFFIX')}"
    run([tool("cc"), "-shared", "-fPIC", "-O1", *includes, "consumer.c", "-o", output], cwd=tmp_path)
    found = run([sys.executable, "-c", USE], cwd=tmp_path).strip()
    assert found == f"0 {fastbn.__version__} [[3.0, 3.0], [12.0, 12.0]]"
