"""The machine's ceilings: measured once, kept in the cache folder for this machine, build and number of threads."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastbn import _core
from fastbn._files import whole_file
from fastbn.datasets._cache import cache_folder

_FORMAT = 1

#: Floats in a vector of each instruction set.
VECTOR_FLOATS = {"avx512": 16, "avx2": 8, "neon": 4, "baseline": 4}


@dataclass(frozen=True)
class Ceilings:
    """What this machine can do at most on `threads` threads. Rates are a second and of all threads together.

    Bytes are read + written. They are measured and never change what is computed, only what it is compared with.
    """

    processor: str
    threads: int
    isa: str
    multiply_adds: float
    l1_bytes: float
    l2_bytes: float
    l3_bytes: float
    memory_bytes: float
    region_seconds: float
    phase_seconds: float
    l1_size: int
    l2_size: int
    l3_size: int
    isa_multiply_adds: dict[str, float] = field(default_factory=dict)
    measured: str = ""  # when
    version: str = ""

    @property
    def flops(self) -> float:
        """Floating-point operations a second: a multiply-add is two."""
        return 2 * self.multiply_adds

    def crossing_bytes(self, working_set: int) -> float:
        """Bytes a second of what leaves L2: of the cache behind it where the working set fits, else of memory."""
        return self.l3_bytes if working_set <= self.l3_size // 2 else self.memory_bytes

    def lines(self) -> list[tuple[str, str]]:
        """Label and value, line by line, as `fastbn info` shows them."""
        others = ", ".join(f"{name} {2 * rate / 1e9:,.0f}" for name, rate in self.isa_multiply_adds.items())
        return [
            ("measured", f"{self.measured} with {self.isa} on {self.threads} threads of {self.processor}"),
            ("arithmetic", f"{self.flops / 1e9:,.0f} GFLOP/s ({others})"),
            ("L1", f"{self.l1_bytes / 1e9:,.0f} GB/s ({self.l1_size // 1024:,} KiB)"),
            ("L2", f"{self.l2_bytes / 1e9:,.0f} GB/s ({self.l2_size // 1024:,} KiB)"),
            ("L3", f"{self.l3_bytes / 1e9:,.0f} GB/s ({self.l3_size // 1024:,} KiB)"),
            ("memory", f"{self.memory_bytes / 1e9:,.0f} GB/s"),
            ("parallel region", f"{self.region_seconds * 1e6:.2f} us to open and close"),
            ("phase of a region", f"{self.phase_seconds * 1e6:.2f} us"),
        ]


def processor_name() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def _build() -> str:
    """A mark of the library's code: what one build can do is not what another can."""
    library = Path(_core.__file__)
    mark = hashlib.blake2b(digest_size=8)
    for part in (library, *sorted((library.parent / "lib").glob("libfastbn.so"))):
        mark.update(part.read_bytes())
    return mark.hexdigest()


def machine_key() -> str:
    """What measured figures belong to: processor, instruction set, threads, and this build of the library."""
    parts = (platform.node(), processor_name(), _core.isa_in_use(), _core.get_num_threads(), _core.version(), _build())
    return " | ".join(map(str, parts))


def cache_file() -> Path:
    """Where measured figures are kept."""
    return cache_folder() / "machine.json"


def read_measured(kind: str) -> Any:
    """What was measured for this machine under this name, or None."""
    try:
        content = json.loads(cache_file().read_text())
        if content["format"] != _FORMAT:
            return None
        return content["machines"][machine_key()][kind]
    except (OSError, ValueError, KeyError, TypeError):  # absent, damaged or of another version: measured anew
        return None


def keep_measured(kind: str, value: Any) -> None:
    """Keep a measured figure; where the cache cannot be written it is measured again the next time."""
    content: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(cache_file().read_text())
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        content = {"format": _FORMAT, "machines": {}}
    machines = content["machines"] = dict(content["machines"]) if isinstance(content.get("machines"), dict) else {}
    machines.setdefault(machine_key(), {})[kind] = value
    while len(machines) > 32:  # builds that are gone
        machines.pop(next(iter(machines)))
    with contextlib.suppress(OSError), whole_file(cache_file()) as part:
        part.write_text(json.dumps(content, indent=1))


def known_ceilings() -> Ceilings | None:
    """The ceilings that were measured on this machine, or None."""
    value = read_measured("ceilings")
    try:
        return None if value is None else Ceilings(**value)
    except TypeError:
        return None


def measure_ceilings(seconds: float = 2.0) -> Ceilings:
    """Measure the ceilings in about `seconds` and keep them for this machine."""
    isa = _core.isa_in_use()
    values = _core.measure_ceilings(isa, seconds)
    rates = {}
    for name in _core.isa_found().split(","):
        if name in _core.isa_compiled().split(","):
            rates[name] = (values if name == isa else _core.measure_ceilings(name, seconds / 8))["multiply_adds"]
    found = Ceilings(
        processor=processor_name(),
        isa=isa,
        isa_multiply_adds=rates,
        measured=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=_core.version(),
        **values,
    )
    keep_measured("ceilings", asdict(found))
    return found


def ceilings() -> Ceilings:
    """This machine's ceilings: the known ones, or else measured now, which takes some seconds."""
    return known_ceilings() or measure_ceilings()
