"""A cell: one variant trained from one seed, from its configuration to its record."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from fastbn import runtime, utils
from fastbn.callbacks import Callback
from fastbn.study import _data, _machine
from fastbn.study._probes import GradientNoise, LayerOutputs, Recalibration
from fastbn.study._store import without_nan
from fastbn.study._variants import Variant

_FORMAT = 1  # of the records; a change leaves cells of the old one unused


@dataclass(frozen=True)
class Cell:
    """What decides a cell's result, bit for bit."""

    variant: Variant
    seed: int
    epochs: int
    data: str
    data_digest: str
    isa: str
    fastbn: str  # its version

    def values(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "variant": self.variant.values(),
            "seed": self.seed,
            "epochs": self.epochs,
            "data": self.data,
            "data_digest": self.data_digest,
            "isa": self.isa,
            "fastbn": self.fastbn,
        }

    @property
    def key(self) -> str:
        """A digest of all values: the cell's name on disk."""
        return hashlib.sha256(json.dumps(self.values(), sort_keys=True).encode()).hexdigest()[:20]


class _Watch(Callback):
    """Times the epochs of `fit` and lets the probes look between them."""

    def __init__(self, looks: list[Any]) -> None:
        super().__init__()
        self.looks = looks
        self.seconds: list[float] = []  # of training, on the wall
        self.processor_seconds: list[float] = []  # of training, of all threads
        self.validation_seconds: list[float] = []
        self._begin = self._trained = (0.0, 0.0)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._begin = time.perf_counter(), time.process_time()

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        self._trained = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.seconds.append(self._trained[0] - self._begin[0])
        self.processor_seconds.append(self._trained[1] - self._begin[1])
        self.validation_seconds.append(time.perf_counter() - self._trained[0])
        for look in self.looks:
            look(epoch + 1)


def run(values: dict[str, Any], threads: int | None = None) -> dict[str, Any]:
    """Train the cell of these values on `threads` threads (None: the process's default) and return its record.

    Raises ValueError where data, instruction set or version here are not those that the values name.
    """
    begun = datetime.now(timezone.utc)
    variant, seed = Variant.of(values["variant"]), values["seed"]
    data = _data.load(values["data"])
    here = _machine.here()
    for name, found in (("data_digest", data.digest), ("isa", here["isa"]), ("fastbn", here["fastbn"])):
        if values[name] != found:
            raise ValueError(f"study: {name} of a cell must be {values[name]!r} wherever it runs. Received: {found!r}")
    with runtime.num_threads(runtime.get_num_threads() if threads is None else threads):
        result, watch = _train(variant, data, seed, variant.epochs(values["epochs"]))
        used = runtime.get_num_threads()
    return {
        "key": cell_of(values).key,
        "config": values,
        "result": result,
        "seconds": {
            "threads": used,
            "epochs": watch.seconds,
            "epochs_a_core": [seconds / used for seconds in watch.processor_seconds],
            "validation": watch.validation_seconds,
            "cell": (datetime.now(timezone.utc) - begun).total_seconds(),
        },
        "machine": {**here, "begun": begun.isoformat(timespec="seconds"), "process": str(os.getpid())},
    }


def cell_of(values: dict[str, Any]) -> Cell:
    """The cell whose `values()` these are."""
    named = {name: value for name, value in values.items() if name not in ("format", "variant")}
    return Cell(variant=Variant.of(values["variant"]), **named)


def _train(variant: Variant, data: _data.StudyData, seed: int, epochs: int) -> tuple[dict[str, Any], _Watch]:
    probes: dict[str, Any] = {}
    if "gradient" in variant.probes:
        probes["gradient"] = GradientNoise(variant, data, seed, epochs)
    if "recalibration" in variant.probes:
        probes["recalibration"] = Recalibration(variant, data)
    # Seeded here: the twins that probes made above have drawn, and must not change what is trained.
    utils.set_random_seed(seed)
    model = variant.compiled()
    x_train, x_test = data.inputs(variant.images)
    outputs = LayerOutputs(x_test)
    outputs.look(model)
    initial = model.evaluate(x_test, data.y_test, verbose=0)[0]
    looks = [lambda epoch: outputs.look(model)]
    if "gradient" in probes:
        looks.append(lambda epoch: probes["gradient"].look(model, epoch))
    if "recalibration" in probes:
        looks.append(lambda epoch: probes["recalibration"].look(model))
    watch = _Watch(looks)
    history = model.fit(
        x_train,
        data.y_train,
        batch_size=variant.batch_size,
        epochs=epochs,
        verbose=0,
        validation_data=(x_test, data.y_test),
        callbacks=[watch],
    ).history
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    result: dict[str, Any] = {
        "initial_loss": initial,
        **history,
        "parameters": model.count_params(),
        "weights_sha256": digest.hexdigest(),
        "layers": outputs.result(),
        **{name: probe.result() for name, probe in probes.items()},
    }
    return without_nan(result), watch
