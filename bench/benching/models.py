"""fastbn models of graph nodes, the inverse of graphs.describe."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import fastbn
from fastbn import layers

from .peers.graphs import Node


def build(nodes: list[Node], weights: dict[str, list[np.ndarray]] | None = None) -> Any:
    """Sequential for a chain, Model where nodes branch."""
    arguments = [{key: value for key, value in node.items() if key not in ("op", "inputs")} for node in nodes]
    made = [getattr(layers, node["op"])(**keys) for node, keys in zip(nodes[1:], arguments[1:], strict=True)]
    shape = tuple(nodes[0]["shape"])
    if all(node["inputs"] == [before["name"]] for before, node in itertools.pairwise(nodes)):
        model: Any = fastbn.Sequential([fastbn.Input(shape), *made])
    else:
        values = {nodes[0]["name"]: fastbn.Input(shape)}
        for node, layer in zip(nodes[1:], made, strict=True):
            inputs = [values[source] for source in node["inputs"]]
            values[node["name"]] = layer(inputs if node["op"] == "Add" else inputs[0])
        model = fastbn.Model(values[nodes[0]["name"]], values[nodes[-1]["name"]])
    for layer in model.layers:
        if weights and weights.get(layer.name):
            layer.set_weights(weights[layer.name])
    return model
