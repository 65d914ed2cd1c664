"""Dropout inside a program: one mask for forward and backward, none at inference."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from cases import Data
from harness.compare import assert_same
from harness.programs import Program
from oracles.network import Layer


def layers(rate, width=12):
    return [
        Layer("input", "input", shape=(width,)),
        Layer("dropout", "dropout", rate=rate),
        Layer("dense", "dense", units=1, use_bias=False),
    ]


def make(rate, **options):
    program = Program(layers(rate), "mean_squared_error", oracles.SGD(0.0), max_batch=8, keep_gradients=True, **options)
    program.set({"dense/kernel": 2.0 ** np.arange(12)[:, None]})
    return program


def test_backward_drops_what_forward_dropped(isa):
    """Ones times powers of two: the loss tells which inputs were kept, the gradient has to be theirs alone."""
    program = make(0.5)
    masks = set()
    for _ in range(20):
        loss, *_ = program.train(np.ones((1, 12), np.float32), np.zeros((1, 1), np.float32))
        prediction = np.sqrt(loss)  # sum of 2^i / (1 - rate) over the kept
        kept = np.array([int(prediction / 2) >> i & 1 for i in range(12)])
        assert prediction == 2 * (kept * 2.0 ** np.arange(12)).sum()
        gradient = program.get("gradient", ["dense/kernel"])["dense/kernel"]
        assert_same(gradient[:, 0], 2 * prediction * 2 * kept)
        masks.add(tuple(kept))
    assert len(masks) > 15, "the mask has to change from step to step"


def test_samples_have_masks_of_their_own():
    program = make(0.5)
    x = np.zeros((8, 12), np.float32)
    x[:, 0] = 1
    kept = [program.train(x, np.zeros((8, 1), np.float32))[0] * 8 / 4 for _ in range(30)]  # (2 / 1)^2 each
    assert all(k == round(k) for k in kept)
    assert 80 < sum(kept) < 160
    assert len(set(kept)) > 3


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_inference_drops_nothing(rate):
    program = make(rate)
    x = Data("dropout").array(5, 12)
    assert_same(program.predict(x), make(0.0).predict(x))
    target = np.zeros((5, 1), np.float32)
    assert program.evaluate(x, target) == make(0.0).evaluate(x, target)


def test_rates_at_the_ends():
    x, target = Data("dropout").array(8, 12), Data("dropout").array(8, 1)
    program = make(1.0)
    loss, *_ = program.train(x, target)
    assert loss == pytest.approx((target.astype(np.float64) ** 2).mean(), rel=1e-6)
    assert_same(program.get("gradient", ["dense/kernel"])["dense/kernel"], np.zeros((12, 1)))
    exact = (2.0 ** np.arange(12) @ x.T.astype(np.float64) - target[:, 0]) ** 2
    assert make(0.0).train(x, target)[0] == pytest.approx(exact.mean(), rel=1e-5)


def test_a_seed_of_its_own_makes_a_layer_independent_of_the_program():
    def losses(program_seed, layer_seed):
        own = [
            Layer("dropout", "dropout", rate=0.5, seed=layer_seed) if x.kind == "dropout" else x for x in layers(0.5)
        ]
        program = Program(own, "mean_squared_error", oracles.SGD(0.0), max_batch=8, seed=program_seed)
        program.set({"dense/kernel": 2.0 ** np.arange(12)[:, None]})
        ones, zeros = np.ones((8, 12), np.float32), np.zeros((8, 1), np.float32)
        return [program.train(ones, zeros)[0] for _ in range(4)]

    assert losses(1, 7) == losses(2, 7) != losses(1, 8)
    assert losses(1, 0) != losses(2, 0)  # 0: derived from the program's seed


@pytest.mark.parametrize("units", [33, 70, 512])
def test_masks_are_those_of_the_documented_stream(units, isa):
    """Behind a dense layer, whose columns are worked on in slices: bits of place sample * units + column."""
    own = [
        Layer("input", "input", shape=(units,)),
        Layer("dense", "first", units=units, use_bias=False),
        Layer("dropout", "dropout", rate=0.3, seed=77),
        Layer("dense", "last", units=1, use_bias=False),
    ]
    program = Program(own, "mean_squared_error", oracles.SGD(0.0), max_batch=9, keep_gradients=True)
    program.set({"first/kernel": np.eye(units), "last/kernel": np.ones((units, 1))})
    for iteration in range(3):
        words = oracles.philox(77, [iteration], 0x66617374626E0000, 10)[0]
        key = int(words[1]) << 32 | int(words[0])
        sample = (3 * iteration + 1) % 9
        x = np.zeros((9, units), np.float32)
        x[sample] = 1
        program.train(x, np.ones((9, 1), np.float32))
        gradient = program.get("gradient", ["last/kernel"])["last/kernel"][:, 0]
        kept = oracles.dropout(np.ones((9, units)), 0.3, key)[sample]
        assert kept.any()
        assert_same(gradient != 0, kept != 0)
