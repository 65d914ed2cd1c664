"""What `fastbn study all` takes beside the same runs in Keras (JAX) and PyTorch, from a sample of its cells.

    python bench/studies.py [--libraries fastbn,keras,torch] [--python keras=/path/to/python] [--epochs 3]
                            [--only REGEX] [--json FILE]

Each library runs on two cores in two ways: one process with two threads, and two processes at once with one thread
each, as `fastbn study --jobs 2` does; the way that finishes more cells counts. A sampled cell is warmed up by an epoch;
then the least of some epochs counts. Every other cell of the four studies is taken for the sampled one most like it,
and the whole is 5 seeds of 10 epochs. Epochs are of 60,000 images; long ones are measured on a part and multiplied.
fastbn also does what only `fastbn study` does: it looks at layer outputs after every epoch, and at gradients after
three of ten.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbn.study._studies import chosen
from fastbn.study._variants import Variant

BENCH = Path(__file__).resolve().parent

ROWS, SEEDS, EPOCHS, CORES = 60_000, 5, 10, 2
PART = 8_000, 240  # rows, and steps, of which a measured epoch has at least one

#: Every batch size and optimizer, the shallowest and the deepest network, none to all batch-norms.
GRADIENT = ("gradient",)
SAMPLE = (
    Variant("sigmoid", 0),
    Variant("sigmoid", 4),
    Variant("relu", 1),
    Variant("relu", 16, hidden=16),
    Variant("sigmoid", 1, optimizer="adam"),
    Variant("sigmoid", 0, batch_size=4, probes=GRADIENT),
    Variant("sigmoid", 1, batch_size=4, probes=GRADIENT),
    Variant("sigmoid", 1, batch_size=64, probes=GRADIENT),
    Variant("sigmoid", 0, batch_size=256, probes=GRADIENT),
    Variant("sigmoid", 1, batch_size=1024, probes=GRADIENT),
)


def label(variant: Variant) -> str:
    depth = f", {variant.hidden} layers" if variant.hidden != 4 else ""
    return f"{variant.activation}{depth}, {variant.batch_norms} BN, {variant.optimizer}, batch {variant.batch_size}"


def most_like(variant: Variant, sample: list[Variant]) -> Variant:
    """The sampled variant that stands for this one: the batch size first, then depth, optimizer, batch-norms."""

    def distance(other: Variant) -> tuple[float, ...]:
        return (
            abs(other.batch_size - variant.batch_size),
            abs(other.hidden - variant.hidden),
            float(other.optimizer != variant.optimizer),
            abs(other.batch_norms - variant.batch_norms),
            float(other.activation != variant.activation),
        )

    return min(sample, key=distance)


class Worker:
    """A framework in a process of its own, on these processors."""

    def __init__(self, name: str, python: str, cpus: list[int]) -> None:
        settings = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(BENCH), os.environ.get("PYTHONPATH", "")])),
            "OMP_NUM_THREADS": str(len(cpus)),
            "MKL_NUM_THREADS": str(len(cpus)),
            "NPROC": str(len(cpus)),  # XLA's client
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
        }
        self.process = subprocess.Popen(
            [python, "-m", "benching.study_worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **settings},
            cwd=BENCH,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        self.version = str(self.answer()["version"])

    def send(self, **asked: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("studies: a worker ended; what it said stands above")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Way:
    """How a library uses the cores: the processors of each of its processes."""

    name: str
    processes: tuple[tuple[int, ...], ...]


def ways() -> list[Way]:
    cpus = sorted(os.sched_getaffinity(0))[:CORES]
    return [Way("2 threads", (tuple(cpus),)), Way("2 processes", tuple((cpu,) for cpu in cpus))]


def measure(name: str, python: str, way: Way, sample: list[Variant], epochs: int) -> tuple[str, dict[str, float]]:
    """Version, and for each variant the seconds of an epoch with validation, by the whole of the cores."""
    workers = [Worker(name, python, list(cpus)) for cpus in way.processes]
    found = {}
    for variant in sample:
        rows = min(ROWS, max(PART[0], PART[1] * variant.batch_size))
        for ask in (
            {"command": "prepare", "variant": variant.values(), "rows": rows},
            {"command": "run", "epochs": epochs},
        ):
            for worker in workers:
                worker.send(**ask)
            answers = [worker.answer() for worker in workers]
        seconds = [answer["train"] * ROWS / rows + answer["validation"] for answer in answers]
        found[label(variant)] = max(seconds) / len(workers)
    for worker in workers:
        worker.close()
    return workers[0].version, found


def table(results: dict[str, Any]) -> str:
    """Markdown: each sampled cell's epoch in every library, in its better way, and the whole of `study all`."""
    names = [name for name in ("fastbn", "keras", "torch") if name in results["libraries"]]
    best = {
        name: {cell: min(way[cell] for way in found["ways"].values()) for cell in next(iter(found["ways"].values()))}
        for name, found in results["libraries"].items()
    }
    everywhere = set.intersection(*(set(cells) for cells in best.values()))
    sample = [v for v in map(Variant.of, results["sample"]) if label(v) in everywhere]
    variants = {v for study in chosen("all") for v in study.variants.values()}
    whole = dict.fromkeys(names, 0.0)
    stands_for = dict.fromkeys(map(label, sample), 0)
    for variant in variants:
        cell = label(most_like(variant, sample))
        stands_for[cell] += 1
        for name in names:
            whole[name] += best[name][cell] * SEEDS * EPOCHS
    others = names[1:]
    lines = ["| cell | stands for | " + " | ".join(f"{name}, s an epoch" for name in names) + " | fastbn / "
             + " | fastbn / ".join(others) + " |", "|---" * (2 + len(names) + len(others)) + "|"]  # fmt: skip
    rows = [(cell, str(count), {name: best[name][cell] for name in names}) for cell, count in stands_for.items()]
    rows.append((f"all: {len(variants)} variants, {SEEDS} seeds, {EPOCHS} epochs, minutes", str(len(variants)),
                 {name: whole[name] / 60 for name in names}))  # fmt: skip
    for cell, count, values in rows:
        ratios = [f"{values[names[0]] / values[other]:.2f}" for other in others]
        lines.append("| " + " | ".join([cell, count, *(f"{values[name]:.3g}" for name in names), *ratios]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--libraries", default="fastbn,keras,torch", help="which to measure")
    parser.add_argument("--python", action="append", default=[], metavar="LIBRARY=INTERPRETER")
    parser.add_argument("--epochs", type=int, default=3, help="measured epochs of a cell, the least of which counts")
    parser.add_argument("--only", default="", metavar="REGEX", help="cells of the sample whose label matches")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="add what was measured to a file; the table shows all of it"
    )
    options = parser.parse_args()
    pythons = dict(item.split("=", 1) for item in options.python)
    sample = [variant for variant in SAMPLE if re.search(options.only, label(variant))]
    results: dict[str, Any] = {"sample": [], "libraries": {}}
    if options.json is not None and options.json.is_file():
        results = json.loads(options.json.read_text())
    results["sample"] += [v.values() for v in sample if v.values() not in results["sample"]]
    for name in options.libraries.split(","):
        found = results["libraries"].setdefault(name, {"ways": {}})
        for way in ways():
            version, seconds = measure(name, pythons.get(name, sys.executable), way, sample, options.epochs)
            found["version"] = version
            known = found["ways"].setdefault(way.name, {})
            known.update({cell: min(taken, known.get(cell, taken)) for cell, taken in seconds.items()})
            print(f"{version}, {way.name}: " + ", ".join(f"{s:.3g} s" for s in seconds.values()), file=sys.stderr)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
