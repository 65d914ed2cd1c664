"""Whole networks in float64: forward, backward and training steps assembled from the oracles.

A network is a list of `Layer`s, read by `Network` here and by `build` (the same list as a model of a library with
Keras' interface), so that one description is trained by fastbn, by Keras and by the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

import oracles
from oracles.convolution import pair

Array = npt.NDArray[np.float64]
Parameters = dict[str, Array]


@dataclass(frozen=True)
class Layer:
    """One layer; `inputs` names other layers, by default the layer before."""

    kind: str
    name: str
    inputs: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __init__(self, kind: str, name: str, inputs: tuple[str, ...] = (), **options: Any) -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "options", options)


@dataclass
class Step:
    loss: float
    losses: Array
    output: Array
    gradients: Parameters
    state: Parameters  # moving statistics after the step
    activations: dict[str, Array]


LOSSES = ("softmax_cross_entropy", "mean_squared_error")


class Network:
    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers
        self.inputs: dict[str, tuple[str, ...]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        before = ""
        for layer in layers:
            self.inputs[layer.name] = layer.inputs or ((before,) if before else ())
            self.shapes[layer.name] = self._shape(layer)
            before = layer.name

    # ---------------------------------------------------------------- shapes and parameters

    def _shape(self, layer: Layer) -> tuple[int, ...]:
        o = layer.options
        shapes = [self.shapes[name] for name in self.inputs[layer.name]]
        match layer.kind:
            case "input":
                return tuple(o["shape"])
            case "conv2d":
                dilation, strides = pair(o.get("dilation", 1)), pair(o.get("strides", 1))
                size = oracles.output_size(
                    shapes[0][:2], pair(o["kernel_size"]), strides, dilation, o.get("padding", "valid")
                )
                return (*size, o["filters"])
            case "max_pool2d" | "avg_pool2d":
                pool = pair(o["pool_size"])
                strides = pool if o.get("strides") is None else pair(o["strides"])
                size = oracles.output_size(shapes[0][:2], pool, strides, (1, 1), o.get("padding", "valid"))
                return (*size, shapes[0][2])
            case "dense":
                return (*shapes[0][:-1], o["units"])
            case "global_avg_pool2d":
                return (shapes[0][2],)
            case "flatten":
                return (int(np.prod(shapes[0])),)
            case "reshape":
                return tuple(o["shape"])
            case "concatenate":
                return (*shapes[0][:-1], sum(s[-1] for s in shapes))
            case "add" | "activation" | "dropout" | "batch_norm" | "rescaling":
                return shapes[0]
        raise ValueError(f"unknown layer kind {layer.kind}")

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """In Keras' order: layer after layer, trainable before moving statistics."""
        result: dict[str, tuple[int, ...]] = {}
        for layer in self.layers:
            o, name = layer.options, layer.name
            if layer.kind in ("conv2d", "dense"):
                channels = self.shapes[self.inputs[name][0]][-1]
                if layer.kind == "conv2d":
                    units = o["filters"]
                    kernel = (*pair(o["kernel_size"]), channels // o.get("groups", 1), units)
                else:
                    units = o["units"]
                    kernel = (channels, units)
                result[f"{name}/kernel"] = kernel
                if o.get("use_bias", True):
                    result[f"{name}/bias"] = (units,)
            elif layer.kind == "batch_norm":
                c = (self.shapes[name][-1],)
                if o.get("scale", True):
                    result[f"{name}/gamma"] = c
                if o.get("center", True):
                    result[f"{name}/beta"] = c
                result[f"{name}/moving_mean"] = c
                result[f"{name}/moving_variance"] = c
        return result

    def initial_parameters(self, seed: int) -> Parameters:
        """Float32-representable values; nothing at a special place (biases and betas are not zero)."""
        rng = np.random.default_rng(seed)
        values: Parameters = {}
        for name, shape in self.parameter_shapes().items():
            kind = name.split("/")[1]
            if kind == "kernel":
                fan_in = int(np.prod(shape[:-1]))
                value = rng.standard_normal(shape) * np.sqrt(1.5 / fan_in)
            elif kind == "moving_mean":
                value = np.zeros(shape)
            elif kind == "moving_variance":
                value = np.ones(shape)
            elif kind == "gamma":
                value = rng.uniform(0.5, 1.5, shape)
            else:
                value = 0.1 * rng.standard_normal(shape)
            values[name] = value.astype(np.float32).astype(np.float64)
        return values

    def frozen(self) -> set[str]:
        return {layer.name for layer in self.layers if layer.options.get("frozen")}

    def trainable(self) -> list[str]:
        frozen = self.frozen()
        return [n for n in self.parameter_shapes() if "/moving_" not in n and n.split("/")[0] not in frozen]

    # ---------------------------------------------------------------- forward

    def _forward(self, p: Parameters, x: npt.ArrayLike, training: bool):
        values: dict[str, Array] = {}
        saved: dict[str, Any] = {}
        state: Parameters = {}
        for layer in self.layers:
            o, name = layer.options, layer.name
            given = [values[i] for i in self.inputs[name]]
            activation = {"activation": o.get("activation"), "alpha": o.get("alpha", 0.0)}
            match layer.kind:
                case "input":
                    y = np.asarray(x, np.float64)
                case "conv2d":
                    y = oracles.conv2d_forward(
                        given[0], p[f"{name}/kernel"], p.get(f"{name}/bias"), **self._window(o), **activation
                    )
                case "dense":
                    y = oracles.dense_forward(given[0], p[f"{name}/kernel"], p.get(f"{name}/bias"), **activation)
                case "batch_norm":
                    epsilon, momentum = o.get("epsilon", 1e-3), o.get("momentum", 0.99)
                    gamma, beta = p.get(f"{name}/gamma"), p.get(f"{name}/beta")
                    moving = p[f"{name}/moving_mean"], p[f"{name}/moving_variance"]
                    if training and not o.get("frozen"):
                        y, mean, variance = oracles.batch_norm_forward(given[0], gamma, beta, epsilon=epsilon)
                        state[f"{name}/moving_mean"] = moving[0] * momentum + mean * (1 - momentum)
                        state[f"{name}/moving_variance"] = moving[1] * momentum + variance * (1 - momentum)
                    else:
                        mean, variance = moving
                        y = oracles.batch_norm_inference(given[0], gamma, beta, mean, variance, epsilon=epsilon)
                    saved[name] = mean, variance
                case "activation":
                    y = oracles.activation_forward(given[0], o["activation"], o.get("alpha", 0.0))
                case "max_pool2d":
                    y, saved[name] = oracles.max_pool2d_forward(given[0], **self._pool(o))
                case "avg_pool2d":
                    y = oracles.avg_pool2d_forward(given[0], **self._pool(o))
                case "global_avg_pool2d":
                    y = oracles.global_avg_pool2d_forward(given[0])
                case "dropout":
                    y = given[0]  # rate 0, or inference: the mask of another rate is no business of an oracle
                    if training and o["rate"]:
                        raise ValueError("the oracle trains dropout at rate 0 only")
                case "flatten" | "reshape":
                    y = given[0].reshape(-1, *self.shapes[name])
                case "rescaling":
                    y = given[0] * o["scale"] + o.get("offset", 0.0)
                case "add":
                    y = sum(given[1:], start=given[0])
                case "concatenate":
                    y = np.concatenate(given, axis=-1)
            values[name] = y
        return values, saved, state

    @staticmethod
    def _window(o: dict[str, Any]) -> dict[str, Any]:
        return {k: o[k] for k in ("strides", "padding", "dilation", "groups") if k in o}

    @staticmethod
    def _pool(o: dict[str, Any]) -> dict[str, Any]:
        return {k: o[k] for k in ("pool_size", "strides", "padding") if k in o}

    def predict(self, parameters: Parameters, x: npt.ArrayLike) -> Array:
        values, _, _ = self._forward(parameters, x, training=False)
        return values[self.layers[-1].name]

    def layer_outputs(self, parameters: Parameters, x: npt.ArrayLike) -> dict[str, Array]:
        return self._forward(parameters, x, training=False)[0]

    def losses(self, output: Array, labels: npt.ArrayLike, loss: str, logits: Array | None = None) -> Array:
        if loss == "softmax_cross_entropy":
            if logits is None:
                with np.errstate(divide="ignore"):
                    logits = np.log(output)
            return oracles.softmax_cross_entropy_forward(logits, labels)[0]
        return oracles.mean_squared_error_forward(output, labels).reshape(len(output), -1).mean(axis=1)

    # ---------------------------------------------------------------- backward

    def step(self, p: Parameters, x: npt.ArrayLike, labels: npt.ArrayLike, loss: str) -> Step:
        """Loss (mean over the batch), gradients of all trainable parameters and the moving statistics afterwards."""
        values, saved, state = self._forward(p, x, training=True)
        last = self.layers[-1]
        output = values[last.name]
        n = len(output)
        d: dict[str, Array] = {}
        ends_in_softmax = last.options.get("activation") == "softmax"
        if loss == "softmax_cross_entropy":
            if ends_in_softmax:
                losses, probabilities = self.losses(output, labels, loss), output
            else:
                losses, probabilities = oracles.softmax_cross_entropy_forward(output, labels)
            d[last.name] = oracles.softmax_cross_entropy_backward(probabilities, labels, 1 / n)
        else:
            losses = self.losses(output, labels, loss)
            flat = oracles.mean_squared_error_backward(output.reshape(n, -1), np.reshape(labels, (n, -1)), 1 / n)
            d[last.name] = flat.reshape(output.shape)
        fused = last.name if loss == "softmax_cross_entropy" and ends_in_softmax else None  # d is that of the logits
        frozen = self.frozen()
        gradients: Parameters = {}
        for layer in reversed(self.layers):
            o, name = layer.options, layer.name
            if name not in d or layer.kind == "input":
                continue
            dy, y = d[name], values[name]
            sources = self.inputs[name]
            given = [values[i] for i in sources]
            activation: dict[str, Any] = {}
            if o.get("activation") and name != fused:
                activation = {"activation": o["activation"], "alpha": o.get("alpha", 0.0), "y": y}
            found: Parameters = {}
            match layer.kind:
                case "conv2d":
                    dx, found["kernel"], found["bias"] = oracles.conv2d_backward(
                        dy, given[0], p[f"{name}/kernel"], **self._window(o), **activation
                    )
                    back = [dx]
                case "dense":
                    dx, found["kernel"], found["bias"] = oracles.dense_backward(
                        dy, given[0], p[f"{name}/kernel"], **activation
                    )
                    back = [dx]
                case "batch_norm":
                    mean, variance = saved[name]
                    dx, found["gamma"], found["beta"], _ = oracles.batch_norm_backward(
                        dy,
                        given[0],
                        p.get(f"{name}/gamma"),
                        mean,
                        variance,
                        epsilon=o.get("epsilon", 1e-3),
                        frozen=bool(o.get("frozen")),
                    )
                    back = [dx]
                case "activation":
                    if name == fused:
                        back = [dy]
                    else:
                        back = [oracles.activation_backward(dy, y, o["activation"], o.get("alpha", 0.0))]
                case "max_pool2d":
                    back = [oracles.max_pool2d_backward(dy, saved[name], given[0].shape, **self._pool(o))]
                case "avg_pool2d":
                    back = [oracles.avg_pool2d_backward(dy, given[0].shape, **self._pool(o))]
                case "global_avg_pool2d":
                    back = [oracles.global_avg_pool2d_backward(dy, given[0].shape)]
                case "dropout":
                    back = [dy]
                case "flatten" | "reshape":
                    back = [dy.reshape(given[0].shape)]
                case "rescaling":
                    back = [dy * o["scale"]]
                case "add":
                    back = [dy] * len(sources)
                case "concatenate":
                    back = np.split(dy, np.cumsum([g.shape[-1] for g in given])[:-1], axis=-1)
            for source, dx in zip(sources, back, strict=True):
                d[source] = d[source] + dx if source in d else dx
            if name not in frozen:
                gradients.update({f"{name}/{k}": v for k, v in found.items() if f"{name}/{k}" in p})
        ordered = {name: gradients[name] for name in self.trainable()}
        return Step(float(losses.mean()), losses, output, ordered, state, values)

    def train(
        self, p: Parameters, slots: dict[str, list[Array]], x, labels, loss: str, optimizer, iteration: int
    ) -> Step:
        """One step in place: weights, optimizer slots and moving statistics."""
        result = self.step(p, x, labels, loss)
        for name, gradient in result.gradients.items():
            optimizer.update(p[name], gradient, slots[name], iteration)
        for name, value in result.state.items():
            p[name] = value
        return result


# -------------------------------------------------------------------- the same network in a library


def build(layers: list[Layer], library: ModuleType) -> Any:
    """The network as `library.Model` (functional), for a library with Keras' interface."""
    made: dict[str, Any] = {}
    before = ""
    first = None
    for layer in layers:
        name, o = layer.name, dict(layer.options)
        if layer.kind == "input":
            options = {"dtype": o["dtype"]} if "dtype" in o else {}
            first = made[name] = library.Input(shape=o["shape"], name=name, **options)
        else:
            given = [made[i] for i in layer.inputs or (before,)]
            keras_layer = make_layer(layer, library)
            made[name] = keras_layer(given if layer.kind in ("add", "concatenate") else given[0])
        before = name
    return library.Model(first, made[before])


def make_layer(layer: Layer, library: ModuleType) -> Any:
    o, layers = dict(layer.options), library.layers
    frozen = o.pop("frozen", False)
    alpha = o.pop("alpha", None)
    name = layer.name
    if o.get("activation") == "leaky_relu" and layer.kind != "activation":
        raise ValueError("a fused leaky_relu has no portable slope: use a layer of kind activation")
    match layer.kind:
        case "conv2d":
            filters, kernel_size = o.pop("filters"), o.pop("kernel_size")
            if "dilation" in o:
                o["dilation_rate"] = o.pop("dilation")
            made = layers.Conv2D(filters, kernel_size, name=name, **o)
        case "dense":
            made = layers.Dense(o.pop("units"), name=name, **o)
        case "batch_norm":
            made = layers.BatchNormalization(name=name, **o)
        case "activation" if o["activation"] == "leaky_relu":
            made = layers.LeakyReLU(negative_slope=alpha, name=name)
        case "activation":
            made = layers.Activation(o["activation"], name=name)
        case "max_pool2d":
            made = layers.MaxPooling2D(o.pop("pool_size"), name=name, **o)
        case "avg_pool2d":
            made = layers.AveragePooling2D(o.pop("pool_size"), name=name, **o)
        case "global_avg_pool2d":
            made = layers.GlobalAveragePooling2D(name=name)
        case "dropout":
            made = layers.Dropout(o["rate"], name=name)
        case "flatten":
            made = layers.Flatten(name=name)
        case "reshape":
            made = layers.Reshape(o["shape"], name=name)
        case "rescaling":
            made = layers.Rescaling(o["scale"], offset=o.get("offset", 0.0), name=name)
        case "add":
            made = layers.Add(name=name)
        case "concatenate":
            made = layers.Concatenate(name=name)
        case _:
            raise ValueError(f"unknown layer kind {layer.kind}")
    if frozen:
        made.trainable = False
    return made
