"""Arrays that catch what should not happen: reads before writes, writes out of bounds, assumptions about alignment."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MARGIN = 256  # bytes on either side of a guarded array
CANARY = 0xA5


class Guarded:
    """An array of NaN (integers: of 0xA5 bytes) between canaries; `offset` bytes past 64-byte alignment."""

    def __init__(self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32, offset: int = 0) -> None:
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        self._memory = np.full(size + 2 * MARGIN + 128, CANARY, np.uint8)
        start = MARGIN + (-(self._memory.ctypes.data + MARGIN)) % 64 + offset
        self._body = slice(start, start + size)
        self.array = self._memory[self._body].view(dtype).reshape(shape)
        if dtype.kind == "f":
            self.array.fill(np.nan)
        self.before = self.array.tobytes()

    def check(self) -> npt.NDArray[np.generic]:
        """The array, after checking that nothing around it was touched."""
        assert (self._memory[: self._body.start] == CANARY).all(), "wrote before the array"
        assert (self._memory[self._body.stop :] == CANARY).all(), "wrote past the array"
        return self.array

    def check_untouched(self) -> None:
        self.check()
        assert self.array.tobytes() == self.before, "wrote to the output of a call that failed"


def unaligned(x: npt.NDArray[np.generic] | None, offset: int = 4) -> npt.NDArray[np.generic] | None:
    """A copy at `offset` bytes past a multiple of 64."""
    if x is None:
        return None
    guarded = Guarded(x.shape, x.dtype, offset)
    guarded.array[...] = x
    assert guarded.array.ctypes.data % 64 == offset or x.size == 0
    return guarded.array


def every_second(x: npt.NDArray[np.generic] | None) -> npt.NDArray[np.generic] | None:
    """The same values in a view with gaps along every axis; the gaps hold NaN."""
    if x is None:
        return None
    wide = np.full([2 * n for n in x.shape], np.nan if x.dtype.kind == "f" else 0, x.dtype)
    view = wide[tuple(slice(0, 2 * n, 2) for n in x.shape)]
    view[...] = x
    return view


def reversed_axes(x: npt.NDArray[np.generic] | None) -> npt.NDArray[np.generic] | None:
    """The same values in a view with negative strides."""
    if x is None:
        return None
    flip = (slice(None, None, -1),) * x.ndim
    return x[flip].copy()[flip]


def transposed(x: npt.NDArray[np.generic] | None) -> npt.NDArray[np.generic] | None:
    """The same values in Fortran order."""
    return None if x is None else np.asfortranarray(x)


VIEWS = {"gaps": every_second, "negative_strides": reversed_axes, "fortran": transposed, "unaligned": unaligned}


def walled(x: npt.NDArray[np.float32] | None, at_end: bool) -> npt.NDArray[np.float32] | None:
    """A copy that ends (else: begins) where memory that nobody may read begins (ends): a stray access is a crash."""
    if x is None or x.size == 0:
        return x
    page = mmap.PAGESIZE
    inside = -(-x.nbytes // page) * page
    memory = mmap.mmap(-1, inside + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None).mprotect
    for wall in (start, start + page + inside):
        assert protect(ctypes.c_void_p(wall), ctypes.c_size_t(page), 0) == 0
    array = np.frombuffer(memory, x.dtype, x.size, page + (inside - x.nbytes if at_end else 0)).reshape(x.shape)
    array[...] = x
    return array
