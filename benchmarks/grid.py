"""What the random cases say: the distribution of our time over the native loss's.

A call of Python costs microseconds whatever the size, so the bars for all sizes are judged once an
allowance for it is taken off. A ratio that the noise of the machine has raised is seldom high both
at the median and at the lower quartile: a case is over a bar if both are.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.limits import ALLOWANCES, GRID_BARS, GRID_FROM, OVER, OVER_SHARE, WORST
from benchmarks.results import Row, size_of

KINDS = ("plain", "options", "dense", "axis 1", "bfloat16", "strided")


class Distribution(NamedTuple):
    """The ratios of one library."""

    framework: str
    rows: Sequence[Row]

    @property
    def mean(self) -> float:
        """The geometric mean of the ratios."""
        return _mean(self.rows)

    @property
    def mean_of_large(self) -> float:
        """The same from `GRID_FROM` logits on, where the call itself does not count."""
        return _mean([row for row in self.rows if size_of(row) >= GRID_FROM])

    @property
    def worst_decile(self) -> float:
        """The ratio that a tenth of all cases is at or above."""
        ratios = sorted(row["ratio"] for row in self.rows)
        return ratios[int(0.9 * len(ratios))] if ratios else math.nan

    def share_over(self, bar: float) -> float:
        """The share of cases over a bar, without what is allowed."""
        return sum(net(row) > bar for row in self.rows) / max(1, len(self.rows))

    def worst(self, number: int = 10) -> list[Row]:
        """The cases that are the furthest behind, without what is allowed."""
        return sorted(self.rows, key=net, reverse=True)[:number]


def distributions(rows: Sequence[Row]) -> list[Distribution]:
    """One for each library that was measured."""
    measured = [row for row in rows if row["ratio"] is not None]
    names = dict.fromkeys(row["framework"] for row in measured)
    return [Distribution(n, [row for row in measured if row["framework"] == n]) for n in names]


def kind_of(row: Row) -> str:
    """What is most particular about a case.

    Examples
    --------
    >>> row = {"axis": "-1", "labels": "dense", "layout": "contiguous", "dtype": "float32"}
    >>> kind_of(row | {"options": "label_smoothing"})
    'dense'
    """
    is_so = {
        "strided": row["layout"] != "contiguous",
        "bfloat16": row["dtype"] == "bfloat16",
        "axis 1": row["axis"] == "1",
        "dense": row["labels"] == "dense",
        "options": bool(row["options"]),
    }
    return next((kind for kind, holds in is_so.items() if holds), "plain")


def allowance(row: Row) -> float:
    """What a call may take more than the native one whatever its size, in milliseconds.

    Examples
    --------
    >>> row = {"framework": "torch", "labels": "index", "options": "", "direction": "forward"}
    >>> allowance(row), allowance(row | {"labels": "dense"})
    (0.008, 0.014)
    """
    is_plain = row["labels"] == "index" and not row["options"] and row["direction"] == "forward"
    plain, other = ALLOWANCES[row["framework"]]
    return (plain if is_plain else other) / 1000


def net(row: Row) -> float:
    """The ratio without what is allowed; the lower one of medians and of lower quartiles."""
    free = allowance(row)
    median: float = (row["ours_ms"] - free) / row["peer_ms"]
    low: float = (row["ours_low_ms"] - free) / row["peer_low_ms"]
    return min(median, low)


def _mean(rows: Sequence[Row]) -> float:
    if not rows:
        return math.nan
    return math.exp(sum(math.log(row["ratio"]) for row in rows) / len(rows))


def text(rows: Sequence[Row]) -> str:
    """The distributions, their bars and the worst cases."""
    found = distributions(rows)
    notes = [f"  {row['case']}: {row['note']}" for row in rows if row["note"]]
    parts = ["\n".join(_lines(each)) for each in found]
    return "\n".join([*parts, *(["Random cases that were not measured", *notes] if notes else [])])


def _lines(found: Distribution) -> Iterator[str]:
    first = found.rows[0]
    large = sum(size_of(row) >= GRID_FROM for row in found.rows)
    yield (
        f"Random cases, {found.framework}: {len(found.rows)} of seed {first['seed']},"
        f" time over that of {first['peer']} ({first['device']})"
    )
    bar = GRID_BARS[found.framework]
    yield (
        f"  geometric mean {found.mean:.3g}, a tenth from {found.worst_decile:.3g};"
        f" without what a call is allowed, per case:"
    )
    over, worst = found.share_over(OVER), found.share_over(WORST)
    if large:
        mean = found.mean_of_large
        yield (
            f"{_mark(mean <= bar)}geometric mean of {large} from {GRID_FROM:,} logits on:"
            f" {mean:.3g} (bar {bar:g})"
        )
    yield f"{_mark(over <= OVER_SHARE)}above {OVER}: {over:.1%} (bar {OVER_SHARE:.0%})"
    yield f"{_mark(not worst)}above {WORST}: {worst:.1%} (bar none)"
    yield "  the worst, and what their ratios are without and with what is allowed:"
    for row in found.worst():
        yield f"    {net(row):.2f} {row['ratio']:.2f} {row['ours_ms']:.4g} ms  {row['case']}"


def _mark(holds: bool) -> str:  # noqa: FBT001 (a condition is its only argument)
    return "  " if holds else "! "
