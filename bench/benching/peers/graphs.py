"""Networks as plain lists of nodes, the form in which they travel to every framework.

A node: {"op": Keras' layer name, "name", "inputs": [names], and that layer's arguments}. The four seed
networks are read off fastbn's own models (describe); the two that only the comparison uses are written here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Node = dict[str, Any]

# Arguments that matter to the mathematics, by layer.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "activation", "use_bias"),
    "Dense": ("units", "activation", "use_bias"),
    "BatchNormalization": ("momentum", "epsilon"),
    "Activation": ("activation",),
    "ReLU": (),
    "MaxPooling2D": ("pool_size", "strides", "padding"),
    "GlobalAveragePooling2D": (),
    "Dropout": ("rate",),
    "Flatten": (),
    "Add": (),
}


def _pair(value: Any) -> list[int]:
    return [int(value), int(value)] if isinstance(value, int) else [int(part) for part in value]


def _plain(argument: str, value: Any) -> Any:
    if argument in ("kernel_size", "strides", "pool_size"):
        return None if value is None else _pair(value)
    if argument == "activation":
        return "linear" if value is None else value if isinstance(value, str) else value.__name__
    return value


def describe(model: Any) -> list[Node]:
    """The nodes of a Keras-like Sequential model."""
    nodes: list[Node] = [
        {"op": "Input", "name": "input", "inputs": [], "shape": [int(side) for side in model.input_shape[1:]]}
    ]
    for layer in model.layers:
        op = type(layer).__name__
        if op == "InputLayer":
            continue
        arguments = {key: _plain(key, getattr(layer, key)) for key in ARGUMENTS[op]}
        nodes.append({"op": op, "name": layer.name, "inputs": [nodes[-1]["name"]], **arguments})
    return nodes


class _Builder:
    def __init__(self, shape: list[int]) -> None:
        self.nodes: list[Node] = [{"op": "Input", "name": "input", "inputs": [], "shape": shape}]

    def add(self, op: str, *inputs: str, **arguments: Any) -> str:
        count = 1 + sum(node["op"] == op for node in self.nodes)
        name = f"{op.lower()}_{count}"
        self.nodes.append({"op": op, "name": name, "inputs": list(inputs), **arguments})
        return name

    def conv_bn(
        self, x: str, filters: int, size: int, stride: int = 1, padding: str = "same", relu: bool = True
    ) -> str:
        arguments = {"kernel_size": [size, size], "strides": [stride, stride], "padding": padding}
        x = self.add("Conv2D", x, filters=filters, activation="linear", use_bias=False, **arguments)
        x = self.add("BatchNormalization", x, momentum=0.99, epsilon=1e-3)
        return self.add("Activation", x, activation="relu") if relu else x


def cnn_bn() -> list[Node]:
    """The question's cnn with conv - batch-norm - relu in the place of its two convolutions."""
    net = _Builder([28, 28, 1])
    x = net.conv_bn("input", 32, 3, padding="valid")
    x = net.conv_bn(x, 64, 3, padding="valid")
    x = net.add("MaxPooling2D", x, pool_size=[2, 2], strides=[2, 2], padding="valid")
    x = net.add("Dropout", x, rate=0.25)
    x = net.add("Flatten", x)
    net.add("Dense", x, units=10, activation="softmax", use_bias=True)
    return net.nodes


def resnet20() -> list[Node]:
    """ResNet-20 for 32x32x3 images (He et al. 2015, section 4.2), 1x1 convolutions as strided shortcuts."""
    net = _Builder([32, 32, 3])
    x = net.conv_bn("input", 16, 3)
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(3):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = x if stride == 1 else net.conv_bn(x, filters, 1, stride, relu=False)
            x = net.conv_bn(x, filters, 3, stride)
            x = net.conv_bn(x, filters, 3, relu=False)
            x = net.add("Add", x, shortcut)
            x = net.add("Activation", x, activation="relu")
    x = net.add("GlobalAveragePooling2D", x)
    net.add("Dense", x, units=10, activation="softmax", use_bias=True)
    return net.nodes


GRAPHS = {"cnn_bn": cnn_bn, "resnet20": resnet20}


def without_dropout(nodes: list[Node]) -> list[Node]:
    return [{**node, "rate": 0.0} if node["op"] == "Dropout" else node for node in nodes]


def with_logits(nodes: list[Node]) -> list[Node]:
    """The same network without its final softmax, which every framework fuses into the loss."""
    last = nodes[-1]
    if last["op"] == "Activation" and last["activation"] == "softmax":
        return nodes[:-1]
    if last.get("activation") == "softmax":
        return [*nodes[:-1], {**last, "activation": "linear"}]
    raise ValueError(f"the last node has no softmax. Received: {last}")


def classes(nodes: list[Node]) -> int:
    return int(next(node["units"] for node in reversed(nodes) if node["op"] == "Dense"))


def shapes(nodes: list[Node]) -> dict[str, tuple[int, ...]]:
    """The output shape of every node, without the batch axis."""
    found: dict[str, tuple[int, ...]] = {}
    for node in nodes:
        op, source = node["op"], found[node["inputs"][0]] if node["inputs"] else ()
        if op == "Input":
            found[node["name"]] = tuple(node["shape"])
        elif op in ("Conv2D", "MaxPooling2D"):
            window = node["kernel_size"] if op == "Conv2D" else node["pool_size"]
            strides = node["strides"] or window
            same = node["padding"] == "same"
            sides = [
                -(-side // step) if same else (side - size) // step + 1
                for side, size, step in zip(source[:2], window, strides, strict=True)
            ]
            found[node["name"]] = (*sides, node["filters"] if op == "Conv2D" else source[2])
        elif op == "Dense":
            found[node["name"]] = (*source[:-1], node["units"])
        elif op == "GlobalAveragePooling2D":
            found[node["name"]] = (source[-1],)
        elif op == "Flatten":
            found[node["name"]] = (int(np.prod(source)),)
        else:
            found[node["name"]] = source
    return found


def same_padding(side: int, size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, as Keras: the odd one goes after."""
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2


def save_weights(path: str, weights: dict[str, list[np.ndarray]]) -> None:
    np.savez(path, **{f"{layer}/{i}": array for layer, arrays in weights.items() for i, array in enumerate(arrays)})


def load_weights(path: str) -> dict[str, list[np.ndarray]]:
    """layer -> its arrays in Keras' order: kernel, bias; or gamma, beta, moving mean, moving variance."""
    found: dict[str, dict[int, np.ndarray]] = {}
    with np.load(path) as file:
        for key in file.files:
            layer, _, place = key.rpartition("/")
            found.setdefault(layer, {})[int(place)] = file[key]
    return {layer: [arrays[i] for i in sorted(arrays)] for layer, arrays in found.items()}
