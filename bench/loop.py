"""What the Python around a training step costs, in microseconds a batch, the least of many runs.

    python bench/loop.py

Network: dense 8 relu - dense 8 softmax, batch 1. The loop of `fit` is its time less that of bare calls of the program's
step on the same rows in the same order; once as it is, and once with a callback that looks at every batch. NumPy's sum
of two such rows, slices and all, tells how fast the machine is just then.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import fastbn
from fastbn import Sequential, callbacks, layers

BATCHES = 200  # a run of few milliseconds: some fall between what other processes do
RUNS = 100


def two_layers() -> Sequential:
    model = Sequential([layers.Input((8,)), layers.Dense(8, activation="relu"), layers.Dense(8, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def least(run: Callable[[], object], runs: int = RUNS) -> float:
    """Microseconds of a batch in the fastest run."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds) / BATCHES * 1e6


def measure(runs: int = RUNS) -> dict[str, float]:
    """Microseconds a batch by what is measured."""
    random = np.random.default_rng(0)
    x, y = random.random((BATCHES, 8), np.float32), random.integers(0, 8, BATCHES).astype(np.int32)
    order = random.permutation(BATCHES)
    model = two_layers()
    model.fit(x, y, batch_size=1, verbose=0)  # plans the step
    assert model._engine is not None
    step = model._engine.program.train
    watch = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)

    def bare() -> None:
        for begin in range(BATCHES):
            step(x, y, order, begin, 1)

    def on_batches() -> None:
        for begin in range(BATCHES):
            model.train_on_batch(x[begin : begin + 1], y[begin : begin + 1])

    total = np.empty((1, 8), np.float32)

    def sums() -> None:
        for begin in range(BATCHES):
            np.add(x[begin : begin + 1], x[begin : begin + 1], out=total)

    def fit(*watching: callbacks.Callback) -> None:
        model.fit(x, y, batch_size=1, verbose=0, callbacks=watching)

    bare_step = least(bare, runs)
    return {
        "step": bare_step,
        "fit's loop": least(fit, runs) - bare_step,
        "fit's loop with a batch callback": least(lambda: fit(watch), runs) - bare_step,
        "train_on_batch": least(on_batches, runs),
        "NumPy's sum": least(sums, runs),
    }


if __name__ == "__main__":
    fastbn.set_num_threads(1)
    for name, microseconds in measure().items():
        print(f"{name:34s} {microseconds:6.2f} us a batch")
