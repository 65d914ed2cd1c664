"""Where results lie."""

import numpy as np
import pytest

from fastbn import _arrays, ops


@pytest.mark.parametrize("shape", [(1 << 18,), (3, 100_003), (2, 300, 300, 7)])
def test_large_results_begin_with_a_cache_line(shape):
    for dtype in (_arrays.FLOAT32, _arrays.FLOAT64):
        array = _arrays.allocate("test", shape, dtype)
        assert array.ctypes.data % 64 == 0
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable
    x = np.ones((1, 600, 600, 2), np.float32)
    assert ops.activation_forward(x, "relu").ctypes.data % 64 == 0


def test_a_result_beyond_memory_is_refused_by_name():
    with pytest.raises(MemoryError, match="test: a result does not fit into memory"):
        _arrays.allocate("test", (1 << 40, 1 << 20), _arrays.FLOAT32)
