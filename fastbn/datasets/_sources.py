"""Data sets of four IDX files: where they are looked for, and how each file is verified.

Places, in this order: $FASTBN_DATA, Keras' own cache, our cache folder, then the mirrors. A file is verified by the
SHA-256 of its decompressed bytes, whoever compressed it; where only the SHA-256 of the published gzip file is known,
a download has to match that one, and a file found on disk has to have the right header, size and, if compressed, the
right gzip check sum.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastbn._files import whole_file

from . import _idx
from ._cache import cache_folder
from ._types import Split


@dataclass(frozen=True)
class IdxFile:
    """One array of a data set, as it is published: `<name>.gz` on the mirrors."""

    name: str
    key: str  # its name in an .npz file
    shape: tuple[int, ...]
    sha256: str | None  # of the decompressed bytes, or
    gzip_sha256: str | None = None  # of the published compressed file


@dataclass(frozen=True)
class Source:
    """A data set: x_train, y_train, x_test, y_test in this order."""

    name: str
    files: tuple[IdxFile, IdxFile, IdxFile, IdxFile]
    mirrors: tuple[str, ...]
    folders: tuple[str, ...]  # names of sub-folders of $FASTBN_DATA, beside that folder itself
    npz: str  # file name of the same arrays in NumPy's format
    npz_sha256: str | None  # of the .npz file that Keras publishes
    keras_folder: str  # sub-folder of Keras' cache that holds `npz` or the IDX files


_Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


def _check_labels(file: IdxFile, array: NDArray[np.uint8], path: Path) -> None:
    if len(file.shape) == 1 and int(array.max()) > 9:
        raise ValueError(f"datasets: labels must lie in 0..9. Received: {path} with label {int(array.max())}")


def _verify(source: Source, file: IdxFile, data: bytes, path: Path) -> NDArray[np.uint8]:
    array = _idx.parse(data, file.shape, path)
    _check_labels(file, array, path)
    if file.sha256 is not None:
        found = hashlib.sha256(data).hexdigest()
        if found != file.sha256:
            raise ValueError(
                f"datasets: a data file of {source.name} must have SHA-256 {file.sha256} (decompressed). "
                f"Received: {path} with {found}"
            )
    return array


def _existing(folder: Path, file: IdxFile) -> Path | None:
    for name in (file.name, file.name + ".gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def _is_another_data_set(source: Source, paths: list[Path | None]) -> bool:
    """Fashion-MNIST's files carry MNIST's names: a folder whose labels are of the other one is passed over."""
    from . import fashion_mnist, mnist

    known = {
        other.files[i].sha256
        for other in (mnist.SOURCE, fashion_mnist.SOURCE)
        if other.name != source.name
        for i in (1, 3)
    }
    for i in (1, 3):
        path = paths[i]
        if path is not None:
            return hashlib.sha256(_idx.read_bytes(path)).hexdigest() in known
    return False


def _read_idx_folder(source: Source, folder: Path) -> _Arrays | None:
    """The four files of a folder, or None where it holds none of them."""
    paths = [_existing(folder, file) for file in source.files]
    if not any(paths) or _is_another_data_set(source, paths):
        return None
    arrays = []
    for file, path in zip(source.files, paths, strict=True):
        if path is None:
            raise ValueError(
                f"datasets: a folder with files of {source.name} must hold all four. "
                f"Received: {folder} without {file.name} or {file.name}.gz"
            )
        arrays.append(_verify(source, file, _idx.read_bytes(path), path))
    return arrays[0], arrays[1], arrays[2], arrays[3]


def _read_npz(source: Source, path: Path) -> _Arrays | None:
    if not path.is_file():
        return None
    # Keras' published file is trusted by its own sum, any other by the arrays inside.
    trusted = source.npz_sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() == source.npz_sha256
    arrays = []
    try:
        with np.load(path, allow_pickle=False) as content:
            for file in source.files:
                array = np.ascontiguousarray(content[file.key])
                if array.dtype != np.uint8 or array.shape != file.shape:
                    raise ValueError(f"{file.key} must be uint8 of shape {file.shape}, is {array.dtype} {array.shape}")
                if not trusted:
                    _verify(source, file, _idx.header(file.shape) + array.tobytes(), path)
                arrays.append(array)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"datasets: a data file is damaged: {error}. Received: {path}") from error
    return arrays[0], arrays[1], arrays[2], arrays[3]


def _from_fastbn_data(source: Source) -> _Arrays | None:
    value = os.environ.get("FASTBN_DATA")
    if not value:
        return None
    root = Path(os.path.expanduser(value))
    if not root.is_dir():
        raise FileNotFoundError(f"datasets: FASTBN_DATA must name a folder. Received: FASTBN_DATA={value}")
    for folder in (*(root / name for name in source.folders), root):
        found = _read_idx_folder(source, folder) or _read_npz(source, folder / source.npz)
        if found is not None:
            return found
    return None


def _from_keras(source: Source) -> _Arrays | None:
    home = os.environ.get("KERAS_HOME")
    root = Path(os.path.expanduser(home or "~/.keras")) / "datasets"
    folder = root / source.keras_folder
    if not folder.is_dir():
        return None
    if all(_existing(folder, file) for file in source.files):
        return _read_idx_folder(source, folder)
    return _read_npz(source, folder / source.npz)


class _Bar:
    """A download's progress on the terminal, in the form that pooch asks for: a total and four methods."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self.total = 0
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=None)
        self._progress.start()

    def update(self, amount: int) -> None:
        self._progress.update(self._task, total=self.total or None, advance=amount)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()


def _fetch(url: str, target: Path, timeout: float) -> None:
    """One GET into `target`. Raises OSError or one of requests' exceptions, which are OSErrors too."""
    import pooch

    bar = _Bar(target.name.split(".gz")[0])
    try:
        pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=timeout)(
            url, str(target), None, check_only=False
        )
    finally:
        bar.close()


def _download(source: Source, file: IdxFile, target: Path, timeout: float) -> NDArray[np.uint8]:
    """Try the mirrors in turn; `target` appears only when a file has been verified."""
    failures = []
    for mirror in source.mirrors:
        url = mirror + file.name + ".gz"
        try:
            with whole_file(target) as part:
                _fetch(url, part, timeout)
                raw = part.read_bytes()
                found = hashlib.sha256(raw).hexdigest()
                if file.gzip_sha256 not in (None, found):
                    raise ValueError(f"the file must have SHA-256 {file.gzip_sha256}, has {found}")
                return _verify(source, file, _idx.read_bytes(part), part)
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {' '.join(str(error).split())}")
    raise ConnectionError(
        f"datasets: {source.name} is neither in $FASTBN_DATA nor in a cache, and no mirror gave {file.name}.gz. "
        f"Received: {'; '.join(failures)}"
    )


def _from_cache_or_mirrors(source: Source, timeout: float) -> _Arrays:
    folder = cache_folder() / source.name
    arrays = []
    for file in source.files:
        path = folder / (file.name + ".gz")
        if path.is_file():
            arrays.append(_verify(source, file, _idx.read_bytes(path), path))
        else:
            arrays.append(_download(source, file, path, timeout))
    return arrays[0], arrays[1], arrays[2], arrays[3]


def load(source: Source, timeout: float = 30.0) -> tuple[Split, Split]:
    """Find or download a data set. `timeout`: seconds that a mirror may stay silent.

    Raises:
        ValueError: a file is there but is not what it should be; its name is in the message.
        OSError: FASTBN_DATA names no folder, or the data set is nowhere and no mirror answered.
    """
    places: tuple[Callable[[Source], _Arrays | None], ...] = (_from_fastbn_data, _from_keras)
    for place in places:
        found = place(source)
        if found is not None:
            break
    else:
        found = _from_cache_or_mirrors(source, timeout)
    x_train, y_train, x_test, y_test = found
    return (x_train, y_train), (x_test, y_test)
