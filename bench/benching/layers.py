"""A network trained layer by layer with `fastbn.ops`: what each layer costs alone, beside the fused program.

LayerByLayer holds every activation and gradient of one step in buffers of its own and lists the step's calls
in order: forward, backward (data, then filter), update. Run in order they are one training step; each alone is
one row of the cost table, on the values that it meets in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import cases
from .cases import Case
from .peers.graphs import Node, shapes

Array = npt.NDArray[Any]


@dataclass
class Row:
    layer: str  # "conv2d_2"
    operation: str  # "forward", "backward_data", ...
    direction: str  # "forward", "backward", "update"
    case: Case


def numbered(nodes: list[Node]) -> dict[str, str]:
    """Node name -> "conv2d_2": the second of its kind, whatever the model calls it."""
    counts: dict[str, int] = {}
    found = {}
    for node in nodes:
        kind = node["op"].lower()
        counts[kind] = counts.get(kind, 0) + 1
        found[node["name"]] = f"{kind}_{counts[kind]}"
    return found


class LayerByLayer:
    """A chain of nodes that ends in logits, with a softmax cross-entropy loss. Weights are copied."""

    def __init__(
        self, nodes: list[Node], weights: dict[str, list[Array]], x: Array, labels: Array, optimizer: str
    ) -> None:
        self.batch, self.optimizer = len(x), optimizer
        self.sizes = shapes(nodes)
        self.weights = {name: [array.copy() for array in arrays] for name, arrays in weights.items() if arrays}
        self.gradients: list[list[Array]] = []  # of each trained layer, in order
        self.updates: list[Row] = []
        self.forward: list[Row] = []
        self.backward: list[Row] = []  # in the order of the backward pass
        names = numbered(nodes)
        trained = [node["name"] for node in nodes if node["name"] in self.weights]
        value, gradient = x, None  # of the current node's output
        for node in nodes[1:]:
            before = None if trained[0] == node["name"] or gradient is None else gradient
            value, gradient, back = self._add(node, names[node["name"]], value, before)
            self.backward[:0] = back
        self._add_loss(value, labels, gradient)

    def _buffer(self, node: Node) -> Array:
        return np.full((self.batch, *self.sizes[node["name"]]), np.nan, np.float32)

    def _add(self, node: Node, name: str, x: Array, dx: Array | None) -> tuple[Array, Array, list[Row]]:
        """The layer's rows; dx None where nothing before it is trained. Returns y, dy and the backward rows."""
        op = node["op"]
        if op == "Flatten":
            y = x.reshape(self.batch, -1)
            return y, dx.reshape(self.batch, -1) if dx is not None else np.empty_like(y), []
        y = self._buffer(node)
        dy = np.full_like(y, np.nan)
        add = {"Conv2D": self._conv2d, "Dense": self._dense, "BatchNormalization": self._batch_norm}
        add |= {"MaxPooling2D": self._max_pool2d, "Dropout": self._dropout}
        forward, back = add[op](node, x, dx, y, dy)
        self.forward.append(Row(name, "forward", "forward", forward))
        if node["name"] in self.weights:
            trained = self.weights[node["name"]][:2]
            update = cases.update(self.optimizer, trained, self.gradients[-1])
            self.updates.append(Row(name, "update", "update", update))
        return y, dy, [Row(name, operation, "backward", case) for operation, case in back]

    def _trained(self, node: Node) -> tuple[list[Array], list[Array]]:
        weights = self.weights[node["name"]]
        self.gradients.append([np.full_like(array, np.nan) for array in weights[:2]])
        return weights, self.gradients[-1]

    def _conv2d(self, node: Node, x: Array, dx: Array | None, y: Array, dy: Array) -> tuple[Case, list[Any]]:
        if node["strides"] != [1, 1] or node["padding"] != "valid":
            raise NotImplementedError(f"layer by layer: unpadded convolutions of stride 1. Received: {node}")
        (kernel, *bias), (dkernel, *dbias) = self._trained(node)
        activation = {"activation": node["activation"]}
        into_filter = cases.conv2d_backward_filter(dy, x, kernel, y, dkernel, *dbias or [None], **activation)
        back = [("backward_filter", into_filter)]
        if dx is not None:
            back.insert(0, ("backward_data", cases.conv2d_backward_data(dy, x, kernel, y, dx, **activation)))
        return cases.conv2d_forward(x, kernel, *bias or [None], y, **activation), back

    def _dense(self, node: Node, x: Array, dx: Array | None, y: Array, dy: Array) -> tuple[Case, list[Any]]:
        (kernel, *bias), (dkernel, *dbias) = self._trained(node)
        activation = {"activation": node["activation"]}
        into_filter = cases.dense_backward_filter(dy, x, kernel, y, dkernel, *dbias or [None], **activation)
        back = [("backward_filter", into_filter)]
        if dx is not None:
            back.insert(0, ("backward_data", cases.dense_backward_data(dy, x, kernel, y, dx, **activation)))
        return cases.dense_forward(x, kernel, *bias or [None], y, **activation), back

    def _batch_norm(self, node: Node, x: Array, dx: Array | None, y: Array, dy: Array) -> tuple[Case, list[Any]]:
        (gamma, beta, *_), (dgamma, dbeta) = self._trained(node)
        forward = (y, np.empty(gamma.shape), np.empty(gamma.shape))
        outputs = (np.empty_like(x) if dx is None else dx, dgamma, dbeta)
        backward = cases.batch_norm_backward(dy, x, gamma, beta, forward, outputs, node["epsilon"])
        return cases.batch_norm_forward(x, gamma, beta, forward, node["epsilon"]), [("backward", backward)]

    def _max_pool2d(self, node: Node, x: Array, dx: Array | None, y: Array, dy: Array) -> tuple[Case, list[Any]]:
        pool, stride = node["pool_size"][0], (node["strides"] or node["pool_size"])[0]
        index = np.empty(y.shape, np.uint8)
        forward = cases.max_pool2d_forward(x, (y, index), pool, stride, node["padding"])
        if dx is None:
            return forward, []
        return forward, [("backward", cases.max_pool2d_backward(dy, index, dx, pool, stride, node["padding"]))]

    def _dropout(self, node: Node, x: Array, dx: Array | None, y: Array, dy: Array) -> tuple[Case, list[Any]]:
        forward = cases.dropout_forward(x, y, node["rate"], 1)
        return forward, [] if dx is None else [("backward", cases.dropout_backward(dy, dx, node["rate"], 1))]

    def _add_loss(self, logits: Array, labels: Array, dlogits: Array | None) -> None:
        assert dlogits is not None
        self.losses, probabilities = np.empty(self.batch, np.float32), np.empty_like(logits)
        outputs = (self.losses, probabilities)
        self.forward.append(Row("loss", "forward", "forward", cases.cross_entropy_forward(logits, labels, outputs)))
        backward = cases.cross_entropy_backward(probabilities, labels, dlogits)
        self.backward.insert(0, Row("loss", "backward", "backward", backward))

    def rows(self) -> Iterator[Row]:
        yield from self.forward
        yield from self.backward
        yield from self.updates

    def step(self) -> float:
        for row in self.rows():
            row.case.call()
        return float(self.losses.mean())
