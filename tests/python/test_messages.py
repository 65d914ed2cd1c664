"""What wrong arguments say: the operator that was called, its rule, and what it received."""

from __future__ import annotations

import numpy as np
import pytest

import fastbn
from fastbn import initializers, layers, losses, ops

X = np.ones((2, 4, 4, 2), np.float32)
KERNEL = np.ones((3, 3, 2, 2), np.float32)
W, G, M, V = np.ones((4, 3), np.float32)
VECTOR = np.ones(2)
Y = np.ones((2, 2, 2, 2), np.float32)
PROBABILITIES = np.full((2, 3), 1 / 3)


def model():
    made = fastbn.Sequential([fastbn.Input((3,)), layers.Dense(3)])
    made.compile("sgd", "mse")
    return made


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.conv2d_forward(X, KERNEL, strides=2**70), ValueError, "conv2d_forward: strides must fit"),
        (lambda: model().costs(2**62), MemoryError, "costs: a result does not fit into memory"),
        (lambda: model().costs(2**40), MemoryError, "costs: "),
        (lambda: model().summary(line_length="a"), TypeError, "summary: line_length must be an integer"),
        (lambda: model().summary(line_length=0), ValueError, "summary: line_length must be at least 1"),
        (lambda: initializers.RandomNormal(stddev=-1), ValueError, "RandomNormal: stddev must not be negative"),
        (lambda: initializers.TruncatedNormal(stddev=-1), ValueError, "TruncatedNormal: stddev must not be"),
        (lambda: initializers.RandomUniform(1, -1), ValueError, "RandomUniform: minval must not exceed maxval"),
        (lambda: initializers.Constant("a"), TypeError, "Constant: a parameter must be a number"),
        (lambda: ops.conv2d_forward(X, KERNEL, strides=0), ValueError, "conv2d_forward: "),
        (lambda: ops.conv2d_forward(X, KERNEL[:, :, :1]), ValueError, "conv2d_forward: "),
        (lambda: ops.conv2d_forward(X[:, :2], KERNEL), ValueError, "conv2d_forward: "),
        (lambda: ops.conv2d_backward(X, X[:, :2], KERNEL), ValueError, "conv2d_backward: "),
        (lambda: ops.conv2d_forward(X, KERNEL, groups=0), ValueError, "conv2d_forward: groups must be at least 1"),
        (lambda: ops.conv2d_backward(X, X, KERNEL, groups=-2), ValueError, "conv2d_backward: groups must be at least"),
        (lambda: ops.conv2d_forward(X, KERNEL, alpha="a"), TypeError, "conv2d_forward: alpha must be a number"),
        (lambda: ops.dense_forward(X, np.ones((2, 2)), alpha=None), TypeError, "dense_forward: alpha must be a number"),
        (lambda: ops.max_pool2d_forward(X, 5), ValueError, "max_pool2d_forward: "),
        (lambda: ops.avg_pool2d_forward(X, 2, 0), ValueError, "avg_pool2d_forward: "),
        (lambda: ops.avg_pool2d_backward(X, None), TypeError, "avg_pool2d_backward: x_shape must be four sizes"),
        (lambda: ops.avg_pool2d_backward(X, (1, 2, 2, 2**64)), ValueError, "avg_pool2d_backward: x_shape must fit"),
        (lambda: ops.batch_norm_forward(X, epsilon="a"), TypeError, "batch_norm_forward: epsilon must be a number"),
        (
            lambda: ops.batch_norm_inference(X, None, None, VECTOR, VECTOR, epsilon=10**400),
            ValueError,
            "batch_norm_inference: epsilon must fit",
        ),
        (
            lambda: ops.batch_norm_merge(np.zeros(0, int), np.zeros((0, 2)), np.zeros((0, 2))),
            ValueError,
            "batch_norm_merge: there must be shards",
        ),
        (lambda: ops.batch_norm_merge([], [], []), ValueError, "batch_norm_merge: there must be shards"),
        (lambda: ops.dropout_forward(X, "a", 1), TypeError, "dropout_forward: rate must be a number"),
        (lambda: ops.dropout_forward(X, 0.5, 2**64), ValueError, "dropout_forward: seed must"),
        (lambda: ops.mean_squared_error_backward(X, X, "a"), TypeError, "mean_squared_error_backward: scale must be"),
        (lambda: ops.adam_update(W, G, M, V, iteration=2**63), ValueError, "adam_update: iteration must fit"),
        (lambda: ops.adam_update(W, G, M, V, iteration=2**53 + 1), ValueError, "adam_update: iteration must lie in"),
        (lambda: ops.sgd_update(W.astype(np.float64), G), TypeError, "sgd_update: w must have dtype float32"),
        (lambda: ops.adam_update(W, G, M, V, epsilon="a"), TypeError, "adam_update: epsilon must be a number"),
        (lambda: ops.sgd_update(W, G, learning_rate=None), TypeError, "sgd_update: learning_rate must be a number"),
        (lambda: ops.conv2d_forward(X, KERNEL, algorithm=[]), ValueError, "conv2d_forward: algorithm must be one of"),
        (lambda: ops.conv2d_backward(X, X, KERNEL, need=None), ValueError, "conv2d_backward: need must be"),
        (lambda: layers.Dropout("a"), TypeError, "Dropout: rate must be a number"),
        (lambda: layers.LeakyReLU("a"), TypeError, "LeakyReLU: negative_slope must be a number"),
        (lambda: layers.Rescaling("a"), TypeError, "Rescaling: scale must be a number"),
        (lambda: layers.BatchNormalization(epsilon=None), TypeError, "BatchNormalization: epsilon must be a number"),
        (lambda: model().fit(W[None], W[None], verbose=0, validation_split="a"), TypeError, "fit: validation_split"),
        (lambda: model().fit(W[None], W[None], verbose=0, callbacks=3), TypeError, "callbacks: must be instances"),
        (
            lambda: model().set_weights(None),
            TypeError,
            "set_weights: weights must be a list",
        ),
        (
            lambda: model().set_optimizer_state(None),
            TypeError,
            "set_optimizer_state: must be a dict",
        ),
        (lambda: model().gradients(), ValueError, "gradients: compile the model"),
        (
            lambda: model().set_optimizer_state({"iterations": -1}),
            ValueError,
            "set_optimizer_state: iterations must not be negative",
        ),
        (lambda: fastbn.set_num_threads(1025), ValueError, r"set_num_threads: number must lie in \[0, 1024\]"),
        (
            lambda: ops.conv2d_forward(X, KERNEL, activation="leaky_relu", alpha=-1),
            ValueError,
            "conv2d_forward: the slope of leaky_relu",
        ),
        (
            lambda: ops.conv2d_backward(Y, X, KERNEL, y=Y, activation="leaky_relu", alpha=-1),
            ValueError,
            "conv2d_backward: the slope of leaky_relu",
        ),
        (
            lambda: ops.conv2d_algorithm(None, (3, 3, 4, 4)),
            TypeError,
            "conv2d_algorithm: x_shape must be four sizes",
        ),
        (
            lambda: ops.conv2d_algorithm((1, 4, 4, 4), (3, 3)),
            ValueError,
            "conv2d_algorithm: kernel_shape must be four sizes",
        ),
        (lambda: layers.Dense(3, activation=["relu"]), ValueError, "activations: must be None or one of"),
        (
            lambda: model().compile("sgd", "mse", conv_algorithm="x"),
            ValueError,
            "compile: conv_algorithm must be one of",
        ),
        (lambda: ops.dropout_forward(X, 0.5, -1), ValueError, r"dropout_forward: seed must lie in \[0, 2\^64\)"),
        (lambda: ops.dropout_backward(X, 0.5, 2**64), ValueError, r"dropout_backward: seed must lie in \[0, 2\^64\)"),
        (lambda: losses.mean_squared_error([1.0, 2.0], [1.0, 3.0]), ValueError, "mean_squared_error: "),
        (lambda: losses.mean_squared_error([[1.0]], [[1.0, 3.0]]), ValueError, "mean_squared_error: y_true must have"),
        (
            lambda: losses.sparse_categorical_crossentropy(0, [1.0, 3.0], from_logits=True),
            ValueError,
            "sparse_categorical_crossentropy: ",
        ),
        (
            lambda: losses.sparse_categorical_crossentropy([0.7, -0.3], PROBABILITIES),
            ValueError,
            r"sparse_categorical_crossentropy: class numbers must lie in \[0, 3\)",
        ),
        (
            lambda: losses.sparse_categorical_crossentropy([0.7, 0.3], PROBABILITIES),
            TypeError,
            "sparse_categorical_crossentropy: class numbers must be integers",
        ),
        (
            lambda: losses.sparse_categorical_crossentropy([np.nan, 0], PROBABILITIES),
            ValueError,
            "sparse_categorical_crossentropy: class numbers must lie in",
        ),
        (lambda: layers.Dense(3, name="a\0b"), ValueError, "Dense: name must be a string .*no NUL"),
        (lambda: ops.workspace_size(print), TypeError, "workspace_size: takes an operator"),
        (lambda: ops.workspace_size(3), TypeError, "workspace_size: takes an operator"),
        (lambda: fastbn.set_num_threads(2**70), ValueError, "set_num_threads: number must"),
    ],
)
def test_names_the_operator_and_its_rule(call, error, words):
    with pytest.raises(error, match=rf"^{words}.*Received: "):
        call()


def test_outputs_that_overlap_are_called_outputs():
    statistics = np.zeros(2)
    with pytest.raises(ValueError, match=r"batch_norm_forward: out\[2\] must not overlap another output"):
        ops.batch_norm_forward(X, out=(None, statistics, statistics))


def test_indices_outside_the_window_contribute_nothing():
    y, index = ops.max_pool2d_forward(X)
    index[0, 0, 0, 0] = 200
    dx = ops.max_pool2d_backward(np.ones_like(y), index, X.shape)
    assert dx[0, :2, :2, 0].sum() == 0
    assert dx.sum() == y.size - 1


def test_a_negative_variance_gives_nan():
    y = ops.batch_norm_inference(X, None, None, VECTOR, [-1.0, 1.0])
    assert np.isnan(y[..., 0]).all()
    assert np.isfinite(y[..., 1]).all()
