"""Whose turn it is with the engine of a model: who chooses, replaces and trains it, in threads and after forks."""

from __future__ import annotations

import os
import threading
import weakref


class Turn:
    """An operation that trains, in a thread. Whoever made it sets `over` at its end, whether or not it had begun.

    That is an assignment and no call: an interrupt (Ctrl-C) comes before it or after, and none can leave a turn behind.
    """

    __slots__ = ("operation", "over", "thread")

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.thread = threading.get_ident()
        self.over = False


class Turns:
    """One for each model. A thread that trains has the turn until it ends; others are refused, not kept waiting."""

    def __init__(self) -> None:
        self._begun: list[Turn] = []
        self.choice = threading.RLock()  # held while an engine is chosen, or replaced
        _living[id(self)] = self

    @property
    def training(self) -> bool:
        """Whether any thread trains: the engine must stay the model's."""
        return any(not turn.over for turn in self._begun)

    def refuse_while_training(self, operation: str) -> None:
        """Raises RuntimeError where a step of the training under way would go into an engine that is given up."""
        for turn in reversed(self._begun):
            if not turn.over:
                raise RuntimeError(
                    f"{operation}: the model must not be in training. Received: a call during {turn.operation}, "
                    "from a callback or another thread"
                )

    def refuse_other_threads(self, operation: str) -> None:
        """Raises RuntimeError where another thread trains; this one may, from a callback."""
        for turn in self._begun:
            if not turn.over and turn.thread != threading.get_ident():
                raise RuntimeError(
                    f"{operation}: one thread at a time trains a model. Received: a call while it is training in "
                    f"another thread, in {turn.operation}"
                )

    def begin(self, turn: Turn) -> None:
        """Take the turn, with `choice` held."""
        self._begun = [begun for begun in self._begun if not begun.over]
        self._begun.append(turn)

    def _begin_anew(self) -> None:
        """In a forked child: other threads are not there, and what they had begun never ends."""
        self.choice = threading.RLock()
        self._begun = [turn for turn in self._begun if turn.thread == threading.get_ident()]


_living: weakref.WeakValueDictionary[int, Turns] = weakref.WeakValueDictionary()


def _after_fork_in_child() -> None:
    for turns in list(_living.values()):
        turns._begin_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)
