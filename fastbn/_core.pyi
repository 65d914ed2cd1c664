"""The C interface of fastbn over NumPy arrays. Nothing is converted or copied.

Every array must be what the C function wants: the named dtype, C-contiguous, aligned, of the right shape, writable
where it is written, and no output may overlap another operand. Otherwise TypeError (dtype) or ValueError.

Functions that end in `_at` take addresses instead, 0 for NULL: what lies there is the caller's to check.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypedDict, final, type_check_only

import numpy as np
import numpy.typing as npt

_F32: TypeAlias = npt.NDArray[np.float32]
_F64: TypeAlias = npt.NDArray[np.float64]
_I64: TypeAlias = npt.NDArray[np.int64]
_Array: TypeAlias = npt.NDArray[Any]
_Pair: TypeAlias = Sequence[int]
_Pads: TypeAlias = Sequence[int]
_Result: TypeAlias = tuple[float, int, int, float, float]

FLOAT32: int
UINT8: int
INT32: int
LINEAR: int
RELU: int
LEAKY_RELU: int
SIGMOID: int
TANH: int
SOFTMAX: int
PADDING_VALID: int
PADDING_SAME: int
PADDING_EXPLICIT: int
ALGORITHM_AUTO: int
ALGORITHM_DIRECT: int
SGD: int
RMSPROP: int
ADAM: int
LAYER_INPUT: int
LAYER_CONV2D: int
LAYER_DENSE: int
LAYER_BATCH_NORM: int
LAYER_ACTIVATION: int
LAYER_MAX_POOL2D: int
LAYER_AVG_POOL2D: int
LAYER_GLOBAL_AVG_POOL2D: int
LAYER_DROPOUT: int
LAYER_RESHAPE: int
LAYER_RESCALING: int
LAYER_ADD: int
LAYER_CONCATENATE: int
INIT_DEFAULT: int
INIT_ZEROS: int
INIT_ONES: int
INIT_CONSTANT: int
INIT_RANDOM_UNIFORM: int
INIT_RANDOM_NORMAL: int
INIT_TRUNCATED_NORMAL: int
INIT_GLOROT_UNIFORM: int
INIT_GLOROT_NORMAL: int
INIT_HE_UNIFORM: int
INIT_HE_NORMAL: int
INIT_LECUN_UNIFORM: int
INIT_LECUN_NORMAL: int
LOSS_NONE: int
LOSS_SOFTMAX_CROSS_ENTROPY: int
LOSS_MEAN_SQUARED_ERROR: int
MAX_RANK: int
MAX_INPUTS: int

def version() -> str: ...
def get_num_threads() -> int: ...
def set_num_threads(num_threads: int) -> None: ...
def num_threads_reason() -> str: ...
def isa_compiled() -> str: ...
def isa_found() -> str: ...
def isa_in_use() -> str: ...
def set_isa(name: str) -> None: ...
def build_info() -> str: ...
def threading_layer() -> str: ...
def set_workspace(memory: npt.NDArray[np.uint8] | None) -> None: ...
def begin_workspace_query() -> None: ...
def end_workspace_query() -> int | None: ...
def is_plain(value: object, dtype: npt.DTypeLike) -> bool: ...
def fit_results(arrays: Sequence[object], wanted: Sequence[object], inputs: Sequence[object]) -> bool: ...
def measure_ceilings(isa: str | None = None, seconds: float = 1.0) -> CeilingValues: ...
def conv2d_output_shape(
    x_shape: Sequence[int],
    kernel_shape: Sequence[int],
    strides: _Pair,
    dilation: _Pair,
    groups: int,
    padding: int,
    pads: _Pads,
) -> list[int]: ...
def conv2d_algorithm(
    x_shape: Sequence[int],
    kernel_shape: Sequence[int],
    strides: _Pair,
    dilation: _Pair,
    groups: int,
    padding: int,
    pads: _Pads,
    algorithm: int,
    pass_: int,
) -> tuple[str, str]: ...
def conv2d_forward(
    x: _F32,
    kernel: _F32,
    bias: _F32 | None,
    y: _F32,
    strides: _Pair,
    dilation: _Pair,
    groups: int,
    padding: int,
    pads: _Pads,
    activation: int,
    alpha: float,
    algorithm: int,
) -> None: ...
def conv2d_backward(
    dy: _F32,
    x: _F32,
    kernel: _F32,
    y: _F32 | None,
    dx: _F32 | None,
    dkernel: _F32 | None,
    dbias: _F32 | None,
    strides: _Pair,
    dilation: _Pair,
    groups: int,
    padding: int,
    pads: _Pads,
    activation: int,
    alpha: float,
    algorithm: int,
) -> None: ...
def dense_forward(x: _F32, kernel: _F32, bias: _F32 | None, y: _F32, activation: int, alpha: float) -> None: ...
def dense_backward(
    dy: _F32,
    x: _F32,
    kernel: _F32,
    y: _F32 | None,
    dx: _F32 | None,
    dkernel: _F32 | None,
    dbias: _F32 | None,
    activation: int,
    alpha: float,
) -> None: ...
def batch_norm_forward(
    x: _F32,
    gamma: _F32 | None,
    beta: _F32 | None,
    residual: _F32 | None,
    y: _F32 | None,
    mean: _F64,
    variance: _F64,
    epsilon: float,
    activation: int,
    alpha: float,
) -> None: ...
def batch_norm_inference(
    x: _F32,
    gamma: _F32 | None,
    beta: _F32 | None,
    mean: _F64,
    variance: _F64,
    residual: _F32 | None,
    y: _F32 | None,
    epsilon: float,
    activation: int,
    alpha: float,
) -> None: ...
def batch_norm_backward(
    dy: _F32 | None,
    x: _F32,
    gamma: _F32 | None,
    beta: _F32 | None,
    mean: _F64,
    variance: _F64,
    y: _F32 | None,
    dx: _F32 | None,
    dgamma: _F32 | None,
    dbeta: _F32 | None,
    dresidual: _F32 | None,
    epsilon: float,
    activation: int,
    alpha: float,
    residual: bool,
    frozen: bool,
) -> None: ...
def batch_norm_chunk_rows(total_rows: int, channels: int) -> int: ...
def batch_norm_partial(x: _F32, total_rows: int, mean: _F64, m2: _F64) -> None: ...
def batch_norm_merge(counts: _I64, means: _F64, m2s: _F64, mean: _F64, variance: _F64) -> None: ...
def batch_norm_backward_partial(
    dy: _F32 | None,
    x: _F32,
    gamma: _F32 | None,
    beta: _F32 | None,
    mean: _F64,
    variance: _F64,
    y: _F32 | None,
    total_rows: int,
    sum_dy: _F64,
    sum_dy_xc: _F64,
    epsilon: float,
    activation: int,
    alpha: float,
    residual: bool,
) -> None: ...
def batch_norm_backward_merge(sums_dy: _F64, sums_dy_xc: _F64, sum_dy: _F64, sum_dy_xc: _F64) -> None: ...
def batch_norm_backward_apply(
    dy: _F32 | None,
    x: _F32,
    gamma: _F32 | None,
    beta: _F32 | None,
    mean: _F64,
    variance: _F64,
    y: _F32 | None,
    sum_dy: _F64,
    sum_dy_xc: _F64,
    total_rows: int,
    dx: _F32 | None,
    dresidual: _F32 | None,
    epsilon: float,
    activation: int,
    alpha: float,
    residual: bool,
) -> None: ...
def pool2d_output_shape(
    x_shape: Sequence[int], pool_size: _Pair, strides: _Pair, padding: int, pads: _Pads
) -> tuple[list[int], bool]: ...
def max_pool2d_forward(
    x: _F32, y: _F32, index: _Array | None, pool_size: _Pair, strides: _Pair, padding: int, pads: _Pads
) -> None: ...
def max_pool2d_backward(
    dy: _F32, index: _Array, dx: _F32, pool_size: _Pair, strides: _Pair, padding: int, pads: _Pads
) -> None: ...
def avg_pool2d_forward(x: _F32, y: _F32, pool_size: _Pair, strides: _Pair, padding: int, pads: _Pads) -> None: ...
def avg_pool2d_backward(dy: _F32, dx: _F32, pool_size: _Pair, strides: _Pair, padding: int, pads: _Pads) -> None: ...
def global_avg_pool2d_forward(x: _F32, y: _F32) -> None: ...
def global_avg_pool2d_backward(dy: _F32, dx: _F32) -> None: ...
def activation_forward(x: _F32, y: _F32, activation: int, alpha: float) -> None: ...
def activation_backward(dy: _F32, y: _F32, dx: _F32, activation: int, alpha: float) -> None: ...
def dropout_forward(x: _F32, y: _F32, rate: float, seed: int) -> None: ...
def dropout_backward(dy: _F32, dx: _F32, rate: float, seed: int) -> None: ...
def softmax_cross_entropy_forward(logits: _F32, labels: _Array, loss: _F32, probabilities: _F32) -> None: ...
def softmax_cross_entropy_backward(probabilities: _F32, labels: _Array, dlogits: _F32, scale: float) -> None: ...
def mean_squared_error_forward(predictions: _F32, targets: _F32, loss: _F32) -> None: ...
def mean_squared_error_backward(predictions: _F32, targets: _F32, dpredictions: _F32, scale: float) -> None: ...
def conv2d_forward_at(
    x_shape: Sequence[int],
    kernel_shape: Sequence[int],
    strides: _Pair,
    dilation: _Pair,
    groups: int,
    pads: _Pads,
    activation: int,
    alpha: float,
    x: int,
    kernel: int,
    bias: int,
    y: int,
    threads: int,
) -> None: ...
def conv2d_backward_at(
    x_shape: Sequence[int],
    kernel_shape: Sequence[int],
    strides: _Pair,
    dilation: _Pair,
    groups: int,
    pads: _Pads,
    activation: int,
    alpha: float,
    dy: int,
    x: int,
    kernel: int,
    y: int,
    dx: int,
    dkernel: int,
    dbias: int,
    threads: int,
) -> None: ...
def dense_forward_at(
    rows: int,
    kernel_shape: _Pair,
    activation: int,
    alpha: float,
    x: int,
    kernel: int,
    bias: int,
    y: int,
    threads: int,
) -> None: ...
def dense_backward_at(
    rows: int,
    kernel_shape: _Pair,
    activation: int,
    alpha: float,
    dy: int,
    x: int,
    kernel: int,
    y: int,
    dx: int,
    dkernel: int,
    dbias: int,
    threads: int,
) -> None: ...
def batch_norm_forward_at(
    shape: _Pair,
    epsilon: float,
    activation: int,
    alpha: float,
    x: int,
    gamma: int,
    beta: int,
    residual: int,
    y: int,
    mean: int,
    variance: int,
    threads: int,
) -> None: ...
def batch_norm_inference_at(
    shape: _Pair,
    epsilon: float,
    activation: int,
    alpha: float,
    x: int,
    gamma: int,
    beta: int,
    mean: int,
    variance: int,
    residual: int,
    y: int,
    threads: int,
) -> None: ...
def batch_norm_backward_at(
    shape: _Pair,
    epsilon: float,
    activation: int,
    alpha: float,
    residual: bool,
    frozen: bool,
    dy: int,
    x: int,
    gamma: int,
    beta: int,
    mean: int,
    variance: int,
    y: int,
    dx: int,
    dgamma: int,
    dbeta: int,
    dresidual: int,
    threads: int,
) -> None: ...

@type_check_only
class _Pybind11Type(type): ...

@final
class Optimizer(metaclass=_Pybind11Type):
    """Kind and hyper-parameters of an optimizer."""

    def __init__(
        self,
        kind: int,
        *,
        learning_rate: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        rho: float = 0.9,
        centered: bool = False,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        amsgrad: bool = False,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
    ) -> None: ...
    @property
    def slot_names(self) -> list[str]: ...

def optimizer_update(
    operation: str, optimizer: Optimizer, iteration: int, weights: _F32, gradient: _F32, slots: Sequence[_F32]
) -> None: ...

@final
class Graph(metaclass=_Pybind11Type):
    """Layers with inferred shapes; the batch axis is never written."""

    def __init__(self) -> None: ...
    def add(self, kind: int, name: str, inputs: Sequence[int], **fields: Any) -> int: ...
    def shape(self, node: int) -> tuple[int, ...]: ...
    def layer_cost(self, node: int) -> tuple[int, int, int]: ...

@type_check_only
class CeilingValues(TypedDict):
    threads: int
    multiply_adds: float
    l1_bytes: float
    l2_bytes: float
    l3_bytes: float
    memory_bytes: float
    region_seconds: float
    phase_seconds: float
    l1_size: int
    l2_size: int
    l3_size: int

@type_check_only
class CostRow(TypedDict):
    layer: str
    operation: str
    note: str
    fused: str
    node: int
    direction: str
    phase: int
    multiply_adds: int
    bytes_block: int
    bytes_crossing: int
    calls: int
    seconds: float
    steps: int

@final
class Program(metaclass=_Pybind11Type):
    """A graph with weights, a loss and an optimizer, recorded and replayed per batch."""

    def __init__(
        self,
        graph: Graph,
        output: int,
        *,
        max_batch: int,
        seed: int,
        loss: int = 0,
        labels_dtype: int = 0,
        optimizer: Optimizer | None = None,
        conv_algorithm: int = 0,
        keep_gradients: bool = False,
        timing: bool = False,
        block_bytes: int = 0,
    ) -> None: ...
    def takes(self, x: object, y: object) -> bool: ...
    def train(self, x: _Array, y: _Array, index: _I64 | None, begin: int, count: int) -> _Result: ...
    def evaluate(self, x: _Array, y: _Array, index: _I64 | None, begin: int, count: int) -> _Result: ...
    def predict(self, x: _Array, index: _I64 | None, begin: int, count: int, out: _F32) -> None: ...
    def node_output(self, node: int, x: _Array, index: _I64 | None, begin: int, count: int, out: _F32) -> None: ...
    def parameters(self) -> list[tuple[str, tuple[int, ...], bool]]: ...
    def get(self, parameter: int, what: str = "value") -> _F32: ...
    def set(self, parameter: int, what: str, value: _F32) -> None: ...
    def set_all(self, values: Sequence[tuple[int, str, _F32]]) -> None: ...
    iteration: int
    learning_rate: float
    def set_max_batch(self, max_batch: int) -> None: ...
    def describe(self) -> str: ...
    def costs(self, batch: int) -> list[CostRow]: ...
    def reset_costs(self) -> None: ...
