"""An epoch as the reports give it - steps times the measured step - beside a real one, on MNIST."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest
from harness.library import using_threads

from fastbn import networks
from fastbn.costs import _measure
from fastbn.datasets import mnist


class ProcessorTime:
    """What other programs take does not count."""

    perf_counter = staticmethod(time.process_time)


@pytest.mark.slow
@pytest.mark.mnist
@pytest.mark.parametrize("name", ["mlp", "cnn_small", "cnn"])
def test_an_epoch_is_its_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 10 %, the median of three, in seconds of the processor on one thread."""
    monkeypatch.setattr(_measure, "time", ProcessorTime)
    (x, y), _ = mnist.load_data()
    model = getattr(networks, name)()
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = (x / 255).astype(np.float32).reshape(len(x), *model.input_shape[1:])
    ratios = []
    with using_threads(1):
        model.fit(x[:1280], y[:1280], batch_size=128, epochs=1, verbose=0)
        for _ in range(3):
            expected = model.costs(128, steps=100).epoch_seconds(len(x))
            start = time.process_time()
            model.fit(x, y, batch_size=128, epochs=1, verbose=0)
            ratios.append((time.process_time() - start) / expected)
    print(f"{name}: fit takes {median(ratios):.3f} of steps x step, {[round(ratio, 3) for ratio in ratios]}")
    assert abs(median(ratios) - 1) <= 0.1
