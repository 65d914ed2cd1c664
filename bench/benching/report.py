"""Rates of a row, and the sum of a network's layers beside its fused step."""

from __future__ import annotations

from typing import Any

from .cases import Case
from .peak import Peak

DIRECTIONS = ("forward", "backward", "update")


def rates(case: Case, seconds: float, peak: Peak) -> dict[str, Any]:
    """GB/s count each operand once; from cache they may pass the copy bandwidth of memory."""
    gbs = case.bytes / seconds / 1e9
    found: dict[str, Any] = {"GB/s": round(gbs, 2), "percent of copy bandwidth": round(100 * gbs / peak.copy_gbs, 1)}
    if case.multiply_adds:
        gflops = 2 * case.multiply_adds / seconds / 1e9
        found |= {"GFLOP/s": round(gflops, 2), "percent of peak GFLOP/s": round(100 * gflops / peak.gflops, 1)}
    return found | {"peak GFLOP/s": round(peak.gflops, 1), "peak copy GB/s": round(peak.copy_gbs, 1)}


def sums(benchmarks: list[Any]) -> list[dict[str, Any]]:
    """One entry for each network and batch of which both the layers and the fused step were measured."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in benchmarks:
        info = row.extra_info
        if "network" not in info or not row.stats:
            continue
        entry = found.setdefault(
            (info["network"], info["batch"]),
            {"network": info["network"], "batch": info["batch"], "layers": {}, **dict.fromkeys(DIRECTIONS, 0.0)},
        )
        seconds = row.stats.median
        if info["direction"] == "step":
            entry["fused step"] = seconds
        else:
            entry[info["direction"]] += seconds
            layer = entry["layers"].setdefault(info["layer"], 0.0)
            entry["layers"][info["layer"]] = layer + seconds
    entries = [entry for entry in found.values() if "fused step" in entry and entry["layers"]]
    for entry in entries:
        entry["sum of layers"] = sum(entry[direction] for direction in DIRECTIONS)
    return entries


def summary(benchmarks: list[Any]) -> list[str]:
    entries = sums(benchmarks)
    if not entries:
        return []
    lines = ["milliseconds, medians; the layers as single calls, the step as recorded program"]
    lines.append(
        f"{'network':<12}{'batch':>6}{'forward':>10}{'backward':>10}{'update':>10}"
        f"{'sum':>10}{'fused':>10}{'fused/sum':>11}  dearest layer"
    )
    for entry in entries:
        total, fused = entry["sum of layers"], entry["fused step"]
        dearest = max(entry["layers"], key=lambda layer: entry["layers"][layer])
        parts = "".join(f"{1e3 * entry[direction]:>10.3f}" for direction in DIRECTIONS)
        share = 100 * entry["layers"][dearest] / total
        lines.append(
            f"{entry['network']:<12}{entry['batch']:>6}{parts}{1e3 * total:>10.3f}{1e3 * fused:>10.3f}"
            f"{fused / total:>11.2f}  {dearest}, {share:.0f} %"
        )
    return lines
