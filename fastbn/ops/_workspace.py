"""Temporary memory of operators, made once by the caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn import _core
from fastbn._arrays import allocate, integer

_ALIGNMENT = 64  # of the C interface


class Workspace:
    """Temporary memory for the calls inside `with workspace:` on one thread; they allocate none of their own.

    Without one a thread keeps what its calls needed, up to 256 MiB, and larger calls allocate each time. A call that
    needs more than `size` bytes (see `workspace_size`) raises ValueError.

    Raises ValueError for a negative size, MemoryError where there is not so much.
    """

    def __init__(self, size: int) -> None:
        self.size = integer("Workspace", "size", size)
        if self.size < 0:
            raise ValueError(f"Workspace: size must not be negative. Received: size={self.size}")
        memory = allocate("Workspace", (self.size + _ALIGNMENT,), np.uint8)
        begin = -memory.ctypes.data % _ALIGNMENT
        self._memory = memory[begin : begin + max(self.size, 1)]  # an empty slice would begin elsewhere

    def __enter__(self) -> Workspace:
        _core.set_workspace(self._memory)
        return self

    def __exit__(self, *_: object) -> None:
        _core.set_workspace(None)


def workspace_size(function: Callable[..., Any], *arguments: Any, **options: Any) -> int:
    """Bytes of temporary memory that a call of an operator needs: `workspace_size(ops.conv2d_forward, x, kernel)`.

    The call is checked and nothing is computed; its errors are raised.
    """
    _core.begin_workspace_query()
    try:
        function(*arguments, **options)
    finally:
        size = _core.end_workspace_query()
    return size
