import numpy as np
from numpy.typing import NDArray

__pyx_capi__: dict[str, object]  # the C functions, for `cimport`
__test__: dict[str, str]

def dense_forward(
    x: NDArray[np.float32],
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    y: NDArray[np.float32],
    activation: int = 0,
    alpha: float = 0.0,
    num_threads: int = 0,
) -> int: ...
def dense_backward(
    dy: NDArray[np.float32],
    x: NDArray[np.float32],
    kernel: NDArray[np.float32],
    y: NDArray[np.float32] | None,
    dx: NDArray[np.float32] | None,
    dkernel: NDArray[np.float32] | None,
    dbias: NDArray[np.float32] | None,
    activation: int = 0,
    alpha: float = 0.0,
    num_threads: int = 0,
) -> int: ...
def conv2d_forward(
    x: NDArray[np.float32],
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    y: NDArray[np.float32],
    stride_height: int = 1,
    stride_width: int = 1,
    same: bool = False,
    dilation_height: int = 1,
    dilation_width: int = 1,
    activation: int = 0,
    alpha: float = 0.0,
    num_threads: int = 0,
) -> int: ...
def conv2d_backward(
    dy: NDArray[np.float32],
    x: NDArray[np.float32],
    kernel: NDArray[np.float32],
    y: NDArray[np.float32] | None,
    dx: NDArray[np.float32] | None,
    dkernel: NDArray[np.float32] | None,
    dbias: NDArray[np.float32] | None,
    stride_height: int = 1,
    stride_width: int = 1,
    same: bool = False,
    dilation_height: int = 1,
    dilation_width: int = 1,
    activation: int = 0,
    alpha: float = 0.0,
    num_threads: int = 0,
) -> int: ...
def batch_norm_forward(
    x: NDArray[np.float32],
    gamma: NDArray[np.float32] | None,
    beta: NDArray[np.float32] | None,
    y: NDArray[np.float32],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    epsilon: float = 1e-3,
    activation: int = 0,
    alpha: float = 0.0,
    num_threads: int = 0,
) -> int: ...
def batch_norm_backward(
    dy: NDArray[np.float32],
    x: NDArray[np.float32],
    gamma: NDArray[np.float32] | None,
    beta: NDArray[np.float32] | None,
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    y: NDArray[np.float32] | None,
    dx: NDArray[np.float32] | None,
    dgamma: NDArray[np.float32] | None,
    dbeta: NDArray[np.float32] | None,
    epsilon: float = 1e-3,
    activation: int = 0,
    alpha: float = 0.0,
    num_threads: int = 0,
) -> int: ...
def batch_norm_inference(
    x: NDArray[np.float32],
    gamma: NDArray[np.float32] | None,
    beta: NDArray[np.float32] | None,
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    y: NDArray[np.float32],
    epsilon: float = 1e-3,
    activation: int = 0,
    alpha: float = 0.0,
    num_threads: int = 0,
) -> int: ...
def max_pool2d_forward(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    index: NDArray[np.uint8] | None,
    pool_height: int = 2,
    pool_width: int = 2,
    stride_height: int = 0,
    stride_width: int = 0,
    same: bool = False,
    num_threads: int = 0,
) -> int: ...
def max_pool2d_backward(
    dy: NDArray[np.float32],
    index: NDArray[np.uint8],
    dx: NDArray[np.float32],
    pool_height: int = 2,
    pool_width: int = 2,
    stride_height: int = 0,
    stride_width: int = 0,
    same: bool = False,
    num_threads: int = 0,
) -> int: ...
def avg_pool2d_forward(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    pool_height: int = 2,
    pool_width: int = 2,
    stride_height: int = 0,
    stride_width: int = 0,
    same: bool = False,
    num_threads: int = 0,
) -> int: ...
def avg_pool2d_backward(
    dy: NDArray[np.float32],
    dx: NDArray[np.float32],
    pool_height: int = 2,
    pool_width: int = 2,
    stride_height: int = 0,
    stride_width: int = 0,
    same: bool = False,
    num_threads: int = 0,
) -> int: ...
def global_avg_pool2d_forward(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    num_threads: int = 0,
) -> int: ...
def global_avg_pool2d_backward(
    dy: NDArray[np.float32],
    dx: NDArray[np.float32],
    num_threads: int = 0,
) -> int: ...
def activation_forward(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    activation: int,
    alpha: float = 0.0,
    num_threads: int = 0,
) -> int: ...
def activation_backward(
    dy: NDArray[np.float32],
    y: NDArray[np.float32],
    dx: NDArray[np.float32],
    activation: int,
    alpha: float = 0.0,
    num_threads: int = 0,
) -> int: ...
def dropout_forward(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    rate: float,
    seed: int,
    num_threads: int = 0,
) -> int: ...
def softmax_cross_entropy_forward(
    logits: NDArray[np.float32],
    labels: NDArray[np.int32],
    loss: NDArray[np.float32],
    probabilities: NDArray[np.float32],
    num_threads: int = 0,
) -> int: ...
def softmax_cross_entropy_backward(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int32],
    dlogits: NDArray[np.float32],
    scale: float = 1.0,
    num_threads: int = 0,
) -> int: ...
def mean_squared_error_forward(
    predictions: NDArray[np.float32],
    targets: NDArray[np.float32],
    loss: NDArray[np.float32],
    num_threads: int = 0,
) -> int: ...
def mean_squared_error_backward(
    predictions: NDArray[np.float32],
    targets: NDArray[np.float32],
    dpredictions: NDArray[np.float32],
    scale: float = 1.0,
    num_threads: int = 0,
) -> int: ...
