"""The explanation as one HTML page that needs nothing else: text, tables that sort, charts as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from fastbn.costs._table import (
    DIRECTIONS,
    CostRow,
    CostTable,
    gflops_cell,
    show,
    show_bytes,
    show_count,
    show_percent,
    show_seconds,
)

if TYPE_CHECKING:
    from fastbn.costs import Ceilings
    from fastbn.explain import Explanation

_COLORS = {"forward": "f", "backward": "b", "update": "u"}


def page(explanation: Explanation) -> str:
    """The whole page."""
    resources = files("fastbn.explain")
    style = (resources / "report.css").read_text()
    script = (resources / "report.js").read_text()
    names = ", ".join(network.name for network in explanation.networks)
    table = explanation.networks[0].table
    body = [f"<h1>Where the time goes: {escape(names)}</h1>"]
    body.append(
        f"<p class=lead>One training step of {table.batch_size} images, layer by layer, on {table.threads} "
        f"thread{'s' * (table.threads != 1)} with {escape(table.isa)}.</p>"
    )
    for heading, sentences in explanation.sentences():
        body.append(f"<section><h2>{escape(heading)}</h2>")
        body += [f"<p>{escape(sentence)}</p>" for sentence in sentences]
        body.append("</section>")
    body.append(_comparison(explanation))
    for network in explanation.networks:
        body.append(f"<section><h2>{escape(network.table.title)}</h2>")
        body += [_bars(network.table), _roofline(network.table), _table(network.table), "</section>"]
    body.append(_machine(explanation))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>fastbn explain: {escape(names)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(body)}</main><script>{script}</script></body></html>\n"
    )


def _number(value: float | None) -> str:
    """What a cell sorts by."""
    return "" if value is None else f' data-value="{value!r}"'


def _cell(text: str, value: float | None = None) -> str:
    return f"<td{_number(value)}>{escape(text)}</td>"


def _wrapped(headings: Sequence[str], lines: Sequence[str], total: str = "") -> str:
    head = "".join(f'<th scope="col"><button type="button">{escape(text)}</button></th>' for text in headings)
    foot = f"<tfoot>{total}</tfoot>" if total else ""
    return (
        f'<div class=scroll tabindex="0"><table class=sortable><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody>{foot}</table></div>"
    )


def _comparison(explanation: Explanation) -> str:
    headings, lines = explanation.comparison()
    rows = []
    for line in lines:
        cells = f'<th scope="row">{escape(line[0])}</th>'
        for text in line[1:]:
            first = text.split(" ")[0].replace(",", "")
            cells += _cell(text, float(first) if first else None)
        rows.append(f"<tr>{cells}</tr>")
    note = f"In brackets the ratio to {explanation.networks[0].name}. An epoch is 60,000 images."
    return f"<section><h2>Side by side</h2>{_wrapped(headings, rows)}<p class=note>{escape(note)}</p></section>"


def _table(table: CostTable) -> str:
    headings = ["layer", "parameters", "multiply-adds", "in block", "crossing", "flop/byte", "forward", "backward"]
    headings += ["update", "time", "±", "GFLOP/s", "GB/s", "roofline", "of it", "bound by", "share"]
    lines = [_line(row) for row in table.rows]
    total = table.total
    cells = _cell(f"{table.parameters:,}") + _cell(show_count(total.multiply_adds))
    cells += _cell(show_bytes(total.bytes_block)) + _cell(show_bytes(total.bytes_crossing)) + "<td></td>" * 4
    cells += _cell(show_seconds(total.seconds)) + _cell(show_seconds(table.step_spread))
    cells += _cell(show(total.gflops)) + _cell(show(total.gbs)) + "<td></td>" * 3 + _cell("100%")
    note = "".join(f"{text} " for text in table.notes)
    note += (
        f"Seconds are the median of {table.replays} replays, ± half the distance between the quartiles. The rows add "
        f"up to {show_seconds(total.seconds)}; a step without timing took {show_seconds(table.step_seconds)}."
    )
    return (
        _wrapped(headings, lines, f'<tr><th scope="row">total</th>{cells}</tr>') + f"<p class=note>{escape(note)}</p>"
    )


def _line(row: CostRow) -> str:
    total = row.total
    cells = [
        f'<th scope="row">{escape(row.layer)}</th>',
        _cell(f"{row.parameters:,}" * bool(row.parameters), row.parameters),
    ]
    cells += [_cell(show_count(total.multiply_adds), total.multiply_adds)]
    cells += [_cell(show_bytes(total.bytes_block), total.bytes_block)]
    cells += [_cell(show_bytes(total.bytes_crossing), total.bytes_crossing)]
    intensity = total.intensity if total.multiply_adds else None
    cells += [_cell(show(intensity), intensity)]
    for name in DIRECTIONS:
        seconds = None if row.kind == "overhead" else row.direction(name).seconds
        inside = name == "update" and row.updates_inside and not seconds
        cells.append(_cell("in backward" if inside else show_seconds(seconds), seconds))
    cells += [_cell(show_seconds(total.seconds), total.seconds), _cell(show_seconds(total.spread), total.spread)]
    cells += [
        _cell(gflops_cell(row), total.gflops if total.multiply_adds else None),
        _cell(show(total.gbs) if total.bytes else "", total.gbs),
    ]
    cells += [_cell(show_seconds(total.bound_seconds), total.bound_seconds)]
    cells += [_cell(show_percent(total.reached), total.reached), _cell(total.bound_by or "")]
    cells += [_cell(show_percent(row.share), row.share)]
    return f"<tr>{''.join(cells)}</tr>"


def _bars(table: CostTable) -> str:
    """The step as bars, one a layer, forward, backward and update stacked."""
    rows = [row for row in table.rows if (row.share or 0) >= 0.001]
    longest = max(row.seconds or 0 for row in rows)
    height, left, width = 26, 190, 520
    parts = []
    for i, row in enumerate(rows):
        y = i * height
        parts.append(f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{escape(_short(row.layer))}</text>')
        x = float(left)
        stacked = (
            [("overhead", row.seconds)]
            if row.kind == "overhead"
            else [(name, row.direction(name).seconds) for name in DIRECTIONS]
        )
        for name, seconds in stacked:
            if not seconds:
                continue
            size = width * seconds / longest
            hint = escape(f"{row.layer} {name.strip('()')}: {show_seconds(seconds)}")
            parts.append(
                f'<rect class="{_COLORS.get(name, "o")}" x="{x:.1f}" y="{y + 4}" width="{max(size, 0.5):.1f}" '
                f'height="{height - 8}"><title>{hint}</title></rect>'
            )
            x += size
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 17}">{escape(show_seconds(row.seconds))}</text>')
    keys = "".join(
        f'<span class="key {_COLORS.get(name, "o")}"></span>{name} ' for name in (*DIRECTIONS, "waiting, region, loop")
    )
    return (
        f"<figure><figcaption>The step: {escape(show_seconds(table.total.seconds))} <span class=keys>{keys}</span>"
        f'</figcaption><svg viewBox="0 0 800 {len(rows) * height}" role="img" '
        f'aria-label="Seconds of each layer">{"".join(parts)}</svg></figure>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _roofline(table: CostTable) -> str:
    """GFLOP/s over operations a byte, a point for each layer and direction under the machine's roofs.

    Operations are those that are done: Winograd's kernels do fewer than the multiply-adds say.
    """
    bounds = table.ceilings
    points = []
    for row in table.layers:
        for name in DIRECTIONS:
            part = row.direction(name)
            if part.multiply_adds and part.gflops and part.intensity:
                done = row.multiplied_in(name) / part.multiply_adds
                points.append((part.intensity * done, part.gflops * done, row.layer, name))
    if bounds is None or not points:
        return ""
    left, right, top, bottom = 60.0, 780.0, 16.0, 330.0
    peak = bounds.flops / 1e9
    knee = bounds.flops / bounds.l2_bytes
    x_low = math.floor(math.log10(min(*(point[0] for point in points), knee) / 2))
    x_high = math.ceil(math.log10(max(*(point[0] for point in points), peak * 1e9 / bounds.memory_bytes) * 2))
    y_low = math.floor(math.log10(min(point[1] for point in points) / 1.5))
    y_high = math.log10(peak * 2)

    def place(intensity: float, gflops: float) -> tuple[float, float]:
        x = left + (math.log10(intensity) - x_low) / (x_high - x_low) * (right - left)
        y = bottom - (math.log10(gflops) - y_low) / (y_high - y_low) * (bottom - top)
        return x, y

    parts = []
    for power in range(x_low, x_high + 1):
        x, _ = place(10.0**power, peak)
        parts.append(f'<line class=grid x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**power:g}</text>')
    for power in range(y_low, math.floor(y_high) + 1):
        _, y = place(1, 10.0**power)
        parts.append(f'<line class=grid x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{bottom + 36}" text-anchor="middle">operations a byte</text>')
    parts.append(f'<text x="{left + 6}" y="{top + 10}">GFLOP/s</text>')
    parts += _roofs(bounds, place, x_low, x_high, y_low)
    labelled: list[tuple[float, float]] = []
    for intensity, gflops, layer, name in points:
        x, y = place(intensity, gflops)
        hint = escape(f"{layer} {name}: {show(gflops)} GFLOP/s at {show(intensity)} operations a byte")
        parts.append(f'<circle class="{_COLORS[name]}" cx="{x:.1f}" cy="{y:.1f}" r="6"><title>{hint}</title></circle>')
        if all(abs(x - a) > 110 or abs(y - b) > 16 for a, b in labelled):
            labelled.append((x, y))
            anchor, dx = ("end", -10) if x > right - 130 else ("start", 10)
            text = escape(_short(layer))
            parts.append(f'<text class=small x="{x + dx:.1f}" y="{y + 16:.1f}" text-anchor="{anchor}">{text}</text>')
    return (
        "<figure><figcaption>Roofline: what the machine allows, and where each layer and direction is. Bytes are those "
        'in the block and those that cross.</figcaption><svg viewBox="0 0 800 372" role="img" '
        f'aria-label="Roofline">{"".join(parts)}</svg></figure>'
    )


def _roofs(bounds: Ceilings, place: object, x_low: int, x_high: int, y_low: int) -> list[str]:
    assert callable(place)
    peak = bounds.flops / 1e9
    parts = []
    start = 10.0**x_high
    for name, rate in (("L2", bounds.l2_bytes), ("memory", bounds.memory_bytes)):
        rate /= 1e9
        low = max(10.0**x_low, 10.0**y_low / rate)
        knee = peak / rate
        start = min(start, knee)
        (x1, y1), (x2, y2) = place(low, rate * low), place(knee, peak)
        parts.append(f'<line class=roof x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
        x, y = (x1 * 2 + x2) / 3, (y1 * 2 + y2) / 3
        angle = math.degrees(math.atan2(y2 - y1, x2 - x1))
        parts.append(
            f'<text class=small transform="translate({x:.1f} {y - 6:.1f}) rotate({angle:.1f})">'
            f"{name} {show(rate)} GB/s</text>"
        )
    (x1, y1), (x2, _) = place(max(start, 10.0**x_low), peak), place(10.0**x_high, peak)
    parts.append(f'<line class=roof x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y1:.1f}"/>')
    parts.append(f'<text class=small x="{x2 - 4:.1f}" y="{y1 - 6:.1f}" text-anchor="end">{show(peak)} GFLOP/s</text>')
    return parts


def _machine(explanation: Explanation) -> str:
    lines = [("command", explanation.command), ("fastbn", explanation.ceilings.version), *explanation.ceilings.lines()]
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in lines)
    return f"<section><h2>Machine and versions</h2><dl>{items}</dl></section>"
