"""Shapes of activations, dropout and losses."""

from __future__ import annotations

ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "softmax")

# Softmax goes over the last axis, the others do not look at the shape.
SHAPES = [
    (1, 1),
    (1, 17),
    (7, 10),
    (5, 15),
    (3, 16),
    (31, 33),
    (2, 3, 5),
    (2, 3, 4, 7),
    (0, 5),
    (9, 32),
    (21, 64),
    (13, 65),
    (257, 257),
    (3, 100_003),
]

DROPOUT = [(0.0, (5, 7)), (0.25, (33, 1031)), (0.5, (100_003,)), (0.2, (128, 512)), (1.0, (17,)), (0.3, (0, 4))]

# rows, classes: up to four vectors of classes, whatever their length, rows lie across vectors
LOSSES = [
    (1, 1),
    (1, 2),
    (19, 3),
    (4, 10),
    (128, 10),
    (9, 16),
    (33, 17),
    (8, 32),
    (18, 33),
    (37, 64),
    (5, 65),
    (7, 1000),
    (0, 5),
    (5003, 31),
]
