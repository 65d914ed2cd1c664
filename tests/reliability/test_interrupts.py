"""Ctrl-C: a long call of an operator ends within 0.2 s, `fit` after the step that is running, with the model whole."""

from __future__ import annotations

import inspect
import itertools
import os
import signal
import sys
import textwrap
import time

import numpy as np
import pytest
from harness.processes import run_python

from fastbn import layers, models

# Each makes a call of several seconds out of short ones of a size that fits the memory of a small machine.
CALLS = {
    "dense": """
        x, kernel = np.ones((6000, 6000), np.float32), np.ones((6000, 6000), np.float32)
        call = lambda: ops.dense_forward(x, kernel)
    """,
    "dense_backward": """
        x, kernel = np.ones((5000, 5000), np.float32), np.ones((5000, 5000), np.float32)
        call = lambda: ops.dense_backward(x, x, kernel)
    """,
    "conv2d": """
        x, kernel = np.ones((64, 96, 96, 64), np.float32), np.ones((3, 3, 64, 128), np.float32)
        call = lambda: ops.conv2d_forward(x, kernel)
    """,
    "predict": """
        model = fastbn.Sequential([fastbn.Input((48, 48, 32)), layers.Conv2D(64, 3), layers.Conv2D(128, 3)])
        x = np.ones((512, 48, 48, 32), np.float32)
        call = lambda: model.predict(x)
    """,
    "predict_at_once": """
        model = fastbn.Sequential([fastbn.Input((200,)), layers.Dense(300), layers.Dense(10)])
        x = np.ones((1_000_000, 200), np.float32)
        call = lambda: model.predict(x, batch_size=len(x))
    """,
    "evaluate_at_once": """
        model = fastbn.Sequential([fastbn.Input((200,)), layers.Dense(300), layers.Dense(3, activation="softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        x, y = np.ones((1_000_000, 200), np.float32), np.zeros(1_000_000, np.int32)
        call = lambda: model.evaluate(x, y, batch_size=len(x), verbose=0)
    """,
}
SCRIPT = """
import os, signal, threading, time
import numpy as np
import fastbn
from fastbn import layers, ops
{setup}
fastbn.set_num_threads({threads})
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell begin with it ignored
whole = []
def interrupt():
    time.sleep(0.3)
    whole.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=interrupt)
began = time.perf_counter()
thread.start()
try:
    while time.perf_counter() - began < 20:
        call()
    print("never")
except KeyboardInterrupt:
    print(time.perf_counter() - whole[0])
thread.join()
np.testing.assert_array_equal(ops.activation_forward(np.float32([-1, 2]), "relu"), [0, 2])
"""


@pytest.mark.as_shipped
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", list(CALLS))
def test_a_long_call_ends_soon(name, threads):
    delays = []
    for _ in range(6):  # other processes may hold the processors for a moment
        delays.append(float(run_python("-c", SCRIPT.format(setup=textwrap.dedent(CALLS[name]), threads=threads))))
        if delays[-1] < 0.2:
            break
    assert min(delays) < 0.2, f"{name} ended {delays} s after the signal"


def small_model():
    model = models.Sequential([layers.Dense(32, activation="relu", input_shape=(20,)), layers.Dense(4)])
    model.compile("sgd", "mean_squared_error")
    return model


def test_fit_ends_after_the_step(request):
    """The weights after an interrupt are those of a whole number of steps."""
    import _thread

    from fastbn.callbacks import LambdaCallback
    from fastbn.utils import set_random_seed

    x, y = np.random.default_rng(0).random((4096, 20), np.float32), np.ones((4096, 4), np.float32)
    set_random_seed(3)
    model = small_model()
    start = model.get_weights()
    steps = []

    def stop(batch, logs):
        steps.append(batch)
        if batch == 17:
            _thread.interrupt_main()

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=32, shuffle=False, verbose=0, callbacks=[LambdaCallback(on_train_batch_end=stop)])
    assert 18 <= len(steps) <= 20
    found = model.get_weights()
    again = small_model()
    again.set_weights(start)
    done = model.optimizer_state()["iterations"]
    for batch in range(done):
        again.train_on_batch(x[32 * batch : 32 * (batch + 1)], y[32 * batch : 32 * (batch + 1)])
    for a, b in zip(found, again.get_weights(), strict=True):
        assert a.tobytes() == b.tobytes()
    model.fit(x, y, batch_size=32, verbose=0)  # and it trains on


FIT = """
import os, signal, threading, time
import numpy as np
import fastbn
from fastbn import layers
signal.signal(signal.SIGINT, signal.default_int_handler)
model = fastbn.Sequential([fastbn.Input((28, 28, 8)), layers.Conv2D(32, 3), layers.BatchNormalization(),
                           layers.ReLU(), layers.Flatten(), layers.Dense(10, activation="softmax")])
model.compile("sgd", "sparse_categorical_crossentropy")
x, y = np.random.default_rng(0).random((2048, 28, 28, 8), np.float32), np.zeros(2048, np.int32)
model.fit(x, y, batch_size=128, verbose=0)
sent = []
def interrupt():
    time.sleep(0.5)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    model.fit(x, y, batch_size=128, epochs=1000, verbose=0)
except KeyboardInterrupt:
    delay = time.perf_counter() - sent[0]
assert all(np.isfinite(w).all() for w in model.get_weights())
before = model.optimizer_state()["iterations"]
model.fit(x, y, batch_size=128, verbose=0)
assert model.optimizer_state()["iterations"] == before + 16
print(delay)
"""


def test_a_signal_ends_fit():
    began = time.perf_counter()
    assert float(run_python("-c", FIT)) < 1.0
    assert time.perf_counter() - began < 60


def _at_every_call(body, most=400):
    """body() again and again, interrupted at the return of its 1st, 2nd, ... call of a function of Python or C."""
    for number in range(1, most):
        left = number

        def count(frame, event, argument):
            nonlocal left
            yields = frame.f_code.co_flags & inspect.CO_GENERATOR  # no place where Python handles signals
            if event == "c_return" or (event == "return" and not yields):
                left -= 1
                if left == 0:
                    sys.setprofile(None)
                    os.kill(os.getpid(), signal.SIGINT)

        interrupted = False
        try:
            sys.setprofile(count)
            body()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.setprofile(None)
        if not interrupted:
            return  # all calls have been interrupted once
        yield number
    raise AssertionError(f"more than {most} calls")


@pytest.fixture
def raises_interrupts():
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("raises_interrupts")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of archives that were being closed
@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_training_goes_on_after_an_interrupt_anywhere(method):
    """With batches of another size: whatever was being planned, the model trains on, and is in nobody's turn."""
    x, y = np.random.default_rng(0).random((8, 20), np.float32), np.ones((8, 4), np.float32)
    model = small_model()

    def train(rows):
        if method == "fit":
            model.fit(x[:rows], y[:rows], batch_size=rows, verbose=0)
        else:
            model.train_on_batch(x[:rows], y[:rows])

    train(8)
    seen = 0
    sizes = itertools.count()
    for _ in _at_every_call(lambda: train(1 + next(sizes) % 7)):
        train(8)
        model.compile("sgd", "mean_squared_error")
        train(8)
        seen += 1
    assert seen > 20


@pytest.mark.usefixtures("raises_interrupts")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of archives that were being closed
def test_weights_are_taken_whole_or_not_at_all(tmp_path):
    model = small_model()
    model.compile("adam", "mean_squared_error")
    zeros, ones = ([np.full_like(w, value) for w in model.get_weights()] for value in (0, 1))
    model.set_weights(ones)
    model.save_weights(tmp_path / "ones.npz")
    state = {name: np.ones_like(value) for name, value in model.optimizer_state().items() if name != "iterations"}
    setters = {
        "set_weights": lambda: model.set_weights(ones),
        "load_weights": lambda: model.load_weights(tmp_path / "ones.npz"),
        "set_optimizer_state": lambda: model.set_optimizer_state({"iterations": 3, **state}),
    }
    for name, setter in setters.items():
        outcomes = set()
        for _ in _at_every_call(setter, 4000):
            if name == "set_optimizer_state":
                values = [v for k, v in model.optimizer_state().items() if k != "iterations"]
            else:
                values = model.get_weights()
            mixed = {float(v) for array in values for v in np.unique(array)}
            assert len(mixed) == 1, f"{name} left {mixed}"
            outcomes |= mixed
            model.set_weights(zeros)
            model.set_optimizer_state({"iterations": 0, **{k: np.zeros_like(v) for k, v in state.items()}})
        assert 0.0 in outcomes


@pytest.mark.usefixtures("raises_interrupts")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of archives that were being closed
def test_an_interrupt_of_saving_is_one(tmp_path):
    model = small_model()
    model.save_weights(tmp_path / "w.npz")
    for _ in _at_every_call(lambda: model.save_weights(tmp_path / "w.npz"), 6000):
        assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]
    model.load_weights(tmp_path / "w.npz")
