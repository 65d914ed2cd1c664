"""Cells, how they are kept, and how a study goes on after it was interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness.processes import run_python
from rich.console import Console

from fastbn import networks, runtime, study, utils
from fastbn.optimizers import SGD
from fastbn.study import _cell, _data, _machine, _runner, _store
from fastbn.study._cell import Cell
from fastbn.study._live import Progress
from fastbn.study._store import Store
from fastbn.study._variants import Variant

HERE = Path(__file__).parent


def cell(variant: Variant, seed: int = 0, epochs: int = 2) -> Cell:
    data, here = _data.load("digits"), _machine.here()
    return Cell(variant, seed, epochs, data.name, data.digest, here["isa"], here["fastbn"])


def trained(wanted: Cell, threads: int | None = None) -> dict:
    return _cell.run(wanted.values(), threads)


@pytest.mark.usefixtures("few_digits")
def test_a_cell_is_plain_training() -> None:
    """The curves are those of `fit` from the same seed: probes change nothing."""
    variant = Variant("relu", 2, batch_size=64, probes=("gradient", "recalibration"))
    record = trained(cell(variant, seed=3))
    data = _data.load("digits")
    utils.set_random_seed(3)
    model = networks.article("relu", 2)
    optimizer = SGD(0.01, momentum=0.9, nesterov=True)
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        data.x_train, data.y_train, batch_size=64, epochs=2, validation_data=(data.x_test, data.y_test), verbose=0
    ).history
    assert {name: record["result"][name] for name in history} == history
    assert record["result"] == trained(cell(replace(variant), seed=3))["result"]
    assert record["result"]["weights_sha256"] != trained(cell(variant, seed=4))["result"]["weights_sha256"]


@pytest.mark.usefixtures("few_digits")
def test_threads_change_no_result() -> None:
    wanted = cell(Variant("sigmoid", 1, probes=("gradient",)), epochs=1)
    before = runtime.get_num_threads()
    one, three = trained(wanted, 1), trained(wanted, 3)
    assert one["result"] == three["result"]
    assert (one["seconds"]["threads"], three["seconds"]["threads"]) == (1, 3)
    assert runtime.get_num_threads() == before


@pytest.mark.usefixtures("few_digits")
def test_everything_is_written_down() -> None:
    variant = Variant("relu", 1, hidden=5, before=True, momentum=0.9, batch_size=50, probes=("gradient",))
    wanted = cell(variant, seed=2)
    record = json.loads(json.dumps(trained(wanted)))
    assert _cell.cell_of(record["config"]) == wanted
    assert record["key"] == wanted.key
    assert {"fastbn", "revision", "isa", "processor", "python", "numpy", "begun", "process"} <= set(record["machine"])
    assert len(record["seconds"]["epochs"]) == len(record["seconds"]["epochs_a_core"]) == 2
    assert min(record["seconds"]["epochs_a_core"]) > 0
    layers = record["result"]["layers"]
    assert list(layers["quantiles"]) == [layer.name for layer in variant.build().layers]
    for quantiles in layers["quantiles"].values():
        assert np.shape(quantiles) == (3, 5)  # the initial weights', then each epoch's
        assert (np.diff(quantiles, axis=1) >= 0).all()
    assert len(layers["shift"]) == 5  # inputs of the dense layers behind the first
    assert all(len(moved) == 2 for moved in layers["shift"].values())
    norms = record["result"]["gradient"]["norms"]
    assert list(norms) == ["1", "2"]
    assert all(len(values) == 32 and min(values) > 0 for values in norms.values())


def test_keys_tell_cells_apart() -> None:
    base = Cell(Variant(), 0, 10, "mnist", "0123", "avx512", "0.1.0")
    others = [
        replace(base, seed=1),
        replace(base, epochs=9),
        replace(base, data_digest="0124"),
        replace(base, isa="avx2"),
        replace(base, fastbn="0.1.1"),
        replace(base, variant=Variant(momentum=0.9)),
        replace(base, variant=Variant(probes=("gradient",))),
    ]
    assert len({one.key for one in [base, *others]}) == len(others) + 1
    assert replace(base).key == base.key


@pytest.mark.usefixtures("few_digits")
def test_a_cell_refuses_other_data() -> None:
    wanted = replace(cell(Variant()), data_digest="another")
    with pytest.raises(ValueError, match=r"data_digest of a cell must be 'another' wherever it runs. Received"):
        trained(wanted)


def test_losses_that_are_not_finite_become_null() -> None:
    assert _store.without_nan({"loss": [1.0, float("nan"), float("inf")], "n": 2}) == {
        "loss": [1.0, None, None],
        "n": 2,
    }


def test_a_cell_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.write({"key": "abc", "result": 1})
    assert store.read("abc") == {"key": "abc", "result": 1}

    def fail(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text[:5].encode())
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    for key in ("abc", "new"):
        with pytest.raises(OSError, match="disk full"):
            store.write({"key": key, "result": 2})
    assert store.read("abc")["result"] == 1
    assert not store.has("new")
    assert [path.name for path in store.cells.iterdir()] == ["abc.json"]


@pytest.mark.parametrize("text", ["", '{"key": "ab', "[]", "{}", '{"key": "other"}', '{"key": "abc"}'])
def test_damaged_cells_are_named(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    store.put("cells/abc.json", text)
    with pytest.raises(ValueError, match=r"not a readable cell; remove it.*Received: .*abc\.json"):
        store.read("abc")


def test_a_folder_that_cannot_be_written_is_known_before(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastbn.study import _run

    monkeypatch.setattr(_run, "run_cells", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(OSError, match="cannot write /proc/xx"):
        _run.run("accelerate", "/proc/xx", data="digits", seeds=1, epochs=1)


def test_cores_are_shared_out() -> None:
    assert [_runner.shared_out(8, jobs) for jobs in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]


@pytest.mark.usefixtures("few_digits")
def test_a_second_call_finds_everything_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    train = _cell.run

    def counted(values: dict, threads: int | None) -> dict:
        ran.append(values["seed"])
        return train(values, threads)

    monkeypatch.setattr(_cell, "run", counted)
    first = study.run("accelerate", tmp_path, data="digits", seeds=1, epochs=1, jobs=1)
    assert ran == [0] * 4
    second = study.run("accelerate", tmp_path, data="digits", seeds=1, epochs=1, jobs=1)
    assert ran == [0] * 4
    assert second.cells == first.cells
    with pytest.raises(ValueError, match=r"holds 4 of the 8 cells asked for.*--resume.*Received"):
        study.run("accelerate", tmp_path, data="digits", seeds=2, epochs=1, jobs=1)
    output = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115
    study.run("accelerate", tmp_path, data="digits", seeds=2, epochs=1, jobs=1, resume=True, console=output)
    assert ran == [0] * 4 + [1] * 4
    said = output.export_text()
    assert "4 of 8 cells found done." in said
    assert "8/8 accelerate: " in said
    assert said.count("seed 1: ") == 4
    # Every cell of `accelerate` is one of `depth`, too.
    assert set(cells_of(tmp_path)) < {one.key for _, one in study._run._cells(
        [study.STUDIES["depth"]], 2, 1, _data.load("digits"))["depth"]}  # fmt: skip


@pytest.mark.usefixtures("few_digits")
def test_an_interrupt_keeps_what_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C: with a cell of every variant there is an outcome, with less only the cells."""
    train, left = _cell.run, [2]

    def until(values: dict, threads: int | None) -> dict:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return train(values, threads)

    monkeypatch.setattr(_cell, "run", until)
    options = {"data": "digits", "seeds": 2, "epochs": 1, "jobs": 1, "resume": True}
    with pytest.raises(KeyboardInterrupt):
        study.run("accelerate", tmp_path, **options)
    assert len(cells_of(tmp_path)) == 2
    left[0] = 3
    outcome = study.run("accelerate", tmp_path, **options)
    assert (outcome.whole, len(outcome.cells), outcome.wanted) == (False, 5, 8)
    assert sorted(row.seeds for row in outcome.studies[0].rows) == [1, 1, 1, 2]
    study.write_report(outcome, tmp_path)
    assert "Interrupted: 5 of 8 runs have ended." in (tmp_path / "report.html").read_text()
    left[0] = 3
    assert study.run("accelerate", tmp_path, **options).whole


def cells_of(folder: Path) -> dict[str, dict]:
    """The deterministic part of each cell of a folder."""
    return {path.stem: json.loads(path.read_text())["result"] for path in (folder / "cells").glob("*.json")}


PROGRAM = """
import sys
from fastbn import study
if __name__ == "__main__":
    study.run("accelerate", sys.argv[1], data="digits", seeds=1, epochs=1, jobs=2, resume=True)
"""


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path) -> None:
    """kill -9 in the middle: what has ended is there, and the resumed study equals an uninterrupted one bit by bit."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = subprocess.Popen([sys.executable, str(program), str(killed)], start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list((killed / "cells").glob("*.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert running(process.pid) == []
    kept = cells_of(killed)
    assert 0 < len(kept) < 4
    run_python(str(program), str(whole))
    run_python(str(program), str(killed))
    assert cells_of(killed) == cells_of(whole)
    assert kept.items() <= cells_of(whole).items()


def running(session: int) -> list[str]:
    """Command lines of the processes of a session that still run after a while."""
    for _ in range(100):
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:  # it ended meanwhile
                continue
        if not found:
            break
        time.sleep(0.1)
    return found


DASK = """
import sys
from dask.distributed import Client, LocalCluster
from fastbn import study
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster):
            study.run("accelerate", sys.argv[1], data="digits", seeds=1, epochs=1, backend="dask")
"""


@pytest.mark.slow
def test_two_workers_of_a_dask_cluster(tmp_path: Path) -> None:
    """The same cells on a Dask cluster of two workers, bit by bit; both of them worked."""
    pytest.importorskip("distributed")
    for name, text in (("program.py", PROGRAM), ("dask.py", DASK)):
        (tmp_path / f"a_{name}").write_text(text)
    run_python(str(tmp_path / "a_program.py"), str(tmp_path / "here"))
    run_python(str(tmp_path / "a_dask.py"), str(tmp_path / "there"))
    assert cells_of(tmp_path / "there") == cells_of(tmp_path / "here")
    records = [json.loads(path.read_text()) for path in (tmp_path / "there" / "cells").glob("*.json")]
    assert len({record["machine"]["process"] for record in records}) == 2


@pytest.mark.usefixtures("few_digits")
def test_a_live_table_on_a_terminal(tmp_path: Path) -> None:
    """Cells done, the mean of their last losses, and the time left; gone when the study has ended."""
    with open(tmp_path / "screen.txt", "w") as screen:
        console = Console(file=screen, force_terminal=True, width=100, height=40)
        study.run("accelerate", tmp_path / "out", data="digits", seeds=1, epochs=1, jobs=1, console=console)
    shown = (tmp_path / "screen.txt").read_text()
    assert re.search(r"\d of 4 cells, (time left unknown yet|\d+ s left)", shown)
    assert "relu, one BN" in shown
    assert "seed 0" not in shown  # no lines beside the table


@pytest.mark.usefixtures("few_digits")
def test_the_table_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [cell(Variant("sigmoid", k), seed) for k in (0, 1) for seed in (0, 1)]
    labels = {one.key: ("accelerate", f"{one.variant.batch_norms} BN") for one in cells}
    now = [100.0]
    monkeypatch.setattr("fastbn.study._live.time.perf_counter", lambda: now[0])
    console = Console(file=open(os.devnull, "w"), width=90, record=True)  # noqa: SIM115
    with Progress(labels, cells, cells[:1], 600, console, lambda key: 0.25) as progress:
        assert progress.time_left() is None
        now[0] += 10
        progress.ended(cells[1], 10.0)
        assert progress.time_left() == pytest.approx(20, rel=0.01)  # two of the same size left
        console.print(progress.table())
    said = console.export_text()
    assert "1 of 4 cells found done." in said
    assert "2/4 accelerate: 0 BN, seed 1: 10.0 s, 20 s left" in said
    assert "2 of 4 cells, 20 s left" in said
    assert re.search(r"accelerate +0 BN +2/2 +0\.25", said)
    assert re.search(r" 1 BN +0/2 +\n", said)
