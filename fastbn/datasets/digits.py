"""Handwriting-like digits, drawn by fastbn itself: no download, the same images for the same seed.

Every image starts as a pen skeleton (strokes.py), whose points are moved at random, then bent by smooth waves, slanted,
turned, stretched and shifted. Ink is laid along the path with changing pressure, spread by a brush of random
width and darkened to the soft-edged strokes of a scanned form. Some images carry a stray stroke or a gap.
"""

from __future__ import annotations

import contextlib
import functools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn._files import whole_file

from ._cache import cache_folder
from ._types import Split
from .strokes import FORMS, SAMPLES_PER_FORM, sampling_matrix

_VERSION = 1  # part of the cached file's name: to be raised with every change to the images
_BLOCK = 2000  # images drawn together; part of what defines the images
_SIDE = 28
_MARGIN = 4  # ink may leave the image by this much on each side
_STRAY = 16  # pen positions of a stray stroke

_Array = NDArray[np.float32]


@functools.cache
def _skeletons() -> tuple[list[_Array], list[_Array], NDArray[np.bool_], list[NDArray[np.int64]], list[_Array]]:
    matrices, lasts = zip(*(sampling_matrix(form) for form in FORMS), strict=True)
    points = [np.asarray(form.points, dtype=np.float32) for form in FORMS]
    members = [np.array([i for i, form in enumerate(FORMS) if form.digit == d]) for d in range(10)]
    shares = [np.cumsum([FORMS[i].weight for i in m], dtype=np.float32) for m in members]
    return list(matrices), points, np.stack(lasts), members, [s / s[-1] for s in shares]


def _pen_paths(rng: np.random.Generator, labels: NDArray[np.uint8]) -> tuple[_Array, NDArray[np.bool_]]:
    """Positions (n, SAMPLES_PER_FORM, 2) in the unit box, and where strokes end."""
    matrices, points, lasts, members, shares = _skeletons()
    choice = rng.random(labels.size, dtype=np.float32)
    form = np.empty(labels.size, dtype=np.int64)
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        form[rows] = members[digit][np.searchsorted(shares[digit], choice[rows], side="right")]
    most = max(len(p) for p in points)
    jitter = rng.standard_normal((labels.size, most, 2), dtype=np.float32) * np.float32(0.038)
    path = np.empty((labels.size, SAMPLES_PER_FORM, 2), dtype=np.float32)
    for index in range(len(FORMS)):
        rows = np.flatnonzero(form == index)
        if rows.size:
            path[rows] = matrices[index] @ (points[index] + jitter[rows, : len(points[index])])
    return path, lasts[form]


def _waves(rng: np.random.Generator, path: _Array, amplitude: float) -> _Array:
    """Bend the path by two smooth plane waves an axis, of 0.4 to 1.1 periods a box."""
    n = len(path)
    out: _Array = path.copy()
    for axis in (0, 1):
        for _ in range(2):
            angle = rng.uniform(0, 2 * np.pi, (n, 1))
            pitch = rng.uniform(0.4, 1.1, (n, 1)) * 2 * np.pi
            phase = rng.uniform(0, 2 * np.pi, (n, 1)).astype(np.float32)
            height = (rng.standard_normal((n, 1)) * amplitude).astype(np.float32)
            kx, ky = (pitch * np.cos(angle)).astype(np.float32), (pitch * np.sin(angle)).astype(np.float32)
            out[:, :, axis] += height * np.sin(kx * path[:, :, 0] + ky * path[:, :, 1] + phase)
    return out


def _place(rng: np.random.Generator, path: _Array) -> _Array:
    """Unit box -> pixels: centred, then stretched, slanted, turned and shifted."""
    n = len(path)
    low, high = path.min(axis=1, keepdims=True), path.max(axis=1, keepdims=True)
    centred = path - (low + high) / 2
    size = np.exp(rng.normal(0.0, 0.10, (n, 1))) * 19.0
    width = size * np.exp(rng.normal(-0.17, 0.15, (n, 1)))
    slant = rng.normal(-0.12, 0.22, (n, 1))
    turn = rng.normal(0.0, 0.11, (n, 1))
    shift = rng.normal(0.0, 0.95, (n, 1, 2)) + (_SIDE - 1) / 2
    x = centred[:, :, 0] * width
    y = centred[:, :, 1] * size
    x = x + slant * y
    cos, sin = np.cos(turn), np.sin(turn)
    placed = np.stack([cos * x - sin * y, sin * x + cos * y], axis=2) + shift
    return placed.astype(np.float32)


def _ink(rng: np.random.Generator, path: _Array, last: NDArray[np.bool_]) -> _Array:
    """Ink at each position: the length of path that it stands for, times the pen's pressure."""
    n, k, _ = path.shape
    steps = np.hypot(*np.moveaxis(np.diff(path, axis=1), 2, 0))
    steps[last[:, :-1]] = 0
    ink = np.zeros((n, k), dtype=np.float32)
    ink[:, :-1] += steps / 2
    ink[:, 1:] += steps / 2
    place = np.linspace(0, 1, k, dtype=np.float32)
    phase, pitch = rng.uniform(0, 2 * np.pi, (2, n, 1)).astype(np.float32)
    ink *= 1 + np.float32(0.22) * np.sin(phase + pitch * place)
    # One path in eight has a gap, where the pen left the paper.
    gap = (rng.random((n, 1)) < 0.12) * rng.uniform(0.03, 0.09, (n, 1))
    start = rng.random((n, 1)) * (1 - gap)
    ink[(place >= start) & (place < start + gap)] = 0
    return ink


def _stray_strokes(rng: np.random.Generator, n: int) -> tuple[_Array, _Array]:
    """A short bowed stroke somewhere in the image, with ink in one image of twelve."""
    t = np.linspace(-0.5, 0.5, _STRAY, dtype=np.float32)
    middle = rng.uniform(3, 25, (n, 1, 2))
    angle = rng.uniform(0, np.pi, (n, 1))
    length = rng.uniform(2.5, 7, (n, 1))
    bow = rng.normal(0, 2.0, (n, 1)) * (t * t - 0.08)
    cos, sin = np.cos(angle), np.sin(angle)
    path = np.stack([cos * length * t - sin * bow, sin * length * t + cos * bow], axis=2) + middle
    ink = (rng.random((n, 1)) < 0.08) * length / _STRAY * np.ones_like(t)
    return path.astype(np.float32), ink.astype(np.float32)


def _splat(path: _Array, ink: _Array) -> _Array:
    """Ink shared between the four pixels around each position: (n, side + 2 margin, side + 2 margin)."""
    n = len(path)
    side = _SIDE + 2 * _MARGIN
    at = np.clip(path + np.float32(_MARGIN), 0, side - 1.001)
    cell = at.astype(np.int32)
    fx, fy = np.moveaxis(at - cell, 2, 0)
    base = (np.arange(n, dtype=np.int64)[:, None] * side + cell[:, :, 1]) * side + cell[:, :, 0]
    right, left = ink * fx, ink * (1 - fx)
    places = np.stack([base, base + 1, base + side, base + side + 1])
    shares = np.stack([left * (1 - fy), right * (1 - fy), left * fy, right * fy])
    image = np.bincount(places.ravel(), weights=shares.ravel(), minlength=n * side * side)
    return image.astype(np.float32).reshape(n, side, side)


def _brush(image: _Array, width: _Array) -> _Array:
    """Gaussian blur of `width` pixels (standard deviation, one for each image), rows and columns in turn."""
    taps = np.exp(-(np.arange(_MARGIN, dtype=np.float32) ** 2) / (2 * width[:, None] ** 2))
    taps = (taps / (taps[:, :1] + 2 * taps[:, 1:].sum(axis=1, keepdims=True))).astype(np.float32)
    for axis in (1, 2):
        view = np.moveaxis(image, axis, 1)
        inside = slice(_MARGIN, _MARGIN + _SIDE)
        out = view[:, inside] * taps[:, 0, None, None]
        for reach in range(1, _MARGIN):
            pair = (
                view[:, _MARGIN - reach : _MARGIN + _SIDE - reach] + view[:, _MARGIN + reach : _MARGIN + _SIDE + reach]
            )
            pair *= taps[:, reach, None, None]
            out += pair
        image = np.moveaxis(out, 1, axis)
    return image


def _draw(rng: np.random.Generator, n: int) -> Split:
    labels = rng.integers(0, 10, n, dtype=np.uint8)
    path, last = _pen_paths(rng, labels)
    path = _place(rng, _waves(rng, path, 0.032))
    ink = _ink(rng, path, last)
    stray_path, stray_ink = _stray_strokes(rng, n)
    image = _splat(np.concatenate([path, stray_path], axis=1), np.concatenate([ink, stray_ink], axis=1))
    width = np.exp(rng.normal(-0.05, 0.17, n)).astype(np.float32)
    image = _brush(image, width)
    # A straight line of ink 1 a pixel peaks at 1 / (sqrt(2 pi) width): scaled to pass 1, so that strokes are full
    # inside and soft at the edge.
    darkness = rng.uniform(1.35, 2.3, n).astype(np.float32) * np.sqrt(2 * np.pi, dtype=np.float32) * width
    image *= darkness[:, None, None]
    np.subtract(image, np.float32(0.16), out=image)
    np.clip(image, 0, 1, out=image)
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    image += np.float32(0.05) * grain * (image > 0)
    np.clip(image, 0, 1, out=image)
    return (image * np.float32(255) + np.float32(0.5)).astype(np.uint8), labels


def _generate(n: int, seed: int, split: int) -> Split:
    images = np.empty((n, _SIDE, _SIDE), dtype=np.uint8)
    labels = np.empty(n, dtype=np.uint8)
    for start in range(0, n, _BLOCK):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([_VERSION, seed, split, start])))
        x, y = _draw(rng, _BLOCK)
        stop = min(start + _BLOCK, n)
        images[start:stop], labels[start:stop] = x[: stop - start], y[: stop - start]
    return images, labels


def _check_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"digits: {name} must be an integer. Received: {name}={value!r}")
    if value < 0:
        raise ValueError(f"digits: {name} must not be negative. Received: {name}={value}")
    return int(value)


def _read_cached(path: Path, n_train: int, n_test: int) -> tuple[Split, Split] | None:
    """The cached arrays, or None where there are none to trust: they are then drawn again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            x_train, y_train, x_test, y_test = (file[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    for array, shape in (
        (x_train, (n_train, _SIDE, _SIDE)),
        (y_train, (n_train,)),
        (x_test, (n_test, _SIDE, _SIDE)),
        (y_test, (n_test,)),
    ):
        if array.shape != shape or array.dtype != np.uint8:
            return None
    return (x_train, y_train), (x_test, y_test)


def load_data(n_train: int = 60000, n_test: int = 10000, seed: int = 0) -> tuple[Split, Split]:
    """Draw handwriting-like digits, or read them from the cache: (x_train, y_train), (x_test, y_test).

    Images are uint8 (n, 28, 28), light ink on black as in MNIST; labels uint8 (n,). Image i of a split depends on the
    seed and i alone, so that fewer images are the first ones of more.

    Raises:
        TypeError: an argument is no integer.
        ValueError: an argument is negative.
    """
    n_train, n_test = _check_count("n_train", n_train), _check_count("n_test", n_test)
    seed = _check_count("seed", seed)
    name = f"digits-v{_VERSION}-{n_train}-{n_test}-{seed}.npz"
    # The cache only saves time: none, or one that cannot be written, is no reason to fail.
    with contextlib.suppress(OSError):
        cached = _read_cached(cache_folder() / name, n_train, n_test)
        if cached is not None:
            return cached
    train, test = _generate(n_train, seed, 0), _generate(n_test, seed, 1)
    with contextlib.suppress(OSError), whole_file(cache_folder() / name) as part, part.open("wb") as file:
        np.savez(file, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    return train, test
