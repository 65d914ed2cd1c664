"""What every worker process does: read one command a line, answer one line, run one measurement at a time.

Between commands a worker blocks on its pipe and uses no processor time, so whatever is measured runs
alone. A framework's worker subclasses Worker and prepares *variants* of a work (memory formats, eager or
compiled, ...); the session calibrates them and goes on with the fastest.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from .works import Work

# A measured chunk is long enough for the clock and for what a framework does asynchronously.
CHUNK_SECONDS = 0.004


class Variant:
    """One way of doing a work: `run(calls)` does it `calls` times and returns when all of it is done."""

    def __init__(
        self, run: Callable[[int], object], results: Callable[[], dict[str, np.ndarray]], units: int = 1
    ) -> None:
        self.run = run
        self.results = results  # name -> array in fastbn's layout; called after at least one run
        self.units = units  # steps in one call


def measure(variant: Variant, seconds: float) -> dict[str, float]:
    """Median and least seconds of one unit, over chunks of calls that fill `seconds`.

    Two calls come first, for caches that another process has emptied and to learn how long one takes;
    where that alone is longer than `seconds`, the second call is the measurement.
    """
    variant.run(1)
    start = time.perf_counter()
    variant.run(1)
    one = max(time.perf_counter() - start, 1e-7)
    if one >= seconds:
        return {"median": one / variant.units, "least": one / variant.units, "chunks": 1}
    calls = max(1, round(CHUNK_SECONDS / one))
    chunks: list[float] = []
    end = time.perf_counter() + seconds
    gc.disable()
    try:
        while not chunks or time.perf_counter() < end:
            start = time.perf_counter()
            variant.run(calls)
            chunks.append((time.perf_counter() - start) / (calls * variant.units))
    finally:
        gc.enable()
    return {"median": statistics.median(chunks), "least": min(chunks), "chunks": len(chunks)}


def digest(results: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Enough of each array to tell whether two workers computed the same, in a few hundred bytes."""
    summary = {}
    for name, array in results.items():
        flat = np.asarray(array, np.float64).ravel()
        random = np.random.default_rng(flat.size)
        places = random.integers(0, flat.size, 64)
        signs = np.where(random.integers(0, 2, flat.size, np.int8) > 0, 1.0, -1.0)
        summary[name] = {
            "shape": list(np.shape(array)),
            "norm": float(np.linalg.norm(flat)),
            "mean": float(flat.mean()),
            "projection": float(flat @ signs),
            "zeros": float(np.mean(flat == 0)),
            "sample": flat[places].tolist(),
        }
    return summary


class Inputs:
    """Arrays that every worker draws alike."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        values: np.ndarray = self.random.standard_normal(shape, np.float32)
        values *= np.float32(scale)
        return values

    def classes(self, count: int, classes: int) -> np.ndarray:
        values: np.ndarray = self.random.integers(0, classes, count).astype(np.int32)
        return values


def conv_arrays(work: Work) -> dict[str, np.ndarray]:
    """x after a ReLU, as in networks; dy signed; kernel scaled so that y stays near one."""
    draw = Inputs()
    out_side = (work["side"] + 2 * work["padding"] - work["kernel"]) // work["stride"] + 1
    fan_in = work["fan_in"] // work["groups"]
    scale = (work["kernel"] ** 2 * fan_in) ** -0.5
    return {
        "x": np.maximum(draw.normal(work["batch"], work["side"], work["side"], work["fan_in"]), 0),
        "kernel": draw.normal(work["kernel"], work["kernel"], fan_in, work["fan_out"], scale=scale),
        "dy": draw.normal(work["batch"], out_side, out_side, work["fan_out"]),
        "bias": draw.normal(work["fan_out"]),
    }


def dense_arrays(work: Work) -> dict[str, np.ndarray]:
    draw = Inputs()
    return {
        "x": draw.normal(work["batch"], work["fan_in"]),
        "kernel": draw.normal(work["fan_in"], work["fan_out"], scale=work["fan_in"] ** -0.5),
        "dy": draw.normal(work["batch"], work["fan_out"]),
    }


def batch_norm_arrays(work: Work) -> dict[str, np.ndarray]:
    draw = Inputs()
    channels = work["shape"][-1]
    return {
        "x": draw.normal(*work["shape"]) + np.float32(0.5),
        "dy": draw.normal(*work["shape"]),
        "gamma": 1 + draw.normal(channels, scale=0.1),
        "beta": draw.normal(channels, scale=0.1),
    }


def array_and_gradient(work: Work) -> tuple[np.ndarray, np.ndarray]:
    draw = Inputs()
    return draw.normal(*work["shape"]), draw.normal(*work["shape"])


def cross_entropy_arrays(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Logits and class numbers."""
    draw = Inputs()
    rows, classes = work["shape"]
    return draw.normal(rows, classes, scale=3.0), draw.classes(rows, classes)


def update_arrays(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Weights and a gradient that keeps away from zero, where epsilon's place would matter."""
    draw = Inputs()
    weights, gradient = draw.normal(*work["shape"]), draw.normal(*work["shape"])
    return weights, gradient + np.copysign(np.float32(0.5), gradient)


def training_rows(work: Work, shape: list[int], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1) and labels that a linear teacher gives them, so that there is something to learn."""
    draw = Inputs(1)
    rows = work["rows"] or work["batch"]
    x = draw.random.random((rows, *shape), np.float32)
    teacher = draw.normal(int(np.prod(shape)), classes)
    scores = (x.reshape(rows, -1) - np.float32(0.5)) @ teacher
    return x, np.argmax(scores, axis=1).astype(np.int32)


class Worker:
    """Subclasses fill in versions(), operator(work) and step(work); each returns variants by name."""

    name = ""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.variants: dict[str, Variant] = {}

    def versions(self) -> dict[str, str]:
        raise NotImplementedError

    def operator(self, work: Work) -> dict[str, Variant]:
        raise NotImplementedError

    def step(self, work: Work) -> dict[str, Variant]:
        raise NotImplementedError

    def verify(self, work: Work) -> dict[str, Any]:
        """Losses of the first steps and norms of the weights after them: dropout off, plain SGD."""
        raise NotImplementedError

    def judge(self, work: Work) -> dict[str, np.ndarray] | None:
        """The float64 results of an operator work; None where they are random."""
        raise NotImplementedError

    def describe(self, work: Work, weights: str) -> list[dict[str, Any]]:
        """The network of a step work as graph nodes; its initial weights go to the file `weights`."""
        raise NotImplementedError

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        action = command["command"]
        if action == "hello":
            return {"versions": self.versions()}
        if action == "prepare":
            self.variants.clear()
            gc.collect()
            work = command["work"]
            self.variants = self.step(work) if work["kind"] == "step" else self.operator(work)
            return {"variants": sorted(self.variants)}
        if action == "measure":
            return measure(self.variants[command["variant"]], command["seconds"])
        if action == "digest":
            variant = self.variants[command["variant"]]
            variant.run(1)
            return {"digest": digest(variant.results())}
        if action == "judge":
            exact = self.judge(command["work"])
            return {"digest": None if exact is None else digest(exact)}
        if action == "verify":
            return self.verify(command["work"])
        if action == "describe":
            return {"nodes": self.describe(command["work"], command["weights"])}
        raise ValueError(f"no such command: {action}")


def serve(make: Callable[[int], Worker]) -> None:
    """The loop of a worker process. Standard output belongs to the protocol; prints go to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        command = json.loads(line)
        if command["command"] == "quit":
            break
        try:
            if worker is None:
                worker = make(int(os.environ["FASTBN_BENCH_THREADS"]))
            answer = worker.answer(command)
        except NotImplementedError as error:
            answer = {"unsupported": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
