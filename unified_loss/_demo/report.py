"""The demo on the screen and on paper."""

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from unified_loss import _libraries as libraries
from unified_loss._demo.training import Digits, Run, train
from unified_loss._libraries import HostArray

LARGEST_DIFFERENCE = 1e-5
TEXT_HEADINGS = {"\nbackend": 10, "\nversion": 10, "\ndevice": 6, "\nkernel": 10}  # least widths
NUMBER_HEADINGS = (
    "loss\nbefore",
    "loss\nafter",
    "test\naccuracy",
    "ms per\nstep",
    "diff. to\nNumPy",
)
COMFORTABLE_WIDTH = 100
FILE_WIDTH = 130  # where the output is no terminal


def train_all(names: Iterable[str], digits: Digits, steps: int) -> tuple[list[Run], dict[str, str]]:
    """Train with one library after the other, and say which ones failed, and how."""
    runs: list[Run] = []
    failures: dict[str, str] = {}
    columns = TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns) as progress:
        bars = {name: progress.add_task(name, total=steps) for name in names}
        for name, bar in bars.items():
            try:
                library = libraries.load(name)
                runs.append(train(library, digits, steps, partial(progress.advance, bar)))
            except Exception as error:  # noqa: BLE001 - a broken library must not stop the others
                failures[name] = f"{type(error).__name__}: {error}"
    return runs, failures


def difference(run: Run, reference: Run) -> HostArray:
    """How far the loss curve is from that of `reference`, step by step."""
    return np.abs(np.subtract(run.losses, reference.losses))


def agrees(run: Run, reference: Run) -> bool:
    """Whether the loss curve stays within `LARGEST_DIFFERENCE`; NaN does not."""
    return bool((difference(run, reference) < LARGEST_DIFFERENCE).all())


def print_table(runs: Sequence[Run]) -> None:
    """One line per library."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    gap = 1 if console.width >= COMFORTABLE_WIDTH else 0
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0), pad_edge=False)
    for heading, min_width in TEXT_HEADINGS.items():
        table.add_column(heading, overflow="fold", min_width=min_width)
    for heading in NUMBER_HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            run.name,
            run.version,
            run.device,
            run.kernel,
            f"{run.losses[0]:.4f}",
            f"{run.losses[-1]:.4f}",
            f"{run.accuracy:.1%}",
            f"{run.milliseconds:.2f}",
            f"{difference(run, runs[0]).max():.1e}",
            style=None if agrees(run, runs[0]) else "bold red",
        )
    console.print(table)


def plot(runs: Sequence[Run], file: Path) -> None:
    """Draw the loss curves, and below them how far each is from NumPy's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    losses, differences = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for depth, run in enumerate(runs):
        width = 2 * (len(runs) - depth)  # the curves lie on each other: the first is the broadest
        (line,) = losses.plot(run.losses, linewidth=width, label=f"{run.name} {run.version}")
        if depth:
            differences.plot(difference(run, runs[0]), ".", markersize=3, color=line.get_color())
    differences.axhline(LARGEST_DIFFERENCE, color="black", linestyle="--")
    losses.set(title="Softmax regression on handwritten digits", ylabel="cross-entropy (nats)")
    losses.legend()
    differences.set(xlabel="step", ylabel="distance from NumPy's curve", ylim=0)
    differences.set_yscale("symlog", linthresh=1e-8)  # equal losses are common, and a point too
    figure.savefig(file, format="png", dpi=120)
