"""Files written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _part_beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that takes its place when the block ends without an exception.

    Where `target` is a link, the file that it names is replaced. A device or a pipe is given itself.
    """
    target = Path(os.path.realpath(target))
    if target.exists() and not target.is_file():
        yield target
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part_beside(target)
    try:
        part.touch(exist_ok=False)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def require_writable(target: Path) -> None:
    """Raises OSError, naming the target, where `whole_file` could not begin: before work that it is to hold."""
    target = Path(os.path.realpath(target))
    if target.exists() and not target.is_file():
        return
    part = _part_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)
    except OSError as error:
        raise type(error)(f"cannot write {target}: {error.strerror}") from None
    finally:
        if target.parent.is_dir():
            part.unlink(missing_ok=True)
