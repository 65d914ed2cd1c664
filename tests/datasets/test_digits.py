"""The digits that fastbn draws: shapes, determinism, cache, and how hard they are."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from fastbn.datasets import digits, strokes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(digits, "cache_folder", lambda: tmp_path)
    return tmp_path


def test_shapes_and_range() -> None:
    (x_train, y_train), (x_test, y_test) = digits.load_data(2500, 300, seed=3)
    assert (x_train.shape, y_train.shape, x_test.shape, y_test.shape) == (
        (2500, 28, 28),
        (2500,),
        (300, 28, 28),
        (300,),
    )
    assert {array.dtype for array in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)}
    assert (np.bincount(y_train, minlength=10) > 150).all()
    # A digit is light ink on black: some pixels are full, most are exactly empty.
    assert x_train.max() == 255
    assert 0.6 < (x_train == 0).mean() < 0.9
    assert (x_train.reshape(2500, -1).max(axis=1) > 150).all()


def test_same_seed_same_images_other_seed_others() -> None:
    first, again, other = (digits._generate(500, seed, 0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any(axis=(1, 2)).all()


def test_training_and_test_images_differ() -> None:
    (x_train, _), (x_test, _) = digits.load_data(400, 400)
    assert (x_train != x_test).any(axis=(1, 2)).all()


def test_fewer_images_are_the_first_of_more() -> None:
    few, many = digits._generate(2100, 5, 0), digits._generate(4100, 5, 0)
    np.testing.assert_array_equal(few[0], many[0][:2100])
    np.testing.assert_array_equal(few[1], many[1][:2100])


def test_no_images() -> None:
    (x_train, y_train), (x_test, y_test) = digits.load_data(0, 0)
    assert x_train.shape == x_test.shape == (0, 28, 28)
    assert y_train.shape == y_test.shape == (0,)


def test_second_call_reads_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = digits.load_data(200, 100)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(digits, "_generate", lambda *_: pytest.fail("drawn again"))
    second = digits.load_data(200, 100)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("damage", ["cut short", "no zip", "other shapes"])
def test_damaged_cache_is_drawn_again(cache: Path, damage: str) -> None:
    first = digits.load_data(200, 100)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    if damage == "cut short":
        path.write_bytes(whole[:-50])
    elif damage == "no zip":
        path.write_bytes(b"")
    else:
        np.savez(path, x_train=first[1][0], y_train=first[1][1], x_test=first[1][0], y_test=first[1][1])
    again = digits.load_data(200, 100)
    np.testing.assert_array_equal(first[0][0], again[0][0])
    with np.load(path) as restored:
        np.testing.assert_array_equal(restored["x_test"], first[1][0])


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(digits, "cache_folder", lambda: tmp_path / "file" / "below")
    assert digits.load_data(10, 10)[0][0].shape == (10, 28, 28)


@pytest.mark.parametrize("arguments", [{"n_train": -1}, {"n_test": -1}, {"seed": -1}])
def test_negative_argument(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"digits: {next(iter(arguments))} must not be negative. Received: "):
        digits.load_data(**arguments)


@pytest.mark.parametrize("value", [1.5, "3", True, None])
def test_argument_that_is_no_integer(value: object) -> None:
    with pytest.raises(TypeError, match=r"n_train must be an integer. Received: n_train="):
        digits.load_data(n_train=value)  # type: ignore[arg-type]


def test_seventy_thousand_in_seconds() -> None:
    """10 s are allowed on one core; processor time of a tenth of them, so that a loaded machine does not count."""
    digits._generate(2000, 0, 0)
    start = time.process_time()
    digits._generate(6000, 0, 0)
    assert time.process_time() - start < 10 * 6 / 70


def test_a_linear_model_is_not_enough() -> None:
    """Softmax regression in NumPy stays below 93 % (and is far from guessing: the labels belong to the images)."""
    x, y = digits._generate(20000, 0, 0)
    x_test, y_test = digits._generate(4000, 0, 1)
    scale = np.float32(1 / 255)
    a, b = x.reshape(len(x), -1) * scale, x_test.reshape(len(x_test), -1) * scale
    weights, bias, velocity = np.zeros((784, 10), np.float32), np.zeros(10, np.float32), np.zeros((784, 10), np.float32)
    rng = np.random.default_rng(0)
    for epoch in range(12):
        rate = np.float32(0.1 if epoch < 9 else 0.02)
        order = rng.permutation(len(a))
        for start in range(0, len(a), 100):
            rows = order[start : start + 100]
            logits = a[rows] @ weights + bias
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            p[np.arange(len(rows)), y[rows]] -= 1
            velocity *= np.float32(0.9)
            velocity -= rate * (a[rows].T @ p) / len(rows)
            weights += velocity
            bias -= rate * p.mean(axis=0)
    accuracy = float((np.argmax(b @ weights + bias, axis=1) == y_test).mean())
    assert 0.80 < accuracy <= 0.93


def test_forms_cover_every_digit_and_stay_in_the_box() -> None:
    for digit in range(10):
        assert sum(form.digit == digit for form in strokes.FORMS) >= 2
    for form in strokes.FORMS:
        matrix, last = strokes.sampling_matrix(form)
        path = matrix @ np.asarray(form.points, dtype=np.float32)
        assert path.shape == (strokes.SAMPLES_PER_FORM, 2)
        assert int(last.sum()) == len(form.strokes)
        assert last[-1]
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
        assert path.min() > -0.15
        assert path.max() < 1.15
        steps = np.hypot(*np.diff(path, axis=0).T)[~last[:-1]]
        assert steps.max() < 2.5 * np.median(steps)
