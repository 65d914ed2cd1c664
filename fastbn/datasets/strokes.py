"""Skeletons of the ten digits: how a pen moves, for the generated data set.

A form is one way to write a digit: named points in a box (x to the right and y down, the writing body within
0..1 in both) and strokes through them. A stroke is a Catmull-Rom spline; one that ends at its first point is closed.
Strokes that share a point stay joined however the points are moved, and meet there in a corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Pen positions sampled along a whole form, whatever its strokes are.
SAMPLES_PER_FORM = 88

_DENSE = 64  # positions per spline segment from which lengths are measured


@dataclass(frozen=True)
class Form:
    """One way to write `digit`; `weight` says how often it is used beside the digit's other forms."""

    digit: int
    weight: float
    points: tuple[tuple[float, float], ...]
    strokes: tuple[tuple[int, ...], ...]


# fmt: off
FORMS: tuple[Form, ...] = (
    # zero: closed oval; open at the top with an overlap; with a slash through it
    Form(0, 6.0, ((.50, .02), (.22, .20), (.14, .52), (.24, .84), (.50, .98), (.78, .82), (.86, .50), (.77, .18)),
         ((0, 1, 2, 3, 4, 5, 6, 7, 0),)),
    Form(0, 3.0, ((.58, .05), (.30, .12), (.15, .45), (.24, .85), (.52, .98), (.82, .78), (.84, .38), (.66, .08),
                  (.42, .10)),
         ((0, 1, 2, 3, 4, 5, 6, 7, 8),)),
    Form(0, 0.6, ((.50, .02), (.22, .20), (.14, .52), (.24, .84), (.50, .98), (.78, .82), (.86, .50), (.77, .18),
                  (.30, .80), (.72, .20)),
         ((0, 1, 2, 3, 4, 5, 6, 7, 0), (8, 9))),
    # one: bare stroke; with a flag; with a flag and a foot
    Form(1, 6.0, ((.52, .00), (.50, .50), (.49, 1.0)), ((0, 1, 2),)),
    Form(1, 3.0, ((.30, .24), (.42, .16), (.55, .00), (.54, .50), (.53, 1.0)), ((0, 1, 2), (2, 3, 4))),
    Form(1, 1.2, ((.30, .24), (.42, .16), (.54, .00), (.53, .50), (.52, .98), (.24, .99), (.80, .97)),
         ((0, 1, 2), (2, 3, 4), (5, 4, 6))),
    # two: straight foot; looped foot; flowing foot
    Form(2, 4.0, ((.18, .24), (.34, .05), (.64, .04), (.80, .26), (.64, .54), (.38, .78), (.14, .98), (.50, .96),
                  (.88, .95)),
         ((0, 1, 2, 3, 4, 5, 6), (6, 7, 8))),
    Form(2, 3.0, ((.20, .20), (.40, .03), (.68, .08), (.76, .32), (.58, .62), (.32, .88), (.16, .92), (.18, .78),
                  (.36, .80), (.60, .94), (.88, .90)),
         ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),)),
    Form(2, 2.0, ((.16, .16), (.44, .02), (.74, .14), (.70, .42), (.42, .72), (.16, .96), (.40, .90), (.66, .96),
                  (.90, .88)),
         ((0, 1, 2, 3, 4, 5), (5, 6, 7, 8))),
    # three: two bows meeting in a point; flat top; bows joined by a small loop
    Form(3, 5.0, ((.20, .14), (.44, .01), (.74, .10), (.72, .36), (.42, .47), (.78, .60), (.84, .82), (.52, .99),
                  (.16, .86)),
         ((0, 1, 2, 3, 4), (4, 5, 6, 7, 8))),
    Form(3, 1.6, ((.20, .04), (.50, .03), (.80, .03), (.60, .22), (.42, .42), (.76, .52), (.84, .78), (.54, .99),
                  (.16, .88)),
         ((0, 1, 2), (2, 3, 4), (4, 5, 6, 7, 8))),
    Form(3, 2.0, ((.22, .10), (.50, .00), (.76, .14), (.66, .38), (.40, .46), (.36, .54), (.50, .50), (.80, .62),
                  (.80, .86), (.48, 1.0), (.14, .90)),
         ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),)),
    # four: open top; closed top; open top with a curved arm
    Form(4, 5.0, ((.28, .02), (.22, .28), (.16, .54), (.50, .55), (.88, .50), (.74, .04), (.70, .50), (.66, 1.0)),
         ((0, 1, 2), (2, 3, 4), (5, 6, 7))),
    Form(4, 2.2, ((.66, .00), (.40, .30), (.12, .64), (.50, .65), (.90, .64), (.65, .50), (.64, 1.0)),
         ((0, 1, 2), (2, 3, 4), (0, 5, 6))),
    Form(4, 3.0, ((.24, .06), (.16, .38), (.28, .54), (.56, .50), (.76, .30), (.80, .04), (.74, .52), (.70, 1.0)),
         ((0, 1, 2, 3, 4), (5, 6, 7))),
    # five: bar, stem and bow; in one flowing movement; bar detached
    Form(5, 4.0, ((.82, .03), (.54, .04), (.28, .05), (.24, .24), (.22, .44), (.54, .38), (.82, .56), (.74, .86),
                  (.44, .99), (.14, .88)),
         ((0, 1, 2), (2, 3, 4), (4, 5, 6, 7, 8, 9))),
    Form(5, 2.4, ((.86, .02), (.60, .08), (.36, .10), (.26, .30), (.30, .44), (.58, .50), (.76, .68), (.62, .92),
                  (.34, .99), (.12, .90)),
         ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9),)),
    Form(5, 2.0, ((.36, .10), (.30, .26), (.26, .46), (.56, .42), (.80, .60), (.70, .88), (.42, .99), (.14, .90),
                  (.42, .07), (.64, .05), (.90, .00)),
         ((0, 1, 2), (2, 3, 4, 5, 6, 7), (8, 9, 10))),
    # six: curved back and bowl; straight back; wide bowl that ends inside
    Form(6, 5.0, ((.66, .00), (.38, .20), (.20, .54), (.26, .86), (.52, .99), (.78, .84), (.72, .60), (.46, .54),
                  (.24, .70)),
         ((0, 1, 2, 3, 4, 5, 6, 7, 8),)),
    Form(6, 2.4, ((.44, .00), (.30, .34), (.22, .70), (.36, .96), (.62, .94), (.74, .74), (.58, .58), (.34, .66),
                  (.24, .80)),
         ((0, 1, 2, 3, 4, 5, 6, 7, 8),)),
    Form(6, 1.6, ((.76, .06), (.48, .12), (.22, .42), (.18, .74), (.40, .98), (.74, .92), (.84, .68), (.60, .52),
                  (.36, .62), (.42, .76)),
         ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9),)),
    # seven: bar and stem; with a serif; with a cross-bar; one rounded bend
    Form(7, 4.0, ((.14, .06), (.48, .05), (.84, .04), (.64, .48), (.46, 1.0)), ((0, 1, 2), (2, 3, 4))),
    Form(7, 1.6, ((.14, .22), (.16, .06), (.50, .05), (.86, .03), (.66, .48), (.52, 1.0)),
         ((0, 1), (1, 2, 3), (3, 4, 5))),
    Form(7, 1.8, ((.14, .07), (.48, .05), (.84, .04), (.64, .48), (.44, 1.0), (.34, .52), (.84, .48)),
         ((0, 1, 2), (2, 3, 4), (5, 6))),
    Form(7, 2.4, ((.16, .12), (.46, .02), (.76, .08), (.74, .36), (.62, .70), (.56, 1.0)), ((0, 1, 2, 3, 4, 5),)),
    # eight: one crossing movement; two ovals; open at the top
    Form(8, 5.0, ((.70, .12), (.46, .01), (.24, .18), (.40, .42), (.64, .58), (.78, .80), (.50, .99), (.22, .80),
                  (.40, .56), (.64, .40), (.78, .22)),
         ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0),)),
    Form(8, 2.0, ((.50, .00), (.26, .20), (.48, .44), (.74, .22), (.20, .72), (.48, 1.0), (.80, .74)),
         ((0, 1, 2, 3, 0), (2, 4, 5, 6, 2))),
    Form(8, 2.0, ((.80, .06), (.50, .02), (.26, .20), (.44, .44), (.70, .64), (.68, .92), (.40, .98), (.26, .76),
                  (.48, .52), (.70, .34), (.84, .14)),
         ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),)),
    # nine: bowl and straight stem; bowl and curved tail; one open movement
    Form(9, 4.0, ((.74, .18), (.50, .02), (.24, .20), (.28, .44), (.54, .48), (.75, .24), (.72, .60), (.68, 1.0)),
         ((0, 1, 2, 3, 4, 5), (0, 5, 6, 7))),
    Form(9, 2.4, ((.76, .22), (.52, .01), (.24, .18), (.28, .42), (.54, .46), (.77, .26), (.80, .58), (.66, .90),
                  (.40, 1.0), (.22, .90)),
         ((0, 1, 2, 3, 4, 5), (0, 5, 6, 7, 8, 9))),
    Form(9, 2.6, ((.72, .10), (.42, .04), (.22, .26), (.40, .46), (.66, .32), (.76, .10), (.72, .44), (.62, .76),
                  (.54, 1.0)),
         ((0, 1, 2, 3, 4, 5), (5, 6, 7, 8))),
)
# fmt: on


def _spline_rows(stroke: tuple[int, ...], n_points: int, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows B so that B @ points runs along the stroke at the parameters t in [0, segments]."""
    closed = stroke[0] == stroke[-1]
    segments = len(stroke) - 1
    rows = np.zeros((t.size, n_points))
    segment = np.minimum(t.astype(np.int64), segments - 1)
    u = t - segment
    for row, (s, v) in enumerate(zip(segment.tolist(), u.tolist(), strict=True)):
        here, there = stroke[s], stroke[s + 1]
        if closed:
            before, after = stroke[(s - 1) % segments], stroke[(s + 2) % segments]
        else:
            before, after = stroke[max(s - 1, 0)], stroke[min(s + 2, segments)]
        # Hermite basis with the tangents (there - before) / 2 and (after - here) / 2
        h10, h11 = v * (1 - v) ** 2 / 2, v * v * (v - 1) / 2
        rows[row, here] += (1 + 2 * v) * (1 - v) ** 2 - h11
        rows[row, there] += v * v * (3 - 2 * v) + h10
        rows[row, before] -= h10
        rows[row, after] += h11
    return rows


def sampling_matrix(form: Form) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(B, last): pen positions are B @ points, (SAMPLES_PER_FORM, 2), about evenly spaced; `last` marks where a
    stroke ends, so that no ink is put between it and the next position."""
    points = np.asarray(form.points)
    parameters, lengths = [], []
    for stroke in form.strokes:
        t = np.linspace(0, len(stroke) - 1, _DENSE * (len(stroke) - 1) + 1)
        path = _spline_rows(stroke, len(points), t) @ points
        steps = np.hypot(*np.diff(path, axis=0).T)
        parameters.append(t)
        lengths.append(np.concatenate([[0.0], np.cumsum(steps)]))
    total = sum(length[-1] for length in lengths)
    counts = [max(4, int(SAMPLES_PER_FORM * length[-1] / total)) for length in lengths]
    counts[int(np.argmax(counts))] += SAMPLES_PER_FORM - sum(counts)
    rows = []
    last = np.zeros(SAMPLES_PER_FORM, dtype=np.bool_)
    end = 0
    for stroke, t, length, count in zip(form.strokes, parameters, lengths, counts, strict=True):
        even = np.interp(np.linspace(0, length[-1], count), length, t)
        rows.append(_spline_rows(stroke, len(points), even))
        end += count
        last[end - 1] = True
    return np.concatenate(rows).astype(np.float32), last
