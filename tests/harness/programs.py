"""Programs from the oracles' network descriptions, with every option of the C interface at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from oracles import SGD, Adam, Optimizer, RMSprop
from oracles.convolution import pair
from oracles.network import Layer, Network

from fastbn import _core

PADDING = {"valid": _core.PADDING_VALID, "same": _core.PADDING_SAME}
ACTIVATION = {
    None: _core.LINEAR,
    "linear": _core.LINEAR,
    "relu": _core.RELU,
    "leaky_relu": _core.LEAKY_RELU,
    "sigmoid": _core.SIGMOID,
    "tanh": _core.TANH,
    "softmax": _core.SOFTMAX,
}
LOSS = {"softmax_cross_entropy": _core.LOSS_SOFTMAX_CROSS_ENTROPY, "mean_squared_error": _core.LOSS_MEAN_SQUARED_ERROR}


def make_graph(layers: list[Layer]) -> tuple[_core.Graph, dict[str, int]]:
    graph = _core.Graph()
    nodes: dict[str, int] = {}
    before = ""
    for layer in layers:
        inputs = [nodes[i] for i in layer.inputs or ((before,) if before else ())]
        kind, fields = layer_fields(layer)
        nodes[layer.name] = graph.add(kind, layer.name, inputs, **fields)
        before = layer.name
    return graph, nodes


def layer_fields(layer: Layer) -> tuple[int, dict[str, Any]]:
    o = layer.options
    fields: dict[str, Any] = {}
    if o.get("frozen"):
        fields["frozen"] = True
    activation = {"activation": ACTIVATION[o.get("activation")], "alpha": o.get("alpha", 0.0)}
    window = {"padding": PADDING[o.get("padding", "valid")]}
    match layer.kind:
        case "input":
            dtype = _core.UINT8 if o.get("dtype") == "uint8" else _core.FLOAT32
            return _core.LAYER_INPUT, {"shape": list(o["shape"]), "dtype": dtype}
        case "conv2d":
            fields |= window | activation
            fields |= {"filters": o["filters"], "kernel_size": list(pair(o["kernel_size"]))}
            fields |= {"strides": list(pair(o.get("strides", 1))), "dilation": list(pair(o.get("dilation", 1)))}
            fields |= {"groups": o.get("groups", 1), "use_bias": o.get("use_bias", True)}
            return _core.LAYER_CONV2D, fields
        case "dense":
            return _core.LAYER_DENSE, fields | activation | {"units": o["units"], "use_bias": o.get("use_bias", True)}
        case "batch_norm":
            fields |= {"epsilon": o.get("epsilon", 1e-3), "momentum": o.get("momentum", 0.99)}
            return _core.LAYER_BATCH_NORM, fields | {"center": o.get("center", True), "scale": o.get("scale", True)}
        case "activation":
            return _core.LAYER_ACTIVATION, activation
        case "max_pool2d" | "avg_pool2d":
            size = pair(o["pool_size"])
            strides = size if o.get("strides") is None else pair(o["strides"])
            fields = window | {"pool_size": list(size), "strides": list(strides)}
            return _core.LAYER_MAX_POOL2D if layer.kind == "max_pool2d" else _core.LAYER_AVG_POOL2D, fields
        case "global_avg_pool2d":
            return _core.LAYER_GLOBAL_AVG_POOL2D, {}
        case "dropout":
            return _core.LAYER_DROPOUT, {"rate": o["rate"], "seed": o.get("seed", 0)}
        case "reshape":
            return _core.LAYER_RESHAPE, {"shape": list(o["shape"])}
        case "rescaling":
            return _core.LAYER_RESCALING, {"scale_factor": o["scale"], "offset": o.get("offset", 0.0)}
        case "add":
            return _core.LAYER_ADD, {}
        case "concatenate":
            return _core.LAYER_CONCATENATE, {}
    raise ValueError(f"unknown layer kind {layer.kind}")


def make_optimizer(optimizer: Optimizer) -> _core.Optimizer:
    kind = {SGD: _core.SGD, RMSprop: _core.RMSPROP, Adam: _core.ADAM}[type(optimizer)]
    return _core.Optimizer(kind, **vars(optimizer))


class Program:
    """A `_core.Program` and its parameters by name."""

    def __init__(
        self,
        layers: list[Layer] | tuple[Layer, ...],
        loss: str | None = None,
        optimizer: Optimizer | None = None,
        *,
        max_batch: int = 16,
        seed: int = 1,
        one_hot: bool = False,
        **options: Any,
    ) -> None:
        network = Network(list(layers))
        plain = [
            Layer("reshape", layer.name, layer.inputs, shape=network.shapes[layer.name])
            if layer.kind == "flatten"
            else layer
            for layer in layers
        ]
        self.graph, self.nodes = make_graph(plain)
        self.network = network
        self.labels_dtype = np.int32 if loss == "softmax_cross_entropy" and not one_hot else np.float32
        if loss is not None:
            options["loss"] = LOSS[loss]
            options["labels_dtype"] = _core.INT32 if self.labels_dtype is np.int32 else _core.FLOAT32
            options["optimizer"] = make_optimizer(optimizer or SGD(0.05))
        self.output = layers[-1].name
        self.core = _core.Program(self.graph, self.nodes[self.output], max_batch=max_batch, seed=seed, **options)
        self.names = [name for name, _, _ in self.core.parameters()]

    def set(self, parameters: dict[str, np.ndarray], what: str = "value") -> None:
        for name, value in parameters.items():
            self.core.set(self.names.index(name), what, np.ascontiguousarray(value, np.float32))

    def get(self, what: str = "value", names: list[str] | None = None) -> dict[str, np.ndarray]:
        return {n: self.core.get(self.names.index(n), what) for n in (self.names if names is None else names)}

    def train(
        self, x: np.ndarray, y: np.ndarray, index: np.ndarray | None = None, begin: int = 0, count: int | None = None
    ):
        count = (len(x) if index is None else len(index)) - begin if count is None else count
        return self.core.train(self._x(x), self._labels(y), index, begin, count)

    def evaluate(self, x: np.ndarray, y: np.ndarray, index: np.ndarray | None = None):
        return self.core.evaluate(self._x(x), self._labels(y), index, 0, len(x) if index is None else len(index))

    def predict(self, x: np.ndarray, node: str | None = None) -> np.ndarray:
        shape = self.network.shapes[node or self.output]
        out = np.full((len(x), *shape), np.nan, np.float32)
        if node is None:
            self.core.predict(self._x(x), None, 0, len(x), out)
        else:
            self.core.node_output(self.nodes[node], self._x(x), None, 0, len(x), out)
        return out

    @staticmethod
    def _x(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x, x.dtype if x.dtype == np.uint8 else np.float32)

    def _labels(self, y: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(y, self.labels_dtype)
