"""What peers.py prints and writes: one row a work, geometric means a group, machine and versions."""

from __future__ import annotations

import math
import os
import platform
import statistics
from pathlib import Path
from typing import Any

from .session import Measurement


def machine() -> dict[str, Any]:
    """Processor, its vector instruction sets, CPUs that this process may use, load at this moment."""
    model, flags = platform.processor(), set()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            if key.strip() in ("flags", "Features"):
                flags = set(value.split())
    except OSError:
        pass
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
    return {
        "processor": model,
        "vectors": [flag for flag in wanted if flag in flags],
        "cpus": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "load": os.getloadavg()[0],
    }


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.3f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"


def _geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def rows(measurement: Measurement) -> list[dict[str, Any]]:
    """One row for each of fastbn's variants: medians, ratio to each peer, and to the best of them."""
    found = []
    best = measurement.best_peer()
    for variant, times in measurement.ours.items():
        suffix = " (direct)" if variant == "direct" else ""
        row: dict[str, Any] = {
            "name": measurement.work["name"] + suffix,
            "groups": [group + suffix for group in [measurement.work["group"], *measurement.work.get("tags", [])]],
            "seconds": statistics.median(times),
            "peers": {},
            "best": best,
            "failures": measurement.failures,
            "inexact": measurement.inexact,
        }
        for peer, peer_times in measurement.peers.items():
            ratios = measurement.ratios(variant, peer)
            row["peers"][peer] = {
                "variant": measurement.chosen[peer],
                "seconds": statistics.median(peer_times),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "calibration": measurement.calibration[peer],
            }
        found.append(row)
    return found


def line(row: dict[str, Any], peers: list[str]) -> str:
    text = f"{row['name']:<58}{_time(row['seconds']):>11}"
    for peer in peers:
        if peer in row["peers"]:
            entry = row["peers"][peer]
            text += f"{_time(entry['seconds']):>11} {entry['ratio']:5.2f}{'*' if peer == row['best'] else ' '}"
        else:
            text += f"{'failed' if peer in row['failures'] else '-':>18}"
    if row["best"]:
        ratios = row["peers"][row["best"]]["ratios"]
        text += f"  {min(ratios):.2f}..{max(ratios):.2f} {row['peers'][row['best']]['variant']}"
    return text


def heading(peers: list[str]) -> str:
    return f"{'work':<58}{'fastbn':>11}" + "".join(f"{peer + ', ratio':>18}" for peer in peers) + "  spread, best is"


def summaries(table: list[dict[str, Any]], peers: list[str]) -> list[dict[str, Any]]:
    """For each group: geometric mean, worst and sum ratio, against the best peer and against each."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table:
        for group in row["groups"]:
            groups.setdefault(group, []).append(row)
    found = []
    for group, members in groups.items():
        summary: dict[str, Any] = {"group": group, "works": len(members)}
        for against in ["best peer", *peers]:
            entries = [
                (row, row["peers"][row["best"] if against == "best peer" else against])
                for row in members
                if (row["best"] if against == "best peer" else against) in row["peers"]
            ]
            if entries:
                ratios = [entry["ratio"] for _, entry in entries]
                summary[against] = {
                    "works": len(entries),
                    "geometric mean": _geometric_mean(ratios),
                    "worst": max(ratios),
                    "worst work": max(entries, key=lambda pair: pair[1]["ratio"])[0]["name"],
                    "sum": sum(row["seconds"] for row, _ in entries) / sum(entry["seconds"] for _, entry in entries),
                }
        found.append(summary)
    return found


def summary_text(found: list[dict[str, Any]], peers: list[str]) -> str:
    columns = f"{'works':>6}{'against':>12}{'geo mean':>10}{'worst':>8}{'sum':>8}  worst work"
    lines = [f"{'group (fastbn time / peer time)':<40}" + columns]
    for summary in found:
        for against in ["best peer", *peers]:
            if against in summary:
                entry = summary[against]
                lines.append(
                    f"{summary['group']:<40}{entry['works']:>6}{against:>12}{entry['geometric mean']:>10.3f}"
                    f"{entry['worst']:>8.2f}{entry['sum']:>8.3f}  {entry['worst work']}"
                )
    return "\n".join(lines)
