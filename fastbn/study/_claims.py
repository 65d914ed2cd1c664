"""Claims: what is said of two variants, as a range in which the ratio of one number a cell must lie."""

from __future__ import annotations

from dataclasses import dataclass

#: The minimum effects, named before anything was run: what "faster" or "better" means, and what "no difference".
CLEARLY = 0.8
FAR = 0.5

#: What a claim compares, one number a cell: name -> what the report calls it.
NUMBERS = {
    "final_loss": "training loss of the last epoch",
    "first_loss": "training loss of the first epoch",
    "final_val_loss": "validation loss of the last epoch",
    "epochs_to_reach": "epochs to reach the target's final training loss",
    "seconds_to_reach": "seconds to reach the target's final training loss",
    "seconds_an_epoch": "seconds an epoch",
    "gradient_noise": "spread of the gradient's norm over batches, relative to its mean",
    "stale_loss": "loss on training images after the first epoch, moving statistics",
    "recalibrated_loss": "loss on training images after the first epoch, recalibrated statistics",
    "last_stale_loss": "loss on training images after the last epoch, moving statistics",
    "last_recalibrated_loss": "loss on training images after the last epoch, recalibrated statistics",
    "input_shift": "movement of the layers' inputs in an epoch, in standard deviations",
}


@dataclass(frozen=True)
class Claim:
    """`text` holds where, for every pair (a, b), number(a) / number(b) lies in [low, high].

    target: the variant whose final loss `*_to_reach` has to reach; None: b. against: the number of b, where it is
    another one than that of a. source: who says so.
    """

    text: str
    number: str
    pairs: tuple[tuple[str, str], ...]
    low: float = 0.0
    high: float = float("inf")
    target: str | None = None
    against: str | None = None
    source: str = "article"

    def __post_init__(self) -> None:
        for name in (self.number, self.against):
            if name is not None and name not in NUMBERS:
                raise ValueError(f"claim: number must be one of {list(NUMBERS)}. Received: {name!r}")
        if not self.pairs or not 0 <= self.low < self.high:
            raise ValueError(f"claim: there must be pairs, and low below high. Received: {self}")

    @property
    def rule(self) -> str:
        """The range in words."""
        if self.low == 0:
            return f"at most {self.high:g}"
        if self.high == float("inf"):
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


def less(text: str, number: str, *pairs: tuple[str, str], by: float = CLEARLY, **options: str | None) -> Claim:
    """a has at most `by` of b's number."""
    return Claim(text, number, pairs, high=by, **options)  # type: ignore[arg-type]


def more(text: str, number: str, *pairs: tuple[str, str], by: float = CLEARLY, **options: str | None) -> Claim:
    """a has at least 1 / `by` of b's number."""
    return Claim(text, number, pairs, low=1 / by, **options)  # type: ignore[arg-type]


def not_less(text: str, number: str, *pairs: tuple[str, str], by: float = CLEARLY, **options: str | None) -> Claim:
    """a has no less than `by` of b's number."""
    return Claim(text, number, pairs, low=by, **options)  # type: ignore[arg-type]


def alike(text: str, number: str, *pairs: tuple[str, str], by: float = CLEARLY, **options: str | None) -> Claim:
    """a has b's number but for a factor of `by` either way."""
    return Claim(text, number, pairs, low=by, high=1 / by, **options)  # type: ignore[arg-type]
