"""Denormals cost nothing, and the caller's floating-point mode is its own again on every way out."""

from __future__ import annotations

import ctypes
import platform
import textwrap
import time

import numpy as np
import pytest
from harness.processes import run_python

import fastbn
from fastbn import layers, models, ops

DENORMAL = np.float32(1e-40)


def small_step() -> tuple[models.Sequential, np.ndarray, np.ndarray]:
    model = models.Sequential(
        [
            fastbn.Input((14, 14, 8)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    return model, rng.standard_normal((128, 14, 14, 8), np.float32), rng.integers(0, 10, 128).astype(np.int32)


def test_training_is_as_fast():
    """Steps on data and weights with planted denormals, in turns with steps on the same without."""
    model, x, y = small_step()
    weights = model.get_weights()
    bad_x = np.where(np.random.default_rng(1).random(x.shape) < 0.5, DENORMAL, x)
    bad_weights = [np.where(np.random.default_rng(2).random(w.shape) < 0.5, DENORMAL, w) for w in weights]

    def seconds(data: np.ndarray, start: list[np.ndarray]) -> float:
        model.set_weights(start)
        begin = time.perf_counter()
        for _ in range(4):
            model.train_on_batch(data, y)
        return time.perf_counter() - begin

    seconds(x, weights)
    best = [np.inf, np.inf]
    for attempt in range(100):  # the least of many: other programs may take the processors
        best[0] = min(best[0], seconds(x, weights))
        best[1] = min(best[1], seconds(bad_x, bad_weights))
        if best[1] <= 1.1 * best[0] and attempt > 3:
            break
    assert best[1] <= 1.1 * best[0], f"{best[1] / best[0]:.2f} times as long"


def test_the_library_flushes_them(isa):
    assert (ops.activation_forward(np.full(1000, DENORMAL), "leaky_relu", alpha=0.5) == 0).all()


MODES = {"default": 0x1F80, "flushing": 0x9FC0, "towards zero": 0x7F80, "up": 0x5F80}
# Reads and sets MXCSR, so that whatever a call leaves behind is seen.
CODE = bytes.fromhex("0fae5c24fc8b4424fcc3")  # stmxcsr [rsp-4]; mov eax, [rsp-4]; ret
SET = bytes.fromhex("897c24fc0fae5424fcc3")  # mov [rsp-4], edi; ldmxcsr [rsp-4]; ret


def machine_code(code: bytes, *arguments: type) -> ctypes._CFunctionType:
    import mmap

    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_uint, *arguments)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    function.page = page  # kept as long as the function
    return function


def calls() -> dict[str, object]:
    x = np.full((64, 4096), DENORMAL)
    model, images, labels = small_step()

    def failing() -> None:
        with pytest.raises(ValueError, match="Received"):
            ops.dense_forward(x, np.ones((3, 3), np.float32))

    def failing_in_the_library() -> None:
        with pytest.raises(ValueError, match="Received"):
            ops.batch_norm_forward(np.zeros((0, 4), np.float32))

    def raising_callback() -> None:
        def stop(*_: object) -> None:
            raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            model.fit(
                images,
                labels,
                verbose=0,
                callbacks=[fastbn.callbacks.LambdaCallback(on_train_batch_end=stop)],
            )

    return {
        "forward": lambda: ops.activation_forward(x, "sigmoid"),
        "batch norm": lambda: ops.batch_norm_forward(x),
        "train": lambda: model.train_on_batch(images, labels),
        "predict": lambda: model.predict(images),
        "error": failing,
        "error in the library": failing_in_the_library,
        "exception in a callback": raising_callback,
    }


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads MXCSR, which x86-64 has")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", list(MODES))
def test_the_callers_mode_is_restored(mode, threads):
    from harness.library import using_threads

    read, write = machine_code(CODE), machine_code(SET, ctypes.c_uint)
    flags = 0x3F  # sticky: what has happened, not how to compute
    before = read()
    found = {}
    try:
        with using_threads(threads):
            for name, call in calls().items():
                write(MODES[mode])
                call()
                found[name] = read() & ~flags
    finally:
        write(before)
    assert found == dict.fromkeys(found, MODES[mode])


def test_an_interrupt_restores_it():
    """The mode is the caller's inside a signal handler that runs during a call, and after the call that it ends."""
    script = """
        import os, signal, threading, time
        import numpy as np
        from fastbn import ops
        seen = []
        def handler(*_):
            seen.append(float(np.float32(1e-40) * np.float32(1.0)))
            raise InterruptedError
        signal.signal(signal.SIGINT, handler)
        x = np.ones((6000, 6000), np.float32)
        threading.Thread(target=lambda: (time.sleep(0.3), os.kill(os.getpid(), signal.SIGINT))).start()
        try:
            while True:
                ops.dense_forward(x, x)
        except InterruptedError:
            seen.append(float(np.float32(1e-40) * np.float32(1.0)))
        assert len(seen) == 2 and all(seen), seen
    """
    run_python("-c", textwrap.dedent(script))
