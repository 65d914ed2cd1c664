"""Which inner loops of the kernels keep vectors on the stack? Reads a library that still has its symbols.

    cmake --preset release && cmake --build --preset release
    python bench/spills.py build/release/csrc/libfastbn.so --only 'tile|planar|depthwise|avx512.*sums'

An inner loop is what lies between a jump backwards and its target with no other such loop within, and counts if it
multiplies and adds vectors. A spill is a vector that such a loop writes to the stack; one that it only reads from there
is counted apart, as a load. Exits with 1 where a loop writes vectors to the stack.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*?)\s*(?:#.*|<.*>)?$")
_VECTOR = re.compile(r"%[xyz]mm\d+")
_STACK = re.compile(r"\(%rsp|\(%rbp")
_MULTIPLY_ADD = re.compile(r"^vfn?m(add|sub)\d+p[sd]$")


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    operands: str


@dataclass(frozen=True)
class Loop:
    function: str
    address: int
    instructions: int
    multiply_adds: int
    stores: int
    loads: int


def functions(library: Path) -> Iterator[tuple[str, list[Instruction]]]:
    """Names and instructions of the functions of the kernels."""
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", str(library)]
    name, body = "", list[Instruction]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if head := _FUNCTION.match(line):
                if body:
                    yield name, body
                name, body = head[1], []
            elif re.search(r"fastbn::(avx512|avx2)::", name) and (found := _INSTRUCTION.match(line)):
                body.append(Instruction(int(found[1], 16), found[2], found[3]))
    if process.returncode:
        raise SystemExit(f"objdump ended with {process.returncode}")
    if body:
        yield name, body


def inner_loops(name: str, body: list[Instruction]) -> Iterator[Loop]:
    places = {instruction.address: i for i, instruction in enumerate(body)}
    spans = set()
    for i, instruction in enumerate(body):
        if instruction.name.startswith("j") and re.fullmatch(r"[0-9a-f]+", instruction.operands):
            target = places.get(int(instruction.operands, 16))
            if target is not None and target <= i:
                spans.add((target, i))
    for first, last in sorted(spans):
        if any(first <= a and b <= last and (a, b) != (first, last) for a, b in spans):
            continue
        loop = body[first : last + 1]
        multiply_adds = sum(bool(_MULTIPLY_ADD.match(instruction.name)) for instruction in loop)
        if multiply_adds == 0:
            continue
        stores = loads = 0
        for instruction in loop:
            if not (_STACK.search(instruction.operands) and _VECTOR.search(instruction.operands)):
                continue
            if instruction.name.startswith("vmov") and instruction.operands.endswith(")"):  # the target comes last
                stores += 1
            else:
                loads += 1
        yield Loop(name, loop[0].address, len(loop), multiply_adds, stores, loads)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("--only", metavar="REGEX", type=re.compile, default=re.compile(""), help="functions to look at")
    parser.add_argument("--all", action="store_true", help="list every loop, not only those that touch the stack")
    options = parser.parse_args()
    loops = [
        loop
        for name, body in functions(options.library)
        if options.only.search(name)
        for loop in inner_loops(name, body)
    ]
    if not loops:
        raise SystemExit(f"{options.library} shows no loop of a kernel: a stripped library, or not one of fastbn's")
    for loop in sorted(loops, key=lambda loop: -loop.multiply_adds):
        if options.all or loop.stores or loop.loads:
            print(
                f"{loop.address:x} {loop.instructions:4d} instructions, {loop.multiply_adds:3d} multiply-adds, "
                f"{loop.stores:2d} stores, {loop.loads:2d} loads: {loop.function}"
            )
    spilled = [loop for loop in loops if loop.stores]
    print(f"{len(loops)} inner loops, {len(spilled)} write vectors to the stack")
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())
