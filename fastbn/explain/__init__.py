"""`fastbn explain`: where the time of a training step goes, and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fastbn.costs._ceilings import Ceilings
from fastbn.costs._predict import kernel_rates, predict_step
from fastbn.explain._networks import QUESTION, SAMPLES, Explained, make_model
from fastbn.explain._sentences import compare, explain_network, ratio, the_question

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["Explained", "Explanation", "explain", "html_page", "make_model"]


@dataclass(frozen=True)
class Explanation:
    """Networks with their costs, beside the first of them, and the explanation in sentences."""

    networks: tuple[Explained, ...]
    command: str

    @property
    def ceilings(self) -> Ceilings:
        found = self.networks[0].table.ceilings
        assert found is not None
        return found

    def sentences(self) -> list[tuple[str, list[str]]]:
        """Headings with their sentences."""
        parts = [(network.name, explain_network(network)) for network in self.networks]
        if len(self.networks) > 1:
            parts.append((f"Beside {self.networks[0].name}", compare(self.networks)))
        if question := the_question(self.networks):
            parts.append(("The question and its answer", question))
        return parts

    def comparison(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells of the comparison: each figure and, in brackets, its ratio to the first network's."""
        base = self.networks[0]
        predicted = any(network.predicted_seconds is not None for network in self.networks)
        asked = any(network.question_seconds is not None for network in self.networks)
        headings = ["network", "parameters", "multiply-adds", "bytes an image", "s an epoch"]
        headings += ["predicted"] * predicted + ["the question's"] * asked
        lines = []
        for network in self.networks:

            def against(value: float, other: float, text: str) -> str:
                return f"{text} ({ratio(value / other)})" if other else text

            line = [network.name]
            for value, other in (
                (network.table.parameters, base.table.parameters),
                (network.forward_multiply_adds, base.forward_multiply_adds),
                (network.bytes, base.bytes),
            ):
                line.append(against(value, other, f"{value:,}"))
            line.append(against(network.epoch_seconds, base.epoch_seconds, f"{network.epoch_seconds:.3g}"))
            if predicted:
                guess = network.predicted_seconds
                line.append("" if guess is None else f"{guess:.3g} ({guess / network.epoch_seconds - 1:+.0%})")
            if asked:
                theirs, first = network.question_seconds, base.question_seconds
                line.append("" if theirs is None else against(theirs, first or 0, f"{theirs:.0f}"))
            lines.append(line)
        return headings, lines

    def print(self, console: Console) -> None:
        """The machine, the tables, the comparison, the explanation."""
        from rich.markup import escape
        from rich.padding import Padding

        for name, value in self.ceilings.lines():
            console.print(f"{name:20}{value}", highlight=False, markup=False)
        console.print()
        for network in self.networks:
            for part in network.table.renderables(console.width):
                console.print(part)
            console.print()
        console.print(self._comparison_table())
        console.print(
            f"An epoch is {SAMPLES:,} images; in brackets the ratio to {self.networks[0].name}. "
            "The question's figures: Keras on Theano, 2017.",
            highlight=False,
        )
        for heading, sentences in self.sentences():
            console.print()
            console.print(f"[bold]{escape(heading)}[/]")
            for sentence in sentences:
                console.print(Padding(escape(sentence), (0, 0, 0, 2)), highlight=False)

    def _comparison_table(self) -> Table:
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        headings, lines = self.comparison()
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, heading in enumerate(headings):
            table.add_column(heading, justify="left" if i == 0 else "right")
        for line in lines:
            table.add_row(*map(escape, line))
        return table

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        base = self.networks[0]
        networks = []
        for network in self.networks:
            networks.append(
                {
                    "name": network.name,
                    "epoch_samples": SAMPLES,
                    "epoch_seconds": network.epoch_seconds,
                    "predicted_epoch_seconds": network.predicted_seconds,
                    "question_epoch_seconds": network.question_seconds,
                    "bytes_a_sample": network.bytes,
                    "forward_multiply_adds": network.forward_multiply_adds,
                    "parameters": network.table.parameters,
                    "seconds_ratio": network.epoch_seconds / base.epoch_seconds,
                    "costs": network.table.to_dict(),
                }
            )
        return {
            "command": self.command,
            "ceilings": asdict(self.ceilings),
            "networks": networks,
            "explanation": [{"about": heading, "sentences": said} for heading, said in self.sentences()],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def explain(
    names: Sequence[str] = (),
    batch_size: int = 128,
    *,
    steps: int | None = None,
    predict: bool = False,
    command: str = "",
    said: Callable[[str], object] = lambda text: None,
) -> Explanation:
    """Measure the networks of these names (none: the question's three) and explain them.

    A name is one of `fastbn.networks` or `module:function`. predict: say, too, what the analytic columns and this
    machine's measured ceilings alone would have predicted. `said` is told what is being done. Raises ValueError for
    unknown names and a batch size below one.
    """
    wanted = list(names) or list(QUESTION)
    models = [(name, make_model(name)) for name in wanted]
    rates = kernel_rates(said) if predict else None
    found = []
    for name, model in models:
        said(f"measuring {name}")
        table = model.costs(batch_size, steps)
        predicted = predict_step(table, rates) * SAMPLES / batch_size if rates is not None else None
        found.append(Explained(name, table, predicted))
    return Explanation(tuple(found), command or " ".join(["fastbn explain", *names]))


def html_page(explanation: Explanation) -> str:
    """The explanation as one HTML page that needs nothing else."""
    from fastbn.explain._html import page

    return page(explanation)
