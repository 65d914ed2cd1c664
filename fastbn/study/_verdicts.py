"""Verdicts: the ratio that a claim is about, paired over seeds, its bootstrap interval, and what follows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastbn._arrays import Float64
from fastbn.study._claims import Claim
from fastbn.study._numbers import Record, number

FEWEST_SEEDS = 5
RESAMPLES = 10_000
MOST = 1e3  # ratios are held within 1 / MOST and MOST: a cell that diverged has an infinite loss

HOLDS, DOES_NOT, UNDECIDED, TOO_FEW = "holds", "does not hold", "undecided", "too few seeds"

RULE = (
    "A claim compares one number a cell of two variants, paired over seeds (at least "
    f"{FEWEST_SEEDS}): the effect is the geometric mean over seeds of their ratio, with its 95 % percentile bootstrap "
    f"interval ({RESAMPLES:,} resamples of the seeds, from a fixed seed). The range in which the effect has to lie was "
    "named beforehand: 0.8 or less for “faster”, “better” and “less”, 0.5 or less for “far faster”, 1.25 "
    "or more for “longer” and “hurts”, 0.8 or more for “gains nothing”, 0.8 to 1.25 for “hardly any difference”. "
    "The claim holds where the whole interval lies in the range, does not hold where the whole interval lies outside, "
    "and is undecided only where the interval straddles an end of the range. A claim about several pairs holds where "
    "it holds for each, and does not hold where it fails for one. “To reach” is judged against the loss at which the "
    "target ends, by default the other variant of the pair; a cell that never gets there counts with all its epochs, "
    "which understates its distance. Seconds are processor seconds of training divided by the threads. Ratios beyond "
    "1,000 count as 1,000."
)


@dataclass(frozen=True)
class Effect:
    """The ratio of a pair: each seed's, their geometric mean, the ends of the interval, and what follows."""

    pair: tuple[str, str]
    ratios: tuple[float, ...]
    mean: float
    low: float
    high: float
    verdict: str

    @property
    def text(self) -> str:
        """ "0.25 [0.21, 0.30]" """
        mean, low, high = (
            f"{value:.2f}" if value >= 0.1 else f"{value:.2g}" for value in (self.mean, self.low, self.high)
        )
        return f"{mean} [{low}, {high}]"


@dataclass(frozen=True)
class Verdict:
    """A claim with the effects of its pairs."""

    claim: Claim
    effects: tuple[Effect, ...]
    verdict: str

    @property
    def deciding(self) -> Effect:
        """The effect of the pair that the claim hangs on: of those with its verdict the one nearest to failing."""
        low, high = self.claim.low, self.claim.high

        def margin(effect: Effect) -> float:
            above = effect.mean / low if low > 0 else math.inf
            return min(above, high / effect.mean)

        return min((effect for effect in self.effects if effect.verdict == self.verdict), key=margin)


def ratio(a: float, b: float) -> float:
    """a / b within [1 / MOST, MOST]; 1 where both are zero or both infinite."""
    if a == b:
        return 1.0
    if b == 0 or math.isinf(a):
        return MOST
    if math.isinf(b):
        return 1 / MOST
    return min(max(a / b, 1 / MOST), MOST)


def bootstrap(values: Sequence[float] | Float64) -> tuple[float, float]:
    """95 % percentile interval of the mean. Raises ValueError where there are no values."""
    data = np.asarray(values, np.float64)
    if not data.size:
        raise ValueError("bootstrap: there must be values. Received: none")
    drawn = np.random.default_rng(0).integers(0, len(data), (RESAMPLES, len(data)))
    low, high = np.quantile(data[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def judge(low: float, high: float, claim: Claim) -> str:
    """What an interval says of a claim."""
    if claim.low <= low and high <= claim.high:
        return HOLDS
    if high < claim.low or low > claim.high:
        return DOES_NOT
    return UNDECIDED


def _effect(claim: Claim, pair: tuple[str, str], records: Mapping[str, Sequence[Record]]) -> Effect:
    named = (*pair, claim.target if claim.target is not None else pair[1])
    by_seed = [{record["config"]["seed"]: record for record in records[label]} for label in named]
    ratios = []
    for seed in sorted(set.intersection(*map(set, by_seed))):
        a, b, goal = (found[seed] for found in by_seed)
        ratios.append(ratio(number(claim.number, a, goal), number(claim.against or claim.number, b, goal)))
    if not ratios:
        return Effect(pair, (), 1.0, 1 / MOST, MOST, TOO_FEW)
    logs = np.log(ratios)
    low, high = (math.exp(end) for end in bootstrap(logs))
    verdict = judge(low, high, claim) if len(ratios) >= FEWEST_SEEDS else TOO_FEW
    return Effect(pair, tuple(ratios), float(np.exp(logs.mean())), low, high, verdict)


def decide(claim: Claim, records: Mapping[str, Sequence[Record]]) -> Verdict:
    """The verdict on a claim from each variant's records; the seeds count that all variants of a pair have."""
    effects = tuple(_effect(claim, pair, records) for pair in claim.pairs)
    found = {effect.verdict for effect in effects}
    for verdict in (TOO_FEW, DOES_NOT, UNDECIDED):
        if verdict in found:
            return Verdict(claim, effects, verdict)
    return Verdict(claim, effects, HOLDS)
