"""The command `fastbn`. Nothing but this module is imported before a command is chosen."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line: the entry point of `fastbn` and of `python -m fastbn`."""
    from fastbn.cli.app import app

    app(prog_name="fastbn")
