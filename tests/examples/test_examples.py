"""Every script of examples/ runs, learns, and is what it says that it is."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastbn.datasets import DataSet, digits, mnist

EXAMPLES = Path(__file__).parents[2] / "examples"
KERAS_SCRIPTS = ("mnist_mlp.py", "mnist_cnn.py", "mnist_batch_norm.py")


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DataSet:
    """A few hundred drawn digits wherever a script asks for data; scripts write into a folder of their own."""
    train, test = digits._generate(600, 0, 0), digits._generate(200, 0, 1)
    data = DataSet("digits", train, test, "Data: a few digits.")
    monkeypatch.setattr(mnist, "load_data", lambda: (train, test))
    monkeypatch.setattr("fastbn.datasets.load", lambda name="auto": data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return data


@pytest.mark.parametrize("script", ["mnist_mlp.py", "mnist_cnn.py"])
def test_the_questions_scripts(few_digits: DataSet, capsys: pytest.CaptureFixture[str], script: str) -> None:
    result = runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    output = capsys.readouterr().out
    assert "600 training images, 200 test images" in output
    parameters = {"mnist_mlp.py": "669,706", "mnist_cnn.py": "110,986"}[script]
    assert parameters in output
    loss, accuracy = result["score"]
    assert np.isfinite(loss)
    assert accuracy > 0.6
    assert f"Test accuracy: {accuracy}" in output


def test_the_articles_script(few_digits: DataSet, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = runpy.run_path(str(EXAMPLES / "mnist_batch_norm.py"), run_name="__main__")
    curves = result["curves"]
    assert list(curves) == [
        "sigmoid, no batch-norm",
        "sigmoid, one batch-norm",
        "relu, no batch-norm",
        "relu, one batch-norm",
    ]
    for history in curves.values():
        assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert all(len(values) == 10 for values in history.values())
    assert curves["relu, one batch-norm"]["loss"][-1] < curves["relu, no batch-norm"]["loss"][-1]
    assert curves["relu, one batch-norm"]["loss"][-1] < 0.5 * curves["relu, one batch-norm"]["loss"][0]
    assert capsys.readouterr().out.count("training loss") == 4


def test_by_hand(few_digits: DataSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["by_hand.py", "6", "512"])
    result = runpy.run_path(str(EXAMPLES / "by_hand.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert "Data: a few digits." in output
    assert output.count("epoch ") == 6
    assert len(result["x_train"]) == 512
    accuracy: Callable[..., float] = result["accuracy"]
    assert accuracy(result["x_test"], result["y_test"]) > 0.5
    assert sum(w.size for w in result["weights"].values()) == 110_986


def test_by_hand_is_short() -> None:
    assert len((EXAMPLES / "by_hand.py").read_text().splitlines()) < 80


_RUN_WITH_KERAS = """
import runpy, sys
import numpy as np
import keras
arrays = np.load(sys.argv[2])
keras.datasets.mnist.load_data = lambda: (
    (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"]))
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", KERAS_SCRIPTS)
def test_scripts_run_in_keras_with_the_imports_changed_back(tmp_path: Path, script: str) -> None:
    pytest.importorskip("keras")
    pytest.importorskip("jax")
    x, y = digits._generate(300, 0, 0)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:50], y_test=y[:50])
    source = (EXAMPLES / script).read_text()
    (tmp_path / script).write_text(source.replace("fastbn", "keras"))
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN_WITH_KERAS, str(tmp_path / script), str(tmp_path / "data.npz")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_resnet20(few_digits: DataSet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["resnet20.py", "6", "600"])
    result = runpy.run_path(str(EXAMPLES / "resnet20.py"), run_name="__main__")
    model, losses = result["model"], result["history"].history["loss"]
    assert model.output_shape == (None, 10)
    assert model.count_params() == 274_042
    assert model.count_multiply_adds() == 40_813_184
    assert sum(type(layer).__name__ == "Add" for layer in model.layers) == 9
    assert losses[-1] < 0.8 * losses[0]
    assert "multiply-adds an image" in capsys.readouterr().out


def test_resnet20_on_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    images = {f"x_{part}": random.integers(0, 256, (40, 32, 32, 3), np.uint8) for part in ("train", "test")}
    labels = {f"y_{part}": random.integers(0, 10, (40, 1), np.uint8) for part in ("train", "test")}  # as CIFAR-10's are
    np.savez(tmp_path / "images.npz", **images, **labels)
    monkeypatch.setattr(sys, "argv", ["resnet20.py", "1", "32", str(tmp_path / "images.npz")])
    result = runpy.run_path(str(EXAMPLES / "resnet20.py"), run_name="__main__")
    assert len(result["x_train"]) == 32
    assert all(np.isfinite(result["score"]))


@pytest.mark.parametrize("script", ["by_hand.py", "resnet20.py"])
@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["many"], 2)])
def test_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, arguments: list[str], status: int
) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert ended.value.code == status
    output = capsys.readouterr()
    assert f"usage: {script}" in output.out + output.err
