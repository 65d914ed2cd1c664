"""One core and too many threads: as fast as one thread on it, at most 1.3 times slower.

pytest -m slow tests/reliability/test_cores.py, on a machine that does nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import time
import numpy as np
import fastbn
from fastbn import layers, ops

rng = np.random.default_rng(0)
x, labels = rng.standard_normal((128, 16, 16, 16)).astype(np.float32), rng.integers(0, 10, 128).astype(np.int32)
model = fastbn.Sequential([fastbn.Input((16, 16, 16)), layers.Conv2D(32, 3), layers.BatchNormalization(),
                           layers.ReLU(), layers.Flatten(), layers.Dense(10, activation="softmax")])
model.compile("sgd", "sparse_categorical_crossentropy")
a, k = rng.standard_normal((256, 256)).astype(np.float32), rng.standard_normal((256, 256)).astype(np.float32)
WORK = {"step": (lambda: model.train_on_batch(x, labels), 10), "dense": (lambda: ops.dense_forward(a, k), 200),
        "relu": (lambda: ops.activation_forward(x, "relu"), 100)}

def seconds(call, repeats):
    call()
    best = 1e9
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        best = min(best, time.perf_counter() - start)
    return best

for name, (call, repeats) in WORK.items():
    threads = fastbn.get_num_threads()
    many = seconds(call, repeats)
    fastbn.set_num_threads(1)
    print(name, threads, many / seconds(call, repeats))
    fastbn.set_num_threads(threads)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_sixty_four_threads_on_one_core():
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "OMP_NUM_THREADS": "64"},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        cwd="/",
    )
    print(done.stdout)
    for line in done.stdout.splitlines():
        name, threads, ratio = line.split()
        assert int(threads) == 64, name
        assert float(ratio) <= 1.3, line
