"""fastbn: CPU kernels for convolution, dense and batch-norm layers, and a Keras-style training loop over them.

`fastbn.ops` has the kernels as functions of arrays; `fastbn.Sequential`, `fastbn.layers`, `fastbn.optimizers` and so on
have Keras' names and meaning, and train as one recorded program per step. Importing this needs NumPy alone.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

if find_spec("fastbn._core") is None:  # the source folder, first on the path of a Python started beside it
    raise ImportError(
        f"fastbn: the folder {__path__[0]!r} holds sources without compiled modules. Start Python in another folder "
        "to get the installed fastbn, or install in place: pip install -e . --no-build-isolation"
    )

from fastbn import (
    _core,
    activations,
    backend,
    callbacks,
    initializers,
    layers,
    losses,
    metrics,
    models,
    ops,
    optimizers,
    runtime,
    utils,
)
from fastbn.layers import Input, Layer
from fastbn.models import Model, Sequential
from fastbn.runtime import get_num_threads, num_threads, set_num_threads

__version__ = _core.version()

__all__ = [
    "Input",
    "Layer",
    "Model",
    "Sequential",
    "__version__",
    "activations",
    "backend",
    "callbacks",
    "get_num_threads",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "num_threads",
    "ops",
    "optimizers",
    "runtime",
    "set_num_threads",
    "utils",
]

_LAZY = ("cli", "config", "costs", "datasets", "explain", "kernels", "networks", "study")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"fastbn.{name}")
    raise AttributeError(f"module 'fastbn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_LAZY])
