"""The commands of `fastbn` and their options. Each command imports what it needs when it runs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="CPU kernels and training for convolutional networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Data(str, Enum):
    """The data sets that commands train on."""

    auto = "auto"
    mnist = "mnist"
    fashion_mnist = "fashion_mnist"
    digits = "digits"


DataOption = Annotated[
    Data, typer.Option("--data", help="Data set; auto is MNIST where it can be had and otherwise digits drawn here.")
]


def _fail(command: str, error: Exception) -> NoReturn:
    typer.echo(f"fastbn {command}: {str(error).removeprefix(f'{command}: ')}", err=True)
    raise typer.Exit(1) from error


def _print_path(kind: str) -> None:
    from fastbn import config

    if kind == "includes":
        typer.echo(f"-I{config.get_include()}")
    else:
        typer.echo(config.get_cmake_dir() if kind == "cmakedir" else config.get_pkgconfig_dir())
    raise typer.Exit


def _when_given(kind: str, given: bool) -> None:
    if given:
        _print_path(kind)


@app.callback()
def options(
    includes: Annotated[
        bool,
        typer.Option(
            "--includes",
            is_eager=True,
            callback=lambda given: _when_given("includes", given),
            help="Print the compiler option for fastbn's headers.",
        ),
    ] = False,
    cmakedir: Annotated[
        bool,
        typer.Option(
            "--cmakedir",
            is_eager=True,
            callback=lambda given: _when_given("cmakedir", given),
            help="Print the folder of fastbnConfig.cmake.",
        ),
    ] = False,
    pkgconfigdir: Annotated[
        bool,
        typer.Option(
            "--pkgconfigdir",
            is_eager=True,
            callback=lambda given: _when_given("pkgconfigdir", given),
            help="Print the folder of fastbn.pc.",
        ),
    ] = False,
) -> None:
    """CPU kernels and training for convolutional networks."""


def _console(stderr: bool = False) -> Console:
    """A console as wide as what stands behind it, 128 columns where that is no terminal; tables take 80 at least."""
    from rich.console import Console

    console = Console(stderr=stderr)
    console.width = max(console.width, 80) if console.is_terminal else 128
    return console


@app.command()
def info(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure what this machine can do at most, and keep it for explain.")
    ] = False,
) -> None:
    """Print version, build, instruction sets, threads and why that number, and the machine's measured ceilings."""
    from fastbn.cli.info import report

    try:
        lines = report(measure)
    except ValueError as error:  # FASTBN_ISA or OMP_NUM_THREADS
        _fail("info", error)
    for label, value in lines:
        typer.echo(f"{label:24}{value}".rstrip())


@app.command()
def demo(data: DataOption = Data.auto) -> None:
    """Train the question's three networks and the article's, and compare: seconds, multiply-adds, accuracy."""
    from rich.console import Console

    from fastbn import demo as demonstration
    from fastbn.datasets import load

    try:
        loaded = load(data.value)
    except (OSError, ValueError) as error:
        _fail("demo", error)
    demonstration.run(loaded, Console())


@app.command()
def explain(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NETWORK | MODULE:FUNCTION]...",
            help="Networks of fastbn.networks, or functions that return a model. Without: mlp cnn cnn_small.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Samples of a training step.")] = 128,
    predict: Annotated[
        bool, typer.Option("--predict", help="Predict the epoch from counts and measured ceilings alone, too.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", dir_okay=False, help="Write the report as one HTML page, too.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write all figures as JSON, too; - for stdout alone.")
    ] = None,
) -> None:
    """Say where the time of a training step goes, layer by layer, and why."""
    import shlex
    import sys

    from fastbn import explain as explanations
    from fastbn._files import require_writable, whole_file

    quiet = json is not None and str(json) == "-"
    errors = _console(stderr=True)
    command = shlex.join(["fastbn", *sys.argv[1:]]) if sys.argv[1:2] == ["explain"] else "fastbn explain"
    try:
        for target in (html, json):
            if target is not None and str(target) != "-" and not target.absolute().parent.is_dir():
                raise ValueError(f"the folder must be there. Received: {target}")
            if target is not None and str(target) != "-":
                require_writable(target)
        with errors.status("") as status:
            found = explanations.explain(names or (), batch_size, predict=predict, command=command, said=status.update)
        if html is not None:
            with whole_file(html) as part:
                part.write_text(explanations.html_page(found), encoding="utf-8")
        if json is not None and not quiet:
            with whole_file(json) as part:
                part.write_text(found.to_json() + "\n", encoding="utf-8")
    except (OSError, ValueError, MemoryError) as error:
        _fail("explain", error)
    if quiet:
        typer.echo(found.to_json())
        return
    console = _console()
    found.print(console)
    for target in (html, json):
        if target is not None:
            typer.echo(f"Written: {target}")


class Studies(str, Enum):
    """The studies by name; all is the article's four."""

    all = "all"
    accelerate = "accelerate"
    depth = "depth"
    optimizer = "optimizer"
    batch = "batch"
    order = "order"
    momentum = "momentum"
    shift = "shift"
    conv = "conv"


@app.command()
def study(
    name: Annotated[
        Studies,
        typer.Argument(
            help="Of the article: accelerate, depth, optimizer, batch, or all of these. Beyond it: the others."
        ),
    ],
    data: DataOption = Data.auto,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each variant; a verdict takes 5.")] = 5,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of a run.")] = 10,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, help="Runs at once, which share the cores out. [default: one a core]", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", file_okay=False, help="Folder of the results, kept as each run ends.")
    ] = Path("fastbn-study"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study that the folder holds.")] = False,
) -> None:
    """Run an article's studies of batch-norm over several seeds; judge every claim: report.html, figures, results."""
    import shlex
    import sys

    from fastbn import study as studies

    command = shlex.join(["fastbn", *sys.argv[1:]]) if sys.argv[1:2] == ["study"] else f"fastbn study {name.value}"
    console = _console()
    try:
        outcome = studies.run(
            name.value,
            out,
            data=data.value,
            seeds=seeds,
            epochs=epochs,
            jobs=jobs,
            resume=resume,
            console=console,
            command=command,
        )
        written = studies.write_report(outcome, out)
    except ImportError as error:
        _fail("study", ImportError(f"needs the packages of the extra `study`: pip install fastbn[study] ({error})"))
    except (OSError, ValueError) as error:
        _fail("study", error)
    outcome.print(console)
    for target in written:
        typer.echo(f"Written: {target}")
    if not outcome.whole:
        raise typer.Exit(130)
