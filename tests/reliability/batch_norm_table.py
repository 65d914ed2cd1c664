"""Prints the errors of batch-norm in units in the last place: fastbn, PyTorch and JAX on the data of the test.

    python tests/reliability/batch_norm_table.py

JAX computes the formula of Keras' layer (mean, mean of squared differences from it) under jit, and its derivative.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from test_batch_norm_numbers import CASES, EPSILON, OUTPUTS, Numbers, by_ops, ulps_off  # noqa: E402


def by_torch() -> Callable[[Numbers], tuple[np.ndarray, ...]]:
    import torch

    def compute(case: Numbers) -> tuple[np.ndarray, ...]:
        x, gamma, beta, dy = (torch.from_numpy(a.copy()) for a in (case.x, case.gamma, case.beta, case.dy))
        y, mean, rstd = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, EPSILON)
        variance = torch.var_mean(x, dim=0, correction=0)[0]
        dx, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
            dy, x, gamma, None, None, mean, rstd, True, EPSILON, [True, True, True]
        )
        return tuple(a.numpy() for a in (y, mean, variance, dx, dgamma, dbeta))

    return compute


def by_jax() -> Callable[[Numbers], tuple[np.ndarray, ...]]:
    import jax
    import jax.numpy as jnp

    def normalise(x, gamma, beta):
        mean = x.mean(axis=0)
        variance = jnp.square(x - mean).mean(axis=0)
        return (x - mean) * (gamma * jax.lax.rsqrt(variance + EPSILON)) + beta, (mean, variance)

    @jax.jit
    def both(x, gamma, beta, dy):
        y, backward, (mean, variance) = jax.vjp(normalise, x, gamma, beta, has_aux=True)
        return (y, mean, variance, *backward(dy))

    return lambda case: tuple(np.asarray(a) for a in both(case.x, case.gamma, case.beta, case.dy))


def group(case: Numbers) -> str:
    """The row of a case: its name without the number of rows, and for offsets without the deviation."""
    name = case.name.split(",")[0]
    if name.startswith("constant"):
        return "constant channels"
    if "|x|" in name:
        return f"{name.replace('|x|', 'magnitudes')}, gamma 1e-20 to 1e20"
    if name.startswith("gamma"):
        return "gamma 1e-30 to 1e30"
    if name.startswith("offset"):
        return f"{name}, std 1e-2 to 1"
    return name


def shown(error: float) -> str:
    if error < 1000:
        return f"{error:.2g}"
    return "> 1e6" if error > 1e6 else f"{error:.0e}".replace("e+0", "e")


def main() -> None:
    makers = {"fastbn": lambda: by_ops, "PyTorch": by_torch, "JAX": by_jax}
    libraries = {}
    for name, make in makers.items():
        try:
            libraries[name] = make()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    with np.errstate(all="ignore"):
        for case in CASES:
            for library, compute in libraries.items():
                off = ulps_off(case, compute(case))
                row = rows.setdefault(group(case), {}).setdefault(library, dict.fromkeys(OUTPUTS, 0.0))
                for output in OUTPUTS:
                    row[output] = max(row[output], off[output])
    print("| data | library | " + " | ".join(OUTPUTS) + " |")
    print("|---|---|" + "---:|" * len(OUTPUTS))
    for name, by_library in rows.items():
        for library, row in by_library.items():
            print(f"| {name} | {library} | " + " | ".join(shown(row[output]) for output in OUTPUTS) + " |")
            name = ""


if __name__ == "__main__":
    main()
