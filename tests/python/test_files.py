"""Weights in files: whole or not at all, checked before any is taken."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

import fastbn
from fastbn import layers
from fastbn._files import require_writable, whole_file


def make(units=3):
    return fastbn.Sequential([fastbn.Input((4,)), layers.Dense(units), layers.BatchNormalization()])


def assert_same(a, b):
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_round_trip(tmp_path):
    a, b = make(), make()
    a.save_weights(tmp_path / "w.npz")
    b.load_weights(str(tmp_path / "w.npz"))
    assert_same(a, b)
    assert os.listdir(tmp_path) == ["w.npz"]
    with np.load(tmp_path / "w.npz") as stored:
        assert stored["dense/kernel"].shape == (4, 3)
    with pytest.raises(FileExistsError, match=r"w\.npz"):
        a.save_weights(tmp_path / "w.npz", overwrite=False)
    with pytest.raises(ValueError, match=r"\.npz"):
        a.save_weights(tmp_path / "w.weights.h5")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    a = make()
    path = tmp_path / "w.npz"
    a.save_weights(path)
    before = path.read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        a.save_weights(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.npz"]


HEADER_BYTES = {
    "compression": (10, b"\x63\0"),
    "encryption": (8, b"\x01\0"),
    "version": (6, b"\xff\0"),
    "offset": (42, b"\xff\xff\xff\x7f"),
}


def damaged(kind, content):
    if kind == "cut":
        return content[: len(content) // 2]
    if kind == "empty":
        return b""
    if kind == "text":
        return b"not weights"
    if kind == "flipped":
        middle = content.index(b"dense/kernel") + 200
        return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
    if kind == "array":
        file = io.BytesIO()
        np.save(file, np.zeros(3))
        return file.getvalue()
    if kind in HEADER_BYTES:  # of the last file's entry in the directory at the end, or of its own header
        place, value = HEADER_BYTES[kind]
        at = content.rindex(b"PK\x01\x02") + place
        return content[:at] + value + content[at + len(value) :]
    if kind == "shape":
        return content.replace(b"(4, 3)", b"(4, 9)")
    file = io.BytesIO()
    np.savez(file, **{"dense/kernel": np.array([{}], dtype=object)})
    return file.getvalue()


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "flipped", "array", "objects", "shape", *HEADER_BYTES])
def test_damaged_files_are_refused_by_name(kind, tmp_path):
    a, b = make(), make()
    path = tmp_path / "w.npz"
    a.save_weights(path)
    path.write_bytes(damaged(kind, path.read_bytes()))
    before = b.get_weights()
    with pytest.raises(ValueError, match=r"load_weights: .*w\.npz") as refused:
        b.load_weights(path)
    assert kind == "objects" or "pickle" not in str(refused.value)  # NumPy's advice for what is no archive
    for x, y in zip(before, b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_weights_of_another_model(tmp_path):
    make().save_weights(tmp_path / "w.npz")
    with pytest.raises(ValueError, match=r"dense/kernel must be float32 of shape \(4, 2\).*w\.npz"):
        make(2).load_weights(tmp_path / "w.npz")
    other = fastbn.Sequential([fastbn.Input((4,)), layers.Dense(3, name="head")])
    with pytest.raises(ValueError, match=r"this model's weights.*head/kernel"):
        other.load_weights(tmp_path / "w.npz")
    with pytest.raises(FileNotFoundError):
        other.load_weights(tmp_path / "no.npz")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "nowhere" / "weights.npz"
    with pytest.raises(FileNotFoundError, match=r"save_weights: .*nowhere.weights\.npz'$"):
        make().save_weights(path)


def test_whole_models_are_not_written(tmp_path):
    with pytest.raises(NotImplementedError, match="save_weights"):
        make().save(tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


def test_a_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.npz"
    link.symlink_to(tmp_path / "real" / "weights.npz")
    for value in (1.0, 2.0):
        model = make()
        model.set_weights([np.full_like(w, value) for w in model.get_weights()])
        model.save_weights(link)
        assert link.is_symlink()
        again = make()
        again.load_weights(tmp_path / "real" / "weights.npz")
        assert again.get_weights()[0].max() == value


def test_whole_files(tmp_path):
    target = tmp_path / "new" / "text"
    with whole_file(target) as part:
        part.write_text("first")
        assert not target.exists()

    def write_half():
        with whole_file(target) as part:
            part.write_text("second")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert target.read_text() == "first"
    assert os.listdir(target.parent) == ["text"]
    with whole_file(Path("/dev/null")) as part:
        assert part == Path("/dev/null")


def test_what_cannot_be_written_is_known_before(tmp_path):
    require_writable(tmp_path / "new" / "text")
    assert os.listdir(tmp_path / "new") == []
    require_writable(Path("/dev/null"))
    (tmp_path / "file").touch()
    for target in (Path("/proc/xx"), tmp_path / "file" / "text"):
        with pytest.raises(OSError, match=r"cannot write .*(xx|file)"):
            require_writable(target)
