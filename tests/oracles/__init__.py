"""float64 NumPy oracles: what every operator has to compute, written for reading and not for speed.

Each oracle takes arrays of any float dtype and returns float64 (indices: int64). Backward oracles are checked
against finite differences of the forward ones in test_oracles.py; the kernels are checked against the oracles.
"""

from oracles.convolution import (
    conv2d_backward,
    conv2d_forward,
    output_size,
    resolve_padding,
)
from oracles.dense import dense_backward, dense_forward
from oracles.losses import (
    mean_squared_error_backward,
    mean_squared_error_forward,
    one_hot,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from oracles.normalization import (
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
    batch_norm_merge,
    batch_norm_partial,
)
from oracles.optimizers import SGD, Adam, Optimizer, RMSprop
from oracles.pointwise import activation_backward, activation_forward, dropout, dropout_bits, philox
from oracles.pooling import (
    avg_pool2d_backward,
    avg_pool2d_forward,
    global_avg_pool2d_backward,
    global_avg_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)

__all__ = [
    "SGD",
    "Adam",
    "Optimizer",
    "RMSprop",
    "activation_backward",
    "activation_forward",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "batch_norm_merge",
    "batch_norm_partial",
    "conv2d_backward",
    "conv2d_forward",
    "dense_backward",
    "dense_forward",
    "dropout",
    "dropout_bits",
    "global_avg_pool2d_backward",
    "global_avg_pool2d_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "mean_squared_error_backward",
    "mean_squared_error_forward",
    "one_hot",
    "output_size",
    "philox",
    "resolve_padding",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
]
