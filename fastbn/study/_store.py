"""A study on disk: a file for each finished cell, written whole or not at all, found again by its key."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fastbn._files import require_writable, whole_file


class Store:
    """The folder of a study's results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells = folder / "cells"

    def require_writable(self) -> None:
        """Raises OSError where no cell could be kept."""
        require_writable(self.cells / "cell")

    def any_cells(self) -> bool:
        return any(self.cells.glob("*.json"))

    def has(self, key: str) -> bool:
        return self._path(key).is_file()

    def read(self, key: str) -> dict[str, Any]:
        """The record of a finished cell. Raises ValueError, naming the file, where it is damaged."""
        path = self._path(key)
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            if record["key"] != key:
                raise ValueError(f"it holds the cell {record['key']!r}")
            if "result" not in record:
                raise ValueError("it holds no result")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"study: not a readable cell; remove it ({error}). Received: {path}") from None
        return record

    def write(self, record: dict[str, Any]) -> None:
        self.put(self._path(record["key"]).relative_to(self.folder), dumped(record) + "\n")

    def put(self, name: Path | str, text: str) -> None:
        """Write a text file of the folder whole or not at all."""
        with whole_file(self.folder / name) as part:
            part.write_text(text, encoding="utf-8")

    def _path(self, key: str) -> Path:
        return self.cells / f"{key}.json"


def without_nan(value: Any) -> Any:
    """Plain values with None for the numbers that JSON has not: NaN and infinity."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dumped(value: Any) -> str:
    return json.dumps(without_nan(value), separators=(",", ":"), allow_nan=False)
