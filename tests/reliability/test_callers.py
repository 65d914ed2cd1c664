"""Many Python threads at once: every answer right, memory flat, the throughput of one; one trainer to a model."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness.tiers import short_and_long

import fastbn
from fastbn import layers, ops, utils
from fastbn.models.engine import Engine

CALLERS = 64


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def small_model(seed: int = 0) -> fastbn.Sequential:
    utils.set_random_seed(seed)
    model = fastbn.Sequential(
        [
            fastbn.Input((12, 12, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


RNG = np.random.default_rng(3)
X = RNG.standard_normal((64, 12, 12, 3)).astype(np.float32)
Y = RNG.integers(0, 10, 64).astype(np.int32)
A, B = RNG.standard_normal((200, 300)).astype(np.float32), RNG.standard_normal((300, 150)).astype(np.float32)
IMAGES, KERNEL = (
    RNG.standard_normal((4, 20, 20, 8)).astype(np.float32),
    RNG.standard_normal((3, 3, 8, 16)).astype(np.float32),
)
SHARED = small_model()


def trained() -> bytes:
    """Three steps of a model of one's own."""
    model = SEPARATE.model
    model.set_weights(START)
    model.set_optimizer_state(START_STATE)
    for begin in (0, 16, 32):
        model.train_on_batch(X[begin : begin + 16], Y[begin : begin + 16])
    return b"".join(w.tobytes() for w in model.get_weights())


class Separate(threading.local):
    """A model for each thread."""

    def __init__(self) -> None:
        with MAKING:
            self.model = small_model()
        self.model.train_on_batch(X[:16], Y[:16])


MAKING = threading.Lock()  # the random state is the process's
SEPARATE = Separate()
SEPARATE.model.train_on_batch(X[:16], Y[:16])
START = small_model().get_weights()
START_STATE = {k: v if k == "iterations" else np.zeros_like(v) for k, v in SEPARATE.model.optimizer_state().items()}
START_STATE["iterations"] = 0

WORK: list[Callable[[], bytes]] = [
    lambda: ops.dense_forward(A, B).tobytes(),
    lambda: ops.conv2d_forward(IMAGES, KERNEL, padding="same", activation="relu").tobytes(),
    lambda: b"".join(g.tobytes() for g in ops.conv2d_backward(IMAGES, IMAGES, KERNEL[..., :8], padding="same")),
    lambda: b"".join(g.tobytes() for g in ops.batch_norm_forward(A, activation="relu")),
    lambda: ops.activation_forward(A, "tanh").tobytes(),
    lambda: SHARED.predict(X).tobytes(),
    lambda: b"".join(v.tobytes() for v in SHARED.layer_outputs(X[:8]).values()),
    trained,
]


def run_callers(count: int, seconds: float, expected: list[bytes]) -> tuple[int, list[str]]:
    """Calls that `count` threads made in that time, and what went wrong."""
    calls, wrong = [0] * count, []
    end = time.monotonic() + seconds

    def caller(number: int) -> None:
        turn = number
        try:
            while time.monotonic() < end:
                kind = turn % len(WORK)
                if WORK[kind]() != expected[kind]:
                    wrong.append(f"caller {number}: work {kind} gave other bits")
                calls[number] += 1
                turn += 1
        except Exception as error:
            wrong.append(f"caller {number}: {error!r}")

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(calls), wrong


@pytest.mark.parametrize("seconds", short_and_long(4, 600))
def test_64_callers(seconds):
    expected = [work() for work in WORK]
    run_callers(CALLERS, min(seconds, 3), expected)  # memory of 64 models and stacks
    before = resident_bytes()
    calls, wrong = run_callers(CALLERS, seconds, expected)
    grown = resident_bytes() - before
    assert not wrong, wrong[:5]
    print(f"{calls} calls in {seconds} s; resident size grew by {grown / 2**20:.1f} MiB")
    assert calls > CALLERS
    assert grown < 64 * 2**20, f"{grown / 2**20:.0f} MiB more than before"


def test_throughput_of_many_is_that_of_one():
    """Large calls, which take the threads of the machine, from one caller and from eight."""
    x, kernel = np.ones((600, 1500), np.float32), np.ones((1500, 1000), np.float32)

    def rate(callers: int) -> float:
        done = [0] * callers
        end = time.monotonic() + 0.6

        def caller(number: int) -> None:
            out = np.empty((600, 1000), np.float32)
            while time.monotonic() < end:
                ops.dense_forward(x, kernel, out=out)
                done[number] += 1

        threads = [threading.Thread(target=caller, args=(n,)) for n in range(callers)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.monotonic() - began)

    rate(1)
    best = 0.0
    for _ in range(6):  # other processes may hold the processors for a moment
        best = max(best, rate(8) / rate(1))
        if best >= 0.9:
            break
    assert best >= 0.9, f"eight callers do {best:.2f} of the work of one"


def test_one_model_has_one_trainer():
    """The second of two threads that train a model gets an error that says so; the first is not disturbed."""
    model, errors = small_model(), []
    entered, go_on = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        entered.set()
        assert go_on.wait(30)

    first = threading.Thread(
        target=lambda: model.fit(
            X,
            Y,
            batch_size=16,
            shuffle=False,
            verbose=0,
            callbacks=[fastbn.callbacks.LambdaCallback(on_train_batch_begin=hold)],
        )
    )
    first.start()
    assert entered.wait(30)
    with pytest.raises(RuntimeError, match=r"^fit: the model must not be in training. Received: .*fit"):
        model.fit(X, Y, verbose=0)
    with pytest.raises(RuntimeError, match=r"^compile: .*training"):
        model.compile("sgd", "sparse_categorical_crossentropy")
    go_on.set()
    first.join()
    alone = small_model()
    alone.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    for a, e in zip(model.get_weights(), alone.get_weights(), strict=True):
        assert a.tobytes() == e.tobytes()
    assert not errors


def test_steps_of_two_threads_are_whole_or_refused():
    model, made, refused = small_model(), [], []

    def trainer() -> None:
        for _ in range(200):
            try:
                model.train_on_batch(X, Y)
                made.append(1)
            except RuntimeError as error:
                refused.append(str(error))

    model.train_on_batch(X, Y)
    threads = [threading.Thread(target=trainer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("is training in another thread" in text for text in refused), set(refused)
    assert model.optimizer_state()["iterations"] == 1 + len(made)
    alone = small_model()
    for _ in range(1 + len(made)):
        alone.train_on_batch(X, Y)
    for a, e in zip(model.get_weights(), alone.get_weights(), strict=True):
        assert a.tobytes() == e.tobytes()


def test_a_second_trainer_does_not_plan_for_the_first(monkeypatch):
    """Who comes while another thread is about to train is refused: neither changes the batch that the other planned."""
    model, original = small_model(), Engine.set_capacity
    inside, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def set_capacity(engine: Engine, size: int) -> None:
        if size == 5:
            inside.set()
            assert go_on.wait(30)
            original(engine, size)
            done.set()
        else:
            original(engine, size)
            go_on.set()
            assert done.wait(30)

    monkeypatch.setattr(Engine, "set_capacity", set_capacity)
    first = threading.Thread(target=lambda: model.train_on_batch(X[:5], Y[:5]))
    first.start()
    assert inside.wait(30)
    with pytest.raises(RuntimeError, match=r"^train_on_batch: .* is training in another thread"):
        model.train_on_batch(X[:17], Y[:17])
    go_on.set()
    first.join()
    assert model.optimizer.iterations == 1


def test_predictions_during_training_are_of_whole_steps():
    """Who predicts while another trains sees the weights before a step or after it."""
    model = small_model()
    states = [model.predict(X[:4]).tobytes()]
    for begin in range(0, 64, 8):
        model.train_on_batch(X[begin : begin + 8], Y[begin : begin + 8])
        states.append(model.predict(X[:4]).tobytes())
    model = small_model()
    model.predict(X[:4])
    seen: list[bytes] = []
    done = threading.Event()

    def reader() -> None:
        while not done.is_set():
            seen.append(model.predict(X[:4]).tobytes())

    threads = [threading.Thread(target=reader) for _ in range(6)]
    for thread in threads:
        thread.start()
    for begin in range(0, 64, 8):
        model.train_on_batch(X[begin : begin + 8], Y[begin : begin + 8])
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert seen
    assert set(seen) <= set(states)


def test_python_runs_while_a_setting_waits():
    """A learning rate that waits for a long prediction to end does not keep other threads from running."""
    conv = [layers.Conv2D(32, 3, activation="relu"), layers.Conv2D(64, 3, activation="relu")]
    model = fastbn.Sequential([layers.Input((28, 28, 1)), *conv, layers.Flatten(), layers.Dense(10)])
    model.compile("sgd", "mse")
    x, y = np.zeros((6000, 28, 28, 1), np.float32), np.zeros((4, 10), np.float32)
    model.train_on_batch(x[:4], y)
    model.predict(x[:300], verbose=0)
    ended: list[float] = []

    def predict() -> None:
        model.predict(x, batch_size=len(x), verbose=0)
        ended.append(time.perf_counter())

    def step() -> None:
        model.optimizer.learning_rate = 0.5
        model.train_on_batch(x[:4], y)

    begun = time.perf_counter()
    threads = [threading.Thread(target=predict), threading.Thread(target=step)]
    ticks = [begun]
    threads[0].start()
    time.sleep(0.02)
    threads[1].start()
    while any(thread.is_alive() for thread in threads):
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    assert np.diff(ticks).max() < (ended[0] - begun) / 2


def test_the_interpreter_lock():
    """Free-threaded builds keep the lock off when fastbn is imported; others have it."""
    enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    import sysconfig

    assert enabled == (not sysconfig.get_config_var("Py_GIL_DISABLED"))
