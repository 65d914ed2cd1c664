"""SGD, RMSprop and Adam with the formulas and defaults of Keras 3. Weights and slots are updated in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass
class Optimizer:
    learning_rate: float
    weight_decay: float = 0.0

    def slot_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    def slots(self, w: Array) -> list[Array]:
        return [np.zeros_like(w, dtype=np.float64) for _ in self.slot_names()]

    def update(self, w: Array, g: npt.ArrayLike, slots: list[Array], iteration: int) -> None:
        if self.weight_decay:
            w -= w * self.weight_decay * self.learning_rate
        self.step(w, np.asarray(g, np.float64), slots, iteration)

    def step(self, w: Array, g: Array, slots: list[Array], iteration: int) -> None:
        raise NotImplementedError


@dataclass
class SGD(Optimizer):
    """v = momentum v - lr g; w += v, with nesterov w += momentum v - lr g (of the new v)."""

    keras_name: ClassVar[str] = "SGD"
    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def slot_names(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def step(self, w: Array, g: Array, slots: list[Array], iteration: int) -> None:
        if not self.momentum:
            w -= self.learning_rate * g
            return
        (v,) = slots
        v *= self.momentum
        v -= self.learning_rate * g
        w += self.momentum * v - self.learning_rate * g if self.nesterov else v


@dataclass
class RMSprop(Optimizer):
    """v = rho v + (1 - rho) g^2; w -= lr g / sqrt(v - a^2 + epsilon), a the average gradient if centered."""

    keras_name: ClassVar[str] = "RMSprop"
    learning_rate: float = 0.001
    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7
    centered: bool = False

    def slot_names(self) -> tuple[str, ...]:
        return ("velocity", *(["momentum"] if self.momentum else []), *(["average_gradient"] if self.centered else []))

    def step(self, w: Array, g: Array, slots: list[Array], iteration: int) -> None:
        named = dict(zip(self.slot_names(), slots, strict=True))
        v = named["velocity"]
        v *= self.rho
        v += (1 - self.rho) * g * g
        denominator = v + self.epsilon
        if self.centered:
            a = named["average_gradient"]
            a *= self.rho
            a += (1 - self.rho) * g
            denominator = v - a * a + self.epsilon
        increment = self.learning_rate * g / np.sqrt(denominator)
        if self.momentum:
            m = named["momentum"]
            m *= self.momentum
            m += increment
            increment = m
        w -= increment


@dataclass
class Adam(Optimizer):
    """m += (g - m)(1 - b1); v += (g^2 - v)(1 - b2); w -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon)."""

    keras_name: ClassVar[str] = "Adam"
    learning_rate: float = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    amsgrad: bool = False

    def slot_names(self) -> tuple[str, ...]:
        return ("momentum", "velocity", *(["velocity_hat"] if self.amsgrad else []))

    def step(self, w: Array, g: Array, slots: list[Array], iteration: int) -> None:
        t = iteration + 1
        alpha = self.learning_rate * np.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        m, v = slots[0], slots[1]
        m += (g - m) * (1 - self.beta_1)
        v += (g * g - v) * (1 - self.beta_2)
        if self.amsgrad:
            np.maximum(slots[2], v, out=slots[2])
            v = slots[2]
        w -= alpha * m / (np.sqrt(v) + self.epsilon)
