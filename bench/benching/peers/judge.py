"""What an operator work has to give, in float64: the oracles of the tests on the arrays that every worker draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracles

from .worker import (
    array_and_gradient,
    batch_norm_arrays,
    conv_arrays,
    cross_entropy_arrays,
    dense_arrays,
    update_arrays,
)
from .works import Work

Results = dict[str, np.ndarray]


def conv2d(work: Work) -> Results:
    a = conv_arrays(work)
    options: dict[str, Any] = {"strides": work["stride"], "padding": ((work["padding"],) * 2,) * 2}
    options["groups"] = work["groups"]
    if work["direction"] == "forward":
        return {"y": oracles.conv2d_forward(a["x"], a["kernel"], a["bias"] if work["bias"] else None, **options)}
    dx, dkernel, dbias = oracles.conv2d_backward(a["dy"], a["x"], a["kernel"], **options)
    return {"dx": dx} if work["direction"] == "backward_data" else {"dkernel": dkernel, "dbias": dbias}


def dense(work: Work) -> Results:
    a = dense_arrays(work)
    if work["direction"] == "forward":
        return {"y": oracles.dense_forward(a["x"], a["kernel"])}
    dx, dkernel, _ = oracles.dense_backward(a["dy"], a["x"], a["kernel"])
    return {"dx": dx} if work["direction"] == "backward_data" else {"dkernel": dkernel}


def batch_norm_relu(work: Work) -> Results:
    a = batch_norm_arrays(work)
    y, mean, variance = oracles.batch_norm_forward(a["x"], a["gamma"], a["beta"], activation="relu")
    if work["direction"] == "forward":
        return {"y": y}
    dx, dgamma, dbeta = oracles.batch_norm_backward(
        a["dy"], a["x"], a["gamma"], mean, variance, y=y, activation="relu"
    )[:3]
    return {"dx": dx, "dgamma": dgamma, "dbeta": dbeta}


def max_pool2d(work: Work) -> Results:
    x, gradient = array_and_gradient(work)
    y, index = oracles.max_pool2d_forward(x, 2)
    if work["direction"] == "forward":
        return {"y": y}
    return {"dx": oracles.max_pool2d_backward(gradient[:, ::2, ::2], index, x.shape, 2)}


def cross_entropy(work: Work) -> Results:
    logits, labels = cross_entropy_arrays(work)
    loss, probabilities = oracles.softmax_cross_entropy_forward(logits, labels)
    if work["direction"] == "forward":
        return {"loss": loss}
    return {"dlogits": oracles.softmax_cross_entropy_backward(probabilities, labels, 1 / len(logits))}


def sigmoid(work: Work) -> Results:
    x, dy = array_and_gradient(work)
    y = oracles.activation_forward(x, "sigmoid")
    return {"y": y} if work["direction"] == "forward" else {"dx": oracles.activation_backward(dy, y, "sigmoid")}


def update(work: Work) -> Results:
    w, g = (array.astype(np.float64) for array in update_arrays(work))
    optimizer = oracles.Adam() if work["kind"] == "adam" else oracles.RMSprop()
    optimizer.update(w, g, optimizer.slots(w), 0)
    return {"first": w}


JUDGES = {
    "conv2d": conv2d,
    "dense": dense,
    "batch_norm_relu": batch_norm_relu,
    "max_pool2d": max_pool2d,
    "cross_entropy": cross_entropy,
    "sigmoid": sigmoid,
    "adam": update,
    "rmsprop": update,
}


def results(work: Work) -> Results | None:
    """None for dropout, whose masks are each framework's own."""
    judge = JUDGES.get(work["kind"])
    return None if judge is None else judge(work)
