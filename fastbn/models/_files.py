"""Weights in a .npz file: written whole or not at all, and checked before any is taken."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fastbn._arrays import Float32
from fastbn._files import whole_file


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Float32]) -> None:
    """Raises ValueError for another kind of file, FileNotFoundError where its folder is not there."""
    target = Path(path)
    if target.suffix != ".npz":
        raise ValueError(f"save_weights: weights are written as .npz files. Received: {os.fspath(path)!r}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"save_weights: the file's folder must be there. Received: {os.fspath(path)!r}")
    try:
        with whole_file(target) as part, part.open("wb") as file:
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]  # its stub takes the names for its own options
    except Exception as error:
        raise _interrupt_behind(error) from None


def _interrupt_behind(error: BaseException) -> BaseException:
    """The interrupt (Ctrl-C) that made the closing of a half-written archive fail, or the error itself."""
    cause = error.__context__
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__context__
    return error if cause is None else cause


def read_arrays(path: str | os.PathLike[str], wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Float32]:
    """The arrays of these names and shapes.

    Raises ValueError, naming the file, where it is damaged or belongs to another model; OSError where it is not there.
    """
    file = os.fspath(path)
    with open(file, "rb") as handle:
        try:
            if not zipfile.is_zipfile(handle):
                raise ValueError("it is no archive, or not a whole one")
            handle.seek(0)
            stored = np.load(handle, allow_pickle=False)
            arrays = {name: stored[name] for name in stored.files}
        except Exception as error:  # whatever NumPy, zipfile and zlib make of bytes that are not as they were written
            raise ValueError(
                f"load_weights: not a readable .npz file of weights ({error}). Received: {file!r}"
            ) from None
    if set(arrays) != set(wanted):
        missing, extra = sorted(set(wanted) - set(arrays)), sorted(set(arrays) - set(wanted))
        raise ValueError(
            "load_weights: the file must hold this model's weights. "
            f"Received: {file!r}, without {missing}, with {extra}"
        )
    for name, shape in wanted.items():
        if arrays[name].shape != shape or arrays[name].dtype != np.float32:
            raise ValueError(
                f"load_weights: {name} must be float32 of shape {shape}. "
                f"Received: {arrays[name].dtype} of shape {arrays[name].shape} in {file!r}"
            )
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
