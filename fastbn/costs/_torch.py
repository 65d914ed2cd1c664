"""The analytic cost table of a PyTorch model: its layers are counted as PyTorch runs them, one after another."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from fastbn import _core
from fastbn._arrays import integer
from fastbn.costs._ceilings import VECTOR_FLOATS, known_ceilings
from fastbn.costs._measure import with_bounds
from fastbn.costs._table import CostRow, CostTable, Operation, Part

_FLOAT = 4  # bytes

#: Elementwise layers and pools, by class: what their backward pass reads beside dy, "x", "y" or nothing.
_POINTWISE = {
    "ReLU": "y", "ReLU6": "x", "LeakyReLU": "x", "Sigmoid": "y", "Tanh": "y", "Softmax": "y", "LogSoftmax": "y",
    "GELU": "x", "SiLU": "x", "Hardswish": "x", "Hardsigmoid": "x", "ELU": "x",
    "Dropout": "y", "Dropout2d": "",
    "MaxPool1d": "y", "MaxPool2d": "y", "AvgPool1d": "", "AvgPool2d": "",
    "AdaptiveAvgPool1d": "", "AdaptiveAvgPool2d": "", "AdaptiveMaxPool2d": "y",
    "ZeroPad2d": "", "Upsample": "",
}  # fmt: skip
_FREE = ("Flatten", "Unflatten", "Identity")
_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm", "GroupNorm", "InstanceNorm2d")
_PRODUCTS = ("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
_KNOWN = (*_POINTWISE, *_FREE, *_NORMS, *_PRODUCTS)

#: Operators outside of known layers that only look at a tensor in another way or make constants.
_VIEWS = (
    "view", "_unsafe_view", "reshape", "flatten", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand",
    "slice", "select", "detach", "alias", "as_strided", "split", "chunk", "unbind", "empty", "zeros", "ones",
    "lift_fresh",
)  # fmt: skip
#: Elementwise ones that get a row of their own, with what they are called.
_FUNCTIONS = {
    "add": "Add", "add_": "Add", "cat": "Concatenate", "relu": "ReLU", "relu_": "ReLU", "mul": "Multiply",
}  # fmt: skip


def from_torch(module: Any, input_shape: Sequence[int], batch_size: int = 128) -> CostTable:
    """The cost table of a training step of a PyTorch module, from shapes alone; nothing is run or changed.

    input_shape: of one sample, as the module takes it: (3, 224, 224). The module is copied to PyTorch's "meta" device,
    which has shapes and no data, and called once. Layers are counted by the rules of `model.costs`: multiply-adds of
    convolutions and linear layers, forward, gradient into the data (where a trainable layer lies before) and gradient
    into the weights. Bytes are those of a framework that runs one operator after another: all cross. The update is not
    counted, the table knows no optimizer.

    What is not known - other layers, and arithmetic that a module does outside of layers - has no counts and is named
    in `uncounted`. Raises ImportError without PyTorch, TypeError where `module` is no torch.nn.Module, ValueError for a
    shape with sizes below one; errors of the module itself pass.
    """
    torch: Any = import_module("torch")
    dispatch: Any = import_module("torch.utils._python_dispatch")
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"from_torch: module must be a torch.nn.Module. Received: {type(module).__name__}")
    shape = [integer("from_torch", "input_shape", size) for size in input_shape]
    batch = integer("from_torch", "batch_size", batch_size)
    if min([batch, *shape]) < 1:
        raise ValueError(
            f"from_torch: sizes must be at least 1. Received: input_shape={tuple(shape)}, batch_size={batch}"
        )
    model = copy.deepcopy(module).to("meta").train()
    names = {id(part): name or type(model).__name__ for name, part in model.named_modules()}
    rows: list[CostRow] = []
    uncounted: list[str] = []
    inside: list[Any] = []  # modules that are being called, the innermost last
    used: dict[str, int] = {}  # calls of a name
    counted: set[int] = set()  # parameters

    def unique(name: str) -> str:
        used[name] = used.get(name, 0) + 1
        return name if used[name] == 1 else f"{name} ({used[name]})"

    def parameters(part: Any) -> int:
        own = {id(p): p.numel() for p in part.parameters() if id(p) not in counted}
        counted.update(own)
        return sum(own.values())

    def is_layer(part: Any) -> bool:
        return _kind(part) in _KNOWN or not any(part.children())

    def enter(part: Any, arguments: Any) -> None:
        if any(is_layer(outer) for outer in inside):
            return
        inside.append(part)

    def leave(part: Any, arguments: Any, result: Any) -> None:
        if not inside or inside[-1] is not part:
            return
        inside.pop()
        if not is_layer(part):
            return
        kind, name = _kind(part), unique(names[id(part)])
        x = next((a for a in arguments if isinstance(a, torch.Tensor)), None)
        y = result if isinstance(result, torch.Tensor) else None
        operations: tuple[Operation, ...] = ()
        if kind not in _KNOWN or x is None or y is None:
            uncounted.append(f"{name} ({type(part).__name__})")
        else:
            operations = _operations(kind, part, x, y)
        rows.append(_row(name, kind, x, y, parameters(part), operations))

    class Outside(dispatch.TorchDispatchMode):  # type: ignore[misc]
        """Sees the operators that run outside of layers."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            what = func.overloadpacket.__name__
            if any(is_layer(outer) for outer in inside) or what in _VIEWS:
                return result
            where = names[id(inside[-1])] if inside else names[id(model)]
            name = unique(f"{where}: {what}")
            if what not in _FUNCTIONS or not isinstance(result, torch.Tensor):
                uncounted.append(name)
                return result
            given = [a for group in args for a in (group if isinstance(group, (list, tuple)) else [group])]
            tensors = [a for a in given if isinstance(a, torch.Tensor)]
            read, written = sum(map(_bytes, tensors)), _bytes(result)
            both = (("forward", "forward"), ("backward_data", "backward"))
            operations = tuple(Operation(n, d, 0, "", Part(bytes_crossing=read + written, calls=1)) for n, d in both)
            rows.append(_row(name, _FUNCTIONS[what], result, result, 0, operations))
            return result

    hooks = [hook for part in model.modules() for hook in (
        part.register_forward_pre_hook(enter), part.register_forward_hook(leave),
    )]  # fmt: skip
    try:
        x = torch.zeros((batch, *shape), device="meta")
        with Outside():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    if left := parameters(model):  # of modules that hold parameters beside their layers
        rows.append(CostRow(f"{names[id(model)]}: other parameters", "parameters", "", (), left, ()))
    table = CostTable(
        model=type(module).__name__,
        batch_size=batch,
        optimizer="no optimizer",
        rows=tuple(rows),
        isa=_core.isa_in_use(),
        vector_floats=VECTOR_FLOATS[_core.isa_in_use()],
        threads=_core.get_num_threads(),
        uncounted=tuple(uncounted),
    )
    return with_bounds(table, known_ceilings(), sum(row.total.bytes_crossing for row in rows))


def _kind(part: Any) -> str:
    """The known class that a module is of, or else its own."""
    return next((c.__name__ for c in type(part).__mro__ if c.__name__ in _KNOWN), type(part).__name__)


def _bytes(tensor: Any) -> int:
    return int(tensor.numel()) * _FLOAT


def _row(name: str, kind: str, x: Any, y: Any, parameters: int, operations: tuple[Operation, ...]) -> CostRow:
    def sample(tensor: Any) -> tuple[int, ...]:
        return () if tensor is None else tuple(tensor.shape[1:])

    return CostRow(name, kind, "", sample(y), parameters, operations, fan_in_shape=sample(x))


def _operations(kind: str, part: Any, x: Any, y: Any) -> tuple[Operation, ...]:
    """What a known layer does in a step; x carries whether its gradient is needed."""
    if kind in _FREE:
        return ()
    data = bool(x.requires_grad)
    given, made = _bytes(x), _bytes(y)

    def operation(name: str, multiply_adds: int, moved: int) -> Operation:
        direction = "forward" if name == "forward" else "backward"
        return Operation(name, direction, 0, "", Part(multiply_adds, bytes_crossing=moved, calls=1))

    if kind in _PRODUCTS:
        weights = part.weight.numel() * _FLOAT
        # A weight of a convolution works at every place of its output, of a transposed one at every place of its input.
        places = x if "Transpose" in kind else y
        channels = part.in_channels if "Transpose" in kind else y.shape[-1] if kind == "Linear" else part.out_channels
        count = places.numel() // channels * part.weight.numel()
        found = [operation("forward", count, given + weights + made)]
        if part.weight.requires_grad:
            found.append(operation("backward_filter", count, given + made + weights))
        if data:
            found.append(operation("backward_data", count, made + weights + given))
        return tuple(found)
    if kind in _NORMS:
        found = [operation("forward", 0, 2 * given + made)]  # once for the statistics
        if data or any(p.requires_grad for p in part.parameters()):
            found.append(operation("backward", 0, 2 * (given + made) + given))  # once for the sums
        return tuple(found)
    kept = {"x": given, "y": made, "": 0}[_POINTWISE[kind]]
    found = [operation("forward", 0, given + made)]
    if data:
        found.append(operation("backward", 0, made + kept + given))
    return tuple(found)
