"""Final losses beside Keras' own runs of the article's variants, by Welch's t-test with Holm's correction.

keras_mnist.json: Keras 3.15.1 on JAX 0.10.2, real MNIST, network 784 - 512 - 256 - 128 - 64 - 10, 10 epochs; a loss is
the mean over an epoch's samples. Key: activation | number of BN layers | optimizer | batch; then seed -> curves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fastbn.study import _data, _machine
from fastbn.study._cell import Cell
from fastbn.study._runner import run_cells
from fastbn.study._store import Store
from fastbn.study._studies import chosen
from fastbn.study._variants import Variant

LEVEL = 0.01
SEEDS = 8
EPOCHS = 10
RESULTS = Path(__file__).parents[2] / "docs" / "studies" / "results.json"

Losses = Mapping[str, Sequence[float]]


def reference() -> dict[str, list[float]]:
    """Final training losses of the variants that have eight seeds."""
    stored = json.loads((Path(__file__).parent / "keras_mnist.json").read_text())
    finals = {name: [run["loss"][-1] for run in runs.values()] for name, runs in stored.items()}
    return {name: losses for name, losses in finals.items() if len(losses) >= SEEDS}


def name_of(variant: Mapping[str, Any]) -> str | None:
    """The key of a variant in the reference, None for what the article does not have."""
    if variant["hidden"] != 4 or variant["before"] or variant["network"] != "article":
        return None
    return f"{variant['activation']}|bn{variant['batch_norms']}|{variant['optimizer']}|b{variant['batch_size']}"


def final_losses(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Final training losses by the reference's keys, each seed once."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        name = name_of(record["config"]["variant"])
        if name is not None:
            found.setdefault(name, {})[record["config"]["seed"]] = record["result"]["loss"][-1]
    return {name: list(by_seed.values()) for name, by_seed in found.items()}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p-values in the same order."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def different(ours: Losses, theirs: Losses) -> dict[str, float]:
    """Adjusted p-values of the variants whose mean final losses differ at the level."""
    names = sorted(theirs)
    p_values = [float(stats.ttest_ind(ours[name], theirs[name], equal_var=False).pvalue) for name in names]
    table = dict(zip(names, holm(p_values), strict=True))
    for name, p in table.items():
        print(f"{name}: {np.mean(ours[name]):.4f} and {np.mean(theirs[name]):.4f}, adjusted p {p:.2g}")
    return {name: p for name, p in table.items() if p < LEVEL}


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_a_difference_is_found() -> None:
    """Three standard deviations in one variant of eighteen; the others are Keras' own seeds, shuffled."""
    theirs = reference()
    assert len(theirs) == 18
    ours = {name: list(reversed(losses)) for name, losses in theirs.items()}
    assert different(ours, theirs) == {}
    name = "sigmoid|bn3|sgd|b128"
    ours[name] = [loss + 3 * float(np.std(theirs[name], ddof=1)) for loss in ours[name]]
    assert list(different(ours, theirs)) == [name]


def test_every_variant_of_the_reference_is_studied() -> None:
    studied = {name_of(v.values()) for study in chosen("all") for v in study.variants.values()}
    assert set(reference()) <= studied


@pytest.mark.skipif(not RESULTS.is_file(), reason="docs/studies holds no results")
def test_the_committed_results() -> None:
    """The runs behind docs/studies do not differ from Keras' in any variant."""
    ours = final_losses(json.loads(RESULTS.read_text())["cells"])
    assert set(reference()) <= {name for name, losses in ours.items() if len(losses) >= 5}
    assert different(ours, reference()) == {}


@pytest.mark.mnist
@pytest.mark.soak
def test_eight_seeds_a_side(tmp_path: Path) -> None:
    """Every variant of the reference trained anew on real MNIST, 144 cells: a quarter of an hour on two cores."""
    try:
        data = _data.load("mnist")
    except (OSError, ValueError) as error:
        pytest.skip(f"needs the real MNIST: {error}")
    here = _machine.here()
    variants: dict[str, Variant] = {}
    for study in chosen("all"):
        for variant in study.variants.values():
            name = name_of(variant.values())
            if name in reference():
                variants[str(name)] = Variant(**{**variant.values(), "probes": ()})
    cells = [
        Cell(variant, seed, EPOCHS, data.name, data.digest, here["isa"], here["fastbn"])
        for variant in variants.values()
        for seed in range(SEEDS)
    ]
    store = Store(tmp_path)
    run_cells(cells, store)
    ours = final_losses([store.read(cell.key) for cell in cells])
    assert {len(losses) for losses in ours.values()} == {SEEDS}
    assert different(ours, reference()) == {}
