"""The binary interface of libfastbn as text: what a C compiler makes of fastbn.h.

    python tests/harness/abi.py > csrc/abi.txt

One line for each function with the types of its arguments, each enumerator and constant with its value, each struct
with its size, and each field with offset, size and type.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _squeezed(text: str) -> str:
    return re.sub(r"\s*([(),*])\s*", r"\1 ", " ".join(text.split())).replace("( ", "(").replace(" )", ")").strip()


def _type(argument: str) -> str:
    """The type of `const float* const* slots`, say: all but the name."""
    argument = argument.strip()
    found = re.fullmatch(r"(.*[\s*])(\w+)", argument, re.DOTALL)
    return _squeezed(found.group(1) if found and argument != "void" else argument).replace(" *", "*").strip()


def _fields(body: str) -> list[tuple[str, str]]:
    """Names and types of a struct's fields."""
    fields = []
    for declaration in filter(None, (part.strip() for part in body.split(";"))):
        if pointer := re.search(r"\(\*(\w+)\)", declaration):
            fields.append((pointer.group(1), _squeezed(declaration.replace(pointer.group(1), "", 1))))
            continue
        first, *others = declaration.split(",")
        base = re.fullmatch(r"(.*[\s*])(\w+(?:\[\w+\])?)", first.strip(), re.DOTALL)
        assert base is not None, declaration
        for name in (base.group(2), *(other.strip() for other in others)):
            plain, bracket, extent = name.partition("[")
            fields.append((plain, _squeezed(base.group(1)) + bracket + extent))
    return fields


def describe(header: Path, compiler: str) -> list[str]:
    """The lines, sorted within each kind. Raises AssertionError where the header does not compile."""
    text = re.sub(r"/\*.*?\*/", " ", header.read_text(), flags=re.DOTALL)
    functions = re.findall(r"FBN_API\s+([^;()]*?)(fbn_\w+)\s*\(([^;]*)\)\s*;", text)
    lines = [
        f"function {_type(result + ' x')} {name}({', '.join(_type(a) for a in arguments.split(','))})"
        for result, name, arguments in functions
    ]
    pointers = re.findall(r"typedef ([^;{}]*\(\*fbn_\w+\)[^;]*);", text)
    lines += [f"pointer {_squeezed(pointer)}" for pointer in pointers]
    constants = re.findall(r"#define (FBN_\w+) \d", text)
    for body in re.findall(r"typedef enum fbn_\w+\s*\{(.*?)\}", text, re.DOTALL):
        constants += re.findall(r"\b(FBN_\w+)", body)
    constants = [name for name in constants if not name.startswith("FBN_VERSION_")]
    prints = [f'printf("constant {name} %d\\n", (int)({name}));' for name in constants]
    for name, body in re.findall(r"typedef struct (fbn_\w+)\s*\{(.*?)\}\s*\w+;", text, re.DOTALL):
        prints.append(f'printf("struct {name} %zu\\n", sizeof({name}));')
        prints += [
            f'printf("field {name}.{field} at %zu, %zu bytes: {kind}\\n", offsetof({name}, {field}), '
            f"sizeof((({name}*)0)->{field}));"
            for field, kind in _fields(body)
        ]
    source = (
        "#include <fastbn/fastbn.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(prints) + "\nreturn 0;\n}\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "layout.c").write_text(source)
        command = [compiler, "-std=c11", f"-I{header.parents[1]}", "layout.c", "-o", "layout"]
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        printed = subprocess.run([str(folder / "layout")], check=True, capture_output=True, text=True).stdout
    return sorted(lines) + printed.splitlines()


if __name__ == "__main__":
    sys.stdout.write("\n".join(describe(ROOT / "csrc/include/fastbn/fastbn.h", shutil.which("cc") or "cc")) + "\n")
