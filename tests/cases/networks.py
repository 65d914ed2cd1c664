"""Small networks that between them hold every kind of layer, every fusion and every cut between phases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from oracles.network import Layer, Network

from cases import Data

CROSS_ENTROPY = "softmax_cross_entropy"
SQUARED_ERROR = "mean_squared_error"


@dataclass(frozen=True)
class NetworkCase:
    name: str
    layers: tuple[Layer, ...]
    loss: str = CROSS_ENTROPY
    batch: int = 12

    def __str__(self) -> str:
        return self.name

    @property
    def network(self) -> Network:
        return Network(list(self.layers))

    def data(self, samples: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """x and labels (class numbers, or targets of the squared error)."""
        samples = self.batch if samples is None else samples
        data = Data(self.name, seed)
        shapes = self.network.shapes
        first, last = self.layers[0], self.layers[-1].name
        if first.options.get("dtype") == "uint8":
            x = np.random.default_rng(seed).integers(0, 256, (samples, *shapes[first.name])).astype(np.uint8)
        else:
            x = data.array(samples, *shapes[first.name])
        if self.loss == CROSS_ENTROPY:
            return x, data.labels(samples, shapes[last][-1])
        return x, data.array(samples, *shapes[last])


def _network(name: str, *layers: Layer, **options) -> NetworkCase:
    return NetworkCase(name, layers, **options)


def image(*shape: int) -> Layer:
    return Layer("input", "input", shape=shape)


def conv(name: str, filters: int, kernel_size: int | tuple[int, int] = 3, inputs: tuple[str, ...] = (), **o) -> Layer:
    return Layer("conv2d", name, inputs, filters=filters, kernel_size=kernel_size, **o)


def dense(name: str, units: int, activation: str | None = None, inputs: tuple[str, ...] = (), **o) -> Layer:
    return Layer("dense", name, inputs, units=units, activation=activation, **o)


def bn(name: str, inputs: tuple[str, ...] = (), **o) -> Layer:
    return Layer("batch_norm", name, inputs, **o)


def act(name: str, activation: str, inputs: tuple[str, ...] = (), **o) -> Layer:
    return Layer("activation", name, inputs, activation=activation, **o)


def pool(name: str, size: int = 2, kind: str = "max", inputs: tuple[str, ...] = (), **o) -> Layer:
    return Layer(f"{kind}_pool2d", name, inputs, pool_size=size, **o)


FLATTEN = Layer("flatten", "flatten")


def _bn_stack(name: str, first: str, pooling: str, second: str) -> NetworkCase:
    """Convolutions and a dense layer with batch-norm behind each; with kinks or without, as its activations have."""
    return _network(
        name,
        image(12, 12, 2),
        conv("conv_1", 8, use_bias=False),
        bn("bn_1"),
        act("act_1", first),
        pool("pool_1", kind=pooling),
        conv("conv_2", 16, padding="same", activation=second),
        bn("bn_2"),
        pool("pool_2", kind="avg"),
        FLATTEN,
        dense("dense_1", 16, "tanh", use_bias=False),
        bn("bn_3"),
        dense("dense_2", 10, "softmax"),
        batch=32,
    )


CASES = [
    _network("one_dense", Layer("input", "input", shape=(5,)), dense("dense", 3, "softmax")),
    _network(
        "mlp",
        Layer("input", "input", shape=(37,)),
        dense("dense_1", 33, "relu"),
        Layer("dropout", "dropout_1", rate=0.0),
        dense("dense_2", 17, "relu"),
        Layer("dropout", "dropout_2", rate=0.0),
        dense("dense_3", 10, "softmax"),
        batch=31,
    ),
    _network(
        "sigmoid_bn",
        Layer("input", "input", shape=(29,)),
        dense("dense_1", 32, "sigmoid"),
        bn("bn_1"),
        dense("dense_2", 16, "sigmoid"),
        bn("bn_2", center=False),
        dense("dense_3", 8, "tanh"),
        bn("bn_3", scale=False),
        dense("dense_4", 10, "softmax"),
        batch=64,
    ),
    _network(
        "cnn",
        image(14, 14, 1),
        conv("conv_1", 8, activation="relu"),
        conv("conv_2", 16, activation="relu"),
        pool("pool"),
        Layer("dropout", "dropout", rate=0.0),
        FLATTEN,
        dense("dense", 10, "softmax"),
    ),
    _network(
        "cnn_bn",
        image(12, 12, 2),
        conv("conv_1", 8, use_bias=False),
        bn("bn_1"),
        act("relu_1", "relu"),
        pool("pool_1"),
        conv("conv_2", 16, activation="relu", padding="same"),
        bn("bn_2"),
        pool("pool_2", kind="avg"),
        FLATTEN,
        dense("dense_1", 16, "relu"),
        bn("bn_3"),
        dense("dense_2", 10, "softmax"),
        batch=16,
    ),
    _bn_stack("kinked", "relu", "max", "relu"),
    _bn_stack("smooth", "tanh", "avg", "sigmoid"),
    _network(
        "residual",
        image(8, 8, 3),
        conv("conv_0", 16, padding="same", use_bias=False),
        bn("bn_0"),
        act("relu_0", "relu"),
        conv("conv_1", 16, padding="same", use_bias=False),
        bn("bn_1"),
        act("relu_1", "relu"),
        conv("conv_2", 16, padding="same", use_bias=False),
        bn("bn_2"),
        Layer("add", "add", ("bn_2", "relu_0")),
        act("relu_2", "relu"),
        Layer("global_avg_pool2d", "pool"),
        dense("dense", 10, "softmax"),
    ),
    _network(
        "residual_projection",
        image(9, 9, 4),
        conv("conv_1", 12, strides=2, padding="same"),
        bn("bn_1"),
        conv("short", 12, 1, ("input",), strides=2),
        bn("bn_short"),
        Layer("add", "add", ("bn_1", "bn_short")),
        act("relu", "relu"),
        Layer("global_avg_pool2d", "pool"),
        dense("dense", 5, "softmax"),
    ),
    _network(
        "concatenate",
        image(10, 10, 3),
        conv("stem", 6, padding="same", activation="relu"),
        conv("left", 5, 1, ("stem",), activation="relu"),
        conv("right", 7, 3, ("stem",), padding="same", activation="tanh"),
        pool("pooled", 3, "max", ("stem",), strides=1, padding="same"),
        Layer("concatenate", "join", ("left", "right", "pooled", "stem")),
        bn("bn"),
        pool("pool", kind="avg"),
        FLATTEN,
        dense("dense", 6, "softmax"),
    ),
    _network(
        "add_of_three_and_itself",
        Layer("input", "input", shape=(11,)),
        dense("a", 9, "relu"),
        dense("b", 9, "tanh", ("input",)),
        Layer("add", "add_1", ("a", "b", "a")),
        dense("c", 9, "sigmoid"),
        Layer("add", "add_2", ("c", "add_1")),
        dense("d", 4, "softmax"),
    ),
    _network(
        "windows",
        image(15, 13, 4),
        conv("stride", 8, (3, 2), strides=(2, 1), activation="relu"),
        conv("groups", 12, groups=4, padding="same"),
        act("leaky", "leaky_relu", alpha=0.3),
        conv("dilated", 9, 2, dilation=2),
        pool("avg", 3, "avg", strides=2, padding="same"),
        conv("depthwise", 9, padding="same", groups=9, use_bias=False),
        pool("max", 2, strides=1),
        FLATTEN,
        dense("dense", 7, "softmax"),
    ),
    _network(
        "logits",
        Layer("input", "input", shape=(13,)),
        bn("bn_input"),
        dense("dense_1", 15, "relu", use_bias=False),
        dense("dense_2", 4),
    ),
    _network(
        "softmax_layer",
        Layer("input", "input", shape=(13,)),
        dense("dense_1", 15),
        bn("bn"),
        act("relu", "relu"),
        dense("dense_2", 4),
        act("softmax", "softmax"),
    ),
    _network(
        "softmax_inside",
        Layer("input", "input", shape=(13,)),
        dense("dense_1", 15),
        act("attention", "softmax"),
        dense("dense_2", 4, "softmax"),
    ),
    _network(
        "regression",
        Layer("input", "input", shape=(19,)),
        dense("dense_1", 16, "tanh"),
        bn("bn"),
        dense("dense_2", 3),
        loss=SQUARED_ERROR,
    ),
    _network(
        "regression_image",
        image(6, 6, 3),
        conv("conv_1", 8, padding="same"),
        act("leaky", "leaky_relu", alpha=0.1),
        conv("conv_2", 2, padding="same", activation="sigmoid"),
        loss=SQUARED_ERROR,
    ),
    _network(
        "sequence",
        Layer("input", "input", shape=(5, 7)),
        dense("dense_1", 9, "relu"),
        bn("bn"),
        Layer("reshape", "reshape", shape=(3, 3, 5)),
        conv("conv", 6, 2, activation="relu"),
        FLATTEN,
        dense("dense_2", 4, "softmax"),
    ),
    _network(
        "uint8",
        Layer("input", "input", shape=(8, 8, 1), dtype="uint8"),
        Layer("rescaling", "rescaling", scale=1 / 255),
        conv("conv", 4, activation="relu"),
        pool("pool"),
        FLATTEN,
        dense("dense", 5, "softmax"),
    ),
    _network(
        "rescaled",
        image(6, 6, 2),
        Layer("rescaling", "rescaling", scale=0.5, offset=-0.25),
        bn("bn"),
        FLATTEN,
        dense("dense", 5, "softmax"),
    ),
    _network(
        "frozen",
        image(8, 8, 2),
        conv("conv_1", 6, activation="relu"),
        bn("bn_1", frozen=True),
        conv("conv_2", 6, frozen=True, activation="relu"),
        bn("bn_2"),
        FLATTEN,
        dense("dense_1", 8, "relu", frozen=True),
        dense("dense_2", 4, "softmax"),
    ),
    _network(
        "bn_everywhere",
        image(7, 7, 3),
        bn("bn_0"),
        conv("conv_1", 8),
        bn("bn_1", epsilon=1e-5, momentum=0.9),
        act("tanh", "tanh"),
        bn("bn_2"),
        pool("pool"),
        bn("bn_3", epsilon=0.5),  # less, and the scale of bn_2 would have no gradient
        act("relu", "relu"),
        FLATTEN,
        dense("dense", 4, "softmax"),
    ),
    _network(  # values that cross from convolutions, block by block, to dense layers, chunk by chunk, and back
        "dense_in_images",
        image(6, 6, 4),
        conv("conv_1", 16, 1),
        dense("dense_1", 40),
        Layer("rescaling", "rescaling", scale=0.5),
        conv("conv_2", 8, padding="same"),
        dense("dense_2", 3),
        loss=SQUARED_ERROR,
    ),
    _network(
        "dense_beside_images",
        image(6, 6, 3),
        dense("dense_1", 16),
        Layer("concatenate", "join", ("dense_1", "input", "dense_1")),
        conv("conv", 8, padding="same"),
        dense("dense_2", 4),
        loss=SQUARED_ERROR,
    ),
    _network(  # the first operand's batch-norm, whose columns a phase has at once, waits for the second operand
        "batch_norms_of_two_branches",
        Layer("input", "input", shape=(7,)),
        bn("bn_1"),
        dense("dense_1", 6),
        dense("dense_2", 6, "tanh", ("input",)),
        bn("bn_2"),
        Layer("add", "add", ("dense_1", "bn_2")),
        dense("dense_3", 4, "softmax"),
    ),
    _network(
        "batch_norms_in_a_row",
        image(3, 3, 5),
        bn("bn_1"),
        act("tanh_1", "tanh"),
        bn("bn_2"),
        act("sigmoid", "sigmoid"),
        bn("bn_3"),
        act("tanh_2", "tanh"),
        bn("bn_4", scale=False),
        act("tanh_3", "tanh"),
        FLATTEN,
        dense("dense", 4, "softmax"),
    ),
]

BY_NAME = {case.name: case for case in CASES}
