"""What `fastbn explain` is asked about: networks by name, or functions that make a model."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbn.costs import CostTable
    from fastbn.models import Model

#: An epoch, here as in the question: the training images of MNIST.
SAMPLES = 60_000

#: The question's networks, in its order.
QUESTION = ("mlp", "cnn", "cnn_small")

#: Seconds an epoch that the question reports (Keras on Theano, 2017, its author's machine).
QUESTION_SECONDS = {"mlp": 16.0, "cnn": 340.0, "cnn_small": 28.0}


@dataclass(frozen=True)
class Explained:
    """A network with its costs; seconds of an epoch as the prediction gives them, where it was asked for."""

    name: str
    table: CostTable
    predicted_seconds: float | None = None

    @property
    def epoch_seconds(self) -> float:
        """Measured: an epoch is as many steps as its samples make."""
        seconds = self.table.epoch_seconds(SAMPLES)
        assert seconds is not None
        return seconds

    @property
    def bytes(self) -> int:
        """Of a sample: all that a step reads and writes."""
        return self.table.total.bytes // self.table.batch_size

    @property
    def forward_multiply_adds(self) -> int:
        return self.table.forward_multiply_adds

    @property
    def question_seconds(self) -> float | None:
        return QUESTION_SECONDS.get(self.name)


def make_model(name: str) -> Model:
    """The compiled model behind a network's name or `module:function`.

    A model that the function has not compiled is compiled with RMSprop, and with cross-entropy where it ends in
    softmax, else with the mean squared error. Raises ValueError where there is no such network, module or function, or
    where it does not return a model; errors inside the function pass.
    """
    from fastbn import networks
    from fastbn.models import Model

    made: Any
    if ":" in name:
        module_name, _, function_name = name.partition(":")
        if not module_name or not function_name or module_name.startswith("."):
            raise ValueError(f"explain: a model is named module:function. Received: {name!r}")
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise ValueError(
                f"explain: the module must be importable from here. Received: {module_name!r}"
                + (" (leave out .py)" if module_name.endswith(".py") else "")
            ) from error
        function = getattr(module, function_name, None)
        if not callable(function):
            raise ValueError(f"explain: {module_name} must have a function of this name. Received: {function_name!r}")
        try:
            inspect.signature(function).bind()
        except TypeError as error:
            raise ValueError(
                f"explain: the function must need no arguments. Received: {module_name}:{function_name} ({error})"
            ) from None
        except ValueError:  # a function of C without a signature
            pass
        made = function()
    elif name in networks.__all__:
        made = getattr(networks, name)()
    else:
        known = ", ".join(networks.__all__)
        raise ValueError(f"explain: must be one of {known}, or module:function. Received: {name!r}")
    if not isinstance(made, Model):
        raise ValueError(f"explain: {name} must return a fastbn model. Received: {type(made).__name__}")
    if made.loss is None:
        compile_like_the_question(made)
    return made


def compile_like_the_question(model: Model) -> None:
    try:
        model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    except NotImplementedError:  # does not end in softmax
        model.compile("rmsprop", "mean_squared_error")
