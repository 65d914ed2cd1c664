"""Data sets of IDX files: found in the documented places, verified, downloaded whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastbn import datasets
from fastbn.datasets import _cache, _idx, _sources, fashion_mnist, mnist
from fastbn.datasets._sources import IdxFile, Source

_NAMES = (
    ("train-images-idx3-ubyte", "x_train", (7, 28, 28)),
    ("train-labels-idx1-ubyte", "y_train", (7,)),
    ("t10k-images-idx3-ubyte", "x_test", (3, 28, 28)),
    ("t10k-labels-idx1-ubyte", "y_test", (3,)),
)


def _array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(sum(key.encode()))
    return rng.integers(0, 10 if len(shape) == 1 else 256, shape, dtype=np.uint8)


ARRAYS = {key: _array(key, shape) for _, key, shape in _NAMES}
FILES = {name: _idx.header(shape) + ARRAYS[key].tobytes() for name, key, shape in _NAMES}
SOURCE = Source(
    name="tiny",
    files=tuple(  # type: ignore[arg-type]
        IdxFile(name, key, shape, hashlib.sha256(FILES[name]).hexdigest()) for name, key, shape in _NAMES
    ),
    mirrors=(),
    folders=("tiny",),
    npz="tiny.npz",
    npz_sha256=None,
    keras_folder=".",
)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees this machine's data or caches."""
    monkeypatch.delenv("FASTBN_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(_sources, "cache_folder", lambda: tmp_path / "cache")


def _write_files(folder: Path, compressed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in FILES.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


def _check(loaded: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    (x_train, y_train), (x_test, y_test) = loaded
    for array, key in ((x_train, "x_train"), (y_train, "y_train"), (x_test, "x_test"), (y_test, "y_test")):
        assert array.dtype == np.uint8
        assert array.flags.writeable
        np.testing.assert_array_equal(array, ARRAYS[key])


# --------------------------------------------------------------- places


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("sub_folder", ["", "tiny"])
def test_fastbn_data_with_idx_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool, sub_folder: str
) -> None:
    _write_files(tmp_path / "data" / sub_folder, compressed)
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path / "data"))
    _check(_sources.load(SOURCE))


def test_fastbn_data_with_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "tiny.npz", **ARRAYS)
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path))
    _check(_sources.load(SOURCE))


def test_keras_cache(tmp_path: Path) -> None:
    (tmp_path / "keras" / "datasets").mkdir(parents=True)
    np.savez(tmp_path / "keras" / "datasets" / "tiny.npz", **ARRAYS)
    _check(_sources.load(SOURCE))


def test_keras_cache_with_idx_files(tmp_path: Path) -> None:
    _write_files(tmp_path / "keras" / "datasets" / "fashion-tiny", compressed=True)
    _check(_sources.load(replace(SOURCE, keras_folder="fashion-tiny")))


def test_keras_cache_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".keras" / "datasets").mkdir(parents=True)
    np.savez(tmp_path / ".keras" / "datasets" / "tiny.npz", **ARRAYS)
    _check(_sources.load(SOURCE))


def test_fastbn_data_is_searched_before_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keras" / "datasets").mkdir(parents=True)
    (tmp_path / "keras" / "datasets" / "tiny.npz").write_bytes(b"never opened")
    _write_files(tmp_path / "data", compressed=False)
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path / "data"))
    _check(_sources.load(SOURCE))


def test_published_npz_is_trusted_by_its_own_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.npz"
    np.savez(path, **ARRAYS)
    other = tuple(replace(file, sha256="0" * 64) for file in SOURCE.files)
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path))
    source = replace(SOURCE, files=other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="SHA-256"):
        _sources.load(source)
    _check(_sources.load(replace(source, npz_sha256=hashlib.sha256(path.read_bytes()).hexdigest())))


def test_fastbn_data_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"FASTBN_DATA must name a folder.*nowhere"):
        _sources.load(SOURCE)


def test_a_folder_of_the_other_data_set_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's and Fashion-MNIST's files have the same names."""
    _write_files(tmp_path / "data", compressed=True)
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(fashion_mnist, "SOURCE", replace(SOURCE, name="fashion_mnist"))
    with pytest.raises(ConnectionError, match="mnist is neither in"):
        _sources.load(replace(mnist.SOURCE, mirrors=()))


# ------------------------------------------------------------ corruption


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(_flip, "SHA-256", id="one bit"),
        pytest.param(lambda data: data[:-1], "must hold", id="one byte short"),
        pytest.param(lambda data: data + b"\0", "must hold", id="one byte long"),
        pytest.param(lambda data: b"\0\0\x09" + data[3:], "must be IDX", id="another type"),
        pytest.param(lambda data: b"", "must be IDX", id="empty"),
        pytest.param(lambda data: gzip.compress(data)[:-9], "damaged or cut short", id="gzip cut short"),
        pytest.param(lambda data: _flip(gzip.compress(data)), "damaged or cut short", id="gzip check sum"),
    ],
)
def test_corrupt_idx_file_is_refused_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    _write_files(tmp_path, compressed=False)
    (tmp_path / name).write_bytes(damage(FILES[name]))
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=message) as caught:
        _sources.load(SOURCE)
    assert str(tmp_path / name) in str(caught.value)


def test_label_out_of_range_is_refused_where_no_sum_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_files(tmp_path, compressed=False)
    data = FILES["t10k-labels-idx1-ubyte"]
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(data[:-1] + b"\x0a")
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path))
    source = replace(SOURCE, files=tuple(replace(file, sha256=None) for file in SOURCE.files))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.9.*t10k-labels.*label 10"):
        _sources.load(source)


def test_incomplete_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_files(tmp_path, compressed=True)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"must hold all four.*t10k-images-idx3-ubyte"):
        _sources.load(SOURCE)


@pytest.mark.parametrize("damage", ["cut short", "no zip", "one bit", "shape", "missing", "pickle"])
def test_corrupt_npz_is_refused_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    path = tmp_path / "tiny.npz"
    arrays: dict[str, np.ndarray] = {key: array.copy() for key, array in ARRAYS.items()}
    if damage == "one bit":
        arrays["x_test"][1, 2, 3] ^= 1
    elif damage == "shape":
        arrays["x_train"] = arrays["x_train"].reshape(7, 784)
    elif damage == "missing":
        del arrays["y_train"]
    elif damage == "pickle":
        arrays["y_test"] = np.array([object()], dtype=object)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "no zip":
        path.write_bytes(b"hello")
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="datasets: a data file") as caught:
        _sources.load(SOURCE)
    assert str(path) in str(caught.value)


def test_corrupt_cached_download_is_refused_with_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "tiny"
    _write_files(folder, compressed=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8bgarbage")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz"):
        _sources.load(SOURCE)


# -------------------------------------------------------------- download


class _Server:
    """A mirror on this machine: what it answers to a path, and what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                answer = outer.answers.get(self.path)
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, folder: str, change: Callable[[bytes], bytes] = lambda data: data) -> str:
        for name, data in FILES.items():
            self.answers[f"/{folder}/{name}.gz"] = _sender(change(gzip.compress(data)))
        return f"{self.url}{folder}/"


def _sender(data: bytes, announced: int | None = None) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def send(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = True

    return send


@pytest.fixture
def server() -> Iterator[_Server]:
    running = _Server()
    yield running
    running.close()


def _left_behind(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache"
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def test_download_fills_the_cache_once(tmp_path: Path, server: _Server, capfd: pytest.CaptureFixture[str]) -> None:
    source = replace(SOURCE, mirrors=(server.serve("good"),))
    _check(_sources.load(source))
    assert capfd.readouterr() == ("", "")  # the progress bar is for terminals
    assert len(server.asked) == 4
    assert _left_behind(tmp_path) == sorted(f"{name}.gz" for name in FILES)
    _check(_sources.load(source))
    assert len(server.asked) == 4


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    bar = _sources._Bar("train-images")
    bar.total = 1000
    bar.update(400)
    bar.reset()
    bar.update(1000)
    bar.close()
    shown = capfd.readouterr().err
    assert "train-images" in shown
    assert "1.0/1.0 kB" in shown


def test_interrupted_download_is_completed(tmp_path: Path, server: _Server) -> None:
    source = replace(SOURCE, mirrors=(server.serve("good"),))
    missing = server.answers.pop("/good/t10k-images-idx3-ubyte.gz")
    with pytest.raises(ConnectionError, match=r"no mirror gave t10k-images-idx3-ubyte.gz"):
        _sources.load(source)
    assert len(_left_behind(tmp_path)) == 2
    server.answers["/good/t10k-images-idx3-ubyte.gz"] = missing
    server.asked.clear()
    _check(_sources.load(source))
    assert len(server.asked) == 2


def test_second_mirror_serves_when_the_first_does_not_listen(server: _Server) -> None:
    closed = _Server()
    closed.close()
    _check(_sources.load(replace(SOURCE, mirrors=(closed.url, server.serve("good")))))


@pytest.mark.parametrize("failure", ["not found", "cut short", "not gzip", "another file", "another label", "web page"])
def test_second_mirror_serves_when_the_first_is_bad(tmp_path: Path, server: _Server, failure: str) -> None:
    if failure == "not found":
        bad = f"{server.url}bad/"
    elif failure == "cut short":
        bad = server.serve("bad")
        for name, data in FILES.items():
            whole = gzip.compress(data)
            server.answers[f"/bad/{name}.gz"] = _sender(whole[: len(whole) // 2], announced=len(whole))
    elif failure == "not gzip":
        bad = server.serve("bad", lambda data: b"\x1f\x8b" + data[12:])
    elif failure == "another file":
        bad = server.serve("bad", lambda data: gzip.compress(_idx.header((2,)) + b"\1\2"))
    elif failure == "another label":
        bad = server.serve("bad", lambda data: gzip.compress(_flip(gzip.decompress(data))))
    else:
        bad = server.serve("bad", lambda data: b"<html>try later</html>")
    _check(_sources.load(replace(SOURCE, mirrors=(bad, server.serve("good")))))
    assert len(server.asked) == 8
    assert _left_behind(tmp_path) == sorted(f"{name}.gz" for name in FILES)


def test_nothing_is_left_when_every_mirror_fails(tmp_path: Path, server: _Server) -> None:
    cut = server.serve("cut", lambda data: data[:-4])
    with pytest.raises(ConnectionError) as caught:
        _sources.load(replace(SOURCE, mirrors=(cut, f"{server.url}none/")))
    message = str(caught.value)
    assert f"{cut}train-images-idx3-ubyte.gz" in message
    assert f"{server.url}none/train-images-idx3-ubyte.gz" in message
    assert _left_behind(tmp_path) == []


def test_download_must_match_the_published_gzip_where_only_that_is_known(server: _Server) -> None:
    good = server.serve("good")
    packed = {name: gzip.compress(data) for name, data in FILES.items()}
    for name, data in packed.items():
        server.answers[f"/good/{name}.gz"] = _sender(data)
    files = tuple(
        replace(file, sha256=None, gzip_sha256=hashlib.sha256(packed[file.name]).hexdigest()) for file in SOURCE.files
    )
    source = replace(SOURCE, files=files, mirrors=(good,))  # type: ignore[arg-type]
    bad = server.serve("bad", lambda data: gzip.compress(_flip(gzip.decompress(data))))
    with pytest.raises(ConnectionError, match="must have SHA-256"):
        _sources.load(replace(source, mirrors=(bad,)))
    _check(_sources.load(source))


def test_silent_mirror_is_given_up(server: _Server) -> None:
    release = threading.Event()
    silent = server.serve("silent")
    server.answers["/silent/train-images-idx3-ubyte.gz"] = lambda handler: release.wait(20) and None
    try:
        with pytest.raises(ConnectionError, match="timed out"):
            _sources.load(replace(SOURCE, mirrors=(silent,)), timeout=0.2)
    finally:
        release.set()


# ------------------------------------------------------------------ load


def test_auto_takes_digits_when_mnist_is_nowhere(
    monkeypatch: pytest.MonkeyPatch, server: _Server, tmp_path: Path
) -> None:
    monkeypatch.setattr(mnist, "SOURCE", replace(mnist.SOURCE, mirrors=(server.url,)))
    drawn = ((np.zeros((1, 28, 28), np.uint8), np.zeros(1, np.uint8)),) * 2
    monkeypatch.setattr(datasets.digits, "load_data", lambda: drawn)
    found = datasets.load("auto")
    assert found.name == "digits"
    assert "MNIST is not on this machine and no mirror gave it" in found.note
    assert "\n" not in found.note
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path / "nowhere"))
    assert "FASTBN_DATA names no folder" in datasets.load("auto").note


@pytest.mark.parametrize("variable", ["FASTBN_DATA", "KERAS_HOME"])
def test_without_a_home_folder(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """As where a container runs under a number that no account has."""
    import pooch

    def no_home(name: str) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(pooch, "os_cache", no_home)
    monkeypatch.setattr(_sources, "cache_folder", _cache.cache_folder)
    monkeypatch.setattr(datasets.digits, "cache_folder", _cache.cache_folder)
    assert len(datasets.digits.load_data(3, 2)[0][0]) == 3
    monkeypatch.setattr(datasets.digits, "load_data", lambda: (((), ()), ((), ())))
    assert "because MNIST is not on this machine and there is no home folder" in datasets.load("auto").note
    with pytest.raises(OSError, match="no folder for a cache: could not determine"):
        datasets.load("mnist")
    monkeypatch.setenv(variable, "~nobody_of_this_name/x")
    reason = "FASTBN_DATA names no folder" if variable == "FASTBN_DATA" else "there is no home folder"
    assert reason in datasets.load("auto").note


def test_auto_does_not_hide_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_files(tmp_path, compressed=False)
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path))

    def refuse(path: Path) -> bytes:
        raise PermissionError(f"Permission denied: {path}")

    monkeypatch.setattr(_idx, "read_bytes", refuse)
    with pytest.raises(PermissionError, match="idx1-ubyte"):
        datasets.load("auto")


def test_auto_takes_mnist_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_files(tmp_path, compressed=True)
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path))
    monkeypatch.setattr(mnist, "SOURCE", replace(SOURCE, name="mnist"))
    found = datasets.load("auto")
    assert found.name == "mnist"
    _check((found.train, found.test))


def test_auto_does_not_hide_a_corrupt_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_files(tmp_path, compressed=False)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"broken")
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        datasets.load("auto")


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"auto, mnist, fashion_mnist or digits. Received: 'cifar'"):
        datasets.load("cifar")


@pytest.mark.parametrize("source", [mnist.SOURCE, fashion_mnist.SOURCE], ids=lambda source: source.name)
def test_every_published_file_is_verified_by_a_sum(source: Source) -> None:
    for file in source.files:
        sums = [value for value in (file.sha256, file.gzip_sha256) if value is not None]
        assert sums
        assert all(len(value) == 64 and int(value, 16) for value in sums)
    assert len(source.mirrors) >= 2
