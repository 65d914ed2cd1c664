"""Descriptions of initial weights; the numbers are drawn in C++ from the model's seed. Defaults of Keras 3."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fastbn import _core
from fastbn._arrays import number

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "Zeros",
    "get",
]


class Initializer:
    """Base of all initializers."""

    kind = _core.INIT_DEFAULT

    def __init__(self, a: float = 0.0, b: float = 0.0, seed: int | None = None) -> None:
        name = type(self).__name__
        self.a, self.b = number(name, "a parameter", a), number(name, "a parameter", b)
        if not (np.isfinite(self.a) and np.isfinite(self.b)):
            raise ValueError(f"{name}: parameters must be finite. Received: {a} and {b}")
        if seed is not None and (not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63):
            raise ValueError(f"{name}: seed must be None or an integer in [0, 2^63). Received: {seed!r}")
        self.seed = None if seed is None else int(seed)

    @property
    def fields(self) -> tuple[int, float, float, int]:
        """Kind, parameters and seed for the C interface, where seed 0 means one derived from the model's."""
        return self.kind, self.a, self.b, 0 if self.seed is None else self.seed + 1

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal initializer."""
        return {}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class Zeros(Initializer):
    """All 0."""

    kind = _core.INIT_ZEROS

    def __init__(self) -> None:
        super().__init__()


class Ones(Initializer):
    """All 1."""

    kind = _core.INIT_ONES

    def __init__(self) -> None:
        super().__init__()


class Constant(Initializer):
    """All `value`."""

    kind = _core.INIT_CONSTANT

    def __init__(self, value: float = 0.0) -> None:
        super().__init__(value)

    def get_config(self) -> dict[str, Any]:
        return {"value": self.a}


class RandomUniform(Initializer):
    """Uniform in [minval, maxval). Raises ValueError where minval is above maxval."""

    kind = _core.INIT_RANDOM_UNIFORM

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> None:
        super().__init__(minval, maxval, seed)
        if self.a > self.b:
            raise ValueError(
                f"RandomUniform: minval must not exceed maxval. Received: minval={minval}, maxval={maxval}"
            )

    def get_config(self) -> dict[str, Any]:
        return {"minval": self.a, "maxval": self.b, "seed": self.seed}


class RandomNormal(Initializer):
    """Normal with the given mean and standard deviation. Raises ValueError where stddev is negative."""

    kind = _core.INIT_RANDOM_NORMAL

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        super().__init__(mean, stddev, seed)
        if self.b < 0:
            raise ValueError(f"{type(self).__name__}: stddev must not be negative. Received: stddev={stddev}")

    def get_config(self) -> dict[str, Any]:
        return {"mean": self.a, "stddev": self.b, "seed": self.seed}


class TruncatedNormal(RandomNormal):
    """Normal, redrawn beyond two standard deviations."""

    kind = _core.INIT_TRUNCATED_NORMAL


class _Scaled(Initializer):
    """Drawn with a variance from the number of inputs and outputs of the layer."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(seed=seed)

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}


class GlorotUniform(_Scaled):
    """Uniform within +-sqrt(6 / (fan_in + fan_out))."""

    kind = _core.INIT_GLOROT_UNIFORM


class GlorotNormal(_Scaled):
    """Truncated normal with variance 2 / (fan_in + fan_out)."""

    kind = _core.INIT_GLOROT_NORMAL


class HeUniform(_Scaled):
    """Uniform within +-sqrt(6 / fan_in)."""

    kind = _core.INIT_HE_UNIFORM


class HeNormal(_Scaled):
    """Truncated normal with variance 2 / fan_in."""

    kind = _core.INIT_HE_NORMAL


class LecunUniform(_Scaled):
    """Uniform within +-sqrt(3 / fan_in)."""

    kind = _core.INIT_LECUN_UNIFORM


class LecunNormal(_Scaled):
    """Truncated normal with variance 1 / fan_in."""

    kind = _core.INIT_LECUN_NORMAL


zeros, ones, constant = Zeros, Ones, Constant
random_uniform, random_normal, truncated_normal = RandomUniform, RandomNormal, TruncatedNormal
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
he_uniform, he_normal = HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal

_CLASSES: tuple[type[Initializer], ...] = (
    Zeros,
    Ones,
    Constant,
    RandomUniform,
    RandomNormal,
    TruncatedNormal,
    GlorotUniform,
    GlorotNormal,
    HeUniform,
    HeNormal,
    LecunUniform,
    LecunNormal,
)
_BY_NAME: dict[str, type[Initializer]] = {
    **{c.__name__: c for c in _CLASSES},
    **{re.sub(r"(?<!^)(?=[A-Z])", "_", c.__name__).lower(): c for c in _CLASSES},
    "zero": Zeros,
    "one": Ones,
    "uniform": RandomUniform,
    "normal": RandomNormal,
}


def get(identifier: str | Initializer | type[Initializer]) -> Initializer:
    """An initializer from a name ("glorot_uniform", "HeNormal"), a class or an instance.

    Raises ValueError for unknown names, NotImplementedError for functions.
    """
    if isinstance(identifier, Initializer):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Initializer):
        return identifier()
    if isinstance(identifier, str):
        if identifier in _BY_NAME:
            return _BY_NAME[identifier]()
        raise ValueError(f"initializers: unknown initializer. Received: {identifier!r}")
    raise NotImplementedError(f"initializers: only those of fastbn.initializers are taken. Received: {identifier!r}")
