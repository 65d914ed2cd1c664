"""The numbers that claims compare, their intervals, and the rule for a verdict."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fastbn import networks
from fastbn.study import STUDIES, _numbers, _verdicts
from fastbn.study._claims import NUMBERS, Claim, alike, less, more, not_less
from fastbn.study._studies import ARTICLE, chosen
from fastbn.study._variants import Variant


def record(
    *losses: float | None, initial: float | None = 2.0, seconds: float = 2.0, seed: int = 0, **more: object
) -> dict:
    return {
        "config": {"seed": seed},
        "result": {"initial_loss": initial, "loss": list(losses), "val_loss": list(losses), **more},
        "seconds": {"epochs_a_core": [seconds] * len(losses)},
    }


@pytest.mark.parametrize(
    ("target", "epochs"),
    [(2.0, 0), (1.0, 1), (2**0.5, 0.5), (0.5, 2), (1 / 8, 2 + 2 / 3), (1 / 16, 3), (0.01, 3), (5.0, 0)],
)
def test_epochs_to_reach(target: float, epochs: float) -> None:
    """Halved twice and then divided by eight: on a line of the logarithm between epochs."""
    cell = record(1.0, 0.5, 1 / 16)
    assert _numbers.epochs_to_reach(cell, target) == pytest.approx(epochs)
    assert _numbers.seconds_to_reach(cell, target) == pytest.approx(2 * epochs)
    assert _numbers.reached(cell, target) == (target >= 1 / 16)


def test_epochs_of_curves_that_are_not_finite() -> None:
    assert _numbers.epochs_to_reach(record(None, 0.5, initial=None), 0.6) == 2
    assert _numbers.epochs_to_reach(record(None, None), 0.6) == 2
    assert _numbers.number("final_loss", record(1.0, None)) == math.inf
    assert _numbers.epochs_to_reach(record(1.0, 0.0), 0.0) == 2


def test_numbers_of_a_record() -> None:
    cell = record(
        0.8,
        0.4,
        gradient={"norms": {"1": [1.0, 1.0], "2": [1.0, 3.0]}},
        recalibration={"train": [4.0, 3.0], "recalibrated_train": [2.0, 1.5]},
        layers={"shift": {"a": [0.5, 0.1], "b": [0.3, 0.3]}},
    )
    found = {name: _numbers.number(name, cell, record(1.6, 0.8)) for name in NUMBERS}
    assert found == {
        "final_loss": 0.4,
        "first_loss": 0.8,
        "final_val_loss": 0.4,
        "epochs_to_reach": 1.0,
        "seconds_to_reach": 2.0,
        "seconds_an_epoch": 2.0,
        "gradient_noise": pytest.approx(math.sqrt(2) / 2),
        "stale_loss": 4.0,
        "recalibrated_loss": 2.0,
        "last_stale_loss": 3.0,
        "last_recalibrated_loss": 1.5,
        "input_shift": pytest.approx(0.3),
    }
    cell["result"]["layers"]["shift"]["b"][0] = None
    assert _numbers.number("input_shift", cell) == math.inf


def test_ratios_are_held_within_bounds() -> None:
    assert _verdicts.ratio(1, 4) == 0.25
    assert _verdicts.ratio(math.inf, math.inf) == _verdicts.ratio(0, 0) == 1
    assert _verdicts.ratio(math.inf, 1) == _verdicts.ratio(1, 0) == _verdicts.ratio(1, 1e-9) == 1000
    assert _verdicts.ratio(1, math.inf) == _verdicts.ratio(0, 1) == 1e-3


def test_the_interval_covers() -> None:
    """Over many samples of 20 the 95 % interval holds the true mean in nearly that share of them."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        low, high = _verdicts.bootstrap(rng.standard_normal(20) + 3)
        inside += low <= 3 <= high
    assert 0.88 * 300 <= inside <= 0.98 * 300
    assert _verdicts.bootstrap([2.0]) == (2.0, 2.0)
    assert _verdicts.bootstrap([1.0, 2.0, 4.0]) == _verdicts.bootstrap([1.0, 2.0, 4.0])
    with pytest.raises(ValueError, match="there must be values"):
        _verdicts.bootstrap([])


PAIR = ("a", "b")


@pytest.mark.parametrize(
    ("claim", "verdicts"),
    [
        (less("", "final_loss", PAIR), "hold hold no no"),
        (less("", "final_loss", PAIR, by=0.5), "hold ? no no"),
        (more("", "final_loss", PAIR), "no no no hold"),
        (not_less("", "final_loss", PAIR), "no no hold hold"),
        (alike("", "final_loss", PAIR), "no no hold no"),
    ],
)
def test_the_rule(claim: Claim, verdicts: str) -> None:
    """An interval in the range, across its end, or outside of it."""
    named = {"hold": "holds", "no": "does not hold", "?": "undecided"}
    intervals = [(0.1, 0.3), (0.4, 0.6), (0.9, 1.1), (1.4, 1.6)]
    assert [_verdicts.judge(*ends, claim) for ends in intervals] == [named[v] for v in verdicts.split()]


def test_only_an_interval_across_the_minimum_effect_is_undecided() -> None:
    claim = less("", "final_loss", PAIR)
    assert _verdicts.judge(0.79, 0.81, claim) == "undecided"
    assert _verdicts.judge(0.8, 0.8, claim) == "holds"
    assert _verdicts.judge(0.81, 5.0, claim) == "does not hold"  # also where it does not tell faster from slower


def decided(claim: Claim, **finals: list[float]) -> _verdicts.Verdict:
    return _verdicts.decide(
        claim, {label: [record(2 * x, x, seed=i) for i, x in enumerate(v)] for label, v in finals.items()}
    )


def test_seeds_are_paired() -> None:
    """Seeds that differ a hundredfold do not hide that every one of them is halved."""
    b = [1.0, 10.0, 100.0, 3.0, 0.1]
    found = decided(less("", "final_loss", PAIR), a=[0.5 * x for x in b], b=b)
    assert found.verdict == "holds"
    (effect,) = found.effects
    assert effect.mean == pytest.approx(0.5)
    assert effect.low == pytest.approx(effect.high)
    shuffled = decided(less("", "final_loss", PAIR), a=[0.5 * x for x in b[::-1]], b=b)
    assert shuffled.verdict == "undecided"
    assert shuffled.effects[0].mean == pytest.approx(0.5)


def test_a_claim_about_several_pairs() -> None:
    values = {"a": [1.0] * 5, "b": [2.0] * 5, "c": [1.1] * 5, "d": [1.5, 1.2, 1.3, 1.1, 1.3]}
    claim = less("", "final_loss", ("a", "b"))
    verdicts = {}
    for others in (("b",), ("b", "c"), ("b", "d"), ("b", "c", "d")):
        found = decided(replace(claim, pairs=tuple(("a", other) for other in others)), **values)
        verdicts["".join(others)] = found.verdict
    assert verdicts == {"b": "holds", "bc": "does not hold", "bd": "undecided", "bcd": "does not hold"}


def test_no_verdict_from_four_seeds() -> None:
    assert decided(less("", "final_loss", PAIR), a=[1.0] * 4, b=[2.0] * 4).verdict == "too few seeds"


def test_the_seeds_count_that_all_of_a_pair_have() -> None:
    a = [record(1.0, 0.5, seed=seed) for seed in (5, 3, 2, 1, 0, 7)]
    b = [record(1.0, 1.0 + seed, seed=seed) for seed in range(7)]
    found = _verdicts.decide(less("", "final_loss", PAIR), {"a": a, "b": b})
    assert found.effects[0].ratios == (0.5, 0.25, 0.5 / 3, 0.125, 0.5 / 6)
    assert found.verdict == "holds"
    none = _verdicts.decide(less("", "final_loss", PAIR), {"a": a[:1], "b": b[:2]})
    assert none.verdict == "too few seeds"
    assert none.effects[0].ratios == ()


def test_the_target_may_be_a_third_variant() -> None:
    claim = alike("", "epochs_to_reach", PAIR, target="c")
    records = {
        "a": [record(1.0, 0.1, seed=seed) for seed in range(5)],
        "b": [record(0.9, 0.1, seed=seed) for seed in range(5)],
        "c": [record(1.5, 1.0, seed=seed) for seed in range(5)],
    }
    effect = _verdicts.decide(claim, records).effects[0]
    assert effect.mean == pytest.approx(1 / (math.log(2) / math.log(2 / 0.9)))
    own = _verdicts.decide(replace(claim, target=None), records).effects[0]
    assert own.mean == pytest.approx(1.0)


@pytest.mark.parametrize("options", [{"number": "speed"}, {"pairs": ()}, {"low": 1.0, "high": 0.5}])
def test_claims_that_say_nothing(options: dict) -> None:
    with pytest.raises(ValueError, match=r"claim: .*Received"):
        Claim(**{"text": "", "number": "final_loss", "pairs": (PAIR,), **options})


def test_the_studies() -> None:
    assert ARTICLE == ("accelerate", "depth", "optimizer", "batch")
    assert [study.name for study in chosen("all")] == list(ARTICLE)
    for name, study in STUDIES.items():
        assert chosen(name) == [study]
        assert study.claims
        for claim in study.claims:
            probe = {"gradient_noise": "gradient", "stale_loss": "recalibration"}.get(claim.number)
            for label in {label for pair in claim.pairs for label in pair}:
                assert probe is None or probe in study.variants[label].probes
        for label in {label for group in study.groups.values() for label in group}:
            assert study.variants[label].build().count_params() > 0
    with pytest.raises(ValueError, match=r"study: name must be all or one of accelerate, .* Received: 'none'"):
        chosen("none")
    with pytest.raises(ValueError, match=r"claims and groups name its variants.*'x'"):
        replace(STUDIES["batch"], layers_of=("x",))


def test_the_article_is_covered() -> None:
    """Both activations, none to four batch-norms, two optimizers, four batch sizes; 8 and 16 layers."""
    wanted = {Variant(a, k) for a in ("sigmoid", "relu") for k in range(5)}
    wanted |= {Variant(optimizer="adam"), Variant(batch_norms=1, optimizer="adam")}
    found = {replace(v, probes=()) for name in ARTICLE for v in STUDIES[name].variants.values()}
    assert wanted <= found
    assert {(v.batch_size, v.batch_norms) for v in STUDIES["batch"].variants.values()} == {
        (size, k) for size in (4, 64, 256, 1024) for k in (0, 1)
    }
    assert {8, 16} <= {v.hidden for v in STUDIES["depth"].variants.values()}


def test_the_article_network_deeper_and_with_batch_norm_before() -> None:
    names = [type(layer).__name__ for layer in networks.article("relu", 1, hidden=2, before=True).layers]
    assert names == ["Dense", "BatchNormalization", "Activation", "Dense", "Dense"]
    deep = networks.article("sigmoid", 0, hidden=6)
    assert [layer.units for layer in deep.layers] == [512, 256, 128, 64, 64, 64, 10]
    assert networks.article("relu", 1, momentum=0.5).layers[1].momentum == 0.5
    with pytest.raises(ValueError, match=r"article: hidden must be at least 1\. Received: hidden=0"):
        networks.article(hidden=0)
    with pytest.raises(ValueError, match=r"article: batch_norms must lie in 0\.\.2\. Received: batch_norms=3"):
        networks.article(batch_norms=3, hidden=2)


def test_the_question_networks_with_batch_norm() -> None:
    names = [type(layer).__name__ for layer in networks.cnn_small(batch_norm=True).layers[:4]]
    assert names == ["Conv2D", "BatchNormalization"] * 2
    assert networks.cnn(batch_norm=True).count_params() == 110_986 + 4 * (32 + 64)
