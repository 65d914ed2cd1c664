"""Networks drawn at random: the gradients of float64, and the same bits for any block size and number of threads.

A batch of 61 samples makes chunks of four, and one byte of cache makes blocks of one.
"""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from cases.networks import NetworkCase
from cases.random_networks import random_network
from harness.compare import assert_same, assert_within
from harness.library import using_threads
from harness.programs import Program
from harness.tiers import short_and_long

BATCH = 61


def state(case: NetworkCase, block_bytes: int, threads: int) -> dict[str, np.ndarray]:
    """Weights after two steps, losses and predictions."""
    with using_threads(threads):
        program = Program(
            case.layers, case.loss, oracles.SGD(0.05, momentum=0.9), max_batch=BATCH, block_bytes=block_bytes
        )
        losses = [program.train(*case.data(n, seed=n))[0] for n in (BATCH, BATCH - 6)]
        return {**program.get(), "losses": np.array(losses), "predictions": program.predict(case.data(BATCH)[0])}


@pytest.mark.parametrize("count", short_and_long(300, 20_000))
def test_the_same_bits(count):
    for seed in range(count):
        case = random_network(seed)
        expected = state(case, 1 << 30, 1)
        for block_bytes, threads in ((1, 1), (3000, 2), (0, 3)):
            found = state(case, block_bytes, threads)
            for name, value in expected.items():
                assert_same(found[name], value, f"{case}: {name}, block_bytes={block_bytes}, {threads} threads")


@pytest.mark.parametrize("count", short_and_long(200, 10_000))
def test_the_gradients_of_float64(count):
    for seed in range(count):
        case = random_network(seed, smooth=True)
        parameters = case.network.initial_parameters(seed=1)
        program = Program(case.layers, case.loss, max_batch=BATCH, keep_gradients=True, block_bytes=1)
        program.set(parameters)
        x, labels = case.data(BATCH)
        exact = case.network.step(parameters, x, labels, case.loss)
        assert program.train(x, labels)[0] == pytest.approx(exact.loss, rel=1e-5), str(case)
        largest = max(np.abs(gradient).max() for gradient in exact.gradients.values())
        for name, found in program.get("gradient", list(exact.gradients)).items():
            assert_within(found, exact.gradients[name], 1e-5 * largest, f"{case}: gradient of {name}")
