"""The explanation follows the figures: other figures make other sentences, for the right reason."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from harness.costs import CEILINGS, layer, network
from typer.testing import CliRunner

from fastbn import explain as explanations
from fastbn import networks
from fastbn.cli.app import app
from fastbn.costs import CostTable
from fastbn.explain import Explained, Explanation, _sentences

runner = CliRunner()


def about(explained: Explained) -> str:
    return " ".join(_sentences.explain_network(explained))


def test_arithmetic_explains_a_wide_layer() -> None:
    said = about(network("net", layer("wide", 1.25e-3, 100_000_000, kind="Conv2D"), layer("small", 1e-4, 1_000_000)))
    assert "wide (Conv2D) takes 93% of the step: 1.25 ms of 1.35 ms" in said
    assert "99% of the multiply-adds and holds 50% of the parameters" in said
    assert "here 1,000 times an image" in said
    assert "Arithmetic explains it: it runs at 160 GFLOP/s, 80% of its bound by the 200 GFLOP/s" in said
    assert "fewer multiplications, by fewer filters" in said
    assert "Overhead does not explain it" in said


def test_arithmetic_far_from_its_peak() -> None:
    said = about(network("net", layer("wide", 2.5e-3, 100_000_000)))
    assert "arithmetic alone explains only 40% of its time: 80 of the 200 GFLOP/s" in said
    assert "Arithmetic explains it" not in said


def test_bytes_explain_a_layer_of_weights() -> None:
    heavy = layer("heavy", 8e-3, 1_000_000, crossing=100_000_000, parameters=8_000_000)
    said = about(network("net", heavy))
    assert "Bytes explain it: 100 MB a step leave the cores' caches" in said
    assert "a larger batch; the weights" in said
    light = layer("light", 8e-3, 1_000_000, crossing=100_000_000, parameters=10)
    said = about(network("net", light))
    assert "a larger batch" not in said
    assert "smaller activations" in said


def test_the_cache_behind_l2_is_faster_than_memory() -> None:
    small = network("net", layer("a", 1e-3, 0, crossing=10_000_000))
    large = network("net", layer("a", 1e-3, 0, crossing=20_000_000))
    assert small.table["a"].total.memory_seconds == pytest.approx(10e6 / 1e11)
    assert large.table["a"].total.memory_seconds == pytest.approx(20e6 / 2e10)


def test_kernels_that_multiply_less() -> None:
    """100 M multiply-adds in 0.7 ms are 286 GFLOP/s of 200; a quarter of them is done, 36 % of the peak."""
    row = layer("conv", 0.7e-3, 100_000_000, kind="Conv2D")
    row = replace(row, operations=tuple(replace(o, note="winograd4") for o in row.operations))
    shown = network("net", row)
    conv = shown.table["conv"]
    assert conv.multiply_adds == 100_000_000
    assert conv.multiplied == 25_000_000
    assert conv.total.reached == pytest.approx(0.25 / 0.7)
    said = about(shown)
    assert "faster than this machine" not in said
    assert "286 GFLOP/s by its multiply-adds, of which Winograd's kernels do 25%" in said
    text = str(shown.table)
    assert "286*" in text
    assert "* conv: Winograd's kernels multiply less than the multiply-adds say" in text
    beside = _sentences.compare([network("base", layer("a", 1e-3, 50_000_000)), shown])
    assert "in net Winograd's kernels save some, 25% are done" in beside[0]
    assert "*" not in str(network("net", layer("conv", 0.7e-3, 50_000_000)).table)


def test_bytes_in_the_block() -> None:
    said = about(network("net", layer("pool", 1e-3, 0, kind="MaxPooling2D", block=100_000_000)))
    assert "moves 100 MB a step inside the cores' caches" in said
    assert "multiply-adds" not in said


def test_a_narrow_layer() -> None:
    said = about(network("net", layer("narrow", 1e-3, 1_000_000, kind="Conv2D", width=4)))
    assert "Neither arithmetic nor bytes explain it" in said
    assert "A vector holds 16 numbers and the layer has 4 filters" in said
    assert "up to 16 filters cost little more" in said
    wide = about(network("net", layer("narrow", 1e-3, 1_000_000, kind="Conv2D", width=64, calls=400)))
    assert "A vector holds" not in wide
    assert "400 kernel calls a step take 5 us each" in wide
    assert "a larger batch, or fewer and wider layers" in wide


def test_ceilings_that_were_measured_on_a_busy_machine() -> None:
    said = about(network("net", layer("wide", 0.8e-3, 100_000_000)))
    assert "wide: faster than this machine's ceilings allow" in said
    assert "Arithmetic explains it" not in said
    assert "faster than" not in about(network("net", layer("wide", 0.95e-3, 100_000_000)))


@pytest.mark.parametrize(
    ("times", "advice"),
    [
        ({"waiting": 1e-3}, "threads wait for each other"),
        ({"region": 1e-3}, "other programs had the processors: measure again on a quiet machine"),
        ({"loop": 1e-3}, "the loop around the step is long"),
    ],
)
def test_overhead(times: dict[str, float], advice: str) -> None:
    said = about(network("net", layer("a", 1e-3, 50_000_000), **times))
    assert "Overhead matters: 50% of the step belong to no layer" in said
    assert advice in said


def test_regions_that_cost_more_than_they_bring() -> None:
    said = about(network("net", layer("a", 1e-5, 500_000), region=4e-5))
    assert "opening threads costs more than it brings" in said
    assert said.startswith("Overhead matters: 80% of the step")  # it comes first: it takes more than the layers


def test_beside_another_network() -> None:
    base = network("base", layer("a", 1e-3, 50_000_000, parameters=1_000))
    double = network("double", layer("a", 2e-3, 100_000_000, parameters=100))
    slow = network(
        "slow", layer("a", 5e-4, 1_000_000, kind="Conv2D", width=4), layer("b", 3e-4, 1_000_000, block=60_000_000)
    )
    fast = network("fast", layer("a", 1e-3, 100_000_000, parameters=2_000))
    said = _sentences.compare([base, double, slow, fast])
    assert said[0].startswith(
        "double has 0.1 times the parameters of base, does 2 times its multiply-adds and takes 2 "
    )
    assert "Its time follows its arithmetic" in said[0]
    assert "parameters tells less" in said[0]
    assert "times more than its arithmetic explains" in said[1]
    assert re.search(r"go 63% to a \(latency\), 37% to b \(bytes\)", said[1]), said[1]
    assert "That is 2 times less than its arithmetic would have it" in said[2]


def _question(small_seconds: float) -> list[Explained]:
    def made(name: str, parameters: int, seconds: float, *counts: int) -> Explained:
        rows = [
            layer(f"l{i}", seconds / len(counts), 100 * n, parameters=parameters, block=1000 * n)
            for i, n in enumerate(counts)
        ]
        return network(name, *rows)

    return [
        made("mlp", 100, 1e-3, 401_408, 262_144, 5_120),
        made("cnn", 10, 16e-3, 194_688, 10_616_832, 92_160),
        made("cnn_small", 1, small_seconds, 24_336, 82_944, 5_760),
    ]


def test_the_question_and_its_answer() -> None:
    said = " ".join(_sentences.the_question(_question(2e-4)))
    assert "11,293,056 for cnn against 1,471,488 for mlp, a factor of 7.7" in said
    assert "10,903,680 against 668,672, a factor of 16; the question measured 21 and this machine 16" in said
    assert "0.17 of mlp's arithmetic took 1.8 times its time in the question; here it takes 0.2 of it" in said
    assert "cnn_small is faster than mlp" in said
    slower = " ".join(_sentences.the_question(_question(2e-3)))
    assert "here it takes 2 times its time" in slower
    assert "faster" not in slower
    assert _sentences.the_question(_question(2e-4)[:2]) == []


class _Checker(HTMLParser):
    """Open tags, and whatever would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        assert not {"src", "href"} & {name for name, _ in attrs}, (tag, attrs)
        if tag not in ("meta", "br", "line", "rect", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("line", "rect", "circle"):
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _checked(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_html_page() -> None:
    found = Explanation(tuple(_question(2e-4)), "fastbn explain --html 'a <b>.html'")
    page = explanations.html_page(found)
    checked = _checked(page)
    text = " ".join(checked.texts)
    assert "fastbn explain --html 'a <b>.html'" in text
    assert "http" not in page.replace("http-equiv", "")
    assert checked.counts["svg"] == 6  # bars and roofline of each network
    assert checked.counts["circle"] == 9  # one point a layer and direction
    assert checked.counts["table"] == 4
    for _, sentences in found.sentences():
        for sentence in sentences:
            assert sentence in text
    for name, value in CEILINGS.lines():
        assert name in text
        assert value in text


def test_html_of_strange_names() -> None:
    found = Explanation((network("<script>", layer("<i>&", 1e-3, 1_000_000)),), "fastbn explain")
    page = explanations.html_page(found)
    assert "<i>&" not in page
    assert "<script>:" not in page
    _checked(page)


def test_html_without_multiply_adds() -> None:
    found = Explanation((network("net", layer("pool", 1e-3, 0, block=1000)),), "fastbn explain")
    checked = _checked(explanations.html_page(found))
    assert checked.counts["svg"] == 1  # nothing to put under a roof


MODULE = """
from fastbn import layers
from fastbn.models import Sequential

def tiny(units=8):
    model = Sequential([layers.Input((12,)), layers.Dense(units, activation="relu")])
    model.add(layers.Dense(3, activation="softmax"))
    return model

def regression():
    return Sequential([layers.Input((12,)), layers.Dense(3)])

def broken():
    raise RuntimeError("inside the function")

def wrong():
    return 3

def needs(units):
    return tiny(units)

value = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "their_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "their_models", raising=False)
    return tmp_path


def test_command_on_a_model_of_ones_own(module: Path) -> None:
    command = ["explain", "their_models:tiny", "their_models:regression", "--batch-size", "16"]
    result = runner.invoke(app, [*command, "--json", "out.json", "--html", "out.html"])
    assert result.exit_code == 0, result.output
    assert "Beside their_models:tiny" in result.output
    assert "The question" not in result.output.replace("The question's figures", "")
    found = json.loads((module / "out.json").read_text())
    assert [n["parameters"] for n in found["networks"]] == [131, 39]
    assert found["networks"][0]["costs"]["batch_size"] == 16
    assert found["explanation"][0]["sentences"]
    _checked((module / "out.html").read_text())
    alone = runner.invoke(app, [*command, "--json", "-"])
    assert alone.exit_code == 0
    assert json.loads(alone.stdout)["networks"][1]["name"] == "their_models:regression"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet"], "must be one of article, cnn, cnn_small, mlp, or module:function. Received: 'resnet'"),
        (["no_such_module:f"], "the module must be importable from here. Received: 'no_such_module'"),
        (["their_models.py:tiny"], "(leave out .py)"),
        (["their_models:nothing"], "must have a function of this name. Received: 'nothing'"),
        (["their_models:value"], "must have a function of this name. Received: 'value'"),
        (["their_models:needs"], "must need no arguments. Received: their_models:needs (missing a required argument"),
        (["their_models:wrong"], "must return a fastbn model. Received: int"),
        (["their_models:"], "a model is named module:function. Received: 'their_models:'"),
        (["./their_models.py:tiny"], "a model is named module:function. Received: './their_models.py:tiny'"),
        (["mlp", "--html", "nowhere/out.html"], "the folder must be there"),
        (["mlp", "--html", "/proc/out.html"], "cannot write /proc/out.html"),
        (["mlp", "--json", "/proc/out.json"], "cannot write /proc/out.json"),
    ],
)
def test_command_refuses(arguments: list[str], message: str, module: Path) -> None:
    result = runner.invoke(app, ["explain", *arguments])
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert result.output.startswith("fastbn explain: ")
    assert result.output.count("explain: ") == 1


def test_tables_are_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from fastbn.cli.app import _console

    assert _console().width == 128
    monkeypatch.setattr(Console, "is_terminal", True)
    for columns, width in (("40", 80), ("100", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        assert _console().width == width


def test_errors_inside_the_function_pass(module: Path) -> None:
    result = runner.invoke(app, ["explain", "their_models:broken"])
    assert isinstance(result.exception, RuntimeError)
    assert runner.invoke(app, ["explain", "mlp", "--batch-size", "0"]).exit_code == 2


@pytest.mark.slow
def test_perturbing_a_network_changes_the_explanation_for_the_right_reason() -> None:
    """On this machine: a wider layer takes over, a larger image gives the time back, a larger batch shares weights."""
    from fastbn import layers
    from fastbn.models import Sequential

    def measured(side: int, units: int, batch: int = 32) -> CostTable:
        model = Sequential([layers.Input((side, side, 1)), layers.Conv2D(16, 3, activation="relu", name="images")])
        for more in (layers.MaxPooling2D(4), layers.Flatten(), layers.Dense(units, activation="relu", name="wide")):
            model.add(more)
        model.add(layers.Dense(10, activation="softmax"))
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model.costs(batch, steps=50)

    narrow, wide, large = measured(32, 8), measured(32, 2048), measured(96, 8)
    assert wide["wide"].share > 2 * narrow["wide"].share
    assert _sentences.heaviest(wide).layer == "wide"
    assert {_sentences.heaviest(table).layer for table in (narrow, large)} <= {"images", "max_pooling2d"}
    assert "wide (Dense) takes" in about(Explained("net", wide))
    few, many = measured(32, 2048, 8)["wide"].total, measured(32, 2048, 256)["wide"].total
    assert few.intensity < many.intensity / 4  # the weights pass once a step, however many images it has


def _chromium() -> str | None:
    import shutil

    return shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(_chromium() is None, reason="needs chromium (apt install chromium)")
def test_page_in_a_browser(tmp_path: Path) -> None:
    """No console error, and a click on a heading sorts the table."""
    found = Explanation(tuple(_question(2e-4)), "fastbn explain")
    script = """
    <script>
    const table = document.querySelectorAll("table.sortable")[1];
    const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join(" ");
    const button = [...table.querySelectorAll("button")].find(b => b.textContent === "multiply-adds");
    const seen = [names()];
    for (let i = 0; i < 3; ++i) { button.click(); seen.push(names()); }
    document.title = "SORTED " + seen.join(" | ");
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(explanations.html_page(found) + script)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    result = subprocess.run(
        [str(_chromium()), *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in result.stderr, result.stderr
    title = re.search(r"<title>(SORTED [^<]*)</title>", result.stdout)
    assert title is not None, result.stdout[:2000]
    given, down, up, again = title.group(1).removeprefix("SORTED ").split(" | ")
    assert given == again == "l0 l1 l2 (waiting) (region) (loop)"
    assert down.startswith("l0 l1 l2")
    assert up.startswith("(waiting) (region) (loop) l2 l1 l0")


def test_the_questions_networks_are_known() -> None:
    for name in explanations._networks.QUESTION:
        assert name in networks.__all__
