"""One worker process: started once, then asked one thing at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[2]
FOLDERS = (str(BENCH), str(BENCH.parent / "tests"))  # `benching`, and the tests' `oracles`
MODULES = {
    "fastbn": "worker_fastbn",
    "torch": "worker_torch",
    "jax": "worker_jax",
    "keras-jax": "worker_keras",
    "keras-tf": "worker_keras",
}
PEERS = tuple(name for name in MODULES if name != "fastbn")
ANSWER_SECONDS = 900.0


class WorkerError(RuntimeError):
    """A worker died, or answered with an error."""


class Unsupported(WorkerError):
    """The work does not exist in this worker's framework."""


def environment(name: str, threads: int, compile_torch: bool) -> dict[str, str]:
    """The same threads for everybody; freed blocks stay with the process, so that outputs are warm."""
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, [*FOLDERS, os.environ.get("PYTHONPATH", "")])),
        "FASTBN_BENCH_THREADS": str(threads),
        "FASTBN_BENCH_COMPILE": "1" if compile_torch else "0",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "NPROC": str(threads),  # XLA's client
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": "tensorflow" if name == "keras-tf" else "jax",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
        "MALLOC_TOP_PAD_": str(1 << 26),
    }
    return {**os.environ, **settings}


class Peer:
    """A worker and its pipe. `log` receives what the framework prints."""

    def __init__(self, name: str, python: str, threads: int, log: Path, compile_torch: bool) -> None:
        self.name, self.log = name, log
        cpus = sorted(os.sched_getaffinity(0))[:threads]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [python or sys.executable, "-m", f"benching.peers.{MODULES[name]}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(name, threads, compile_torch),
                cwd=log.parent,
                text=True,
                bufsize=1,
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            )

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(ANSWER_SECONDS, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise WorkerError(f"{self.name}: the worker ended. {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "unsupported" in answer:
            raise Unsupported(f"{self.name}: {answer['unsupported']}")
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer

    def alive(self) -> bool:
        return self.process.poll() is None

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "It said nothing."

    def close(self) -> None:
        if self.alive() and self.process.stdin is not None:
            try:
                self.process.stdin.write('{"command": "quit"}\n')
                self.process.stdin.close()
                self.process.wait(timeout=20)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait()
