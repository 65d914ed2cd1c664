"""The command `fastbn`. Nothing but this module is imported before a command is chosen."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line: the entry point of `fastbn` and of `python -m fastbn`.

    A setting in the environment that nothing can run with ends every command with one line.
    """
    from fastbn.cli.app import app

    try:
        app(prog_name="fastbn")
    except ValueError as error:
        if not str(error).startswith("FASTBN_"):
            raise
        raise SystemExit(f"fastbn: {error}") from None
    except OSError as error:  # of the output: commands name those of their own
        raise SystemExit(f"fastbn: {error}") from None
