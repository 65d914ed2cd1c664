"""Data sets: MNIST, Fashion-MNIST and digits that fastbn draws itself.

Each of `mnist`, `fashion_mnist` and `digits` has `load_data()`, as in Keras. `load(name)` serves the command line.
"""

from __future__ import annotations

from . import _sources, digits, fashion_mnist, mnist
from ._cache import NoCacheFolder
from ._types import DataSet

__all__ = ["DataSet", "digits", "fashion_mnist", "load", "mnist"]

_AUTO_TIMEOUT = 5.0  # seconds that a mirror may stay silent before the drawn digits are taken


def load(name: str = "auto") -> DataSet:
    """A data set by name: "mnist", "fashion_mnist", "digits", or "auto": MNIST where it can be had, else digits.

    Raises:
        ValueError: an unknown name, or a data file that is not what it should be.
        OSError: the data set asked for is nowhere to be had (never with "auto" or "digits"), or a file that is there
            cannot be read.
    """
    if name == "auto":
        try:
            train, test = _sources.load(mnist.SOURCE, timeout=_AUTO_TIMEOUT)
        except (ConnectionError, FileNotFoundError) as error:
            train, test = digits.load_data()
            if isinstance(error, NoCacheFolder):
                reason = "there is no home folder to keep it in"
            else:
                reason = "FASTBN_DATA names no folder" if isinstance(error, FileNotFoundError) else "no mirror gave it"
            note = f"Data: digits drawn by fastbn, because MNIST is not on this machine and {reason}."
            return DataSet("digits", train, test, note)
        return DataSet("mnist", train, test, "Data: MNIST.")
    if name == "mnist":
        return DataSet(name, *mnist.load_data(), "Data: MNIST.")
    if name == "fashion_mnist":
        return DataSet(name, *fashion_mnist.load_data(), "Data: Fashion-MNIST.")
    if name == "digits":
        return DataSet(name, *digits.load_data(), "Data: digits drawn by fastbn.")
    raise ValueError(f"datasets: a name must be auto, mnist, fashion_mnist or digits. Received: {name!r}")
