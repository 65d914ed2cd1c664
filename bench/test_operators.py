"""Single operators: ResNet-50's convolutions at batch 8 and its batch-norms, pools, activations, optimizers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from benching import cases, shapes

OPTIONS: dict[str, Any] = {"max_time": 0.25, "min_rounds": 3}


def normal(*shape: int, scale: float = 1.0) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32) * np.float32(scale)


def nan(*shape: int) -> Any:
    return np.full(shape, np.nan, np.float32)


@pytest.mark.parametrize("direction", ["forward", "backward_data", "backward_filter"])
@pytest.mark.parametrize("conv", shapes.RESNET50_CONVS, ids=lambda conv: conv.name)
@pytest.mark.benchmark(**OPTIONS)
def test_resnet50_conv2d(conv: shapes.Conv, direction: str, benchmark: Any, run_case: Any) -> None:
    batch = shapes.RESNET50_BATCH
    x = np.maximum(normal(*conv.x_shape(batch)), 0)
    kernel = normal(*conv.kernel_shape, scale=(conv.kernel**2 * conv.fan_in) ** -0.5)
    y_shape, geometry = conv.y_shape(batch), {"stride": conv.stride, "pad": conv.padding}
    if direction == "forward":
        case = cases.conv2d_forward(x, kernel, None, nan(*y_shape), **geometry)
    elif direction == "backward_data":
        case = cases.conv2d_backward_data(normal(*y_shape), x, kernel, None, nan(*x.shape), **geometry)
    else:
        case = cases.conv2d_backward_filter(normal(*y_shape), x, kernel, None, nan(*kernel.shape), None, **geometry)
    benchmark.group = f"resnet50 conv2d {direction}"
    run_case(case, shape=conv.name, batch=batch, direction=direction)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("shape", shapes.RESNET50_BATCH_NORMS, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.benchmark(**OPTIONS)
def test_resnet50_batch_norm(shape: tuple[int, ...], direction: str, benchmark: Any, run_case: Any) -> None:
    """With ReLU fused."""
    channels = shape[-1]
    x, gamma, beta = normal(*shape) + np.float32(0.5), 1 + normal(channels, scale=0.1), normal(channels, scale=0.1)
    forward = (nan(*shape), np.empty(channels), np.empty(channels))
    case = cases.batch_norm_forward(x, gamma, beta, forward, activation="relu")
    if direction == "backward":
        case.call()
        outputs = (nan(*shape), nan(channels), nan(channels))
        case = cases.batch_norm_backward(normal(*shape), x, gamma, beta, forward, outputs, activation="relu")
    benchmark.group = f"resnet50 batch_norm + relu {direction}"
    run_case(case, shape=shape, direction=direction)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("shape", "pool", "stride", "padding"), shapes.MAX_POOLS)
@pytest.mark.benchmark(**OPTIONS)
def test_max_pool2d(
    shape: tuple[int, ...], pool: int, stride: int, padding: str, direction: str, benchmark: Any, run_case: Any
) -> None:
    side = -(-shape[1] // stride) if padding == "same" else (shape[1] - pool) // stride + 1
    outputs = (nan(shape[0], side, side, shape[3]), np.empty((shape[0], side, side, shape[3]), np.uint8))
    case = cases.max_pool2d_forward(normal(*shape), outputs, pool, stride, padding)
    if direction == "backward":
        case.call()
        dy = normal(*outputs[0].shape)
        case = cases.max_pool2d_backward(dy, outputs[1], nan(*shape), pool, stride, padding)
    benchmark.group = f"max_pool2d {direction}"
    run_case(case, shape=shape, pool=pool, stride=stride, padding=padding, direction=direction)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("shape", "pool", "stride", "padding"), shapes.AVERAGE_POOLS)
@pytest.mark.benchmark(**OPTIONS)
def test_avg_pool2d(
    shape: tuple[int, ...], pool: int, stride: int, padding: str, direction: str, benchmark: Any, run_case: Any
) -> None:
    batch, height, width, channels = shape
    small = (batch, height // pool, width // pool, channels)
    if direction == "forward":
        case = cases.avg_pool2d_forward(normal(*shape), nan(*small), pool)
    else:
        case = cases.avg_pool2d_backward(normal(*small), nan(*shape), pool)
    benchmark.group = f"avg_pool2d {direction}"
    run_case(case, shape=shape, pool=pool, direction=direction)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("shape", shapes.GLOBAL_AVERAGE_POOLS)
@pytest.mark.benchmark(**OPTIONS)
def test_global_avg_pool2d(shape: tuple[int, ...], direction: str, benchmark: Any, run_case: Any) -> None:
    small = (shape[0], shape[3])
    if direction == "forward":
        case = cases.global_avg_pool2d_forward(normal(*shape), nan(*small))
    else:
        case = cases.global_avg_pool2d_backward(normal(*small), nan(*shape))
    benchmark.group = f"global_avg_pool2d {direction}"
    run_case(case, shape=shape, direction=direction)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("size", shapes.POINTWISE_SIZES)
@pytest.mark.parametrize("name", [*shapes.ACTIVATIONS, "dropout"])
@pytest.mark.benchmark(**OPTIONS)
def test_pointwise(name: str, size: str, direction: str, benchmark: Any, run_case: Any) -> None:
    """Over the last axis of an image, which only softmax looks at."""
    shape = shapes.POINTWISE_SIZES[size]
    x, out = normal(*shape), nan(*shape)
    if name == "dropout":
        make = cases.dropout_forward if direction == "forward" else cases.dropout_backward
        case = make(x, out, 0.25, 7)
    elif direction == "forward":
        case = cases.activation_forward(x, out, name)
    else:
        y = nan(*shape)
        cases.activation_forward(x, y, name).call()
        case = cases.activation_backward(normal(*shape), y, out, name)
    benchmark.group = f"{name} {direction}"
    run_case(case, shape=shape, direction=direction)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("size", shapes.POINTWISE_SIZES)
@pytest.mark.benchmark(**OPTIONS)
def test_softmax_cross_entropy(size: str, direction: str, benchmark: Any, run_case: Any) -> None:
    classes = shapes.CROSS_ENTROPY_CLASSES
    rows = int(np.prod(shapes.POINTWISE_SIZES[size])) // classes
    logits, labels = normal(rows, classes, scale=3.0), np.arange(rows, dtype=np.int32) % classes
    outputs = (nan(rows), nan(rows, classes))
    case = cases.cross_entropy_forward(logits, labels, outputs)
    if direction == "backward":
        case.call()
        case = cases.cross_entropy_backward(outputs[1], labels, nan(rows, classes))
    benchmark.group = f"softmax_cross_entropy {direction}"
    run_case(case, shape=(rows, classes), direction=direction)


@pytest.mark.parametrize("size", shapes.POINTWISE_SIZES)
@pytest.mark.parametrize("kind", shapes.OPTIMIZERS)
@pytest.mark.benchmark(**OPTIONS)
def test_optimizer(kind: str, size: str, benchmark: Any, run_case: Any) -> None:
    elements = int(np.prod(shapes.POINTWISE_SIZES[size]))
    case = cases.update(kind, [normal(elements)], [normal(elements, scale=0.01)])
    benchmark.group = f"{kind} update"
    run_case(case, shape=(elements,), direction="update")
