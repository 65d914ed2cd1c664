"""The program behind a model: a network with settings, planned in C++, and weights that move between programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import FLOAT32, Float32, Shape, allocate
from fastbn.layers.core import Activation, Dense, InputLayer, Softmax
from fastbn.layers.images import Conv2D
from fastbn.layers.layer import Layer, Network, Tensor
from fastbn.layers.shaping import Rescaling
from fastbn.losses import Loss
from fastbn.metrics import Metric
from fastbn.ops._options import algorithm_code
from fastbn.ops.normalization import batch_norm_merge, batch_norm_partial
from fastbn.optimizers import Optimizer

CHUNK = 4096  # rows of one call of evaluate or predict: between calls an interrupt is seen


@dataclass(frozen=True)
class Training:
    """What `compile` was given."""

    optimizer: Optimizer
    loss: Loss
    metrics: tuple[Metric, ...] = ()
    conv_algorithm: str = "auto"
    keep_gradients: bool = False
    frozen: frozenset[Layer] = frozenset()  # not trainable at that time

    def fits(self, layer: Layer) -> bool:
        """Whether the loss and the last layer belong together: softmax is part of a cross-entropy, once."""
        return self.loss.kind != _core.LOSS_SOFTMAX_CROSS_ENTROPY or _ends_in_softmax(layer) != self.loss.from_logits

    def check_output(self, output: Tensor) -> None:
        """Raises NotImplementedError where the loss and the model's last activation do not belong together."""
        if not self.fits(output.layer):
            state = "ends in softmax" if _ends_in_softmax(output.layer) else "does not end in softmax"
            raise NotImplementedError(
                f"compile: {self.loss.name} takes a model that ends in softmax, or from_logits=True and one that does "
                f"not. Received: from_logits={self.loss.from_logits}, and the model {state}"
            )


def _ends_in_softmax(layer: Layer) -> bool:
    return isinstance(layer, Softmax) or (
        isinstance(layer, (Activation, Dense, Conv2D)) and layer.activation == "softmax"
    )


@dataclass
class Totals:
    """Sums over the samples of some steps, and the logs made of them."""

    training: Training
    rows: int = 1  # predictions in a sample: accuracy is their mean
    loss: float = 0.0
    samples: int = 0
    sums: dict[str, float] = field(default_factory=lambda: {"correct": 0, "absolute_error": 0, "squared_error": 0})

    def add(self, result: tuple[float, int, int, float, float]) -> None:
        loss, samples, correct, absolute, squared = result
        self.loss += loss * samples
        self.samples += samples
        sums = self.sums
        sums["correct"] += correct / self.rows
        sums["absolute_error"] += absolute
        sums["squared_error"] += squared

    def logs(self, prefix: str = "") -> dict[str, float]:
        count = max(self.samples, 1)
        logs = {f"{prefix}loss": self.loss / count}
        for metric in self.training.metrics:
            logs[prefix + metric.name] = self.sums[metric.source] / count
        return logs


class Engine:
    """A network, its program and the places of its parameters."""

    def __init__(
        self,
        output: Tensor,
        seed: int,
        training: Training | None = None,
        input_dtype: int = _core.FLOAT32,
        max_batch: int | None = None,
        timing: bool = False,
    ) -> None:
        self.output = output
        self.seed = seed
        self.training = training
        self.network = Network(output, input_dtype, None if training is None else training.frozen)
        self.input = next(t for t in self.network.tensors if isinstance(t.layer, InputLayer))
        self.input_dtype = _core.UINT8 if self._input_layer.dtype == "uint8" else input_dtype
        self.input_shape = self.network.shape(self.input)
        self.output_shape = self.network.shape(output)
        self.capacity = max_batch  # None: the first step decides
        options: dict[str, Any] = {}
        if training is not None:
            training.check_output(output)
            options = {
                "loss": training.loss.kind,
                "labels_dtype": training.loss.labels_dtype,
                "optimizer": training.optimizer.descriptor(),
                "conv_algorithm": algorithm_code("compile", training.conv_algorithm, "conv_algorithm"),
                "keep_gradients": training.keep_gradients,
            }
        self.program = _core.Program(
            self.network.graph,
            self.network.nodes[output.number],
            max_batch=max_batch or 1,
            seed=seed,
            timing=timing,
            **options,
        )
        self.parameters = {name: (i, shape) for i, (name, shape, _) in enumerate(self.program.parameters())}
        self.trainable = {name for name, _, trainable in self.program.parameters() if trainable}
        if training is not None:
            training.optimizer.bind(self.program)

    @property
    def _input_layer(self) -> InputLayer:
        assert isinstance(self.input.layer, InputLayer)
        return self.input.layer

    @cached_property
    def takes_bytes(self) -> bool:
        """Whether uint8 data can go in as they are: the input is read by Rescaling layers alone."""
        readers = [t.layer for t in self.network.tensors if self.input in t.inputs]
        return self._input_layer.dtype is None and all(isinstance(layer, Rescaling) for layer in readers)

    def planned(self, batch_size: int) -> Engine:
        """An engine beside this one for batches of another size, with weights of its own."""
        made = Engine(self.output, self.seed, self.training, self.input_dtype, batch_size)
        if self.training is not None:  # whose iterations stay this engine's
            self.training.optimizer.bind(self.program)
        return made

    def with_input(self, input_dtype: int) -> Engine:
        """The same engine for data of another dtype, with its whole state."""
        made = Engine(self.output, self.seed, self.training, input_dtype, self.capacity)
        made.carry_weights(self)
        made.carry_optimizer(self)
        return made

    def carry_weights(self, other: Engine) -> None:
        """Take over the weights of another engine; parameters that it has not stay as they are."""
        self.set(
            (name, "value", other.get(name))
            for name, (_, shape) in self.parameters.items()
            if name in other.parameters and other.parameters[name][1] == shape
        )

    def carry_optimizer(self, other: Engine) -> None:
        if self.training is None or other.training is None:
            return
        self.set((name, slot, other.get(name, slot)) for name, slot in self.slots())
        self.program.iteration = other.program.iteration

    def state(self) -> dict[str, Any]:
        """Everything that `Engine.restored` needs to go on from here with the same bits."""
        arrays = [(name, "value", self.get(name)) for name in self.parameters]
        if self.training is not None:
            arrays += [(name, slot, self.get(name, slot)) for name, slot in self.slots()]
        return {
            "input_dtype": self.input_dtype,
            "capacity": self.capacity,
            "iteration": self.program.iteration,
            "arrays": arrays,
        }

    @classmethod
    def restored(cls, output: Tensor, seed: int, training: Training | None, state: dict[str, Any]) -> Engine:
        """The engine of the same network whose `state` this is."""
        engine = cls(output, seed, training, state["input_dtype"], state["capacity"])
        engine.set(state["arrays"])
        engine.program.iteration = state["iteration"]
        return engine

    def slots(self) -> Iterator[tuple[str, str]]:
        """(parameter, slot) of every array that the optimizer keeps."""
        assert self.training is not None
        names = self.training.optimizer.descriptor().slot_names
        return ((parameter, slot) for parameter in self.parameters if parameter in self.trainable for slot in names)

    def names_of(self, layer: Layer) -> list[str]:
        """The parameters of a layer in Keras' order."""
        return [name for name in self.parameters if name.rpartition("/")[0] == layer.name]

    def get(self, name: str, what: str = "value") -> Float32:
        return self.program.get(self.parameters[name][0], what)

    def set(self, values: Iterable[tuple[str, str, Float32]]) -> None:
        """Set (parameter, "value" or a slot, array): all or, where an interrupt (Ctrl-C) comes first, none."""
        self.program.set_all([(self.parameters[name][0], what, value) for name, what, value in values])

    def set_capacity(self, batch_size: int) -> None:
        if self.capacity != batch_size:
            self.capacity = None  # an interrupt may come before it is known again
            self.program.set_max_batch(batch_size)
            self.capacity = batch_size

    @cached_property
    def rows(self) -> int:
        """Predictions in a sample: one, or one for each pixel."""
        return int(np.prod(self.output_shape[:-1], dtype=np.int64))

    def outer(self, array: Float32) -> Float32:
        """A result in the layout that images have outside."""
        if self.network.channels_first and array.ndim == 4:
            return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
        return array

    def node_output(self, tensor: Tensor, x: npt.NDArray[Any]) -> Float32:
        """The value of a layer in inference mode."""
        node, shape = self.network.nodes[tensor.number], self.network.shape(tensor)
        out = allocate("layer_outputs", (len(x), *shape), FLOAT32)
        for begin in range(0, len(x), CHUNK):
            count = min(CHUNK, len(x) - begin)
            self.program.node_output(node, x, None, begin, count, out[begin : begin + count])
        return self.outer(out)

    def statistics(self, tensor: Tensor, x: npt.NDArray[Any]) -> tuple[Float32, Float32]:
        """Mean and biased variance of each channel of a layer's value over x, in inference mode, merged by chunks."""
        node, shape = self.network.nodes[tensor.number], self.network.shape(tensor)
        rows = len(x) * int(np.prod(shape[:-1], dtype=np.int64))
        value = allocate("statistics", (min(CHUNK, len(x)), *shape), FLOAT32)
        shards = []
        for begin in range(0, len(x), CHUNK):
            count = min(CHUNK, len(x) - begin)
            self.program.node_output(node, x, None, begin, count, value[:count])
            shards.append(batch_norm_partial(value[:count], total_rows=rows))
        counts, means, m2s = zip(*shards, strict=True)
        mean, variance = batch_norm_merge(counts, np.stack(means), np.stack(m2s))
        return mean.astype(np.float32), variance.astype(np.float32)

    @cached_property
    def outer_input_shape(self) -> Shape:
        return tuple(size for size in self.network.outer_shape(self.input) if size is not None)

    @cached_property
    def outer_output_shape(self) -> Shape:
        return tuple(size for size in self.network.outer_shape(self.output) if size is not None)
