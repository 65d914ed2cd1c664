"""The explanation in sentences, by rules on the figures of cost tables: other figures make other sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastbn.costs._table import CostRow, CostTable, show, show_bytes, show_percent, show_seconds
from fastbn.explain._networks import QUESTION, QUESTION_SECONDS, Explained

#: Time follows arithmetic where their ratios lie within this factor of each other.
FOLLOWS = 1.5
#: Waiting, region and loop are worth advice beyond this share of the step.
MUCH_OVERHEAD = 0.1
#: No row can pass its ceilings by more than the noise.
TOO_FAST = 1.15
#: Beyond this share of the step overhead comes first.
HALF = 0.5
#: A region that takes so many times what it takes at best was kept waiting by others.
KEPT_WAITING = 50
#: A row is near its ceiling from here on.
NEAR = 0.5


def ratio(value: float) -> str:
    """ "16", "1.8", "0.17" """
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def heaviest(table: CostTable) -> CostRow:
    return max(table.layers, key=lambda row: row.seconds or 0)


def is_narrow(table: CostTable, row: CostRow) -> bool:
    """Fewer filters or units than a vector holds numbers."""
    return row.kind in ("Conv2D", "Dense") and row.output_shape[-1] < table.vector_floats


def explain_network(network: Explained) -> list[str]:
    """Which layer takes the time, what explains it, what would help; then the overhead."""
    table = network.table
    row = heaviest(table)
    said = [" ".join([*where(network.name, table, row), *why(table, row), *what_helps(table, row)]), overhead(table)]
    if (table.overhead_share or 0) > HALF:
        said.reverse()
    beyond = [
        other.layer
        for other in table.layers
        if (other.total.reached or 0) > TOO_FAST and (other is row or (other.share or 0) > 0.05)
    ]
    if beyond:
        said.append(
            f"{', '.join(beyond)}: faster than this machine's ceilings allow, so they were measured while it was busy. "
            "Measure them again with fastbn info --measure."
        )
    return said


def where(name: str, table: CostTable, row: CostRow) -> list[str]:
    total = table.total
    work = row.multiply_adds / total.multiply_adds if total.multiply_adds else 0
    weights = row.parameters / table.parameters if table.parameters else 0
    said = f"In {name}, {row.layer} ({row.kind}) takes {show_percent(row.share)} of the step: "
    said += f"{show_seconds(row.seconds)} of {show_seconds(total.seconds)}."
    found = [said]
    if row.parameters and row.multiply_adds:
        found.append(
            f"It does {show_percent(work)} of the multiply-adds and holds {show_percent(weights)} of the parameters."
        )
        uses = row.forward.multiply_adds / table.batch_size / row.parameters
        if uses >= 2:
            found.append(
                f"A weight of a convolution works at every place of the image, here {ratio(uses)} times an image; that "
                "is why parameters do not tell its time."
            )
    return found


def fewer(row: CostRow) -> str:
    """What Winograd's kernels leave out, for the sentence that gives a speed; else nothing."""
    if not row.multiplies_less:
        return ""
    return f" by its multiply-adds, of which Winograd's kernels do {show_percent(row.multiplied / row.multiply_adds)}"


def why(table: CostTable, row: CostRow) -> list[str]:
    """What bounds the row, with the figures that show it."""
    part = row.total
    bounds = table.ceilings
    if bounds is None or part.reached is None or part.seconds is None or part.reached > TOO_FAST:
        return []
    peak = f"{show(bounds.flops / 1e9)} GFLOP/s that this machine has with {table.isa} on {table.threads} threads"
    if table.threads == 1:
        peak = peak.replace("1 threads", "1 thread")
    if part.bound_by == "compute":
        if part.reached >= NEAR:
            return [
                f"Arithmetic explains it: it runs at {show(part.gflops)} GFLOP/s{fewer(row)}, "
                f"{show_percent(part.reached)} of its bound by the {peak}."
            ]
        return [
            f"Its largest term is arithmetic, but arithmetic alone explains only {show_percent(part.reached)} of its "
            f"time: {show(part.gflops)}{f' GFLOP/s{fewer(row)},' * row.multiplies_less} of the {peak}."
        ]
    if part.bound_by == "L2":
        return [
            f"Bytes explain it: it moves {show_bytes(part.bytes_block)} a step inside the cores' caches, "
            f"{show_percent(part.reached)} of the speed that L2 allows."
        ]
    if part.bound_by == "memory":
        return [
            f"Bytes explain it: {show_bytes(part.bytes_crossing)} a step leave the cores' caches, "
            f"{show_percent(part.reached)} of the speed that memory allows, and each byte is used for only "
            f"{show(part.intensity or 0)} operations."
        ]
    found = [
        f"Neither arithmetic nor bytes explain it: at the machine's ceilings its work would take "
        f"{show_seconds(part.bound_seconds)}, {show_percent(part.reached)} of the time that it takes."
    ]
    if is_narrow(table, row):
        found.append(
            f"A vector holds {table.vector_floats} numbers and the layer has {row.output_shape[-1]} "
            f"{'filters' if row.kind == 'Conv2D' else 'units'}: vectors stay partly empty, and loading and storing "
            "them costs more than multiplying."
        )
    elif part.calls:
        each = part.seconds * table.threads / part.calls
        found.append(
            f"Its {part.calls} kernel calls a step take {show_seconds(each)} each: pieces too small to be fast."
        )
    return found


def what_helps(table: CostTable, row: CostRow) -> list[str]:
    part = row.total
    thing = "filters" if row.kind == "Conv2D" else "units"
    if part.bound_by == "compute":
        smaller = "a larger stride, or pooling before it" if row.kind == "Conv2D" else "a smaller input"
        return [f"What would help: fewer multiplications, by fewer {thing}, {smaller}."]
    if part.bound_by == "memory":
        weights = 4 * row.parameters * 3
        if weights > part.bytes_crossing / 2:
            return [
                "What would help: a larger batch; the weights and the optimizer's state pass once a step, however many "
                "images it has. So would fewer parameters in this layer."
            ]
        return ["What would help: smaller activations, by an earlier pooling or fewer channels."]
    if part.bound_by == "L2":
        return ["What would help: smaller activations, by an earlier pooling or fewer channels."]
    if part.bound_by == "latency":
        if is_narrow(table, row):
            return [
                "What would help: nothing that saves multiplications alone; up to "
                f"{table.vector_floats} {thing} cost little more."
            ]
        return ["What would help: a larger batch, or fewer and wider layers."]
    return []


def overhead(table: CostTable) -> str:
    share = table.overhead_share or 0
    rows = ", ".join(f"{row.layer.strip('()')} {show_percent(row.share) or '0%'}" for row in table.overhead)
    if share <= MUCH_OVERHEAD:
        return f"Overhead does not explain it: {show_percent(share) or '0%'} of the step belong to no layer ({rows})."
    largest = max(table.overhead, key=lambda row: row.seconds or 0).layer
    region = next((row.seconds or 0 for row in table.overhead if row.layer == "(region)"), 0)
    if largest == "(region)" and table.ceilings and region > KEPT_WAITING * table.ceilings.region_seconds:
        largest = "busy"
    advice = {
        "(waiting)": "threads wait for each other: a larger batch gives them more even shares, or take fewer threads",
        "(region)": "opening threads costs more than it brings: take fewer threads or a larger batch",
        "busy": "opening threads took far longer than it takes at best, so other programs had the processors: measure "
        "again on a quiet machine, or take fewer threads",
        "(loop)": "the loop around the step is long beside it: take a larger batch",
    }[largest]
    return f"Overhead matters: {show_percent(share)} of the step belong to no layer ({rows}); {advice}."


def compare(networks: Sequence[Explained]) -> list[str]:
    """Every network beside the first."""
    base = networks[0]
    return [_beside(network, base) for network in networks[1:]]


def _beside(network: Explained, base: Explained) -> str:
    a, b = network.table, base.table
    parameters = a.parameters / max(b.parameters, 1)
    work = network.forward_multiply_adds / max(base.forward_multiply_adds, 1)
    seconds = network.epoch_seconds / base.epoch_seconds
    said = [
        f"{network.name} has {ratio(parameters)} times the parameters of {base.name}, does {ratio(work)} times its "
        f"multiply-adds and takes {ratio(seconds)} times its time."
    ]
    if not work or not a.total.gflops or not b.total.gflops:
        return said[0]
    excess = seconds / work
    less = [n for n in (network, base) if any(row.multiplies_less for row in n.table.rows)]
    rates = f"{show(a.total.gflops)} GFLOP/s in {network.name}, {show(b.total.gflops)} in {base.name}"
    if 1 / FOLLOWS <= excess <= FOLLOWS:
        said.append(f"Its time follows its arithmetic ({rates}).")
    elif excess > FOLLOWS:
        said.append(f"That is {ratio(excess)} times more than its arithmetic explains ({rates}).")
        said += _where_the_rest_goes(network, base, work)
    else:
        said.append(f"That is {ratio(1 / excess)} times less than its arithmetic would have it ({rates}).")
    for other in less:
        done = sum(row.multiplied for row in other.table.rows) / other.table.total.multiply_adds
        said.append(
            f"These figures count every multiply-add of a convolution's definition; in {other.name} Winograd's kernels "
            f"save some, {show_percent(done)} are done."
        )
    if parameters > 0 and abs(math.log(seconds / parameters)) > abs(math.log(excess)):
        said.append("The number of parameters tells less than the multiply-adds do.")
    return " ".join(said)


def _where_the_rest_goes(network: Explained, base: Explained, work: float) -> list[str]:
    """The rows that take more than their multiply-adds would at the other network's rate."""
    rate = base.table.total.gflops
    rows = network.table.rows
    total = network.table.total.seconds
    if not rate or not total:
        return []
    beyond = {row: (row.seconds or 0) - 2e-9 * row.multiply_adds / rate for row in rows}
    rest = sum(value for value in beyond.values() if value > 0)
    if not rest:
        return []
    first = sorted((row for row in rows if beyond[row] > 0), key=lambda row: -beyond[row])[:3]
    parts = []
    for row in first:
        reason = {"latency": "latency", "L2": "bytes", "memory": "bytes", "compute": "arithmetic below its peak"}
        kind = "overhead" if row.kind == "overhead" else reason.get(row.total.bound_by or "", "")
        parts.append(f"{show_percent(beyond[row] / rest)} to {row.layer}" + (f" ({kind})" if kind else ""))
    return [f"Of what its arithmetic does not explain go {', '.join(parts)}."]


def the_question(networks: Sequence[Explained]) -> list[str]:
    """What the question's answer got wrong and what no count explains; where its three networks are there."""
    by_name = {network.name: network for network in networks}
    if not all(name in by_name for name in QUESTION):
        return []
    mlp, cnn, small = (by_name[name] for name in QUESTION)
    with_three = {}
    for network in (mlp, cnn):
        first = next(row for row in network.table.layers if row.multiply_adds)
        batch = network.table.batch_size
        with_three[network.name] = network.forward_multiply_adds + 2 * first.forward.multiply_adds // batch
    theirs = {name: QUESTION_SECONDS[name] / QUESTION_SECONDS["mlp"] for name in QUESTION}
    work = {n.name: n.forward_multiply_adds / mlp.forward_multiply_adds for n in (cnn, small)}
    seconds = {n.name: n.epoch_seconds / mlp.epoch_seconds for n in (cnn, small)}
    said = [
        "The answer that the question got counts multiplications, but for three input channels: "
        f"{with_three['cnn']:,} for cnn against {with_three['mlp']:,} for mlp, a factor of "
        f"{ratio(with_three['cnn'] / with_three['mlp'])}. MNIST has one channel: {cnn.forward_multiply_adds:,} against "
        f"{mlp.forward_multiply_adds:,}, a factor of {ratio(work['cnn'])}; the question measured "
        f"{ratio(theirs['cnn'])} and this machine {ratio(seconds['cnn'])}."
    ]
    no_count = (
        f"No count of multiplications explains cnn_small: {ratio(work['cnn_small'])} of mlp's arithmetic took "
        f"{ratio(theirs['cnn_small'])} times its time in the question"
    )
    here = seconds["cnn_small"]
    if here < 1:
        end = f"; here it takes {ratio(here)} of it, so cnn_small is faster than mlp"
    else:
        end = f"; here it takes {ratio(here)} times its time"
    said.append(no_count + end + f". What takes its time is {_shares(small.table)}.")
    return said


def _shares(table: CostTable) -> str:
    """ "conv2d_1 70% (latency), ..." of the rows that take a tenth or more."""
    rows = sorted((row for row in table.rows if (row.share or 0) >= 0.1), key=lambda row: -(row.share or 0))
    return ", ".join(
        f"{row.layer} {show_percent(row.share)}" + (f" ({row.total.bound_by})" if row.total.bound_by else "")
        for row in rows
    )
