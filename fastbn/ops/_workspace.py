"""Temporary memory of operators, made once by the caller."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn import _core
from fastbn._arrays import allocate, integer

_ALIGNMENT = 64  # of the C interface


class _Entered(threading.local):
    """The workspaces that a thread is inside of, the last one in force: what the kernels may write to stays alive."""

    def __init__(self) -> None:
        self.workspaces: list[Workspace] = []


_entered = _Entered()


class Workspace:
    """Temporary memory for the calls inside `with workspace:` on one thread; they allocate none of their own.

    Without one a thread keeps what its calls needed, up to 256 MiB, and larger calls allocate each time. A call that
    needs more than `size` bytes (see `workspace_size`) raises ValueError. Inside another workspace the inner one is in
    force, and the outer one again after it.

    Raises ValueError for a negative size, MemoryError where there is not so much, RuntimeError where it is entered
    while another thread is inside, or left by another thread than entered it.
    """

    def __init__(self, size: int) -> None:
        self.size = integer("Workspace", "size", size)
        if self.size < 0:
            raise ValueError(f"Workspace: size must not be negative. Received: size={self.size}")
        memory = allocate("Workspace", (self.size + _ALIGNMENT,), np.dtype(np.uint8))
        begin = -memory.ctypes.data % _ALIGNMENT
        self._memory = memory[begin : begin + max(self.size, 1)]  # an empty slice would begin elsewhere
        self._thread: int | None = None  # that is inside

    def __enter__(self) -> Workspace:
        thread = threading.get_ident()
        if self._thread not in (None, thread):
            raise RuntimeError("Workspace: one thread at a time may be inside. Received: a second thread")
        self._thread = thread
        _entered.workspaces.append(self)
        _core.set_workspace(self._memory)
        return self

    def __exit__(self, *_: object) -> None:
        workspaces = _entered.workspaces
        if not workspaces or workspaces[-1] is not self:
            raise RuntimeError("Workspace: must be left by the thread that entered it, the last one first")
        workspaces.pop()
        _core.set_workspace(workspaces[-1]._memory if workspaces else None)
        if self not in workspaces:
            self._thread = None


def workspace_size(function: Callable[..., Any], *arguments: Any, **options: Any) -> int:
    """Bytes of temporary memory that a call of an operator needs: `workspace_size(ops.conv2d_forward, x, kernel)`.

    The call is checked and nothing is computed; its errors are raised.

    `function` may also be one of yours that calls an operator, the last of which counts.

    Raises TypeError where it is not callable or calls none.
    """
    if not callable(function):
        raise TypeError(f"workspace_size: takes an operator. Received: {function!r}")
    _core.begin_workspace_query()
    try:
        function(*arguments, **options)
    finally:
        size = _core.end_workspace_query()
    if size is None:
        raise TypeError(f"workspace_size: takes an operator. Received: {function!r}, which called none")
    return size
