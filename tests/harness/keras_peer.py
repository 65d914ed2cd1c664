"""Keras on the JAX backend, step by step, with every piece of its state in sight."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases.networks import NetworkCase
from oracles import Optimizer
from oracles.network import Layer, Network, build


def load() -> Any:
    """The keras module with the JAX backend, or a skip that says why."""
    for name in ("keras", "jax"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # tests/keras is no such module
            pytest.skip(f"{name} is not installed (it is in the test extra)", allow_module_level=True)
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if keras.backend.backend() != "jax":
        pytest.skip(f"KERAS_BACKEND is {keras.backend.backend()}, not jax", allow_module_level=True)
    return keras


def with_logits(case: NetworkCase) -> NetworkCase:
    """The case without its final softmax: Keras would clip probabilities at 1e-7."""
    last = case.layers[-1]
    options = {**last.options, "activation": None}
    return replace(case, layers=(*case.layers[:-1], Layer(last.kind, last.name, last.inputs, **options)))


class KerasTraining:
    """A Keras model, its optimizer and one jitted step from gradients to moving statistics."""

    def __init__(self, case: NetworkCase, optimizer: Optimizer, parameters: dict[str, np.ndarray]) -> None:
        keras = load()
        import jax

        self.model = build(list(case.layers), keras)
        options = {k: v for k, v in vars(optimizer).items() if k != "weight_decay" or v}
        self.optimizer = getattr(keras.optimizers, optimizer.keras_name)(**options)
        self.optimizer.build(self.model.trainable_variables)
        self.trainable = self._names(self.model.trainable_variables)
        self.state = self._names(self.model.non_trainable_variables)
        self.slots = self._slots(optimizer)
        self.reset(parameters)
        loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        def loss(values, states, x, y):
            output, states = self.model.stateless_call(values, states, x, training=True)
            return loss_of(y, output), states

        def step(values, states, optimizer_values, x, y):
            (value, states), gradients = jax.value_and_grad(loss, has_aux=True)(values, states, x, y)
            values, optimizer_values = self.optimizer.stateless_apply(optimizer_values, gradients, values)
            return value, gradients, values, states, optimizer_values

        self._step = jax.jit(step)

    def reset(self, parameters: dict[str, np.ndarray]) -> None:
        """Begin again at these weights, with fresh slots."""
        self._values = [np.float32(parameters[n]) for n in self.trainable]
        self._states = [np.float32(parameters[n]) for n in self.state]
        self._optimizer_values = [v.value for v in self.optimizer.variables]

    def _names(self, variables: list[Any]) -> list[str]:
        owners = {id(v): layer.name for layer in self.model.layers for v in layer.variables}
        return [f"{owners[id(v)]}/{v.name}" for v in variables]

    def _slots(self, optimizer: Optimizer) -> dict[str, list[int]]:
        """Slot name -> places in the optimizer's variables, one per trainable variable."""
        attribute = {
            "SGD": {"velocity": "momentums"},
            "RMSprop": {"velocity": "_velocities", "momentum": "_momentums", "average_gradient": "_average_gradients"},
            "Adam": {"momentum": "_momentums", "velocity": "_velocities", "velocity_hat": "_velocity_hats"},
        }[optimizer.keras_name]
        places = {id(v): i for i, v in enumerate(self.optimizer.variables)}
        return {
            slot: [places[id(v)] for v in getattr(self.optimizer, attribute[slot])] for slot in optimizer.slot_names()
        }

    def parameters(self) -> dict[str, np.ndarray]:
        names, values = (*self.trainable, *self.state), (*self._values, *self._states)
        return {n: np.asarray(v) for n, v in zip(names, values, strict=True)}

    def slot(self, name: str) -> dict[str, np.ndarray]:
        values = (np.asarray(self._optimizer_values[i]) for i in self.slots[name])
        return dict(zip(self.trainable, values, strict=True))

    def step(self, x: np.ndarray, y: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        loss, gradients, self._values, self._states, self._optimizer_values = self._step(
            self._values, self._states, self._optimizer_values, x, y
        )
        return float(loss), {n: np.asarray(g) for n, g in zip(self.trainable, gradients, strict=True)}


def margin(network: Network, parameters: dict[str, np.ndarray], x: np.ndarray) -> float:
    """Distance of the forward pass from the nearest kink (relu at zero, two equal maxima), relative to its layer.

    Two correct float32 programs may fall on different sides of a kink nearer than their rounding.
    """
    values, _, _ = network._forward(parameters, x, training=True)
    nearest = np.inf
    for layer in network.layers:
        if layer.options.get("activation") in ("relu", "leaky_relu"):
            # the value before the activation: the same layer without it
            plain = Layer(layer.kind, layer.name, layer.inputs, **{**layer.options, "activation": "linear"})
            before = _apply(network, plain, parameters, values)
            nearest = min(nearest, np.abs(before).min() / np.sqrt((before**2).mean()))
        if layer.kind == "max_pool2d":
            nearest = min(nearest, _gap(network, layer, values))
    return float(nearest)


def _apply(network: Network, layer: Layer, parameters: dict[str, np.ndarray], values: dict[str, np.ndarray]):
    source = network.inputs[layer.name][0]
    shape = network.shapes[source]
    single = Network([Layer("input", source, shape=shape), Layer(layer.kind, layer.name, **layer.options)])
    return single._forward(parameters, values[source], training=True)[0][layer.name]


def _gap(network: Network, layer: Layer, values: dict[str, np.ndarray]) -> float:
    """Smallest distance between the two largest values of a window, where they are not equal by construction."""
    x = values[network.inputs[layer.name][0]]
    size = layer.options["pool_size"]
    assert layer.options.get("strides") is None
    assert layer.options.get("padding", "valid") == "valid"
    n, height, width, channels = x.shape
    rows, columns = height // size, width // size
    windows = x[:, : rows * size, : columns * size].reshape(n, rows, size, columns, size, channels)
    windows = np.sort(windows.transpose(0, 1, 3, 5, 2, 4).reshape(-1, size * size), axis=1)
    gaps = windows[:, -1] - windows[:, -2]
    gaps = gaps[windows[:, -1] > 0]  # all zero after a relu: no gradient flows
    return float(gaps.min(initial=np.inf) / np.sqrt((x**2).mean()))
