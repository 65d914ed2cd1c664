"""Each layer gets the kernel that was made for its shape; no other one takes its place unnoticed."""

from __future__ import annotations

import pytest

import fastbn
from fastbn import layers

NARROW, DIRECT = "narrow", "direct"

# side, fan_in, fan_out, kernel, stride, padding, groups: forward, backward_data, backward_filter
SHAPES = {
    (28, 1, 32, 3, 1, "valid", 1): (DIRECT, NARROW, DIRECT),
    (28, 1, 4, 3, 1, "valid", 1): (NARROW, NARROW, NARROW),
    (26, 4, 4, 3, 1, "valid", 1): (NARROW, NARROW, NARROW),
    (224, 3, 64, 7, 2, "same", 1): (DIRECT, NARROW, DIRECT),
    (32, 3, 16, 3, 1, "same", 1): (DIRECT, NARROW, DIRECT),
    (32, 3, 64, 3, 1, "same", 1): (DIRECT, NARROW, DIRECT),
    (24, 32, 1, 3, 1, "same", 1): (NARROW, DIRECT, NARROW),
    (56, 128, 128, 3, 1, "same", 128): ("depthwise",) * 3,
    (56, 128, 128, 3, 2, "same", 128): ("depthwise",) * 3,
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "_".join(map(str, s)))
def test_shape_gets_its_kernel(shape, isa):
    if isa not in ("avx512", "avx2"):
        pytest.skip("with vectors of 4 few channels are not narrow")
    side, fan_in, fan_out, kernel, stride, padding, groups = shape
    layer = layers.Conv2D(fan_out, kernel, strides=stride, padding=padding, groups=groups, name="measured")
    # The convolution in front makes the gradient of the input needed.
    model = fastbn.Sequential(
        [layers.Input((side, side, fan_in)), layers.Conv2D(fan_in, 1), layer, layers.GlobalAveragePooling2D()]
    )
    model.compile("sgd", "mse", conv_algorithm="direct")
    (row,) = (row for row in model.costs(2, steps=0) if row.layer == "measured")
    notes = {o.name: o.note for o in row.operations}
    assert (notes["forward"], notes["backward_data"], notes["backward_filter"]) == SHAPES[shape]
