"""Convolution shapes: awkward ones for the tests, the networks' and ResNet-50's for the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import oracles

from cases import Data, Float32


@dataclass(frozen=True)
class ConvCase:
    name: str
    x: tuple[int, int, int, int]  # batch, height, width, channels
    filters: int
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str | tuple[tuple[int, int], tuple[int, int]] = "valid"
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: str | None = None
    use_bias: bool = True
    tier: str = "smoke"

    def __str__(self) -> str:
        return self.name

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        return (*self.kernel, self.x[3] // self.groups, self.filters)

    @property
    def out_size(self) -> tuple[int, int]:
        return oracles.output_size(self.x[1:3], self.kernel, self.strides, self.dilation, self.padding)

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        return (self.x[0], *self.out_size, self.filters)

    @property
    def multiply_adds(self) -> int:
        """Of the forward pass, padding counted as if it were image."""
        n, height, width, filters = self.out_shape
        return n * height * width * filters * self.kernel[0] * self.kernel[1] * (self.x[3] // self.groups)

    @property
    def options(self) -> dict[str, Any]:
        return {"strides": self.strides, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    # Terms of one sum of each pass.
    @property
    def forward_length(self) -> int:
        return self.kernel[0] * self.kernel[1] * (self.x[3] // self.groups) + 1

    @property
    def data_length(self) -> int:
        return self.kernel[0] * self.kernel[1] * (self.filters // self.groups)

    @property
    def filter_length(self) -> int:
        return self.x[0] * self.out_size[0] * self.out_size[1]

    def inputs(self, seed: int = 0, integers: bool = False) -> tuple[Float32, Float32, Float32 | None, Float32]:
        """x, kernel, bias (None without), dy."""
        data = Data(self.name, seed, integers)
        x, kernel, dy = data.array(*self.x), data.array(*self.kernel_shape), data.array(*self.out_shape)
        return x, kernel, data.array(self.filters) if self.use_bias else None, dy


CASES = [
    ConvCase("ones", (1, 1, 1, 1), 1, (1, 1)),
    ConvCase("one_pixel", (3, 1, 1, 5), 7, (1, 1)),
    ConvCase("one_output", (2, 3, 3, 4), 5),
    ConvCase("same_over_one_pixel", (2, 1, 1, 3), 4, padding="same"),
    ConvCase("one_channel_28", (4, 28, 28, 1), 32, activation="relu"),
    ConvCase("one_channel_no_bias", (3, 13, 11, 1), 4, use_bias=False),
    ConvCase("few_channels", (5, 14, 14, 4), 4, activation="relu"),
    ConvCase("few_terms_8", (3, 9, 9, 2), 8, (2, 3)),
    ConvCase("few_terms_23", (2, 8, 9, 3), 23, activation="relu"),
    ConvCase("few_terms_61", (3, 6, 13, 4), 61, padding="same"),
    ConvCase("three_channels_7x7", (2, 17, 19, 3), 16, (7, 7), (2, 2), ((3, 3), (3, 3))),
    ConvCase("to_one_filter", (2, 9, 9, 6), 1),
    ConvCase("channels_15_16", (2, 7, 9, 15), 16),
    ConvCase("channels_16_15", (2, 7, 9, 16), 15, activation="tanh"),
    ConvCase("channels_17_31", (3, 6, 5, 17), 31, padding="same"),
    ConvCase("channels_31_33", (2, 8, 7, 31), 33, activation="sigmoid"),
    ConvCase("channels_33_17", (2, 8, 7, 33), 17, (2, 2)),
    ConvCase("channels_257", (1, 5, 4, 257), 3, (1, 1)),
    ConvCase("pointwise_100_130", (3, 9, 7, 100), 130, (1, 1)),
    ConvCase("pointwise_stride_49_257", (2, 9, 8, 49), 257, (1, 1), (2, 2)),
    ConvCase("same_23_133", (2, 8, 7, 23), 133, padding="same"),
    ConvCase("dilation_5_140", (2, 9, 9, 5), 140, dilation=(2, 2)),
    ConvCase("filters_257", (1, 5, 4, 3), 257, (3, 3), padding="same"),
    ConvCase("primes", (3, 13, 17, 7), 11, (3, 5), (2, 3), ((2, 1), (0, 3))),
    ConvCase("wide_32_64", (2, 12, 12, 32), 64, activation="relu"),
    ConvCase("same_64", (2, 14, 14, 64), 64, padding="same"),
    ConvCase("pointwise", (3, 7, 7, 64), 48, (1, 1)),
    ConvCase("pointwise_stride", (2, 9, 8, 24), 40, (1, 1), (2, 2)),
    ConvCase("stride_2_same_even", (2, 8, 8, 8), 16, strides=(2, 2), padding="same"),
    ConvCase("stride_2_same_odd", (2, 9, 7, 8), 16, strides=(2, 2), padding="same", activation="relu"),
    ConvCase("stride_above_kernel", (2, 11, 13, 5), 6, (2, 1), (3, 4)),
    ConvCase("stride_above_image", (2, 4, 4, 3), 3, (2, 2), (9, 9)),
    ConvCase("stride_apart", (2, 10, 11, 6), 8, strides=(1, 3)),
    ConvCase("pad_over_half", (2, 5, 6, 4), 8, padding=((2, 2), (2, 2))),
    ConvCase("pad_over_kernel", (1, 4, 4, 2), 3, (2, 2), padding=((4, 3), (2, 5))),
    ConvCase("pad_asymmetric", (2, 6, 7, 16), 16, padding=((0, 2), (1, 0))),
    ConvCase("even_kernel_same", (2, 7, 8, 9), 10, (2, 4), padding="same"),
    ConvCase("row_kernel", (2, 6, 15, 8), 12, (1, 7), padding="same"),
    ConvCase("column_kernel", (2, 15, 6, 8), 12, (5, 1)),
    ConvCase("kernel_is_image", (3, 6, 7, 5), 13, (6, 7)),
    ConvCase("kernel_above_image", (2, 3, 3, 4), 5, (5, 5), padding="same"),
    ConvCase("dilation", (2, 13, 12, 8), 16, dilation=(2, 3)),
    ConvCase("dilation_same", (2, 9, 9, 5), 7, padding="same", dilation=(2, 2)),
    ConvCase("dilation_stride", (1, 12, 12, 4), 6, strides=(2, 2), padding=((2, 2), (2, 2)), dilation=(2, 2)),
    ConvCase("groups_2", (2, 8, 9, 6), 10, groups=2, activation="relu"),
    ConvCase("groups_17_wide", (2, 6, 6, 34), 51, groups=17),
    ConvCase("groups_4_same_stride", (2, 9, 9, 64), 64, strides=(2, 2), padding="same", groups=4),
    ConvCase("depthwise", (2, 9, 8, 19), 19, padding="same", groups=19),
    ConvCase("depthwise_one_pixel", (2, 1, 1, 17), 17, padding="same", groups=17),
    ConvCase("depthwise_2_3", (3, 2, 3, 16), 16, padding="same", groups=16),
    ConvCase("depthwise_valid", (2, 7, 6, 37), 37, groups=37, activation="relu"),
    ConvCase("depthwise_pads", (2, 5, 9, 18), 18, padding=((2, 3), (4, 0)), groups=18, activation="relu"),
    ConvCase("depthwise_5_17", (1, 5, 17, 65), 65, padding="same", groups=65, activation="sigmoid"),
    ConvCase("depthwise_stride_same", (2, 17, 14, 20), 20, strides=(2, 2), padding="same", groups=20),
    ConvCase("depthwise_stride_pads", (2, 9, 23, 128), 128, strides=(2, 2), padding=((1, 3), (2, 1)), groups=128),
    ConvCase("depthwise_stride_small", (2, 3, 4, 33), 33, strides=(2, 2), padding="same", groups=33, activation="tanh"),
    ConvCase("depthwise_rows_outside", (2, 5, 7, 40), 40, padding=((5, 4), (1, 1)), groups=40, activation="relu"),
    ConvCase("depthwise_far", (1, 41, 50, 130), 130, padding="same", groups=130),  # more than 1 MiB an image
    ConvCase("depthwise_stride_far", (1, 41, 50, 130), 130, strides=(2, 2), padding="same", groups=130),
    # pixels 2 KiB apart, in slices of channels and of rows
    ConvCase("depthwise_slices", (2, 14, 30, 512), 512, padding="same", groups=512, activation="relu"),
    ConvCase("depthwise_stride_slices", (1, 13, 30, 512), 512, strides=(2, 2), padding="same", groups=512),
    ConvCase("depthwise_slices_pads", (2, 3, 5, 1024), 1024, padding=((4, 3), (0, 1)), groups=1024),
    ConvCase("depthwise_stride_apart", (2, 9, 11, 16), 16, strides=(1, 2), padding="same", groups=16),
    ConvCase("depthwise_multiplier", (2, 9, 8, 6), 12, strides=(2, 1), groups=6),
    ConvCase("depthwise_dilation", (1, 11, 11, 33), 33, padding="same", dilation=(2, 2), groups=33),
    ConvCase("narrow_3_2", (3, 11, 13, 3), 2, (5, 3), padding="same"),
    ConvCase("narrow_5_1", (2, 19, 23, 5), 1, (3, 3), (2, 3), ((1, 0), (2, 1)), activation="relu"),
    ConvCase("narrow_7_3_to_crop", (2, 12, 17, 7), 3, (2, 2), (3, 3)),
    ConvCase("narrow_17_5", (1, 17, 16, 17), 5, (3, 2), (2, 2), "same", activation="relu"),
    ConvCase("narrow_dilated", (15, 13, 18, 3), 3, (3, 3), padding="same", dilation=(2, 3)),
    ConvCase("narrow_groups", (16, 10, 11, 12), 6, groups=3, activation="tanh"),
    ConvCase("narrow_in_bands", (1, 130, 331, 3), 3, (5, 5), (2, 2), padding="same"),
    ConvCase("narrow_in_place", (5, 18, 21, 1), 4, activation="relu"),
    ConvCase("narrow_in_place_bands", (2, 210, 331, 1), 2, (2, 5)),
    ConvCase("narrow_rows", (3, 19, 22, 4), 3, padding=((1, 2), (0, 3))),
    ConvCase("narrow_rows_cropped", (2, 3, 29, 2), 4, (3, 3), padding=((4, 3), (2, 2))),
    ConvCase("narrow_pointwise", (2, 15, 17, 37), 3, (1, 1)),
    ConvCase("from_one_channel", (17, 9, 9, 1), 17, (5, 5), padding="same"),
    # Whole and cut tiles, whole and cut vectors, padding of 0 to 3, one granule and several, tile 4 and tile 2.
    ConvCase("winograd_17_13", (3, 17, 13, 48), 40, padding="same", activation="relu"),
    ConvCase("winograd_pad_0_3", (2, 9, 15, 33), 47, padding=((0, 3), (3, 1)), activation="sigmoid"),
    ConvCase("winograd_one_tile", (17, 4, 4, 64), 31, padding="same"),
    ConvCase("winograd_six_by_six", (9, 6, 6, 96), 96, padding="same", activation="relu"),
    ConvCase("winograd_long", (1, 5, 131, 32), 64),
    ConvCase("winograd_wide", (2, 5, 6, 353), 337, padding="same", activation="relu"),  # weights transformed late
    ConvCase("winograd_large", (2, 30, 50, 16), 80, padding="same", use_bias=False),
    ConvCase("empty_batch", (0, 6, 6, 4), 8),
    ConvCase("batch_17", (17, 8, 8, 8), 8),
    ConvCase("cnn_conv_1", (16, 28, 28, 1), 32, activation="relu"),
    ConvCase("cnn_conv_2", (16, 26, 26, 32), 64, activation="relu"),
    ConvCase("cnn_small_conv_2", (64, 26, 26, 4), 4, activation="relu"),
    ConvCase("long_image", (2, 3, 257, 8), 16),
    ConvCase("full_resnet_3x3", (2, 56, 56, 64), 64, padding="same", tier="full"),
    ConvCase("full_resnet_stem", (2, 224, 224, 3), 64, (7, 7), (2, 2), ((3, 3), (3, 3)), tier="full"),
    ConvCase("full_deep", (2, 7, 7, 512), 512, padding="same", tier="full"),
    ConvCase("full_pointwise", (2, 14, 14, 1024), 256, (1, 1), tier="full"),
    ConvCase("full_depthwise", (2, 56, 56, 128), 128, padding="same", groups=128, tier="full"),
]


def _resnet(channels: int, filters: int, kernel: int, stride: int, side: int) -> ConvCase:
    pad = kernel // 2
    name = f"resnet50_{channels}_{filters}_{kernel}x{kernel}_{side}" + (f"_stride{stride}" if stride > 1 else "")
    return ConvCase(
        name,
        (8, side, side, channels),
        filters,
        (kernel, kernel),
        (stride, stride),
        ((pad, pad), (pad, pad)),
        use_bias=False,
        tier="full",
    )


# in -> out, kernel, stride, input side: the 20 convolution shapes of ResNet-50 (v1), at batch 8.
RESNET50 = [
    _resnet(*shape)
    for shape in [
        (3, 64, 7, 2, 224),
        (64, 64, 1, 1, 56),
        (64, 64, 3, 1, 56),
        (64, 256, 1, 1, 56),
        (256, 64, 1, 1, 56),
        (256, 128, 1, 2, 56),
        (256, 512, 1, 2, 56),
        (128, 128, 3, 1, 28),
        (128, 512, 1, 1, 28),
        (512, 128, 1, 1, 28),
        (512, 256, 1, 2, 28),
        (512, 1024, 1, 2, 28),
        (256, 256, 3, 1, 14),
        (256, 1024, 1, 1, 14),
        (1024, 256, 1, 1, 14),
        (1024, 512, 1, 2, 14),
        (1024, 2048, 1, 2, 14),
        (512, 512, 3, 1, 7),
        (512, 2048, 1, 1, 7),
        (2048, 512, 1, 1, 7),
    ]
]
