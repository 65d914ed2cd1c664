"""Optimizer updates against Keras' formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import UNIT, Data
from cases.optimizers import OPTIMIZERS, SIZES
from harness.arrays import Guarded
from harness.compare import assert_same, assert_within
from harness.library import same_on_all_threads
from oracles import SGD, Adam, Optimizer, RMSprop

from fastbn import ops


def update(optimizer: Optimizer, w: np.ndarray, g: np.ndarray, slots: list[np.ndarray], iteration: int) -> None:
    """The ops function of the optimizer, in place."""
    o: dict[str, Any] = {k: v for k, v in vars(optimizer).items() if k != "weight_decay" or v}
    if isinstance(optimizer, SGD):
        ops.sgd_update(w, g, slots[0] if slots else None, **o)
        return
    named = dict(zip(optimizer.slot_names(), slots, strict=True))
    if isinstance(optimizer, RMSprop):
        rate = o.pop("momentum")
        ops.rmsprop_update(
            w, g, named["velocity"], named.get("momentum"), named.get("average_gradient"), momentum=rate, **o
        )
        return
    assert isinstance(optimizer, Adam)
    ops.adam_update(w, g, slots[0], slots[1], named.get("velocity_hat"), iteration=iteration, **o)


def inputs(size: int, seed: int = 0):
    data = Data("optimizer", seed)
    return data.array(size), [data.array(size) for _ in range(4)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update(name, size, isa):
    """Four steps; each starts at the float32 state that was found, so that errors do not pile up."""
    optimizer = OPTIMIZERS[name]
    w, gradients = inputs(size)
    slots = [np.zeros(size, np.float32) for _ in optimizer.slot_names()]
    for iteration, g in enumerate(gradients):
        exact_w, exact_slots = w.astype(np.float64), [s.astype(np.float64) for s in slots]
        before_w, before_slots = w.copy(), [s.copy() for s in slots]
        optimizer.update(exact_w, g, exact_slots, iteration)

        def step(w=before_w, g=g, slots=before_slots, iteration=iteration):
            w, slots = w.copy(), [s.copy() for s in slots]
            update(optimizer, w, g, slots, iteration)
            return (w, *slots)

        w, *slots = same_on_all_threads(step)
        change = np.abs(exact_w - before_w)
        for slot, found, exact, before in zip(optimizer.slot_names(), slots, exact_slots, before_slots, strict=True):
            size_of = np.abs(before) + np.maximum(np.abs(g), g.astype(np.float64) ** 2) + np.abs(exact)
            assert_within(found, exact, 8 * UNIT * size_of, f"{slot} at step {iteration}")
        # centred RMSprop divides by a small difference of large numbers
        factor = 64 if getattr(optimizer, "centered", False) else 16
        bound = factor * UNIT * (change + np.abs(g) * optimizer.learning_rate) + 2 * UNIT * np.abs(exact_w)
        assert_within(w, exact_w, bound, f"weights at step {iteration}")


@pytest.mark.parametrize("offset", [0, 4])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_writes_nothing_else(name, offset, isa):
    optimizer = OPTIMIZERS[name]
    w, gradients = inputs(257)
    slots = [np.zeros(257, np.float32) for _ in optimizer.slot_names()]
    guarded = [Guarded(a.shape, offset=offset) for a in (w, *slots)]
    for box, value in zip(guarded, (w, *slots), strict=True):
        box.array[...] = value
    g = gradients[0].copy()
    update(optimizer, w, g, slots, 3)
    update(optimizer, guarded[0].array, g, [box.array for box in guarded[1:]], 3)
    for box, value in zip(guarded, (w, *slots), strict=True):
        assert_same(box.check(), value)
    assert_same(g, gradients[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_elementwise(name, isa):
    """Any split of the weights gives the same bits."""
    optimizer = OPTIMIZERS[name]
    w, gradients = inputs(1031)
    whole = w.copy(), [np.zeros(1031, np.float32) for _ in optimizer.slot_names()]
    parts = w.copy(), [np.zeros(1031, np.float32) for _ in optimizer.slot_names()]
    for iteration, g in enumerate(gradients[:2]):
        update(optimizer, whole[0], g, whole[1], iteration)
        for part in np.split(np.arange(1031), [1, 18, 500]):
            s = slice(part[0], part[-1] + 1)
            update(optimizer, parts[0][s], g[s], [slot[s] for slot in parts[1]], iteration)
    assert_same(parts[0], whole[0])
    for a, e in zip(parts[1], whole[1], strict=True):
        assert_same(a, e)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nan_of_one_element_stays_there(name, isa):
    optimizer = OPTIMIZERS[name]
    w, (g, *_) = inputs(35)
    g[34] = np.nan
    slots = [np.zeros(35, np.float32) for _ in optimizer.slot_names()]
    update(optimizer, w, g, slots, 0)
    assert np.isnan(w[34])
    assert np.isfinite(w[:34]).all()


def test_matrices_are_updated_in_place():
    w, g = Data("matrix").array(5, 7), Data("matrix").array(5, 7)
    expected = w - np.float32(0.5) * g
    ops.sgd_update(w, g, None, learning_rate=0.5)
    assert_within(w, expected, 2 * UNIT * (np.abs(expected) + np.abs(g)))
