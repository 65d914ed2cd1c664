"""The list of works: each a plain dictionary, so that it travels to a worker of any framework as JSON.

An operator work has `kind` ("conv2d", "dense", "batch_norm_relu", ...), `direction` and its shape; a step
work has `kind` "step", the network's name, batch, optimizer and `rows` (0: one resident batch again and
again; else epochs over that many rows in a new order each, gathered batch by batch).
"""

from __future__ import annotations

from typing import Any

from .. import shapes

Work = dict[str, Any]

CONV_DIRECTIONS = ("forward", "backward_data", "backward_filter")
SGD = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9, "nesterov": True}
RMSPROP = {"name": "rmsprop", "learning_rate": 0.001, "rho": 0.9}


def _conv(group: str, conv: shapes.Conv, batch: int, direction: str, family: str) -> Work:
    tags = []
    if family == "resnet50":
        tags += ["resnet50 conv 3x3 stride 1"] if conv.kernel == 3 and conv.stride == 1 else []
        tags += ["resnet50 conv 7x7 first layer"] if conv.kernel == 7 else []
    return {
        "kind": "conv2d",
        "direct": family == "resnet50",
        "group": group,
        "tags": tags,
        "name": f"{family}/{conv.name}/{direction}",
        "direction": direction,
        "batch": batch,
        "side": conv.side,
        "fan_in": conv.fan_in,
        "fan_out": conv.fan_out,
        "kernel": conv.kernel,
        "stride": conv.stride,
        "padding": conv.padding,
        "groups": conv.groups,
        "bias": conv.bias,
        "multiply_adds": conv.multiply_adds(batch),
    }


def convolutions() -> list[Work]:
    works = []
    for conv in shapes.RESNET50_CONVS:
        for direction in CONV_DIRECTIONS:
            works.append(_conv("resnet50 conv", conv, shapes.RESNET50_BATCH, direction, "resnet50"))
    for conv in shapes.SEED_CONVS:
        for direction in CONV_DIRECTIONS:
            group = f"seed conv {conv.fan_in}->{conv.fan_out}"
            works.append(_conv(group, conv, shapes.SEED_CONVS_BATCH, direction, "seed"))
    for conv in shapes.DEPTHWISE_CONVS:
        for direction in CONV_DIRECTIONS:
            works.append(_conv(f"depthwise {direction}", conv, shapes.DEPTHWISE_BATCH, direction, "depthwise"))
    return works


def dense_products() -> list[Work]:
    return [
        {
            "kind": "dense",
            "group": "dense",
            "name": f"dense/{fan_in}x{fan_out}/batch{batch}/{direction}",
            "direction": direction,
            "batch": batch,
            "fan_in": fan_in,
            "fan_out": fan_out,
            "multiply_adds": batch * fan_in * fan_out,
        }
        for fan_in, fan_out in shapes.DENSE
        for batch in shapes.DENSE_BATCHES
        for direction in CONV_DIRECTIONS
    ]


def batch_norms() -> list[Work]:
    return [
        {
            "kind": "batch_norm_relu",
            "group": f"bn+relu {direction}",
            "name": f"bn_relu/{'x'.join(map(str, shape))}/{direction}",
            "direction": direction,
            "shape": list(shape),
        }
        for shape in shapes.BATCH_NORM_RELU
        for direction in ("forward", "backward")
    ]


def pointwise() -> list[Work]:
    works = []
    for size, shape in shapes.POINTWISE_SIZES.items():
        elements = shape[0] * shape[1] * shape[2] * shape[3]
        rows = elements // shapes.CROSS_ENTROPY_CLASSES
        arrays: dict[str, list[int]] = {
            "max_pool2d": list(shape),
            "dropout": [elements],
            "cross_entropy": [rows, shapes.CROSS_ENTROPY_CLASSES],
            "sigmoid": [elements],
        }
        for kind, array in arrays.items():
            for direction in ("forward", "backward"):
                work = {"kind": kind, "group": "pool, pointwise, optimizers", "direction": direction, "shape": array}
                works.append({**work, "name": f"{kind}/{size}/{direction}"})
        for kind in ("adam", "rmsprop"):
            work = {"kind": kind, "group": "pool, pointwise, optimizers", "direction": "update", "shape": [elements]}
            works.append({**work, "name": f"{kind}/{size}/update"})
    return works


def operators() -> list[Work]:
    return convolutions() + dense_products() + batch_norms() + pointwise()


def _step(
    group: str,
    network: str,
    batch: int,
    optimizer: dict[str, Any],
    rows: int = 0,
    direct: bool = False,
    **options: Any,
) -> Work:
    """`direct`: fastbn's step without Winograd is measured, too."""
    label = network + "".join(f"_{key}{value}" for key, value in options.items())
    order = "shuffled" if rows else "resident"
    return {
        "kind": "step",
        "group": group,
        "name": f"{label}/batch{batch}/{order}",
        "network": network,
        "options": options,
        "batch": batch,
        "optimizer": optimizer,
        "rows": rows,
        "direct": direct,
    }


def steps() -> list[Work]:
    works = [_step("article", "article", batch, SGD, batch_norms=0) for batch in (4, 64, 128, 256, 1024)]
    works += [
        _step("article with BN", "article", batch, SGD, batch_norms=count) for count in (1, 4) for batch in (4, 128)
    ]
    works += [_step("seed networks", name, 128, RMSPROP, direct=name == "cnn") for name in ("mlp", "cnn", "cnn_small")]
    works += [_step("conv-BN-ReLU", name, 128, SGD, direct=name == "cnn_bn") for name in ("cnn_bn", "resnet20")]
    works += [
        _step("shuffled epochs", "article", 4, SGD, rows=2048, batch_norms=0),
        _step("shuffled epochs", "article", 128, SGD, rows=8192, batch_norms=0),
        _step("shuffled epochs", "mlp", 128, RMSPROP, rows=8192),
        _step("shuffled epochs", "cnn", 128, RMSPROP, rows=1024),
        _step("shuffled epochs", "cnn_small", 128, RMSPROP, rows=8192),
    ]
    return works
