"""Models: layers with weights that can be trained, evaluated and used."""

from __future__ import annotations

import copy
import itertools
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastbn import _core, losses, metrics, optimizers
from fastbn._arrays import FLOAT32, Float32, allocate, as_float32, integer, number
from fastbn._random import draw_seed, generator
from fastbn.callbacks import Callback, CallbackList, History, as_callbacks
from fastbn.layers.core import InputLayer
from fastbn.layers.layer import Layer, Network, OuterShape, Tensor, put_together, snake_case, take_apart
from fastbn.layers.normalization import BatchNormalization
from fastbn.metrics import Metric
from fastbn.models._data import batch_size_of, inner_input, inner_labels, outer_input, reject
from fastbn.models._files import read_arrays, write_arrays
from fastbn.models._program import ProgramText
from fastbn.models._progress import EpochProgress, format_logs, resolve_verbose
from fastbn.models._summary import print_summary
from fastbn.models._turns import Turn, Turns
from fastbn.models.engine import CHUNK, Engine, Totals, Training
from fastbn.ops._options import algorithm_code

if TYPE_CHECKING:
    from fastbn.costs import CostTable

Array = npt.NDArray[Any]
Callbacks = Callback | Iterable[Callback] | None


class Model:
    """A network from one symbolic input to one symbolic output.

    Example:
        inputs = fastbn.Input((28, 28, 1))
        outputs = layers.Dense(10, activation="softmax")(layers.Flatten()(inputs))
        model = fastbn.Model(inputs, outputs)

    Raises ValueError where the output does not depend on the input, or on another one too.
    """

    def __init__(self, inputs: Any = None, outputs: Any = None, name: str | None = None) -> None:
        if inputs is None and outputs is None:
            raise NotImplementedError(
                "Model: takes inputs and outputs; models whose call() says what they compute are not built in. "
                "Received: neither"
            )
        self._start(name)
        source, output = _single("inputs", inputs), _single("outputs", outputs)
        network = Network(output)
        read = [t for t in network.tensors if isinstance(t.layer, InputLayer)]
        if read != [source]:
            another = source not in read and source.name in [t.name for t in read]
            raise ValueError(
                f"Model: outputs must depend on inputs and on nothing else. Received: inputs={source.name}, "
                f"read are {[t.name for t in read]}{', another of that name' if another else ''}"
            )
        taken: set[str] = set()
        for tensor in sorted(network.tensors, key=lambda t: t.number):  # names count in the order of application
            tensor.layer.adopt(self)
            tensor.layer.name_among(taken)
        self._output: Tensor | None = output

    def _start(self, name: str | None) -> None:
        """The state of a model without layers. The seed is drawn here: it does not depend on when weights are made."""
        self.name = snake_case(type(self).__name__) if name is None else name
        self.stop_training = False
        self.history: History | None = None
        self._output = None
        self._seed = draw_seed()
        self._training: Training | None = None
        self._mixed_inputs = False  # uint8 and float data have come: bytes are converted from now on
        self._start_engine()

    def _start_engine(self) -> None:
        self._engine: Engine | None = None
        self._turns = Turns()

    # ------------------------------------------------------- pickle and deepcopy

    def __getstate__(self) -> dict[str, Any]:
        """Layers, settings, weights and the optimizer's state: a copy goes on training with the same bits."""
        with self._turns.choice:
            state = {k: v for k, v in self.__dict__.items() if k not in ("_engine", "_turns")}
            state["_output"] = take_apart(self._output)
            state["engine"] = None if self._engine is None else self._engine.state()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        engine = state.pop("engine")
        self.__dict__.update(state)
        self._start_engine()
        self._output = put_together(state["_output"])
        for layer in [*(part[0] for part in state["_output"]), *self.layers]:
            layer.adopt(self)
        if self._training is not None:
            self._training.optimizer.serve(self)
        if engine is not None:
            assert self._output is not None
            self._engine = Engine.restored(self._output, self._seed, self._training, engine)

    def __copy__(self) -> Model:
        raise TypeError(f"copy: layers are not shared by models; use copy.deepcopy. Received: model '{self.name}'")

    # ----------------------------------------------------------------- structure

    @property
    def layers(self) -> list[Layer]:
        """The layers in Keras' order: those farther from the output first."""
        assert self._output is not None
        return [tensor.layer for tensor in Network(self._output).tensors]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """A layer by its name or place. Raises ValueError where there is none."""
        layers = self.layers
        if index is not None:
            if not -len(layers) <= index < len(layers):
                raise ValueError(f"get_layer: the model has {len(layers)} layers. Received: index={index}")
            return layers[index]
        for layer in layers:
            if layer.name == name:
                return layer
        raise ValueError(f"get_layer: no layer of this name. Received: {name!r}, there are {[x.name for x in layers]}")

    @property
    def built(self) -> bool:
        """Whether the input's shape is known."""
        return self._output is not None

    @property
    def input(self) -> Tensor:
        """The symbolic input."""
        return self._require_engine("input").input

    @property
    def output(self) -> Tensor:
        """The symbolic output."""
        return self._require_engine("output").output

    inputs = property(lambda self: [self.input], doc="The symbolic inputs: one.")
    outputs = property(lambda self: [self.output], doc="The symbolic outputs: one.")

    @property
    def input_shape(self) -> OuterShape:
        """The shape of the input, None for the batch."""
        return (None, *self._require_engine("input_shape").outer_input_shape)

    @property
    def output_shape(self) -> OuterShape:
        """The shape of the output, None for the batch."""
        return (None, *self._require_engine("output_shape").outer_output_shape)

    @property
    def trainable(self) -> bool:
        """Whether any layer is trained; setting it sets all layers. Holds from the next `compile` on."""
        return any(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self.layers:
            layer.trainable = bool(value)

    def _build(self, sample_shape: tuple[int, ...] | None) -> None:
        """Make the symbolic output where it waits for the shape of the data."""

    def _require_engine(self, operation: str, sample_shape: tuple[int, ...] | None = None) -> Engine:
        """The engine, made now where there is none. Raises ValueError where the input's shape is not known."""
        if self._engine is None:
            self._build(sample_shape)
            if self._output is None:
                raise ValueError(
                    f"{operation}: the model '{self.name}' has no weights before its input's shape is known: give the "
                    "first layer input_shape=..., add fastbn.Input(...) first, or call build or fit"
                )
            self._engine = Engine(self._output, self._seed, self._training)
        return self._engine

    def _require_training(self, operation: str, sample_shape: tuple[int, ...] | None = None) -> tuple[Engine, Training]:
        if self._training is None:
            raise ValueError(f"{operation}: the model must be compiled first. Call model.compile(optimizer, loss)")
        return self._require_engine(operation, sample_shape), self._training

    def summary(self, line_length: int | None = None, print_fn: Callable[[str], Any] | None = None) -> None:
        """Print layers, output shapes, parameters and forward multiply-adds of one sample, and their totals."""
        print_summary(self.name, self._require_engine("summary"), line_length, print_fn)

    def program(self, batch_size: int | None = None) -> ProgramText:
        """The training step, or before `compile` the prediction, as it was planned.

        Phase by phase its steps and how they are split; what was fused, what is stored and for whom, what is made again
        instead, and the memory. A str, which rich colours on a terminal. batch_size is that of training, None the last
        one's; predictions are planned for 256 samples at a time whatever the batch.

        Raises ValueError where batch_size is not positive or the input's shape is not known.
        """
        engine = self._require_engine("program")
        if batch_size is not None:
            size = batch_size_of("program", batch_size)
            if engine.training is not None and size != engine.capacity:
                return ProgramText(engine.planned(size).program.describe())
        return ProgramText(engine.program.describe())

    # ------------------------------------------------------------------- weights

    def count_params(self) -> int:
        """The number of weights."""
        network = self._require_engine("count_params").network
        return sum(sum(network.cost(tensor)[:2]) for tensor in network.tensors)

    def count_multiply_adds(self) -> int:
        """Forward multiply-adds of one sample."""
        network = self._require_engine("count_multiply_adds").network
        return sum(network.cost(tensor)[2] for tensor in network.tensors)

    def get_weights(self) -> list[Float32]:
        """Copies of all weights, layer by layer: kernel, bias; gamma, beta, moving_mean, moving_variance."""
        engine = self._require_engine("get_weights")
        return [engine.get(name) for name in engine.parameters]

    def set_weights(self, weights: Sequence[npt.ArrayLike]) -> None:
        """Set what `get_weights` returns.

        Raises TypeError where it is no list, ValueError for another number of arrays or other shapes.
        """
        engine = self._require_engine("set_weights")
        _set_all(engine, list(engine.parameters), weights)

    def layer_weights(self, layer: Layer) -> list[Float32]:
        """Copies of the weights of one layer."""
        engine = self._require_engine("get_weights")
        return [engine.get(name) for name in engine.names_of(layer)]

    def set_layer_weights(self, layer: Layer, weights: Sequence[npt.ArrayLike]) -> None:
        """Set the weights of one layer."""
        engine = self._require_engine("set_weights")
        _set_all(engine, engine.names_of(layer), weights)

    def layer_cost(self, layer: Layer) -> tuple[int, int, int]:
        """Trainable and other parameters of a layer, and its forward multiply-adds for one sample."""
        return self._require_engine("layer_cost").network.cost(layer.output)

    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write all weights to a .npz file, whole or not at all.

        Raises ValueError for another kind of file, FileExistsError where it is there and `overwrite` is false,
        FileNotFoundError where its folder is not there.
        """
        if not overwrite and os.path.exists(filepath):
            raise FileExistsError(f"save_weights: the file is there already. Received: {os.fspath(filepath)!r}")
        engine = self._require_engine("save_weights")
        write_arrays(filepath, {name: engine.get(name) for name in engine.parameters})

    def load_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Read weights that `save_weights` wrote for a model of the same layers. Takes all or none.

        Raises ValueError where the file is damaged or belongs to another model, OSError where it is not there.
        """
        engine = self._require_engine("load_weights")
        arrays = read_arrays(filepath, {name: shape for name, (_, shape) in engine.parameters.items()})
        engine.set((name, "value", array) for name, array in arrays.items())

    def save(self, filepath: str | os.PathLike[str], *args: Any, **options: Any) -> None:
        """Raises NotImplementedError: only weights are written, by `save_weights`."""
        raise NotImplementedError(
            "save: whole models are not written; use save_weights, and load_weights of a model made by the same code. "
            f"Received: filepath={os.fspath(filepath)!r}"
        )

    def gradients(self) -> dict[str, Float32]:
        """Gradients of the last training step by parameter, for models compiled with keep_gradients=True."""
        engine, training = self._require_training("gradients")
        if not training.keep_gradients:
            raise ValueError("gradients: compile the model with keep_gradients=True. Received: keep_gradients=False")
        return {name: engine.get(name, "gradient") for name in engine.parameters if name in engine.trainable}

    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's "iterations" and, for each "parameter:slot", a copy of its array."""
        engine, _ = self._require_training("optimizer_state")
        state: dict[str, Any] = {"iterations": engine.program.iteration}
        for name, slot in engine.slots():
            state[f"{name}:{slot}"] = engine.get(name, slot)
        return state

    def set_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Set what `optimizer_state` returns.

        Raises TypeError where it is no mapping, ValueError where names or shapes differ.
        """
        op = "set_optimizer_state"
        if not isinstance(state, Mapping):
            raise TypeError(f"{op}: must be a dict of arrays. Received: {type(state).__name__}")
        engine, _ = self._require_training(op)
        slots = {f"{name}:{slot}": (name, slot) for name, slot in engine.slots()}
        if set(state) != {"iterations", *slots}:
            raise ValueError(f"{op}: must hold {['iterations', *slots]}. Received: {list(state)}")
        iterations = integer(op, "iterations", state["iterations"])
        if iterations < 0:
            raise ValueError(f"{op}: iterations must not be negative. Received: iterations={iterations}")
        arrays = {key: as_float32(op, key, state[key]) for key in slots}
        for key, (name, _) in slots.items():
            if arrays[key].shape != engine.parameters[name][1]:
                raise ValueError(
                    f"{op}: {key} must have shape {engine.parameters[name][1]}. Received: {arrays[key].shape}"
                )
        engine.set((name, slot, arrays[key]) for key, (name, slot) in slots.items())
        engine.program.iteration = iterations

    # ------------------------------------------------------------------ training

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: Any = "auto",
        *,
        conv_algorithm: str = "auto",
        keep_gradients: bool = False,
    ) -> None:
        """Choose optimizer, loss and metrics, and plan the training step. Weights stay, the optimizer's state does not.

        conv_algorithm: "auto" takes the fastest convolutions, "direct" those with the smallest rounding errors.
        keep_gradients: keep each step's gradients for `gradients()`. run_eagerly, steps_per_execution and jit_compile
        are Keras' and without effect: every step is planned ahead.

        Raises ValueError for unknown names and for an optimizer that another model is compiled with,
        NotImplementedError for what Keras has and fastbn has not, RuntimeError while the model is in training.
        """
        reject("compile", loss_weights=loss_weights, weighted_metrics=weighted_metrics)
        chosen = optimizers.get(optimizer)
        training = None
        if loss is not None:
            function = losses.get(loss)
            named = tuple(_metrics(metrics, function))
            algorithm_code("compile", conv_algorithm, "conv_algorithm")
            frozen = frozenset(layer for layer in self.layers if not layer.trainable)
            training = Training(chosen, function, named, conv_algorithm, bool(keep_gradients), frozen)
        with self._turns.choice:
            self._turns.refuse_while_training("compile")
            chosen.serve(self)
            engine = None
            if self._engine is not None:
                old = self._engine
                engine = Engine(old.output, old.seed, training, old.input_dtype)
                engine.carry_weights(old)
            elif self._output is not None:
                self._build(None)
                engine = Engine(self._output, self._seed, training)
            self._training, self._engine = training, engine

    @property
    def optimizer(self) -> optimizers.Optimizer | None:
        """The optimizer that the model was compiled with."""
        return None if self._training is None else self._training.optimizer

    @property
    def loss(self) -> losses.Loss | None:
        """The loss that the model was compiled with."""
        return None if self._training is None else self._training.loss

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that the model was compiled with."""
        return [] if self._training is None else list(self._training.metrics)

    @property
    def metrics_names(self) -> list[str]:
        """Names of what `evaluate` returns."""
        if self._training is None:
            return []
        return ["loss", *(metric.name for metric in self.metrics)]

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Callbacks = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Collection[int] = 1,
    ) -> History:
        """Train for `epochs` epochs (numbered from `initial_epoch`) and return their history.

        Each epoch takes the samples in an order drawn from the seed of `utils.set_random_seed` (shuffle), in batches of
        `batch_size` (32), the last of which may be smaller. validation_split keeps the last fraction of the samples for
        validation, which follows every validation_freq-th epoch, or those whose numbers (from 1) it holds. An interrupt
        (Ctrl-C) between two batches leaves the model as the last step left it.

        verbose: "auto" or 1 draws a progress bar on a terminal and prints a line an epoch, 2 prints the lines alone,
        0 nothing.

        Raises ValueError for shapes and values that do not fit, TypeError for arrays of other dtypes,
        NotImplementedError for arguments of Keras' that are not built in, RuntimeError while another fit is running.
        """
        op = "fit"
        reject(op, class_weight=class_weight, sample_weight=sample_weight)
        reject(op, steps_per_epoch=steps_per_epoch, validation_steps=validation_steps)
        level = resolve_verbose(op, verbose)
        size = batch_size_of(op, batch_size)
        test_size = size if validation_batch_size is None else batch_size_of(op, validation_batch_size)
        validates = _validation_epochs(op, validation_freq)
        first, last = integer(op, "initial_epoch", initial_epoch), integer(op, "epochs", epochs)
        if first < 0 or last < 0:
            raise ValueError(
                f"{op}: epochs and initial_epoch must not be negative. "
                f"Received: epochs={epochs}, initial_epoch={initial_epoch}"
            )
        if validation_data is not None:
            if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
                raise ValueError(f"{op}: validation_data must be (x, y). Received: {type(validation_data).__name__}")
            reject(op, validation_sample_weight=validation_data[2] if len(validation_data) == 3 else None)
        turn = Turn(op)
        try:
            with self._turns.choice:
                self._turns.refuse_while_training(op)
                engine, xs, ys = self._take(op, x, y)
                validation = None
                if validation_data is not None:
                    test = (op, validation_data[0], validation_data[1], "validation_data: ")
                    taken, test_x, test_y = self._take(*test)
                    if taken is not engine:  # the validation data have another dtype: the program takes both, or floats
                        engine, xs = self._take_x(op, x)
                        if engine is not taken:
                            _, test_x, test_y = self._take(*test)
                    validation = (test_x, test_y)
                elif validation_split:
                    xs, ys, validation = _split(op, xs, ys, validation_split)
                self._turns.begin(turn)
            training = engine.training
            assert training is not None
            size = min(size, len(xs))  # no block is planned for rows that never come
            engine.set_capacity(size)
            history = History()
            params = {"epochs": last, "steps": -(-len(xs) // size), "verbose": level}
            called = CallbackList([*as_callbacks(callbacks), history], self, params)
            self.history = history
            self.stop_training = False
            called.call("on_train_begin", {})
            logs: dict[str, float] = {}
            for epoch in range(first, last):
                called.call("on_epoch_begin", epoch, {})
                progress = EpochProgress(epoch, last, len(xs), level)
                try:
                    logs = self._train_epoch(engine, training, xs, ys, size, shuffle, called, progress)
                    progress.trained()
                    if validation is not None and validates(epoch):
                        logs |= self._evaluate(engine, training, *validation, test_size, called).logs("val_")
                finally:
                    progress.close()
                called.call("on_epoch_end", epoch, logs)
                progress.finish(logs)
                if self.stop_training:
                    break
            called.call("on_train_end", logs)
            return history
        finally:
            turn.over = True

    def _train_epoch(
        self,
        engine: Engine,
        training: Training,
        x: Array,
        y: Array,
        batch_size: int,
        shuffle: bool,
        called: CallbackList,
        progress: EpochProgress,
    ) -> dict[str, float]:
        """One epoch over the rows of x and y: a call for each batch, no copy of the data."""
        samples = len(x)
        order = generator().permutation(samples) if shuffle else None
        totals = Totals(training, engine.rows)
        program, optimizer, watched = engine.program, training.optimizer, called.train_batches
        step, add, clock, due = program.train, totals.add, time.perf_counter, progress.due
        rate = program.learning_rate
        for batch, begin in enumerate(range(0, samples, batch_size)):
            if watched:
                called.call("on_train_batch_begin", batch, {})
                rate = program.learning_rate  # that a step of the callback's own may have set
            if optimizer.learning_rate != rate:
                rate = program.learning_rate = optimizer.learning_rate
            add(step(x, y, order, begin, min(batch_size, samples - begin)))
            if watched:
                called.call("on_train_batch_end", batch, totals.logs())
            if self.stop_training:
                break
            if clock() > due:
                progress.draw(totals.samples, totals.logs())
                due = progress.due
        return totals.logs()

    def _evaluate(
        self, engine: Engine, training: Training, x: Array, y: Array, batch_size: int, called: CallbackList
    ) -> Totals:
        totals = Totals(training, engine.rows)
        watched = called.test_batches
        # Results do not depend on the size of a call, so calls are large where nobody looks at batches.
        size = batch_size if watched else max(batch_size, CHUNK)
        called.call("on_test_begin", {})
        for batch, begin in enumerate(range(0, len(x), size)):
            if watched:
                called.call("on_test_batch_begin", batch, {})
            totals.add(engine.program.evaluate(x, y, None, begin, min(size, len(x) - begin)))
            if watched:
                called.call("on_test_batch_end", batch, totals.logs())
        called.call("on_test_end", totals.logs())
        return totals

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Callbacks = None,
        return_dict: bool = False,
    ) -> Any:
        """Loss, or [loss, metrics...], or a dict by name, of the model in inference mode.

        Raises ValueError for shapes and values that do not fit, TypeError for arrays of other dtypes.
        """
        op = "evaluate"
        reject(op, sample_weight=sample_weight, steps=steps)
        level = resolve_verbose(op, verbose)
        size = batch_size_of(op, batch_size)
        engine, xs, ys = self._take(op, x, y)
        training = engine.training
        assert training is not None
        called = CallbackList(as_callbacks(callbacks), self, {"steps": -(-len(xs) // size), "verbose": level})
        logs = self._evaluate(engine, training, xs, ys, size, called).logs()
        if level:
            print(format_logs(logs), flush=True)
        return _returned(logs, return_dict)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Callbacks = None,
    ) -> Float32:
        """The model's output for each sample, in inference mode; prints nothing.

        Raises ValueError for another shape, TypeError for arrays of other dtypes.
        """
        op = "predict"
        reject(op, steps=steps)
        resolve_verbose(op, verbose)
        size = batch_size_of(op, batch_size)
        engine, xs = self._take_x(op, x)
        called = CallbackList(as_callbacks(callbacks), self, {"steps": -(-len(xs) // size), "verbose": 0})
        watched = called.predict_batches
        size = size if watched else max(size, CHUNK)
        out = allocate(op, (len(xs), *engine.output_shape), FLOAT32)
        called.call("on_predict_begin", {})
        for batch, begin in enumerate(range(0, len(xs), size)):
            count = min(size, len(xs) - begin)
            if watched:
                called.call("on_predict_batch_begin", batch, {})
            part = out[begin : begin + count]
            engine.program.predict(xs, None, begin, count, part)
            if watched:
                called.call("on_predict_batch_end", batch, {"outputs": engine.outer(part)})
        called.call("on_predict_end", {})
        return engine.outer(out)

    def __call__(self, x: Any, training: bool = False) -> Float32:
        """The model's output for an array, in inference mode. Raises NotImplementedError for symbolic values."""
        if isinstance(x, Tensor):
            raise NotImplementedError(f"model '{self.name}': a model inside another is not built in")
        if training:
            raise NotImplementedError(f"model '{self.name}': training happens in fit and train_on_batch")
        return self.predict(x)

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """One training step on these samples; returns their loss, [loss, metrics...] or a dict by name.

        The first call plans steps for batches of its size; smaller ones go through the same plan, larger ones make it
        anew. The order of summation belongs to the plan: the same bits need the same largest batch.

        Raises ValueError for shapes and values that do not fit, TypeError for arrays of other dtypes, RuntimeError
        while another thread trains the model.
        """
        op = "train_on_batch"
        reject(op, sample_weight=sample_weight, class_weight=class_weight)
        turn = Turn(op)
        try:
            with self._turns.choice:
                self._turns.refuse_other_threads(op)
                engine, xs, ys = self._take(op, x, y)
                if engine is not self._engine:
                    self._turns.refuse_while_training(op)
                self._turns.begin(turn)
            training = engine.training
            assert training is not None
            program, samples = engine.program, len(xs)
            engine.set_capacity(max(samples, engine.capacity or 0))
            if program.learning_rate != training.optimizer.learning_rate:
                program.learning_rate = training.optimizer.learning_rate
            totals = Totals(training, engine.rows)
            totals.add(program.train(xs, ys, None, 0, samples))
        finally:
            turn.over = True
        return _returned(totals.logs(), return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Loss and metrics of these samples in inference mode, as `evaluate`."""
        reject("test_on_batch", sample_weight=sample_weight)
        return self.evaluate(x, y, verbose=0, return_dict=return_dict)

    def predict_on_batch(self, x: Any) -> Float32:
        """The model's output for these samples, as `predict`."""
        return self.predict(x)

    def layer_outputs(self, x: Any) -> dict[str, Float32]:
        """The output of every layer by its name, in inference mode: an array (n, ...) for n samples.

        Images have the layout of the model's data_format. Batch-norm takes its moving statistics, dropout passes.

        Raises ValueError for another shape than the model's input, TypeError for arrays of other dtypes.
        """
        engine, xs = self._take_x("layer_outputs", x)
        return {
            tensor.layer.name: engine.node_output(tensor, xs)
            for tensor in engine.network.tensors
            if not isinstance(tensor.layer, InputLayer)
        }

    def recalibrate_batch_norm(self, x: Any) -> None:
        """Recompute the moving statistics of the batch-norm layers over x: no average that lags behind the weights.

        moving_mean = mean(u), moving_variance = mean((u - moving_mean)^2) for the inputs u of a layer over all of x,
        layer by layer from the input on, so that each sees what the recalibrated ones before it give: the statistics of
        one batch that is all of x. Frozen layers (trainable=False) keep theirs; weights and the optimizer's state stay.
        Precise batch-norm of Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (2021), over x as one batch.

        Raises ValueError where there are no samples or x has another shape than the model's input, TypeError for arrays
        of other dtypes.
        """
        op = "recalibrate_batch_norm"
        engine, xs = self._take_x(op, x)
        if not len(xs):
            raise ValueError(f"{op}: there must be samples. Received: x.shape={xs.shape}")
        for tensor in engine.network.tensors:
            if isinstance(tensor.layer, BatchNormalization) and tensor.layer.trainable:
                mean, variance = engine.statistics(tensor.inputs[0], xs)
                for holder in {engine, self._require_engine(op)}:  # two where data of another dtype come in training
                    statistics = {"moving_mean": mean, "moving_variance": variance}
                    holder.set((f"{tensor.layer.name}/{what}", "value", array) for what, array in statistics.items())

    def costs(self, batch_size: int = 128, steps: int | None = None) -> CostTable:
        """What each layer costs in a training step: parameters, multiply-adds, bytes, and measured seconds.

        A table with a row for each layer, then the loss, waiting, region and loop. Measured over `steps` steps (None:
        for about two seconds), which copies of the model make on random data: nothing of the model changes. Beside the
        seconds stands what this machine can do at most, measured once and kept (`fastbn info --measure`). steps=0
        makes no run and leaves the seconds None.

        Raises ValueError where the model is not compiled or batch_size or steps are out of range.
        """
        from fastbn.costs._measure import model_costs

        op = "costs"
        with self._turns.choice:
            self._require_training(op)
            size = batch_size_of(op, batch_size)
            repeats = None if steps is None else integer(op, "steps", steps)
            if repeats is not None and repeats < 0:
                raise ValueError(f"{op}: steps must not be negative. Received: steps={steps}")
            return model_costs(self, size, repeats)

    # ---------------------------------------------------------------------- data

    def _take_x(self, operation: str, x: Any) -> tuple[Engine, Array]:
        """The engine for x, and x as its program takes it.

        Data of another dtype make the engine anew where the program can take them as they are. An engine in training
        stays: bytes are converted for it, and for floats another one is made beside it, for this call alone.
        """
        if x is None:
            raise ValueError(f"{operation}: x is needed. Received: x=None")
        if isinstance(x, (list, tuple)) and len(x) and isinstance(x[0], np.ndarray) and x[0].ndim > 1:
            if len(x) > 1:
                raise ValueError(f"{operation}: the model has one input. Received: a list of {len(x)} arrays")
            x = x[0]
        if callable(getattr(x, "__next__", None)):
            raise NotImplementedError(f"{operation}: x must be an array. Received: {type(x).__name__}")
        with self._turns.choice:
            if self._engine is None and self._output is None:
                self._require_engine(operation, np.shape(x)[1:])
            engine = self._require_engine(operation)
            array = outer_input(operation, x, engine.outer_input_shape)
            if engine.takes_bytes:
                wanted = engine.input_dtype
                if array.dtype != np.uint8 and engine.input_dtype == _core.UINT8:
                    wanted, self._mixed_inputs = _core.FLOAT32, True
                elif array.dtype == np.uint8 and not (self._mixed_inputs or self._turns.training):
                    wanted = _core.UINT8
                if wanted != engine.input_dtype:
                    made = engine.with_input(wanted)
                    if self._turns.training:
                        if engine.training is not None:  # whose iterations are still those of the training
                            engine.training.optimizer.bind(engine.program)
                    else:
                        self._engine = made
                    engine = made
        return engine, inner_input(operation, array, engine)

    def _take(self, operation: str, x: Any, y: Any, where: str = "") -> tuple[Engine, Array, Array]:
        """The engine, x and y of an operation that needs a loss. Raises ValueError where there are no samples."""
        if self._training is None:
            raise ValueError(f"{operation}: the model must be compiled first. Call model.compile(optimizer, loss)")
        engine = self._engine
        if engine is not None and not engine.network.channels_first and engine.program.takes(x, y):
            return engine, x, y
        engine, xs = self._take_x(operation, x)
        if not len(xs):
            raise ValueError(f"{operation}: {where}there must be samples. Received: x.shape={xs.shape}")
        return engine, xs, inner_labels(operation, y, len(xs), engine)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"


def _single(name: str, value: Any) -> Tensor:
    """One symbolic value, which may stand in a list."""
    if isinstance(value, (list, tuple)):
        if len(value) != 1:
            raise NotImplementedError(f"Model: {name} must be one. Received: {len(value)}")
        value = value[0]
    if not isinstance(value, Tensor):
        raise TypeError(f"Model: {name} must come from fastbn.Input or a layer. Received: {type(value).__name__}")
    return value


def _metrics(given: Any, loss: losses.Loss) -> Iterable[Metric]:
    if given is None:
        return
    if isinstance(given, Mapping):
        raise NotImplementedError("compile: metrics must be a list. Received: a dict")
    taken = {"loss"}
    for item in given if isinstance(given, (list, tuple)) else [given]:
        metric = metrics.get(item, loss)
        if metric.name in taken:  # "mae", "mae_1", ... as Keras names them
            metric = copy.copy(metric)
            metric.name = next(name for i in itertools.count(1) if (name := f"{metric.name}_{i}") not in taken)
        taken.add(metric.name)
        yield metric


def _set_all(engine: Engine, names: list[str], weights: Sequence[npt.ArrayLike]) -> None:
    """Set parameters after checking all: none is written where one does not fit."""
    if not hasattr(weights, "__len__"):
        raise TypeError(f"set_weights: weights must be a list of arrays. Received: {type(weights).__name__}")
    if len(weights) != len(names):
        raise ValueError(f"set_weights: takes {len(names)} arrays, for {names}. Received: {len(weights)}")
    arrays = [as_float32("set_weights", name, value) for name, value in zip(names, weights, strict=True)]
    for name, array in zip(names, arrays, strict=True):
        if array.shape != engine.parameters[name][1]:
            raise ValueError(
                f"set_weights: {name} must have shape {engine.parameters[name][1]}. Received: {array.shape}"
            )
    engine.set((name, "value", array) for name, array in zip(names, arrays, strict=True))


def _validation_epochs(operation: str, validation_freq: Any) -> Callable[[int], bool]:
    """Whether an epoch, counted from 0, is followed by validation."""
    if isinstance(validation_freq, Collection) and not isinstance(validation_freq, (str, bytes)):
        chosen = {integer(operation, "validation_freq", number) for number in validation_freq}
        return lambda epoch: epoch + 1 in chosen
    every = integer(operation, "validation_freq", validation_freq)
    if every < 1:
        raise ValueError(f"{operation}: validation_freq must be at least 1. Received: validation_freq={every}")
    return lambda epoch: (epoch + 1) % every == 0


def _split(operation: str, x: Array, y: Array, fraction: float) -> tuple[Array, Array, tuple[Array, Array]]:
    """The last fraction of the samples apart, before any shuffling."""
    if not 0 < number(operation, "validation_split", fraction) < 1:
        raise ValueError(f"{operation}: validation_split must lie in [0, 1). Received: validation_split={fraction!r}")
    at = int(np.floor(len(x) * (1 - fraction)))
    if at in (0, len(x)):
        raise ValueError(
            f"{operation}: validation_split leaves no samples on one side. "
            f"Received: validation_split={fraction!r} of {len(x)} samples"
        )
    return x[:at], y[:at], (x[at:], y[at:])


def _returned(logs: dict[str, float], as_dict: bool) -> Any:
    if as_dict:
        return logs
    values = list(logs.values())
    return values[0] if len(values) == 1 else values
