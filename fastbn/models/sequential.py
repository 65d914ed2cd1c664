"""A model made of layers one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fastbn.layers.core import Input, InputLayer
from fastbn.layers.layer import Layer, Tensor, sample_shape
from fastbn.models.engine import Engine
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
        """Put a layer at the end; weights of the others are kept, and nothing changes where it is refused.

        Where the loss no longer fits the last layer the model is not compiled any more. Raises RuntimeError while the
        model is in training.
        """
        if isinstance(layer, Tensor):
            if layer.inputs:
                raise TypeError("Sequential.add: takes layers or fastbn.Input(...). Received: the output of a layer")
            layer = layer.layer
        if not isinstance(layer, Layer):
            raise TypeError(f"Sequential.add: takes layers. Received: {type(layer).__name__}")
        with self._turns.choice:
            self._turns.refuse_while_training("Sequential.add")
            if isinstance(layer, InputLayer):
                if self._stack or self._output is not None:
                    raise ValueError("Sequential.add: the input must be the first. Received: an input behind layers")
                self._begin(layer)
                return
            if layer in self._stack:
                raise NotImplementedError(
                    f"Sequential.add: a layer can be applied once. Received: '{layer.name}' again"
                )
            owner, output, names = layer._owner, self._output, set(self._names)
            layer.adopt(self)
            try:
                if layer.declared_shape is not None and not self._stack and self._output is None:
                    self._begin(InputLayer(layer.declared_shape))
                layer.name_among(self._names)
                if self._output is not None:
                    layer.detach()
                    self._output = layer(self._output)
                self._restack([*self._stack, layer])
            except BaseException:
                layer.detach()
                layer._owner, self._output, self._names = owner, output, names
                raise

    def _begin(self, layer: InputLayer) -> None:
        layer.adopt(self)
        layer.name_among(self._names)
        self._output = Tensor(layer, ())
        layer._tensor = self._output

    def pop(self) -> Layer:
        """Take the last layer away; weights of the others are kept.

        Where the loss no longer fits the last layer the model is not compiled any more. Raises ValueError where there
        is no layer, RuntimeError while the model trains.
        """
        with self._turns.choice:
            self._turns.refuse_while_training("Sequential.pop")
            if not self._stack:
                raise ValueError("Sequential.pop: there is no layer")
            layer, output = self._stack[-1], self._output
            if output is not None:
                self._output = output.inputs[0]
            try:
                self._restack(self._stack[:-1])
            except BaseException:
                self._output = output
                raise
            self._names.discard(layer.name)
            layer.detach()
            layer._owner = None
            return layer

    def _restack(self, stack: list[Layer]) -> None:
        """Take these layers, which end in the output, or change nothing; weights of layers that stay are kept."""
        old, engine, training = self._engine, None, self._training
        if training is not None:
            added = {layer for layer in stack if layer not in self._stack and not layer.trainable}
            training = replace(training, frozen=training.frozen | added)
        if old is not None:
            if training is not None and not (stack and training.fits(stack[-1])):
                training = None
            if stack:
                assert self._output is not None
                engine = Engine(self._output, self._seed, training)
                engine.carry_weights(old)
        self._stack, self._engine, self._training = stack, engine, training

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
