"""The C interface itself: a caller's workspace, a host's parallel_for that runs tasks in any order, size queries."""

from __future__ import annotations

import ctypes as c

import numpy as np
import oracles
import pytest
from cases import Data
from cases.conv2d import CASES
from harness.arrays import Guarded
from harness.compare import assert_same
from harness.library import library, using_threads

Task = c.CFUNCTYPE(None, c.c_int64, c.c_int32, c.c_void_p)
ParallelFor = c.CFUNCTYPE(None, c.c_void_p, c.c_int64, Task, c.c_void_p)
OK, INVALID_VALUE = 0, 1
FBN_INT32 = 2
RESERVED = ("reserved", c.c_int64 * 4)


class Exec(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        ("num_threads", c.c_int32),
        ("parallel_for", ParallelFor),
        ("parallel_for_host", c.c_void_p),
        ("workspace", c.c_void_p),
        ("workspace_size", c.c_size_t),
        ("workspace_query", c.POINTER(c.c_size_t)),
    ]


class Conv2d(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        *[(n, c.c_int64) for n in ("batch", "height", "width", "in_channels", "out_channels")],
        *[(n, c.c_int64) for n in ("kernel_height", "kernel_width", "stride_height", "stride_width")],
        *[(n, c.c_int64) for n in ("dilation_height", "dilation_width", "groups")],
        ("padding", c.c_int32),
        *[(n, c.c_int64) for n in ("pad_top", "pad_bottom", "pad_left", "pad_right")],
        ("activation", c.c_int32),
        ("alpha", c.c_float),
        ("algorithm", c.c_int32),
        RESERVED,
    ]


class Dense(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        *[(n, c.c_int64) for n in ("rows", "in_features", "out_features")],
        ("activation", c.c_int32),
        ("alpha", c.c_float),
        RESERVED,
    ]


class BatchNorm(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        ("rows", c.c_int64),
        ("channels", c.c_int64),
        ("epsilon", c.c_double),
        ("activation", c.c_int32),
        ("alpha", c.c_float),
        ("has_residual", c.c_int32),
        ("frozen", c.c_int32),
        RESERVED,
    ]


def described(structure, **fields):
    d = structure(**fields)
    d.struct_size = c.sizeof(structure)
    return d


def pointer(a):
    return None if a is None else c.c_void_p(a.ctypes.data)


class Call:
    """A function of the library on arrays: `outputs` are given anew, filled with NaN, on every run."""

    def __init__(self, function, descriptor, inputs, outputs):
        self.function, self.descriptor, self.inputs, self.outputs = function, descriptor, inputs, outputs

    def status(self, exec_=None):
        boxes = [Guarded(shape, dtype) for shape, dtype in self.outputs]
        arrays = [pointer(a) for a in (*self.inputs, *(b.array for b in boxes))]
        how = None if exec_ is None else c.byref(exec_)
        status = getattr(library(), self.function)(c.byref(self.descriptor), *arrays, how)
        return status, boxes

    def run(self, exec_=None):
        status, boxes = self.status(exec_)
        assert status == OK, library().fbn_last_error().decode()
        return [box.check() for box in boxes]


def conv2d_calls():
    for name in ("wide_32_64", "groups_2", "depthwise", "one_channel_28", "few_channels", "pointwise"):
        (case,) = (k for k in CASES if k.name == name)
        x, kernel, bias, dy = case.inputs()
        pads = oracles.resolve_padding(case.padding, case.x[1:3], case.kernel, case.strides, case.dilation)
        d = described(
            Conv2d,
            **dict(zip(("batch", "height", "width", "in_channels"), case.x, strict=True)),
            out_channels=case.filters,
            kernel_height=case.kernel[0],
            kernel_width=case.kernel[1],
            stride_height=case.strides[0],
            stride_width=case.strides[1],
            dilation_height=case.dilation[0],
            dilation_width=case.dilation[1],
            groups=case.groups,
            padding=2,
            **dict(zip(("pad_top", "pad_bottom", "pad_left", "pad_right"), (*pads[0], *pads[1]), strict=True)),
        )
        f4 = np.float32
        yield f"conv2d_forward-{name}", Call("fbn_conv2d_forward", d, [x, kernel, bias], [(case.out_shape, f4)])
        gradients = [(x.shape, f4), (kernel.shape, f4), ((case.filters,), f4)]
        yield f"conv2d_backward-{name}", Call("fbn_conv2d_backward", d, [dy, x, kernel, None], gradients)


def other_calls():
    data, f4, f8 = Data("c interface"), np.float32, np.float64
    x, kernel, bias, dy = data.array(130, 257), data.array(257, 65), data.array(65), data.array(130, 65)
    d = described(Dense, rows=130, in_features=257, out_features=65)
    yield "dense_forward", Call("fbn_dense_forward", d, [x, kernel, bias], [(dy.shape, f4)])
    gradients = [(x.shape, f4), (kernel.shape, f4), (bias.shape, f4)]
    yield "dense_backward", Call("fbn_dense_backward", d, [dy, x, kernel, None], gradients)
    x, gamma, beta, dy = data.array(5003, 33), data.array(33), data.array(33), data.array(5003, 33)
    d = described(BatchNorm, rows=5003, channels=33, epsilon=1e-3)
    forward = [(x.shape, f4), ((33,), f8), ((33,), f8)]
    yield "batch_norm_forward", Call("fbn_batch_norm_forward", d, [x, gamma, beta, None], forward)
    _, mean, variance = oracles.batch_norm_forward(x, gamma, beta)
    d = described(BatchNorm, rows=5003, channels=33, epsilon=1e-3, has_residual=1)
    gradients = [(x.shape, f4), ((33,), f4), ((33,), f4), (x.shape, f4)]
    inputs = [dy, x, gamma, beta, mean, variance, None]
    yield "batch_norm_backward", Call("fbn_batch_norm_backward", d, inputs, gradients)


CALLS = dict([*conv2d_calls(), *other_calls()])


@pytest.mark.parametrize("order", ["backwards", "shuffled", "odd_first"])
@pytest.mark.parametrize("name", CALLS)
def test_a_host_may_run_tasks_in_any_order(name, order, isa):
    """The host's own parallel_for: one lane, the tasks of a phase in an order of its liking."""
    call, phases = CALLS[name], []

    @ParallelFor
    def parallel_for(host, count, task, argument):
        tasks = list(range(count))
        if order == "backwards":
            tasks.reverse()
        elif order == "odd_first":
            tasks.sort(key=lambda i: i % 2 == 0)
        else:
            np.random.default_rng(count).shuffle(tasks)
        phases.append(count)
        for i in tasks:
            task(i, len(phases) % 3, argument)

    with using_threads(3):
        expected = call.run()
        found = call.run(described(Exec, parallel_for=parallel_for, num_threads=3))
    assert phases, "the host was not asked"
    for a, e in zip(found, expected, strict=True):
        assert_same(a, e)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", CALLS)
def test_a_workspace_of_the_caller(name, threads, isa):
    call = CALLS[name]
    needed = c.c_size_t(12345)
    with using_threads(threads):
        status, boxes = call.status(described(Exec, workspace_query=c.pointer(needed)))
        assert status == OK
        assert needed.value != 12345
        for box in boxes:
            box.check_untouched()
        workspace = Guarded((needed.value,), np.uint8)
        exec_ = described(Exec, workspace=workspace.array.ctypes.data, workspace_size=needed.value)
        found = call.run(exec_)
        workspace.check()
        for a, e in zip(found, call.run(), strict=True):
            assert_same(a, e)
        if needed.value:
            exec_.workspace_size = needed.value - 1
            status, boxes = call.status(exec_)
            assert status == INVALID_VALUE
            assert b"workspace" in library().fbn_last_error()
            for box in boxes:
                box.check_untouched()


@pytest.mark.parametrize("name", CALLS)
def test_bad_descriptors(name):
    call = CALLS[name]
    size = call.descriptor.struct_size
    call.descriptor.struct_size = size - 8
    status, boxes = call.status()
    call.descriptor.struct_size = size
    assert status == INVALID_VALUE
    assert b"struct_size" in library().fbn_last_error()
    assert b"Received: " in library().fbn_last_error()
    for box in boxes:
        box.check_untouched()
    missing = Call(call.function, call.descriptor, [None, *call.inputs[1:]], call.outputs)
    assert missing.status()[0] == INVALID_VALUE
    assert b"Received: NULL" in library().fbn_last_error()


@pytest.mark.parametrize("classes", [5, 40])
@pytest.mark.parametrize("beyond", [0, 3])
def test_labels_that_change_after_their_check(classes, beyond, isa):
    """What is no class then has the loss NaN and no target. They change in the host's parallel_for."""
    rows, f4 = 30000, np.float32
    logits = Data("labels").array(rows, classes)
    labels = np.zeros(rows, np.int32)
    changed = np.arange(rows) % 7 == 2
    changed[-10:] = False  # without the check other rows are read, not memory beyond the array

    @ParallelFor
    def parallel_for(host, count, task, argument):
        labels[changed] = classes + beyond
        for i in range(count):
            task(i, 0, argument)

    def call(function, before, boxes):
        labels[:] = 0
        exec_ = described(Exec, parallel_for=parallel_for, num_threads=3)
        arrays = [pointer(logits), pointer(labels), c.c_int32(FBN_INT32), *before, *(pointer(b.array) for b in boxes)]
        status = getattr(library(), function)(c.c_int64(rows), c.c_int64(classes), *arrays, c.byref(exec_))
        assert status == OK, library().fbn_last_error().decode()
        return [box.check() for box in boxes]

    with using_threads(3):
        loss, p = call("fbn_softmax_cross_entropy_forward", [], [Guarded((rows,), f4), Guarded((rows, classes), f4)])
        (gradient,) = call("fbn_softmax_cross_entropy_backward", [c.c_float(2)], [Guarded((rows, classes), f4)])
    np.testing.assert_array_equal(np.isnan(loss), changed)
    assert np.isfinite(p).all()
    targets = np.where(changed, 0, 1)[:, None] * (np.arange(classes) == 0)
    np.testing.assert_allclose(gradient, 2 * (logits - targets), rtol=1e-5, atol=1e-5)
