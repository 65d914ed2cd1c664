"""A model made of layers one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastbn.layers.core import Input, InputLayer
from fastbn.layers.layer import Layer, Tensor, sample_shape
from fastbn.models.model import Model


class Sequential(Model):
    """Layers one after the other.

    The input's shape comes from `fastbn.Input(...)` as the first item, from `input_shape=` of the first layer, from
    `build`, or from the first data.

    Raises TypeError for items that are not layers, ValueError where a layer does not fit the one before.
    """

    def __init__(self, layers: Iterable[Layer | Tensor] | None = None, name: str | None = None) -> None:
        self._start(name)
        self._stack: list[Layer] = []
        self._names: set[str] = set()
        for layer in layers or ():
            self.add(layer)

    @property
    def layers(self) -> list[Layer]:
        """The layers without the input."""
        return list(self._stack)

    def add(self, layer: Layer | Tensor) -> None:
        """Put a layer at the end. Raises RuntimeError while the model is in training."""
        self._turns.refuse_while_training("Sequential.add")
        if isinstance(layer, Tensor):
            if layer.inputs:
                raise TypeError("Sequential.add: takes layers or fastbn.Input(...). Received: the output of a layer")
            layer = layer.layer
        if not isinstance(layer, Layer):
            raise TypeError(f"Sequential.add: takes layers. Received: {type(layer).__name__}")
        if isinstance(layer, InputLayer):
            if self._stack or self._output is not None:
                raise ValueError("Sequential.add: the input must be the first. Received: an input behind layers")
            self._begin(layer)
            return
        if layer in self._stack:
            raise NotImplementedError(f"Sequential.add: a layer can be applied once. Received: '{layer.name}' again")
        layer.adopt(self)
        if layer.declared_shape is not None and not self._stack and self._output is None:
            self._begin(InputLayer(layer.declared_shape))
        names = set(self._names)
        layer.name_among(names)
        if self._output is not None:
            layer.detach()
            self._output = layer(self._output)
        self._names = names
        self._stack.append(layer)
        self._extend()

    def _begin(self, layer: InputLayer) -> None:
        layer.adopt(self)
        layer.name_among(self._names)
        self._output = Tensor(layer, ())
        layer._tensor = self._output

    def pop(self) -> Layer:
        """Take the last layer away. Raises ValueError where there is none, RuntimeError while the model trains."""
        self._turns.refuse_while_training("Sequential.pop")
        if not self._stack:
            raise ValueError("Sequential.pop: there is no layer")
        layer = self._stack.pop()
        self._names.discard(layer.name)
        if self._output is not None:
            self._output = self._output.inputs[0]
        layer.detach()
        layer._owner = None
        self._extend()
        return layer

    def _extend(self) -> None:
        """Make the program anew after the layers have changed; weights of layers that stay are kept."""
        old, self._engine = self._engine, None
        if old is not None and self._stack:
            self._require_engine("add").carry_weights(old)

    def build(self, input_shape: Any = None) -> None:
        """Give the input's shape, with None (or any number) for the batch: build((None, 784))."""
        shape = None if input_shape is None else sample_shape("build", tuple(input_shape)[1:])
        self._require_engine("build", shape)

    def _build(self, shape: tuple[int, ...] | None) -> None:
        if not self._stack:
            raise ValueError(f"model '{self.name}': a Sequential without layers has nothing to compute")
        if self._output is None and shape is not None:
            output = Input(shape)
            output.layer.adopt(self)
            output.layer.name_among(self._names)
            for layer in self._stack:
                layer.detach()
                output = layer(output)
            self._output = output
