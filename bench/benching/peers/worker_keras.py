"""Keras on the backend that KERAS_BACKEND names ("jax" or "tensorflow"): train_on_batch, and fit.

Logits with a fused loss, no metrics; on TensorFlow with and without XLA. Keras adds no operators of its
own, so the operator works run TensorFlow's kernels under keras-tf, and under keras-jax there are none
(they are JAX's).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from . import graphs
from .worker import Variant, Worker, measure, serve, training_rows
from .works import Work

BACKEND = os.environ["KERAS_BACKEND"]
FIT_STEPS, FIT_SECONDS = 32, 0.1  # resident batches in one call of fit: so many, or what fits in so long


class KerasWorker(Worker):
    name = "keras-tf" if BACKEND == "tensorflow" else "keras-jax"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if BACKEND == "tensorflow":
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)

    def versions(self) -> dict[str, str]:
        import keras

        found = {"keras": keras.__version__, "backend": keras.backend.backend()}
        if BACKEND == "tensorflow":
            import tensorflow as tf

            return {**found, "tensorflow": tf.__version__}
        import jax

        return {**found, "jax": jax.__version__}

    def operator(self, work: Work) -> dict[str, Variant]:
        if BACKEND != "tensorflow":
            raise NotImplementedError("operators of Keras on JAX are JAX's own")
        from .operators_tensorflow import OPERATORS

        return OPERATORS[work["kind"]](work)

    @staticmethod
    def _optimizer(spec: dict[str, Any]) -> Any:
        import keras

        if spec["name"] == "sgd":
            return keras.optimizers.SGD(spec["learning_rate"], momentum=spec["momentum"], nesterov=spec["nesterov"])
        return keras.optimizers.RMSprop(spec["learning_rate"], rho=spec["rho"])

    @staticmethod
    def _model(nodes: list[graphs.Node], weights: dict[str, list[np.ndarray]]) -> Any:
        import keras

        values: dict[str, Any] = {}
        for node in nodes:
            if node["op"] == "Input":
                values[node["name"]] = keras.Input(tuple(node["shape"]))
                continue
            arguments = {key: value for key, value in node.items() if key not in ("op", "inputs")}
            inputs = [values[source] for source in node["inputs"]]
            layer = getattr(keras.layers, node["op"])(**arguments)
            values[node["name"]] = layer(inputs if node["op"] == "Add" else inputs[0])
        model = keras.Model(values[nodes[0]["name"]], values[nodes[-1]["name"]])
        for name, arrays in weights.items():
            model.get_layer(name).set_weights(arrays)
        return model

    def _compiled(self, work: Work, nodes: list[graphs.Node], spec: dict[str, Any], xla: bool, execution: int) -> Any:
        import keras

        model = self._model(nodes, graphs.load_weights(work["weights"]))
        model.compile(
            self._optimizer(spec),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=xla,
            steps_per_execution=execution,
        )
        return model

    def step(self, work: Work) -> dict[str, Variant]:
        nodes = graphs.with_logits(work["nodes"])
        x, labels = training_rows(work, nodes[0]["shape"], graphs.classes(nodes))
        batch, shuffled = work["batch"], bool(work["rows"])
        variants = {}
        for xla in (True, False) if BACKEND == "tensorflow" else (True,):
            suffix = " xla" if xla and BACKEND == "tensorflow" else ""
            model = self._compiled(work, nodes, work["optimizer"], xla, 1)
            single = variants["train_on_batch" + suffix] = self._on_batches(model, x, labels, batch, shuffled)
            count, rows, classes = len(x) // batch, x, labels
            if not shuffled:
                count = max(2, min(FIT_STEPS, int(FIT_SECONDS / measure(single, 0.02)["median"])))
                rows, classes = np.concatenate([x] * count), np.concatenate([labels] * count)
            whole = self._compiled(work, nodes, work["optimizer"], xla, count)
            variants["fit" + suffix] = self._fit(whole, rows, classes, batch, shuffled, count)
        return variants

    @staticmethod
    def _on_batches(model: Any, x: np.ndarray, labels: np.ndarray, batch: int, shuffled: bool) -> Variant:
        recent: list[Any] = [None]
        random = np.random.default_rng(0)
        units = len(x) // batch if shuffled else 1
        if not shuffled:
            import keras

            image, classes = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(labels)

            def run(calls: int) -> None:
                for _ in range(calls):
                    recent[0] = model.train_on_batch(image, classes)

        else:

            def run(calls: int) -> None:
                for _ in range(calls):
                    order = random.permutation(len(x))
                    for i in range(units):
                        index = order[i * batch : (i + 1) * batch]
                        recent[0] = model.train_on_batch(x[index], labels[index])

        return Variant(run, lambda: {"loss": np.array([float(np.ravel(recent[0])[0])])}, units)

    @staticmethod
    def _fit(model: Any, x: np.ndarray, labels: np.ndarray, batch: int, shuffled: bool, units: int) -> Variant:
        recent: list[Any] = [None]

        def run(calls: int) -> None:
            for _ in range(calls):
                recent[0] = model.fit(x, labels, batch_size=batch, epochs=1, verbose=0, shuffle=shuffled)

        return Variant(run, lambda: {"loss": np.array([recent[0].history["loss"][-1]])}, units)

    def verify(self, work: Work) -> dict[str, Any]:
        nodes = graphs.without_dropout(graphs.with_logits(work["nodes"]))
        spec = {"name": "sgd", "learning_rate": work["verify_rate"], "momentum": 0.0, "nesterov": False}
        model = self._compiled(work, nodes, spec, BACKEND == "jax", 1)
        x, labels = training_rows({**work, "rows": 0}, nodes[0]["shape"], graphs.classes(nodes))
        losses = []
        for _ in range(work["verify_steps"]):
            losses.append(float(np.ravel(model.train_on_batch(x, labels))[0]))
            model.reset_metrics()
        norms = {
            layer.name: [float(np.linalg.norm(np.asarray(array, np.float64))) for array in layer.get_weights()[:2]]
            for layer in model.layers
            if layer.get_weights()
        }
        return {"losses": losses, "norms": norms}


if __name__ == "__main__":
    serve(KerasWorker)
