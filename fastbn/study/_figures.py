"""Figures of a study as SVG and PNG: curves with bands and direct labels, and the distributions of layer outputs."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._arrays import Float64
from fastbn.study._numbers import Record
from fastbn.study._outcome import StudyOutcome
from fastbn.study._palette import GRID, INK, PAPER, style
from fastbn.study._panels import PANELS, Panel
from fastbn.study._probes import QUANTILES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
}
_GAP = 0.065  # between two labels, as a part of the axes' height


def slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _drawn(name: str, figure: Figure) -> tuple[str, bytes]:
    import matplotlib

    with matplotlib.rc_context({**_RC, "svg.hashsalt": name}):
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def spread(places: Sequence[float], gap: float = _GAP) -> list[float]:
    """Heights in [0, 1] in the same order, at least `gap` apart where there is room, near the places wanted."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    gap = min(gap, 1 / max(len(places) - 1, 1))
    heights = [min(max(place, 0.0), 1.0) for place in places]
    for before, i in pairwise(order):
        heights[i] = max(heights[i], heights[before] + gap)
    above = 1.0
    for i in reversed(order):
        heights[i] = min(heights[i], above)
        above = heights[i] - gap
    return heights


def curves(outcome: StudyOutcome, group: str, kind: str) -> tuple[str, bytes]:
    """One panel of a group of variants, as SVG text and PNG bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    panel = PANELS[kind]
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(6.0, 3.6))
        axes = figure.add_axes((0.1, 0.13, 0.62, 0.76))
        ends = []
        for place, label in enumerate(outcome.study.groups[group]):
            end = _line(axes, panel, outcome.records[label], place)
            if end is not None:
                ends.append((label, *end))
        axes.set_title(f"{outcome.study.name}, {group}: {panel.title}", loc="left", x=-0.13)
        axes.set_xlabel("seconds of training" if panel.clock else "epoch")
        if ends:
            _scales(axes, panel, [x for _, x, _ in ends])
            _labels(axes, ends)
        axes.grid(True, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    return _drawn(f"{outcome.study.name}-{slug(group)}-{kind}", figure)


def _line(axes: Axes, panel: Panel, records: list[Record], place: int) -> tuple[float, float] | None:
    """Draw a variant: the mean over seeds and the band from the least to the greatest. Returns its last point."""
    x = np.array(panel.x(records))
    values: Float64 = np.array([panel.curve(record) for record in records], np.float64)
    drawable = np.isfinite(values).all(axis=0) & (values > 0).all(axis=0)
    if not drawable.any():
        return None
    x, values = x[drawable], values[:, drawable]
    look, mean = style(place), values.mean(axis=0)
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=look.color, alpha=0.2, linewidth=0)
    axes.plot(x, mean, color=look.color, linestyle=look.dashes, marker=look.marker, markersize=3.5, linewidth=1.6)
    return float(x[-1]), float(mean[-1])


def _scales(axes: Axes, panel: Panel, ends: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_yscale("log")
    _plain_ticks(axes.yaxis, *axes.get_ylim())
    if not panel.clock:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    elif max(ends) > 3 * min(ends):
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis, *axes.get_xlim())


def _plain_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis, a few of them however short it is."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    decades = math.log10(high / low)
    fine = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    axis.set_major_locator(MaxNLocator(5) if decades < 0.8 else LogLocator(subs=fine))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _labels(axes: Axes, ends: list[tuple[str, float, float]]) -> None:
    """Each line's name at its end, moved apart where lines end close together."""
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [float(to_axes.transform((x, y))[1]) for _, x, y in ends]
    for (label, x, y), height in zip(ends, spread(wanted), strict=True):
        axes.annotate(
            label,
            xy=(x, y),
            xytext=(1.05, height),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.5, "alpha": 0.5, "shrinkB": 3},
        )


def layer_outputs(outcome: StudyOutcome, label: str) -> tuple[str, bytes]:
    """The distribution of each layer's output at test time over epochs, from the first seed: median and two bands."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    layers: dict[str, Any] = outcome.records[label][0]["result"]["layers"]["quantiles"]
    columns = 3
    rows = -(-len(layers) // columns)
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(6.4, 0.5 + 1.65 * rows), layout="constrained")
        figure.suptitle(f"{outcome.study.name}, {label}: outputs of each layer at test time, by epoch", fontsize=9.5)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, name in zip(grid.flat, layers, strict=False):
            quantiles = np.array([[math.nan if v is None else v for v in row] for row in layers[name]], np.float64)
            epochs = np.arange(len(quantiles))
            color = style(1).color
            for outer, alpha in ((0, 0.2), (1, 0.35)):
                axes.fill_between(
                    epochs, quantiles[:, outer], quantiles[:, -1 - outer], color=color, alpha=alpha, linewidth=0
                )
            axes.plot(epochs, quantiles[:, len(QUANTILES) // 2], color=INK, linewidth=1.4)
            axes.set_title(name, fontsize=8.5)
            axes.tick_params(labelsize=7.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            axes.grid(True, linewidth=0.5)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in grid.flat[len(layers) :]:
            axes.set_visible(False)
    return _drawn(f"{outcome.study.name}-{slug(label)}-layers", figure)
