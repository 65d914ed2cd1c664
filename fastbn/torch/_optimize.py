"""Puts fastbn's layers into a PyTorch model and fuses chains of them."""

from __future__ import annotations

import inspect
import operator
import types
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fastbn.torch._modules import KINDS, Conv2d, Linear, _BatchNorm, chain, not_here, store_for_kernels


@dataclass(frozen=True)
class Changes:
    """What `optimize` did to a model."""

    replaced: tuple[tuple[str, str], ...]  #: name of a layer, its class
    fused: tuple[str, ...]  #: chains, "layer1.0.conv1 + layer1.0.bn1 + relu"
    left: tuple[tuple[str, str], ...]  #: name of a layer or module, why it is as it was

    def __str__(self) -> str:
        kinds: dict[str, int] = {}
        for _, kind in self.replaced:
            kinds[kind] = kinds.get(kind, 0) + 1
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing"
        lines = [f"replaced: {counts}", f"fused: {len(self.fused)} chain{'s' if len(self.fused) != 1 else ''}"]
        lines += [f"  {text}" for text in self.fused]
        lines += [f"left as it was: {name}: {why}" for name, why in self.left]
        return "\n".join(lines)


def optimize(model: nn.Module) -> Changes:
    """Let fastbn's kernels run what they know of a model, in place, for training and for inference.

    Layers of exactly the classes Conv2d, Linear, BatchNorm1d and BatchNorm2d become fastbn.torch's of the same name:
    the same objects with the same parameters, hooks and state_dict keys; only the memory of weights is laid out anew,
    so optimizers made before go on. Then every module that calls such layers in a row has them fused: convolution or
    linear layer, batch-norm, addition of another tensor, ReLU, LeakyReLU, Sigmoid or Tanh (as modules or functions).

    Fusing reads a module's `forward` once with torch.fx; what it decides in Python (loops, branches on anything but
    values) is then fixed. Modules whose forward cannot be read so, depends on `training`, has optional arguments,
    switches gradients or autocast, or writes to its module, run as written over the replaced layers, and so does a
    module whose layers were exchanged later. Returns what was changed and what was left, with reasons.

    Raises TypeError where `model` is none.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize: model must be a torch.nn.Module. Received: {type(model).__name__}")
    replaced, fused, left = [], [], []
    for name, module in model.named_modules():
        ours = KINDS.get(type(module))
        if ours is None:
            continue
        name = name or type(module).__name__
        if reason := not_here(module):
            left.append((name, reason))
            continue
        module.__class__ = ours
        if isinstance(module, (Conv2d, Linear)):
            store_for_kernels(module)
        replaced.append((name, ours.__name__))
    for name, module in model.named_modules():
        if not any(isinstance(child, tuple(KINDS.values())) for child in module.children()):
            continue
        found, reason = _fuse(module)
        fused += [" + ".join(f"{name}.{part}" if name and at else part for part, at in parts) for parts in found]
        if reason:
            left.append((name or type(module).__name__, reason))
    return Changes(tuple(replaced), tuple(fused), tuple(left))


# ---------------------------------------------------------------------------------------------------------- one module


class _Recorded(fx.Proxy):
    """A value of a forward that is being recorded; x += y stays what it is, since other names may mean the same x."""


def _in_place(function: Any) -> Any:
    def call(self: _Recorded, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return call


_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")
for _name in _IN_PLACE:
    setattr(_Recorded, f"__{_name}__", _in_place(getattr(operator, _name)))


def _modes() -> tuple[bool, ...]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")


class _Flat(fx.Tracer):
    """Records a module's own forward; the modules it calls stay calls. What a recording would lose raises."""

    def __init__(self) -> None:
        super().__init__()
        self._modes = _modes()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Recorded(node, self)

    def create_node(self, *arguments: Any, **options: Any) -> fx.Node:
        if _modes() != self._modes:
            raise ValueError("it switches gradients or autocast")
        return super().create_node(*arguments, **options)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(value is b[name] for name, value in a.items())


def _record(module: nn.Module) -> fx.Graph:
    """A module's forward as a graph. Raises ValueError where it does what a graph does not show."""
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.default is not parameter.empty or parameter.kind not in _POSITIONAL:
            raise ValueError("it has optional arguments")
    before = [(part, dict(part.__dict__)) for part in module.modules()]
    try:
        graph = _Flat().trace(module)
    finally:
        changed = [(part, held) for part, held in before if not _same(part.__dict__, held)]
        for part, held in changed:
            part.__dict__.clear()
            part.__dict__.update(held)
    if changed:
        raise ValueError("it writes to its module, or makes tensors of its own")
    return graph


def _layers(module: nn.Module, targets: list[str]) -> tuple[list[str], list[type[nn.Module]]]:
    """Names of a module's children, and classes of the layers that its forward calls, where they are all there."""
    try:
        return [*module._modules], [type(module.get_submodule(target)) for target in targets]
    except AttributeError:
        return [*module._modules], []


def _while_unedited(recorded: Any, module: nn.Module, targets: list[str]) -> Any:
    """The recorded forward, as long as a module has the layers that it has now; then the one of its class."""
    layers = _layers(module, targets)

    def forward(module: nn.Module, *arguments: Any, **options: Any) -> Any:
        run = recorded if _layers(module, targets) == layers else type(module).forward
        return run(module, *arguments, **options)

    return forward


def _fuse(module: nn.Module) -> tuple[list[list[tuple[str, bool]]], str]:
    """Chains that were fused in a module's own forward, as (name, whether of a layer); why none could be looked for."""
    own = module.__dict__.get("forward")
    if own is not None and getattr(own, "__func__", None) is not type(module).forward:
        return [], "forward was set on the object: fused before, or by somebody else"
    training = module.training
    sources = []
    try:
        for mode in (False, True):
            module.training = mode
            graph = _record(module)
            sources.append(graph.python_code("self").src)
    except Exception as error:  # whatever a forward does that cannot be recorded
        return [], f"forward cannot be recorded: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    finally:
        module.training = training
    if sources[0] != sources[1]:
        return [], "forward depends on training"
    order = {node: place for place, node in enumerate(graph.nodes)}
    targets = sorted({str(node.target) for node in order if node.op == "call_module"})
    found: list[list[tuple[str, bool]]] = []
    fused: set[fx.Node] = set()
    for node in order:
        made = None if node in fused else _chain_from(module, node, order)
        if made is not None:
            fused.update(made.nodes)
            made.put_into(graph)
            found.append(made.said)
    if found:
        recorded = fx.GraphModule(module, graph, type(module).__name__)
        # A bound method, so that a deep copy calls its own layers and a pickle falls back on the class's forward.
        module.forward = types.MethodType(_while_unedited(type(recorded).forward, module, targets), module)
    return found, ""


@dataclass
class _Chain:
    """Nodes of a chain in the order of their calls; each but the last is used by the next alone."""

    nodes: list[fx.Node]
    first: fx.Node | None = None
    norm: fx.Node | None = None
    residual: fx.Node | None = None
    last: fx.Node | None = None  # the activation, where it is a layer
    activation: str = "linear"
    alpha: float = 0.0
    said: list[tuple[str, bool]] = field(default_factory=list)

    def put_into(self, graph: fx.Graph) -> None:
        """Replace the chain by one call where its last node stood."""
        x = self.nodes[0].args[0]
        with graph.inserting_before(self.nodes[-1]):
            nodes = (self.first, self.norm, self.last)
            first, norm, last = (None if node is None else graph.get_attr(node.target) for node in nodes)
            call = graph.call_function(chain, (first, norm, x, self.residual, self.activation, self.alpha, last))
        self.nodes[-1].replace_all_uses_with(call)
        for node in reversed(self.nodes):
            graph.erase_node(node)


def _layer(module: nn.Module, node: fx.Node, kinds: Any) -> nn.Module | None:
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    layer = module.get_submodule(node.target)
    return layer if isinstance(layer, kinds) else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


_ADDITIONS = (operator.add, operator.iadd, torch.add)
_ACTIVATIONS: dict[Any, tuple[str, float]] = {
    nn.ReLU: ("relu", 0.0), nn.Sigmoid: ("sigmoid", 0.0), nn.Tanh: ("tanh", 0.0),
    torch.relu: ("relu", 0.0), nn.functional.relu: ("relu", 0.0), "relu": ("relu", 0.0), "relu_": ("relu", 0.0),
    torch.relu_: ("relu", 0.0), torch.sigmoid: ("sigmoid", 0.0), "sigmoid": ("sigmoid", 0.0),
    torch.tanh: ("tanh", 0.0), "tanh": ("tanh", 0.0),
}  # fmt: skip


def _activation(module: nn.Module, node: fx.Node) -> tuple[str, float] | None:
    """Name and slope of the activation that a node is."""
    if len(node.args) != 1:
        return None
    if node.op == "call_module":
        layer = module.get_submodule(node.target)
        if type(layer) is nn.LeakyReLU:
            return "leaky_relu", float(layer.negative_slope)
        return _ACTIVATIONS.get(type(layer))
    if node.op in ("call_function", "call_method") and set(node.kwargs) <= {"inplace"}:
        return _ACTIVATIONS.get(node.target)
    return None


def _writes(module: nn.Module, node: fx.Node, read: set[fx.Node]) -> bool:
    """Whether a node may change a tensor in `read`, or a view of one."""
    if node.op == "call_module":
        inside = module.get_submodule(node.target).modules()
        return bool(read.intersection(node.args)) and any(getattr(part, "inplace", False) for part in inside)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    by_operator = node.op == "call_function" and name in (*_IN_PLACE, "setitem")
    return in_place or by_operator or bool(node.kwargs.get("inplace")) or "out" in node.kwargs


def _chain_from(module: nn.Module, node: fx.Node, order: dict[fx.Node, int]) -> _Chain | None:
    """The longest chain that begins at a node: [convolution or linear] [batch-norm [+ tensor]] [activation]."""
    found = _Chain([])

    def take(taken: fx.Node, name: str, of_a_layer: bool) -> fx.Node | None:
        found.nodes.append(taken)
        found.said.append((name, of_a_layer))
        return _only_user(taken)

    def normalises(other: fx.Node) -> bool:
        """Whether a node is a batch-norm's only call: of several, the order decides the running statistics."""
        layer = _layer(module, other, _BatchNorm)
        if layer is None:
            return False
        calls = [n for n in order if n.op == "call_module" and module.get_submodule(n.target) is layer]
        return len(calls) == 1

    following: fx.Node | None = node
    if _layer(module, node, (Conv2d, Linear)):
        found.first = node
        following = take(node, str(node.target), True)
    if following is not None and normalises(following):
        found.norm = following
        following = take(following, str(following.target), True)
    if not found.nodes:
        return None
    if found.norm is not None and following is not None and following.target in _ADDITIONS:
        other = [argument for argument in following.args if argument is not found.nodes[-1]]
        into_another = following.target is operator.iadd and other == [following.args[0]]
        plain = len(following.args) == 2 and not following.kwargs and not into_another
        if plain and len(other) == 1 and isinstance(other[0], fx.Node):
            found.residual = other[0]
            following = take(following, "add", False)
    if following is not None and (activation := _activation(module, following)):
        found.activation, found.alpha = activation
        found.last = following if following.op == "call_module" else None
        take(following, activation[0], False)
    if len(found.nodes) < 2:
        return None
    # The fused call stands where the last node stood: nothing in between may write what it reads.
    begin, end, read = order[node], order[found.nodes[-1]], {node.args[0], found.residual}
    between = [n for n in order if begin < order[n] < end and n not in found.nodes]
    return None if any(_writes(module, n, read) for n in between) else found
