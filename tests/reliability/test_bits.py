"""Weights after an epoch are the same bits on any number of threads, on every run, for any cache size."""

from __future__ import annotations

import hashlib

import numpy as np
import oracles
import pytest
from harness.library import using_threads
from harness.processes import run_python
from harness.programs import Program
from harness.tiers import short_and_long
from oracles.network import Layer

import fastbn
from fastbn import layers, networks, optimizers, utils

THREADS = (2, 3, 4, 8)


def cnn_with_batch_norm() -> fastbn.Sequential:
    return fastbn.Sequential(
        [
            fastbn.Input((28, 28, 1)),
            layers.Conv2D(16, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Conv2D(24, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def resnet_block() -> fastbn.Model:
    """Two convolutions with batch-norm beside a strided one, added, twice."""

    def unit(x: layers.Tensor, filters: int, strides: int) -> layers.Tensor:
        y = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same", use_bias=False)(y))
        if strides != 1:
            x = layers.BatchNormalization()(layers.Conv2D(filters, 1, strides=strides, use_bias=False)(x))
        return layers.ReLU()(layers.Add()([x, y]))

    inputs = fastbn.Input((28, 28, 1))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    x = unit(unit(x, 8, 1), 16, 2)
    outputs = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return fastbn.Model(inputs, outputs)


NETWORKS = {
    "mlp": networks.mlp,
    "cnn": networks.cnn,
    "cnn_small": networks.cnn_small,
    "article": networks.article,
    "article_relu_bn": lambda: networks.article("relu", 4),
    "cnn_bn": cnn_with_batch_norm,
    "resnet": resnet_block,
}


def digest(arrays) -> str:
    state = hashlib.sha256()
    for array in arrays:
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def epoch(name: str, samples: int, seed: int = 7) -> str:
    """The hash of weights and optimizer's slots after an epoch of ragged batches."""
    utils.set_random_seed(seed)
    model = NETWORKS[name]()
    model.compile(optimizers.RMSprop(0.001), "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(1)
    x = rng.random((samples, *model.input_shape[1:]), np.float32)
    y = rng.integers(0, 10, samples).astype(np.int32)
    history = model.fit(x, y, batch_size=128, epochs=1, verbose=0).history
    slots = [v for key, v in sorted(model.optimizer_state().items()) if key != "iterations"]
    return digest([*model.get_weights(), *slots, np.array([history["loss"], history["accuracy"]])])


@pytest.mark.parametrize("samples", short_and_long(300, 6000))
@pytest.mark.parametrize("name", list(NETWORKS))
def test_threads_and_runs(name, samples):
    with using_threads(1):
        expected = epoch(name, samples)
        assert epoch(name, samples) == expected, "a second run"
        assert epoch(name, samples, seed=8) != expected, "the hash sees nothing"
    for threads in THREADS:
        with using_threads(threads):
            assert epoch(name, samples) == expected, f"{threads} threads"


@pytest.mark.parametrize("name", ["mlp", "cnn_bn"])
def test_processes(name):
    """Another process, with other threads from its start, gives them too."""
    script = (
        "import sys; sys.path.insert(0, {tests!r}); sys.path.insert(0, {here!r}); import test_bits;"
        "print(test_bits.epoch({name!r}, 300))"
    )
    here = __file__.rpartition("/")[0]
    found = []
    for threads in ("1", "3"):
        code = script.format(tests=here.rpartition("/")[0], here=here, name=name)
        found.append(run_python("-c", code, OMP_NUM_THREADS=threads))
    assert found[0] == found[1] == epoch(name, 300)


CONV = {"filters": 16, "kernel_size": 3}
LARGE = {
    "cnn_bn": [
        Layer("input", "input", shape=(28, 28, 1)),
        Layer("conv2d", "conv_1", **CONV),
        Layer("batch_norm", "bn"),
        Layer("activation", "relu", activation="relu"),
        Layer("conv2d", "conv_2", activation="relu", **CONV),
        Layer("max_pool2d", "pool", pool_size=2),
        Layer("flatten", "flat"),
        Layer("dense", "out", units=10, activation="softmax"),
    ],
    "mlp": [
        Layer("input", "input", shape=(784,)),
        Layer("dense", "first", units=512, activation="relu"),
        Layer("dropout", "drop", rate=0.2),
        Layer("dense", "out", units=10, activation="softmax"),
    ],
}


@pytest.mark.parametrize("name", list(LARGE))
def test_block_and_cache_sizes(name):
    """What the planner is told of caches moves blocks and cuts between phases, never a bit."""

    def trained(threads: int, block_bytes: int) -> str:
        with using_threads(threads):
            program = Program(
                LARGE[name], "softmax_cross_entropy", oracles.SGD(0.05), max_batch=64, block_bytes=block_bytes
            )
            rng = np.random.default_rng(2)
            for _ in range(3):
                x = rng.random((64, *program.network.shapes["input"]), np.float32)
                program.train(x, rng.integers(0, 10, 64).astype(np.int32))
            return digest(program.get().values())

    expected = trained(1, 0)
    for block_bytes in (1, 4096, 48 * 1024, 1 << 20, 1 << 30):
        for threads in (1, 3):
            assert trained(threads, block_bytes) == expected, f"block_bytes={block_bytes}, {threads} threads"


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fewer_rows_than_the_program_was_made_for(optimizer, isa):
    """Longer chains than those of a full batch, whose gradient is cut into chains of 512 rows."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((1500, 300), np.float32), rng.standard_normal((1500, 64), np.float32)
    model = fastbn.Sequential([fastbn.Input((300,)), layers.Dense(512, activation="relu"), layers.Dense(64)])
    model.compile(optimizer, "mse")
    start = model.get_weights()
    found = []
    for threads in (1, *THREADS):
        with using_threads(threads):
            model.compile(optimizer, "mse")
            model.set_weights(start)
            for rows in (1500, 900, 1024, 1025):
                model.train_on_batch(x[:rows], y[:rows])
            found.append(digest(model.get_weights()))
    assert set(found) == {found[0]}
