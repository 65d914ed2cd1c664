"""How much faster a training step is on two threads than on one.

    python bench/scaling.py [--only NAME]

The steps of `bench/peers.py --steps`, their rows resident, in one process: blocks of steps on two threads and on one in
turns, the best of each. `wanted` is what is aimed at: 1.8, and 1.3 where a step takes a tenth of a millisecond.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests")]  # `benching`, and the tests' `oracles`

from benching import threads  # noqa: E402
from benching.peers import worker_fastbn, works  # noqa: E402

WANTED, WANTED_OF_FOUR_ROWS = 1.8, 1.3


def times(work: works.Work) -> threads.Times:
    model = worker_fastbn.network(work)
    model.compile(worker_fastbn.optimizer(work["optimizer"]), "sparse_categorical_crossentropy")
    random = np.random.default_rng(0)
    x = random.random((work["batch"], *model.input_shape[1:]), np.float32)
    labels = random.integers(0, model.output_shape[-1], work["batch"]).astype(np.int32)
    return threads.on_one_and_two(lambda: model.train_on_batch(x, labels), block=50e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="NAME", help="the steps whose name has this in it")
    only = parser.parse_args().only
    print(f"{'step':<40}{'one thread':>14}{'two threads':>14}{'gain':>8}{'wanted':>8}")
    for work in works.steps():
        if work["rows"] or only not in work["name"]:
            continue
        found = times(work)
        wanted = WANTED_OF_FOUR_ROWS if work["batch"] == 4 else WANTED
        gain = 1 / found.ratio
        print(f"{work['name']:<40}{1e3 * found.one:>11.3f} ms{1e3 * found.two:>11.3f} ms{gain:>8.2f}{wanted:>8.1f}")


if __name__ == "__main__":
    main()
