"""Layers for PyTorch over fastbn's operators: PyTorch's own classes, parameters and state_dict keys.

A weight has PyTorch's shape and lies in memory as the kernels read it, so that neither it nor its gradient is ever
copied: convolutions as (height, width, in / groups, out), linear layers as (in, out). Any other strides work as well
and cost a copy a call.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.utils import _pair
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fastbn.ops._options import activation_code
from fastbn.torch import _operators as operators

Tensor: TypeAlias = torch.Tensor


def _lay_out_state(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Before a step of an optimizer: what it keeps of a parameter, and the gradient, get the parameter's strides.

    PyTorch's fused steps walk the memory of weight, gradient and state in one order, and state may be older than the
    layout of its weight, or come from a state_dict.
    """
    for group in optimizer.param_groups:
        if not group.get("fused"):
            continue
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                alike = isinstance(value, torch.Tensor) and value.shape == parameter.shape
                if alike and value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


register_optimizer_step_pre_hook(_lay_out_state)


def store_for_kernels(module: nn.Module) -> None:
    """Lay the weight of a convolution or linear layer out as the kernels read it; the parameter stays the same one."""
    weight = module.weight
    if weight.dim() == 4:
        weight.data = weight.data.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    else:
        weight.data = weight.data.t().contiguous().t()


class _Stored(nn.Module):
    """A layer whose weight stays laid out for the kernels when it is made and moved."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        store_for_kernels(self)

    def _apply(self, *arguments: Any, **options: Any) -> Any:  # .to, .float, .share_memory and their like
        moved = super()._apply(*arguments, **options)
        store_for_kernels(self)
        return moved


class Conv2d(_Stored, nn.Conv2d):
    """torch.nn.Conv2d with fastbn's kernels, for float32 on the CPU; padding_mode "zeros" only.

    Reads and returns channels_last tensors; another layout of the input is copied. Raises ValueError for another
    padding_mode, TypeError for inputs of another dtype.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if reason := not_here(self):
            raise ValueError(f"Conv2d: {reason}")

    def geometry(self) -> tuple[list[int], list[int], list[int], int]:
        """stride, padding (top, bottom, left, right), dilation, groups, as the attributes are now."""
        if self.padding_mode != "zeros":
            raise ValueError(f"Conv2d: {not_here(self)}")
        stride, dilation = list(_pair(self.stride)), list(_pair(self.dilation))
        if self.padding == "same":
            total = [apart * (taps - 1) for apart, taps in zip(dilation, self.kernel_size, strict=True)]
            padding = [part for n in total for part in (n // 2, n - n // 2)]
        else:
            padding = [part for part in _pair(0 if self.padding == "valid" else self.padding) for _ in range(2)]
        return stride, padding, dilation, self.groups

    def forward(self, input: Tensor, activation: str = "linear", alpha: float = 0.0) -> Tensor:
        images = input if input.dim() == 4 else input.unsqueeze(0)
        y = operators.conv2d(images, self.weight, self.bias, *self.geometry(), activation, alpha)
        return y if input.dim() == 4 else y.squeeze(0)


class Linear(_Stored, nn.Linear):
    """torch.nn.Linear with fastbn's kernels, for float32 on the CPU. Raises TypeError for inputs of another dtype."""

    def forward(self, input: Tensor, activation: str = "linear", alpha: float = 0.0) -> Tensor:
        return operators.linear(input, self.weight, self.bias, activation, alpha)


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch-norm with PyTorch's meaning of momentum and its unbiased running variance.

    Statistics are float64 inside: y, gradients and running statistics stand for means far from zero as well.
    """

    def forward(
        self, input: Tensor, residual: Tensor | None = None, activation: str = "linear", alpha: float = 0.0
    ) -> Tensor:
        """act(batch_norm(input) + residual)"""
        x = input
        self._check_input_dim(x)
        self.check_channels(x.shape[1])
        options = (self.eps, activation, alpha)
        if self.takes_batch_statistics():
            y, mean, variance = operators.batch_norm(x, self.weight, self.bias, residual, *options)
            self.update(x, mean, variance)
            return y
        mean, variance = self.running_mean, self.running_var
        if torch.is_grad_enabled():  # a training pass may update them before this one goes back
            mean, variance = mean.clone(), variance.clone()
        return operators.batch_norm_inference(x, self.weight, self.bias, residual, mean, variance, *options)

    def check_channels(self, channels: int) -> None:
        if channels != self.num_features:
            raise ValueError(f"batch_norm: x must have {self.num_features} channels. Received: {channels}")

    def takes_batch_statistics(self) -> bool:
        return self.training or self.running_mean is None

    def update(self, x: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Running statistics after a batch x; PyTorch's error where a channel has one value, which has no variance."""
        if x.numel() == x.shape[1]:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
        if not self.training or not self.track_running_stats or self.running_mean is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        rows = x.numel() // x.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_((variance * (rows / (rows - 1))).to(self.running_var.dtype), share)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    __doc__ = "torch.nn.BatchNorm1d with fastbn's kernels, for float32 on the CPU. " + (_BatchNorm.__doc__ or "")


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    __doc__ = "torch.nn.BatchNorm2d with fastbn's kernels, for float32 on the CPU. " + (_BatchNorm.__doc__ or "")


class FusedConvBNReLU2d(nn.Module):
    """act(batch_norm(conv2d(x)) + residual) as one operator in training, forward and backward.

    conv and bn are layers of this module and hold the parameters: keys "conv.weight", "bn.weight", "bn.running_mean"
    and so on. activation: "relu", "leaky_relu" (slope `alpha`), "sigmoid", "tanh" or "linear".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        activation: str = "relu",
        alpha: float = 0.01,
    ) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.bn = BatchNorm2d(out_channels, eps, momentum)
        activation_code("FusedConvBNReLU2d", activation)
        self.activation, self.alpha = activation, alpha

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return chain(self.conv, self.bn, x, residual, self.activation, self.alpha)

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.Linear: Linear,
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
}


def not_here(module: nn.Module) -> str:
    """Why a layer of a known kind cannot be one of ours; "" where it can."""
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"padding_mode must be 'zeros'. Received: {module.padding_mode!r}"
    if hasattr(module, "parametrizations"):
        return "the weight must be a parameter. Received: a parametrization"
    for name, parameter in module.named_parameters(recurse=False):
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            return f"{name} must have a shape. Received: a lazy parameter"
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            return f"{name} must be float32 on the CPU. Received: {parameter.dtype} on {parameter.device}"
    return ""


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
_FUNCTIONS = {
    "relu": lambda x, alpha: torch.relu(x),
    "leaky_relu": nn.functional.leaky_relu,
    "sigmoid": lambda x, alpha: torch.sigmoid(x),
    "tanh": lambda x, alpha: torch.tanh(x),
}


def _hooked(*layers: nn.Module | None) -> bool:
    """Whether somebody watches the calls of a layer, or of all, or has given a layer a forward of its own."""
    if any(getattr(torch_module, kind) for kind in _GLOBAL_HOOKS):
        return True
    given = [layer for layer in layers if layer is not None]
    return any("forward" in layer.__dict__ or any(getattr(layer, kind) for kind in _HOOKS) for layer in given)


def _fits(first: Conv2d | Linear | None, x: Tensor, residual: Any) -> bool:
    """Whether a residual has the type and shape of first(x)."""
    if not isinstance(residual, torch.Tensor) or residual.dtype != torch.float32 or x.dtype != torch.float32:
        return False
    if first is None:
        return bool(residual.shape == x.shape)
    if isinstance(first, Linear):
        return bool(residual.shape == (*x.shape[:-1], first.out_features))
    shape = operators.conv2d_shape("conv2d", x, first.weight, first.bias, *first.geometry())
    return tuple(residual.shape) == shape


def chain(
    first: Conv2d | Linear | None,
    norm: _BatchNorm | None,
    x: Tensor,
    residual: Tensor | None,
    activation: str,
    alpha: float,
    last: nn.Module | None = None,
) -> Tensor:
    """act(norm(first(x)) + residual) in as few operators as there are; layers that are None are left out.

    last: the layer that the activation is, if it is one. Layers with hooks or a forward of their own are called one
    after another, so that these see what they always saw, and so are all where the operators have not what follows: a
    residual that is no tensor of the result's shape, a negative slope.
    """
    if isinstance(last, nn.LeakyReLU):
        alpha = float(last.negative_slope)
    layers = [layer for layer in (first, norm) if layer is not None]
    plain = residual is None or _fits(first, x, residual)
    if not plain or alpha < 0 or _hooked(*layers, last):
        for layer in layers:
            x = layer(x)
        x = x if residual is None else x + residual
        if last is not None:
            return last(x)
        return x if activation == "linear" else _FUNCTIONS[activation](x, alpha)
    if norm is None:
        assert first is not None
        return first.forward(x, activation, alpha)
    if first is None:
        return norm.forward(x, residual, activation, alpha)
    if not isinstance(first, Conv2d) or not norm.takes_batch_statistics() or x.dim() != 4:
        return norm.forward(first.forward(x), residual, activation, alpha)
    norm.check_channels(first.out_channels)
    operands = (x, first.weight, first.bias, norm.weight, norm.bias, residual)
    y, z, mean, variance = operators.conv2d_batch_norm(*operands, *first.geometry(), norm.eps, activation, alpha)
    norm.update(z, mean, variance)
    return y
