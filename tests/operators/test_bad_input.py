"""Bad input: the right exception, naming operator, rule and what was received, with every output untouched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cases import Data
from harness.arrays import Guarded

from fastbn import ops

DATA = Data("bad input")
X, KERNEL, BIAS = DATA.array(2, 6, 6, 4), DATA.array(3, 3, 4, 8), DATA.array(8)
DY = DATA.array(2, 4, 4, 8)
ROWS, WEIGHTS, DROWS = DATA.array(5, 4), DATA.array(4, 3), DATA.array(5, 3)
VECTOR, MEAN, VARIANCE = DATA.array(4), np.zeros(4), np.ones(4)
LABELS = np.array([0, 1, 2, 0, 1], np.int32)
LOGITS = DATA.array(5, 3)
INDEX = ops.max_pool2d_forward(X)[1]
DPOOL = DATA.array(2, 3, 3, 4)
NAN, INF = float("nan"), float("inf")

Out = tuple[int, ...]
CONV, DENSE = (2, 4, 4, 8), (5, 3)
CONV_BACK, DENSE_BACK = [(2, 6, 6, 4), (3, 3, 4, 8), (8,)], [(5, 4), (4, 3), (3,)]
NORM = [(5, 4), ("d", 4), ("d", 4)]  # "d": float64
NORM_BACK = [(5, 4), (4,), (4,)]
POOL = [(2, 3, 3, 4), ("b", 2, 3, 3, 4)]  # "b": bytes


@dataclass
class Bad:
    """`function(*arguments, **options)` has to raise `error` with `words` in its message."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    words: str = ""
    error: type[Exception] = ValueError
    out: Any = None  # shapes of the outputs that a good call would write


def outputs(shapes: Any) -> list[Guarded]:
    """One guarded array a shape; a leading "d" means float64, "b" bytes."""
    dtypes = {"d": np.float64, "b": np.uint8}
    made = []
    for shape in [shapes] if isinstance(shapes, tuple) else shapes:
        kind, shape = (shape[0], shape[1:]) if isinstance(shape[0], str) else ("f", shape)
        made.append(Guarded(shape, dtypes.get(kind, np.float32)))
    return made


FORWARD, BACKWARD = ops.conv2d_forward, ops.conv2d_backward

CONVOLUTION = [
    Bad("x_rank_3", FORWARD, (X[0], KERNEL), words="rank 4", out=CONV),
    Bad("x_rank_5", FORWARD, (X[None], KERNEL), words="rank 4", out=CONV),
    Bad("kernel_rank", FORWARD, (X, KERNEL[0]), words="rank 4", out=CONV),
    Bad("channels", FORWARD, (X[..., :3], KERNEL), words="channels", out=CONV),
    Bad("bias_length", FORWARD, (X, KERNEL, BIAS[:7]), words="bias", out=CONV),
    Bad("bias_rank", FORWARD, (X, KERNEL, BIAS[None]), words="bias", out=CONV),
    Bad("kernel_above_image", FORWARD, (X[:, :2], KERNEL), words="kernel"),
    Bad("dilated_kernel_above_image", FORWARD, (X, KERNEL), {"dilation": 3}, "kernel"),
    Bad("stride_zero", FORWARD, (X, KERNEL), {"strides": 0}, "stride", out=CONV),
    Bad("stride_negative", FORWARD, (X, KERNEL), {"strides": (1, -1)}, "stride", out=CONV),
    Bad("stride_three_numbers", FORWARD, (X, KERNEL), {"strides": (1, 1, 1)}, "strides", out=CONV),
    Bad("stride_fraction", FORWARD, (X, KERNEL), {"strides": 1.5}, "strides", TypeError, CONV),
    Bad("stride_nan", FORWARD, (X, KERNEL), {"strides": NAN}, "strides", TypeError, CONV),
    Bad("dilation_zero", FORWARD, (X, KERNEL), {"dilation": 0}, "dilation", out=CONV),
    Bad("groups_zero", FORWARD, (X, KERNEL), {"groups": 0}, "groups", out=CONV),
    Bad("groups_negative", FORWARD, (X, KERNEL), {"groups": -2}, "groups", out=CONV),
    Bad("groups_of_filters", FORWARD, (X, KERNEL[:, :, :1, :6]), {"groups": 4}, "groups"),
    Bad("groups_of_channels", FORWARD, (X, KERNEL[:, :, :1]), {"groups": 3}, "groups"),
    Bad("padding_word", FORWARD, (X, KERNEL), {"padding": "full"}, "padding", out=CONV),
    Bad("padding_number", FORWARD, (X, KERNEL), {"padding": 1}, "padding", out=CONV),
    Bad("padding_negative", FORWARD, (X, KERNEL), {"padding": ((-1, 1), (0, 0))}, "pad", out=CONV),
    Bad("no_kernel_rows", FORWARD, (X, KERNEL[:0]), words="kernel"),
    Bad("no_filters", FORWARD, (X, KERNEL[..., :0]), words="channels"),
    Bad("no_channels", FORWARD, (X[..., :0], KERNEL[:, :, :0]), words="channels"),
    Bad("no_height", FORWARD, (X[:, :0], KERNEL), words="height"),
    Bad("activation", FORWARD, (X, KERNEL), {"activation": "selu"}, "activation", out=CONV),
    Bad("softmax", FORWARD, (X, KERNEL), {"activation": "softmax"}, "activation", out=CONV),
    Bad("algorithm", FORWARD, (X, KERNEL), {"algorithm": "fft"}, "algorithm", out=CONV),
    Bad("data_format", FORWARD, (X, KERNEL), {"data_format": "NCHW"}, "data_format", out=CONV),
    Bad("alpha_nan", FORWARD, (X, KERNEL), {"activation": "leaky_relu", "alpha": NAN}, "alpha", out=CONV),
    Bad("x_complex", FORWARD, (X.astype(complex), KERNEL), words="x must", error=TypeError, out=CONV),
    Bad("x_strings", FORWARD, (np.full(X.shape, "a"), KERNEL), words="x must", error=TypeError, out=CONV),
    Bad("x_objects", FORWARD, (X.astype(object), KERNEL), words="x must", error=TypeError, out=CONV),
    Bad("x_none", FORWARD, (None, KERNEL), words="x must", error=TypeError, out=CONV),
    Bad("kernel_complex", FORWARD, (X, KERNEL.astype(complex)), words="kernel must", error=TypeError, out=CONV),
    Bad("bytes_beyond_int64", FORWARD, (X, KERNEL), {"padding": ((2**31 - 1,) * 2,) * 2}, "", MemoryError),
    Bad("padding_beyond_int64", FORWARD, (X, KERNEL), {"padding": ((2**62, 2**62),) * 2}, "pad"),
    Bad("back_dy_shape", BACKWARD, (DY[:, 1:], X, KERNEL), words="dy", out=CONV_BACK),
    Bad("back_dy_rank", BACKWARD, (DY[0], X, KERNEL), words="dy", out=CONV_BACK),
    Bad("back_y_shape", BACKWARD, (DY, X, KERNEL), {"y": DY[:1], "activation": "relu"}, "y must", out=CONV_BACK),
    Bad("back_y_missing", BACKWARD, (DY, X, KERNEL), {"activation": "relu"}, "y is needed", out=CONV_BACK),
    Bad("back_channels", BACKWARD, (DY, X[..., :3], KERNEL), words="channels", out=CONV_BACK),
    Bad("back_need", BACKWARD, (DY, X, KERNEL), {"need": ("x", "gamma")}, "need", out=CONV_BACK),
    Bad("back_stride", BACKWARD, (DY, X, KERNEL), {"strides": 0}, "stride", out=CONV_BACK),
    Bad("back_dy_complex", BACKWARD, (DY + 1j, X, KERNEL), words="dy must", error=TypeError, out=CONV_BACK),
]

forward, backward = ops.dense_forward, ops.dense_backward
DENSES = [
    Bad("x_rank_1", forward, (ROWS[0], WEIGHTS), words="rank 2", out=DENSE),
    Bad("kernel_rank", forward, (ROWS, WEIGHTS[0]), words="rank 2", out=DENSE),
    Bad("features", forward, (ROWS[:, :3], WEIGHTS), words="kernel", out=DENSE),
    Bad("bias", forward, (ROWS, WEIGHTS, BIAS), words="bias", out=DENSE),
    Bad("no_outputs", forward, (ROWS, WEIGHTS[:, :0]), words="features"),
    Bad("no_inputs", forward, (ROWS[:, :0], WEIGHTS[:0]), words="features"),
    Bad("activation", forward, (ROWS, WEIGHTS), {"activation": "Relu"}, "activation", out=DENSE),
    Bad("alpha", forward, (ROWS, WEIGHTS), {"activation": "leaky_relu", "alpha": INF}, "alpha", out=DENSE),
    Bad("x_complex", forward, (ROWS + 1j, WEIGHTS), words="x must", error=TypeError, out=DENSE),
    Bad("x_dates", forward, (ROWS.astype("M8[s]"), WEIGHTS), words="x must", error=TypeError, out=DENSE),
    Bad("back_dy", backward, (DROWS[1:], ROWS, WEIGHTS), words="dy", out=DENSE_BACK),
    Bad("back_y", backward, (DROWS, ROWS, WEIGHTS), {"activation": "tanh"}, "y is needed", out=DENSE_BACK),
    Bad("back_need", backward, (DROWS, ROWS, WEIGHTS), {"need": "x"}, "need", out=DENSE_BACK),
]

norm, infer, norm_back = ops.batch_norm_forward, ops.batch_norm_inference, ops.batch_norm_backward
NORMS = [
    Bad("x_rank_1", norm, (ROWS[0],), words="rank 2", out=NORM),
    Bad("axis", norm, (ROWS,), {"axis": 2}, "axis", out=NORM),
    Bad("axis_fraction", norm, (ROWS,), {"axis": 0.5}, "axis", TypeError, NORM),
    Bad("gamma", norm, (ROWS, BIAS), words="gamma", out=NORM),
    Bad("beta", norm, (ROWS, VECTOR, BIAS), words="beta", out=NORM),
    Bad("residual", norm, (ROWS,), {"residual": ROWS[1:]}, "residual", out=NORM),
    Bad("epsilon_negative", norm, (ROWS,), {"epsilon": -1e-3}, "epsilon", out=NORM),
    Bad("epsilon_nan", norm, (ROWS,), {"epsilon": NAN}, "epsilon", out=NORM),
    Bad("epsilon_infinite", norm, (ROWS,), {"epsilon": INF}, "epsilon", out=NORM),
    Bad("activation", norm, (ROWS,), {"activation": "softmax"}, "activation", out=NORM),
    Bad("no_rows", norm, (ROWS[:0],), words="row"),
    Bad("no_channels", norm, (ROWS[:, :0],), words="channel"),
    Bad("complex", norm, (ROWS + 1j,), words="x must", error=TypeError, out=NORM),
    Bad("infer_mean", infer, (ROWS, VECTOR, VECTOR, MEAN[:3], VARIANCE), words="mean", out=(5, 4)),
    Bad("infer_variance_rank", infer, (ROWS, VECTOR, VECTOR, MEAN, VARIANCE[None]), words="variance", out=(5, 4)),
    Bad("infer_epsilon", infer, (ROWS, None, None, MEAN, VARIANCE), {"epsilon": -1.0}, "epsilon", out=(5, 4)),
    Bad("back_dy", norm_back, (ROWS[1:], ROWS, VECTOR, MEAN, VARIANCE), words="dy", out=NORM_BACK),
    Bad("back_mean", norm_back, (ROWS, ROWS, VECTOR, MEAN[1:], VARIANCE), words="mean", out=NORM_BACK),
    Bad("back_y", norm_back, (ROWS, ROWS, VECTOR, MEAN, VARIANCE), {"activation": "relu", "residual": True}, "y"),
    Bad("merge_shapes", ops.batch_norm_merge, ([2, 3], np.zeros((2, 4)), np.zeros((3, 4))), words="m2s"),
    Bad("merge_counts", ops.batch_norm_merge, ([2], np.zeros((2, 4)), np.zeros((2, 4))), words="counts"),
    Bad("merge_negative", ops.batch_norm_merge, ([2, -1], np.zeros((2, 4)), np.zeros((2, 4))), words="count"),
    Bad("partial_total", ops.batch_norm_partial, (LOGITS,), {"total_rows": 1}, words="total_rows"),
    Bad("chunk_rows", ops.batch_norm_chunk_rows, (-1, 4), words="total_rows"),
    Bad("chunk_channels", ops.batch_norm_chunk_rows, (4, 0), words="channels"),
    Bad("merge_sums", ops.batch_norm_backward_merge, (np.zeros((2, 4)), np.zeros((3, 4))), words="sums_dy_xc"),
    Bad("merge_no_sums", ops.batch_norm_backward_merge, (np.zeros((0, 4)), np.zeros((0, 4))), words="sums_dy"),
    Bad("merge_nothing", ops.batch_norm_merge, ([0, 0], np.zeros((2, 4)), np.zeros((2, 4))), words="count"),
]

most, most_back, mean, mean_back = (
    ops.max_pool2d_forward,
    ops.max_pool2d_backward,
    ops.avg_pool2d_forward,
    ops.avg_pool2d_backward,
)
POOLS = [
    Bad("x_rank", most, (X[0],), words="rank 4", out=POOL),
    Bad("pool_zero", most, (X, 0), words="pool", out=POOL),
    Bad("pool_above_image", most, (X, 7), words="pool", out=POOL),
    Bad("stride_zero", most, (X, 2, 0), words="stride", out=POOL),
    Bad("stride_negative", mean, (X, 2, (2, -2)), words="stride", out=(2, 3, 3, 4)),
    Bad("pool_fraction", most, (X, 2.0), words="pool_size", error=TypeError, out=POOL),
    Bad("padding_word", most, (X, 2, 2, "reflect"), words="padding", out=POOL),
    Bad("padding_negative", mean, (X, 2, 2, ((0, 0), (0, -1))), words="pad", out=(2, 3, 3, 4)),
    Bad("window_in_padding", most, (X, 2, 2, ((2, 0), (0, 0))), words="pad", out=POOL),
    Bad("no_channels", most, (X[..., :0],), words="channels"),
    Bad("x_complex", mean, (X + 1j,), words="x must", error=TypeError, out=(2, 3, 3, 4)),
    Bad("back_dy", most_back, (DPOOL[1:], INDEX, X.shape), words="dy", out=X.shape),
    Bad("back_index_shape", most_back, (DPOOL, INDEX[1:], X.shape), words="index", out=X.shape),
    Bad(
        "back_index_dtype",
        most_back,
        (DPOOL, INDEX.astype(np.int64), X.shape),
        words="index",
        error=TypeError,
        out=X.shape,
    ),
    Bad("back_x_shape", most_back, (DPOOL, INDEX, (2, 6, 6)), words="x_shape", out=X.shape),
    Bad("mean_back_dy", mean_back, (DPOOL[..., 1:], X.shape), words="dy", out=X.shape),
    Bad("mean_back_x_shape", mean_back, (DPOOL, (2, 6, -6, 4)), words="x_shape", out=X.shape),
    Bad("global_rank", ops.global_avg_pool2d_forward, (ROWS,), words="rank 4", out=(5, 4)),
    Bad("global_no_pixels", ops.global_avg_pool2d_forward, (X[:, :0],), words="pixel"),
    Bad("global_back", ops.global_avg_pool2d_backward, (ROWS, (5, 2, 2, 3)), words="dy", out=(5, 2, 2, 3)),
]

softmax, softmax_back = ops.softmax_cross_entropy_forward, ops.softmax_cross_entropy_backward
LOSS_OUT = [(5,), (5, 3)]
POINTWISE = [
    Bad("activation", ops.activation_forward, (ROWS, "elu"), words="activation", out=(5, 4)),
    Bad("activation_dtype", ops.activation_forward, (ROWS + 1j, "relu"), words="x must", error=TypeError, out=(5, 4)),
    Bad("activation_alpha", ops.activation_forward, (ROWS, "leaky_relu"), {"alpha": NAN}, "alpha", out=(5, 4)),
    Bad("activation_back", ops.activation_backward, (ROWS, ROWS[1:], "relu"), words="y must", out=(5, 4)),
    Bad("softmax_no_columns", ops.activation_forward, (ROWS[:, :0], "softmax"), words="softmax"),
    Bad("rate_negative", ops.dropout_forward, (ROWS, -0.1, 1), words="rate", out=(5, 4)),
    Bad("rate_above_one", ops.dropout_forward, (ROWS, 1.1, 1), words="rate", out=(5, 4)),
    Bad("rate_nan", ops.dropout_backward, (ROWS, NAN, 1), words="rate", out=(5, 4)),
    Bad("seed_negative", ops.dropout_forward, (ROWS, 0.5, -1), words="seed", out=(5, 4)),
    Bad("seed_fraction", ops.dropout_forward, (ROWS, 0.5, 0.5), words="seed", error=TypeError, out=(5, 4)),
    Bad("label_above", softmax, (LOGITS, LABELS + 1), words="[0, 3)", out=LOSS_OUT),
    Bad("label_below", softmax, (LOGITS, LABELS - 1), words="[0, 3)", out=LOSS_OUT),
    Bad("label_far", softmax, (LOGITS, LABELS.astype(np.int64) + 2**32), words="[0, 3)", out=LOSS_OUT),
    Bad("label_fraction", softmax, (LOGITS, LABELS + 0.5), words="integers", error=TypeError, out=LOSS_OUT),
    Bad("labels_shape", softmax, (LOGITS, LABELS[1:]), words="labels", out=LOSS_OUT),
    Bad("labels_classes", softmax, (LOGITS, LOGITS[:, :2]), words="labels", out=LOSS_OUT),
    Bad("labels_complex", softmax, (LOGITS, LABELS + 1j), words="labels must", error=TypeError, out=LOSS_OUT),
    Bad("logits_rank", softmax, (LOGITS[0], LABELS[:1]), words="logits", out=LOSS_OUT),
    Bad("back_label", softmax_back, (LOGITS, LABELS + 3), words="[0, 3)", out=(5, 3)),
    Bad("back_scale", softmax_back, (LOGITS, LABELS), {"scale": NAN}, "scale", out=(5, 3)),
    Bad("squared_targets", ops.mean_squared_error_forward, (LOGITS, LOGITS[:, 1:]), words="targets", out=(5,)),
    Bad("squared_back", ops.mean_squared_error_backward, (LOGITS, LOGITS[1:]), words="targets", out=(5, 3)),
    Bad("squared_dtype", ops.mean_squared_error_forward, (LOGITS, LOGITS + 1j), words="targets must", error=TypeError),
]

ALL = [*CONVOLUTION, *DENSES, *NORMS, *POOLS, *POINTWISE]


@pytest.mark.parametrize("bad", ALL, ids=lambda b: f"{b.function.__name__}-{b.name}")
def test_bad_input(bad):
    guarded = [] if bad.out is None else outputs(bad.out)
    options = dict(bad.options)
    if guarded:
        options["out"] = tuple(g.array for g in guarded) if isinstance(bad.out, list) else guarded[0].array
    with pytest.raises(bad.error) as caught:
        bad.function(*bad.arguments, **options)
    message = str(caught.value)
    assert type(caught.value) is bad.error
    operator = bad.function.__name__.removesuffix("_forward").removesuffix("_backward")
    assert message.startswith((operator, operator.partition("_")[2])), message  # max_pool2d or pool2d
    rule, _, received = message.partition("Received:")
    assert bad.words in message, message
    assert len(rule) > len(bad.function.__name__) + 8, message
    assert received.strip(), message
    for box in guarded:
        box.check_untouched()


@dataclass
class Call:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


GOOD = [
    Call(FORWARD, (X, KERNEL)),
    Call(BACKWARD, (DY, X, KERNEL)),
    Call(forward, (ROWS, WEIGHTS)),
    Call(backward, (DROWS, ROWS, WEIGHTS)),
    Call(norm, (ROWS, VECTOR, VECTOR)),
    Call(infer, (ROWS, VECTOR, VECTOR, MEAN, VARIANCE)),
    Call(norm_back, (ROWS, ROWS, VECTOR, MEAN, VARIANCE)),
    Call(most, (X,)),
    Call(most_back, (DPOOL, INDEX, X.shape)),
    Call(mean, (X,)),
    Call(mean_back, (DPOOL, X.shape)),
    Call(ops.global_avg_pool2d_forward, (X,)),
    Call(ops.global_avg_pool2d_backward, (X[:, 0, 0].copy(), X.shape)),
    Call(ops.activation_forward, (ROWS, "relu")),
    Call(ops.activation_backward, (ROWS, ROWS.copy(), "softmax")),
    Call(ops.dropout_forward, (ROWS, 0.5, 1)),
    Call(ops.dropout_backward, (ROWS, 0.5, 1)),
    Call(softmax, (LOGITS, LABELS)),
    Call(softmax_back, (LOGITS, LABELS)),
    Call(ops.mean_squared_error_forward, (LOGITS, LOGITS.copy())),
    Call(ops.mean_squared_error_backward, (LOGITS, LOGITS.copy())),
]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def gappy(a):
    return np.repeat(a, 2, axis=-1)[..., ::2]


WRONG_OUT = {
    "read_only": read_only,
    "not_contiguous": gappy,
    "short": lambda a: np.zeros((a.shape[0] + 1, *a.shape[1:]), a.dtype),
    "flat": lambda a: a.reshape(-1)[None, :, None],
    "dtype": lambda a: a.astype(np.float16),
    "list": lambda a: a.tolist(),
}


@pytest.mark.parametrize("wrong", WRONG_OUT)
@pytest.mark.parametrize("call", GOOD, ids=lambda c: c.function.__name__)
def test_bad_out(call, wrong):
    """Each output in turn is one that cannot be written; neither it nor the others are."""
    result = call.function(*call.arguments, **call.options)
    results = result if isinstance(result, tuple) else (result,)
    for i, good in enumerate(results):
        if wrong == "not_contiguous" and gappy(good).flags.c_contiguous:
            continue
        outs = [np.full_like(r, 7) for r in results]
        outs[i] = WRONG_OUT[wrong](np.full_like(good, 7))
        out = tuple(outs) if isinstance(result, tuple) else outs[0]
        with pytest.raises((ValueError, TypeError), match=rf"{call.function.__name__}: .*out.*Received: "):
            call.function(*call.arguments, out=out, **call.options)
        for o in outs:
            assert (np.asarray(o) == 7).all() or wrong == "short"


@pytest.mark.parametrize("call", GOOD, ids=lambda c: c.function.__name__)
def test_overlapping_out(call):
    """An output that begins four bytes into an input, or into another output."""
    result = call.function(*call.arguments, **call.options)
    results = result if isinstance(result, tuple) else (result,)
    for i, good in enumerate(results):
        if good.dtype != np.float32:
            continue
        memory = np.zeros(
            max(good.size, *(a.size for a in call.arguments if isinstance(a, np.ndarray))) + 1, np.float32
        )
        arguments = list(call.arguments)
        arguments[0] = memory[: arguments[0].size].reshape(arguments[0].shape)
        arguments[0][...] = call.arguments[0]
        outs = [np.empty_like(r) for r in results]
        outs[i] = memory[1 : 1 + good.size].reshape(good.shape)
        before = memory.copy()
        with pytest.raises(ValueError, match=rf"{call.function.__name__}: .*overlap.*Received: "):
            call.function(*arguments, out=tuple(outs) if isinstance(result, tuple) else outs[0], **call.options)
        assert memory.tobytes() == before.tobytes()


def test_outputs_that_overlap_each_other():
    memory = np.zeros(2000, np.float32)
    dx, dkernel = memory[: X.size].reshape(X.shape), memory[10 : 10 + KERNEL.size].reshape(KERNEL.shape)
    with pytest.raises(ValueError, match=r"conv2d_backward: .*overlap.*Received: "):
        ops.conv2d_backward(DY, X, KERNEL, out=(dx, dkernel, None))
    assert not memory.any()


OPTIMIZERS = [
    (ops.sgd_update, 1),
    (ops.rmsprop_update, 1),
    (ops.adam_update, 2),
]
HYPER = [
    (ops.sgd_update, "momentum", [NAN, -0.1, 1.1, INF]),
    (ops.rmsprop_update, "rho", [NAN, -0.1, 1.1]),
    (ops.rmsprop_update, "epsilon", [NAN, -1e-7]),
    (ops.rmsprop_update, "momentum", [NAN, -0.1]),
    (ops.adam_update, "beta_1", [NAN, -0.1, 1.0]),
    (ops.adam_update, "beta_2", [NAN, -0.1, 1.0]),
    (ops.adam_update, "epsilon", [NAN, -1e-7]),
    *[(f, "learning_rate", [NAN, -0.1, INF]) for f, _ in OPTIMIZERS],
    *[(f, "weight_decay", [NAN, -0.1]) for f, _ in OPTIMIZERS],
]


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [(f, name, value) for f, name, values in HYPER for value in values],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_bad_hyper_parameters(function, name, value):
    slots = [np.full(5, 7, np.float32) for _ in range(dict(OPTIMIZERS)[function] + (function is ops.rmsprop_update))]
    w, g = np.full(5, 7, np.float32), np.ones(5, np.float32)
    with pytest.raises(ValueError, match=rf"(?s){function.__name__}: .*{name}.*Received: "):
        function(w, g, *slots, **{name: value})
    for array in (w, *slots):
        assert (array == 7).all()


@pytest.mark.parametrize(("function", "count"), OPTIMIZERS, ids=lambda v: getattr(v, "__name__", ""))
def test_bad_updates(function, count):
    w, g, slots = np.full(5, 7, np.float32), np.ones(5, np.float32), [np.full(5, 7, np.float32) for _ in range(count)]
    options = {"momentum": 0.5} if function is ops.sgd_update else {}
    wrong = [
        ((w, g[1:], *slots), ValueError),
        ((w, g, *slots[:-1], slots[-1][1:]), ValueError),
        ((w, g, *slots[:-1], w), ValueError),
        ((read_only(w), g, *slots), ValueError),
        ((w.astype(np.float64), g, *slots), (ValueError, TypeError)),
        ((w.tolist(), g, *slots), TypeError),
        ((w, g * 1j, *slots), TypeError),
        ((w, w[:], *slots), ValueError),
        ((w, g, *slots[:-1], None), ValueError),
    ]
    for arguments, error in wrong:
        with pytest.raises(error, match=rf"{function.__name__}: .*Received: "):
            function(*arguments, **options)
        for array in (w, *slots):
            assert (array == 7).all()


def test_iteration():
    arrays = [np.full(5, 7, np.float32) for _ in range(4)]
    for iteration, error in ((-1, ValueError), (0.5, TypeError)):
        with pytest.raises(error, match=r"adam_update: .*iteration.*Received: "):
            ops.adam_update(*arrays, iteration=iteration)
        assert all((a == 7).all() for a in arrays)


@pytest.mark.parametrize(
    "wrong",
    [
        True,
        1.0,
        (1.0, 1.0),
        (True, True),
        [1, 1.0],
        np.float32(1),
        np.ones(2),
        b"11",
        {1, 2},
        {1: 1, 2: 1},
        iter((1, 1)),
    ],
)
def test_options_that_equal_ones_taken_before_are_refused_all_the_same(wrong):
    x, kernel = np.ones((1, 4, 4, 1), np.float32), np.ones((2, 2, 1, 1), np.float32)
    for right in (1, (1, 1)):
        ops.conv2d_forward(x, kernel, strides=right)
        ops.max_pool2d_forward(x, 2, right)
        with pytest.raises(TypeError, match="strides must be an integer"):
            ops.conv2d_forward(x, kernel, strides=wrong)
        with pytest.raises(TypeError, match="strides must be an integer"):
            ops.max_pool2d_forward(x, 2, wrong)


@pytest.mark.parametrize("two", [2, np.int64(2), np.array(2), (2, 2), [2, np.int32(2)], np.array([2, 2])], ids=repr)
def test_an_option_for_both_axes_may_be_any_integer_or_two(two):
    x, kernel = np.ones((1, 5, 5, 1), np.float32), np.ones((2, 2, 1, 1), np.float32)
    assert ops.conv2d_forward(x, kernel, strides=two, dilation=1).shape == (1, 2, 2, 1)
    assert ops.max_pool2d_forward(x, two, two)[0].shape == (1, 2, 2, 1)
