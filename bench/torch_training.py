"""A training step of ResNet-18 on 32x32 images in PyTorch, through fastbn.torch and alone: the ratio of the times.

    python bench/torch_training.py [--pairs 5] [--batch 128] [--width 64] [--steps 1] [--threads 2]

Two processes, one with `fastbn.torch.optimize(model)`, one with the model in PyTorch's channels_last format, take
turns; each turn is `--steps` steps (zero_grad, forward, cross-entropy, backward, fused SGD with momentum). A pair's
ratio is fastbn's time by PyTorch's. Both start from the same weights; their first losses are compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "embed" / "torch" / "resnet.py"


def work(side: str, options: argparse.Namespace) -> None:
    """A worker: answers each line it reads with the seconds of a step and the last loss."""
    import torch

    specification = importlib.util.spec_from_file_location("resnet", EXAMPLE)
    assert specification is not None
    assert specification.loader is not None
    resnet: Any = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(resnet)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = resnet.ResNet18(width=options.width).to(memory_format=torch.channels_last)
    images = torch.randn(options.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,))
    if side == "fastbn":
        import fastbn.torch

        fastbn.set_num_threads(options.threads)
        changes = fastbn.torch.optimize(model)
        assert len(changes.fused) == 20, changes
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, fused=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    print(step(), torch.__version__, flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        for _ in range(options.steps):
            loss = step()
        print((time.perf_counter() - begin) / options.steps, loss, flush=True)


class Worker:
    def __init__(self, side: str, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", side]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.first, self.version = self.answer()

    def answer(self) -> list[str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with exit code {self.process.wait()}")
        return line.split()

    def seconds(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.answer()[0])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", choices=("fastbn", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options)

    workers = {side: Worker(side, options.threads) for side in ("torch", "fastbn")}
    first = {side: float(worker.first) for side, worker in workers.items()}
    if abs(first["fastbn"] - first["torch"]) > 1e-4 * abs(first["torch"]):
        raise SystemExit(f"the first losses differ: {first}")
    pairs = []
    for pair in range(options.pairs):
        order = ("torch", "fastbn") if pair % 2 == 0 else ("fastbn", "torch")
        taken = {side: workers[side].seconds() for side in order}
        pairs.append(taken)
        ratio = taken["fastbn"] / taken["torch"]
        print(
            f"pair {pair + 1}: PyTorch {taken['torch']:.3f} s, fastbn {taken['fastbn']:.3f} s, ratio {ratio:.3f}",
            flush=True,
        )
    version = workers["torch"].version
    for worker in workers.values():
        worker.close()
    ratios = [taken["fastbn"] / taken["torch"] for taken in pairs]
    print(
        f"ResNet-18, width {options.width}, 32x32, batch {options.batch}, {options.threads} threads, "
        f"PyTorch {version}: "
        f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
