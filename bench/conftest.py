"""The bench under pytest: the machine's peak, what every row reports, and the sums of layers beside fused steps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastbn
from fastbn import _core

sys.path.insert(0, str(Path(__file__).resolve().parent))  # test files are imported by path, `benching` by name

from benching import peak, report, threads
from benching.cases import Case

Run = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--two-threads", action="store_true", help="fail rows slower on two threads than on one")


@pytest.fixture
def timed(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Callable[[], object]], None]:
    """Times a call, or with --two-threads asks how much a second thread gains."""

    def run(call: Callable[[], object]) -> None:
        if request.config.getoption("--two-threads"):
            times = threads.assert_not_slower(call)
            benchmark.extra_info.update(seconds_on_one=times.one, seconds_on_two=times.two)
            benchmark.pedantic(call)
        else:
            benchmark(call)

    return run


@pytest.fixture(scope="session")
def machine() -> peak.Peak:
    """Measured once, before the first row."""
    return peak.measure(fastbn.get_num_threads())


@pytest.fixture
def run_case(benchmark: Any, machine: peak.Peak, timed: Callable[[Callable[[], object]], None]) -> Run:
    """Runs a case once and checks its result, then times it; `info` goes into extra_info."""

    def run(case: Case, **info: Any) -> None:
        case.call()
        case.check()
        benchmark.extra_info.update(info, isa=_core.isa_in_use(), threads=fastbn.get_num_threads())
        timed(case.call)
        if benchmark.stats is not None:
            seconds = benchmark.stats.stats.median
            benchmark.extra_info.update(report.rates(case, seconds, machine))

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    benchmarks = session.benchmarks if session is not None else []
    sections = {"layers beside the fused step": report.summary, "on two threads": threads.summary}
    for title, summary in sections.items():
        if lines := summary(benchmarks):
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    output_json["networks"] = report.sums(benchmarks)
