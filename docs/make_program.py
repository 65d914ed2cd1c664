"""Write the programs that docs/program.md shows, as its Python blocks print them: `python docs/make_program.py`."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parent / "program.md"
PAIR = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)


def main() -> None:
    names: dict[str, object] = {}

    def with_output(match: re.Match[str]) -> str:
        source, output = match.group(1), io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(source, names)
        return f"```python\n{source}```\n\n```text\n{output.getvalue().rstrip()}\n```\n"

    PAGE.write_text(PAIR.sub(with_output, PAGE.read_text()))


if __name__ == "__main__":
    main()
