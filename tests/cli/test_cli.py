"""The command line: options, `info`, `demo`, and what it imports."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastbn import _core
from fastbn.cli.app import app
from fastbn.datasets import DataSet, digits

runner = CliRunner()
HERE = Path(__file__).parent  # not the root, whose fastbn/ has no compiled modules


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=HERE)


def test_info_says_where_it_runs() -> None:
    result = runner.invoke(app, ["info"])
    assert result.exit_code == 0
    lines = {line[:24].strip(): line[24:] for line in result.output.splitlines()}
    assert lines["version"] == _core.version()
    assert re.search(r"gcc|clang", lines["compiler"])
    assert "-O" in lines["flags"]
    compiled, found = lines["compiled"].split(", "), lines["found"].split(", ")
    assert "baseline" in compiled
    assert "baseline" in found
    assert lines["in use"] in found
    assert lines["threads"].startswith(f"{_core.get_num_threads()} (")
    assert _core.num_threads_reason() in lines["threads"]
    assert lines["OpenMP runtime"] == _core.threading_layer()


def test_info_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTBN_ISA", "baseline")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    result = _python("-m", "fastbn", "info")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^  in use +baseline$", result.stdout, re.MULTILINE)
    threads = r"1 \(built without OpenMP\)" if _core.threading_layer() == "serial" else r"3 \(.*OMP_NUM_THREADS"
    assert re.search(rf"^threads +{threads}", result.stdout, re.MULTILINE)


def test_info_shows_the_ceilings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from harness.costs import CEILINGS

    from fastbn.costs._ceilings import keep_measured

    monkeypatch.setattr("fastbn.costs._ceilings.cache_folder", lambda: tmp_path)
    assert "not measured yet (fastbn info --measure)" in runner.invoke(app, ["info"]).output
    measured = []

    def measure() -> object:
        measured.append("ceilings")
        keep_measured("ceilings", asdict(CEILINGS))
        return CEILINGS

    monkeypatch.setattr("fastbn.costs.measure_ceilings", measure)
    monkeypatch.setattr("fastbn.costs.measure_rates", lambda: measured.append("rates"))
    first = runner.invoke(app, ["info", "--measure"]).output
    assert measured == ["ceilings", "rates"]
    assert "200 GFLOP/s" in first
    assert "memory                20 GB/s" in first
    assert runner.invoke(app, ["info"]).output == first  # kept
    assert measured == ["ceilings", "rates"]


def test_unknown_instruction_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTBN_ISA", "mmx")
    result = _python("-m", "fastbn", "info")
    assert result.returncode != 0
    assert "FASTBN_ISA" in result.stderr
    assert "mmx" in result.stderr


@pytest.mark.parametrize(
    ("option", "file"),
    [
        ("--includes", "fastbn/fastbn.h"),
        ("--cmakedir", "fastbnConfig.cmake"),
        ("--pkgconfigdir", "fastbn.pc"),
    ],
)
def test_paths_for_other_builds(option: str, file: str) -> None:
    result = _python("-m", "fastbn", option)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1
    path = result.stdout.strip()
    if option == "--includes":
        assert path.startswith("-I")
        path = path[2:]
    assert (Path(path) / file).is_file()


def test_module_and_command_are_the_same() -> None:
    help_of_module = _python("-m", "fastbn", "--help")
    help_of_command = _python("-c", "from fastbn.cli import main; main()", "--help")
    assert help_of_module.returncode == 0
    assert help_of_module.stdout == help_of_command.stdout
    for word in ("demo", "explain", "study", "info", "--includes", "--cmakedir", "--pkgconfigdir"):
        assert word in help_of_module.stdout


def test_unknown_command_and_data() -> None:
    assert runner.invoke(app, ["train"]).exit_code == 2
    assert runner.invoke(app, ["demo", "--data", "cifar"]).exit_code == 2


def test_importing_fastbn_loads_numpy_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import fastbn, fastbn.datasets, fastbn.cli, fastbn.config;"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    result = _python("-c", code)
    assert result.returncode == 0, result.stderr
    loaded = set(eval(result.stdout))
    assert "numpy" in loaded
    assert not loaded & {"rich", "typer", "click", "pooch", "requests", "matplotlib", "joblib", "torch", "keras"}


def test_demo_trains_every_network(monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSet("digits", digits._generate(600, 0, 0), digits._generate(200, 0, 1), "Data: a few digits.")
    asked = []

    def load(name: str) -> DataSet:
        asked.append(name)
        return data

    monkeypatch.setattr("fastbn.datasets.load", load)
    result = runner.invoke(app, ["demo", "--data", "digits"])
    assert result.exit_code == 0, result.output
    assert asked == ["digits"]
    lines = result.output.splitlines()
    assert lines[0] == "Data: a few digits."
    for network, parameters, multiply_adds, theirs in (
        ("mlp", "669,706", "668,672", "16"),
        ("cnn", "110,986", "10,903,680", "340"),
        ("cnn_small", "5,958", "113,040", "28"),
    ):
        pattern = rf"{network} +{parameters} +{multiply_adds} +\d+\.\d\d +{theirs} +\d+\.\d\d%"
        assert re.search(pattern, result.output), pattern
    assert re.search(r"article +575,050 +574,080 +\d+\.\d\d +\d+\.\d\d%", result.output)
    assert re.search(r"article \+ BN +577,098 +\S+ +\d+\.\d\d +\d+\.\d\d%", result.output)


def test_demo_without_its_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path / "nowhere"))
    result = runner.invoke(app, ["demo", "--data", "mnist"])
    assert result.exit_code == 1
    assert "FASTBN_DATA must name a folder" in result.output


def test_a_full_disk_behind_the_output() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "fastbn", "info"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, cwd=HERE)
    assert result.returncode != 0
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
