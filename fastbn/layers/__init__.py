"""Layers under Keras' names. They only describe: shapes, weights, fusion and execution belong to the C++ library.

Every layer takes `name`, `trainable` and, as the first of a `Sequential`, `input_shape`. Arguments of Keras' that are
not built in (regularizers, constraints, ...) raise NotImplementedError where they are given.
"""

from fastbn.layers.core import Activation, Dense, Input, InputLayer, LeakyReLU, ReLU, Softmax
from fastbn.layers.images import AveragePooling2D, Conv2D, GlobalAveragePooling2D, MaxPooling2D
from fastbn.layers.layer import Layer
from fastbn.layers.normalization import BatchNormalization
from fastbn.layers.shaping import Add, Concatenate, Dropout, Flatten, Rescaling, Reshape

Convolution2D, MaxPool2D, AvgPool2D, GlobalAvgPool2D = Conv2D, MaxPooling2D, AveragePooling2D, GlobalAveragePooling2D

__all__ = [
    "Activation",
    "Add",
    "AveragePooling2D",
    "AvgPool2D",
    "BatchNormalization",
    "Concatenate",
    "Conv2D",
    "Convolution2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalAvgPool2D",
    "Input",
    "InputLayer",
    "Layer",
    "LeakyReLU",
    "MaxPool2D",
    "MaxPooling2D",
    "ReLU",
    "Rescaling",
    "Reshape",
    "Softmax",
]
