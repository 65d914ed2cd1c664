"""One framework training cells of `fastbn study`: asked line by line, answers seconds of an epoch and of validation.

Every framework gets the same network, optimizer, batches, metrics (loss and accuracy) and arrays of MNIST's shape, and
runs an epoch as its users do: `fit` of fastbn and of Keras (JAX), a loop over shuffled batches in PyTorch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Epoch = Callable[[], tuple[float, float]]  # trains an epoch and validates: seconds of each
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

TEST_ROWS = 10_000
WIDTHS = (512, 256, 128, 64)


def data(rows: int) -> Data:
    rng = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = rng.random((count, 784), np.float32) * (rng.random((count, 784)) < 0.2)
        return pixels.astype(np.float32), np.eye(10, dtype=np.float32)[rng.integers(0, 10, count)]

    return (*split(rows), *split(TEST_ROWS))


def units(variant: dict[str, Any]) -> list[int]:
    return [WIDTHS[min(i, 3)] for i in range(variant["hidden"])]


def fastbn(variant: dict[str, Any], arrays: Data) -> Epoch:
    from fastbn import callbacks
    from fastbn.study._data import StudyData
    from fastbn.study._probes import GradientNoise, LayerOutputs
    from fastbn.study._variants import Variant

    class Clock(callbacks.Callback):
        at = 0.0

        def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
            self.at = time.perf_counter()

    wanted = Variant.of(variant)
    model, outputs = wanted.compiled(), LayerOutputs(arrays[2])
    fit = _fit(model, Clock(), variant, arrays)
    noise = GradientNoise(wanted, StudyData("", *arrays, ""), 0, 1) if wanted.probes else None

    def epoch() -> tuple[float, float]:
        train, validation = fit()
        begin = time.perf_counter()
        outputs.look(model)
        looked = time.perf_counter()
        if noise is not None:
            noise.look(model, 1)
        return train, validation + (looked - begin) + 0.3 * (time.perf_counter() - looked)

    return epoch


def _fit(model: Any, clock: Any, variant: dict[str, Any], arrays: Data) -> Epoch:
    x, y, x_test, y_test = arrays

    def epoch() -> tuple[float, float]:
        begin = time.perf_counter()
        model.fit(
            x, y, batch_size=variant["batch_size"], verbose=0, validation_data=(x_test, y_test), callbacks=[clock]
        )
        return clock.at - begin, time.perf_counter() - clock.at

    return epoch


def keras(variant: dict[str, Any], arrays: Data) -> Epoch:
    import keras as k

    class Clock(k.callbacks.Callback):
        at = 0.0

        def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
            self.at = time.perf_counter()

    model = k.Sequential([k.Input((784,))])
    for i, width in enumerate(units(variant)):
        model.add(k.layers.Dense(width, activation=variant["activation"]))
        if i < variant["batch_norms"]:
            model.add(k.layers.BatchNormalization())
    model.add(k.layers.Dense(10, activation="softmax"))
    sgd = variant["optimizer"] == "sgd"
    optimizer = k.optimizers.SGD(0.01, momentum=0.9, nesterov=True) if sgd else k.optimizers.Adam(0.01)
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
    return _fit(model, Clock(), variant, arrays)


def torch(variant: dict[str, Any], arrays: Data) -> Epoch:
    import torch as t

    t.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    activation = {"sigmoid": t.nn.Sigmoid, "relu": t.nn.ReLU}[variant["activation"]]
    layers: list[Any] = []
    fan_in = 784
    for i, width in enumerate(units(variant)):
        layers += [t.nn.Linear(fan_in, width), activation()]
        if i < variant["batch_norms"]:
            layers.append(t.nn.BatchNorm1d(width, eps=1e-3, momentum=0.01))
        fan_in = width
    model = t.nn.Sequential(*layers, t.nn.Linear(fan_in, 10))
    sgd = variant["optimizer"] == "sgd"
    parameters = model.parameters()
    optimizer: Any = (
        t.optim.SGD(parameters, 0.01, momentum=0.9, nesterov=True) if sgd else t.optim.Adam(parameters, 0.01)
    )
    x, x_test = t.from_numpy(arrays[0]), t.from_numpy(arrays[2])
    y, y_test = (t.from_numpy(labels.argmax(axis=1)) for labels in (arrays[1], arrays[3]))
    loss_of, size = t.nn.CrossEntropyLoss(), variant["batch_size"]

    def epoch() -> tuple[float, float]:
        begin = time.perf_counter()
        model.train()
        total, correct = t.zeros(()), t.zeros((), dtype=t.int64)
        for rows in t.randperm(len(x)).split(size):
            labels = y[rows]
            logits = model(x[rows])
            loss = loss_of(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(rows)
            correct += (logits.detach().argmax(1) == labels).sum()
        assert np.isfinite(float(total / len(x)))
        trained = time.perf_counter()
        model.eval()
        with t.no_grad():
            for first in range(0, len(x_test), 1024):
                logits = model(x_test[first : first + 1024])
                labels = y_test[first : first + 1024]
                total += loss_of(logits, labels)
                correct += (logits.argmax(1) == labels).sum()
        float(total), int(correct)
        return trained - begin, time.perf_counter() - trained

    return epoch


def versions(name: str) -> str:
    if name == "fastbn":
        from fastbn import __version__
        from fastbn._core import isa_in_use

        return f"fastbn {__version__} ({isa_in_use()})"
    if name == "keras":
        import jax
        import keras as k

        return f"Keras {k.__version__} on JAX {jax.__version__}"
    import torch as t

    return f"PyTorch {t.__version__}"


def main() -> None:
    name = sys.argv[1]
    prepare = {"fastbn": fastbn, "keras": keras, "torch": torch}[name]
    print(json.dumps({"version": versions(name)}), flush=True)
    epoch: Epoch | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["command"] == "prepare":
            epoch = prepare(asked["variant"], data(asked["rows"]))
            epoch()  # compiles, allocates
            answer: dict[str, Any] = {}
        else:
            assert epoch is not None
            seconds = [epoch() for _ in range(asked["epochs"])]
            answer = {"train": min(s[0] for s in seconds), "validation": min(s[1] for s in seconds)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
