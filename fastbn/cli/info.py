"""What `fastbn info` prints: where this installation comes from and what it found on this machine."""

from __future__ import annotations

from fastbn import _core


def report(measure: bool = False) -> list[tuple[str, str]]:
    """Label and value, line by line; with the ceilings, measured now or known."""
    build = dict(line.split("=", 1) for line in _core.build_info().splitlines())
    threads = _core.get_num_threads()
    return [
        ("version", _core.version()),
        ("compiler", build["compiler"]),
        ("flags", build["flags"]),
        ("build type", build["build_type"]),
        ("system", build["system"]),
        ("instruction sets", ""),
        ("  compiled", _core.isa_compiled().replace(",", ", ")),
        ("  found", _core.isa_found().replace(",", ", ")),
        ("  in use", _core.isa_in_use()),
        ("threads", f"{threads} ({_core.num_threads_reason()})"),
        ("OpenMP runtime", _core.threading_layer()),
        ("OpenMP version", build["openmp"]),
        *_ceilings(measure),
    ]


def _ceilings(measure: bool) -> list[tuple[str, str]]:
    from fastbn import costs

    found = costs.measure_ceilings() if measure else costs.known_ceilings()
    if measure:
        costs.measure_rates()
    if found is None:
        return [("ceilings", "not measured yet (fastbn info --measure)")]
    return [("ceilings", ""), *((f"  {label}", value) for label, value in found.lines())]
