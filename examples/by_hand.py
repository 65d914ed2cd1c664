"""The question's convolutional network trained in a plain Python loop of kernels: no model, no program.

Conv2D 32 3x3 relu - Conv2D 64 3x3 relu - MaxPool 2x2 - Dropout 0.25 - Dense 10 softmax, RMSprop, batch 128. Each
forward kernel has its backward one; gradients come back in the reverse order, and every weight is updated in place.
`python examples/by_hand.py [epochs] [training images]`
"""

import argparse
import time

import numpy as np

from fastbn import datasets, ops

parser = argparse.ArgumentParser(description="A convolutional network by hand.")
parser.add_argument("epochs", nargs="?", type=int, default=1)
parser.add_argument("limit", nargs="?", type=int, default=60000, help="training images")
epochs, limit = vars(parser.parse_args()).values()
rng = np.random.default_rng(0)

data = datasets.load("auto")
print(data.note)
x_train, y_train = data.train[0][:limit, ..., None] / np.float32(255), data.train[1][:limit].astype(np.int32)
x_test, y_test = data.test[0][..., None] / np.float32(255), data.test[1].astype(np.int32)


def glorot_uniform(*shape):
    receptive = int(np.prod(shape[:-2]))
    limit = np.sqrt(6 / (receptive * (shape[-2] + shape[-1])))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


shapes = {"kernel 1": (3, 3, 1, 32), "kernel 2": (3, 3, 32, 64), "kernel 3": (9216, 10)}
weights = {name: glorot_uniform(*shape) for name, shape in shapes.items()}
weights |= {name.replace("kernel", "bias"): np.zeros(shape[-1], np.float32) for name, shape in shapes.items()}
velocities = {name: np.zeros_like(w) for name, w in weights.items()}


def forward(x, rate, seed):
    y1 = ops.conv2d_forward(x, weights["kernel 1"], weights["bias 1"], activation="relu")
    y2 = ops.conv2d_forward(y1, weights["kernel 2"], weights["bias 2"], activation="relu")
    pooled, index = ops.max_pool2d_forward(y2, 2)
    flat = ops.dropout_forward(pooled, rate, seed).reshape(len(x), -1)
    return y1, y2, pooled.shape, index, flat, ops.dense_forward(flat, weights["kernel 3"], weights["bias 3"])


def train_step(x, labels, seed):
    y1, y2, pooled_shape, index, flat, logits = forward(x, 0.25, seed)
    loss, probabilities = ops.softmax_cross_entropy_forward(logits, labels)

    gradients = {}
    d = ops.softmax_cross_entropy_backward(probabilities, labels, scale=1 / len(x))
    d, gradients["kernel 3"], gradients["bias 3"] = ops.dense_backward(d, flat, weights["kernel 3"])
    d = ops.dropout_backward(d.reshape(pooled_shape), 0.25, seed)
    d = ops.max_pool2d_backward(d, index, y2.shape, 2)
    d, gradients["kernel 2"], gradients["bias 2"] = ops.conv2d_backward(
        d, y1, weights["kernel 2"], y=y2, activation="relu"
    )
    _, gradients["kernel 1"], gradients["bias 1"] = ops.conv2d_backward(
        d, x, weights["kernel 1"], y=y1, activation="relu", need=("kernel", "bias")
    )
    for name, w in weights.items():
        ops.rmsprop_update(w, gradients[name], velocities[name], learning_rate=0.001)
    return loss.sum()


def accuracy(x, labels):
    blocks = [(forward(x[i : i + 500], 0.0, 0)[-1].argmax(1), labels[i : i + 500]) for i in range(0, len(x), 500)]
    return np.mean(np.concatenate([predicted == wanted for predicted, wanted in blocks]))


for epoch in range(epochs):
    start, order, total = time.perf_counter(), rng.permutation(len(x_train)), 0.0
    for at in range(0, len(order), 128):
        rows = order[at : at + 128]
        total += train_step(x_train[rows], y_train[rows], seed=epoch * len(order) + at)
    print(f"epoch {epoch + 1}: loss {total / len(order):.4f}, {time.perf_counter() - start:.1f} s")
    print(f"test accuracy {accuracy(x_test, y_test):.4f}")
