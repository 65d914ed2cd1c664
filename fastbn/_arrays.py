"""Conversion of what users pass into what the kernels want, and checks of `out=` arrays.

Accepted: anything that NumPy makes an array of real numbers of (float16, float64, integers and bool become float32),
and any producer of DLPack tensors in the processor's memory (PyTorch, JAX, CuPy's pinned arrays, ...), without a copy.
Complex, object, string and structured arrays raise TypeError.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from fastbn import _core

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Shape: TypeAlias = tuple[int, ...]
DType: TypeAlias = np.dtype[Any]

# Made once: a dtype from its name costs as much as a small layer's share of a call.
FLOAT32: DType = np.dtype(np.float32)
FLOAT64: DType = np.dtype(np.float64)
INT32: DType = np.dtype(np.int32)


def view(operation: str, name: str, value: Any) -> npt.NDArray[Any]:
    """The NumPy array that `value` is, or that a DLPack producer shows; a new one of anything else.

    Raises TypeError for a producer whose tensor NumPy cannot read: other devices, bfloat16, tensors with gradients.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{operation}: {name} must be an array. Received: {error}") from None
    except (BufferError, RuntimeError, TypeError) as error:
        kind = type(value).__name__
        raise TypeError(f"{operation}: {name} must be readable by NumPy. Received: {kind}: {error}") from None


def as_array(operation: str, name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """`value` as an array of real numbers. Raises TypeError for other dtypes, ValueError for ragged sequences."""
    array = view(operation, name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{operation}: {name} must hold real numbers. Received: dtype {array.dtype}")
    return array


def _as(operation: str, name: str, value: npt.ArrayLike, dtype: DType) -> npt.NDArray[Any]:
    if _core.is_plain(value, dtype):
        return cast("npt.NDArray[Any]", value)
    array = as_array(operation, name, value)
    with np.errstate(over="ignore"):
        return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED", "ENSUREARRAY"])


def class_numbers(operation: str, array: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int32]:
    """Class numbers as contiguous int32; floats may hold them too.

    Raises ValueError for numbers outside [0, classes), NaN among them, TypeError for those that are not integers.
    """
    if array.size and not (array.min() >= 0 and array.max() < classes):
        outside = array.max() if array.min() >= 0 else array.min()
        raise ValueError(f"{operation}: class numbers must lie in [0, {classes}). Received: {outside}")
    labels = np.ascontiguousarray(array, np.int32)
    if array.dtype.kind == "f" and not np.array_equal(labels, array):
        raise TypeError(f"{operation}: class numbers must be integers. Received: dtype {array.dtype}")
    return labels


def as_float32(operation: str, name: str, value: npt.ArrayLike) -> Float32:
    """A C-contiguous float32 array; `value` itself where it already is one."""
    return _as(operation, name, value, FLOAT32)


def as_float64(operation: str, name: str, value: npt.ArrayLike) -> Float64:
    """A C-contiguous float64 array; `value` itself where it already is one."""
    return _as(operation, name, value, FLOAT64)


def optional_float32(operation: str, name: str, value: npt.ArrayLike | None) -> Float32 | None:
    return None if value is None else as_float32(operation, name, value)


def require_rank(operation: str, name: str, array: npt.NDArray[Any], rank: int) -> None:
    if array.ndim != rank:
        raise ValueError(f"{operation}: {name} must have rank {rank}. Received: {name}.shape={array.shape}")


def require_shape(operation: str, name: str, array: npt.NDArray[Any] | None, shape: Shape) -> None:
    if array is not None and array.shape != shape:
        raise ValueError(f"{operation}: {name} must have shape {shape}. Received: {name}.shape={array.shape}")


def reshaped(array: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    """A contiguous array seen in another shape of as many elements; itself where it has that one."""
    return array if array.shape == shape else array.reshape(shape)


def integer(operation: str, name: str, value: Any) -> int:
    """`value` as an int. Raises TypeError where it is not an integer, ValueError where it is beyond 64 bits."""
    number = any_integer(operation, name, value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{operation}: {name} must fit into 64 bits. Received: {name}={number}")
    return number


def any_integer(operation: str, name: str, value: Any) -> int:
    """`value` as an int of any size. Raises TypeError where it is not an integer."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{operation}: {name} must be an integer. Received: {value!r}") from None


def number(operation: str, name: str, value: Any) -> float:
    """`value` as a float. Raises TypeError where it is not a number, ValueError where it is beyond a float."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{operation}: {name} must be a number. Received: {name}={value!r}") from None
    except OverflowError:
        raise ValueError(f"{operation}: {name} must fit into a float. Received: {name}={value!r}") from None


def pair(operation: str, name: str, value: Any) -> tuple[int, int]:
    """(height, width) of an integer or a sequence of two."""
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(plain, Sequence) and not isinstance(plain, (str, bytes, bytearray)):
        if len(plain) != 2:
            raise ValueError(f"{operation}: {name} must be an integer or two. Received: {value!r}")
        return integer(operation, name, plain[0]), integer(operation, name, plain[1])
    both = integer(operation, name, plain)
    return both, both


def four_sizes(operation: str, name: str, value: Any) -> tuple[int, int, int, int]:
    """The shape of images or of a kernel. Raises TypeError where it is no sequence of integers, else ValueError."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise TypeError(f"{operation}: {name} must be four sizes. Received: {name}={value!r}")
    shape = tuple(integer(operation, name, extent) for extent in value)
    if len(shape) != 4 or min(shape) < 0:
        raise ValueError(f"{operation}: {name} must be four sizes. Received: {name}={shape}")
    return shape[0], shape[1], shape[2], shape[3]


_PAGE, _WITHIN = 4096, 3072
_PLACED = 1 << 20  # bytes, from which on the microsecond that a placed array costs is not seen


def allocate(operation: str, shape: Shape, dtype: DType) -> npt.NDArray[Any]:
    """An uninitialised array. Raises MemoryError where the size is beyond memory or int64.

    A large one begins with a cache line: NumPy's begin 16 bytes into one, where every vector that is stored touches
    two lines, and a convolution that is bound by its result takes up to 1.4 times as long. And it begins well away from
    where NumPy's begin in their pages: the processor takes a load for one of what was stored a moment ago where that
    lies a line or two before it in its page (4 KiB aliasing), and a depthwise layer of 1024 channels took 1.4 times as
    long. Two results of fastbn lie alike and do not disturb each other.
    """
    size = math.prod(shape) * dtype.itemsize
    try:
        if size < _PLACED:
            return np.empty(shape, dtype)
        memory = np.empty(size + _PAGE, np.uint8)
        begin = (_WITHIN - memory.__array_interface__["data"][0]) % _PAGE
        placed: npt.NDArray[Any] = np.ndarray(shape, dtype, memory, begin)
        return placed
    except (MemoryError, ValueError):
        raise MemoryError(f"{operation}: a result does not fit into memory. Received: {shape}, {size} bytes") from None


def _overlap(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    effort: Any = 10_000
    try:
        return np.shares_memory(a, b, effort)
    except Exception:  # too hard to decide exactly; NumPy's class for it has moved between versions
        return True


def check_out(
    operation: str,
    out: Any,
    shape: Shape,
    dtype: DType,
    inputs: Sequence[npt.ArrayLike | None],
    in_place: npt.ArrayLike | None = None,
    name: str = "out",
    outputs: Sequence[npt.NDArray[Any]] = (),
) -> npt.NDArray[Any]:
    """`out`, if it can hold a result; it may be `in_place` itself, but share no memory with another input or output.

    Of a DLPack producer, the array that shows its memory. Raises TypeError where it is neither, or of another dtype,
    ValueError otherwise.
    """
    if not isinstance(out, np.ndarray) and not hasattr(out, "__dlpack__"):
        raise TypeError(f"{operation}: {name} must be a NumPy array. Received: {type(out).__name__}")
    target = view(operation, name, out)
    if target.dtype != dtype:
        raise TypeError(f"{operation}: {name} must have dtype {dtype}. Received: dtype {target.dtype}")
    if target.shape != shape:
        raise ValueError(f"{operation}: {name} must have shape {shape}. Received: {name}.shape={target.shape}")
    if not (target.flags.c_contiguous and target.flags.aligned):
        raise ValueError(f"{operation}: {name} must be C-contiguous and aligned. Received: strides {target.strides}")
    if not target.flags.writeable:
        raise ValueError(f"{operation}: {name} must be writable. Received: a read-only array")
    for array in inputs:
        if not isinstance(array, np.ndarray) or (array is in_place and _same(target, array)):
            continue
        if _overlap(target, array):
            raise ValueError(f"{operation}: {name} must not overlap an input. Received: arrays that share memory")
    if any(_overlap(target, array) for array in outputs):
        raise ValueError(f"{operation}: {name} must not overlap another output. Received: arrays that share memory")
    return target


def _same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether both are the same elements in the same order."""
    return (
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and a.shape == b.shape
        and a.strides == b.strides
        and a.dtype == b.dtype
    )


def result(
    operation: str,
    out: npt.NDArray[Any] | None,
    shape: Shape,
    inputs: Sequence[npt.ArrayLike | None],
    dtype: DType = FLOAT32,
    in_place: npt.ArrayLike | None = None,
) -> npt.NDArray[Any]:
    """`out` after its checks, or a new array."""
    if out is None:
        return allocate(operation, shape, dtype)
    if _core.fit_results((out,), ((shape, dtype),), inputs):
        return out
    return check_out(operation, out, shape, dtype, inputs, in_place)  # it is in place, or refused with a reason


def all_results(
    operation: str,
    out: Sequence[npt.NDArray[Any] | None] | None,
    wanted: Sequence[tuple[Shape, DType]],
    inputs: Sequence[npt.ArrayLike | None],
) -> list[npt.NDArray[Any]]:
    """`results` where every one is wanted."""
    return [array for array in results(operation, out, wanted, inputs) if array is not None]


def results(
    operation: str,
    out: Sequence[npt.NDArray[Any] | None] | None,
    wanted: Sequence[tuple[Shape, DType] | None],
    inputs: Sequence[npt.ArrayLike | None],
) -> list[npt.NDArray[Any] | None]:
    """One array for each (shape, dtype) wanted, None for None; `out` is a sequence of as many arrays or Nones."""
    if out is None:
        return [None if w is None else allocate(operation, *w) for w in wanted]
    if isinstance(out, (tuple, list)) and _core.fit_results(out, wanted, inputs):
        return [array if w is not None else None for array, w in zip(out, wanted, strict=True)]
    if isinstance(out, np.ndarray) or not isinstance(out, Sequence) or len(out) != len(wanted):
        received = f"{len(out)}" if isinstance(out, Sequence) else type(out).__name__
        raise ValueError(f"{operation}: out must be a tuple of {len(wanted)} arrays or None. Received: {received}")
    given: list[npt.NDArray[Any]] = []
    arrays: list[npt.NDArray[Any] | None] = []
    for i, (array, w) in enumerate(zip(out, wanted, strict=True)):
        if w is None or array is None:
            arrays.append(None if w is None else allocate(operation, *w))
            continue
        arrays.append(check_out(operation, array, *w, inputs, name=f"out[{i}]", outputs=given))
        given.append(array)
    return arrays
