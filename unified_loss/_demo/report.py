"""The demo on the screen and on paper."""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from unified_loss import _libraries as libraries
from unified_loss._demo.heads import WAYS
from unified_loss._demo.training import Curve, HeadRun, Run
from unified_loss._libraries import HostArray, Library

RunT = TypeVar("RunT")

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
HEAD_HEADINGS = (
    "loss\nbefore",
    "loss\nafter",
    "MB with\nlogits",
    "MB\nwithout",
    "ms with\nlogits",
    "ms\nwithout",
    "diff. to\nlogits",
    "diff. to\nNumPy",
)


def train_all(
    names: Iterable[str], train: Callable[[Library, Callable[[], object]], RunT], steps: int
) -> tuple[list[RunT], dict[str, str]]:
    """Train with one library after the other, and say which ones failed, and how."""
    runs: list[RunT] = []
    failures: dict[str, str] = {}
    columns = TextColumn("{task.description:26}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns) as progress:
        bars = {name: progress.add_task(name, total=steps) for name in names}
        for name, bar in bars.items():
            progress.update(bar, description=f"importing {name}")
            try:
                library = libraries.load(name)
                progress.update(bar, description=name)
                runs.append(train(library, partial(progress.advance, bar)))
            except Exception as error:  # noqa: BLE001 - a broken library must not stop the others
                failures[name] = f"{type(error).__name__}: {error}"
    return runs, failures


def difference(run: Run | Curve, reference: Run | Curve) -> HostArray:
    """How far the loss curve is from that of `reference`, step by step."""
    return np.abs(np.subtract(run.losses, reference.losses))


def agrees(run: Run | Curve, reference: Run | Curve) -> bool:
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


def heads_agree(run: HeadRun, reference: HeadRun) -> bool:
    """Whether both curves stay close to that of `reference` with logits."""
    return all(agrees(curve, reference.curves[WAYS[0]]) for curve in run.curves.values())


def print_heads(runs: Sequence[HeadRun]) -> None:
    """One line per library, with logits and without beside each other."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("\nbackend", "\nversion", "\nwithout logits"):
        table.add_column(heading, overflow="fold", min_width=8)
    for heading in HEAD_HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        curves = [run.curves[way] for way in WAYS]
        with_logits, without = curves
        table.add_row(
            run.name,
            run.version,
            run.walk,
            f"{without.losses[0]:.4f}",
            f"{without.losses[-1]:.4f}",
            *("-" if curve.peak is None else f"{curve.peak / 1e6:.0f}" for curve in curves),
            *(f"{curve.milliseconds:.0f}" for curve in curves),
            f"{difference(without, with_logits).max():.1e}",
            f"{difference(without, runs[0].curves[WAYS[0]]).max():.1e}",
            style=None if heads_agree(run, runs[0]) else "bold red",
        )
    console.print(table)


def plot_heads(runs: Sequence[HeadRun], file: Path) -> None:
    """Draw the loss curves, and the memory of a step with logits and without."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    losses, memory = figure.subplots(2, height_ratios=(3, 2))
    curves = [(run, way, run.curves[way]) for run in runs for way in WAYS]
    for depth, (run, way, curve) in enumerate(curves):
        width = len(curves) - depth  # the curves lie on each other
        losses.plot(curve.losses, linewidth=width, label=f"{run.name} {run.version}, {way}")
    losses.set(title="Next word in Python's help", xlabel="step", ylabel="cross-entropy (nats)")
    for key in losses.legend(fontsize="x-small", ncols=2).get_lines():
        key.set_linewidth(3)
    places = np.arange(len(runs))
    for offset, way in zip((-0.2, 0.2), WAYS, strict=True):
        peaks = [(run.curves[way].peak or 0) / 1e6 for run in runs]
        memory.bar(places + offset, peaks, 0.4, label=way)
    memory.set(ylabel="peak of a step (MB)")
    memory.set_xticks(places, [run.name for run in runs], fontsize="small")
    memory.legend()
    figure.savefig(file, format="png", dpi=120)
