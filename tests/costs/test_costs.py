"""The cost table: exact counts, formats, and rows that add up to the measured step."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from fastbn import _core, costs, layers, networks
from fastbn.costs import Part
from fastbn.costs._ceilings import keep_measured, machine_key, read_measured
from fastbn.costs._table import add_parts
from fastbn.models import Sequential

#: The question's networks: parameters, and forward multiply-adds of one image by layer.
COUNTS = {
    "mlp": (669_706, {"dense": 401_408, "dense_1": 262_144, "dense_2": 5_120}),
    "cnn": (110_986, {"conv2d": 194_688, "conv2d_1": 10_616_832, "dense": 92_160}),
    "cnn_small": (5_958, {"conv2d": 24_336, "conv2d_1": 82_944, "dense": 5_760}),
}
CEILINGS = costs.Ceilings("a processor", 2, "avx512", 1e11, 4e11, 2e11, 1e11, 2e10, 1e-6, 1e-7, 32768, 1 << 20, 1 << 25)


def compiled(model: Sequential, optimizer: str = "rmsprop") -> Sequential:
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """A cache of its own: nothing is known about this machine."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("fastbn.costs._ceilings.cache_folder", lambda: folder)
    return folder


@pytest.fixture
def known(cache):
    """A cache that knows ceilings: nothing is measured but the model."""
    keep_measured("ceilings", asdict(CEILINGS))
    return cache


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("batch", [1, 128])
def test_counts_are_those_of_the_question(name: str, batch: int, cache) -> None:
    parameters, by_layer = COUNTS[name]
    table = compiled(getattr(networks, name)()).costs(batch, steps=0)
    assert table.parameters == parameters
    assert table.forward_multiply_adds == sum(by_layer.values())
    found = {row.layer: row.forward.multiply_adds for row in table if row.forward.multiply_adds}
    assert found == {layer: batch * count for layer, count in by_layer.items()}
    first = next(iter(by_layer))
    for layer, count in by_layer.items():  # data and filter gradient; no data gradient before the first layer
        assert table[layer].backward.multiply_adds == (1 if layer == first else 2) * batch * count
        assert table[layer].update.multiply_adds == 0


def test_without_a_run_there_are_counts_alone(cache) -> None:
    table = compiled(networks.cnn_small()).costs(64, steps=0)
    assert not table.measured
    assert table.total.seconds is None
    assert table.ceilings is None
    assert {row.kind for row in table} == {
        "Input", "Conv2D", "MaxPooling2D", "Dropout", "Flatten", "Dense", "loss"
    }  # fmt: skip
    for row in table.layers:
        assert row.share is None
        assert not row.operations or (row.seconds is None and row.total.reached is None)
    assert not list(cache.iterdir())


def test_bytes_by_hand(cache) -> None:
    """A dense layer trained by SGD without momentum: what it must read and write."""
    model = compiled(Sequential([layers.Input((48,)), layers.Dense(10, activation="softmax")]), "sgd")
    table = model.costs(32, steps=0)
    x, kernel, logits = 32 * 48 * 4, 480 * 4, 32 * 10 * 4
    dense = {operation.name: operation.part for operation in table["dense"].operations}
    assert dense["forward"].bytes == x + kernel * 16 + logits  # each of 16 chunks of two rows reads the kernel
    assert dense["forward"].calls == 16
    assert table["input_layer"].total.bytes == 2 * x
    filter_bytes = dense["backward_filter"].bytes
    assert filter_bytes >= x + logits + 2 * kernel  # reads both and the kernel, writes it
    momentum = compiled(Sequential([layers.Input((48,)), layers.Dense(10, activation="softmax")]), "adam")
    by_adam = {operation.name: operation.part for operation in momentum.costs(32, steps=0)["dense"].operations}
    assert by_adam["backward_filter"].bytes == filter_bytes + 2 * 2 * kernel  # two slots, read and written


def test_what_grows_with_the_batch(cache) -> None:
    model = compiled(networks.cnn())
    small, large = model.costs(64, steps=0), model.costs(128, steps=0)
    for a, b in zip(small, large, strict=True):
        assert a.layer == b.layer
        assert b.multiply_adds == 2 * a.multiply_adds
        assert a.total.bytes <= b.total.bytes <= 2 * a.total.bytes + 1
    assert small["conv2d_1"].update == large["conv2d_1"].update


def test_fused_partners_are_named(cache) -> None:
    inputs = layers.Input((12, 12, 1))
    y = layers.Conv2D(8, 3, use_bias=False, name="a_layer_with_" + "a_long_" * 12 + "name")(inputs)
    y = layers.BatchNormalization()(y)
    y = layers.Flatten()(layers.ReLU()(y))
    from fastbn import Model

    model = compiled(Model(inputs, layers.Dense(3, activation="softmax")(y)))
    table = model.costs(8, steps=0)
    assert "re_lu" in table["batch_normalization"].fused
    assert table[1].layer.endswith("long_name")
    assert table[1].forward.multiply_adds == 8 * 10 * 10 * 9 * 8
    assert table["flatten"].operations == ()
    with pytest.raises(KeyError, match="no row of this name"):
        table["dense_7"]


def test_measured_rows(known) -> None:
    table = compiled(networks.cnn_small()).costs(32, steps=20)
    assert table.measured
    assert table.replays >= 20
    assert [row.layer for row in table.overhead] == ["(waiting)", "(region)", "(loop)"]
    assert all(row.seconds is not None and row.seconds >= 0 for row in table)
    assert math.isclose(sum(row.share for row in table), 1)
    assert math.isclose(table.total.seconds, sum(row.seconds for row in table))
    conv = table["conv2d_1"].total
    assert math.isclose(conv.gflops, 2e-9 * conv.multiply_adds / conv.seconds)
    assert math.isclose(conv.reached, conv.bound_seconds / conv.seconds)
    assert conv.bound_seconds >= conv.multiply_adds / table.ceilings.multiply_adds
    assert (known / "machine.json").exists()
    assert costs.known_ceilings() == table.ceilings  # read back as written
    assert compiled(networks.mlp()).costs(32, steps=0).ceilings == table.ceilings


def test_what_bounds_a_part() -> None:
    part = Part(multiply_adds=100, bytes_block=10, compute_seconds=1.0, l2_seconds=0.5, memory_seconds=0.1)
    assert part.bound_seconds == 1.0
    assert part.bound_by == "compute"
    assert replace(part, l2_seconds=2.0).bound_by == "L2"
    assert replace(part, memory_seconds=3.0).bound_by == "memory"
    assert replace(part, seconds=4.9).bound_by == "compute"
    assert replace(part, seconds=5.1).bound_by == "latency"
    assert Part().bound_by is None
    assert Part().intensity is None
    two = add_parts([replace(part, seconds=2.0), replace(part, seconds=3.0)])
    assert (two.multiply_adds, two.seconds, two.bound_seconds) == (200, 5.0, 2.0)
    assert add_parts([part, replace(part, seconds=3.0)]).seconds is None


def test_formats(known) -> None:
    table = compiled(networks.cnn_small()).costs(16, steps=3)
    plain = json.loads(table.to_json())
    assert plain["parameters"] == 5958
    assert [row["layer"] for row in plain["rows"]] == [row.layer for row in table]
    assert math.isclose(sum(row["total"]["seconds"] for row in plain["rows"]), table.total.seconds)
    lines = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert len(lines) == len(table)
    assert int(lines[2]["forward_multiply_adds"]) == 16 * 82_944
    assert float(lines[2]["total_seconds"]) == table["conv2d_1"].seconds
    text = str(table)
    for row in table:
        assert row.layer in text
    assert "GFLOP/s" in text
    assert "5,958" in text
    page = table._repr_html_()
    assert page.count("<table>") == page.count("</table>") == 2
    assert page.count("<tr>") == 2 * 2 + len(table.layers) + len(table)
    unmeasured = compiled(networks.cnn_small()).costs(16, steps=0)
    assert unmeasured._repr_html_().count("<table>") == 1
    assert "GFLOP/s" not in str(unmeasured)
    json.loads(unmeasured.to_json())


def test_names_are_escaped(known) -> None:
    model = compiled(Sequential([layers.Input((4,)), layers.Dense(2, activation="softmax", name="<b>[red]")]))
    table = model.costs(4, steps=1)
    assert "&lt;b&gt;[red]" in table._repr_html_()
    assert "<b>[red]" in str(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, r"costs: steps must not be negative. Received: steps=-1"),
        ({"batch_size": 0}, r"costs: batch_size"),
        ({"batch_size": -3}, r"costs: batch_size"),
    ],
)
def test_bad_arguments(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        compiled(networks.cnn_small()).costs(**options)


def test_models_that_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="costs: the model must be compiled first"):
        networks.mlp().costs()
    model = Sequential([layers.Dense(3)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="shape"):
        model.costs()


@pytest.mark.parametrize("loss", ["mse", "categorical_crossentropy"])
def test_other_losses_and_inputs(loss, known) -> None:
    model = Sequential([layers.Input((8, 8, 1)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3)])
    if loss != "mse":
        model.add(layers.Softmax())
    model.compile("sgd", loss)
    model.predict(np.zeros((2, 8, 8, 1), np.uint8))  # the program now takes bytes
    table = model.costs(5, steps=2)
    assert table.total.seconds > 0
    assert table["input_layer"].total.bytes % (5 * 64) == 0


def test_ceilings_are_measured_once(cache, monkeypatch) -> None:
    assert costs.known_ceilings() is None
    measured = costs.ceilings()
    assert measured.threads == _core.get_num_threads()
    assert measured.isa == _core.isa_in_use()
    assert measured.isa_multiply_adds[measured.isa] == measured.multiply_adds
    assert measured.l2_bytes > 0
    assert measured.memory_bytes > 0

    def never(*arguments: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(_core, "measure_ceilings", never)
    assert costs.ceilings() == measured
    with pytest.raises(AssertionError, match="measured again"):
        costs.measure_ceilings()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1, "machines": {}}', '{"format": 0, "machines": 3}'])
def test_a_damaged_cache_is_measured_anew(content, cache, monkeypatch) -> None:
    (cache / "machine.json").write_text(content)
    assert costs.known_ceilings() is None
    values = {
        key: value
        for key, value in vars(CEILINGS).items()
        if key not in ("processor", "isa", "isa_multiply_adds", "measured", "version")
    }
    monkeypatch.setattr(_core, "measure_ceilings", lambda *arguments: values)
    costs.measure_ceilings()
    assert costs.known_ceilings().l2_bytes == CEILINGS.l2_bytes


def test_other_threads_have_ceilings_of_their_own(cache, monkeypatch) -> None:
    key = machine_key()
    keep_measured("x", 1)
    monkeypatch.setattr(_core, "get_num_threads", lambda: 77)
    assert machine_key() != key
    assert read_measured("x") is None
    keep_measured("x", 2)
    assert read_measured("x") == 2
    monkeypatch.undo()


def test_a_cache_that_cannot_be_written(cache, monkeypatch) -> None:
    (cache / "blocked").write_text("a file where the folder should be")
    monkeypatch.setattr("fastbn.costs._ceilings.cache_folder", lambda: cache / "blocked" / "deeper")
    keep_measured("x", 1)  # in silence: it is measured again the next time
    assert costs.known_ceilings() is None


def test_measuring_refuses_what_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"measure_ceilings: must name an instruction set .* Received: 'mmx'"):
        _core.measure_ceilings("mmx", 0.1)
    for seconds in (0.0, -1.0, math.nan, 1e9):
        with pytest.raises(ValueError, match=r"measure_ceilings: seconds must lie in \(0, 60\]"):
            _core.measure_ceilings(None, seconds)


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_rows_add_up_and_timing_is_cheap(name: str) -> None:
    """The rows add up to the measured step within 3 %, timing costs at most 2 %; overhead is at most 5 %.

    The best of five runs counts: other work on the machine can only spoil them.
    """
    model = compiled(getattr(networks, name)())
    sums, timings, overheads = [], [], []
    for _ in range(5):
        table = model.costs(128)
        sums.append(abs(table.unexplained))
        timings.append(table.timing_overhead)
        overheads.append(table.overhead_share)
        if sums[-1] <= 0.03 and timings[-1] <= 0.02 and (name == "cnn_small" or overheads[-1] <= 0.05):
            return
    pytest.fail(f"{name}: rows off by {sums}, timing adds {timings}, overhead {overheads}")
