"""What a layer is: a description that becomes a node of a graph, and symbolic values that connect layers.

Shapes seen from outside are Keras': they begin with None for the batch, and images of a model whose layers say
`data_format="channels_first"` are (None, C, H, W). Inside, images are always (H, W, C).
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastbn import _core
from fastbn._arrays import Float32, Shape, integer

if TYPE_CHECKING:
    from fastbn.models import Model

OuterShape: TypeAlias = tuple[int | None, ...]  # None, then the shape of one sample
Fields: TypeAlias = tuple[int, dict[str, Any]]  # kind and fields of fbn_layer

_NOT_BUILT_IN = {
    "activity_regularizer",
    "autocast",
    "beta_constraint",
    "beta_regularizer",
    "bias_constraint",
    "bias_regularizer",
    "gamma_constraint",
    "gamma_regularizer",
    "kernel_constraint",
    "kernel_regularizer",
    "lora_alpha",
    "lora_rank",
    "noise_shape",
    "quantization_config",
    "ragged",
    "renorm",
    "renorm_clipping",
    "renorm_momentum",
    "sparse",
    "synchronized",
    "tensor",
    "weights",
}

_count = itertools.count()


def snake_case(name: str) -> str:
    """ "MaxPooling2D" -> "max_pooling2d" """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", name).lower()


def sample_shape(owner: str, shape: Any) -> Shape:
    """A shape of one sample as a tuple. Raises TypeError or ValueError, and NotImplementedError for unknown sizes."""
    if isinstance(shape, (int, np.integer)):
        shape = (shape,)
    if not isinstance(shape, Iterable):
        raise TypeError(f"{owner}: a shape must be a tuple of integers. Received: {shape!r}")
    sizes = tuple(shape)
    if None in sizes:
        raise NotImplementedError(f"{owner}: every size but the batch must be known. Received: shape={sizes}")
    sizes = tuple(integer(owner, "shape", size) for size in sizes)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{owner}: a shape must have one size or more, all at least 1. Received: shape={sizes}")
    return sizes


@dataclass(frozen=True)
class Context:
    """What a layer must know to describe itself: its inputs' shapes inside, and the layout that images have outside."""

    shapes: tuple[Shape, ...]
    channels_first: bool
    input_dtype: int  # of the data that the model is given

    @property
    def shape(self) -> Shape:
        return self.shapes[0]

    def is_outer_image(self) -> bool:
        """Whether the first input is an image that is seen as (C, H, W) outside."""
        return self.channels_first and len(self.shape) == 3


class Layer:
    """Base of the layers. Weights exist once the layer is part of a model whose input shape is known."""

    data_format: str | None = None

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: str | None = None,
        input_shape: Any = None,
        batch_input_shape: Any = None,
        **unsupported: Any,
    ) -> None:
        cls = type(self).__name__
        for key, value in unsupported.items():
            if key not in _NOT_BUILT_IN:
                raise TypeError(f"{cls}: no such argument. Received: {key}={value!r}")
            if value is not None and value is not False:
                raise NotImplementedError(f"{cls}: {key} is not built in. Received: {key}={value!r}")
        if dtype not in (None, "float32", np.float32):
            raise NotImplementedError(f"{cls}: dtype must be float32. Received: dtype={dtype!r}")
        if name is not None and (not isinstance(name, str) or not name or "/" in name or "\0" in name):
            raise ValueError(
                f"{cls}: name must be a string that is not empty and has no '/' and no NUL. Received: name={name!r}"
            )
        self._name = name
        self._auto_name: str | None = None
        self.trainable = bool(trainable)
        if batch_input_shape is not None:
            input_shape = tuple(batch_input_shape)[1:]
        self.declared_shape = None if input_shape is None else sample_shape(cls, input_shape)
        self._tensor: Tensor | None = None
        self._owner: weakref.ref[Model] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tensor": None, "_owner": None}  # a copy belongs to no model yet

    # -------------------------------------------------------------- for graphs

    def fields(self, context: Context) -> Fields:
        """Kind and fields of the node for these inputs. Raises NotImplementedError or ValueError where it cannot be."""
        raise NotImplementedError

    def _many_inputs(self) -> bool:
        return False

    def __call__(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        """The symbolic value of this layer applied to others."""
        cls = type(self).__name__
        given: list[Any] = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        for value in given:
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{cls}: a layer is applied to fastbn.Input(...) or the result of a layer; arrays go through a "
                    f"model. Received: {type(value).__name__}"
                )
        if isinstance(inputs, (list, tuple)) and not self._many_inputs() and len(given) != 1:
            raise ValueError(f"{cls}: takes one input. Received: {len(given)}")
        if self._many_inputs() and len(given) < 2:
            raise ValueError(f"{cls}: takes a list of two inputs or more. Received: {len(given)}")
        if self._tensor is not None:
            raise NotImplementedError(f"{cls} '{self.name}': a layer can be applied once; weights are not shared.")
        tensor = Tensor(self, tuple(given))
        tensor.check()
        self._tensor = tensor
        return tensor

    # ---------------------------------------------------------------- for users

    @property
    def name(self) -> str:
        """The name given, or one that the model gave."""
        return self._name or self._auto_name or snake_case(type(self).__name__)

    def name_among(self, taken: set[str]) -> None:
        """Take a name that is not in `taken` and add it there: "dense", "dense_1", ... where none was given."""
        if self._name is not None:
            if self._name in taken:
                raise ValueError(f"model: layer names must be unique. Received: '{self._name}' twice")
        else:
            base = snake_case(type(self).__name__)
            numbered = (f"{base}_{i}" for i in itertools.count(1))
            self._auto_name = base if base not in taken else next(name for name in numbered if name not in taken)
        taken.add(self.name)

    def adopt(self, model: Model) -> None:
        """Become part of a model. Raises NotImplementedError where another model that is in use has the layer."""
        owner = None if self._owner is None else self._owner()
        if owner is not None and owner is not model:
            raise NotImplementedError(
                f"model '{model.name}': the layer '{self.name}' belongs to the model '{owner.name}'; layers are not "
                "shared. For outputs in between use layer_outputs(x)."
            )
        self._owner = weakref.ref(model)

    def detach(self) -> None:
        """Forget the value that this layer stood for, so that it can be applied anew."""
        self._tensor = None

    @property
    def owner(self) -> Model:
        """The model that this layer is part of. Raises ValueError where there is none."""
        owner = None if self._owner is None else self._owner()
        if owner is None:
            raise ValueError(f"{type(self).__name__} '{self.name}': is not part of a model yet")
        return owner

    @property
    def output(self) -> Tensor:
        """The symbolic value of this layer. Raises AttributeError before it was applied to an input."""
        if self._tensor is None:
            raise AttributeError(f"{type(self).__name__} '{self.name}': was not applied to an input yet")
        return self._tensor

    @property
    def input(self) -> Tensor | list[Tensor]:
        """The symbolic value, or values, that this layer is applied to."""
        inputs = self.output.inputs
        return inputs[0] if len(inputs) == 1 else list(inputs)

    @property
    def output_shape(self) -> OuterShape:
        """The shape of the output, None for the batch."""
        return self.output.shape

    def get_weights(self) -> list[Float32]:
        """Copies of the layer's weights: kernel, bias; gamma, beta, moving_mean, moving_variance."""
        return self.owner.layer_weights(self)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set what `get_weights` returns. Raises ValueError for another number of arrays or other shapes."""
        self.owner.set_layer_weights(self, weights)

    def count_params(self) -> int:
        """The number of weights."""
        return sum(self.owner.layer_cost(self)[:2])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}>"


class Tensor:
    """The symbolic value of a layer applied to others; `shape` begins with None for the batch."""

    def __init__(self, layer: Layer, inputs: tuple[Tensor, ...]) -> None:
        self.layer = layer
        self.inputs = inputs
        self.number = next(_count)
        self._shape: OuterShape | None = None

    def check(self) -> None:
        """Infer the shape. Raises ValueError where the layer does not fit its inputs."""
        self._shape = Network(self).outer_shape(self)

    @property
    def shape(self) -> OuterShape:
        if self._shape is None:
            self.check()
        assert self._shape is not None
        return self._shape

    @property
    def dtype(self) -> str:
        return "float32"

    @property
    def name(self) -> str:
        return self.layer.name

    def __repr__(self) -> str:
        return f"<Tensor shape={self.shape} layer={self.layer.name}>"


def _ordered(output: Tensor) -> list[Tensor]:
    """The values that `output` depends on: the farther from it the earlier, then as a search from it comes by."""
    found: dict[int, Tensor] = {}  # in the order of the search
    waiting = [output]
    while waiting:
        tensor = waiting.pop()
        if tensor.number not in found:
            found[tensor.number] = tensor
            waiting.extend(reversed(tensor.inputs))
    distance = dict.fromkeys(found, 0)
    for number in sorted(found, reverse=True):  # a value has a larger number than those it depends on
        for source in found[number].inputs:
            distance[source.number] = max(distance[source.number], distance[number] + 1)
    return sorted(found.values(), key=lambda tensor: -distance[tensor.number])


def take_apart(output: Tensor | None) -> list[tuple[Layer, list[int]]]:
    """The values that `output` depends on, itself last: their layers, and the places of their inputs in this list."""
    tensors = [] if output is None else sorted(_ordered(output), key=lambda tensor: tensor.number)
    places = {tensor.number: place for place, tensor in enumerate(tensors)}
    return [(tensor.layer, [places[source.number] for source in tensor.inputs]) for tensor in tensors]


def put_together(parts: list[tuple[Layer, list[int]]]) -> Tensor | None:
    """The value that `take_apart` was given, of layers that belong to nothing else."""
    tensors: list[Tensor] = []
    for layer, inputs in parts:
        layer._tensor = Tensor(layer, tuple(tensors[place] for place in inputs))
        tensors.append(layer._tensor)
    return tensors[-1] if tensors else None


class Network:
    """The layers behind a value in Keras' order, and their graph. `frozen` are the layers that are not trained, None
    those that say so now.
    """

    def __init__(
        self, output: Tensor, input_dtype: int = _core.FLOAT32, frozen: Collection[Layer] | None = None
    ) -> None:
        self.tensors = _ordered(output)
        self.channels_first = self._layout()
        self.graph = _core.Graph()
        self.nodes: dict[int, int] = {}  # number of a tensor -> node
        taken: set[str] = set()
        for tensor in self.tensors:
            inputs = [self.nodes[t.number] for t in tensor.inputs]
            shapes = tuple(self.graph.shape(node) for node in inputs)
            layer = tensor.layer
            kind, fields = layer.fields(Context(shapes, self.channels_first, input_dtype))
            # Names are made unique when the layers become part of a model; until then a number keeps them apart.
            name = layer.name if layer.name not in taken else f"{layer.name}#{tensor.number}"
            taken.add(name)
            still = not layer.trainable if frozen is None else layer in frozen
            self.nodes[tensor.number] = self.graph.add(kind, name, inputs, frozen=still, **fields)

    def _layout(self) -> bool:
        """Whether images are channels_first outside: what the image layers say, which must agree."""
        formats = {t.layer.data_format: t.layer.name for t in self.tensors if t.layer.data_format is not None}
        if len(formats) > 1:
            raise ValueError(
                "model: image layers must have one data_format. Received: "
                + ", ".join(f"{layout} in '{name}'" for layout, name in formats.items())
            )
        return "channels_first" in formats

    def shape(self, tensor: Tensor) -> Shape:
        """The shape of one sample inside."""
        return self.graph.shape(self.nodes[tensor.number])

    def outer_shape(self, tensor: Tensor) -> OuterShape:
        shape = self.shape(tensor)
        if self.channels_first and len(shape) == 3:
            shape = (shape[2], shape[0], shape[1])
        return (None, *shape)

    def cost(self, tensor: Tensor) -> tuple[int, int, int]:
        """Trainable parameters, other parameters, forward multiply-adds of one sample."""
        return self.graph.layer_cost(self.nodes[tensor.number])
