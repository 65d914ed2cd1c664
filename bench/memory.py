"""Memory of training: VmHWM after 20 steps less VmRSS before the first, data loaded, of fastbn and PyTorch.

    python bench/memory.py [--python torch=/path/to/python] [--batch 128] [--threads 2] [--networks cnn,resnet20]

Each side trains the same network on the same rows in a process of its own, with the default allocator; PyTorch eager,
in its contiguous and its channels_last format, of which the smaller figure counts. `limit` is what is aimed at.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests")]  # `benching`, and the tests' `oracles`

STEPS = 20
LIMITS = {"cnn": 0.20, "resnet20": 0.70}
SIDES = ("fastbn", "torch contiguous", "torch channels_last")
OPTIMIZER = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9, "nesterov": False}


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def describe(network: str, folder: str) -> dict[str, Any]:
    """The network's nodes, and its initial weights as a file."""
    from benching.peers import graphs
    from benching.peers.worker_fastbn import FastbnWorker

    work: dict[str, Any] = {"network": network, "options": {}}
    if network in graphs.GRAPHS:
        work["nodes"] = graphs.GRAPHS[network]()
    weights = os.path.join(folder, network + ".npz")
    return {"nodes": FastbnWorker(1).describe(work, weights), "weights": weights}


def fastbn_steps(work: dict[str, Any]) -> Any:
    from benching.peers import graphs
    from benching.peers.worker import training_rows
    from benching.peers.worker_fastbn import FastbnWorker

    FastbnWorker(work["threads"])
    model = FastbnWorker._compiled(work, work["nodes"], OPTIMIZER)
    x, labels = training_rows(work, work["nodes"][0]["shape"], graphs.classes(work["nodes"]))
    return lambda: model.fit(x, labels, batch_size=work["batch"], epochs=1, verbose=0)


def torch_steps(work: dict[str, Any], last: bool) -> Any:
    import torch
    from benching.peers import graphs
    from benching.peers.worker_torch import Network, TorchWorker, _optimizer

    worker, nodes, batch = TorchWorker(work["threads"]), graphs.with_logits(work["nodes"]), work["batch"]
    network = Network(nodes, graphs.load_weights(work["weights"]), last)
    optimizer = _optimizer(OPTIMIZER, network.leaves())
    rows, labels = worker._rows(work, nodes, last)

    def run() -> None:
        order = torch.randperm(len(rows))
        for begin in range(0, len(rows), batch):
            index = order[begin : begin + batch]
            network.loss(worker._shaped(rows[index], nodes[0]["shape"], last), labels[index]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def child(side: str, path: str) -> None:
    work = json.loads(Path(path).read_text())
    run = fastbn_steps(work) if side == "fastbn" else torch_steps(work, side.endswith("channels_last"))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading
    before = status("VmRSS")
    run()
    print(json.dumps(status("VmHWM") - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", default="cnn,resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", default="", metavar="torch=INTERPRETER")
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "WORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(*options.child)
    torch_python = options.python.partition("=")[2] or sys.executable
    with tempfile.TemporaryDirectory() as folder:
        for network in options.networks.split(","):
            work = describe(network, folder)
            work |= {"batch": options.batch, "rows": STEPS * options.batch, "threads": options.threads}
            path = Path(folder, network + ".json")
            path.write_text(json.dumps(work))
            found: dict[str, float] = {}
            for side in SIDES:
                python = sys.executable if side == "fastbn" else torch_python
                environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
                command = [python, __file__, "--child", side, str(path)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"{network}: {side}: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
                    continue
                found[side] = json.loads(done.stdout.splitlines()[-1]) / 2**20
            line = f"{network} batch {options.batch}: " + ", ".join(f"{s} {mib:.1f} MiB" for s, mib in found.items())
            peers = [mib for side, mib in found.items() if side != "fastbn"]
            if peers and "fastbn" in found:
                line += f"; ratio {found['fastbn'] / min(peers):.2f} (limit {LIMITS.get(network, float('nan')):.2f})"
            print(line, flush=True)


if __name__ == "__main__":
    main()
