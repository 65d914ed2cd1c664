"""What a cell looks at beside its losses: layer outputs, the noise of the gradient, moving statistics that lag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._arrays import Float32, Float64
from fastbn.layers import Dense
from fastbn.optimizers import SGD
from fastbn.study._data import StudyData
from fastbn.study._variants import Variant

if TYPE_CHECKING:
    from fastbn.models import Sequential

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
OUTPUT_SAMPLES = 500  # test images whose layer outputs are looked at
GRADIENT_BATCHES = 32
RECALIBRATION_SAMPLES = 10_000  # training images, the first


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


class LayerOutputs:
    """Quantiles of every layer's output at test time, and how far the dense layers' inputs move from look to look.

    The movement of an input: root mean square over units of the distance of their means, divided by the root mean
    square of their standard deviations before. The input of the first layer is the data, which do not move.
    """

    def __init__(self, x: Float32) -> None:
        self.x = x[:OUTPUT_SAMPLES]
        self.quantiles: dict[str, list[list[float]]] = {}
        self.shift: dict[str, list[float | None]] = {}
        self._before: dict[str, tuple[Float64, float]] = {}

    def look(self, model: Sequential) -> None:
        outputs = model.layer_outputs(self.x)
        for name, value in outputs.items():
            self.quantiles.setdefault(name, []).append(_rounded(np.quantile(value, QUANTILES)))
        feeding = [before.name for before, layer in zip(model.layers, model.layers[1:], strict=False)
                   if isinstance(layer, Dense)]  # fmt: skip
        for name in feeding:
            units = outputs[name].reshape(-1, outputs[name].shape[-1]).astype(np.float64)
            means, spread = units.mean(axis=0), float(np.sqrt(units.var(axis=0).mean()))
            if name in self._before:
                old, scale = self._before[name]
                moved = float(np.sqrt(((means - old) ** 2).mean()))
                self.shift.setdefault(name, []).append(moved / scale if scale > 0 else None)
            self._before[name] = means, spread

    def result(self) -> dict[str, Any]:
        return {"quantiles": self.quantiles, "shift": self.shift}


class GradientNoise:
    """Norms of the gradient over batches of the variant's size, at the weights of the moment: after the first epoch,
    the middle one and the last."""

    def __init__(self, variant: Variant, data: StudyData, seed: int, epochs: int) -> None:
        self.variant = variant
        self.x, self.y = data.inputs(variant.images)[0], data.y_train
        self.seed = seed
        self.epochs = sorted({1, -(-epochs // 2), epochs})
        self.norms: dict[str, list[float]] = {}
        self._twin = variant.build()  # learns nothing: its learning rate is 0
        self._twin.compile(SGD(0.0), "categorical_crossentropy", keep_gradients=True)

    def look(self, model: Sequential, epoch: int) -> None:
        """epoch: how many are done."""
        if epoch not in self.epochs:
            return
        self._twin.set_weights(model.get_weights())
        rng = np.random.default_rng((self.seed, epoch))
        norms = []
        size = min(self.variant.batch_size, len(self.x))
        for _ in range(GRADIENT_BATCHES):
            rows = np.sort(rng.choice(len(self.x), size, replace=False))
            self._twin.train_on_batch(self.x[rows], self.y[rows])
            squares = [float(np.vdot(g, g)) for g in self._twin.gradients().values()]
            norms.append(float(np.sqrt(np.sum(squares))))
        self.norms[str(epoch)] = norms

    def result(self) -> dict[str, Any]:
        return {"norms": self.norms}


class Recalibration:
    """Losses in inference mode, with the moving statistics and with recalibrated ones, epoch by epoch."""

    def __init__(self, variant: Variant, data: StudyData) -> None:
        x_train, self.x_test = data.inputs(variant.images)
        self.x, self.y, self.y_test = x_train[:RECALIBRATION_SAMPLES], data.y_train[:RECALIBRATION_SAMPLES], data.y_test
        self._twin = variant.compiled()
        self.losses: dict[str, list[float]] = {
            name: [] for name in ("train", "test", "recalibrated_train", "recalibrated_test")
        }

    def look(self, model: Sequential) -> None:
        self._twin.set_weights(model.get_weights())
        for prefix in ("", "recalibrated_"):
            if prefix:
                self._twin.recalibrate_batch_norm(self.x)
            for name, x, y in (("train", self.x, self.y), ("test", self.x_test, self.y_test)):
                self.losses[prefix + name].append(self._twin.evaluate(x, y, verbose=0)[0])

    def result(self) -> dict[str, Any]:
        return dict(self.losses)
