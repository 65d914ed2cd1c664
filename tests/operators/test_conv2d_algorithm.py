"""Each shape that is measured gets the kernel that was made for it; no other one takes its place unnoticed."""

from __future__ import annotations

import re

import pytest

from fastbn import ops

PASSES = ("forward", "backward_data", "backward_filter")
POINTWISE, DEPTHWISE = ("pointwise",) * 3, ("depthwise",) * 3
LARGE_TILES, SMALL_TILES = ("winograd4",) * 3, ("winograd2",) * 3

#: side, fan_in, fan_out, kernel, stride, padding, groups: the kernel of each pass.
RESNET50 = {
    (224, 3, 64, 7, 2, 3, 1): ("direct", "narrow", "direct"),
    (56, 64, 64, 1, 1, 0, 1): POINTWISE,
    (56, 64, 64, 3, 1, 1, 1): LARGE_TILES,
    (56, 64, 256, 1, 1, 0, 1): POINTWISE,
    (56, 256, 64, 1, 1, 0, 1): POINTWISE,
    (56, 256, 128, 1, 2, 0, 1): POINTWISE,
    (56, 256, 512, 1, 2, 0, 1): POINTWISE,
    (28, 128, 128, 3, 1, 1, 1): LARGE_TILES,
    (28, 128, 512, 1, 1, 0, 1): POINTWISE,
    (28, 512, 128, 1, 1, 0, 1): POINTWISE,
    (28, 512, 256, 1, 2, 0, 1): POINTWISE,
    (28, 512, 1024, 1, 2, 0, 1): POINTWISE,
    (14, 256, 256, 3, 1, 1, 1): LARGE_TILES,
    (14, 256, 1024, 1, 1, 0, 1): POINTWISE,
    (14, 1024, 256, 1, 1, 0, 1): POINTWISE,
    (14, 1024, 512, 1, 2, 0, 1): POINTWISE,
    (14, 1024, 2048, 1, 2, 0, 1): POINTWISE,
    (7, 512, 512, 3, 1, 1, 1): LARGE_TILES,
    (7, 512, 2048, 1, 1, 0, 1): POINTWISE,
    (7, 2048, 512, 1, 1, 0, 1): POINTWISE,
}
SEED_NETWORKS = {
    (28, 1, 32, 3, 1, 0, 1): ("direct", "narrow", "direct"),
    (26, 32, 64, 3, 1, 0, 1): LARGE_TILES,
    (28, 1, 4, 3, 1, 0, 1): ("narrow",) * 3,
    (26, 4, 4, 3, 1, 0, 1): ("narrow",) * 3,
}
MOBILENET = {
    (side, channels, channels, 3, stride, 1, channels): DEPTHWISE
    for side, channels, stride in (
        (112, 32, 1), (112, 64, 2), (56, 128, 1), (56, 128, 2), (28, 256, 1), (28, 256, 2), (14, 512, 1), (14, 512, 2),
        (7, 1024, 1),
    )
}  # fmt: skip
SMALL_IMAGES = {(6, 96, 96, 3, 1, 1, 1): SMALL_TILES, (6, 48, 64, 3, 1, 1, 1): SMALL_TILES}
SHAPES = SMALL_IMAGES | RESNET50 | SEED_NETWORKS | MOBILENET


def kernels_of(shape, **options):
    side, fan_in, fan_out, kernel, stride, padding, groups = shape
    return ops.conv2d_algorithm(
        (8, side, side, fan_in),
        (kernel, kernel, fan_in // groups, fan_out),
        strides=stride,
        padding=((padding, padding), (padding, padding)),
        groups=groups,
        **options,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "_".join(map(str, shape)))
def test_shape_gets_its_kernel(shape, isa) -> None:
    if shape[1] == 1 and shape[2] == 4 and isa == "avx2":
        pytest.skip("four filters are half a vector of eight: either kernel")
    if isa not in ("avx512", "avx2") and shape[1:3] in ((1, 4), (4, 4)):
        pytest.skip("four filters fill a vector of four")
    found = kernels_of(shape)
    assert tuple(found[name].name for name in PASSES) == SHAPES[shape]


def test_direct_never_multiplies_less(isa) -> None:
    for shape in SHAPES:
        for name, kernel in kernels_of(shape, algorithm="direct").items():
            assert "winograd" not in kernel.name, (shape, name)


def test_reasons_say_what_was_refused() -> None:
    wide = kernels_of((28, 128, 128, 3, 1, 1, 1))["forward"].reason
    assert "winograd4 takes 0." in wide
    assert "of direct's time" in wide
    assert "direct was asked for" in kernels_of((28, 128, 128, 3, 1, 1, 1), algorithm="direct")["forward"].reason
    assert "not winograd: that is for 3x3, stride 1" in kernels_of((28, 128, 512, 1, 1, 0, 1))["forward"].reason
    assert "too little gained" in kernels_of((5, 16, 16, 3, 1, 0, 1))["forward"].reason
    assert kernels_of((56, 128, 128, 3, 1, 1, 128))["forward"].reason.endswith("; one channel a group")


def test_reasons_name_the_tile(isa) -> None:
    lanes = {"avx512": 16, "avx2": 8}.get(isa, 4)
    rows = {"avx512": 14, "avx2": 6, "neon": 10}.get(isa, 6)
    products = [(28, 128, 128, 3, 1, 1, 1), (28, 128, 512, 1, 1, 0, 1), (30, 64, 96, 5, 2, 2, 1)]
    for shape in products:
        for kernel in kernels_of(shape).values():
            assert kernel.reason.startswith(f"tile {rows}x{2 * lanes}; "), (shape, kernel)
    one_vector = kernels_of((28, 128, lanes, 1, 1, 0, 1))["forward"].reason
    assert re.match(rf"tile \d+x{lanes}; ", one_vector)
    assert kernels_of((30, 8, 64, 2, 2, 0, 1))["forward"].reason.startswith("term by term, ")
    narrow = kernels_of((28, 3, 1, 3, 1, 1, 1))
    assert re.match(r"tile 1x\d+ pixels; ", narrow["forward"].reason)
    assert re.match(r"tile \d+x1 sums along pixels; ", narrow["backward_filter"].reason)
    depthwise = kernels_of((56, 128, 128, 3, 1, 1, 128))
    for kernel in depthwise.values():
        assert re.match(rf"tile \d+x({lanes}|{2 * lanes}); ", kernel.reason)
    assert kernels_of((56, 128, 128, 5, 1, 2, 128))["forward"].reason.startswith("row by row; ")


def test_channels_first_is_the_same_layer() -> None:
    last = ops.conv2d_algorithm((2, 56, 48, 64), (3, 3, 64, 32))
    first = ops.conv2d_algorithm((2, 64, 56, 48), (3, 3, 64, 32), data_format="channels_first")
    assert first == last


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "options", "message"),
    [
        ((8, 8, 3), (3, 3, 3, 4), {}, "conv2d_algorithm: x_shape must be four sizes"),
        ((1, 8, 8, 3), (3, 3, 4, 4), {}, "conv2d_algorithm: kernel.shape"),
        ((1, 8, 8, 3), (9, 9, 3, 4), {}, "conv2d_algorithm: "),
        ((1, 8, 8, 3), (3, 3, 3, 4), {"algorithm": "fft"}, "conv2d_algorithm: algorithm"),
        ((1, 8, 8, 3), (3, 3, 3, 4), {"groups": 0}, "conv2d_algorithm: groups"),
    ],
)
def test_shapes_that_are_none(x_shape, kernel_shape, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        ops.conv2d_algorithm(x_shape, kernel_shape, **options)
