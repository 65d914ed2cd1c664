"""The operator works in TensorFlow's own kernels (NHWC, oneDNN where TensorFlow was built with it)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from .worker import (
    Variant,
    array_and_gradient,
    batch_norm_arrays,
    conv_arrays,
    cross_entropy_arrays,
    dense_arrays,
    update_arrays,
)
from .works import Work

raw = tf.raw_ops


def _variants(
    function: Callable[..., Any], arguments: tuple[Any, ...], results: Callable[[Any], dict[str, Any]]
) -> dict[str, Variant]:
    """The function as a graph; the outputs of a call are ready when it returns."""
    graph = tf.function(function, autograph=False)
    box: list[Any] = [None]

    def run(calls: int) -> None:
        for _ in range(calls):
            box[0] = graph(*arguments)

    return {"graph": Variant(run, lambda: {name: array.numpy() for name, array in results(box[0]).items()})}


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(array) for name, array in arrays.items()}


def conv2d(work: Work) -> dict[str, Variant]:
    """TensorFlow has grouped convolutions on CPU only forward and as depthwise kernels; here depthwise."""
    t = _tensors(conv_arrays(work))
    pad, stride = work["padding"], [1, work["stride"], work["stride"], 1]
    depthwise = work["groups"] > 1
    if depthwise:
        t["kernel"] = tf.transpose(t["kernel"], [0, 1, 3, 2])
    if pad == 0:
        options: dict[str, Any] = {"strides": stride, "padding": "VALID"}
    else:
        options = {
            "strides": stride,
            "padding": "EXPLICIT",
            "explicit_paddings": [0, 0, pad, pad, pad, pad, 0, 0],
        }
    x_shape, k_shape = tf.shape(t["x"]), tf.shape(t["kernel"])
    if work["direction"] == "forward":
        op = raw.DepthwiseConv2dNative if depthwise else raw.Conv2D

        def forward(x: Any, kernel: Any, bias: Any) -> Any:
            y = op(input=x, filter=kernel, **options)
            return tf.nn.bias_add(y, bias) if work["bias"] else y

        return _variants(forward, (t["x"], t["kernel"], t["bias"]), lambda y: {"y": y})
    if work["direction"] == "backward_data":
        op = raw.DepthwiseConv2dNativeBackpropInput if depthwise else raw.Conv2DBackpropInput

        def data(dy: Any, kernel: Any) -> Any:
            return op(input_sizes=x_shape, filter=kernel, out_backprop=dy, **options)

        return _variants(data, (t["dy"], t["kernel"]), lambda dx: {"dx": dx})
    op = raw.DepthwiseConv2dNativeBackpropFilter if depthwise else raw.Conv2DBackpropFilter

    def kernel_gradient(dy: Any, x: Any) -> Any:
        found = {"dkernel": op(input=x, filter_sizes=k_shape, out_backprop=dy, **options)}
        return {**found, "dbias": raw.BiasAddGrad(out_backprop=dy)} if work["bias"] else found

    def results(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "dkernel": tf.transpose(found["dkernel"], [0, 1, 3, 2])} if depthwise else found

    return _variants(kernel_gradient, (t["dy"], t["x"]), results)


def dense(work: Work) -> dict[str, Variant]:
    t = _tensors(dense_arrays(work))
    x, kernel, dy = t["x"], t["kernel"], t["dy"]
    if work["direction"] == "forward":
        return _variants(lambda x, w: tf.matmul(x, w), (x, kernel), lambda y: {"y": y})
    if work["direction"] == "backward_data":
        return _variants(lambda d, w: tf.matmul(d, w, transpose_b=True), (dy, kernel), lambda dx: {"dx": dx})
    return _variants(lambda x, d: tf.matmul(x, d, transpose_a=True), (x, dy), lambda dw: {"dkernel": dw})


def batch_norm_relu(work: Work) -> dict[str, Variant]:
    t = _tensors(batch_norm_arrays(work))
    shape = work["shape"]
    if len(shape) == 2:
        t["x"], t["dy"] = (tf.reshape(t[name], [shape[0], 1, 1, shape[1]]) for name in ("x", "dy"))
    none = tf.zeros([0])

    def forward(x: Any, gamma: Any, beta: Any) -> Any:
        out = raw.FusedBatchNormV3(x=x, scale=gamma, offset=beta, mean=none, variance=none, epsilon=1e-3)
        return [tf.nn.relu(out.y), out.reserve_space_1, out.reserve_space_2, out.reserve_space_3]

    def backward(dy: Any, x: Any, y: Any, gamma: Any, one: Any, two: Any, three: Any) -> Any:
        masked = raw.ReluGrad(gradients=dy, features=y)
        out = raw.FusedBatchNormGradV3(
            y_backprop=masked,
            x=x,
            scale=gamma,
            reserve_space_1=one,
            reserve_space_2=two,
            reserve_space_3=three,
            epsilon=1e-3,
        )
        return [out.x_backprop, out.scale_backprop, out.offset_backprop]

    if work["direction"] == "forward":
        return _variants(forward, (t["x"], t["gamma"], t["beta"]), lambda out: {"y": tf.reshape(out[0], shape)})
    y, one, two, three = forward(t["x"], t["gamma"], t["beta"])
    arguments = (t["dy"], t["x"], y, t["gamma"], one, two, three)
    return _variants(
        backward, arguments, lambda out: {"dx": tf.reshape(out[0], shape), "dgamma": out[1], "dbeta": out[2]}
    )


def max_pool2d(work: Work) -> dict[str, Variant]:
    array, gradient = array_and_gradient(work)
    x, dy = tf.constant(array), tf.constant(np.ascontiguousarray(gradient[:, ::2, ::2]))
    window = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": "VALID"}
    if work["direction"] == "forward":
        return _variants(lambda x: raw.MaxPool(input=x, **window), (x,), lambda y: {"y": y})
    y = raw.MaxPool(input=x, **window)

    def backward(x: Any, y: Any, dy: Any) -> Any:
        return raw.MaxPoolGrad(orig_input=x, orig_output=y, grad=dy, **window)

    return _variants(backward, (x, y, dy), lambda dx: {"dx": dx})


def dropout(work: Work) -> dict[str, Variant]:
    x, dy = (tf.constant(array) for array in array_and_gradient(work))
    if work["direction"] == "forward":
        return _variants(lambda x: tf.nn.dropout(x, 0.25), (x,), lambda y: {"y": y})
    mask = tf.random.uniform(dy.shape) < 0.75
    return _variants(lambda dy, mask: tf.where(mask, dy / 0.75, 0.0), (dy, mask), lambda dx: {"dx": dx})


def cross_entropy(work: Work) -> dict[str, Variant]:
    array, classes = cross_entropy_arrays(work)
    logits, labels = tf.constant(array), tf.constant(classes)
    op = raw.SparseSoftmaxCrossEntropyWithLogits
    if work["direction"] == "forward":
        return _variants(lambda z, t: op(features=z, labels=t).loss, (logits, labels), lambda loss: {"loss": loss})
    p, rows, count = tf.nn.softmax(logits), array.shape[0], array.shape[1]

    def backward(p: Any, t: Any) -> Any:
        return (p - tf.one_hot(t, count)) / float(rows)

    return _variants(backward, (p, labels), lambda d: {"dlogits": d})


def sigmoid(work: Work) -> dict[str, Variant]:
    x, dy = (tf.constant(array) for array in array_and_gradient(work))
    if work["direction"] == "forward":
        return _variants(tf.sigmoid, (x,), lambda y: {"y": y})
    y = tf.sigmoid(x)
    return _variants(lambda dy, y: raw.SigmoidGrad(y=y, dy=dy), (dy, y), lambda dx: {"dx": dx})


def update(work: Work) -> dict[str, Variant]:
    array, gradient = update_arrays(work)
    w, g = tf.Variable(array), tf.constant(gradient)
    first_slot, second_slot = tf.Variable(tf.zeros_like(w)), tf.Variable(tf.zeros_like(w))
    time = tf.Variable(0.0)
    options = {"var": w.handle, "lr": 1e-3, "epsilon": 1e-7, "grad": g}

    def adam() -> None:
        t = time.assign_add(1.0)
        raw.ResourceApplyAdam(
            m=first_slot.handle,
            v=second_slot.handle,
            beta1_power=0.9**t,
            beta2_power=0.999**t,
            beta1=0.9,
            beta2=0.999,
            **options,
        )

    def rmsprop() -> None:
        raw.ResourceApplyRMSProp(ms=first_slot.handle, mom=second_slot.handle, rho=0.9, momentum=0.0, **options)

    found = _variants(adam if work["kind"] == "adam" else rmsprop, (), lambda _: {})
    run = found["graph"].run
    run(1)
    first = w.numpy()
    return {"resource": Variant(run, lambda: {"first": first})}


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
