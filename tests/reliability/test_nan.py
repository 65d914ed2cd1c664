"""NaN and infinity planted in one sample: they come out as NumPy would have them and reach nothing else."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from cases.networks import CASES, NetworkCase
from harness.programs import Program

from fastbn import ops

POISONS = (np.nan, np.inf, -np.inf)
RNG = np.random.default_rng(5)


def data(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def planted(x, poison, sample=1):
    bad = x.copy()
    bad[(sample, *(n // 2 for n in x.shape[1:]))] = poison
    return bad


# Operators whose samples are independent of each other: the function of x, and x's shape.
KERNEL, DENSE = data(3, 3, 6, 17), data(6, 17)
BETA = data(6)
SAMPLEWISE = {
    "conv2d": (lambda x: ops.conv2d_forward(x, KERNEL, data(17) * 0, algorithm="direct"), (4, 9, 9, 6)),
    "conv2d_same": (lambda x: ops.conv2d_forward(x, KERNEL, padding="same", activation="relu"), (4, 9, 9, 6)),
    "conv2d_strided": (lambda x: ops.conv2d_forward(x, KERNEL, strides=2), (4, 9, 9, 6)),
    "conv2d_grouped": (lambda x: ops.conv2d_forward(x, KERNEL[:, :, :2, :15], groups=3), (4, 9, 9, 6)),
    "conv2d_dx": (lambda dy: ops.conv2d_backward(dy, np.zeros((4, 9, 9, 6), np.float32), KERNEL)[0], (4, 7, 7, 17)),
    "dense": (lambda x: ops.dense_forward(x, DENSE), (5, 6)),
    "dense_dx": (lambda dy: ops.dense_backward(dy, np.zeros((5, 6), np.float32), DENSE)[0], (5, 17)),
    "max_pool": (lambda x: ops.max_pool2d_forward(x, 2)[0], (4, 8, 8, 6)),
    "max_pool_overlapping": (lambda x: ops.max_pool2d_forward(x, 3, 1)[0], (4, 8, 8, 6)),
    "avg_pool": (lambda x: ops.avg_pool2d_forward(x, 2), (4, 8, 8, 6)),
    "global_avg_pool": (ops.global_avg_pool2d_forward, (4, 8, 8, 6)),
    "batch_norm_inference": (lambda x: ops.batch_norm_inference(x, BETA, BETA, BETA, BETA * BETA), (5, 6)),
    "dropout": (lambda x: ops.dropout_forward(x, 0.25, 3), (5, 6)),
    "mean_squared_error": (lambda x: ops.mean_squared_error_forward(x, np.zeros((5, 6), np.float32)), (5, 6)),
    "softmax_cross_entropy": (
        lambda x: ops.softmax_cross_entropy_forward(x, np.arange(5, dtype=np.int32))[0],
        (5, 6),
    ),
    **{
        name: (lambda x, name=name: ops.activation_forward(x, name), (5, 23))
        for name in ("relu", "leaky_relu", "sigmoid", "tanh", "softmax")
    },
}


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("name", list(SAMPLEWISE))
def test_other_samples_do_not_notice(name, poison, isa):
    call, shape = SAMPLEWISE[name]
    x = data(*shape)
    clean, found = call(x), call(planted(x, poison))
    others = np.arange(len(x)) != 1
    assert found[others].tobytes() == clean[others].tobytes()
    if np.isnan(poison) and name != "dropout":
        assert np.isnan(found[1]).any(), "the NaN was lost"


ORACLES = {
    "conv2d": (
        lambda x: ops.conv2d_forward(x, KERNEL, algorithm="direct"),
        lambda x: oracles.conv2d_forward(x, KERNEL),
        (4, 9, 9, 6),
    ),
    "dense": (lambda x: ops.dense_forward(x, DENSE), lambda x: oracles.dense_forward(x, DENSE), (5, 6)),
    "avg_pool": (lambda x: ops.avg_pool2d_forward(x, 2), lambda x: oracles.avg_pool2d_forward(x, 2), (4, 8, 8, 6)),
    "max_pool": (
        lambda x: ops.max_pool2d_forward(x, 2)[0],
        lambda x: oracles.max_pool2d_forward(x, 2)[0],
        (4, 8, 8, 6),
    ),
    **{
        name: (
            lambda x, name=name: ops.activation_forward(x, name, alpha=0.2),
            lambda x, name=name: oracles.activation_forward(x, name, 0.2),
            (5, 23),
        )
        for name in ("relu", "leaky_relu", "sigmoid", "tanh")
    },
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("name", list(ORACLES))
def test_as_numpy_has_it(name, poison, isa):
    """NaN and both infinities stand where the float64 oracle has them."""
    call, oracle, shape = ORACLES[name]
    x = planted(data(*shape), poison)
    found, expected = call(x), oracle(x)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.array_equal(np.isposinf(found), np.isposinf(expected))
    assert np.array_equal(np.isneginf(found), np.isneginf(expected))


@pytest.mark.parametrize("poison", POISONS)
def test_one_channel_of_batch_norm(poison, isa):
    x, gamma, dy = data(50, 21), data(21), data(50, 21)
    clean = ops.batch_norm_forward(x, gamma, gamma)
    bad = x.copy()
    bad[7, 4] = poison
    found = ops.batch_norm_forward(bad, gamma, gamma)
    others = np.arange(21) != 4
    for a, e in zip(found, clean, strict=True):
        assert a[..., others].tobytes() == e[..., others].tobytes()
    assert np.isnan(found[2][4])
    assert np.isnan(found[0][:, 4]).all()
    gradients = ops.batch_norm_backward(dy, bad, gamma, found[1], found[2])
    for a, e in zip(gradients, ops.batch_norm_backward(dy, x, gamma, clean[1], clean[2]), strict=True):
        assert a[..., others].tobytes() == e[..., others].tobytes()
    frozen = ops.batch_norm_backward(dy, bad, gamma, clean[1], clean[2], frozen=True)[0]
    assert np.isfinite(frozen).all(), "with constant statistics x has no part in dx"


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("kind", ["x", "dy"])
def test_one_output_channel_of_weight_gradients(kind, poison, isa):
    """A poisoned dy of one channel reaches that channel's weights alone; the others keep their bits."""
    x, dy = data(4, 9, 9, 6), data(4, 7, 7, 17)
    flat_x, flat_dy = data(5, 6), data(5, 17)
    clean = ops.conv2d_backward(dy, x, KERNEL)[1:], ops.dense_backward(flat_dy, flat_x, DENSE)[1:]
    if kind == "dy":
        dy[2, 3, 3, 4] = flat_dy[2, 4] = poison
        keep = np.arange(17) != 4
        found = ops.conv2d_backward(dy, x, KERNEL)[1:], ops.dense_backward(flat_dy, flat_x, DENSE)[1:]
        for pair, before in zip(found, clean, strict=True):
            for a, e in zip(pair, before, strict=True):
                assert a[..., keep].tobytes() == e[..., keep].tobytes()
                assert not np.isfinite(a[..., 4]).all()
    else:
        x[2, 3, 3, 4] = flat_x[2, 4] = poison
        keep = np.arange(6) != 4
        found = ops.conv2d_backward(dy, x, KERNEL)[1], ops.dense_backward(flat_dy, flat_x, DENSE)[1]
        for a, e in zip(found, (clean[0][0], clean[1][0]), strict=True):
            assert a[..., keep, :].tobytes() == e[..., keep, :].tobytes()
            assert not np.isfinite(a[..., 4, :]).all()


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("case", [c for c in CASES if c.layers[0].options.get("dtype") != "uint8"], ids=str)
def test_predictions_of_other_samples(case: NetworkCase, poison, isa):
    """Through a whole program in inference mode, where no layer mixes samples."""
    program = Program(case.layers, case.loss, max_batch=case.batch)
    x, _ = case.data(9)
    clean, found = program.predict(x), program.predict(planted(x, poison, 4))
    others = np.arange(9) != 4
    assert found[others].tobytes() == clean[others].tobytes()
    if np.isnan(poison):
        assert np.isnan(found[4]).any()


@pytest.mark.parametrize("case", [c for c in CASES if c.layers[0].options.get("dtype") != "uint8"], ids=str)
def test_a_lost_step_is_seen(case: NetworkCase, isa):
    """NaN in training makes the loss NaN: it is not swallowed by relu, max-pool or the loss."""
    program = Program(case.layers, case.loss, max_batch=case.batch)
    x, y = case.data(9)
    x[4] = np.nan
    assert np.isnan(program.train(x, y)[0])


# x and kernel of each kind of product, whose sums are all -infinity with a bias of that.
PRODUCTS = {
    "dense": ((5, 6), (6, 17)),
    "dense_many": ((64, 40), (40, 33)),
    "direct": ((2, 9, 9, 64), (3, 3, 64, 64)),
    "winograd": ((2, 12, 12, 64), (3, 3, 64, 64)),
    "narrow": ((2, 9, 9, 1), (3, 3, 1, 4)),
    "depthwise": ((2, 9, 9, 16), (3, 3, 1, 16)),
    "depthwise_slices": ((2, 7, 7, 512), (3, 3, 1, 512)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_slope_of_zero_is_relu(name, isa):
    """0 * -infinity would be NaN: fused into a product as on its own."""
    x, kernel = (np.ones(shape, np.float32) for shape in PRODUCTS[name])
    bias = np.full(kernel.shape[-1], -np.inf, np.float32)
    options = {"activation": "leaky_relu", "alpha": 0.0}
    if x.ndim == 2:
        y = ops.dense_forward(x, kernel, bias, **options)
    else:
        y = ops.conv2d_forward(
            x,
            kernel,
            bias,
            padding="same",
            groups=x.shape[-1] if "depthwise" in name else 1,
            algorithm="direct" if name == "direct" else "auto",
            **options,
        )
    assert not y.any()
    assert not ops.activation_forward(np.full((3, 5), -np.inf, np.float32), "leaky_relu", alpha=0.0).any()
