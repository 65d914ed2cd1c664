"""conv2d against its oracle, on every instruction set and thread count."""

from __future__ import annotations

import functools

import numpy as np
import oracles
import pytest
from cases import UNIT, Data, tolerance
from cases.conv2d import CASES, ConvCase
from harness.arrays import VIEWS, Guarded
from harness.compare import assert_same, assert_within
from harness.library import same_on_all_threads
from harness.tiers import tiered

from fastbn import ops

BY_NAME = {case.name: case for case in CASES}


@functools.lru_cache(maxsize=4)
def expected(case: ConvCase, integers: bool = False):
    """Inputs, the oracle's results, and the sums of magnitudes that rounding is relative to."""
    x, kernel, bias, dy = case.inputs(integers=integers)
    activation = None if integers else case.activation
    exact_y = oracles.conv2d_forward(x, kernel, bias, activation=activation, **case.options)
    y = exact_y.astype(np.float32) if activation else None
    gradients = oracles.conv2d_backward(dy, x, kernel, y=y, activation=activation, **case.options)
    size = [None if a is None else np.abs(a) for a in (x, kernel, bias, dy)]
    y_size = oracles.conv2d_forward(*size[:3], **case.options)
    gradient_sizes = oracles.conv2d_backward(size[3], size[0], size[1], **case.options)
    return (x, kernel, bias, dy, y), exact_y, y_size, gradients, gradient_sizes


def bound(length: int, size: np.ndarray, algorithm: str) -> np.ndarray | float:
    if algorithm == "direct":
        return tolerance(length) * size
    return 4 * tolerance(length) * float(size.max(initial=0.0))


@pytest.mark.parametrize("algorithm", ["direct", "auto"])
@pytest.mark.parametrize("case", tiered(CASES))
def test_forward(case, algorithm, isa):
    (x, kernel, bias, _, _), y, y_size, _, _ = expected(case)
    options = {**case.options, "activation": case.activation, "algorithm": algorithm}
    (found,) = same_on_all_threads(lambda: ops.conv2d_forward(x, kernel, bias, **options))
    assert found.dtype == np.float32
    assert_within(found, y, bound(case.forward_length, y_size, algorithm) + 8 * UNIT * np.abs(y), "y")


@pytest.mark.parametrize("algorithm", ["direct", "auto"])
@pytest.mark.parametrize("case", tiered(CASES))
def test_backward(case, algorithm, isa):
    (x, kernel, _, dy, y), _, _, gradients, sizes = expected(case)
    options = {**case.options, "activation": case.activation, "algorithm": algorithm}
    found = same_on_all_threads(lambda: ops.conv2d_backward(dy, x, kernel, y=y, **options))
    lengths = case.data_length, case.filter_length, case.filter_length
    for name, a, e, length, size in zip(("dx", "dkernel", "dbias"), found, gradients, lengths, sizes, strict=True):
        assert a.dtype == np.float32
        assert_within(a, e, bound(length, size, algorithm if name != "dbias" else "direct"), name)


@pytest.mark.parametrize("case", tiered(CASES))
def test_whole_numbers_are_exact(case, isa):
    (x, kernel, bias, dy, _), y, _, gradients, sizes = expected(case, integers=True)
    assert max(float(s.max(initial=0.0)) for s in sizes) < 2**24
    options = {**case.options, "algorithm": "direct"}
    (found,) = same_on_all_threads(lambda: ops.conv2d_forward(x, kernel, bias, **options))
    assert_same(found, y, "y")
    found = same_on_all_threads(lambda: ops.conv2d_backward(dy, x, kernel, **options))
    for name, a, e in zip(("dx", "dkernel", "dbias"), found, gradients, strict=True):
        assert_same(a, e, name)


# Whatever the width, strips and windows of columns cover each output once, and no padding takes part.
@pytest.mark.parametrize("pads", [(0, 0), (1, 1), (0, 1), (2, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_of_any_width(stride, pads, isa):
    for width in range(1, 19):
        if width + sum(pads) < 3:
            continue
        height = 3 + width % 7
        padding = ((pads[1], pads[0]), pads)
        case = ConvCase(f"width_{width}", (1, height, width, 19), 19, strides=(stride,) * 2, padding=padding, groups=19)
        (x, kernel, bias, dy, _), y, _, gradients, _ = expected(case, integers=True)
        assert_same(ops.conv2d_forward(x, kernel, bias, **case.options), y, f"y of width {width}")
        found = ops.conv2d_backward(dy, x, kernel, **case.options)
        for name, a, e in zip(("dx", "dkernel", "dbias"), found, gradients, strict=True):
            assert_same(a, e, f"{name} of width {width}")


SOME = ["channels_17_31", "one_channel_28", "few_channels", "groups_2", "depthwise", "stride_2_same_odd", "pointwise"]


@pytest.mark.parametrize("offset", [0, 4])
@pytest.mark.parametrize(
    "name",
    [
        *SOME,
        "empty_batch",
        "few_terms_23",
        "narrow_5_1",
        "narrow_dilated",
        "narrow_in_place",
        "narrow_pointwise",
        "primes",
        "dilation_stride",
        "kernel_above_image",
        "stride_apart",
    ],
)
def test_writes_all_of_out_and_nothing_else(name, offset, isa):
    case = BY_NAME[name]
    x, kernel, bias, dy = case.inputs()
    options = {**case.options, "activation": case.activation}
    y = ops.conv2d_forward(x, kernel, bias, **options)
    out = Guarded(y.shape, offset=offset)
    assert ops.conv2d_forward(x, kernel, bias, out=out.array, **options) is out.array
    assert_same(out.check(), y)
    gradients = ops.conv2d_backward(dy, x, kernel, y=y, **options)
    outs = [Guarded(g.shape, offset=offset) for g in gradients]
    ops.conv2d_backward(dy, x, kernel, y=y, out=tuple(o.array for o in outs), **options)
    for o, g in zip(outs, gradients, strict=True):
        assert_same(o.check(), g)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", SOME)
def test_any_layout_of_inputs(name, view):
    case = BY_NAME[name]
    x, kernel, bias, dy = case.inputs()
    options = {**case.options, "activation": case.activation}
    y = ops.conv2d_forward(x, kernel, bias, **options)
    change = VIEWS[view]
    assert_same(ops.conv2d_forward(change(x), change(kernel), change(bias), **options), y)
    found = ops.conv2d_backward(change(dy), change(x), change(kernel), y=change(y), **options)
    for a, e in zip(found, ops.conv2d_backward(dy, x, kernel, y=y, **options), strict=True):
        assert_same(a, e)


@pytest.mark.parametrize("name", SOME)
def test_needed_gradients_alone_are_the_same(name):
    case = BY_NAME[name]
    x, kernel, _, dy = case.inputs()
    every = dict(zip(("x", "kernel", "bias"), ops.conv2d_backward(dy, x, kernel, **case.options), strict=True))
    for need in (("x",), ("kernel",), ("bias",), ("x", "bias")):
        found = dict(
            zip(("x", "kernel", "bias"), ops.conv2d_backward(dy, x, kernel, need=need, **case.options), strict=True)
        )
        for key, gradient in found.items():
            if key in need:
                assert_same(gradient, every[key], key)
            else:
                assert gradient is None


@pytest.mark.parametrize("name", ["channels_17_31", "groups_2", "primes", "stride_2_same_odd", "one_channel_28"])
def test_channels_first(name):
    case = BY_NAME[name]
    x, kernel, bias, dy = case.inputs()
    options = {**case.options, "activation": case.activation}
    y = ops.conv2d_forward(x, kernel, bias, **options)
    gradients = ops.conv2d_backward(dy, x, kernel, y=y, **options)
    options["data_format"] = "channels_first"

    def first(a):
        return a.transpose(0, 3, 1, 2)

    assert_same(ops.conv2d_forward(first(x), kernel, bias, **options), first(y))
    found = ops.conv2d_backward(first(dy), first(x), kernel, y=first(y), **options)
    for a, e in zip(found, (first(gradients[0]), *gradients[1:]), strict=True):
        assert_same(a, e)


@pytest.mark.parametrize(
    "name",
    [
        "wide_32_64",
        "few_channels",
        "few_terms_61",
        "narrow_3_2",
        "narrow_17_5",
        "narrow_groups",
        "narrow_in_place",
        "cnn_conv_1",
        "same_64",
    ],
)
def test_a_sample_does_not_depend_on_its_batch(name, isa):
    case = BY_NAME[name]
    x, kernel, bias, dy = case.inputs()
    y = ops.conv2d_forward(x, kernel, bias, **case.options)
    dx = ops.conv2d_backward(dy, x, kernel, need=("x",), **case.options)[0]
    for i in range(len(x)):
        assert_same(ops.conv2d_forward(x[i : i + 1], kernel, bias, **case.options)[0], y[i])
        assert_same(ops.conv2d_backward(dy[i : i + 1], x[i : i + 1], kernel, need=("x",), **case.options)[0][0], dx[i])


NAN_CASES = [
    "channels_17_31",
    "one_channel_no_bias",
    "few_channels",
    "narrow_in_place",
    "narrow_7_3_to_crop",
    "groups_2",
    "depthwise",
    "pointwise",
    "dilation",
]


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("name", [*NAN_CASES, "wide_32_64", "stride_apart", "channels_15_16"])
def test_nan_and_infinity_reach_what_they_should(name, special, isa):
    case = BY_NAME[name]
    x, kernel, bias, dy = (None if a is None else a.copy() for a in case.inputs())
    x[0, x.shape[1] // 2, x.shape[2] // 2, -1] = special
    y = ops.conv2d_forward(x, kernel, bias, algorithm="direct", **case.options)
    with np.errstate(invalid="ignore"):
        exact = oracles.conv2d_forward(x, kernel, bias, **case.options)
    assert_same(np.isfinite(y), np.isfinite(exact))
    assert_same(np.isnan(y), np.isnan(exact))
    auto = ops.conv2d_forward(x, kernel, bias, **case.options)
    assert np.isfinite(auto[1:]).all()
    clean = np.isfinite(exact).all(axis=(0, 1, 2))  # output channels that the value does not reach
    assert np.isfinite(auto[..., clean]).all()
    dkernel = ops.conv2d_backward(dy, x, kernel, need=("kernel",), algorithm="direct", **case.options)[1]
    if case.padding == "valid":  # elsewhere 0 * NaN of the padding may or may not be added
        with np.errstate(invalid="ignore"):
            exact = oracles.conv2d_backward(dy, x, kernel, **case.options)[1]
        assert_same(np.isfinite(dkernel), np.isfinite(exact))


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("filters", [1, 2, 4, 7, 16])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_nan_beside_the_outputs_of_a_tap_does_not_reach_it(filters, strides, dilation, special, isa):
    r = np.random.default_rng(0)
    x = r.normal(size=(3, 12, 19, 2)).astype(np.float32)
    x[1, 3, -1, 0] = x[1, -1, 0, 1] = special
    kernel = r.normal(size=(3, 3, 2, filters)).astype(np.float32)
    options = {"strides": strides, "dilation": dilation}
    dy = r.normal(size=oracles.conv2d_forward(x, kernel, **options).shape).astype(np.float32)
    dkernel = ops.conv2d_backward(dy, x, kernel, need=("kernel",), algorithm="direct", **options)[1]
    with np.errstate(invalid="ignore"):
        exact = oracles.conv2d_backward(dy, x, kernel, **options)[1]
    finite = np.isfinite(exact)
    assert not finite.all()
    assert_same(np.isfinite(dkernel), finite)
    np.testing.assert_allclose(dkernel[finite], exact[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAN_CASES)
def test_nan_of_one_filter_stays_there(name, isa):
    case = BY_NAME[name]
    x, kernel, bias, dy = (None if a is None else a.copy() for a in case.inputs())
    filters = case.filters
    bad = filters - 1
    kernel[..., bad] = np.nan
    y = ops.conv2d_forward(x, kernel, bias, **case.options)
    assert np.isnan(y[..., bad]).all()
    assert np.isfinite(y[..., :bad]).all()
    dy[..., bad] = np.nan
    _, dkernel, dbias = ops.conv2d_backward(dy, x, kernel, **case.options)
    assert np.isnan(dkernel[..., bad]).any()
    assert np.isnan(dbias[bad])
    assert np.isfinite(dkernel[..., :bad]).all()
    assert np.isfinite(dbias[:bad]).all()


def test_relu_keeps_nan():
    x = np.full((1, 3, 3, 1), np.nan, np.float32)
    kernel = np.ones((3, 3, 1, 2), np.float32)
    assert np.isnan(ops.conv2d_forward(x, kernel, activation="relu")).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8, bool])
def test_other_dtypes_are_converted(dtype):
    data = Data("dtypes", integers=True)
    x, kernel = np.abs(data.array(2, 5, 5, 3)).astype(dtype), np.abs(data.array(3, 3, 3, 4)).astype(dtype)
    y = ops.conv2d_forward(x, kernel)
    assert y.dtype == np.float32
    assert_same(y, oracles.conv2d_forward(x, kernel))


def test_scalar_and_pair_options_agree():
    data = Data("pairs")
    x, kernel = data.array(2, 9, 9, 3), data.array(3, 3, 3, 4)
    assert_same(
        ops.conv2d_forward(x, kernel, strides=2, dilation=1),
        ops.conv2d_forward(x, kernel, strides=(2, 2), dilation=(1, 1)),
    )
    assert_same(ops.conv2d_forward(x, kernel, dilation=2), ops.conv2d_forward(x, kernel, dilation=(2, 2)))


def test_an_empty_batch_of_huge_images_costs_nothing(isa):
    x = np.empty((0, 2**20, 2**31 - 1, 1), np.float32)
    kernel = np.ones((2, 2, 1, 3), np.float32)
    strides = (2**20, 2**31 - 1)
    y = ops.conv2d_forward(x, kernel, strides=strides, padding="same")
    assert y.shape == (0, 1, 1, 3)
    dx, dkernel, dbias = ops.conv2d_backward(y, x, kernel, strides=strides, padding="same")
    assert dx.shape == x.shape
    assert not dkernel.any()
    assert dkernel.shape == kernel.shape
    assert not dbias.any()
