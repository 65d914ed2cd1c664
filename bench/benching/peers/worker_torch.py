"""PyTorch: eager, and torch.compile where a C++ compiler is found; contiguous and channels_last.

Operators are called below autograd (the ATen forward and backward functions), with `out=` where there is
one; elsewhere the driver's allocator settings keep returned outputs in warm memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

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

aten = torch.ops.aten
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def _image(array: np.ndarray, form: torch.memory_format) -> torch.Tensor:
    """NHWC array -> tensor of logical shape NCHW; owns its memory."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).clone(memory_format=form)


def _kernel(array: np.ndarray, form: torch.memory_format) -> torch.Tensor:
    """HWIO array -> OIHW tensor."""
    return torch.from_numpy(array).permute(3, 2, 0, 1).clone(memory_format=form)


def _nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def _repeat(function: Callable[[], Any]) -> tuple[Callable[[int], None], list[Any]]:
    """A loop over `function`, and a one-place box that holds its last result."""
    box: list[Any] = [None]

    def run(calls: int) -> None:
        for _ in range(calls):
            box[0] = function()

    return run, box


def _variant(function: Callable[[], Any], results: Callable[[Any], dict[str, np.ndarray]]) -> Variant:
    run, box = _repeat(function)
    return Variant(run, lambda: results(box[0]))


def conv2d(work: Work) -> dict[str, Variant]:
    arrays, variants = conv_arrays(work), {}
    stride, padding, groups = [work["stride"]] * 2, [work["padding"]] * 2, work["groups"]
    for name, form in FORMATS.items():
        x, dy = _image(arrays["x"], form), _image(arrays["dy"], form)
        kernel = _kernel(arrays["kernel"], form)
        bias = torch.from_numpy(arrays["bias"]) if work["bias"] else None
        if work["direction"] == "forward":

            def forward(x: Any = x, kernel: Any = kernel, bias: Any = bias) -> Any:
                return torch.conv2d(x, kernel, bias, stride, padding, [1, 1], groups)

            variants[name] = _variant(forward, lambda y: {"y": _nhwc(y)})
            continue
        data = work["direction"] == "backward_data"
        mask = [data, not data, not data and work["bias"]]
        sizes = [work["fan_out"]] if work["bias"] else None

        def backward(x: Any = x, dy: Any = dy, kernel: Any = kernel, mask: Any = mask, sizes: Any = sizes) -> Any:
            return aten.convolution_backward(dy, x, kernel, sizes, stride, padding, [1, 1], False, [0, 0], groups, mask)

        def results(out: Any, data: bool = data) -> dict[str, np.ndarray]:
            if data:
                return {"dx": _nhwc(out[0])}
            found = {"dkernel": out[1].permute(2, 3, 1, 0).numpy()}
            return {**found, "dbias": out[2].numpy()} if out[2] is not None else found

        variants[name] = _variant(backward, results)
    return variants


def dense(work: Work) -> dict[str, Variant]:
    """Weights as (in, out) and as torch.nn.Linear keeps them, (out, in); PyTorch may use its better one."""
    arrays = {name: torch.from_numpy(array) for name, array in dense_arrays(work).items()}
    x, dy = arrays["x"], arrays["dy"]
    variants = {}
    for name in ("in_out", "out_in"):
        flip = name == "out_in"
        stored = arrays["kernel"].t().contiguous() if flip else arrays["kernel"]
        kernel = stored.t() if flip else stored  # (in, out) whatever the storage
        if work["direction"] == "forward":
            y = torch.empty_like(dy)

            def call(kernel=kernel, y=y):
                return torch.mm(x, kernel, out=y)

            variants[name] = _variant(call, lambda y: {"y": y.numpy()})
        elif work["direction"] == "backward_data":
            dx = torch.empty_like(x)

            def call(kernel=kernel, dx=dx):
                return torch.mm(dy, kernel.t(), out=dx)

            variants[name] = _variant(call, lambda dx: {"dx": dx.numpy()})
        elif flip:
            dw = torch.empty_like(stored)

            def call(dw=dw):
                return torch.mm(dy.t(), x, out=dw)

            variants[name] = _variant(call, lambda dw: {"dkernel": dw.t().numpy()})
        else:
            dw = torch.empty_like(stored)

            def call(dw=dw):
                return torch.mm(x.t(), dy, out=dw)

            variants[name] = _variant(call, lambda dw: {"dkernel": dw.numpy()})
    return variants


def _compiled(function: Callable[..., Any]) -> Callable[..., Any] | None:
    if os.environ.get("FASTBN_BENCH_COMPILE") == "0" or shutil.which(os.environ.get("CXX", "g++")) is None:
        return None
    return torch.compile(function, dynamic=False)


def batch_norm_relu(work: Work) -> dict[str, Variant]:
    arrays, variants = batch_norm_arrays(work), {}
    gamma, beta = torch.from_numpy(arrays["gamma"]), torch.from_numpy(arrays["beta"])
    flat = len(work["shape"]) == 2
    for name, form in FORMATS.items():
        if flat and name == "channels_last":
            continue
        x = torch.from_numpy(arrays["x"]) if flat else _image(arrays["x"], form)
        dy = torch.from_numpy(arrays["dy"]) if flat else _image(arrays["dy"], form)
        plain = (lambda t: t.numpy()) if flat else _nhwc

        def forward(x: Any = x) -> Any:
            y, mean, rstd = aten.native_batch_norm(x, gamma, beta, None, None, True, 0.01, 1e-3)
            return torch.relu_(y), mean, rstd

        def formula(x: Any) -> Any:
            y, mean, rstd = aten.native_batch_norm(x, gamma, beta, None, None, True, 0.01, 1e-3)
            return torch.relu(y), mean, rstd

        if work["direction"] == "forward":

            def results(out, plain=plain):
                return {"y": plain(out[0])}

            variants[name] = _variant(forward, results)
            compiled = _compiled(formula)
            if compiled is not None:
                variants[f"compile {name}"] = _variant(lambda c=compiled, x=x: c(x), results)
            continue
        y, mean, rstd = forward()
        masked = torch.empty_like(dy)

        def backward(x: Any = x, dy: Any = dy, y: Any = y, m: Any = mean, r: Any = rstd, masked: Any = masked) -> Any:
            aten.threshold_backward.grad_input(dy, y, 0.0, grad_input=masked)
            return aten.native_batch_norm_backward(masked, x, gamma, None, None, m, r, True, 1e-3, [True, True, True])

        def gradient(x: Any, dy: Any, y: Any, m: Any, r: Any) -> Any:
            masked = aten.threshold_backward(dy, y, 0.0)
            return aten.native_batch_norm_backward(masked, x, gamma, None, None, m, r, True, 1e-3, [True, True, True])

        def back(out, plain=plain):
            return {"dx": plain(out[0]), "dgamma": out[1].numpy(), "dbeta": out[2].numpy()}

        variants[name] = _variant(backward, back)
        compiled = _compiled(gradient)
        if compiled is not None:

            def call(c=compiled, x=x, dy=dy, y=y, m=mean, r=rstd):
                return c(x, dy, y, m, r)

            variants[f"compile {name}"] = _variant(call, back)
    return variants


def max_pool2d(work: Work) -> dict[str, Variant]:
    array, gradient = array_and_gradient(work)
    variants = {}
    for name, form in FORMATS.items():
        x = _image(array, form)
        dy = _image(np.ascontiguousarray(gradient[:, ::2, ::2]), form)
        y, index = aten.max_pool2d_with_indices(x, [2, 2], [2, 2])
        if work["direction"] == "forward":

            def call(x=x, y=y, index=index):
                return aten.max_pool2d_with_indices.out(x, [2, 2], [2, 2], out=y, indices=index)

            variants[name] = _variant(call, lambda out: {"y": _nhwc(out[0])})
        else:
            dx = torch.empty_like(x)

            def call(x=x, dy=dy, index=index, dx=dx):
                return aten.max_pool2d_with_indices_backward.grad_input(
                    dy, x, [2, 2], [2, 2], [0, 0], [1, 1], False, index, grad_input=dx
                )

            variants[name] = _variant(call, lambda dx: {"dx": _nhwc(dx)})
    return variants


def dropout(work: Work) -> dict[str, Variant]:
    x, dy = (torch.from_numpy(array) for array in array_and_gradient(work))
    if work["direction"] == "forward":
        mask, y = torch.empty_like(x), torch.empty_like(x)

        def bernoulli() -> torch.Tensor:
            mask.bernoulli_(0.75).mul_(1 / 0.75)
            return torch.mul(x, mask, out=y)

        variants = {
            "native": _variant(lambda: torch.native_dropout(x, 0.25, True)[0], lambda y: {"y": y.numpy()}),
            "bernoulli": _variant(bernoulli, lambda y: {"y": y.numpy()}),
        }
        compiled = _compiled(lambda x: torch.native_dropout(x, 0.25, True))
        if compiled is not None:
            variants["compile"] = _variant(lambda: compiled(x)[0], lambda y: {"y": y.numpy()})
        return variants
    kept = torch.native_dropout(x, 0.25, True)[1]
    scaled = kept.float().mul_(1 / 0.75)
    dx = torch.empty_like(x)
    return {
        "native": _variant(lambda: aten.native_dropout_backward(dy, kept, 1 / 0.75), lambda d: {"dx": d.numpy()}),
        "scaled mask": _variant(lambda: torch.mul(dy, scaled, out=dx), lambda d: {"dx": d.numpy()}),
    }


def cross_entropy(work: Work) -> dict[str, Variant]:
    array, classes = cross_entropy_arrays(work)
    logits, labels = torch.from_numpy(array), torch.from_numpy(classes).long()
    rows = logits.shape[0]
    log_p = torch.log_softmax(logits, 1)
    if work["direction"] == "forward":
        out = torch.empty_like(logits)

        def forward() -> torch.Tensor:
            torch.log_softmax(logits, 1, out=out)
            return aten.nll_loss_forward(out, labels, None, 0, -100)[0]

        variants = {"aten": _variant(forward, lambda loss: {"loss": loss.numpy()})}
        compiled = _compiled(lambda z, t: (torch.softmax(z, 1), F.cross_entropy(z, t, reduction="none")))
        if compiled is not None:
            variants["compile"] = _variant(lambda: compiled(logits, labels)[1], lambda loss: {"loss": loss.numpy()})
        return variants
    ones, total = torch.ones(()), torch.tensor(float(rows))
    p, dz, places = torch.exp(log_p), torch.empty_like(logits), torch.arange(rows)

    def backward() -> torch.Tensor:
        d = aten.nll_loss_backward(ones, log_p, labels, None, 1, -100, total)
        return aten._log_softmax_backward_data.out(d, log_p, 1, torch.float32, out=dz)

    def from_probabilities() -> torch.Tensor:
        torch.mul(p, 1 / rows, out=dz)
        dz[places, labels] -= 1 / rows
        return dz

    def result(d):
        return {"dlogits": d.numpy()}

    return {"aten": _variant(backward, result), "softmax": _variant(from_probabilities, result)}


def sigmoid(work: Work) -> dict[str, Variant]:
    x, dy = (torch.from_numpy(array) for array in array_and_gradient(work))
    out = torch.empty_like(x)
    if work["direction"] == "forward":
        return {"out": _variant(lambda: torch.sigmoid(x, out=out), lambda y: {"y": y.numpy()})}
    y = torch.sigmoid(x)

    def call():
        return aten.sigmoid_backward.grad_input(dy, y, grad_input=out)

    return {"out": _variant(call, lambda dx: {"dx": dx.numpy()})}


def _optimizer(spec: dict[str, Any], parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    if spec["name"] == "sgd":
        momentum, nesterov = spec["momentum"], spec["nesterov"]
        return torch.optim.SGD(parameters, spec["learning_rate"], momentum, nesterov=nesterov, fused=True)
    if spec["name"] == "adam":
        return torch.optim.Adam(parameters, spec["learning_rate"], eps=1e-7, fused=True)
    return torch.optim.RMSprop(parameters, spec["learning_rate"], spec["rho"], eps=1e-7, foreach=True)


def update(work: Work) -> dict[str, Variant]:
    array, gradient = update_arrays(work)
    variants = {}
    for name in ("fused", "foreach", "loop") if work["kind"] == "adam" else ("foreach", "loop"):
        w = torch.nn.Parameter(torch.from_numpy(array.copy()))
        w.grad = torch.from_numpy(gradient)
        flags = {"fused": name == "fused"} if name == "fused" else {"foreach": name == "foreach"}
        if work["kind"] == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.Adam([w], 1e-3, eps=1e-7, **flags)
        else:
            optimizer = torch.optim.RMSprop([w], 1e-3, 0.9, eps=1e-7, **flags)
        optimizer.step()
        first = w.detach().clone().numpy()
        variants[name] = _variant(optimizer.step, lambda _, first=first: {"first": first})
    return variants


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


class Network:
    """A graph in functional calls: no module overhead, in-place relu, weights as leaves."""

    def __init__(self, nodes: list[graphs.Node], weights: dict[str, list[np.ndarray]], last: bool) -> None:
        self.parameters: dict[str, list[torch.Tensor]] = {}
        self.calls: list[tuple[str, list[str], Callable[..., torch.Tensor]]] = []
        self.channels_last = last
        form = torch.channels_last if last else torch.contiguous_format
        sizes = graphs.shapes(nodes)
        flattened: tuple[int, ...] = ()
        for node in nodes:
            if node["op"] == "Input":
                continue
            arrays = weights.get(node["name"], [])
            if node["op"] == "Flatten":
                flattened = sizes[node["inputs"][0]]
            if node["op"] == "Dense" and len(flattened) == 3 and not last:
                # Rows follow NHWC; this network flattens NCHW.
                order = np.arange(arrays[0].shape[0]).reshape(flattened).transpose(2, 0, 1).ravel()
                arrays = [arrays[0][order], *arrays[1:]]
                flattened = ()
            self.calls.append((node["name"], node["inputs"], self._call(node, arrays, form)))
        self.order = [node["name"] for node in nodes if node["name"] in self.parameters]

    def _leaf(self, node: graphs.Node, tensor: torch.Tensor) -> torch.Tensor:
        tensor.requires_grad_(True)
        self.parameters.setdefault(node["name"], []).append(tensor)
        return tensor

    def _call(
        self, node: graphs.Node, arrays: list[np.ndarray], form: torch.memory_format
    ) -> Callable[..., torch.Tensor]:
        op = node["op"]
        if op in ("Conv2D", "Dense"):
            bias = None
            if op == "Dense":
                kernel = self._leaf(node, torch.from_numpy(arrays[0].T.copy()))
            else:
                kernel = self._leaf(node, _kernel(arrays[0], form))
            if node["use_bias"]:
                bias = self._leaf(node, torch.from_numpy(arrays[1].copy()))
            activation = self._activation(node["activation"])
            if op == "Dense":
                if activation is None:
                    return lambda x: F.linear(x, kernel, bias)
                return lambda x: activation(F.linear(x, kernel, bias))
            return self._conv(node, kernel, bias, activation)
        if op == "BatchNormalization":
            gamma, beta = (self._leaf(node, torch.from_numpy(array.copy())) for array in arrays[:2])
            mean, variance = (torch.from_numpy(array.copy()) for array in arrays[2:])
            momentum, epsilon = 1 - node["momentum"], node["epsilon"]
            return lambda x: F.batch_norm(x, mean, variance, gamma, beta, True, momentum, epsilon)
        if op == "Activation":
            return self._activation(node["activation"]) or (lambda x: x)
        if op == "MaxPooling2D":
            return lambda x: F.max_pool2d(x, node["pool_size"], node["strides"])
        if op == "GlobalAveragePooling2D":
            return lambda x: x.mean((2, 3))
        if op == "Dropout":
            rate = node["rate"]
            return (lambda x: F.dropout(x, rate)) if rate > 0 else (lambda x: x)
        if op == "Flatten":
            if self.channels_last:
                return lambda x: x.permute(0, 2, 3, 1).flatten(1) if x.dim() == 4 else x.flatten(1)
            return lambda x: x.flatten(1)
        if op == "Add":
            return lambda a, b: a + b
        raise NotImplementedError(f"torch: layer {op}")

    @staticmethod
    def _activation(name: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
        return {"linear": None, "relu": torch.relu_, "sigmoid": torch.sigmoid_, "tanh": torch.tanh_}[name]

    @staticmethod
    def _conv(node: graphs.Node, kernel: Any, bias: Any, activation: Any) -> Callable[..., torch.Tensor]:
        strides, size = node["strides"], node["kernel_size"]

        def call(x: torch.Tensor) -> torch.Tensor:
            padding = [0, 0]
            if node["padding"] == "same":
                before = [graphs.same_padding(s, k, t) for s, k, t in zip(x.shape[2:], size, strides, strict=True)]
                if all(a == b for a, b in before):
                    padding = [a for a, _ in before]
                else:
                    x = F.pad(x, (*before[1], *before[0]))
            y = F.conv2d(x, kernel, bias, strides, padding)
            return activation(y) if activation else y

        return call

    def leaves(self) -> list[torch.Tensor]:
        return [tensor for tensors in self.parameters.values() for tensor in tensors]

    def loss(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        values = {"input": x}
        for name, inputs, call in self.calls:
            x = values[name] = call(*(values[source] for source in inputs))
        return F.cross_entropy(x, labels)


class TorchWorker(Worker):
    name = "torch"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)

    def versions(self) -> dict[str, str]:
        return {
            "torch": torch.__version__,
            "mkldnn": str(torch.backends.mkldnn.is_available()),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": str(torch.get_num_threads()),
        }

    def operator(self, work: Work) -> dict[str, Variant]:
        torch.compiler.reset()  # past eight shapes of one function it would fall back to eager
        return OPERATORS[work["kind"]](work)

    def _rows(self, work: Work, nodes: list[graphs.Node], last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows flattened in the network's memory order, so that a gather is one index_select of long rows."""
        shape = nodes[0]["shape"]
        x, labels = training_rows(work, shape, graphs.classes(nodes))
        if len(shape) == 3 and not last:
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        return torch.from_numpy(x.reshape(len(x), -1)), torch.from_numpy(labels).long()

    @staticmethod
    def _shaped(rows: torch.Tensor, shape: list[int], last: bool) -> torch.Tensor:
        if len(shape) != 3:
            return rows.view(-1, *shape)
        height, width, channels = shape
        if last:
            return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return rows.view(-1, channels, height, width)

    def step(self, work: Work) -> dict[str, Variant]:
        torch.compiler.reset()
        variants: dict[str, Variant] = {}
        nodes = graphs.with_logits(work["nodes"])
        images = any(node["op"] == "Conv2D" for node in nodes)
        for name in FORMATS if images else ("contiguous",):
            for mode in ("eager", "compile"):
                network = Network(nodes, graphs.load_weights(work["weights"]), name == "channels_last")
                loss = network.loss if mode == "eager" else _compiled(network.loss)
                if loss is None:
                    continue
                label = f"{mode} {name}" if images else mode
                try:
                    variants[label] = self._training(work, nodes, network, loss)
                except Exception as error:  # torch.compile may fail on a machine without headers
                    if mode == "eager":
                        raise
                    print(f"torch.compile: {error}", flush=True)
        return variants

    def _training(
        self, work: Work, nodes: list[graphs.Node], network: Network, loss: Callable[..., torch.Tensor]
    ) -> Variant:
        shape, batch, last = nodes[0]["shape"], work["batch"], network.channels_last
        optimizer = _optimizer(work["optimizer"], network.leaves())
        rows, labels = self._rows(work, nodes, last)
        recent: list[torch.Tensor] = []

        def one(x: torch.Tensor, t: torch.Tensor) -> None:
            value = loss(x, t)
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            recent[:] = [value.detach()]

        if not work["rows"]:
            image = self._shaped(rows, shape, last)

            def resident(calls: int) -> None:
                for _ in range(calls):
                    one(image, labels)

            run, units = resident, 1
        else:
            warm_rows, warm_labels = rows[:batch].clone(), labels[:batch].clone()
            image = self._shaped(warm_rows, shape, last)
            count = work["rows"] // batch

            def epochs(calls: int) -> None:
                for _ in range(calls):
                    order = torch.randperm(work["rows"])
                    for i in range(count):
                        index = order[i * batch : (i + 1) * batch]
                        torch.index_select(rows, 0, index, out=warm_rows)
                        torch.index_select(labels, 0, index, out=warm_labels)
                        one(image, warm_labels)

            run, units = epochs, count
        one(image, labels[:batch])  # compiles, where it has to
        return Variant(run, lambda: {"loss": np.array([float(recent[0])])}, units)

    def verify(self, work: Work) -> dict[str, Any]:
        nodes = graphs.without_dropout(graphs.with_logits(work["nodes"]))
        last = any(node["op"] == "Conv2D" for node in nodes)
        network = Network(nodes, graphs.load_weights(work["weights"]), last)
        rows, labels = self._rows({**work, "rows": 0}, nodes, last)
        optimizer = torch.optim.SGD(network.leaves(), work["verify_rate"])
        losses = []
        for _ in range(work["verify_steps"]):
            optimizer.zero_grad()
            loss = network.loss(self._shaped(rows, nodes[0]["shape"], last), labels)
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        norms = {
            layer: [float(tensor.detach().double().norm()) for tensor in tensors]
            for layer, tensors in network.parameters.items()
        }
        return {"losses": losses, "norms": norms}


if __name__ == "__main__":
    serve(TorchWorker)
