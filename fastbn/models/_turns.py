"""Whose turn it is with the engine of a model: who chooses, replaces and trains it, in threads and after forks."""

from __future__ import annotations

import os
import threading
import weakref


class Turns:
    """One for each model. A thread that trains has the turn until it ends; others are refused, not kept waiting."""

    def __init__(self) -> None:
        self._running: list[tuple[str, int]] = []  # operations that train at this moment, and their threads
        self.choice = threading.RLock()  # held while an engine is chosen, or replaced
        _living[id(self)] = self

    @property
    def training(self) -> bool:
        """Whether any thread trains: the engine must stay the model's."""
        return bool(self._running)

    def refuse_while_training(self, operation: str) -> None:
        """Raises RuntimeError where a step of the training under way would go into an engine that is given up."""
        if self._running:
            raise RuntimeError(
                f"{operation}: the model must not be in training. Received: a call during {self._running[-1][0]}, "
                "from a callback or another thread"
            )

    def refuse_other_threads(self, operation: str) -> None:
        """Raises RuntimeError where another thread trains; this one may, from a callback."""
        for name, thread in self._running:
            if thread != threading.get_ident():
                raise RuntimeError(
                    f"{operation}: one thread at a time trains a model. Received: a call while it is training in "
                    f"another thread, in {name}"
                )

    def begin(self, operation: str) -> tuple[str, int]:
        """Take the turn, with `choice` held; what `end` must be given."""
        turn = (operation, threading.get_ident())
        self._running.append(turn)
        return turn

    def end(self, turn: tuple[str, int]) -> None:
        self._running.remove(turn)

    def _begin_anew(self) -> None:
        """In a forked child: other threads are not there, and what they had begun never ends."""
        self.choice = threading.RLock()
        self._running = [entry for entry in self._running if entry[1] == threading.get_ident()]


_living: weakref.WeakValueDictionary[int, Turns] = weakref.WeakValueDictionary()


def _after_fork_in_child() -> None:
    for turns in list(_living.values()):
        turns._begin_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)
