"""What each layer of the seed networks costs, forward, each backward and update, and the fused step of all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from benching import models
from benching.layers import LayerByLayer
from benching.peers import graphs

import fastbn
from fastbn import _core, networks

NETWORKS: dict[str, tuple[Callable[[], Any], str]] = {
    "mlp": (networks.mlp, "rmsprop"),
    "cnn": (networks.cnn, "rmsprop"),
    "cnn_small": (networks.cnn_small, "rmsprop"),
    "article": (functools.partial(networks.article, "relu"), "sgd"),
    "article_bn": (functools.partial(networks.article, "relu", 1), "sgd"),
}
BATCHES = (4, 128)
CLASSES = 10


def optimizer(name: str) -> Any:
    if name == "sgd":
        return fastbn.optimizers.SGD(learning_rate=0.01, momentum=0.9, nesterov=True)
    return fastbn.optimizers.RMSprop(learning_rate=0.001, rho=0.9)


def data(shape: tuple[int, ...], batch: int) -> tuple[Any, Any]:
    random = np.random.default_rng(batch)
    return random.random((batch, *shape), np.float32), random.integers(0, CLASSES, batch).astype(np.int32)


@functools.lru_cache(maxsize=1)
def layer_by_layer(network: str, batch: int) -> LayerByLayer:
    """After one step, so that every buffer holds what it holds in training."""
    build, rule = NETWORKS[network]
    model = build()
    nodes = graphs.with_logits(graphs.describe(model))
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    layers = LayerByLayer(nodes, weights, *data(model.input_shape[1:], batch), rule)
    layers.step()
    return layers


def rows() -> Iterator[Any]:
    """Every row of every network; the rows' names do not depend on the batch."""
    for network in NETWORKS:
        names = [(row.layer, row.operation) for row in layer_by_layer(network, 1).rows()]
        for batch in BATCHES:
            for i, (layer, operation) in enumerate(names):
                yield pytest.param(network, batch, i, id=f"{network}/{layer}/{operation}/batch{batch}")


@pytest.mark.parametrize(("network", "batch", "number"), list(rows()))
@pytest.mark.benchmark(max_time=0.2, min_rounds=5)
def test_layer(network: str, batch: int, number: int, benchmark: Any, run_case: Any) -> None:
    row = list(layer_by_layer(network, batch).rows())[number]
    benchmark.group, benchmark.name = f"{network}, batch {batch}", f"{network}/{row.layer}/{row.operation}"
    run_case(row.case, network=network, batch=batch, layer=row.layer, direction=row.direction)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.benchmark(max_time=1.0, min_rounds=5)
def test_fused_step(network: str, batch: int, benchmark: Any, machine: Any, timed: Any) -> None:
    """Checked without dropout: loss and weights after a step are those of the same step layer by layer."""
    build, rule = NETWORKS[network]
    model = build()
    x, labels = data(model.input_shape[1:], batch)
    check_step(build(), rule, x, labels)
    model.compile(optimizer=optimizer(rule), loss="sparse_categorical_crossentropy")
    model.train_on_batch(x, labels)
    benchmark.group, benchmark.name = f"{network}, batch {batch}", f"{network}/step"
    benchmark.extra_info.update(network=network, batch=batch, layer="all", direction="step")
    benchmark.extra_info.update(isa=_core.isa_in_use(), threads=fastbn.get_num_threads())
    timed(lambda: model.train_on_batch(x, labels))


def check_step(model: Any, rule: str, x: Any, labels: Any) -> None:
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    nodes = graphs.without_dropout(graphs.describe(model))
    by_layer = LayerByLayer(graphs.with_logits(nodes), weights, x, labels, rule)
    expected = by_layer.step()
    model = models.build(nodes, weights)
    model.compile(optimizer=optimizer(rule), loss="sparse_categorical_crossentropy")
    loss = float(np.ravel(model.train_on_batch(x, labels))[0])
    assert loss == pytest.approx(expected, rel=1e-5)
    for layer in model.layers:
        if layer.name in by_layer.weights:
            for ours, theirs in zip(layer.get_weights()[:2], by_layer.weights[layer.name][:2], strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * max(np.abs(theirs).max(), 0.1))
