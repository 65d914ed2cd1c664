"""Optimizers with every option in use, and sizes of one weight."""

from __future__ import annotations

from oracles import SGD, Adam, Optimizer, RMSprop

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(0.05),
    "sgd_momentum": SGD(0.05, momentum=0.9),
    "sgd_nesterov": SGD(0.05, momentum=0.9, nesterov=True),
    "sgd_decay": SGD(0.05, momentum=0.5, weight_decay=0.01),
    "rmsprop": RMSprop(0.002),
    "rmsprop_momentum": RMSprop(0.002, rho=0.8, momentum=0.9, epsilon=1e-5),
    "rmsprop_centered": RMSprop(0.002, momentum=0.5, epsilon=1e-3, centered=True),
    "adam": Adam(0.002),
    "adam_options": Adam(0.002, beta_1=0.8, beta_2=0.95, epsilon=1e-4),
    "adam_amsgrad": Adam(0.002, amsgrad=True),
    "adamw": Adam(0.002, weight_decay=0.004),
}

SIZES = [0, 1, 15, 16, 17, 31, 33, 257, 100_003]
