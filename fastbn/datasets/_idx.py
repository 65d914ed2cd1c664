"""The IDX file format: two zero bytes, a type, a rank, the sizes as big-endian int32, then the values."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_UINT8 = 0x08


def read_bytes(path: Path) -> bytes:
    """The file's content, decompressed where it is gzip's. Raises ValueError with the file's name if that fails."""
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"datasets: a data file is damaged or cut short: {error}. Received: {path}") from error


def header(shape: tuple[int, ...]) -> bytes:
    """What stands before the values of a uint8 array of this shape."""
    return bytes([0, 0, _UINT8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)


def parse(data: bytes, shape: tuple[int, ...], path: Path) -> NDArray[np.uint8]:
    """The values of an IDX file that must hold a uint8 array of `shape`."""
    expected = header(shape)
    if data[: len(expected)] != expected:
        raise ValueError(
            f"datasets: a data file must be IDX with uint8 values of shape {shape}. "
            f"Received: {path} beginning with {data[: len(expected)].hex(' ')}"
        )
    values = math.prod(shape)
    if len(data) != len(expected) + values:
        raise ValueError(
            f"datasets: a data file must hold {len(expected) + values} bytes. Received: {path} with {len(data)} bytes"
        )
    # A copy of its own, writable as Keras' arrays are.
    array: NDArray[np.uint8] = np.frombuffer(data, dtype=np.uint8, offset=len(expected)).reshape(shape).copy()
    return array
