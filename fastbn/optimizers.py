"""Optimizers: names, formulas and defaults of Keras 3. The update itself runs in C++ as part of a training step."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

from fastbn import _core

if TYPE_CHECKING:
    from fastbn.models import Model

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "get"]

_NOT_BUILT_IN = {
    "clipnorm",
    "clipvalue",
    "decay",
    "ema_momentum",
    "ema_overwrite_frequency",
    "global_clipnorm",
    "gradient_accumulation_steps",
    "loss_scale_factor",
    "use_ema",
}


class Optimizer:
    """Base of the optimizers. `learning_rate` can be set at any time and holds from the next batch on; the others hold
    as they were given, since the steps are planned with them.
    """

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float | None,
        name: str | None,
        unsupported: dict[str, Any],
    ) -> None:
        cls = type(self).__name__
        self.name = cls.lower() if name is None else name
        if "lr" in unsupported:  # the name that scripts for older Keras use
            learning_rate = unsupported.pop("lr")
        for key, value in unsupported.items():
            if key not in _NOT_BUILT_IN:
                raise TypeError(f"{cls}: no such argument. Received: {key}={value!r}")
            if value not in (None, False, 0) and not (key == "ema_momentum" and value == 0.99):
                raise NotImplementedError(f"{cls}: {key} is not built in. Received: {key}={value!r}")
        self._learning_rate = self._number("learning_rate", learning_rate)
        self.weight_decay = None if weight_decay is None else self._number("weight_decay", weight_decay)
        self._program: weakref.ref[_core.Program] | None = None
        self._model: weakref.ref[Model] | None = None

    def _number(self, name: str, value: Any, below: float = math.inf) -> float:
        """`value` as a float in [0, below). Raises TypeError, ValueError or, for schedules, NotImplementedError."""
        cls = type(self).__name__
        if callable(value):
            raise NotImplementedError(
                f"{cls}: {name} must be a number; use callbacks.LearningRateScheduler for a "
                f"schedule. Received: {value!r}"
            )
        try:
            if isinstance(value, (str, bool)):
                raise TypeError
            number = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"{cls}: {name} must be a number. Received: {name}={value!r}") from None
        if not 0 <= number < below or number > 3.4028235e38:  # the largest float32
            bound = "finite and not negative" if below == math.inf else f"in [0, {below:g})"
            raise ValueError(f"{cls}: {name} must be {bound}. Received: {name}={value!r}")
        return number

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises AttributeError for settings other than the learning rate that are there already."""
        if name in self.__dict__ and name != "name" and not name.startswith("_"):
            raise AttributeError(
                f"{type(self).__name__}: {name} cannot be set; compile the model with another optimizer. "
                f"Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_program": None, "_model": None}  # a copy belongs to no model yet

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = self._number("learning_rate", value)

    lr = learning_rate

    @property
    def iterations(self) -> int:
        """Steps that the model compiled with this optimizer has made."""
        program = None if self._program is None else self._program()
        return 0 if program is None else program.iteration

    def serve(self, model: Model) -> None:
        """Become the optimizer of a model. Raises ValueError where that of another one is still compiled with it."""
        other = None if self._model is None else self._model()
        if other is not None and other is not model and other.optimizer is self:
            raise ValueError(
                f"compile: an optimizer serves one model; give every model one of its own. Received: {self!r} of the "
                f"model '{other.name}' for the model '{model.name}'"
            )
        self._model = weakref.ref(model)

    def bind(self, program: _core.Program) -> None:
        """Remember the program that makes the steps, for `iterations`."""
        self._program = weakref.ref(program)

    def descriptor(self) -> _core.Optimizer:
        """Kind and settings for the C interface."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal optimizer."""
        return {"name": self.name, "learning_rate": self._learning_rate, "weight_decay": self.weight_decay}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items() if k != "name")
        return f"{type(self).__name__}({arguments})"


class SGD(Optimizer):
    """Stochastic gradient descent.

    momentum 0: w -= lr g. Else v = momentum v - lr g; w += v, or with nesterov w += momentum v - lr g.
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay, name, unsupported)
        self.momentum = self._number("momentum", momentum)
        if self.momentum > 1:
            raise ValueError(f"SGD: momentum must be in [0, 1]. Received: momentum={momentum!r}")
        self.nesterov = bool(nesterov)

    def descriptor(self) -> _core.Optimizer:
        return _core.Optimizer(
            _core.SGD,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay or 0.0,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


class RMSprop(Optimizer):
    """RMSprop.

    v = rho v + (1 - rho) g^2; centered: a = rho a + (1 - rho) g; d = v - a^2 (or v); i = lr g / sqrt(d + epsilon);
    momentum 0: w -= i, else m = momentum m + i; w -= m.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        weight_decay: float | None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay, name, unsupported)
        self.rho = self._number("rho", rho)
        self.momentum = self._number("momentum", momentum)
        self.epsilon = self._number("epsilon", 1e-7 if epsilon is None else epsilon)
        self.centered = bool(centered)

    def descriptor(self) -> _core.Optimizer:
        return _core.Optimizer(
            _core.RMSPROP,
            learning_rate=self.learning_rate,
            rho=self.rho,
            momentum=self.momentum,
            epsilon=self.epsilon,
            centered=self.centered,
            weight_decay=self.weight_decay or 0.0,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rho": self.rho,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "centered": self.centered,
        }


class Adam(Optimizer):
    """Adam.

    t = iterations + 1; a = lr sqrt(1 - beta_2^t) / (1 - beta_1^t); m += (g - m)(1 - beta_1);
    v += (g^2 - v)(1 - beta_2); w -= a m / (sqrt(v) + epsilon), with amsgrad the running maximum of v.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay, name, unsupported)
        self.beta_1 = self._number("beta_1", beta_1, below=1.0)
        self.beta_2 = self._number("beta_2", beta_2, below=1.0)
        self.epsilon = self._number("epsilon", 1e-7 if epsilon is None else epsilon)
        self.amsgrad = bool(amsgrad)

    def descriptor(self) -> _core.Optimizer:
        return _core.Optimizer(
            _core.ADAM,
            learning_rate=self.learning_rate,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            amsgrad=self.amsgrad,
            weight_decay=self.weight_decay or 0.0,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "amsgrad": self.amsgrad,
        }


class AdamW(Adam):
    """Adam with decoupled weight decay: w -= w weight_decay lr before each update."""

    def __init__(
        self,
        learning_rate: float = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay, name, **unsupported)


_CLASSES: dict[str, type[SGD | RMSprop | Adam]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}
_ABSENT = ("adadelta", "adagrad", "adamax", "adafactor", "ftrl", "lamb", "lion", "muon", "nadam")


def get(identifier: Any) -> Optimizer:
    """An optimizer from a name ("rmsprop", "Adam"), a class or an instance.

    Raises NotImplementedError for optimizers that Keras has and fastbn has not, ValueError for unknown ones.
    """
    if isinstance(identifier, Optimizer):
        return identifier
    if isinstance(identifier, str):
        lower = identifier.lower()
        if lower in _CLASSES:
            return _CLASSES[lower]()
        if lower in _ABSENT:
            raise NotImplementedError(f"optimizers: only {list(_CLASSES)} are built in. Received: {identifier!r}")
    if identifier in _CLASSES.values():
        made: Optimizer = identifier()
        return made
    raise ValueError(f"optimizers: must be one of {list(_CLASSES)}. Received: {identifier!r}")
