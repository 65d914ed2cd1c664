"""What a batch-norm layer adds to the bytes that cross phases.

Forward at most one write and one read of its tensor, backward at most one write and two reads: the statistics come from
the block that made the tensor, normalising happens as the next layer reads, the backward sums in the block that made
the gradient. Held for a layer among others, whose neighbours store what they need, and for a whole network.
"""

from __future__ import annotations

import pytest
from cases import networks
from harness.programs import Program
from oracles import SGD
from oracles.network import Layer

BATCH = 64
TENSOR = 4  # bytes of a float


def crossing(layers: list[Layer], direction: str, batch: int) -> int:
    program = Program(layers, networks.CROSS_ENTROPY, SGD(0.1), max_batch=batch)
    return sum(row["bytes_crossing"] for row in program.core.costs(batch) if row["direction"] == direction)


def images(*middle: Layer, before: bool) -> tuple[list[Layer], int]:
    """A network with these layers in its middle, and the floats of an image there: 16 x 16 x 16 for conv and add."""
    around = [networks.conv("first", 16, padding="same", use_bias=False), networks.bn("first_bn")]
    layers = [networks.image(16, 16, 3), *(around if before else []), *middle]
    layers += [networks.conv("last", 16, padding="same", use_bias=False)]
    layers += [networks.bn("last_bn"), networks.act("last_relu", "relu")] if before else []
    layers += [Layer("global_avg_pool2d", "mean"), networks.dense("out", 10, "softmax")]
    return layers, 16 * 16 * 16


def conv(name: str = "conv", **options) -> Layer:
    return networks.conv(name, 16, padding="same", use_bias=False, **options)


# The layers with batch-norm, its name, and the same without.
CHAINS = {
    "conv, BN, relu": [conv(), networks.bn("bn"), networks.act("relu", "relu")],
    "conv, relu, BN": [conv(activation="relu"), networks.bn("bn")],
}


def without(layers: list[Layer], name: str) -> list[Layer]:
    """The network without one layer, whose readers read what it read."""
    kept, before, source = [], "", ""
    for layer in layers:
        if layer.name == name:
            source = layer.inputs[0] if layer.inputs else before
            continue
        inputs = tuple(source if i == name else i for i in layer.inputs)
        kept.append(Layer(layer.kind, layer.name, inputs, **layer.options))
        before = layer.name
    return kept


def small(channels: int) -> int:
    """Bytes of the 16 chunks' sums, written and read, of moments and of coefficients: they have no sample axis."""
    return (2 * 16 * 20 + 460) * channels


def assert_at_most(layers: list[Layer], tensor: int, channels: int, batch: int = BATCH, alone: bool = False) -> None:
    tensor *= TENSOR * batch
    assert small(channels) < tensor / 2
    forward, backward = (
        crossing(layers, direction, batch) - crossing(without(layers, "bn"), direction, batch)
        for direction in ("forward", "backward")
    )
    again = TENSOR * batch * layers[0].options["shape"][-1] * 256 if alone else 0  # the images, read in one phase more
    assert forward <= 2 * tensor + again + small(channels)
    assert backward <= 3 * tensor + small(channels)
    assert min(forward, backward) >= tensor  # neither comes for nothing


@pytest.mark.parametrize("before", [True, False], ids=["among others", "alone"])
@pytest.mark.parametrize("chain", CHAINS)
def test_convolution(chain: str, before: bool) -> None:
    layers, tensor = images(*CHAINS[chain], before=before)
    assert_at_most(layers, tensor, 16, alone=not before)


@pytest.mark.parametrize("shortcut", ["identity", "convolution"])
def test_residual_sum(shortcut: str) -> None:
    middle = [networks.act("begin", "relu"), conv("side")]
    if shortcut == "convolution":
        middle = [
            networks.act("begin", "relu"),
            conv("short"),
            networks.bn("short_bn"),
            conv("side", inputs=("begin",)),
        ]
    other = "begin" if shortcut == "identity" else "short_bn"
    middle += [networks.bn("side_bn"), networks.act("side_relu", "relu"), conv("conv"), networks.bn("bn")]
    middle += [Layer("add", "sum", ("bn", other)), networks.act("relu", "relu")]
    layers, tensor = images(*middle, before=True)
    assert_at_most(layers, tensor, 16)


@pytest.mark.parametrize("before", [True, False], ids=["among others", "alone"])
def test_dense_sigmoid(before: bool) -> None:
    layers = [
        networks.image(300),
        networks.dense("first", 256, "sigmoid"),
        *([networks.bn("first_bn")] if before else []),
    ]
    layers += [networks.dense("middle", 512, "sigmoid"), networks.bn("bn"), networks.dense("last", 256, "sigmoid")]
    layers += [*([networks.bn("last_bn")] if before else []), networks.dense("out", 10, "softmax")]
    assert_at_most(layers, 512, 512, batch=1024)
    # Column by column: a task has all rows, so that nothing is merged.
    rows = Program(layers, networks.CROSS_ENTROPY, SGD(0.1), max_batch=BATCH).core.costs(BATCH)
    phases = {row["operation"]: row["phase"] for row in rows if row["layer"] in ("middle", "bn")}
    assert phases["statistics"] == phases["normalise"] == phases["forward"]
    assert phases["backward_sums"] == phases["backward_apply"]
