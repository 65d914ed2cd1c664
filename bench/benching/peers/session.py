"""Interleaved measurement of one work in all workers, and the check that all of them computed the same.

A round measures every participant once, in turn, nothing else running; rounds alternate their order. The
ratio is taken within a round, so a clock or a neighbour that changes between rounds hits both sides;
the median over rounds is reported, with the least and the greatest beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import graphs
from .process import Peer, Unsupported
from .works import Work

# Idle worker threads spin for a moment after a region; let them fall asleep before the next turn.
PAUSE_SECONDS = 0.03
CALIBRATE_SECONDS = 0.08
VERIFY = {"verify_steps": 4, "verify_rate": 0.002}
# Distance from float64, relative to the tensor's root mean square. A peer that lies further off than fastbn may is
# named as inexact and timed; beyond the second bound it computes something else.
OUTPUT_TOLERANCE = 2e-3
PEER_TOLERANCE = 2e-2
STEP_TOLERANCE = 1e-3
DISTURBANCES = 2  # of the inputs (worker_fastbn.py), whose effect two libraries may differ by
DROPOUT_TOLERANCE = 0.02


class Disagreement(RuntimeError):
    """A worker did not compute what it was asked for."""


@dataclass
class Measurement:
    work: Work
    ours: dict[str, list[float]]  # fastbn variant -> seconds, one a round
    peers: dict[str, list[float]]
    chosen: dict[str, str]  # peer -> variant
    calibration: dict[str, dict[str, float]]
    failures: dict[str, str]
    inexact: list[str]

    def ratios(self, variant: str, peer: str) -> list[float]:
        return [a / b for a, b in zip(self.ours[variant], self.peers[peer], strict=True)]

    def ratio(self, variant: str, peer: str) -> float:
        return statistics.median(self.ratios(variant, peer))

    def best_peer(self) -> str | None:
        if not self.peers:
            return None
        return min(self.peers, key=lambda peer: statistics.median(self.peers[peer]))


def _close(name: str, exact: dict[str, Any], found: dict[str, Any], tolerance: float) -> str | None:
    if exact["shape"] != found["shape"]:
        return f"{name}: shape {found['shape']}, expected {exact['shape']}"
    size = 1
    for side in exact["shape"]:
        size *= side
    norm = max(exact["norm"], 1e-30)
    worst = max(abs(a - b) for a, b in zip(exact["sample"], found["sample"], strict=True)) * size**0.5
    errors = {
        "norm": abs(exact["norm"] - found["norm"]),
        "projection": abs(exact["projection"] - found["projection"]),
        "sample": worst,
    }
    for kind, error in errors.items():
        if not error <= tolerance * norm:
            return f"{name}: {kind} differs from float64 by {error / norm:.1e} of the norm"
    return None


def compare_outputs(exact: dict[str, Any], found: dict[str, Any], tolerance: float) -> str | None:
    """None where `found` is float64's result within tolerance, else what differs."""
    for name in sorted(set(exact) & set(found)):
        problem = _close(name, exact[name], found[name], tolerance)
        if problem:
            return problem
    return None if set(exact) & set(found) else f"no common outputs: {sorted(exact)}, {sorted(found)}"


def compare_dropout(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Masks are random: the share of zeros counts."""
    for name, a in ours.items():
        b = theirs[name]
        share, norm = abs(a["zeros"] - b["zeros"]), abs(a["norm"] - b["norm"]) / a["norm"]
        if not max(share, norm) <= DROPOUT_TOLERANCE:
            return f"{name}: share of zeros {a['zeros']:.3f} and {b['zeros']:.3f}, norms {norm:.1e} apart"
    return None


def compare_steps(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    disturbed = ours["disturbed"]

    def differ(a: float, b: float, moved: Sequence[float], scale: float) -> bool:
        moved_by = max(abs(a - other) for other in moved)
        return not abs(a - b) <= max(STEP_TOLERANCE * scale, DISTURBANCES * moved_by)

    for step, (a, b) in enumerate(zip(ours["losses"], theirs["losses"], strict=True)):
        if differ(a, b, [other["losses"][step] for other in disturbed], abs(a)):
            return f"loss of step {step + 1}: {a:.6f} and {b:.6f}"
    for layer, norms in ours["norms"].items():
        for i, (a, b) in enumerate(zip(norms, theirs["norms"][layer], strict=True)):
            if differ(a, b, [other["norms"][layer][i] for other in disturbed], max(abs(a), 1e-2)):
                return f"weights of {layer} after the steps: norms {a:.6f} and {b:.6f}"
    return None


class Session:
    """`ours` is the fastbn worker. Peers that fail at a work are left out of it and named."""

    def __init__(self, ours: Peer, peers: list[Peer], pairs: int, seconds: float, folder: Path) -> None:
        self.ours, self.peers = ours, peers
        self.pairs, self.seconds, self.folder = pairs, seconds, folder

    def _time(self, peer: Peer, variant: str, seconds: float) -> float:
        time.sleep(PAUSE_SECONDS)
        return float(peer.ask("measure", variant=variant, seconds=seconds)["median"])

    def _calibrate(self, peer: Peer, variants: list[str]) -> dict[str, float]:
        """One short measurement of each; the two best get a second, and the better of both counts."""
        times = {variant: self._time(peer, variant, CALIBRATE_SECONDS) for variant in variants}
        for variant in sorted(times, key=lambda name: times[name])[:2] if len(times) > 1 else ():
            times[variant] = min(times[variant], self._time(peer, variant, CALIBRATE_SECONDS))
        return times

    def _network(self, work: Work) -> Work:
        weights = str(self.folder / "weights.npz")
        if work["network"] in graphs.GRAPHS:
            work = {**work, "nodes": graphs.GRAPHS[work["network"]]()}
        nodes = self.ours.ask("describe", work=work, weights=weights)["nodes"]
        return {**work, **VERIFY, "nodes": nodes, "weights": weights}

    def _digest(self, peer: Peer, variant: str) -> dict[str, Any]:
        return dict(peer.ask("digest", variant=variant)["digest"])

    def _reference(self, work: Work, tracked: list[str]) -> dict[str, Any]:
        """What every peer's results are held against: float64's, which fastbn's have met."""
        if work["kind"] == "step":
            return self.ours.ask("verify", work=work)
        exact = self.ours.ask("judge", work=work)["digest"]
        if exact is None:
            return self._digest(self.ours, tracked[0])
        for variant in tracked:
            problem = compare_outputs(exact, self._digest(self.ours, variant), OUTPUT_TOLERANCE)
            if problem:
                raise Disagreement(f"{work['name']}: fastbn ({variant}): {problem}")
        return dict(exact)

    def _check(self, work: Work, peer: Peer, variants: list[str], reference: dict[str, Any]) -> list[str]:
        """Notes on inexact variants. Raises Disagreement where one computed something else."""
        if work["kind"] == "step":
            problem = compare_steps(reference, peer.ask("verify", work=work))
            if problem:
                raise Disagreement(f"{work['name']}: fastbn and {peer.name}: {problem}")
            return []
        inexact = []
        for variant in variants:
            found = self._digest(peer, variant)
            if work["kind"] == "dropout":
                problem = compare_dropout(reference, found)
            else:
                problem = compare_outputs(reference, found, PEER_TOLERANCE)
            if problem:
                raise Disagreement(f"{work['name']}: {peer.name} ({variant}): {problem}")
            note = None if work["kind"] == "dropout" else compare_outputs(reference, found, OUTPUT_TOLERANCE)
            if note:
                inexact.append(f"{peer.name} ({variant}) is inexact: {note}")
        return inexact

    def measure(self, work: Work) -> Measurement:
        """Raises Disagreement where a peer computed something else, WorkerError where fastbn failed."""
        full = self._network(work) if work["kind"] == "step" else work
        tracked = self.ours.ask("prepare", work=full)["variants"]
        reference = self._reference(full, tracked)
        inexact: list[str] = []
        failures: dict[str, str] = {}
        chosen: dict[str, str] = {}
        calibration: dict[str, dict[str, float]] = {}
        taking_part: list[Peer] = []
        for peer in self.peers:
            try:
                variants = peer.ask("prepare", work=full)["variants"]
                inexact += self._check(full, peer, variants, reference)
                times = self._calibrate(peer, variants)
            except Unsupported:
                continue
            except Disagreement:
                raise
            except RuntimeError as error:
                failures[peer.name] = str(error)
                continue
            calibration[peer.name] = times
            chosen[peer.name] = min(times, key=lambda variant: times[variant])
            taking_part.append(peer)
        turns = [(self.ours, variant) for variant in tracked] + [(peer, chosen[peer.name]) for peer in taking_part]
        found: list[list[float]] = [[] for _ in turns]
        for round_number in range(self.pairs):
            order = range(len(turns)) if round_number % 2 == 0 else range(len(turns) - 1, -1, -1)
            for i in order:
                found[i].append(self._time(*turns[i], self.seconds))
        count = len(tracked)
        return Measurement(
            work,
            ours=dict(zip(tracked, found[:count], strict=True)),
            peers={peer.name: times for peer, times in zip(taking_part, found[count:], strict=True)},
            chosen=chosen,
            calibration=calibration,
            failures=failures,
            inexact=inexact,
        )
