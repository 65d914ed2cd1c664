"""Where the C headers, the CMake package and the pkg-config file of this installation are."""

from importlib.util import find_spec
from pathlib import Path

__all__ = ["get_cmake_dir", "get_include", "get_pkgconfig_dir"]


def _prefix() -> Path:
    """The install prefix: the folder of the compiled modules (in an editable install not that of this file)."""
    spec = find_spec("fastbn._core")
    if spec is None or spec.origin is None:
        raise ImportError("fastbn: the extension module fastbn._core must be installed. Received: none found")
    return Path(spec.origin).parent


def get_include() -> str:
    """Return the folder to put on a compiler's include path; it holds fastbn/fastbn.h."""
    return str(_prefix() / "include")


def get_cmake_dir() -> str:
    """Return the folder of fastbnConfig.cmake, for `cmake -Dfastbn_DIR=...`."""
    return str(_prefix() / "lib" / "cmake" / "fastbn")


def get_pkgconfig_dir() -> str:
    """Return the folder of fastbn.pc, for PKG_CONFIG_PATH."""
    return str(_prefix() / "lib" / "pkgconfig")
