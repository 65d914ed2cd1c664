"""Trains a small convolutional network with NumPy and fastbn.ops alone: every array is made before the first step.

pip install fastbn
python train.py
"""

from __future__ import annotations

import numpy as np

from fastbn import ops

BATCH, SIZE, CLASSES = 32, 12, 10


def array(*shape: int) -> np.ndarray:
    return np.empty(shape, np.float32)


class Network:
    """conv 3x3 with 16 filters, batch-norm + ReLU, global average, dense; softmax cross-entropy, SGD with momentum."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.weights = {
            "kernel": 0.2 * rng.standard_normal((3, 3, 3, 16), np.float32),
            "gamma": np.ones(16, np.float32),
            "beta": np.zeros(16, np.float32),
            "dense": 0.2 * rng.standard_normal((16, CLASSES), np.float32),
            "bias": np.zeros(CLASSES, np.float32),
        }
        self.gradients = {name: np.empty_like(w) for name, w in self.weights.items()}
        self.velocity = {name: np.zeros_like(w) for name, w in self.weights.items()}
        images = (BATCH, SIZE, SIZE, 16)
        self.z, self.y, self.dy, self.dz = (array(*images) for _ in range(4))
        self.mean, self.variance = np.empty(16), np.empty(16)
        self.pooled, self.dpooled = array(BATCH, 16), array(BATCH, 16)
        self.logits, self.probabilities, self.dlogits = (array(BATCH, CLASSES) for _ in range(3))
        self.loss = array(BATCH)

    def step(self, x: np.ndarray, labels: np.ndarray) -> float:
        w, g = self.weights, self.gradients
        ops.conv2d_forward(x, w["kernel"], padding="same", out=self.z)
        statistics = (self.y, self.mean, self.variance)
        ops.batch_norm_forward(self.z, w["gamma"], w["beta"], activation="relu", out=statistics)
        ops.global_avg_pool2d_forward(self.y, out=self.pooled)
        ops.dense_forward(self.pooled, w["dense"], w["bias"], out=self.logits)
        ops.softmax_cross_entropy_forward(self.logits, labels, out=(self.loss, self.probabilities))

        ops.softmax_cross_entropy_backward(self.probabilities, labels, 1 / BATCH, out=self.dlogits)
        out = (self.dpooled, g["dense"], g["bias"])
        ops.dense_backward(self.dlogits, self.pooled, w["dense"], out=out)
        ops.global_avg_pool2d_backward(self.dpooled, self.y.shape, out=self.dy)
        ops.batch_norm_backward(
            self.dy, self.z, w["gamma"], self.mean, self.variance, beta=w["beta"], activation="relu",
            out=(self.dz, g["gamma"], g["beta"]),
        )  # fmt: skip
        ops.conv2d_backward(self.dz, x, w["kernel"], padding="same", need=("kernel",), out=(None, g["kernel"], None))
        for name, weight in w.items():
            ops.sgd_update(weight, g[name], self.velocity[name], learning_rate=0.1, momentum=0.9)
        return float(self.loss.mean())


def main() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, BATCH, np.int32)
    x = rng.standard_normal((BATCH, SIZE, SIZE, 3), np.float32)
    x += rng.standard_normal((CLASSES, 1, 1, 3), np.float32)[labels]  # every class has its own colour
    network = Network(rng)

    # The largest temporary memory that a call of a step wants; any call may use it.
    kernel = network.weights["kernel"]
    size = max(
        ops.workspace_size(ops.conv2d_forward, x, kernel, padding="same"),
        ops.workspace_size(ops.conv2d_backward, network.dz, x, kernel, padding="same", need=("kernel",)),
        ops.workspace_size(ops.batch_norm_forward, network.z),
        1 << 20,
    )
    with ops.Workspace(size):
        losses = [network.step(x, labels) for _ in range(40)]
    print(f"workspace: {size} bytes")
    print("losses:", *(f"{loss:.4f}" for loss in losses[::8]))
    assert losses[-1] < 0.5 * losses[0]

    view = np.from_dlpack(network.probabilities)  # any library that reads DLPack sees the same memory
    assert np.shares_memory(view, network.probabilities)


if __name__ == "__main__":
    main()
