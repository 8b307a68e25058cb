"""Measured numbers as CSV, one file for each framework."""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.limits import Limit

Row = dict[str, Any]

HERE = Path(__file__).parent / "results"
COLUMNS = (
    "case",
    "kind",
    "framework",
    "mode",
    "direction",
    "shape",
    "axis",
    "dtype",
    "labels",
    "options",
    "peer",
    "ours_ms",
    "peer_ms",
    "ratio",
    "added_us",
    "limit",
    "ours_mb",
    "peer_mb",
    "logits_mb",
    "memory_limit",
    "holds",
    "rounds",
    "note",
    "device",
    "threads",
    "versions",
    "date",
)
# Of a device beside the host: what is moved at the least over our time, and a copy of the logits.
DEVICE_COLUMNS = (*COLUMNS[:17], "ours_gbs", "copy_gbs", *COLUMNS[17:])
GRID_COLUMNS = (
    "case",
    "seed",
    "framework",
    "mode",
    "direction",
    "shape",
    "axis",
    "dtype",
    "layout",
    "labels",
    "options",
    "peer",
    "ours_ms",
    "peer_ms",
    "ratio",
    "ours_low_ms",
    "peer_low_ms",
    "low_ratio",
    "rounds",
    "note",
    "device",
    "threads",
    "versions",
    "date",
)
NUMBERS = (
    *("ours_ms", "peer_ms", "ratio", "added_us", "ours_mb", "peer_mb", "logits_mb"),
    *("ours_low_ms", "peer_low_ms", "low_ratio", "ours_gbs", "copy_gbs"),
)


def file_of(framework: str, device: str, *, busy: bool = False, folder: Path = HERE) -> Path:
    """Where the rows of a framework are.

    Examples
    --------
    >>> file_of("torch", "cpu", busy=True).name
    'torch-busy.csv'
    """
    return folder / f"{framework}{_suffix(device, busy=busy)}"


def columns_of(device: str) -> Sequence[str]:
    """The columns of a file of that device."""
    return COLUMNS if device == "cpu" else DEVICE_COLUMNS


def grid_folder(folder: Path = HERE) -> Path:
    """Where the random cases are, one file for each framework."""
    return folder / "grid"


def _suffix(device: str, *, busy: bool) -> str:
    return ("" if device == "cpu" else f"-{device}") + ("-busy" if busy else "") + ".csv"


def judged(row: Row, limit: Limit) -> Row:
    """The row with its limits, and whether it keeps them: "yes", "no", or "" without a limit."""
    texts, verdicts = [], []
    for name, sign in (("ratio", "x"), ("added_us", " us"), ("ours_ms", " ms")):
        bound = getattr(limit, name)
        if bound is not None and isinstance(row.get(name), float):
            texts.append(f"{bound:g}{sign}")
            verdicts.append(row[name] <= bound)
    memory_limit = ""
    unit = row.get("logits_mb" if limit.memory_of == "logits" else "peer_mb")
    if limit.memory is not None and isinstance(row.get("ours_mb"), float) and unit is not None:
        memory_limit = f"{limit.memory:g}x {limit.memory_of}"
        verdicts.append(row["ours_mb"] <= limit.memory * unit)
    holds = ("yes" if all(verdicts) else "no") if verdicts else ""
    return row | {"limit": " and ".join(texts), "memory_limit": memory_limit, "holds": holds}


def write(rows: Iterable[Row], file: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Enter rows into a file, in the place of older ones of the same case."""
    merged = {row["case"]: row for row in read(file)} | {row["case"]: row for row in rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(
            stream, columns, restval="", extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(
            {key: _text(value) for key, value in row.items()} for row in merged.values()
        )


def read(file: Path) -> Iterator[Row]:
    """The rows of a file; numbers are floats, what was not measured is None."""
    if not file.exists():
        return
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            numbers = [name for name in NUMBERS if name in row]
            yield row | {name: float(row[name]) if row[name] else None for name in numbers}


def read_all(device: str, *, busy: bool = False, folder: Path = HERE) -> list[Row]:
    """All rows that were measured on a kind of device."""
    suffix = _suffix(device, busy=busy)
    files = sorted(file for file in folder.glob("*.csv") if file.name.endswith(suffix))
    # "torch-busy.csv" ends like "torch.csv".
    return [row for file in files if "-" not in file.name[: -len(suffix)] for row in read(file)]


def size_of(row: Row) -> int:
    """The number of logits."""
    return math.prod(map(int, row["shape"].split("x")))


def bandwidth(row: Row) -> str:
    """What our loss reaches of what a copy does.

    Examples
    --------
    >>> bandwidth({"ours_gbs": 1800.0, "copy_gbs": 2400.0})
    '1800 of 2400 GB/s'
    """
    return f"{row['ours_gbs']:.4g} of {row['copy_gbs']:.4g} GB/s"


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
