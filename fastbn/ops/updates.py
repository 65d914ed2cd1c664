"""Optimizer updates of one weight array, in place. Formulas and defaults of Keras 3."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from fastbn import _core
from fastbn._arrays import FLOAT32, Float32, as_float32, check_out, integer, number, require_shape


def _optimizer(op: str, kind: int, **settings: float) -> _core.Optimizer:
    flags = {name: value for name, value in settings.items() if name in ("nesterov", "centered", "amsgrad")}
    numbers: dict[str, Any] = {name: number(op, name, value) for name, value in settings.items() if name not in flags}
    return _core.Optimizer(kind, **numbers, **{name: bool(flag) for name, flag in flags.items()})


def _update(
    op: str,
    optimizer: _core.Optimizer,
    iteration: int,
    w: Float32,
    g: npt.ArrayLike,
    slots: dict[str, Float32 | None],
) -> Float32:
    gradient = as_float32(op, "g", g)
    written: list[npt.ArrayLike | None] = [g]
    shape = getattr(w, "shape", ())
    arrays: list[Float32] = []
    for name, array in {"w": w, **slots}.items():
        if array is None:
            raise ValueError(f"{op}: {name} is needed with these settings. Received: {name}=None")
        arrays.append(check_out(op, array, shape, FLOAT32, written, name=name))
        written.append(array)
    require_shape(op, "g", gradient, shape)
    flat = [array.reshape(array.size) for array in arrays]
    step = integer(op, "iteration", iteration)
    _core.optimizer_update(op, optimizer, step, flat[0], gradient.reshape(gradient.size), flat[1:])
    return w


def sgd_update(
    w: Float32,
    g: npt.ArrayLike,
    velocity: Float32 | None = None,
    *,
    learning_rate: float = 0.01,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Float32:
    """Stochastic gradient descent on w (and velocity) in place; returns w.

    momentum 0: w -= lr g. Else v = momentum v - lr g; w += v, or with nesterov w += momentum v - lr g.

    Raises ValueError for shapes or settings that do not fit, before anything is written.
    """
    op = "sgd_update"
    optimizer = _optimizer(
        op, _core.SGD, learning_rate=learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    return _update(op, optimizer, 0, w, g, {"velocity": velocity} if momentum > 0 else {})


def rmsprop_update(
    w: Float32,
    g: npt.ArrayLike,
    velocity: Float32,
    momentum_buffer: Float32 | None = None,
    average_gradient: Float32 | None = None,
    *,
    learning_rate: float = 0.001,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
    weight_decay: float = 0.0,
) -> Float32:
    """RMSprop on w and its slots in place; returns w.

    v = rho v + (1 - rho) g^2; centered: a = rho a + (1 - rho) g; d = v - a^2 (or v); i = lr g / sqrt(d + epsilon);
    momentum 0: w -= i, else m = momentum m + i; w -= m.

    Raises ValueError for shapes or settings that do not fit, before anything is written.
    """
    op = "rmsprop_update"
    optimizer = _optimizer(
        op,
        _core.RMSPROP,
        learning_rate=learning_rate,
        rho=rho,
        momentum=momentum,
        epsilon=epsilon,
        centered=centered,
        weight_decay=weight_decay,
    )
    slots: dict[str, Float32 | None] = {"velocity": velocity}
    if momentum > 0:
        slots["momentum_buffer"] = momentum_buffer
    if centered:
        slots["average_gradient"] = average_gradient
    return _update(op, optimizer, 0, w, g, slots)


def adam_update(
    w: Float32,
    g: npt.ArrayLike,
    momentum: Float32,
    velocity: Float32,
    velocity_hat: Float32 | None = None,
    *,
    iteration: int = 0,
    learning_rate: float = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    amsgrad: bool = False,
    weight_decay: float = 0.0,
) -> Float32:
    """Adam (with weight_decay: AdamW) on w and its slots in place; returns w.

    t = iteration + 1; a = lr sqrt(1 - beta_2^t) / (1 - beta_1^t); m += (g - m)(1 - beta_1); v += (g^2 - v)(1 - beta_2);
    w -= a m / (sqrt(v) + epsilon), with amsgrad the running maximum of v. Weight decay first: w -= w weight_decay lr.

    Raises ValueError for shapes or settings that do not fit, before anything is written.
    """
    op = "adam_update"
    optimizer = _optimizer(
        op,
        _core.ADAM,
        learning_rate=learning_rate,
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=epsilon,
        amsgrad=amsgrad,
        weight_decay=weight_decay,
    )
    slots: dict[str, Float32 | None] = {"momentum": momentum, "velocity": velocity}
    if amsgrad:
        slots["velocity_hat"] = velocity_hat
    return _update(op, optimizer, iteration, w, g, slots)
