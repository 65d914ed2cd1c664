"""The shapes that are measured, each list once, for pytest-benchmark and for the comparison with peers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conv:
    """A square convolution: side x side x fan_in -> out_side x out_side x fan_out, kernel HWIO."""

    fan_in: int
    fan_out: int
    kernel: int
    stride: int
    side: int
    padding: int = 0
    groups: int = 1
    bias: bool = False

    @property
    def out_side(self) -> int:
        return (self.side + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def name(self) -> str:
        stride = f"s{self.stride}" if self.stride > 1 else ""
        groups = f"g{self.groups}" if self.groups > 1 else ""
        return f"{self.fan_in}to{self.fan_out}k{self.kernel}{stride}{groups}_{self.side}x{self.side}"

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        return (self.kernel, self.kernel, self.fan_in // self.groups, self.fan_out)

    def x_shape(self, batch: int) -> tuple[int, int, int, int]:
        return (batch, self.side, self.side, self.fan_in)

    def y_shape(self, batch: int) -> tuple[int, int, int, int]:
        return (batch, self.out_side, self.out_side, self.fan_out)

    def multiply_adds(self, batch: int) -> int:
        """Of any one pass; taps that fall into the padding are counted too."""
        taps = self.kernel * self.kernel * self.fan_in // self.groups
        return batch * self.out_side * self.out_side * taps * self.fan_out


RESNET50_BATCH = 8
RESNET50_CONVS = (
    Conv(3, 64, 7, 2, 224, padding=3),
    Conv(64, 64, 1, 1, 56),
    Conv(64, 64, 3, 1, 56, padding=1),
    Conv(64, 256, 1, 1, 56),
    Conv(256, 64, 1, 1, 56),
    Conv(256, 128, 1, 2, 56),
    Conv(256, 512, 1, 2, 56),
    Conv(128, 128, 3, 1, 28, padding=1),
    Conv(128, 512, 1, 1, 28),
    Conv(512, 128, 1, 1, 28),
    Conv(512, 256, 1, 2, 28),
    Conv(512, 1024, 1, 2, 28),
    Conv(256, 256, 3, 1, 14, padding=1),
    Conv(256, 1024, 1, 1, 14),
    Conv(1024, 256, 1, 1, 14),
    Conv(1024, 512, 1, 2, 14),
    Conv(1024, 2048, 1, 2, 14),
    Conv(512, 512, 3, 1, 7, padding=1),
    Conv(512, 2048, 1, 1, 7),
    Conv(2048, 512, 1, 1, 7),
)

SEED_CONVS_BATCH = 128
SEED_CONVS = (
    Conv(1, 32, 3, 1, 28, bias=True),
    Conv(32, 64, 3, 1, 26, bias=True),
    Conv(1, 4, 3, 1, 28, bias=True),
    Conv(4, 4, 3, 1, 26, bias=True),
)

# MobileNet (v1) at 224x224.
DEPTHWISE_BATCH = 8
DEPTHWISE_CONVS = (
    Conv(32, 32, 3, 1, 112, padding=1, groups=32),
    Conv(64, 64, 3, 2, 112, padding=1, groups=64),
    Conv(128, 128, 3, 1, 56, padding=1, groups=128),
    Conv(128, 128, 3, 2, 56, padding=1, groups=128),
    Conv(256, 256, 3, 1, 28, padding=1, groups=256),
    Conv(256, 256, 3, 2, 28, padding=1, groups=256),
    Conv(512, 512, 3, 1, 14, padding=1, groups=512),
    Conv(512, 512, 3, 2, 14, padding=1, groups=512),
    Conv(1024, 1024, 3, 1, 7, padding=1, groups=1024),
)

# (fan_in, fan_out)
DENSE = ((784, 512), (512, 512), (512, 256), (9216, 10))
DENSE_BATCHES = (4, 32, 128, 1024)

# Where ResNet-50 has a batch-norm, batch 8: (batch, height, width, channels).
RESNET50_BATCH_NORMS = (
    (8, 112, 112, 64),
    (8, 56, 56, 64),
    (8, 56, 56, 256),
    (8, 28, 28, 128),
    (8, 28, 28, 512),
    (8, 14, 14, 256),
    (8, 14, 14, 1024),
    (8, 7, 7, 512),
    (8, 7, 7, 2048),
)
BATCH_NORM_RELU = ((128, 24, 24, 64), (32, 56, 56, 64), (32, 14, 14, 256), (128, 512))

# (shape, pool, stride): the seed network's, ResNet-50's first (padding "same"), and a plain 2x2.
MAX_POOLS = (
    ((128, 24, 24, 64), 2, 2, "valid"),
    ((8, 112, 112, 64), 3, 2, "same"),
    ((8, 56, 56, 64), 2, 2, "valid"),
)
AVERAGE_POOLS = (((8, 56, 56, 64), 2, 2, "valid"),)
GLOBAL_AVERAGE_POOLS = ((8, 7, 7, 2048),)

ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "softmax")
OPTIMIZERS = ("sgd", "rmsprop", "adam")

# One-pass operators are measured in cache and in memory: name -> image shape of that many float32 bytes.
POINTWISE_SIZES = {"256KiB": (4, 32, 32, 16), "32MiB": (128, 32, 32, 64)}
CROSS_ENTROPY_CLASSES = 16
