"""PyTorch operators `torch.ops.fastbn.*` over fastbn's kernels, with gradients and shapes for tracing.

The kernels read and write PyTorch's own memory: images are channels_last tensors, a convolution's weight is read as
(height, width, in / groups, out) and a linear layer's as (in, out). What lies otherwise is copied first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from fastbn import _core
from fastbn.ops._options import activation_code

Tensor: TypeAlias = torch.Tensor
MaybeTensor: TypeAlias = "torch.Tensor | None"


# ------------------------------------------------------------------------------------------------ tensors as operands


def _check(operation: str, name: str, tensor: Tensor, rank: int | None = None) -> None:
    if tensor.dtype != torch.float32:
        raise TypeError(f"{operation}: {name} must be float32. Received: {tensor.dtype}")
    if rank is not None and tensor.dim() != rank:
        raise ValueError(f"{operation}: {name} must have rank {rank}. Received: {name}.shape={tuple(tensor.shape)}")


def _check_shape(operation: str, name: str, tensor: MaybeTensor, shape: Sequence[Any]) -> None:
    if tensor is None:
        return
    _check(operation, name, tensor)
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(
            f"{operation}: {name} must have shape {tuple(shape)}. Received: {name}.shape={tuple(tensor.shape)}"
        )


def _check_given(operation: str, y: MaybeTensor, shape: Sequence[Any], activation: str) -> None:
    """The result of forward, which a backward operator needs where there is an activation."""
    if y is None and activation != "linear":
        raise ValueError(f"{operation}: y is needed where there is an activation. Received: y=None, {activation!r}")
    _check_shape(operation, "y", y, shape)


def _check_need(operation: str, need: Sequence[bool], count: int) -> None:
    if len(need) != count:
        raise ValueError(f"{operation}: need must say of {count} operands whether. Received: need={list(need)}")


def _statistics(operation: str, channels: int, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel as the kernels read them."""
    for name, tensor in (("mean", mean), ("variance", variance)):
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{operation}: {name} must be of floats. Received: {tensor.dtype}")
        if tuple(tensor.shape) != (channels,):
            raise ValueError(
                f"{operation}: {name} must have shape {(channels,)}. Received: {name}.shape={tuple(tensor.shape)}"
            )
    return mean.to(torch.float64).contiguous(), variance.to(torch.float64).contiguous()


def _at(tensor: MaybeTensor) -> int:
    return 0 if tensor is None else int(tensor.data_ptr())


def _threads() -> int:
    """What both libraries are allowed."""
    return min(int(torch.get_num_threads()), _core.get_num_threads())


def _operands(*tensors: MaybeTensor) -> tuple[int, ...]:
    """The last arguments of a kernel: addresses and the number of threads."""
    return (*map(_at, tensors), _threads())


def _plain(tensor: MaybeTensor) -> MaybeTensor:
    return None if tensor is None else tensor.contiguous()


def _channels_last(tensor: Tensor) -> Tensor:
    """The tensor (N, C, ...) with its channels innermost in memory; itself where it is so."""
    if tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def _empty_like_moved(like: Tensor, shape: Sequence[Any], order: Sequence[int]) -> Tensor:
    """An uninitialised tensor whose axes lie in memory in `order`, the last innermost; no view, which PyTorch would not
    let anybody write to."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step = step * shape[axis]
    return like.new_empty_strided(tuple(shape), strides)


def _empty_channels_last(like: Tensor, shape: Sequence[Any]) -> Tensor:
    return _empty_like_moved(like, shape, (0, *range(2, len(shape)), 1))


def _hwio(weight: Tensor) -> Tensor:
    """A convolution's weight as the kernels read it, contiguous; a view where it is stored so (see `_modules`)."""
    return weight.permute(2, 3, 1, 0).contiguous()


def _empty_oihw(like: Tensor) -> Tensor:
    """For a gradient: the shape of a weight, stored as the kernels write it."""
    return _empty_like_moved(like, like.shape, (2, 3, 1, 0))


def _rows(shape: Sequence[Any]) -> tuple[int, int]:
    """(rows, channels) of (N, C, ...)."""
    return shape[0] * math.prod(shape[2:]), shape[1]


# -------------------------------------------------------------------------------------------------------- convolution


def conv2d_shape(
    op: str,
    x: Tensor,
    weight: Tensor,
    bias: MaybeTensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Any, ...]:
    """Shape of y, NCHW; checks the operands."""
    _check(op, "x", x, 4)
    _check(op, "weight", weight, 4)
    _check_shape(op, "bias", bias, weight.shape[:1])
    if groups < 1 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise ValueError(
            f"{op}: weight must have the shape (out, channels of x / groups, height, width), out a multiple of groups. "
            f"Received: weight.shape={tuple(weight.shape)}, x.shape={tuple(x.shape)}, groups={groups}"
        )
    if len(stride) != 2 or len(padding) != 4 or len(dilation) != 2 or min(*stride, *dilation) < 1 or min(padding) < 0:
        raise ValueError(
            f"{op}: stride and dilation must be two positive integers, padding four (top, bottom, left, right). "
            f"Received: stride={list(stride)}, padding={list(padding)}, dilation={list(dilation)}"
        )
    sizes = []
    for axis in (0, 1):
        size = x.shape[2 + axis] + padding[2 * axis] + padding[2 * axis + 1]
        size = (size - dilation[axis] * (weight.shape[2 + axis] - 1) - 1) // stride[axis] + 1
        if size < 1:
            raise ValueError(
                f"{op}: the kernel must fit into the padded image. "
                f"Received: x.shape={tuple(x.shape)}, weight.shape={tuple(weight.shape)}, padding={list(padding)}"
            )
        sizes.append(size)
    return (x.shape[0], weight.shape[0], *sizes)


_Geometry: TypeAlias = tuple[
    tuple[int, ...], tuple[int, ...], Sequence[int], Sequence[int], int, Sequence[int], int, float
]


def _conv2d_geometry(
    x: Tensor,
    kernel: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: int,
    alpha: float,
) -> _Geometry:
    n, c, h, w = x.shape
    return (n, h, w, c), tuple(kernel.shape), stride, dilation, groups, padding, activation, alpha


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: MaybeTensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
    alpha: float,
) -> Tensor:
    code = activation_code("conv2d", activation)
    y = _empty_channels_last(x, conv2d_shape("conv2d", x, weight, bias, stride, padding, dilation, groups))
    x, kernel, bias = _channels_last(x), _hwio(weight), _plain(bias)
    geometry = _conv2d_geometry(x, kernel, stride, padding, dilation, groups, code, alpha)
    _core.conv2d_forward_at(*geometry, *_operands(x, kernel, bias, y))
    return y


def _conv2d_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    y: MaybeTensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
    alpha: float,
    need: Sequence[bool],
) -> list[Tensor]:
    """Gradients of x, weight, bias: those that are needed."""
    code = activation_code("conv2d_backward", activation)
    shape = conv2d_shape("conv2d_backward", x, weight, None, stride, padding, dilation, groups)
    _check_shape("conv2d_backward", "dy", dy, shape)
    _check_given("conv2d_backward", y, shape, activation)
    _check_need("conv2d_backward", need, 3)
    dy, x, kernel = _channels_last(dy), _channels_last(x), _hwio(weight)
    y = None if y is None else _channels_last(y)
    dx = _empty_channels_last(x, x.shape) if need[0] else None
    dweight = _empty_oihw(weight) if need[1] else None
    dbias = weight.new_empty(weight.shape[0]) if need[2] else None
    geometry = _conv2d_geometry(x, kernel, stride, padding, dilation, groups, code, alpha)
    _core.conv2d_backward_at(*geometry, *_operands(dy, x, kernel, y, dx, dweight, dbias))
    return [g for g in (dx, dweight, dbias) if g is not None]


_OPTIONS = "int[] stride, int[] padding, int[] dilation, int groups, str activation, float alpha"
conv2d = torch.library.custom_op(
    "fastbn::conv2d", _conv2d, mutates_args=(), schema=f"(Tensor x, Tensor weight, Tensor? bias, {_OPTIONS}) -> Tensor"
)
conv2d_backward = torch.library.custom_op(
    "fastbn::conv2d_backward",
    _conv2d_backward,
    mutates_args=(),
    schema=f"(Tensor dy, Tensor x, Tensor weight, Tensor? y, {_OPTIONS}, bool[] need) -> Tensor[]",
)


@conv2d.register_fake
def _(x, weight, bias, stride, padding, dilation, groups, activation, alpha):  # type: ignore[no-untyped-def]
    return _empty_channels_last(x, conv2d_shape("conv2d", x, weight, bias, stride, padding, dilation, groups))


@conv2d_backward.register_fake
def _(dy, x, weight, y, stride, padding, dilation, groups, activation, alpha, need):  # type: ignore[no-untyped-def]
    made = (_empty_channels_last(x, x.shape), _empty_oihw(weight), weight.new_empty(weight.shape[0]))
    return [g for g, needed in zip(made, need, strict=True) if needed]


def _conv2d_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *options = inputs
    ctx.options = options
    ctx.save_for_backward(x, weight, None if options[4] == "linear" else output)


def _spread(needed: Sequence[bool], found: Sequence[Tensor]) -> list[MaybeTensor]:
    """One gradient for each input, None where none is needed."""
    left = iter(found)
    return [next(left) if needs else None for needs in needed]


def _conv2d_gradient(ctx: Any, dy: Tensor) -> tuple[MaybeTensor, ...]:
    x, weight, y = ctx.saved_tensors
    need = list(ctx.needs_input_grad[:3])
    found = conv2d_backward(dy, x, weight, y, *ctx.options, need)
    return (*_spread(need, found), *[None] * len(ctx.options))


conv2d.register_autograd(_conv2d_gradient, setup_context=_conv2d_context)


# ------------------------------------------------------------------------------------------------------------- linear


def _linear_shape(op: str, x: Tensor, weight: Tensor, bias: MaybeTensor) -> tuple[Any, ...]:
    _check(op, "x", x)
    _check(op, "weight", weight, 2)
    _check_shape(op, "bias", bias, weight.shape[:1])
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{op}: the last axis of x must be as long as that of weight. "
            f"Received: x.shape={tuple(x.shape)}, weight.shape={tuple(weight.shape)}"
        )
    return (*x.shape[:-1], weight.shape[0])


def _linear(x: Tensor, weight: Tensor, bias: MaybeTensor, activation: str, alpha: float) -> Tensor:
    code = activation_code("linear", activation)
    y = x.new_empty(_linear_shape("linear", x, weight, bias))
    x, kernel, bias = x.contiguous(), weight.t().contiguous(), _plain(bias)
    rows, operands = math.prod(x.shape[:-1]), _operands(x, kernel, bias, y)
    _core.dense_forward_at(rows, tuple(kernel.shape), code, alpha, *operands)
    return y


def _linear_backward(
    dy: Tensor, x: Tensor, weight: Tensor, y: MaybeTensor, activation: str, alpha: float, need: Sequence[bool]
) -> list[Tensor]:
    """Gradients of x, weight, bias: those that are needed."""
    op = "linear_backward"
    code = activation_code(op, activation)
    shape = _linear_shape(op, x, weight, None)
    _check_shape(op, "dy", dy, shape)
    _check_given(op, y, shape, activation)
    _check_need(op, need, 3)
    dy, x, kernel, y = dy.contiguous(), x.contiguous(), weight.t().contiguous(), _plain(y)
    dx = torch.empty_like(x) if need[0] else None
    dweight = _empty_like_moved(weight, weight.shape, (1, 0)) if need[1] else None
    dbias = weight.new_empty(weight.shape[0]) if need[2] else None
    rows, operands = math.prod(x.shape[:-1]), _operands(dy, x, kernel, y, dx, dweight, dbias)
    _core.dense_backward_at(rows, tuple(kernel.shape), code, alpha, *operands)
    return [g for g in (dx, dweight, dbias) if g is not None]


linear = torch.library.custom_op(
    "fastbn::linear",
    _linear,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, str activation, float alpha) -> Tensor",
)
linear_backward = torch.library.custom_op(
    "fastbn::linear_backward",
    _linear_backward,
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor weight, Tensor? y, str activation, float alpha, bool[] need) -> Tensor[]",
)


@linear.register_fake
def _(x, weight, bias, activation, alpha):  # type: ignore[no-untyped-def]
    return x.new_empty(_linear_shape("linear", x, weight, bias))


@linear_backward.register_fake
def _(dy, x, weight, y, activation, alpha, need):  # type: ignore[no-untyped-def]
    made = (x.new_empty(x.shape), _empty_like_moved(weight, weight.shape, (1, 0)), weight.new_empty(weight.shape[0]))
    return [g for g, needed in zip(made, need, strict=True) if needed]


def _linear_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *options = inputs
    ctx.options = options
    ctx.save_for_backward(x, weight, None if options[0] == "linear" else output)


def _linear_gradient(ctx: Any, dy: Tensor) -> tuple[MaybeTensor, ...]:
    x, weight, y = ctx.saved_tensors
    need = list(ctx.needs_input_grad[:3])
    found = linear_backward(dy, x, weight, y, *ctx.options, need)
    return (*_spread(need, found), None, None)


linear.register_autograd(_linear_gradient, setup_context=_linear_context)


# --------------------------------------------------------------------------------------------------------- batch-norm


def _check_batch_norm(op: str, x: Tensor, gamma: MaybeTensor, beta: MaybeTensor, residual: MaybeTensor) -> None:
    _check(op, "x", x)
    if x.dim() < 2:
        raise ValueError(f"{op}: x must have rank 2 or more. Received: x.shape={tuple(x.shape)}")
    _check_shape(op, "weight", gamma, x.shape[1:2])
    _check_shape(op, "bias", beta, x.shape[1:2])
    _check_shape(op, "residual", residual, x.shape)


def _normalise(
    x: Tensor, gamma: MaybeTensor, beta: MaybeTensor, residual: MaybeTensor, epsilon: float, code: int, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean, variance of an x with its channels innermost."""
    y = _empty_channels_last(x, x.shape)
    mean, variance = (x.new_empty(x.shape[1], dtype=torch.float64) for _ in range(2))
    gamma, beta = _plain(gamma), _plain(beta)
    residual = None if residual is None else _channels_last(residual)
    operands = _operands(x, gamma, beta, residual, y, mean, variance)
    _core.batch_norm_forward_at(_rows(x.shape), epsilon, code, alpha, *operands)
    return y, mean, variance


def _batch_norm(
    x: Tensor,
    weight: MaybeTensor,
    bias: MaybeTensor,
    residual: MaybeTensor,
    epsilon: float,
    activation: str,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    code = activation_code("batch_norm", activation)
    _check_batch_norm("batch_norm", x, weight, bias, residual)
    return _normalise(_channels_last(x), weight, bias, residual, epsilon, code, alpha)


def _batch_norm_inference(
    x: Tensor,
    weight: MaybeTensor,
    bias: MaybeTensor,
    residual: MaybeTensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    activation: str,
    alpha: float,
) -> Tensor:
    op = "batch_norm_inference"
    code = activation_code(op, activation)
    _check_batch_norm(op, x, weight, bias, residual)
    mean, variance = _statistics(op, x.shape[1], mean, variance)
    x, gamma, beta = _channels_last(x), _plain(weight), _plain(bias)
    residual = None if residual is None else _channels_last(residual)
    y = _empty_channels_last(x, x.shape)
    operands = _operands(x, gamma, beta, mean, variance, residual, y)
    _core.batch_norm_inference_at(_rows(x.shape), epsilon, code, alpha, *operands)
    return y


def _normalise_backward(
    dy: Tensor,
    x: Tensor,
    gamma: MaybeTensor,
    beta: MaybeTensor,
    mean: Tensor,
    variance: Tensor,
    y: MaybeTensor,
    epsilon: float,
    code: int,
    alpha: float,
    frozen: bool,
    dx: MaybeTensor,
    need: Sequence[bool],
) -> list[MaybeTensor]:
    """Gradients of gamma, beta and residual where they are needed; that of x goes into dx."""
    gamma, beta = _plain(gamma), _plain(beta)
    if beta is None and y is None:
        beta = x.new_zeros(x.shape[1])  # y is computed again from it
    dy = _channels_last(dy)
    y = None if y is None else _channels_last(y)
    dgamma, dbeta = (x.new_empty(x.shape[1]) if n else None for n in need[:2])
    dresidual = _empty_channels_last(x, x.shape) if need[2] else None
    options = (epsilon, code, alpha, y is not None, frozen)
    operands = _operands(dy, x, gamma, beta, mean, variance, y, dx, dgamma, dbeta, dresidual)
    _core.batch_norm_backward_at(_rows(x.shape), *options, *operands)
    return [dgamma, dbeta, dresidual]


def _batch_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: MaybeTensor,
    bias: MaybeTensor,
    mean: Tensor,
    variance: Tensor,
    y: MaybeTensor,
    epsilon: float,
    activation: str,
    alpha: float,
    frozen: bool,
    need: Sequence[bool],
) -> list[Tensor]:
    """Gradients of x, weight, bias, residual: those that are needed. y is given where a residual was."""
    op = "batch_norm_backward"
    code = activation_code(op, activation)
    _check_batch_norm(op, x, weight, bias, None)
    _check_shape(op, "dy", dy, x.shape)
    _check_shape(op, "y", y, x.shape)
    _check_need(op, need, 4)
    mean, variance = _statistics(op, x.shape[1], mean, variance)
    x = _channels_last(x)
    dx = _empty_channels_last(x, x.shape) if need[0] else None
    others = _normalise_backward(dy, x, weight, bias, mean, variance, y, epsilon, code, alpha, frozen, dx, need[1:])
    return [g for g in (dx, *others) if g is not None]


_NORM = "float epsilon, str activation, float alpha"
batch_norm = torch.library.custom_op(
    "fastbn::batch_norm",
    _batch_norm,
    mutates_args=(),
    schema=f"(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, {_NORM}) -> (Tensor, Tensor, Tensor)",
)
batch_norm_inference = torch.library.custom_op(
    "fastbn::batch_norm_inference",
    _batch_norm_inference,
    mutates_args=(),
    schema=f"(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, Tensor mean, Tensor variance, {_NORM})"
    " -> Tensor",
)
batch_norm_backward = torch.library.custom_op(
    "fastbn::batch_norm_backward",
    _batch_norm_backward,
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor variance, Tensor? y, "
    f"{_NORM}, bool frozen, bool[] need) -> Tensor[]",
)


@batch_norm.register_fake
def _(x, weight, bias, residual, epsilon, activation, alpha):  # type: ignore[no-untyped-def]
    _check_batch_norm("batch_norm", x, weight, bias, residual)
    statistics = (x.new_empty(x.shape[1], dtype=torch.float64) for _ in range(2))
    return _empty_channels_last(x, x.shape), *statistics


@batch_norm_inference.register_fake
def _(x, weight, bias, residual, mean, variance, epsilon, activation, alpha):  # type: ignore[no-untyped-def]
    _check_batch_norm("batch_norm_inference", x, weight, bias, residual)
    _statistics("batch_norm_inference", x.shape[1], mean, variance)
    return _empty_channels_last(x, x.shape)


@batch_norm_backward.register_fake
def _(dy, x, weight, bias, mean, variance, y, epsilon, activation, alpha, frozen, need):  # type: ignore[no-untyped-def]
    images, vectors = (_empty_channels_last(x, x.shape) for _ in "xr"), (x.new_empty(x.shape[1]) for _ in "wb")
    made = (next(images), *vectors, next(images))
    return [g for g, needed in zip(made, need, strict=True) if needed]


def _batch_norm_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, residual, *options = inputs
    y, mean, variance = output
    ctx.mark_non_differentiable(mean, variance)
    ctx.options, ctx.frozen = options, False
    ctx.save_for_backward(x, weight, bias, mean, variance, None if residual is None else y)


def _batch_norm_inference_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, residual, mean, variance, *options = inputs
    ctx.options, ctx.frozen = options, True
    ctx.save_for_backward(x, weight, bias, mean, variance, None if residual is None else output)


def _batch_norm_gradient(ctx: Any, dy: Tensor, *_: Any) -> tuple[MaybeTensor, ...]:
    need = list(ctx.needs_input_grad[:4])
    found = batch_norm_backward(dy, *ctx.saved_tensors, *ctx.options, ctx.frozen, need)
    return (*_spread(need, found), *[None] * (len(ctx.needs_input_grad) - 4))


batch_norm.register_autograd(_batch_norm_gradient, setup_context=_batch_norm_context)
batch_norm_inference.register_autograd(_batch_norm_gradient, setup_context=_batch_norm_inference_context)


# ------------------------------------------------------------------------------------- convolution, then batch-norm


def _conv2d_batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: MaybeTensor,
    gamma: MaybeTensor,
    beta: MaybeTensor,
    residual: MaybeTensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    epsilon: float,
    activation: str,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the convolution's result, mean, variance."""
    op = "conv2d_batch_norm"
    code = activation_code(op, activation)
    z = _empty_channels_last(x, conv2d_shape(op, x, weight, bias, stride, padding, dilation, groups))
    _check_batch_norm(op, z, gamma, beta, residual)
    x, kernel, bias = _channels_last(x), _hwio(weight), _plain(bias)
    geometry = _conv2d_geometry(x, kernel, stride, padding, dilation, groups, _core.LINEAR, 0.0)
    _core.conv2d_forward_at(*geometry, *_operands(x, kernel, bias, z))
    y, mean, variance = _normalise(z, gamma, beta, residual, epsilon, code, alpha)
    return y, z, mean, variance


def _conv2d_batch_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    gamma: MaybeTensor,
    beta: MaybeTensor,
    z: Tensor,
    mean: Tensor,
    variance: Tensor,
    y: MaybeTensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    epsilon: float,
    activation: str,
    alpha: float,
    need: Sequence[bool],
) -> list[Tensor]:
    """Gradients of x, weight, bias, gamma, beta, residual: those that are needed."""
    op = "conv2d_batch_norm_backward"
    code = activation_code(op, activation)
    shape = conv2d_shape(op, x, weight, None, stride, padding, dilation, groups)
    _check_shape(op, "z", z, shape)
    _check_shape(op, "dy", dy, shape)
    _check_shape(op, "y", y, shape)
    _check_batch_norm(op, z, gamma, beta, None)
    _check_need(op, need, 6)
    mean, variance = _statistics(op, shape[1], mean, variance)
    z = _channels_last(z)
    through = any(need[:3])  # into the convolution
    dz = _empty_channels_last(z, z.shape) if through else None
    others = _normalise_backward(dy, z, gamma, beta, mean, variance, y, epsilon, code, alpha, False, dz, need[3:])
    dx = dweight = dbias = None
    if through:
        x, kernel = _channels_last(x), _hwio(weight)
        dx = _empty_channels_last(x, x.shape) if need[0] else None
        dweight = _empty_oihw(weight) if need[1] else None
        dbias = weight.new_empty(weight.shape[0]) if need[2] else None
        geometry = _conv2d_geometry(x, kernel, stride, padding, dilation, groups, _core.LINEAR, 0.0)
        _core.conv2d_backward_at(*geometry, *_operands(dz, x, kernel, None, dx, dweight, dbias))
    return [g for g in (dx, dweight, dbias, *others) if g is not None]


_BOTH = f"int[] stride, int[] padding, int[] dilation, int groups, {_NORM}"
conv2d_batch_norm = torch.library.custom_op(
    "fastbn::conv2d_batch_norm",
    _conv2d_batch_norm,
    mutates_args=(),
    schema=f"(Tensor x, Tensor weight, Tensor? bias, Tensor? gamma, Tensor? beta, Tensor? residual, {_BOTH})"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
conv2d_batch_norm_backward = torch.library.custom_op(
    "fastbn::conv2d_batch_norm_backward",
    _conv2d_batch_norm_backward,
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor weight, Tensor? gamma, Tensor? beta, Tensor z, Tensor mean, "
    f"Tensor variance, Tensor? y, {_BOTH}, bool[] need) -> Tensor[]",
)


@conv2d_batch_norm.register_fake
def _(x, weight, bias, gamma, beta, residual, stride, padding, dilation, groups, *_):  # type: ignore[no-untyped-def]
    op = "conv2d_batch_norm"
    shape = conv2d_shape(op, x, weight, bias, stride, padding, dilation, groups)
    y, z = (_empty_channels_last(x, shape) for _ in "yz")
    _check_batch_norm(op, z, gamma, beta, residual)
    return y, z, *(x.new_empty(shape[1], dtype=torch.float64) for _ in "mv")


@conv2d_batch_norm_backward.register_fake
def _(dy, x, weight, gamma, beta, z, mean, variance, y, *options):  # type: ignore[no-untyped-def]
    vectors = (weight.new_empty(weight.shape[0]) for _ in "bgb")
    made = (_empty_channels_last(x, x.shape), _empty_oihw(weight), *vectors, _empty_channels_last(z, z.shape))
    return [g for g, needed in zip(made, options[-1], strict=True) if needed]


def _conv2d_batch_norm_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, _, gamma, beta, residual, *options = inputs
    y, z, mean, variance = output
    ctx.mark_non_differentiable(z, mean, variance)
    ctx.options = options
    ctx.save_for_backward(x, weight, gamma, beta, z, mean, variance, None if residual is None else y)


def _conv2d_batch_norm_gradient(ctx: Any, dy: Tensor, *_: Any) -> tuple[MaybeTensor, ...]:
    need = list(ctx.needs_input_grad[:6])
    found = conv2d_batch_norm_backward(dy, *ctx.saved_tensors, *ctx.options, need)
    return (*_spread(need, found), *[None] * len(ctx.options))


conv2d_batch_norm.register_autograd(_conv2d_batch_norm_gradient, setup_context=_conv2d_batch_norm_context)


# Inside torch.autocast the kernels still compute in float32: inputs of other types are converted.
for _operator in (conv2d, linear, batch_norm, batch_norm_inference, conv2d_batch_norm):
    if hasattr(_operator, "register_autocast"):  # not in the oldest versions, where such inputs are refused
        _operator.register_autocast("cpu", torch.float32)
