"""fastbn.ops with NumPy alone: DLPack in and out, `out=`, workspaces, and no allocation once every array is there."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from harness.compare import assert_same
from harness.consumers import EXAMPLES, tool

from fastbn import _core, ops

RNG = np.random.default_rng(0)


class Producer:
    """Shows an array through DLPack and in no other way."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        if self.device[0] != 1:
            raise BufferError("the tensor lies on another device")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def floats(*shape):
    return RNG.standard_normal(shape, np.float32)


X, K, B, DY = floats(4, 9, 8, 3), floats(3, 3, 3, 6), floats(6), floats(4, 7, 6, 6)
M, W = floats(10, 12), floats(12, 5)
#: A call of each kind on inputs that `as_` may wrap, and what its results are.
CALLS = {
    "conv2d_forward": lambda as_, **o: ops.conv2d_forward(as_(X), as_(K), as_(B), activation="relu", **o),
    "conv2d_backward": lambda as_, **o: ops.conv2d_backward(as_(DY), as_(X), as_(K), **o),
    "dense_forward": lambda as_, **o: ops.dense_forward(as_(M), as_(W), **o),
    "dense_backward": lambda as_, **o: ops.dense_backward(as_(M[:, :5].copy()), as_(M), as_(W), **o),
    "batch_norm_forward": lambda as_, **o: ops.batch_norm_forward(as_(DY), as_(B), as_(B), **o),
    "max_pool2d_forward": lambda as_, **o: ops.max_pool2d_forward(as_(DY), **o),
    "avg_pool2d_backward": lambda as_, **o: ops.avg_pool2d_backward(as_(DY[:, :4, :4].copy()), (4, 8, 8, 6), **o),
    "activation_forward": lambda as_, **o: ops.activation_forward(as_(M), "softmax", **o),
    "dropout_forward": lambda as_, **o: ops.dropout_forward(as_(M), 0.3, 5, **o),
    "softmax_cross_entropy_forward": lambda as_, **o: ops.softmax_cross_entropy_forward(
        as_(M), as_(np.arange(10) % 12), **o
    ),
}


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("name", CALLS)
def test_dlpack_in(name):
    for found, expected in zip(as_tuple(CALLS[name](Producer)), as_tuple(CALLS[name](np.asarray)), strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("name", CALLS)
def test_dlpack_as_out(name):
    expected = as_tuple(CALLS[name](np.asarray))
    buffers = [np.full_like(array, 7) for array in expected]
    given = [Producer(array) for array in buffers]
    found = as_tuple(CALLS[name](np.asarray, out=given[0] if len(given) == 1 else tuple(given)))
    for result, buffer, right in zip(found, buffers, expected, strict=True):
        assert_same(buffer, right)
        assert np.shares_memory(result, buffer)


def test_dlpack_in_is_no_copy(monkeypatch):
    seen = []
    monkeypatch.setattr(_core, "dense_forward", lambda x, kernel, *rest: seen.append((x, kernel)))
    ops.dense_forward(Producer(M), Producer(W))
    assert np.shares_memory(seen[0][0], M)
    assert np.shares_memory(seen[0][1], W)
    ops.dense_forward(Producer(M.astype(np.float64)), Producer(W))  # the check can fail: converted
    assert not np.shares_memory(seen[1][0], M)


def test_results_are_exported():
    y = ops.dense_forward(M, W)
    view = np.from_dlpack(y)
    assert np.shares_memory(view, y)
    assert_same(view, y)


def test_torch_and_jax_tensors():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the torch extra)")
    x, w, y = torch.from_numpy(M), torch.from_numpy(W), torch.empty(10, 5)
    expected = ops.dense_forward(M, W)
    found = ops.dense_forward(x, w, out=y)
    assert_same(y.numpy(), expected)
    assert torch.from_dlpack(found).data_ptr() == y.data_ptr()
    weights = torch.ones(4, 3)
    ops.sgd_update(weights, torch.ones(4, 3), learning_rate=0.5)
    assert (weights == 0.5).all()
    with pytest.raises(TypeError, match=r"dense_forward: x must be readable by NumPy. Received: Tensor: .*grad"):
        ops.dense_forward(x.requires_grad_(), w)
    with pytest.raises(TypeError, match="dense_forward: x must be readable by NumPy"):
        ops.dense_forward(x.detach().bfloat16(), w)


def test_jax_arrays():
    jax = pytest.importorskip("jax", reason="JAX is not installed (it is in the test extra)")
    expected = ops.dense_forward(M, W)
    assert_same(ops.dense_forward(jax.numpy.asarray(M), jax.numpy.asarray(W)), expected)
    assert_same(np.asarray(jax.dlpack.from_dlpack(expected)), expected)
    with pytest.raises(ValueError, match="out must be writable"):
        ops.dense_forward(M, W, out=jax.numpy.zeros((10, 5)))


def test_other_devices():
    with pytest.raises(
        TypeError, match=r"dense_forward: kernel must be readable by NumPy. Received: Producer: .*device"
    ):
        ops.dense_forward(M, Producer(W, (2, 0)))
    with pytest.raises(TypeError, match="dense_forward: out must be readable by NumPy"):
        ops.dense_forward(M, W, out=Producer(np.empty((10, 5), np.float32), (2, 0)))


# --------------------------------------------------------------------------------------------------------- workspaces


@pytest.mark.parametrize("name", CALLS)
def test_a_workspace_of_the_size_asked_for_is_enough(name):
    expected = as_tuple(CALLS[name](np.asarray))
    buffers = tuple(np.full_like(array, 7) for array in expected)
    out = buffers[0] if len(buffers) == 1 else buffers
    size = ops.workspace_size(CALLS[name], np.asarray, out=out)
    assert all((buffer == 7).all() for buffer in buffers)  # nothing was computed
    with ops.Workspace(size):
        CALLS[name](np.asarray, out=out)
    for buffer, right in zip(buffers, expected, strict=True):
        assert_same(buffer, right)
    if size > 0:
        small = ops.Workspace(size - 1)
        with small, pytest.raises(ValueError, match=rf"the workspace must hold {size} bytes. Received: {size - 1}"):
            CALLS[name](np.asarray)
    for found, right in zip(as_tuple(CALLS[name](np.asarray)), expected, strict=True):
        assert_same(found, right)  # outside of the block as before


def test_a_workspace_lives_as_long_as_it_is_in_force():
    x = np.ones((1, 20, 20, 3), np.float32)
    kernel = np.ones((3, 3, 3, 8), np.float32)
    size = ops.workspace_size(ops.conv2d_forward, x, kernel, padding="same")
    expected = ops.conv2d_forward(x, kernel, padding="same")
    outer, inner = ops.Workspace(0), ops.Workspace(size)
    with outer:
        with inner:
            np.testing.assert_array_equal(ops.conv2d_forward(x, kernel, padding="same"), expected)
        with pytest.raises(ValueError, match="workspace"):
            ops.conv2d_forward(x, kernel, padding="same")  # the outer one again
        with inner, inner:
            pass
    outer.__enter__()
    errors = []

    def leave(workspace):
        try:
            workspace.__exit__(None, None, None)
        except RuntimeError as error:
            errors.append(str(error))

    def enter():
        try:
            outer.__enter__()
        except RuntimeError as error:
            errors.append(str(error))

    for target, arguments in ((leave, (outer,)), (enter, ())):
        thread = threading.Thread(target=target, args=arguments)
        thread.start()
        thread.join()
    assert "must be left by the thread that entered it" in errors[0]
    assert "one thread at a time may be inside" in errors[1]
    outer.__exit__(None, None, None)
    kept = ops.Workspace(size)
    kept.__enter__()
    memory = weakref.ref(kept)
    del kept
    gc.collect()
    assert memory() is not None  # what kernels may write to
    np.testing.assert_array_equal(ops.conv2d_forward(x, kernel, padding="same"), expected)
    memory().__exit__(None, None, None)


def test_some_calls_want_a_workspace():
    assert ops.workspace_size(ops.conv2d_forward, X, K) > 0
    assert ops.workspace_size(ops.activation_forward, M, "relu") == 0


def test_errors_of_workspaces():
    with pytest.raises(ValueError, match=r"Workspace: size must not be negative. Received: size=-1"):
        ops.Workspace(-1)
    with pytest.raises(MemoryError, match="Workspace"):
        ops.Workspace(2**62)
    with pytest.raises(ValueError, match="dense_forward: the last axis"):
        ops.workspace_size(ops.dense_forward, M, K[0, 0])
    assert ops.dense_forward(M, W).any()  # the failed query has ended


# -------------------------------------------------------------------------------------------------------- allocations

COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>

void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

static atomic_size_t least = (size_t)-1;
static atomic_long found;
static void count(size_t size) {
  if (size >= atomic_load(&least)) atomic_fetch_add(&found, 1);
}
void count_from(size_t size) { found = 0; least = size; }
long counted(void) { least = (size_t)-1; return found; }

void* malloc(size_t size) { count(size); return __libc_malloc(size); }
void* calloc(size_t n, size_t size) { count(n * size); return __libc_calloc(n, size); }
void* realloc(void* p, size_t size) { count(size); return __libc_realloc(p, size); }
void* memalign(size_t a, size_t size) { count(size); return __libc_memalign(a, size); }
void* aligned_alloc(size_t a, size_t size) { count(size); return __libc_memalign(a, size); }
int posix_memalign(void** p, size_t a, size_t size) {
  count(size);
  *p = __libc_memalign(a, size);
  return *p ? 0 : ENOMEM;
}
"""
#: The smallest block that counts: Python's own dictionaries and the shapes that a call is checked with are smaller.
LEAST = 1024
STEPS = """
import ctypes, sys
import numpy as np
sys.path.insert(0, {example!r})
import train
from fastbn import ops

counter = ctypes.CDLL(None)
counter.count_from.argtypes, counter.counted.restype = [ctypes.c_size_t], ctypes.c_long
rng = np.random.default_rng(0)
x = rng.standard_normal((train.BATCH, train.SIZE, train.SIZE, 3), np.float32)
labels = rng.integers(0, train.CLASSES, train.BATCH, np.int32)
network = train.Network(rng)

def counted(steps, workspace):
    with workspace:
        counter.count_from({least})
        for _ in range(steps):
            network.step(x, labels)
        return counter.counted()

class Own:  # the memory that the thread keeps
    def __enter__(self): return self
    def __exit__(self, *_): return None

first = counted(1, Own())
network.step(x, labels)
kept = counted(100, Own())
given = counted(100, ops.Workspace(1 << 20))
counter.count_from({least})
ops.conv2d_forward(x, network.weights["kernel"], padding="same")
print(first, kept, given, counter.counted())
"""


@pytest.mark.as_shipped
def test_steps_allocate_nothing(tmp_path):
    (tmp_path / "counter.c").write_text(COUNTER)
    library = tmp_path / "counter.so"
    command = [tool("cc"), "-O1", "-shared", "-fPIC", "-Wno-builtin-declaration-mismatch", "counter.c", "-o", library]
    subprocess.run(command, cwd=tmp_path, check=True)
    script = STEPS.format(example=str(EXAMPLES / "numpy"), least=LEAST)
    environment = {"LD_PRELOAD": str(library), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, kept, given, without_out = map(int, done.stdout.split())
    print(
        f"allocations of {LEAST} bytes or more: first step {first}, 100 steps after it {kept}, with a workspace {given}"
    )
    assert first > 0  # the counter works: the thread's temporary memory is made
    assert without_out > 0
    assert (kept, given) == (0, 0)


def test_consumer(environment, consumer):
    folder: Path = consumer("numpy")
    out = environment.run(environment.python, "train.py", cwd=folder)
    losses = [float(loss) for line in out.splitlines() if line.startswith("losses:") for loss in line.split()[1:]]
    assert losses[-1] < 0.5 * losses[0]
