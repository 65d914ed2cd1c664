"""The demo's verdict is computed from its figures."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from fastbn import demo, networks
from fastbn.demo import Row

ROWS = [
    Row("mlp", 669_706, 668_672, 2.0, 0.96),
    Row("cnn", 110_986, 10_903_680, 24.0, 0.98),
    Row("cnn_small", 5_958, 113_040, 0.5, 0.94),
    Row("article", 575_050, 574_080, 1.0, 0.1135),
    Row("article + BN", 577_098, 574_080, 1.2, 0.72),
]


def _with_seconds(network: str, seconds: float) -> list[Row]:
    return [replace(row, seconds=seconds) if row.network == network else row for row in ROWS]


def test_verdict_when_time_follows_arithmetic() -> None:
    assert demo.verdict(ROWS) == (
        "cnn does 16 times the arithmetic of mlp in 12 times its time (the question: 21) and cnn_small does 0.17 times "
        "the arithmetic of mlp in 0.25 times its time (the question: 1.8): time follows arithmetic, not the number of "
        "parameters; one batch-norm raises the article's sigmoid network after two epochs (11.3% without, 72.0% with)."
    )


@pytest.mark.parametrize(
    ("network", "seconds", "expected"),
    [
        ("cnn_small", 3.0, "cnn_small takes longer than mlp with less arithmetic"),
        ("cnn_small", 2.0, "cnn_small takes longer than mlp with less arithmetic"),
        ("cnn", 1.5, "cnn is faster than mlp with more arithmetic"),
        ("cnn", 20.0, "the order of the times is that of arithmetic, not of the number of parameters"),
    ],
)
def test_verdict_when_time_does_not(network: str, seconds: float, expected: str) -> None:
    verdict = demo.verdict(_with_seconds(network, seconds))
    assert expected in verdict
    assert "time follows arithmetic" not in verdict


def test_verdict_when_batch_norm_does_not_help() -> None:
    rows = [replace(row, accuracy=0.5) if row.network.startswith("article") else row for row in ROWS]
    assert "one batch-norm does not raise" in demo.verdict(rows)


def test_table_fits_a_terminal_of_eighty_columns() -> None:
    text = io.StringIO()
    console = Console(width=80, file=text)
    console.print(demo.table(ROWS))
    lines = [line for line in text.getvalue().splitlines() if line.strip()]
    assert len(lines) == 2 + len(ROWS)
    assert re.split(r" {2,}", lines[0].strip()) == [
        "network",
        "parameters",
        "multiply-adds",
        "s/epoch",
        "question's",
        "accuracy",
    ]
    assert lines[3].split() == ["cnn", "110,986", "10,903,680", "24.00", "340", "98.00%"]


@pytest.mark.parametrize(
    ("build", "parameters", "multiply_adds"),
    [(networks.mlp, 669_706, 668_672), (networks.cnn, 110_986, 10_903_680), (networks.cnn_small, 5_958, 113_040)],
)
def test_networks_have_the_questions_sizes(build: object, parameters: int, multiply_adds: int) -> None:
    model = build()  # type: ignore[operator]
    assert model.count_params() == parameters
    assert model.count_multiply_adds() == multiply_adds


@pytest.mark.parametrize("batch_norms", [0, 1, 2, 3, 4])
def test_article_network(batch_norms: int) -> None:
    model = networks.article("relu", batch_norms)
    normalised = (512, 256, 128, 64)[:batch_norms]
    assert model.count_params() == 575_050 + 4 * sum(normalised)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("BatchNormalization") == batch_norms
    assert kinds[: 2 * batch_norms] == ["Dense", "BatchNormalization"] * batch_norms


@pytest.mark.parametrize("batch_norms", [-1, 5])
def test_article_network_with_too_many_batch_norms(batch_norms: int) -> None:
    with pytest.raises(
        ValueError, match=rf"article: batch_norms must lie in 0\.\.4\. Received: batch_norms={batch_norms}"
    ):
        networks.article("relu", batch_norms)
