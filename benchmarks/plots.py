"""Plots of the results, in colours that can be read on white and on black."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.cases import BOTH, DIRECTIONS, NATIVE
from benchmarks.grid import KINDS, distributions, kind_of
from benchmarks.report import lines
from benchmarks.results import Row, size_of

HERE = Path(__file__).parents[1] / "docs" / "_static" / "bench"
GREY = "#808080"
HUES = ("#3b82c4", "#d97706", "#2a9d6f", "#c2528b", "#8b6fc9", "#c0504d")
COLORS = dict(zip(NATIVE, HUES, strict=True))
MARKS = {"eager": "o", "compiled": "s", "xla": "^"}
RATIOS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
STYLE: dict[str, Any] = {
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.alpha": 0.3,
    "grid.color": GREY,
    "legend.framealpha": 0,
    "legend.labelcolor": GREY,
    "savefig.facecolor": "none",
    "svg.hashsalt": "unified_loss",  # the same numbers give the same file
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def draw_all(rows: Sequence[Row], random: Sequence[Row], folder: Path = HERE) -> list[Path]:
    """Draw what there are rows for, of the table and of random cases, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in PLOTS.items():
        with rc_context(STYLE):
            figure = draw(random if draw is grid else rows)
            if figure is None:
                continue
            files.append(folder / f"{name}.svg")
            figure.savefig(files[-1], format="svg", metadata={"Date": None})
    return files


def ratios(rows: Iterable[Row]) -> Figure | None:
    """Our time over the native loss's, a line for each case, the smallest on top."""
    chosen = [row for row in rows if _is_against_native(row) and row["ratio"] is not None]
    if not chosen:
        return None
    cases = list(dict.fromkeys(map(_case, sorted(chosen, key=size_of, reverse=True))))
    figure = Figure(figsize=(9, 1.5 + 0.45 * len(cases)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    series = _series(chosen)
    for panel, direction in zip(panels, DIRECTIONS, strict=True):
        panel.axvline(1, color=GREY, linestyle="--")
        for place, ((framework, mode), each) in enumerate(series.items()):
            among = [row for row in each if row["direction"] == direction]
            # Those of one case lie a little apart, in the order of the legend.
            shift = 0.6 * (0.5 - (place + 0.5) / len(series))
            places = [cases.index(_case(row)) + shift for row in among]
            panel.plot(
                [row["ratio"] for row in among],
                places,
                MARKS[mode],
                color=COLORS[framework],
                label=f"{framework} {mode}",
                markersize=4,
            )
        panel.set(title=direction, xlabel="time / time of the native loss", xscale="log")
        panel.xaxis.set_major_locator(FixedLocator(RATIOS))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_yticks(range(len(cases)), cases)
    _finish(figure, panels)
    return figure


def memory(rows: Iterable[Row]) -> Figure | None:
    """Peaks of extra memory, by the size of the logits; a peak of 0 has no place on the axes."""
    measured = (row for row in rows if row["ours_mb"] and row["peer_mb"])
    series = _series(row for row in measured if _is_against_native(row, "scaling"))
    if not series:
        return None
    figure, panels = _panels("MB of logits", "peak extra memory (MB)")
    for (framework, mode), each in series.items():
        color, label = COLORS[framework], f"{framework} {mode}"
        for panel, direction in zip(panels, DIRECTIONS, strict=True):
            chosen = [row for row in each if row["direction"] == direction]
            chosen.sort(key=lambda row: row["logits_mb"])
            sizes = [row["logits_mb"] for row in chosen]
            for column, style in (("ours_mb", MARKS[mode]), ("peer_mb", "x")):
                name = label if column == "ours_mb" else f"{label}: native"
                values = [row[column] for row in chosen]
                panel.plot(sizes, values, style, color=color, label=name, markersize=5)
    for panel in panels:
        low, high = panel.get_xlim()
        panel.plot((low, high), (low, high), "--", color=GREY, label="as large as the logits")
    _finish(figure, panels)
    return figure


def scaling(rows: Iterable[Row]) -> Figure | None:
    """Time against the number of examples, and of classes."""
    found = lines(rows)
    if not found:
        return None
    figure = Figure(figsize=(9, 7), layout="constrained")
    grid = figure.subplots(2, 2, sharey=True)
    for line in found:
        row, column = DIRECTIONS.index(line.direction), int(line.grows == "classes")
        panel = grid[row, column]
        sizes = [size_of(each) for each in line.rows]
        color = COLORS[line.framework]
        for name, style in (("ours_ms", "o-"), ("peer_ms", "x:")):
            label = line.framework if name == "ours_ms" else f"{line.framework}: native"
            values = [each[name] for each in line.rows]
            panel.plot(sizes, values, style, color=color, label=label, markersize=4)
    for row, direction in enumerate(DIRECTIONS):
        for column, grows in enumerate(("N (C = 1000)", "C (N = 1000)")):
            grid[row, column].set(title=f"{direction}: more {grows}", xscale="log", yscale="log")
            grid[row, column].set(xlabel="logits (N · C)", ylabel="ms")
    _finish(figure, grid.flat)
    return figure


def grid(rows: Sequence[Row]) -> Figure | None:
    """The ratio of each random case by its size, a panel for each library."""
    found = distributions(rows)
    if not found:
        return None
    figure = Figure(figsize=(9, 1 + 3 * math.ceil(len(found) / 2)), layout="constrained")
    panels = figure.subplots(math.ceil(len(found) / 2), 2, sharex=True, sharey=True, squeeze=False)
    for panel, each in zip(panels.flat, found, strict=False):
        panel.axhline(1, color=GREY, linestyle="--")
        for kind, color in zip(KINDS, HUES, strict=True):
            for direction, mark in zip(DIRECTIONS, "ox", strict=True):
                among = [
                    row
                    for row in each.rows
                    if kind_of(row) == kind and row["direction"] == direction
                ]
                label = f"{kind}, {direction}"
                ratios = [row["ratio"] for row in among]
                sizes = list(map(size_of, among))
                panel.plot(sizes, ratios, mark, color=color, label=label, markersize=4)
        panel.set(title=each.framework, xscale="log", yscale="log", xlabel="logits")
        panel.set(ylabel="time / time of the native loss")
        panel.label_outer()
        panel.yaxis.set_major_locator(FixedLocator(RATIOS))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_locator(NullLocator())
    for panel in panels.flat[len(found) :]:
        panel.set_visible(False)
    _finish(figure, panels.flat)
    return figure


PLOTS: dict[str, Callable[[Sequence[Row]], Figure | None]] = {
    "ratio": ratios,
    "memory": memory,
    "scaling": scaling,
    "grid": grid,
}


def _is_against_native(row: Row, *kinds: str) -> bool:
    """Whether it is a plain call, and its peer what the framework itself has."""
    plain = row["dtype"] == "float32" and row["labels"] == "index" and not row["options"]
    has_gradient = row["framework"] == "numpy" and row["direction"] == BOTH
    peer = NATIVE["torch"] if has_gradient else NATIVE.get(row["framework"])
    return row["kind"] in {"time", *kinds} and plain and row["peer"] == peer


def _case(row: Row) -> str:
    """The shape of the logits, and their class axis if it is not the last."""
    axis = "" if row["axis"] == "-1" else f", axis {row['axis']}"
    return f"{row['shape'].replace('x', ' × ')}{axis}"


def _series(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["framework"], row["mode"]].append(row)
    return found


def _panels(xlabel: str, ylabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, direction in zip(panels, DIRECTIONS, strict=True):
        panel.set(title=direction, xlabel=xlabel, xscale="log", yscale="log")
    panels[0].set(ylabel=ylabel)
    return figure, panels


def _finish(figure: Figure, panels: Iterable[Any]) -> None:
    """One legend for all panels, each name once."""
    handles: dict[str, Any] = {}
    for panel in panels:
        handles |= {
            text: handle for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)
        }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9)
