"""Train, fork, train on in the child; pools of processes. Nothing here depends on the OpenMP runtime."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.processes import run_python

PRELUDE = """
import hashlib, multiprocessing, os, signal, sys, threading, time
import numpy as np
import fastbn
from fastbn import layers, ops, utils

def make():
    utils.set_random_seed(5)
    model = fastbn.Sequential([
        fastbn.Input((16, 16, 4)), layers.Conv2D(16, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU(),
        layers.Dropout(0.1), layers.Flatten(), layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model

def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((96, 16, 16, 4)).astype(np.float32), rng.integers(0, 10, 96).astype(np.int32)

def train(model, steps=3):
    x, y = data()
    for _ in range(steps):
        model.train_on_batch(x, y)
    return hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()

def lanes():
    "Threads that worked for a large call, by their processor time."
    x = np.ones((1500, 1500), np.float32)
    used = lambda: {t: sum(map(int, open(f"/proc/self/task/{t}/stat").read().rsplit(")")[-1].split()[11:13]))
                    for t in os.listdir("/proc/self/task")}
    before = used()
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        ops.dense_forward(x, x)
    return sum(ticks - before.get(t, 0) >= 5 for t, ticks in used().items())

def work(_):
    return train(make())

def in_child(body):
    "What body() returns in a forked child, which is killed where it hangs."
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os.write(write, str(body()).encode())
        finally:
            os._exit(0)
    os.close(write)
    text = b""
    while part := os.read(read, 4096):
        text += part
    os.close(read)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status} (14: it hung)"
    return text.decode()
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Runs a program of its own (what it forks must not have pytest's threads); its output."""

    def program(body: str, threads: int = 2) -> str:
        path = tmp_path / "program.py"  # pools that spawn import it
        path.write_text(PRELUDE + "\nif __name__ == '__main__':\n" + textwrap.indent(textwrap.dedent(body), "    "))
        return run_python(str(path), OMP_NUM_THREADS=str(threads))

    return program


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_train_fork_train(run, threads):
    """The child goes on where the parent stood, and so does the parent: the same bits, twice."""
    out = run(
        """
        model = make()
        train(model)
        child = in_child(lambda: train(model))
        grandchild = in_child(lambda: in_child(lambda: train(model)))
        again = in_child(lambda: train(model))
        print(child == grandchild == again == train(model))
        """,
        threads,
    )
    assert out == "True"


def test_the_child_has_all_threads(run):
    out = run(
        """
        print(min(fastbn.get_num_threads(), len(os.sched_getaffinity(0))))
        print(lanes(), in_child(lanes), in_child(lambda: in_child(lanes)), lanes())
        """
    )
    wanted, *worked = out.split()
    assert worked == [wanted] * 4, "threads that worked: parent, child, grandchild, parent again"


def test_fork_from_another_thread(run):
    out = run(
        """
        model, results = make(), []
        train(model)
        thread = threading.Thread(target=lambda: results.append(in_child(lambda: train(model))))
        thread.start()
        thread.join()
        print(results[0] == train(model))
        """
    )
    assert out == "True"


def test_fork_during_training(run):
    """A child that is forked while another thread of the parent trains has working operators and models of its own."""
    out = run(
        """
        expected = train(make())
        model, stop = make(), threading.Event()
        def trainer():
            x, y = data()
            while not stop.is_set():
                model.train_on_batch(x, y)
        thread = threading.Thread(target=trainer)
        thread.start()
        found = {in_child(lambda: train(make())) for _ in range(10)}
        stop.set()
        thread.join()
        print(found == {expected})
        """
    )
    assert out == "True"


USES = {
    "predict": "model.predict(x)",
    "get_weights": "model.get_weights()",
    "train_on_batch": "model.train_on_batch(x, y)",
    "fit": "model.fit(x, y, verbose=0)",
    "compile": 'model.compile("sgd", "sparse_categorical_crossentropy")',
}


@pytest.mark.parametrize("busy", ["predict", "train_on_batch", "fit", "compile"])
def test_the_model_that_another_thread_uses(run, busy):
    """Whatever another thread of the parent is doing with a model, the child has it whole and can do anything."""
    out = run(
        f"""
        model, stop = make(), threading.Event()
        x, y = data()
        model.predict(x)
        def user():
            while not stop.is_set():
                {USES[busy]}
        def body():
            {"; ".join(USES.values())}
            return "good"
        thread = threading.Thread(target=user, daemon=True)
        thread.start()
        print({{in_child(body) for _ in range(25)}})
        stop.set()
        thread.join()
        body()
        """
    )
    assert out == "{'good'}"


def test_weights_of_a_child_are_of_whole_steps(run):
    out = run(
        """
        x, y = data()
        digest = lambda model: hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()
        model = make()
        states = [digest(model)]
        for _ in range(300):
            model.train_on_batch(x, y)
            states.append(digest(model))
        model = make()
        def trainer():
            for _ in range(300):
                model.train_on_batch(x, y)
        thread = threading.Thread(target=trainer, daemon=True)
        thread.start()
        found = set()
        while thread.is_alive():
            found.add(in_child(lambda: digest(model) == states[model.optimizer.iterations]))
        print(found)
        """
    )
    assert out == "{'True'}"


def test_fork_from_a_callback(run):
    """The thread that forks is the one that trains: it goes on in the child, and the model stays in training there."""
    out = run(
        """
        model = make()
        x, y = data()
        seen = []
        def fork(batch, logs):
            if batch == 1 and not seen:
                def body():
                    try:
                        model.compile("sgd", "mse")
                    except RuntimeError:
                        return model.train_on_batch(x, y) > 0
                seen.append(in_child(body))
        model.fit(x, y, verbose=0, callbacks=[fastbn.callbacks.LambdaCallback(on_train_batch_end=fork)])
        print(*seen)
        """
    )
    assert out == "True"


def test_the_order_of_samples_that_another_thread_draws(run):
    """NumPy's generators have locks too; the child's goes on where the parent's stood."""
    out = run(
        """
        from fastbn._random import generator
        utils.set_random_seed(3)
        expected = in_child(lambda: generator().integers(1 << 40))
        print(int(expected) == generator().integers(1 << 40))
        stop = threading.Event()
        def drawer():
            while not stop.is_set():
                generator().permutation(300_000)
        thread = threading.Thread(target=drawer, daemon=True)
        thread.start()
        print({in_child(lambda: len(generator().permutation(5))) for _ in range(25)})
        stop.set()
        thread.join()
        """
    )
    assert out == "True\n{'5'}"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pools(run, method):
    """Processes of a pool, started after the parent has trained, give the parent's bits."""
    out = run(
        f"""
        expected = work(0)
        with multiprocessing.get_context({method!r}).Pool(3) as pool:
            found = pool.map_async(work, range(6)).get(timeout=90)
        print(set(found) == {{expected}}, work(0) == expected)
        """
    )
    assert out == "True True"
