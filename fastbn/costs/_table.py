"""The cost table: what every layer of a model costs in one training step, in numbers."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from fastbn.costs._ceilings import Ceilings

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

DIRECTIONS = ("forward", "backward", "update")

#: A row that reaches less than this part of its roofline is bound by neither arithmetic nor bytes.
LATENCY_BELOW = 0.2

#: Of a 3x3 convolution's multiply-adds, those that each of Winograd's kernels does: F(4x4,3x3) multiplies 36 numbers
#: for 16 outputs of 9 products each, F(2x2,3x3) 16 for 4. Its transforms add and multiply by constants; not counted.
MULTIPLIED = {"winograd4": 36 / (16 * 9), "winograd2": 16 / (4 * 9)}
#: Beside the GFLOP/s of rows that multiply less than their multiply-adds say.
WINOGRAD_SIGN = "*"


@dataclass(frozen=True)
class Part:
    """One operation of a layer, or all of one direction, in a step of the table's batch.

    Bytes are read + written: `bytes_block` stays inside a block of samples, in a core's cache; `bytes_crossing` crosses
    a phase or a step: activations kept for the backward pass, weights, optimizer slots, data. Seconds are wall time,
    the median over the replays; `spread` is half the distance between their quartiles. None: not measured.
    """

    multiply_adds: int = 0
    bytes_block: int = 0
    bytes_crossing: int = 0
    calls: int = 0
    seconds: float | None = None
    spread: float | None = None
    compute_seconds: float | None = None  # at the machine's ceilings
    l2_seconds: float | None = None
    memory_seconds: float | None = None

    @property
    def bytes(self) -> int:
        return self.bytes_block + self.bytes_crossing

    @property
    def intensity(self) -> float | None:
        """Floating-point operations a byte; None where no bytes move."""
        return 2 * self.multiply_adds / self.bytes if self.bytes else None

    @property
    def gflops(self) -> float | None:
        """10^9 floating-point operations a second, two for a multiply-add."""
        return 2e-9 * self.multiply_adds / self.seconds if self.seconds else None

    @property
    def gbs(self) -> float | None:
        """10^9 bytes a second, of the block's and of those that cross."""
        return 1e-9 * self.bytes / self.seconds if self.seconds else None

    @property
    def bound_seconds(self) -> float | None:
        """The roofline: no run can be faster than its arithmetic or its bytes at the machine's ceilings."""
        terms = (self.compute_seconds, self.l2_seconds, self.memory_seconds)
        return None if None in terms else max(term for term in terms if term is not None)

    @property
    def reached(self) -> float | None:
        """The part of the roofline that was reached: bound / seconds."""
        return self.bound_seconds / self.seconds if self.seconds and self.bound_seconds is not None else None

    @property
    def bound_by(self) -> str | None:
        """ "compute", "L2" or "memory": the largest term of the roofline; "latency" where it explains too little."""
        bound = self.bound_seconds
        if bound is None:
            return None
        if self.reached is not None and self.reached < LATENCY_BELOW:
            return "latency"
        if bound == 0:
            return None
        return "compute" if bound == self.compute_seconds else "L2" if bound == self.l2_seconds else "memory"

    def to_dict(self) -> dict[str, Any]:
        derived = ("bytes", "intensity", "gflops", "gbs", "bound_seconds", "reached", "bound_by")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def add_parts(parts: Sequence[Part]) -> Part:
    """The sum of parts; bounds add up too, since parts run one after another."""

    def total(name: str) -> float | None:
        values = [getattr(part, name) for part in parts]
        return None if None in values else sum(values)

    def whole(name: str) -> int:
        return sum(getattr(part, name) for part in parts)

    return Part(
        whole("multiply_adds"),
        whole("bytes_block"),
        whole("bytes_crossing"),
        whole("calls"),
        total("seconds"),
        total("spread"),
        total("compute_seconds"),
        total("l2_seconds"),
        total("memory_seconds"),
    )


@dataclass(frozen=True)
class Operation:
    """One operation of a layer as the program runs it."""

    name: str  # "forward", "backward_filter", "update", ...
    direction: str
    phase: int  # as model.program() numbers them
    note: str  # the algorithm, or what else happens here
    part: Part

    @property
    def multiplied(self) -> float:
        """Multiply-adds that the algorithm does: `part.multiply_adds` counts those of the definition."""
        return self.part.multiply_adds * MULTIPLIED.get(self.note, 1.0)


@dataclass(frozen=True)
class CostRow:
    """One layer. `kind` is its class; "loss" is the loss, "overhead" what belongs to no layer: waiting, region, loop.

    Where the optimizer's update runs inside the backward pass, its time is part of `backward`, and `updates_inside`
    says so.
    """

    layer: str
    kind: str
    fused: str  # partners that became part of this layer's operator
    output_shape: tuple[int, ...]
    parameters: int
    operations: tuple[Operation, ...]
    share: float | None = None  # of the step
    overhead_seconds: float | None = None
    overhead_spread: float | None = None
    fan_in_shape: tuple[int, ...] = ()  # of the (first) input inside, channels last

    def direction(self, name: str) -> Part:
        """The sum of the operations of one direction."""
        return add_parts([operation.part for operation in self.operations if operation.direction == name])

    @property
    def forward(self) -> Part:
        return self.direction("forward")

    @property
    def backward(self) -> Part:
        return self.direction("backward")

    @property
    def update(self) -> Part:
        return self.direction("update")

    @property
    def updates_inside(self) -> bool:
        return any(operation.note == "updated here" for operation in self.operations)

    @property
    def multiplied(self) -> float:
        """Multiply-adds that the algorithms do."""
        return sum(operation.multiplied for operation in self.operations)

    def multiplied_in(self, direction: str) -> float:
        """Multiply-adds that the algorithms of one direction do."""
        return sum(operation.multiplied for operation in self.operations if operation.direction == direction)

    @property
    def multiplies_less(self) -> bool:
        return any(operation.note in MULTIPLIED for operation in self.operations)

    @property
    def total(self) -> Part:
        if self.kind == "overhead":
            return Part(seconds=self.overhead_seconds, spread=self.overhead_spread)
        return add_parts([operation.part for operation in self.operations])

    @property
    def seconds(self) -> float | None:
        return self.total.seconds

    @property
    def multiply_adds(self) -> int:
        return self.total.multiply_adds

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "layer": self.layer,
            "kind": self.kind,
            "fused": self.fused,
            "output_shape": list(self.output_shape),
            "parameters": self.parameters,
            "updates_inside": self.updates_inside,
            "multiplied": self.multiplied,
            "share": self.share,
            "total": self.total.to_dict(),
        }
        for name in DIRECTIONS:
            out[name] = self.direction(name).to_dict()
        out["operations"] = [
            {"name": o.name, "direction": o.direction, "phase": o.phase, "note": o.note, "multiplied": o.multiplied}
            | o.part.to_dict()
            for o in self.operations
        ]
        return out


@dataclass(frozen=True)
class CostTable(Sequence["CostRow"]):
    """What a training step of `batch_size` samples costs, a row a layer, then loss, waiting, region and loop.

    `step_seconds` is the step measured from outside, without timing, between the timed ones; the rows add up to it
    within the noise. Without a run (steps=0) all seconds are None.
    """

    model: str
    batch_size: int
    optimizer: str
    rows: tuple[CostRow, ...]
    isa: str
    vector_floats: int
    threads: int
    step_seconds: float | None = None
    step_spread: float | None = None
    timed_step_seconds: float | None = None  # with timing on
    replays: int = 0
    ceilings: Ceilings | None = None
    uncounted: tuple[str, ...] = ()  # of another framework's model: what has no counts here

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[CostRow]:
        return iter(self.rows)

    def __getitem__(self, key: Any) -> Any:
        """A row by its place or its layer's name."""
        if isinstance(key, str):
            for row in self.rows:
                if row.layer == key:
                    return row
            raise KeyError(
                f"costs: no row of this name. Received: {key!r}, there are {[row.layer for row in self.rows]}"
            )
        return self.rows[key]

    @property
    def layers(self) -> list[CostRow]:
        """The rows of layers and of the loss."""
        return [row for row in self.rows if row.kind != "overhead"]

    @property
    def overhead(self) -> list[CostRow]:
        """Waiting, region and loop."""
        return [row for row in self.rows if row.kind == "overhead"]

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def total(self) -> Part:
        """The sum of all rows."""
        return add_parts([row.total for row in self.rows] if self.measured else [row.total for row in self.layers])

    @property
    def measured(self) -> bool:
        return self.step_seconds is not None

    @property
    def forward_multiply_adds(self) -> int:
        """Of one sample."""
        return sum(row.forward.multiply_adds for row in self.layers) // self.batch_size

    @property
    def overhead_share(self) -> float | None:
        """The part of the step that waiting, region and loop take."""
        shares = [row.share for row in self.overhead]
        return None if None in shares or not shares else sum(share for share in shares if share is not None)

    @property
    def timing_overhead(self) -> float | None:
        """What measuring adds to a step: 0.01 is one per cent."""
        if self.timed_step_seconds is None or not self.step_seconds:
            return None
        return self.timed_step_seconds / self.step_seconds - 1

    @property
    def unexplained(self) -> float | None:
        """How far the rows' sum lies from the measured step, as a part of it."""
        seconds = self.total.seconds
        return seconds / self.step_seconds - 1 if self.step_seconds and seconds is not None else None

    def epoch_seconds(self, samples: int) -> float | None:
        """Seconds of an epoch over so many samples."""
        return None if self.step_seconds is None else samples / self.batch_size * self.step_seconds

    # ------------------------------------------------------------------ formats

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        derived = ("parameters", "forward_multiply_adds", "overhead_share", "timing_overhead", "unexplained")
        plain = ("model", "batch_size", "optimizer", "isa", "vector_floats", "threads")
        measured = ("step_seconds", "step_spread", "timed_step_seconds", "replays")
        return {
            **{name: getattr(self, name) for name in (*plain, *measured, *derived)},
            "uncounted": list(self.uncounted),
            "ceilings": None if self.ceilings is None else asdict(self.ceilings),
            "total": self.total.to_dict(),
            "rows": [row.to_dict() for row in self.rows],
        }

    def to_json(self, indent: int | None = 1) -> str:
        """The same as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_csv(self) -> str:
        """One line a row; the columns of each direction and of the total."""
        text = io.StringIO()
        names = list(Part().to_dict())
        head = ["layer", "kind", "fused", "output_shape", "parameters", "updates_inside", "share"]
        columns = [f"{where}_{name}" for where in (*DIRECTIONS, "total") for name in names]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(head + columns)
        for row in self.rows:
            d = row.to_dict()
            values = [d[name] for name in head[:3]] + ["x".join(map(str, row.output_shape))]
            values += [d[name] for name in head[4:]]
            writer.writerow(values + [d[where][name] for where in (*DIRECTIONS, "total") for name in names])
        return text.getvalue()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.renderables(options.max_width)

    def renderables(self, width: int = 120) -> list[RenderableType]:
        """The table as rich draws it: the work of each layer and, where it was measured, its time.

        Where `width` characters are too few for all columns, the directions and what can be derived are left out.
        """
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        tables: list[RenderableType] = []
        work = [work_headings(), *(work_cells(row) for row in self.layers), self.work_total()]
        timed = [time_headings(), *(time_cells(row) for row in self.rows), self.time_total()]
        for title, lines, narrow in (("work", work, (0, 2, 3, 6, 7)), ("time", timed, (0, 4, 6, 9, 10, 11))):
            if title == "time" and not self.measured:
                break
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title_justify="left")
            table.title, table.title_style = escape(f"{self.title}: {title}"), "bold"
            if sum(max(map(len, column)) + 2.2 for column in zip(*lines, strict=True)) > width:
                lines = [[line[i] for i in narrow] for line in lines]
            for i, heading in enumerate(lines[0]):
                table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=i > 0, overflow="fold")
            for line in lines[1:-1]:
                table.add_row(*map(escape, line))
            table.add_section()
            table.add_row(*map(escape, lines[-1]))
            tables.append(table)
        tables += map(escape, self.notes)
        return tables

    @property
    def fused(self) -> list[str]:
        """Layers whose operator holds others too, one sentence each."""
        return [f"{row.layer} does {row.fused} too" for row in self.rows if row.fused]

    @property
    def notes(self) -> list[str]:
        """What the columns do not say, in sentences."""
        said = ["Fused: " + "; ".join(self.fused) + "."] if self.fused else []
        if fewer := [row.layer for row in self.rows if row.multiplies_less]:
            said.append(
                f"{WINOGRAD_SIGN} {', '.join(fewer)}: Winograd's kernels multiply less than the multiply-adds say; "
                "GFLOP/s are those of the multiply-adds and can pass the machine's, the roofline is that of the "
                "multiplications that are done."
            )
        if self.uncounted:
            said.append("Not counted: " + ", ".join(self.uncounted) + ".")
        return said

    @property
    def title(self) -> str:
        return f"{self.model}, batch {self.batch_size}, {self.optimizer}"

    def work_total(self) -> list[str]:
        whole = CostRow("total", "total", "", (), self.parameters, tuple(o for r in self.layers for o in r.operations))
        return work_cells(whole)

    def time_total(self) -> list[str]:
        rows = self.layers
        operations = tuple(o for row in rows for o in row.operations)
        whole = CostRow("total", "total", "", (), 0, operations)
        cells = time_cells(whole)
        total = self.total
        cells[4:6] = [show_seconds(total.seconds), show_seconds(self.step_spread)]
        reached = None
        if total.seconds and (bound := whole.total.bound_seconds) is not None:
            reached = bound / total.seconds
            cells[6] = show(2e-9 * total.multiply_adds / total.seconds)
            cells[7] = show(1e-9 * total.bytes / total.seconds)
        cells[9:] = [show_percent(reached), "", show_percent(sum(row.share or 0 for row in self.rows))]
        return cells

    def _repr_html_(self) -> str:
        """Two plain tables, for notebooks."""
        parts = []
        for title, columns, cells, rows, total in (
            ("work", work_headings(), work_cells, self.layers, self.work_total()),
            ("time", time_headings(), time_cells, list(self.rows), self.time_total()),
        )[: 1 + self.measured]:
            head = "".join(f"<th>{html.escape(text)}</th>" for text in columns)
            body = ""
            for line in [*(cells(row) for row in rows), total]:
                body += "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in line) + "</tr>"
            caption = html.escape(f"{self.title}: {title}")
            parts.append(
                f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            )
        parts += [f"<p>{html.escape(note)}</p>" for note in self.notes]
        return "".join(parts)

    def __str__(self) -> str:
        """The tables as text."""
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=140, no_color=True, highlight=False)
        for table in self.renderables(140):
            console.print(table)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def work_headings() -> list[str]:
    return ["layer", "output", "parameters", "MAdds fwd", "bwd", "update", "in block", "crossing", "flop/B"]


def time_headings() -> list[str]:
    return ["layer", "fwd", "bwd", "update", "time", "±", "GFLOP/s", "GB/s", "roofline", "of it", "bound by", "share"]


def work_cells(row: CostRow) -> list[str]:
    """What a layer has to do; multiply-adds and bytes of a whole step."""
    total = row.total
    return [
        row.layer,
        "x".join(map(str, row.output_shape)),
        f"{row.parameters:,}" if row.parameters else "",
        *(show_count(row.direction(name).multiply_adds) for name in DIRECTIONS),
        show_bytes(total.bytes_block),
        show_bytes(total.bytes_crossing),
        "" if total.intensity is None or not total.multiply_adds else show(total.intensity),
    ]


def time_cells(row: CostRow) -> list[str]:
    total = row.total
    update = "in bwd" if row.updates_inside and not row.update.seconds else show_seconds(row.update.seconds)
    return [
        row.layer,
        *(("", "", "") if row.kind == "overhead" else _directions(row, update)),
        show_seconds(total.seconds),
        show_seconds(total.spread),
        gflops_cell(row),
        show(total.gbs) if total.bytes else "",
        show_seconds(total.bound_seconds),
        show_percent(total.reached),
        total.bound_by or "",
        show_percent(row.share),
    ]


def gflops_cell(row: CostRow) -> str:
    """GFLOP/s of a row's multiply-adds, with a sign where fewer are done."""
    if not row.multiply_adds:
        return ""
    text = show(row.total.gflops)
    return text + WINOGRAD_SIGN if text and row.multiplies_less else text


def _directions(row: CostRow, update: str) -> tuple[str, str, str]:
    return show_seconds(row.forward.seconds), show_seconds(row.backward.seconds), update


def show(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show_count(value: int) -> str:
    """A count with its unit, empty for none."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{show(value / size)} {unit}"
    return str(value) if value else ""


def show_bytes(value: int) -> str:
    """Bytes with their unit, empty for none."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= size:
            return f"{show(value / size)} {unit}"
    return f"{value} B" if value else ""


def show_seconds(value: float | None) -> str:
    """A time with its unit, empty for none."""
    if not value:
        return ""
    if value >= 1:
        return f"{show(value)} s"
    return f"{show(value * 1e3)} ms" if value >= 1e-3 else f"{show(value * 1e6)} us"


def show_percent(value: float | None) -> str:
    if value is None or value == 0:
        return ""
    return f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}"


def with_shares(table: CostTable) -> CostTable:
    """The same table with each row's share of the rows' sum."""
    total = table.total.seconds
    if not total:
        return table
    return replace(table, rows=tuple(replace(row, share=(row.seconds or 0) / total) for row in table.rows))
