"""What the numbers say: which rows keep their limits, and how the time grows."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import linear_regression
from typing import NamedTuple

from benchmarks.limits import SLOPES, SLOPES_FROM
from benchmarks.results import Row, bandwidth, size_of

CLASSES = 1000  # where the examples become more
EXAMPLES = 1000  # where the classes do


class Line(NamedTuple):
    """Cases of one loss that differ in one size."""

    framework: str
    mode: str
    direction: str
    grows: str  # "examples" or "classes"
    rows: Sequence[Row]


def lines(rows: Iterable[Row]) -> list[Line]:
    """The rows of the scaling, sorted by what grows; the square ones belong to both."""
    found: dict[tuple[str, str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["kind"] != "scaling" or row["ours_ms"] is None:
            continue
        examples, classes = map(int, row["shape"].split("x"))
        key = (row["framework"], row["mode"], row["direction"])
        if classes == CLASSES:
            found[*key, "examples"].append(row)
        if examples == EXAMPLES:
            found[*key, "classes"].append(row)
    return [Line(*key, sorted(each, key=size_of)) for key, each in found.items()]


def slope(line: Line, column: str = "ours_ms") -> float | None:
    """By which power of the size the time grows, from a million logits on.

    Examples
    --------
    >>> rows = [{"shape": f"{n}x1000", "ours_ms": 2.0 * n} for n in (1000, 10_000)]
    >>> slope(Line("numpy", "eager", "forward", "examples", rows))
    1.0
    """
    points = [
        (math.log(size_of(row)), math.log(row[column]))
        for row in line.rows
        if size_of(row) >= SLOPES_FROM and row[column] is not None
    ]
    if len(points) < 2:
        return None
    xs, ys = zip(*points, strict=True)
    return round(linear_regression(xs, ys).slope, 3)


def report(rows: Sequence[Row]) -> str:
    """One line for each row with limits, for each slope, and for what was not measured."""
    limited = [row for row in rows if row["holds"]]
    texts = [_verdict(row) for row in sorted(limited, key=lambda row: row["holds"])]
    slopes = [text for line in lines(rows) if (text := _slope_verdict(line))]
    failed = [row for row in rows if row["note"] and row["kind"] != "import"]
    notes = [f"  {row['case']}: {row['note']}" for row in failed]
    device = [_on_device(row) for row in rows if row.get("copy_gbs") is not None]
    kept = sum(row["holds"] == "yes" for row in limited)
    free = sum(not row["holds"] and row["ours_ms"] is not None for row in rows)
    return "\n".join([
        f"Limits: {kept} of {len(limited)} rows keep theirs; {free} more have none",
        *texts,
        *(["On the device: time, over the peer's, memory, bandwidth of ours and of a copy", *device]
          if device else []),
        *(["Slopes of log time against log size", *slopes] if slopes else []),
        *(["Not measured, or not all of it", *notes] if notes else []),
    ])  # fmt: skip


def _on_device(row: Row) -> str:
    parts = [f"{row['ours_ms']:.4g} ms"]
    if row["ratio"] is not None:
        parts.append(f"{row['ratio']:.3g}x")
    if row["ours_mb"] is not None:
        parts.append(f"{row['ours_mb']:.4g} of {row['peer_mb'] or math.nan:.4g} MB")
    return f"  {row['case']}: {'; '.join([*parts, bandwidth(row)])}"


def _verdict(row: Row) -> str:
    numbers = [f"{row['ours_ms']:.4g} ms"]
    if row["ratio"] is not None:
        numbers.append(f"{row['ratio']:.3g}x, {row['added_us']:+.3g} us")
    if row["ours_mb"] is not None:
        numbers.append(f"{row['ours_mb']:.4g} MB")
    bars = ", ".join(f"{'keeps' if holds else 'over'} {text}" for text, holds in _bars(row))
    mark = {"yes": "  ", "no": "! "}[row["holds"]]
    return f"{mark}{row['case']}: {'; '.join(numbers)} ({bars})"


def _bars(row: Row) -> Iterator[tuple[str, bool]]:
    """Each limit of a row as it is written, and whether it keeps it."""
    columns = {"x": "ratio", "us": "added_us", "ms": "ours_ms"}
    for text in filter(None, row["limit"].split(" and ")):
        unit = "x" if text.endswith("x") else text[-2:]
        yield text, row[columns[unit]] <= float(text.removesuffix(unit))
    if row["memory_limit"]:
        factor, _, of = row["memory_limit"].partition("x ")
        yield row["memory_limit"], row["ours_mb"] <= float(factor) * row[f"{of}_mb"]


def _slope_verdict(line: Line) -> str | None:
    ours, peer = slope(line), slope(line, "peer_ms")
    if ours is None:
        return None
    low, high = SLOPES
    mark = "  " if low <= ours <= high else "! "
    against = "" if peer is None else f", peer {peer}"
    return (
        f"{mark}{line.framework} {line.mode} {line.direction}, more {line.grows}: {ours}{against}"
    )
