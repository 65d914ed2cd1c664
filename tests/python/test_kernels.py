"""fastbn.kernels: what Cython can cimport is the C interface; the operators over memoryviews give the bits of ops."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import fastbn
from fastbn import kernels, ops

RELU, SIGMOID, SOFTMAX = 1, 3, 5
RNG = np.random.default_rng(8)


def numbers(*shape):
    return RNG.standard_normal(shape, np.float32)


def like(*arrays):
    return [np.full_like(a, np.nan) for a in arrays]


def assert_bits(found, expected):
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        assert f.tobytes() == np.ascontiguousarray(e).tobytes()


def declared() -> set[str]:
    header = Path(fastbn.config.get_include()) / "fastbn" / "fastbn.h"
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)
    return set(re.findall(r"FBN_API[^;(]*?\b(fbn_\w+)\s*\(", text))


def test_every_function_of_the_header_can_be_cimported():
    assert {name for name in kernels.__pyx_capi__ if name.startswith("fbn_")} == declared()


def test_every_operator_of_ops_has_a_function_in_the_header():
    others = {"sgd_update", "rmsprop_update", "adam_update", "Workspace", "workspace_size"}
    assert others < set(ops.__all__)
    wanted = {f"fbn_{name}" for name in ops.__all__ if name not in others} | {"fbn_optimizer_update"}
    assert len(wanted) > 25
    assert wanted <= declared()


def test_every_memoryview_function_can_be_cimported():
    views = {name for name in dir(kernels) if not name.startswith("_") and callable(getattr(kernels, name))}
    assert len(views) > 15
    assert views == {name for name in kernels.__pyx_capi__ if not name.startswith("fbn_")}


def test_constants_and_structs_of_the_header_are_declared():
    """A name that the declarations lack could not be cimported; a wrong one would not compile."""
    text = (Path(kernels.__file__).parent / "kernels.pxd").read_text()
    header = (Path(fastbn.config.get_include()) / "fastbn" / "fastbn.h").read_text()
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    names = set(re.findall(r"\b(FBN_\w+)(?= \d| = \d)", header)) | set(re.findall(r"\}\s*(fbn_\w+);", header))
    names = {name for name in names if "_VERSION_" not in name}
    assert len(names) > 70
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()
    for struct, body in re.findall(r"typedef struct (fbn_\w+)\s*\{(.*?)\}", header, re.DOTALL):
        fields = set(re.findall(r"\b(\w+)(?=\[\w+\]\s*[,;]|\s*[,;])", body)) - {"host"}
        (block,) = re.findall(rf"ctypedef struct {struct}:\n((?:        .*\n|\n(?=        ))+)", text)
        assert {f for f in fields if not re.search(rf"\b{f}\b", block)} == set(), struct


def test_dense():
    x, kernel, bias, dy = numbers(33, 20), numbers(20, 7), numbers(7), numbers(33, 7)
    y, dx, dkernel, dbias = like(dy, x, kernel, bias)
    assert kernels.dense_forward(x, kernel, bias, y, SIGMOID) == 0
    assert_bits([y], [ops.dense_forward(x, kernel, bias, activation="sigmoid")])
    kernels.dense_backward(dy, x, kernel, y, dx, dkernel, dbias, SIGMOID, num_threads=2)
    assert_bits([dx, dkernel, dbias], ops.dense_backward(dy, x, kernel, y=y, activation="sigmoid"))
    only = np.full_like(bias, np.nan)
    kernels.dense_backward(dy, x, kernel, None, None, None, only)
    assert_bits([only], [ops.dense_backward(dy, x, kernel, need=("bias",))[2]])


@pytest.mark.parametrize("groups", [1, 2])
def test_conv2d(groups):
    x, kernel, bias = numbers(2, 11, 9, 6), numbers(3, 3, 6 // groups, 8), numbers(8)
    how = {"strides": (2, 1), "padding": "same", "groups": groups, "activation": "relu"}
    expected = ops.conv2d_forward(x, kernel, bias, **how)
    y, dx, dkernel, dbias = like(expected, x, kernel, bias)
    kernels.conv2d_forward(x, kernel, bias, y, 2, 1, True, activation=RELU)
    assert_bits([y], [expected])
    dy = numbers(*y.shape)
    kernels.conv2d_backward(dy, x, kernel, y, dx, dkernel, dbias, 2, 1, True, activation=RELU)
    assert_bits([dx, dkernel, dbias], ops.conv2d_backward(dy, x, kernel, y=y, **how))
    plain = ops.conv2d_forward(x, kernel, dilation=2, groups=groups)
    y = np.full_like(plain, np.nan)
    kernels.conv2d_forward(x, kernel, None, y, dilation_height=2, dilation_width=2)
    assert_bits([y], [plain])


def test_batch_norm():
    x, gamma, beta, dy = numbers(50, 6), numbers(6), numbers(6), numbers(50, 6)
    y, dx, dgamma, dbeta = like(x, x, gamma, beta)
    mean, variance = np.empty(6), np.empty(6)
    kernels.batch_norm_forward(x, gamma, beta, y, mean, variance, 1e-5, RELU)
    assert_bits([y, mean, variance], ops.batch_norm_forward(x, gamma, beta, epsilon=1e-5, activation="relu"))
    kernels.batch_norm_backward(dy, x, gamma, beta, mean, variance, y, dx, dgamma, dbeta, 1e-5, RELU)
    expected = ops.batch_norm_backward(dy, x, gamma, mean, variance, beta=beta, y=y, epsilon=1e-5, activation="relu")
    assert_bits([dx, dgamma, dbeta], expected)
    kernels.batch_norm_inference(x, None, None, mean, variance, y)
    assert_bits([y], [ops.batch_norm_inference(x, None, None, mean, variance)])


@pytest.mark.parametrize("same", [False, True])
def test_pooling(same):
    x = numbers(3, 7, 6, 5)
    padding = "same" if same else "valid"
    expected, places = ops.max_pool2d_forward(x, (3, 2), (2, 2), padding)
    y, index, dx = np.full_like(expected, np.nan), np.empty(expected.shape, np.uint8), np.full_like(x, np.nan)
    kernels.max_pool2d_forward(x, y, index, 3, 2, 2, 2, same)
    assert_bits([y, index], [expected, places])
    kernels.max_pool2d_forward(x, np.empty_like(y), None, 3, 2, 2, 2, same)
    dy = numbers(*y.shape)
    kernels.max_pool2d_backward(dy, index, dx, 3, 2, 2, 2, same)
    assert_bits([dx], [ops.max_pool2d_backward(dy, places, x.shape, (3, 2), (2, 2), padding)])
    kernels.avg_pool2d_forward(x, y, 3, 2, 2, 2, same)
    assert_bits([y], [ops.avg_pool2d_forward(x, (3, 2), (2, 2), padding)])
    kernels.avg_pool2d_backward(dy, dx, 3, 2, 2, 2, same)
    assert_bits([dx], [ops.avg_pool2d_backward(dy, x.shape, (3, 2), (2, 2), padding)])
    y, dx = np.empty((3, 5), np.float32), np.empty((3, 42, 5), np.float32)
    kernels.global_avg_pool2d_forward(x.reshape(3, 42, 5), y)
    assert_bits([y], [ops.global_avg_pool2d_forward(x)])
    kernels.global_avg_pool2d_backward(y, dx)
    assert_bits([dx], [ops.global_avg_pool2d_backward(y, x.shape)])


@pytest.mark.parametrize(("number", "name"), [(RELU, "relu"), (SIGMOID, "sigmoid"), (SOFTMAX, "softmax")])
def test_activations(number, name):
    x, dy = numbers(9, 13), numbers(9, 13)
    y, dx = like(x, x)
    kernels.activation_forward(x, y, number)
    assert_bits([y], [ops.activation_forward(x, name)])
    kernels.activation_backward(dy, y, dx, number)
    assert_bits([dx], [ops.activation_backward(dy, y, name)])
    kernels.activation_forward(x, x, number)  # in place
    assert_bits([x], [y])


def test_dropout_and_losses():
    x, targets = numbers(40, 10), numbers(40, 10)
    y = np.full_like(x, np.nan)
    kernels.dropout_forward(x.ravel(), y.reshape(-1), 0.25, 3)
    assert_bits([y], [ops.dropout_forward(x, 0.25, 3)])
    labels = RNG.integers(0, 10, 40).astype(np.int32)
    loss, p, dlogits = np.empty(40, np.float32), np.empty_like(x), np.empty_like(x)
    kernels.softmax_cross_entropy_forward(x, labels, loss, p)
    assert_bits([loss, p], ops.softmax_cross_entropy_forward(x, labels))
    kernels.softmax_cross_entropy_backward(p, labels, dlogits, 0.5)
    assert_bits([dlogits], [ops.softmax_cross_entropy_backward(p, labels, 0.5)])
    kernels.mean_squared_error_forward(x, targets, loss)
    assert_bits([loss], [ops.mean_squared_error_forward(x, targets)])
    kernels.mean_squared_error_backward(x, targets, dlogits)
    assert_bits([dlogits], [ops.mean_squared_error_backward(x, targets)])


def test_empty_batches():
    y = np.empty((0, 7), np.float32)
    assert kernels.dense_forward(numbers(0, 20), numbers(20, 7), None, y) == 0


WRONG = {
    "dense": lambda: kernels.dense_forward(numbers(3, 4), numbers(5, 2), None, numbers(3, 2)),
    "dense bias": lambda: kernels.dense_forward(numbers(3, 4), numbers(4, 2), numbers(3), numbers(3, 2)),
    "dense None": lambda: kernels.dense_forward(None, numbers(4, 2), None, numbers(3, 2)),
    "dense gradient": lambda: kernels.dense_backward(
        numbers(3, 2), numbers(3, 4), numbers(4, 2), None, numbers(3, 3), None, None
    ),
    "conv2d result": lambda: kernels.conv2d_forward(
        numbers(1, 5, 5, 2), numbers(3, 3, 2, 4), None, numbers(1, 5, 5, 4)
    ),
    "conv2d groups": lambda: kernels.conv2d_forward(
        numbers(1, 5, 5, 5), numbers(3, 3, 2, 4), None, numbers(1, 3, 3, 4)
    ),
    "conv2d dy": lambda: kernels.conv2d_backward(
        numbers(1, 3, 3, 4), numbers(1, 5, 5, 2), numbers(3, 3, 2, 4), None, numbers(1, 5, 4, 2), None, None
    ),
    "batch_norm": lambda: kernels.batch_norm_forward(
        numbers(5, 4), numbers(3), None, numbers(5, 4), np.empty(4), np.empty(4)
    ),
    "pool": lambda: kernels.avg_pool2d_forward(numbers(1, 4, 4, 1), numbers(1, 2, 3, 1)),
    "pool index": lambda: kernels.max_pool2d_forward(
        numbers(1, 17, 17, 1), numbers(1, 1, 1, 1), np.empty((1, 1, 1, 1), np.uint8), 17, 17
    ),
    "labels": lambda: kernels.softmax_cross_entropy_backward(
        numbers(3, 2), np.array([0, 1, 2], np.int32), numbers(3, 2)
    ),
    "activation": lambda: kernels.activation_forward(numbers(3, 2), numbers(2, 3), RELU),
    "rate": lambda: kernels.dropout_forward(numbers(3), numbers(3), 1.5, 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_refused(name):
    with pytest.raises(ValueError, match=r"^\w+: .*Received: "):
        WRONG[name]()


@pytest.mark.parametrize(
    "x", [np.ones((3, 4)), np.asfortranarray(np.ones((3, 4), np.float32)), np.ones(12, np.float32)]
)
def test_nothing_is_converted(x):
    with pytest.raises(ValueError, match=r"Buffer|ndarray"):
        kernels.dense_forward(x, numbers(4, 2), None, numbers(3, 2))
