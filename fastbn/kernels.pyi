from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__pyx_capi__: dict[str, object]  # the C functions, for `cimport`
__test__: dict[str, str]

def dense_forward(
    x: NDArray[np.float32], kernel: NDArray[np.float32], bias: NDArray[np.float32] | None, y: NDArray[np.float32]
) -> None: ...
def conv2d_forward(
    x: NDArray[np.float32],
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    y: NDArray[np.float32],
    strides: Sequence[int] = (1, 1),
    padding: str = "valid",
) -> None: ...
def batch_norm_forward(
    x: NDArray[np.float32],
    gamma: NDArray[np.float32] | None,
    beta: NDArray[np.float32] | None,
    y: NDArray[np.float32],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    epsilon: float = 0.001,
) -> None: ...
