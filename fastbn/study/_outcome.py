"""What came out of studies: records by variant and seed, summaries, verdicts, and `results.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.study import _numbers
from fastbn.study._numbers import Record
from fastbn.study._studies import Study
from fastbn.study._verdicts import RULE, Verdict, decide

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Row:
    """A variant over its seeds: means, with standard deviations."""

    label: str
    seeds: int
    loss: tuple[float, float]
    val_loss: tuple[float, float]
    val_accuracy: tuple[float, float]
    seconds: tuple[float, float]  # an epoch, on one core
    noise: tuple[float, float] | None  # of the gradient


def _spread(values: list[float]) -> tuple[float, float]:
    with np.errstate(invalid="ignore"):
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class StudyOutcome:
    """A study with the records of its variants, each in the order of seeds."""

    study: Study
    records: dict[str, list[Record]]

    @cached_property
    def verdicts(self) -> list[Verdict]:
        return [decide(claim, self.records) for claim in self.study.claims]

    @cached_property
    def rows(self) -> list[Row]:
        return [self._row(label, records) for label, records in self.records.items()]

    def _row(self, label: str, records: list[Record]) -> Row:
        noisy = "gradient" in self.study.variants[label].probes
        return Row(
            label,
            len(records),
            _spread([_numbers.number("final_loss", record) for record in records]),
            _spread([_numbers.number("final_val_loss", record) for record in records]),
            _spread([_numbers.accuracies(record)[-1] for record in records]),
            _spread([_numbers.number("seconds_an_epoch", record) for record in records]),
            _spread([_numbers.gradient_noise(record) for record in records]) if noisy else None,
        )


@dataclass(frozen=True)
class Outcome:
    """Studies of one call."""

    command: str
    note: str  # which data
    seeds: int
    epochs: int
    studies: tuple[StudyOutcome, ...]
    wanted: int  # cells: fewer where the studies were interrupted

    @property
    def whole(self) -> bool:
        """Whether every cell has ended."""
        return len(self.cells) == self.wanted

    @property
    def machines(self) -> list[dict[str, str]]:
        """The machines and versions that cells ran with, each once."""
        found: list[dict[str, str]] = []
        for record in self.cells:
            machine = {name: value for name, value in record["machine"].items() if name not in ("begun", "process")}
            machine["threads of a cell"] = str(record["seconds"]["threads"])
            if machine not in found:
                found.append(machine)
        return found

    @property
    def cells(self) -> list[Record]:
        """Every record once."""
        every = [record for study in self.studies for records in study.records.values() for record in records]
        return list({record["key"]: record for record in every}.values())

    def print(self, console: Console) -> None:
        """The verdicts as a table, each with the ratio of the pair that it hangs on."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading, justify in (("study", "left"), ("claim", "left"), ("verdict", "left"), ("ratio [95 %]", "right")):
            table.add_column(heading, justify=justify, no_wrap=heading != "claim")  # type: ignore[arg-type]
        table.add_column("range", justify="right", no_wrap=True)
        for outcome in self.studies:
            for verdict in outcome.verdicts:
                row = (
                    outcome.study.name,
                    verdict.claim.text,
                    verdict.verdict,
                    verdict.deciding.text,
                    verdict.claim.rule,
                )
                table.add_row(*map(escape, row))
        console.print(table)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "command": self.command,
            "data": self.note,
            "seeds": self.seeds,
            "epochs": self.epochs,
            "cells_wanted": self.wanted,
            "rule": RULE,
            "studies": [
                {
                    "name": outcome.study.name,
                    "variants": {
                        label: [record["key"] for record in records] for label, records in outcome.records.items()
                    },
                    "summary": [asdict(row) for row in outcome.rows],
                    "verdicts": [_plain(verdict) for verdict in outcome.verdicts],
                }
                for outcome in self.studies
            ],
            "cells": self.cells,
        }


def _plain(verdict: Verdict) -> dict[str, Any]:
    claim = verdict.claim
    return {
        "claim": claim.text,
        "source": claim.source,
        "number": claim.number,
        "against": claim.against,
        "target": claim.target,
        "range": claim.rule,
        "verdict": verdict.verdict,
        "effects": [
            {
                "pair": list(effect.pair),
                "ratios": list(effect.ratios),
                "mean": effect.mean,
                "interval": [effect.low, effect.high],
                "verdict": effect.verdict,
            }
            for effect in verdict.effects
        ],
    }
