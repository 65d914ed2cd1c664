"""Networks drawn at random: any layers, branches that part and meet again, ends joined at the head."""

from __future__ import annotations

import math

import numpy as np
from oracles.network import Layer, Network

from cases.networks import CROSS_ENTROPY, SQUARED_ERROR, NetworkCase

SMOOTH = (None, "tanh", "sigmoid")
ANY = (*SMOOTH, "relu", "leaky_relu")


class _Draw:
    """The layers drawn so far, and those of them that nothing reads yet."""

    def __init__(self, seed: int, smooth: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.smooth = smooth
        if self.rng.random() < 0.7:
            shape = (*self.rng.integers(2, 9, 2).tolist(), self.one_of((1, 2, 3, 4, 5, 8)))
        else:
            shape = (self.one_of((1, 4, 17, 32, 200)),)
        self.layers = [Layer("input", "input", shape=shape)]
        self.ends = ["input"]

    def one_of(self, choices):
        return choices[int(self.rng.integers(len(choices)))]

    def shape(self, name: str) -> tuple[int, ...]:
        return Network(self.layers).shapes[name]

    def add(self, kind: str, inputs: tuple[str, ...], **options) -> str:
        name = f"{kind}_{len(self.layers)}"
        self.layers.append(Layer(kind, name, inputs, **options))
        self.ends = [end for end in self.ends if end not in inputs] + [name]
        return name

    def source(self) -> str:
        """The last layer as a rule, else any: a branch."""
        if self.rng.random() < 0.7:
            return self.layers[-1].name
        return self.one_of([layer.name for layer in self.layers])

    def layer(self) -> None:
        source = self.source()
        shape = self.shape(source)
        activation = self.one_of(SMOOTH if self.smooth else ANY)
        alpha = {"alpha": 0.3} if activation == "leaky_relu" else {}
        kinds = ["dense", "batch_norm", "activation", "rescaling", "dropout", "merge", "merge"]
        kinds += ["conv2d", "conv2d", "conv2d", "pool"] if len(shape) == 3 else ["dense", "dense"]
        match self.one_of(kinds):
            case "dense":
                units = self.one_of((1, 3, 8, 16, 17, 40))
                self.add(
                    "dense", (source,), units=units, activation=activation, use_bias=self.rng.random() < 0.7, **alpha
                )
            case "conv2d":
                groups = self.one_of([g for g in (1, 1, 1, 2, shape[2]) if shape[2] % g == 0])
                options = {"filters": groups * self.one_of((1, 2, 4, 8, 16)), "groups": groups}
                options["kernel_size"] = tuple(min(3, n) for n in shape[:2]) if self.rng.random() < 0.7 else 1
                options["strides"] = self.one_of((1, 1, 1, 2))
                options["padding"] = self.one_of(("same", "same", "valid"))
                options["use_bias"] = self.rng.random() < 0.7
                self.add("conv2d", (source,), activation=activation, **options, **alpha)
            case "pool":
                kind = "avg" if self.smooth else self.one_of(("avg", "max"))
                self.add(f"{kind}_pool2d", (source,), pool_size=min(2, *shape[:2]), padding="same")
            case "batch_norm":
                options = {"frozen": True} if self.rng.random() < 0.2 else {}
                self.add("batch_norm", (source,), epsilon=0.1, center=self.rng.random() < 0.8, **options)
            case "activation":
                self.add("activation", (source,), activation=activation or "tanh", **alpha)
            case "rescaling":
                self.add("rescaling", (source,), scale=0.5, offset=0.25)
            case "dropout":
                self.add("dropout", (source,), rate=0.0)
            case "merge":
                alike = [layer.name for layer in self.layers if self.shape(layer.name) == shape]
                operands = (source, *(self.one_of(alike) for _ in range(self.one_of((1, 1, 2)))))
                if self.rng.random() < 0.5:
                    self.add("add", operands)
                elif math.prod(shape[:-1]) * shape[-1] * len(operands) <= 4096:
                    self.add("concatenate", operands)

    def head(self) -> None:
        """One value of all ends, and a dense layer on it."""
        vectors = []
        for end in list(self.ends):
            if len(self.shape(end)) > 1:
                vectors.append(self.add(self.one_of(("flatten", "global_avg_pool2d")), (end,)))
            else:
                vectors.append(end)
        if len(vectors) > 1:
            self.add("concatenate", tuple(vectors))
        self.add("dense", (self.layers[-1].name,), units=4, activation=None if self.smooth else "softmax")


def random_network(seed: int, smooth: bool = False) -> NetworkCase:
    """Network number `seed`; smooth: without kinks, so that it can be compared with float64."""
    draw = _Draw(seed, smooth)
    for _ in range(int(draw.rng.integers(2, 10))):
        draw.layer()
    draw.head()
    return NetworkCase(f"random_{seed}", tuple(draw.layers), SQUARED_ERROR if smooth else CROSS_ENTROPY)
