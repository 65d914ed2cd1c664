"""The oracles themselves: forward against plain loops or known values, backward against finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import oracles
from oracles.differences import assert_gradient
from oracles.network import Layer, Network

RNG_SEED = 7


def normal(*shape, seed=RNG_SEED):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def away_from_zero(*shape):
    """No value where a step of a finite difference would cross a kink."""
    x = normal(*shape)
    return np.where(np.abs(x) < 0.01, 0.5, x)


CONVOLUTIONS = {
    "valid": {"kernel": (3, 3, 2, 4)},
    "same_stride": {"kernel": (3, 2, 2, 3), "strides": 2, "padding": "same"},
    "explicit": {"kernel": (2, 3, 2, 2), "padding": ((2, 0), (1, 3))},
    "dilation": {"kernel": (2, 2, 2, 2), "dilation": (2, 3), "padding": ((1, 1), (0, 2))},
    "groups": {"kernel": (2, 2, 1, 4), "groups": 2, "strides": (1, 2)},
    "stride_over_kernel": {"kernel": (1, 2, 2, 1), "strides": 3},
}


def conv2d_loops(x, kernel, bias, strides=1, padding="valid", dilation=1, groups=1):
    """The definition, one multiplication at a time."""
    (sy, sx), (dy, dx) = np.broadcast_to(strides, 2), np.broadcast_to(dilation, 2)
    n, height, width, _ = x.shape
    kh, kw, group_in, out_channels = kernel.shape
    (top, _), (left, _) = oracles.resolve_padding(padding, (height, width), (kh, kw), (sy, sx), (dy, dx))
    oh, ow = oracles.output_size((height, width), (kh, kw), (sy, sx), (dy, dx), padding)
    y = np.zeros((n, oh, ow, out_channels))
    for i, oy, ox, o in np.ndindex(y.shape):
        total = bias[o]
        first = o // (out_channels // groups) * group_in
        for ky, kx, c in np.ndindex(kh, kw, group_in):
            iy, ix = oy * sy + ky * dy - top, ox * sx + kx * dx - left
            if 0 <= iy < height and 0 <= ix < width:
                total += x[i, iy, ix, first + c] * kernel[ky, kx, c, o]
        y[i, oy, ox, o] = total
    return y


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv2d(name):
    options = dict(CONVOLUTIONS[name])
    kernel = normal(*options.pop("kernel"))
    x, bias = normal(2, 6, 5, 2), normal(kernel.shape[3])
    y = oracles.conv2d_forward(x, kernel, bias, **options)
    np.testing.assert_allclose(y, conv2d_loops(x, kernel, bias, **options), rtol=1e-12, atol=1e-12)
    dy = normal(*y.shape, seed=1)
    dx, dkernel, dbias = oracles.conv2d_backward(dy, x, kernel, **options)
    assert_gradient(lambda v: oracles.conv2d_forward(v, kernel, bias, **options), x, dy, dx)
    assert_gradient(lambda v: oracles.conv2d_forward(x, v, bias, **options), kernel, dy, dkernel)
    assert_gradient(lambda v: oracles.conv2d_forward(x, kernel, v, **options), bias, dy, dbias)


@pytest.mark.parametrize(
    ("size", "window", "stride", "dilation"), [*itertools.product((1, 4, 5, 9), (1, 2, 3), (1, 2, 3), (1, 2))]
)
def test_same_padding_is_keras(size, window, stride, dilation):
    (before, after), _ = oracles.resolve_padding("same", (size, 1), (window, 1), (stride, 1), (dilation, 1))
    out, _ = oracles.output_size((size, 1), (window, 1), (stride, 1), (dilation, 1), "same")
    assert out == math.ceil(size / stride)
    assert before <= after <= before + 1
    reach = (out - 1) * stride + (window - 1) * dilation + 1
    assert before + after == max(reach - size, 0)


def test_activation_of_convolution_and_dense():
    x, kernel, bias = normal(2, 4, 4, 2), normal(3, 3, 2, 3), normal(3)
    y = oracles.conv2d_forward(x, kernel, bias, activation="tanh")
    dy = normal(*y.shape, seed=1)
    dx, _, dbias = oracles.conv2d_backward(dy, x, kernel, y=y, activation="tanh")
    assert_gradient(lambda v: oracles.conv2d_forward(v, kernel, bias, activation="tanh"), x, dy, dx)
    assert_gradient(lambda v: oracles.conv2d_forward(x, kernel, v, activation="tanh"), bias, dy, dbias)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 3)])
def test_dense(activation, shape):
    x, kernel, bias = normal(*shape), normal(3, 4), normal(4)
    y = oracles.dense_forward(x, kernel, bias, activation=activation)
    assert y.shape == (*shape[:-1], 4)
    dy = normal(*y.shape, seed=1)
    dx, dkernel, dbias = oracles.dense_backward(dy, x, kernel, y=y, activation=activation)
    assert_gradient(lambda v: oracles.dense_forward(v, kernel, bias, activation=activation), x, dy, dx)
    assert_gradient(lambda v: oracles.dense_forward(x, v, bias, activation=activation), kernel, dy, dkernel)
    assert_gradient(lambda v: oracles.dense_forward(x, kernel, v, activation=activation), bias, dy, dbias)


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize(("shape", "axis"), [((7, 3), -1), ((2, 3, 2, 4), -1), ((2, 3, 4), 1)])
def test_batch_norm(activation, shape, axis):
    channels = shape[axis]
    x, gamma, beta, residual = (
        normal(*shape),
        normal(channels, seed=2),
        normal(channels, seed=3),
        normal(*shape, seed=4),
    )

    def forward(x=x, gamma=gamma, beta=beta, residual=residual):
        options = {"axis": axis, "activation": activation, "residual": residual}
        return oracles.batch_norm_forward(x, gamma, beta, **options)

    y, mean, variance = forward()
    others = tuple(i for i in range(len(shape)) if i != axis % len(shape))
    np.testing.assert_allclose(mean, x.mean(axis=others), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(variance, x.var(axis=others), rtol=1e-12)
    dy = normal(*shape, seed=1)
    dx, dgamma, dbeta, dresidual = oracles.batch_norm_backward(
        dy, x, gamma, mean, variance, axis=axis, y=y, activation=activation
    )
    assert_gradient(lambda v: forward(x=v)[0], x, dy, dx, 1e-6)
    assert_gradient(lambda v: forward(gamma=v)[0], gamma, dy, dgamma, 1e-6)
    assert_gradient(lambda v: forward(beta=v)[0], beta, dy, dbeta, 1e-6)
    assert_gradient(lambda v: forward(residual=v)[0], residual, dy, dresidual, 1e-6)


def test_batch_norm_frozen():
    x, gamma, beta, mean, variance = (
        normal(6, 3),
        normal(3),
        normal(3, seed=2),
        normal(3, seed=3),
        normal(3, seed=4) ** 2,
    )
    dy = normal(6, 3, seed=1)
    dx, dgamma, dbeta, _ = oracles.batch_norm_backward(dy, x, gamma, mean, variance, frozen=True)

    def forward(x=x, gamma=gamma, beta=beta):
        return oracles.batch_norm_inference(x, gamma, beta, mean, variance)

    assert_gradient(lambda v: forward(x=v), x, dy, dx)
    assert_gradient(lambda v: forward(gamma=v), gamma, dy, dgamma)
    assert_gradient(lambda v: forward(beta=v), beta, dy, dbeta)


def test_batch_norm_merge():
    x = normal(11, 4)
    shards = [oracles.batch_norm_partial(part) for part in (x[:3], x[3:3], x[3:8], x[8:])]
    mean, variance = oracles.batch_norm_merge(*zip(*shards, strict=True))
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, x.var(axis=0), rtol=1e-12)


POOLS = {
    "default": {"pool_size": 2},
    "overlap_same": {"pool_size": 3, "strides": 2, "padding": "same"},
    "gaps": {"pool_size": (1, 2), "strides": (3, 3)},
    "explicit": {"pool_size": (2, 3), "strides": 1, "padding": ((1, 0), (2, 1))},
}


@pytest.mark.parametrize("name", POOLS)
def test_pooling(name):
    options = POOLS[name]
    x = np.random.default_rng(0).permutation(2 * 6 * 7 * 3).reshape(2, 6, 7, 3) / 10.0  # no two values within a step
    y, index = oracles.max_pool2d_forward(x, **options)
    dy = normal(*y.shape)
    dx = oracles.max_pool2d_backward(dy, index, x.shape, **options)
    assert_gradient(lambda v: oracles.max_pool2d_forward(v, **options)[0], x, dy, dx, 1e-6)
    dx = oracles.avg_pool2d_backward(dy, x.shape, **options)
    assert_gradient(lambda v: oracles.avg_pool2d_forward(v, **options), x, dy, dx, 1e-6)


def test_pooling_by_hand():
    x = np.array([[1, 5, 5], [5, 2, 0], [-1, -2, -3]], float).reshape(1, 3, 3, 1)
    y, index = oracles.max_pool2d_forward(x, 2, 1)
    np.testing.assert_array_equal(y[0, :, :, 0], [[5, 5], [5, 2]])
    np.testing.assert_array_equal(index[0, :, :, 0], [[1, 0], [0, 0]])  # the first of equals
    y, index = oracles.max_pool2d_forward(x, 2, 2, "same")
    np.testing.assert_array_equal(y[0, :, :, 0], [[5, 5], [-1, -3]])  # padding never wins
    np.testing.assert_array_equal(index[0, :, :, 0], [[1, 0], [0, 0]])
    np.testing.assert_array_equal(
        oracles.avg_pool2d_forward(x, 2, 2, "same")[0, :, :, 0], [[13 / 4, 5 / 2], [-3 / 2, -3]]
    )
    x[0, 1, 0, 0] = np.nan
    y, index = oracles.max_pool2d_forward(x, 2, 1)
    np.testing.assert_array_equal(y[0, :, :, 0], [[np.nan, 5], [np.nan, 2]])
    np.testing.assert_array_equal(index[0, :, :, 0], [[2, 0], [0, 0]])


def test_global_average():
    x = normal(2, 3, 4, 5)
    y = oracles.global_avg_pool2d_forward(x)
    dy = normal(*y.shape, seed=1)
    assert_gradient(oracles.global_avg_pool2d_forward, x, dy, oracles.global_avg_pool2d_backward(dy, x.shape))


@pytest.mark.parametrize("name", ["linear", "relu", "leaky_relu", "sigmoid", "tanh", "softmax"])
def test_activation(name):
    x = away_from_zero(4, 5)
    y = oracles.activation_forward(x, name, 0.2)
    dy = normal(4, 5, seed=1)
    assert_gradient(
        lambda v: oracles.activation_forward(v, name, 0.2), x, dy, oracles.activation_backward(dy, y, name, 0.2)
    )


def test_activation_values():
    x = np.array([-np.inf, -800.0, -1.0, 0.0, 1.0, 800.0, np.inf, np.nan])
    known = {
        "relu": [0, 0, 0, 0, 1, 800, np.inf, np.nan],
        "leaky_relu": [-np.inf, -400, -0.5, 0, 1, 800, np.inf, np.nan],
        "sigmoid": [0, 0, 1 / (1 + math.e), 0.5, math.e / (1 + math.e), 1, 1, np.nan],
        "tanh": [-1, -1, math.tanh(-1), 0, math.tanh(1), 1, 1, np.nan],
    }
    for name, y in known.items():
        np.testing.assert_allclose(oracles.activation_forward(x, name, 0.5), y, rtol=1e-15)
    np.testing.assert_allclose(oracles.activation_forward([[1000.0, 1000.0]], "softmax"), [[0.5, 0.5]])


def test_losses():
    logits, labels = normal(5, 4), np.array([0, 3, 1, 1, 2])
    dy = normal(5, seed=1)
    soft = np.abs(normal(5, 4, seed=2))
    for t in (labels, oracles.one_hot(labels, 4), soft):
        _, probabilities = oracles.softmax_cross_entropy_forward(logits, t)
        dlogits = oracles.softmax_cross_entropy_backward(probabilities, t) * dy[:, None]
        assert_gradient(lambda v, t=t: oracles.softmax_cross_entropy_forward(v, t)[0], logits, dy, dlogits)
    targets = normal(5, 4, seed=3)
    dp = oracles.mean_squared_error_backward(logits, targets) * dy[:, None]
    assert_gradient(lambda v: oracles.mean_squared_error_forward(v, targets), logits, dy, dp)
    loss, _ = oracles.softmax_cross_entropy_forward([[0.0, 0.0]], [1])
    assert loss[0] == pytest.approx(math.log(2), rel=1e-15)
    loss, _ = oracles.softmax_cross_entropy_forward([[1e5, 0.0]], [1])
    assert loss[0] == 1e5


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (oracles.SGD(0.5), [1 - 0.5 * 2, 0 - 0.5 * 1]),
        # v1 = -lr g1; v2 = mu v1 - lr g2
        (oracles.SGD(0.5, momentum=0.5), [1 - 1.0, 0.0 + (-0.5 - 0.5)]),
        (oracles.SGD(0.5, momentum=0.5, nesterov=True), [1 - 1.5, -0.5 + (0.5 * -1.0 - 0.5)]),
        (oracles.RMSprop(0.5, rho=0.5, epsilon=2.0), [1 - 0.5 * 2 / 2.0, 0.5 - 0.5 / math.sqrt(1.5 + 2.0)]),
        (oracles.Adam(0.5, epsilon=1e-30), [1 - 0.5, None]),  # the first step is lr, whatever the gradient
        (oracles.SGD(0.5, weight_decay=0.5), [1 - 0.25 - 1.0, None]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_optimizers_by_hand(optimizer, expected):
    w = np.array([1.0])
    slots = optimizer.slots(w)
    for iteration, (g, value) in enumerate(zip([2.0, 1.0], expected, strict=True)):
        optimizer.update(w, np.array([g]), slots, iteration)
        if value is not None:
            assert w[0] == pytest.approx(value, rel=1e-12, abs=1e-15)


def test_centered_rmsprop_and_amsgrad():
    w, g = np.array([1.0]), np.array([3.0])
    rmsprop = oracles.RMSprop(0.1, rho=0.5, momentum=0.5, epsilon=1.0, centered=True)
    slots = rmsprop.slots(w)
    rmsprop.update(w, g, slots, 0)  # v = 4.5, a = 1.5, denominator = 4.5 - 2.25 + 1
    assert w[0] == pytest.approx(1 - 0.3 / math.sqrt(3.25), rel=1e-12)
    w = np.array([1.0])
    adam = oracles.Adam(amsgrad=True, beta_2=0.5)
    slots = adam.slots(w)
    adam.update(w, g, slots, 0)
    adam.update(w, np.zeros(1), slots, 1)
    assert slots[1][0] == 2.25
    assert slots[2][0] == 4.5


NETWORK = [
    Layer("input", "input", shape=(6, 5, 2)),
    Layer("conv2d", "conv_1", filters=3, kernel_size=3, padding="same", activation="tanh"),
    Layer("batch_norm", "bn_1"),
    Layer("conv2d", "conv_2", filters=3, kernel_size=3, padding="same", use_bias=False),
    Layer("batch_norm", "bn_2", scale=False),
    Layer("add", "add", inputs=("bn_1", "bn_2")),
    Layer("activation", "sigmoid", activation="sigmoid"),
    Layer("avg_pool2d", "avg", pool_size=2),
    Layer("max_pool2d", "max", inputs=("sigmoid",), pool_size=2),
    Layer("concatenate", "both", inputs=("avg", "max")),
    Layer("flatten", "flatten"),
    Layer("dense", "dense_1", units=5, activation="leaky_relu", alpha=0.3),
    Layer("batch_norm", "bn_3", center=False, frozen=True),
    Layer("dense", "dense_2", units=3, activation="softmax"),
]


def test_network_gradients():
    network = Network(NETWORK)
    parameters = network.initial_parameters(seed=3)
    x, labels = normal(4, 6, 5, 2), np.array([0, 2, 1, 1])
    result = network.step(parameters, x, labels, "softmax_cross_entropy")
    for name, gradient in result.gradients.items():
        value = parameters[name]

        def loss(v, name=name):
            return np.array(network.step({**parameters, name: v}, x, labels, "softmax_cross_entropy").loss)

        assert_gradient(loss, value, np.array(1.0), gradient, 1e-6)
    assert set(result.gradients) == {n for n in parameters if "moving" not in n} - {"bn_3/gamma"}


def test_network_gradients_of_a_squared_error():
    layers = [Layer("input", "input", shape=(3, 3, 2)), Layer("conv2d", "conv", filters=2, kernel_size=2)]
    network = Network(layers)
    parameters = network.initial_parameters(seed=3)
    x, targets = normal(4, 3, 3, 2), normal(4, 2, 2, 2)
    result = network.step(parameters, x, targets, "mean_squared_error")
    assert result.loss == pytest.approx(((result.output - targets) ** 2).mean(), rel=1e-12)
    for name, gradient in result.gradients.items():

        def loss(v, name=name):
            return np.array(network.step({**parameters, name: v}, x, targets, "mean_squared_error").loss)

        assert_gradient(loss, parameters[name], np.array(1.0), gradient, 1e-6)


def test_network_state():
    network = Network([Layer("input", "input", shape=(3,)), Layer("batch_norm", "bn", momentum=0.75)])
    parameters = network.initial_parameters(seed=0)
    x = normal(5, 3)
    result = network.step(parameters, x, normal(5, 3, seed=1), "mean_squared_error")
    np.testing.assert_allclose(result.state["bn/moving_mean"], 0.25 * x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.state["bn/moving_variance"], 0.75 + 0.25 * x.var(axis=0), rtol=1e-12)
    y = (x / np.sqrt(1 + 1e-3)) * parameters["bn/gamma"] + parameters["bn/beta"]
    np.testing.assert_allclose(network.predict(parameters, x), y, rtol=1e-12)
