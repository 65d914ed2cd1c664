"""fastbn beside PyTorch, JAX and Keras: the same work, in separate processes, interleaved.

    python bench/peers.py --operators | --steps [--require torch,jax,keras-jax,keras-tf] [--pairs 5]
                          [--only REGEX] [--json FILE] [--python torch=/path/to/python] ...

Exit code 0; 1 where fastbn failed or a peer computed something else; 2 where a required peer is missing.
How to read the table: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benching.peers import table, works
from benching.peers.process import PEERS, Peer, WorkerError
from benching.peers.session import Disagreement, Session


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--operators", action="store_true", help="single operators, forward and each backward")
    what.add_argument("--steps", action="store_true", help="whole training steps and shuffled epochs")
    parser.add_argument("--peers", default=",".join(PEERS), help="which to run beside fastbn (default: all found)")
    parser.add_argument("--require", default="", help="peers without which the run fails")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved rounds a work")
    parser.add_argument("--seconds", type=float, default=0.15, help="length of one measurement")
    parser.add_argument("--only", default="", metavar="REGEX", help="works whose name matches")
    parser.add_argument("--threads", type=int, default=2, help="threads and CPUs of every side")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PEER=INTERPRETER",
        help="a peer's interpreter, also FASTBN_BENCH_PYTHON_<PEER> (- as _); 'peers=' sets all peers",
    )
    return parser.parse_args()


def interpreters(given: list[str]) -> dict[str, str]:
    found = {}
    for name in ("fastbn", *PEERS):
        found[name] = os.environ.get("FASTBN_BENCH_PYTHON_" + name.upper().replace("-", "_"), sys.executable)
    for item in given:
        name, _, path = item.partition("=")
        if name == "peers":
            found.update(dict.fromkeys(PEERS, path))
        elif name in found and path:
            found[name] = path
        else:
            raise SystemExit(f"--python: expected PEER=INTERPRETER with one of {', '.join(found)}. Received: {item}")
    return found


def names(text: str, option: str) -> list[str]:
    found = [name for name in text.split(",") if name]
    for name in found:
        if name not in PEERS:
            raise SystemExit(f"{option}: the peers are {', '.join(PEERS)}. Received: {name}")
    return found


def start(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Peer], dict[str, Any], dict[str, str]]:
    """Workers that answer, their versions, and why the others do not."""
    pythons, workers, versions, missing = interpreters(options.python), {}, {}, {}
    wanted = sorted({*names(options.peers, "--peers"), *names(options.require, "--require")}, key=PEERS.index)
    for name in ["fastbn", *wanted]:
        peer = Peer(name, pythons[name], options.threads, folder / f"{name}.log", not options.no_compile)
        try:
            versions[name] = peer.ask("hello")["versions"]
            workers[name] = peer
        except WorkerError as error:
            missing[name] = str(error)
            peer.close()
    return workers, versions, missing


def measure(
    session: Session, chosen: list[works.Work], peers: list[str], report: dict[str, Any], path: Path | None
) -> None:
    """Works one by one into `report`, printed as they come; the file is whole after every one of them."""
    rows, wrong = report["rows"], report["wrong"]
    print("\n" + table.heading(peers), flush=True)
    for work in chosen:
        new: list[dict[str, Any]] = []
        try:
            new = table.rows(session.measure(work))
        except (Disagreement, WorkerError) as error:
            wrong.append(str(error))
            print(f"{work['name']:<58} {error}", flush=True)
        for row in new:
            print(table.line(row, peers), flush=True)
            for reason in [*row["failures"].values(), *row["inexact"]]:
                print(f"    {reason}", flush=True)
        rows += new
        report["groups"] = table.summaries(rows, peers)
        if path:
            path.write_text(json.dumps(report, indent=1) + "\n")
        if not session.ours.alive():
            break


def run(options: argparse.Namespace, folder: Path) -> int:
    chosen = works.operators() if options.operators else works.steps()
    chosen = [work for work in chosen if re.search(options.only, work["name"])]
    if not chosen:
        print(f"--only: no work's name matches. Received: {options.only}", file=sys.stderr)
        return 2
    host = table.machine()
    workers, versions, missing = start(options, folder)
    try:
        for name, reason in missing.items():
            print(f"{name} is missing: {reason}", file=sys.stderr)
        if "fastbn" in missing:
            return 1
        if set(missing) & set(names(options.require, "--require")):
            return 2
        print(f"{host['processor']}, {' '.join(host['vectors'])}, {options.threads} threads, load {host['load']:.2f}")
        if host["load"] > 0.5:
            print("This machine is busy: the spread column says how far to trust a row.")
        for name, found in versions.items():
            print(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in found.items()))
        peers = [name for name in PEERS if name in workers]
        session = Session(workers["fastbn"], [workers[name] for name in peers], options.pairs, options.seconds, folder)
        report: dict[str, Any] = {
            "machine": host,
            "versions": versions,
            "missing": missing,
            "threads": options.threads,
            "pairs": options.pairs,
            "rows": [],
            "wrong": [],
        }
        begin = time.perf_counter()
        measure(session, chosen, peers, report, options.json)
        print("\n" + table.summary_text(report["groups"], peers))
        print(f"\n{len(report['rows'])} rows in {time.perf_counter() - begin:.0f} s, {options.pairs} pairs each")
        for problem in report["wrong"]:
            print(f"WRONG: {problem}", file=sys.stderr)
        return 1 if report["wrong"] else 0
    finally:
        for peer in workers.values():
            peer.close()


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="fastbn-bench-") as folder:
        return run(options, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
