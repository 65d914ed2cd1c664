"""JAX: everything jitted, weights and slots donated, gathers inside the jitted step.

Arrays are NHWC and HWIO as in fastbn; XLA picks its own layouts inside a jitted function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import graphs
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

Params = dict[str, list[jax.Array]]


def _variant(
    function: Callable[..., Any], arguments: tuple[Any, ...], results: Callable[[Any], dict[str, Any]]
) -> Variant:
    compiled = jax.jit(function)
    box: list[Any] = [None]

    def run(calls: int) -> None:
        for _ in range(calls):
            box[0] = compiled(*arguments)
        jax.block_until_ready(box[0])

    return Variant(run, lambda: {name: np.asarray(array) for name, array in results(box[0]).items()})


def convolve(x: jax.Array, kernel: jax.Array, strides: list[int], padding: Any, groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def conv2d(work: Work) -> dict[str, Variant]:
    arrays = {name: jnp.asarray(array) for name, array in conv_arrays(work).items()}
    x, kernel, dy, bias = arrays["x"], arrays["kernel"], arrays["dy"], arrays["bias"]
    strides, padding, groups = [work["stride"]] * 2, [(work["padding"],) * 2] * 2, work["groups"]
    biased = work["bias"]

    def forward(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        y = convolve(x, kernel, strides, padding, groups)
        return y + bias if biased else y

    def data(dy: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: convolve(x, kernel, strides, padding, groups), x)[1](dy)[0]

    def kernel_gradient(dy: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        found = {"dkernel": jax.vjp(lambda k: convolve(x, k, strides, padding, groups), kernel)[1](dy)[0]}
        return {**found, "dbias": dy.sum((0, 1, 2))} if biased else found

    if work["direction"] == "forward":
        return {"jit": _variant(forward, (x, kernel, bias), lambda y: {"y": y})}
    if work["direction"] == "backward_data":
        return {"jit": _variant(data, (dy, kernel), lambda dx: {"dx": dx})}
    return {"jit": _variant(kernel_gradient, (dy, x), lambda found: found)}


def dense(work: Work) -> dict[str, Variant]:
    arrays = {name: jnp.asarray(array) for name, array in dense_arrays(work).items()}
    x, kernel, dy = arrays["x"], arrays["kernel"], arrays["dy"]
    if work["direction"] == "forward":
        return {"jit": _variant(lambda x, w: x @ w, (x, kernel), lambda y: {"y": y})}
    if work["direction"] == "backward_data":
        return {"jit": _variant(lambda d, w: d @ w.T, (dy, kernel), lambda dx: {"dx": dx})}
    return {"jit": _variant(lambda x, d: x.T @ d, (x, dy), lambda dw: {"dkernel": dw})}


def normalise(x: jax.Array, gamma: jax.Array, beta: jax.Array, epsilon: float) -> tuple[jax.Array, ...]:
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = jnp.square(x - mean).mean(axes)
    return (x - mean) * (lax.rsqrt(variance + epsilon) * gamma) + beta, mean, variance


def batch_norm_relu(work: Work) -> dict[str, Variant]:
    arrays = {name: jnp.asarray(array) for name, array in batch_norm_arrays(work).items()}
    x, dy, gamma, beta = arrays["x"], arrays["dy"], arrays["gamma"], arrays["beta"]
    axes = tuple(range(x.ndim - 1))
    rows = x.size // x.shape[-1]

    def forward(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> tuple[jax.Array, ...]:
        y, mean, variance = normalise(x, gamma, beta, 1e-3)
        return jax.nn.relu(y), mean, variance

    def backward(dy: jax.Array, x: jax.Array, y: jax.Array, mean: jax.Array, variance: jax.Array) -> Any:
        masked = jnp.where(y > 0, dy, 0)
        rstd = lax.rsqrt(variance + 1e-3)
        centred = (x - mean) * rstd
        dbeta, dgamma = masked.sum(axes), (masked * centred).sum(axes)
        return (gamma * rstd) * (masked - dbeta / rows - centred * (dgamma / rows)), dgamma, dbeta

    if work["direction"] == "forward":
        return {"jit": _variant(forward, (x, gamma, beta), lambda out: {"y": out[0]})}
    y, mean, variance = jax.jit(forward)(x, gamma, beta)
    names = ("dx", "dgamma", "dbeta")
    return {"jit": _variant(backward, (dy, x, y, mean, variance), lambda out: dict(zip(names, out, strict=True)))}


def window_max(x: jax.Array, pool: list[int], strides: list[int], padding: str) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *pool, 1), (1, *strides, 1), padding.upper())


def reshaped_max(x: jax.Array, pool: list[int], strides: list[int], padding: str) -> jax.Array:
    """The same for windows that tile the image: a maximum over two axes, with a far cheaper gradient in XLA."""
    if list(pool) != list(strides) or padding != "valid":
        return window_max(x, pool, strides, padding)
    batch, height, width, channels = x.shape
    rows, columns = height // pool[0], width // pool[1]
    x = x[:, : rows * pool[0], : columns * pool[1]]
    return x.reshape(batch, rows, pool[0], columns, pool[1], channels).max((2, 4))


POOLS = {"reduce_window": window_max, "reshape": reshaped_max}


def max_pool2d(work: Work) -> dict[str, Variant]:
    array, gradient = array_and_gradient(work)
    x, dy = jnp.asarray(array), jnp.asarray(np.ascontiguousarray(gradient[:, ::2, ::2]))
    variants = {}
    for name, pool in POOLS.items():

        def forward(x: jax.Array, pool: Any = pool) -> jax.Array:
            return pool(x, [2, 2], [2, 2], "valid")

        def backward(x: jax.Array, dy: jax.Array, forward: Any = forward) -> jax.Array:
            return jax.vjp(forward, x)[1](dy)[0]

        if work["direction"] == "forward":
            variants[name] = _variant(forward, (x,), lambda y: {"y": y})
        else:
            variants[name] = _variant(backward, (x, dy), lambda dx: {"dx": dx})
    return variants


def dropout(work: Work) -> dict[str, Variant]:
    x, dy = (jnp.asarray(array) for array in array_and_gradient(work))

    def forward(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        mask = jax.random.bernoulli(key, 0.75, x.shape)
        return jnp.where(mask, x / 0.75, 0), mask

    keys = {name: jax.random.key(7, impl=name) for name in ("rbg", "threefry2x32")}
    if work["direction"] == "forward":
        return {name: _variant(forward, (x, key), lambda out: {"y": out[0]}) for name, key in keys.items()}
    mask = jax.jit(forward)(x, keys["rbg"])[1]
    return {"jit": _variant(lambda dy, mask: jnp.where(mask, dy / 0.75, 0), (dy, mask), lambda dx: {"dx": dx})}


def losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def cross_entropy(work: Work) -> dict[str, Variant]:
    array, classes = cross_entropy_arrays(work)
    logits, labels = jnp.asarray(array), jnp.asarray(classes)
    rows, count = array.shape

    def forward(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        return losses(logits, labels), jax.nn.softmax(logits)

    def backward(p: jax.Array, labels: jax.Array) -> jax.Array:
        return (p - (labels[:, None] == jnp.arange(count))) / rows

    if work["direction"] == "forward":
        return {"jit": _variant(forward, (logits, labels), lambda out: {"loss": out[0]})}
    return {"jit": _variant(backward, (jax.nn.softmax(logits), labels), lambda d: {"dlogits": d})}


def sigmoid(work: Work) -> dict[str, Variant]:
    x, dy = (jnp.asarray(array) for array in array_and_gradient(work))
    if work["direction"] == "forward":
        return {"jit": _variant(jax.nn.sigmoid, (x,), lambda y: {"y": y})}
    y = jax.nn.sigmoid(x)
    return {"jit": _variant(lambda dy, y: dy * y * (1 - y), (dy, y), lambda dx: {"dx": dx})}


Slots = list[jax.Array]


def sgd(spec: dict[str, Any], w: jax.Array, g: jax.Array, slots: Slots, t: Any) -> tuple[jax.Array, Slots]:
    velocity = spec["momentum"] * slots[0] - spec["learning_rate"] * g
    step = spec["momentum"] * velocity - spec["learning_rate"] * g if spec["nesterov"] else velocity
    return w + step, [velocity]


def rmsprop(spec: dict[str, Any], w: jax.Array, g: jax.Array, slots: Slots, t: Any) -> tuple[jax.Array, Slots]:
    mean_square = spec["rho"] * slots[0] + (1 - spec["rho"]) * jnp.square(g)
    return w - spec["learning_rate"] * g * lax.rsqrt(mean_square + 1e-7), [mean_square]


def adam(spec: dict[str, Any], w: jax.Array, g: jax.Array, slots: Slots, t: Any) -> tuple[jax.Array, Slots]:
    m, v = slots[0] + (g - slots[0]) * 0.1, slots[1] + (jnp.square(g) - slots[1]) * 0.001
    alpha = spec["learning_rate"] * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return w - alpha * m / (jnp.sqrt(v) + 1e-7), [m, v]


RULES = {"sgd": (sgd, 1), "rmsprop": (rmsprop, 1), "adam": (adam, 2)}


def update(work: Work) -> dict[str, Variant]:
    array, gradient = update_arrays(work)
    rule, count = RULES[work["kind"]]
    spec = {"learning_rate": 1e-3, "rho": 0.9}
    g = jnp.asarray(gradient)
    step = jax.jit(lambda w, g, slots, t: (*rule(spec, w, g, slots, t), t + 1), donate_argnums=(0, 2, 3))
    state: list[Any] = [jnp.asarray(array), [jnp.zeros_like(g) for _ in range(count)], jnp.float32(1)]

    def run(calls: int) -> None:
        for _ in range(calls):
            state[:] = step(state[0], g, state[1], state[2])
        jax.block_until_ready(state)

    run(1)
    first = np.array(state[0])
    return {"donated": Variant(run, lambda: {"first": first})}


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

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}


class Network:
    """A graph as one pure function of (params, moving statistics, batch, key)."""

    def __init__(self, nodes: list[graphs.Node], weights: dict[str, list[np.ndarray]], pool: str) -> None:
        self.nodes, self.pool = nodes, POOLS[pool]
        names = [node["name"] for node in nodes if node["name"] in weights]
        self.params: Params = {name: [jnp.asarray(array) for array in weights[name][:2]] for name in names}
        self.moving: Params = {
            name: [jnp.asarray(array) for array in weights[name][2:]] for name in names if len(weights[name]) > 2
        }

    def loss(
        self, params: Params, moving: Params, x: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Params]:
        values, after = {"input": x}, dict(moving)
        for place, node in enumerate(self.nodes):
            op, name = node["op"], node["name"]
            if op == "Input":
                continue
            x = values[node["inputs"][0]]
            if op == "Conv2D":
                x = convolve(x, params[name][0], node["strides"], node["padding"].upper())
            if op == "Dense":
                x = x @ params[name][0]
            if op in ("Conv2D", "Dense"):
                x = ACTIVATIONS[node["activation"]](x + params[name][1] if node["use_bias"] else x)
            elif op == "BatchNormalization":
                x, mean, variance = normalise(x, *params[name], node["epsilon"])
                keep = node["momentum"]
                statistics = zip(moving[name], (mean, variance), strict=True)
                after[name] = [old * keep + lax.stop_gradient(new) * (1 - keep) for old, new in statistics]
            elif op == "Activation":
                x = ACTIVATIONS[node["activation"]](x)
            elif op == "MaxPooling2D":
                x = self.pool(x, node["pool_size"], node["strides"], node["padding"])
            elif op == "GlobalAveragePooling2D":
                x = x.mean((1, 2))
            elif op == "Dropout" and node["rate"] > 0:
                keep = 1 - node["rate"]
                mask = jax.random.bernoulli(jax.random.fold_in(key, place), keep, x.shape)
                x = jnp.where(mask, x / keep, 0)
            elif op == "Flatten":
                x = x.reshape(len(x), -1)
            elif op == "Add":
                x = x + values[node["inputs"][1]]
            values[name] = x
        return losses(x, labels).mean(), after


class JaxWorker(Worker):
    name = "jax"

    def versions(self) -> dict[str, str]:
        import jaxlib

        return {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "device": str(jax.devices()[0])}

    def operator(self, work: Work) -> dict[str, Variant]:
        return OPERATORS[work["kind"]](work)

    def step(self, work: Work) -> dict[str, Variant]:
        nodes = graphs.with_logits(work["nodes"])
        pools = POOLS if any(node["op"] == "MaxPooling2D" for node in nodes) else ("reduce_window",)
        return {f"jit {pool}": self._training(work, nodes, pool) for pool in pools}

    def _training(self, work: Work, nodes: list[graphs.Node], pool: str) -> Variant:
        network = Network(nodes, graphs.load_weights(work["weights"]), pool)
        spec = work["optimizer"]
        rule, count = RULES[spec["name"]]
        x, labels = training_rows(work, nodes[0]["shape"], graphs.classes(nodes))
        rows, classes = jnp.asarray(x), jnp.asarray(labels)
        slots = jax.tree.map(lambda w: [jnp.zeros_like(w) for _ in range(count)], network.params)
        state: list[Any] = [network.params, network.moving, slots, jnp.float32(1)]
        root = jax.random.key(0, impl="rbg")

        def train(params: Any, moving: Any, slots: Any, t: Any, rows: Any, classes: Any, index: Any) -> Any:
            if index is not None:
                rows, classes = rows[index], classes[index]
            key = jax.random.fold_in(root, t.astype(jnp.int32))
            gradient = jax.value_and_grad(network.loss, has_aux=True)
            (loss, moving), gradients = gradient(params, moving, rows, classes, key)
            leaves, tree = jax.tree.flatten(params)
            stepped = [
                rule(spec, w, g, s, t)
                for w, g, s in zip(leaves, jax.tree.leaves(gradients), tree.flatten_up_to(slots), strict=True)
            ]
            params = tree.unflatten([w for w, _ in stepped])
            return (params, moving, tree.unflatten([s for _, s in stepped]), t + 1), loss

        step = jax.jit(train, donate_argnums=(0, 1, 2, 3))
        recent: list[Any] = [None]

        if not work["rows"]:

            def run(calls: int) -> None:
                for _ in range(calls):
                    state[:], recent[0] = step(*state, rows, classes, None)
                jax.block_until_ready((state, recent))

            units = 1
        else:
            batch, units = work["batch"], work["rows"] // work["batch"]
            random = np.random.default_rng(0)

            def run(calls: int) -> None:
                for _ in range(calls):
                    order = random.permutation(work["rows"]).astype(np.int32)
                    for i in range(units):
                        index = order[i * batch : (i + 1) * batch]
                        state[:], recent[0] = step(*state, rows, classes, index)
                jax.block_until_ready((state, recent))

        return Variant(run, lambda: {"loss": np.array([float(recent[0])])}, units)

    def verify(self, work: Work) -> dict[str, Any]:
        nodes = graphs.without_dropout(graphs.with_logits(work["nodes"]))
        network = Network(nodes, graphs.load_weights(work["weights"]), "reduce_window")
        x, labels = training_rows({**work, "rows": 0}, nodes[0]["shape"], graphs.classes(nodes))
        gradient = jax.jit(jax.value_and_grad(network.loss, has_aux=True))
        params, moving, key, found = network.params, network.moving, jax.random.key(0), []
        for _ in range(work["verify_steps"]):
            (loss, moving), gradients = gradient(params, moving, x, labels, key)
            params = jax.tree.map(lambda w, g: w - work["verify_rate"] * g, params, gradients)
            found.append(float(loss))
        norms = {
            layer: [float(np.linalg.norm(np.asarray(array, np.float64))) for array in arrays]
            for layer, arrays in params.items()
        }
        return {"losses": found, "norms": norms}


if __name__ == "__main__":
    serve(JaxWorker)
