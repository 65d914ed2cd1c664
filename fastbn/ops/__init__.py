"""The kernels as functions: arrays in, arrays out, one forward and one backward each.

Inputs may be anything that NumPy makes an array of real numbers of, and any producer of DLPack tensors in the
processor's memory: float16, float64, integers, bool and any memory layout are converted to C-contiguous float32 here.
Results are float32 (statistics float64), NumPy arrays. `out=` takes the result's array, or a tuple of arrays where a
function returns several, or tensors that show their memory through DLPack; it must have the right dtype and shape, be
C-contiguous and writable, and share no memory with an input; this is checked before anything is written. An empty batch
gives empty results and zero gradients.
"""

from fastbn.ops._workspace import Workspace, workspace_size
from fastbn.ops.convolution import conv2d_algorithm, conv2d_backward, conv2d_forward
from fastbn.ops.dense import dense_backward, dense_forward
from fastbn.ops.losses import (
    mean_squared_error_backward,
    mean_squared_error_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from fastbn.ops.normalization import (
    batch_norm_backward,
    batch_norm_backward_apply,
    batch_norm_backward_merge,
    batch_norm_backward_partial,
    batch_norm_chunk_rows,
    batch_norm_forward,
    batch_norm_inference,
    batch_norm_merge,
    batch_norm_partial,
)
from fastbn.ops.pointwise import activation_backward, activation_forward, dropout_backward, dropout_forward
from fastbn.ops.pooling import (
    avg_pool2d_backward,
    avg_pool2d_forward,
    global_avg_pool2d_backward,
    global_avg_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)
from fastbn.ops.updates import adam_update, rmsprop_update, sgd_update

__all__ = [
    "Workspace",
    "activation_backward",
    "activation_forward",
    "adam_update",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "batch_norm_backward",
    "batch_norm_backward_apply",
    "batch_norm_backward_merge",
    "batch_norm_backward_partial",
    "batch_norm_chunk_rows",
    "batch_norm_forward",
    "batch_norm_inference",
    "batch_norm_merge",
    "batch_norm_partial",
    "conv2d_algorithm",
    "conv2d_backward",
    "conv2d_forward",
    "dense_backward",
    "dense_forward",
    "dropout_backward",
    "dropout_forward",
    "global_avg_pool2d_backward",
    "global_avg_pool2d_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "mean_squared_error_backward",
    "mean_squared_error_forward",
    "rmsprop_update",
    "sgd_update",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "workspace_size",
]
