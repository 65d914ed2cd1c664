"""fastbn: operators as `fastbn.ops` calls with `out=`, steps as `train_on_batch`, epochs as `fit`.

What a first call returned is `out` of the measured ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import fastbn
from fastbn import _core, networks, ops

from .. import models
from . import graphs, judge
from .worker import (
    Variant,
    Worker,
    array_and_gradient,
    batch_norm_arrays,
    conv_arrays,
    cross_entropy_arrays,
    dense_arrays,
    serve,
    training_rows,
    update_arrays,
)
from .works import Work

NEED = {"backward_data": ("x",), "backward_filter": ("kernel",)}


def _variant(function: Callable[[], Any], **results: np.ndarray) -> Variant:
    def run(calls: int) -> None:
        for _ in range(calls):
            function()

    return Variant(run, lambda: results)


def _gradients(out: tuple[np.ndarray | None, ...]) -> dict[str, np.ndarray]:
    """Those that a backward call was asked for, by name."""
    return {name: d for name, d in zip(("dx", "dkernel", "dbias"), out, strict=True) if d is not None}


def conv2d(work: Work) -> dict[str, Variant]:
    arrays = conv_arrays(work)
    x, kernel, dy = arrays["x"], arrays["kernel"], arrays["dy"]
    bias = arrays["bias"] if work["bias"] else None
    pads = ((work["padding"],) * 2,) * 2
    variants = {}
    for algorithm in ("auto", "direct") if work["direct"] else ("auto",):
        options: dict[str, Any] = {"strides": work["stride"], "padding": pads, "groups": work["groups"]}
        options["algorithm"] = algorithm
        if work["direction"] == "forward":
            y = ops.conv2d_forward(x, kernel, bias, **options)
            variants[algorithm] = _variant(lambda o=options, y=y: ops.conv2d_forward(x, kernel, bias, **o, out=y), y=y)
            continue
        need = NEED[work["direction"]]
        if "kernel" in need and work["bias"]:
            need = (*need, "bias")
        out = ops.conv2d_backward(dy, x, kernel, **options, need=need)
        outputs = _gradients(out)
        variants[algorithm] = _variant(
            lambda o=options, need=need, out=out: ops.conv2d_backward(dy, x, kernel, **o, need=need, out=out), **outputs
        )
    return variants


def dense(work: Work) -> dict[str, Variant]:
    arrays = dense_arrays(work)
    x, kernel, dy = arrays["x"], arrays["kernel"], arrays["dy"]
    if work["direction"] == "forward":
        y = ops.dense_forward(x, kernel)
        return {"ops": _variant(lambda: ops.dense_forward(x, kernel, out=y), y=y)}
    need = NEED[work["direction"]]
    out = ops.dense_backward(dy, x, kernel, need=need)
    outputs = _gradients(out)
    return {"ops": _variant(lambda: ops.dense_backward(dy, x, kernel, need=need, out=out), **outputs)}


def batch_norm_relu(work: Work) -> dict[str, Variant]:
    arrays = batch_norm_arrays(work)
    x, dy, gamma, beta = arrays["x"], arrays["dy"], arrays["gamma"], arrays["beta"]
    outputs = ops.batch_norm_forward(x, gamma, beta, activation="relu")
    y, mean, variance = outputs
    if work["direction"] == "forward":
        return {"ops": _variant(lambda: ops.batch_norm_forward(x, gamma, beta, activation="relu", out=outputs), y=y)}
    out = ops.batch_norm_backward(dy, x, gamma, mean, variance, beta=beta, activation="relu")

    def backward() -> None:
        ops.batch_norm_backward(dy, x, gamma, mean, variance, beta=beta, activation="relu", out=out)

    return {"ops": _variant(backward, dx=out[0], dgamma=out[1], dbeta=out[2])}


def max_pool2d(work: Work) -> dict[str, Variant]:
    x, gradient = array_and_gradient(work)
    outputs = ops.max_pool2d_forward(x, 2)
    y, index = outputs
    if work["direction"] == "forward":
        return {"ops": _variant(lambda: ops.max_pool2d_forward(x, 2, out=outputs), y=y)}
    dy = np.ascontiguousarray(gradient[:, ::2, ::2])
    dx = ops.max_pool2d_backward(dy, index, x.shape, 2)
    return {"ops": _variant(lambda: ops.max_pool2d_backward(dy, index, x.shape, 2, out=dx), dx=dx)}


def dropout(work: Work) -> dict[str, Variant]:
    x, dy = array_and_gradient(work)
    out = ops.dropout_forward(x, 0.25, 7)
    if work["direction"] == "forward":
        return {"ops": _variant(lambda: ops.dropout_forward(x, 0.25, 7, out=out), y=out)}
    return {"ops": _variant(lambda: ops.dropout_backward(dy, 0.25, 7, out=out), dx=out)}


def cross_entropy(work: Work) -> dict[str, Variant]:
    logits, labels = cross_entropy_arrays(work)
    outputs = ops.softmax_cross_entropy_forward(logits, labels)
    loss, probabilities = outputs
    if work["direction"] == "forward":
        return {"ops": _variant(lambda: ops.softmax_cross_entropy_forward(logits, labels, out=outputs), loss=loss)}
    scale = 1 / len(logits)
    d = ops.softmax_cross_entropy_backward(probabilities, labels, scale)
    call = lambda: ops.softmax_cross_entropy_backward(probabilities, labels, scale, out=d)  # noqa: E731
    return {"ops": _variant(call, dlogits=d)}


def sigmoid(work: Work) -> dict[str, Variant]:
    x, dy = array_and_gradient(work)
    out = ops.activation_forward(x, "sigmoid")
    if work["direction"] == "forward":
        return {"ops": _variant(lambda: ops.activation_forward(x, "sigmoid", out=out), y=out)}
    y = ops.activation_forward(x, "sigmoid")
    return {"ops": _variant(lambda: ops.activation_backward(dy, y, "sigmoid", out=out), dx=out)}


def update(work: Work) -> dict[str, Variant]:
    w, g = update_arrays(work)
    slots = [np.zeros_like(w) for _ in range(2 if work["kind"] == "adam" else 1)]
    iteration = 0

    def adam() -> None:
        nonlocal iteration
        ops.adam_update(w, g, slots[0], slots[1], iteration=iteration)
        iteration += 1

    step = adam if work["kind"] == "adam" else lambda: ops.rmsprop_update(w, g, slots[0])
    step()
    return {"ops": _variant(step, first=w.copy())}


OPERATORS = {
    "conv2d": conv2d,
    "dense": dense,
    "batch_norm_relu": batch_norm_relu,
    "max_pool2d": max_pool2d,
    "dropout": dropout,
    "cross_entropy": cross_entropy,
    "sigmoid": sigmoid,
    "adam": update,
    "rmsprop": update,
}


def network(work: Work) -> Any:
    if work["network"] in graphs.GRAPHS:
        return models.build(graphs.GRAPHS[work["network"]]())
    if work["network"] == "article":
        return networks.article("relu", **work["options"])
    return getattr(networks, work["network"])(**work["options"])


def optimizer(spec: dict[str, Any]) -> Any:
    arguments = {key: value for key, value in spec.items() if key != "name"}
    return {"sgd": fastbn.optimizers.SGD, "rmsprop": fastbn.optimizers.RMSprop}[spec["name"]](**arguments)


class FastbnWorker(Worker):
    name = "fastbn"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        fastbn.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        return {
            "fastbn": fastbn.__version__,
            "isa": _core.isa_in_use(),
            "threads": str(fastbn.get_num_threads()),
        }

    def judge(self, work: Work) -> dict[str, np.ndarray] | None:
        return judge.results(work)

    def operator(self, work: Work) -> dict[str, Variant]:
        return OPERATORS[work["kind"]](work)

    def describe(self, work: Work, weights: str) -> list[dict[str, Any]]:
        model = network(work)
        graphs.save_weights(weights, {layer.name: layer.get_weights() for layer in model.layers})
        nodes: list[dict[str, Any]] = work.get("nodes") or graphs.describe(model)
        return nodes

    @staticmethod
    def _compiled(work: Work, nodes: list[graphs.Node], spec: dict[str, Any], algorithm: str = "auto") -> Any:
        model = models.build(nodes, graphs.load_weights(work["weights"]))
        model.compile(optimizer=optimizer(spec), loss="sparse_categorical_crossentropy", conv_algorithm=algorithm)
        return model

    def step(self, work: Work) -> dict[str, Variant]:
        x, labels = training_rows(work, work["nodes"][0]["shape"], graphs.classes(work["nodes"]))
        measure = self._epochs if work["rows"] else self._on_batch
        return {
            algorithm: measure(self._compiled(work, work["nodes"], work["optimizer"], algorithm), x, labels, work)
            for algorithm in (("auto", "direct") if work["direct"] else ("auto",))
        }

    @staticmethod
    def _on_batch(model: Any, x: np.ndarray, labels: np.ndarray, _work: Work) -> Variant:
        recent = [math.nan]

        def resident(calls: int) -> None:
            for _ in range(calls):
                recent[0] = model.train_on_batch(x, labels)

        return Variant(resident, lambda: {"loss": np.array(recent)})

    @staticmethod
    def _epochs(model: Any, x: np.ndarray, labels: np.ndarray, work: Work) -> Variant:
        recent = [math.nan]

        def epochs(calls: int) -> None:
            history = model.fit(x, labels, batch_size=work["batch"], epochs=calls, shuffle=True, verbose=0)
            recent[0] = history.history["loss"][-1]

        return Variant(epochs, lambda: {"loss": np.array(recent)}, len(x) // work["batch"])

    def verify(self, work: Work) -> dict[str, Any]:
        nodes = graphs.without_dropout(work["nodes"])
        spec = {"name": "sgd", "learning_rate": work["verify_rate"]}
        x, labels = training_rows({**work, "rows": 0}, nodes[0]["shape"], graphs.classes(nodes))

        def steps(rows: np.ndarray) -> dict[str, Any]:
            model = self._compiled(work, nodes, spec)
            losses = [float(np.ravel(model.train_on_batch(rows, labels))[0]) for _ in range(work["verify_steps"])]
            norms = {
                layer.name: [float(np.linalg.norm(np.asarray(array, np.float64))) for array in layer.get_weights()[:2]]
                for layer in model.layers
                if layer.get_weights()
            }
            return {"losses": losses, "norms": norms}

        # And what ten roundings of the inputs, about what sums in another order differ by, make of it in several
        # directions: batch-norms over four rows and the kinks of ReLUs multiply some of them ten thousandfold.
        draw = np.random.default_rng(0)
        signs = [np.ones_like(x), -np.ones_like(x), *(draw.choice([-1, 1], x.shape) for _ in range(6))]
        ten = np.float32(10 * 2.0**-24)
        return {**steps(x), "disturbed": [steps((x + x * ten * sign).astype(np.float32)) for sign in signs]}


if __name__ == "__main__":
    serve(FastbnWorker)
