"""The command line: ``python -m benchmarks``."""

import argparse
import fnmatch
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter

from benchmarks import grid, imports, results
from benchmarks.cases import NATIVE, ON_ACCELERATORS, Case, all_cases, is_quick
from benchmarks.draws import MODES, drawn
from benchmarks.measure import DRAWN, ON_DEVICE, QUICK, Bench, Effort, kept_busy
from benchmarks.plots import HERE as PLOTS
from benchmarks.plots import draw_all
from benchmarks.report import report
from benchmarks.results import Row

ON_DEVICE_SECONDS = 440


def parser() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    command = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    command.add_argument(
        "action",
        nargs="?",
        choices=("run", "plot", "report", "list"),
        default="run",
        help="run measures, plots and reports; the others take the numbers that are there",
    )
    command.add_argument("--quick", action="store_true", help="a selection, in about two minutes")
    command.add_argument(
        "--only",
        action="append",
        choices=(*NATIVE, "import"),
        metavar="FRAMEWORK",
        help=f"measure this framework (repeatable): {', '.join((*NATIVE, 'import'))}",
    )
    command.add_argument(
        "--case", metavar="PATTERN", help="measure cases whose name matches, as in '*xla*16384x*'"
    )
    command.add_argument(
        "--grid", action="store_true", help="cases drawn at random in place of those of the table"
    )
    command.add_argument("--seed", type=int, default=0, help="what they are drawn by")
    command.add_argument("--cases", type=int, default=200, help="how many for each framework")
    command.add_argument("--seconds", type=float, help="begin no case after that time")
    command.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help=f"cuda has cases of its own, and {ON_DEVICE_SECONDS} seconds",
    )
    command.add_argument(
        "--tiny", action="store_true", help="the same cases on a few logits, to try the command"
    )
    command.add_argument("--busy", action="store_true", help="while one core has other work")
    command.add_argument("--results", type=Path, default=results.HERE, metavar="FOLDER")
    command.add_argument("--plots", type=Path, default=PLOTS, metavar="FOLDER")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Returns
    -------
    int
        The exit status: 0, or 1 if no case was chosen.
    """
    options = parser().parse_args(arguments)
    if options.grid:
        return random_cases(options)
    cases = selected(options)
    if options.action == "list":
        print(*(case.name for case in cases), sep="\n")
        return int(not cases)
    if options.action == "run":
        with_import = options.case is None and (not options.only or "import" in options.only)
        if not cases and not with_import:
            print("no case matches", file=sys.stderr)
            return 1
        run(cases, options, with_import=with_import)
    rows = results.read_all(options.device, busy=options.busy, folder=options.results)
    random = random_rows(options.results)
    if options.action != "report" and options.device == "cpu" and not options.busy:
        print(*draw_all(rows, random, options.plots), sep="\n")
    print(report(rows))
    print(grid.text(random))
    return 0


def random_cases(options: argparse.Namespace) -> int:
    """The same for random cases, whose rows of earlier runs are no longer wanted."""
    frameworks = [name for name in MODES if name in (options.only or MODES)]
    cases = {name: drawn(name, options.cases, options.seed) for name in frameworks}
    if not any(cases.values()):
        return 1
    if options.action == "list":
        print(*(case.name for each in cases.values() for case in each), sep="\n")
        return 0
    if options.action == "run":
        end = None if options.seconds is None else perf_counter() + options.seconds
        for name, each in cases.items():
            measure_drawn(each, results.grid_folder(options.results) / f"{name}.csv", options, end)
    random = random_rows(options.results)
    if options.action != "report":
        print(*draw_all([], random, options.plots), sep="\n")
    print(grid.text(random))
    return 0


def measure_drawn(
    cases: Sequence[Case], file: Path, options: argparse.Namespace, end: float | None
) -> None:
    """Measure the random cases of one framework, until a time has come."""
    file.unlink(missing_ok=True)
    with Bench(effort=DRAWN) as bench:
        for count, case in enumerate(cases, 1):
            if end is not None and perf_counter() > end:
                return
            row = bench.row(case) | {"seed": options.seed}
            results.write([row], file, results.GRID_COLUMNS)
            print(f"[{count}/{len(cases)}] {_summary(row)}", flush=True)


def random_rows(folder: Path) -> list[Row]:
    """The rows of all random cases that were measured."""
    files = (results.grid_folder(folder) / f"{name}.csv" for name in MODES)
    return [row for file in files for row in results.read(file)]


def selected(options: argparse.Namespace) -> list[Case]:
    """The cases that the command line asks for."""
    on_device = set(ON_ACCELERATORS) if options.device == "cuda" else set(NATIVE) - {"cupy"}
    wanted = on_device & set(options.only or NATIVE)
    chosen = (
        case
        for case in all_cases(options.device)
        if {case.home(case.peer), case.framework} <= on_device
        and case.framework in wanted
        and (not options.quick or is_quick(case))
        and (not options.case or fnmatch.fnmatch(case.name, options.case))
    )
    return list(dict.fromkeys(case.small() if options.tiny else case for case in chosen))


def run(cases: Sequence[Case], options: argparse.Namespace, *, with_import: bool) -> None:
    """Measure cases, and enter each into the file of its framework as soon as it is done."""
    effort = ON_DEVICE if options.device != "cpu" else Effort()
    effort = QUICK if options.quick else effort
    columns = results.columns_of(options.device)
    with kept_busy() if options.busy else nullcontext():
        for count, row in enumerate(_rows(cases, options, effort, with_import=with_import), 1):
            where = (row["framework"], options.device)
            file = results.file_of(*where, busy=options.busy, folder=options.results)
            results.write([row], file, columns)
            print(f"[{count}/{len(cases) + with_import}] {_summary(row)}", flush=True)


def _rows(
    cases: Sequence[Case], options: argparse.Namespace, effort: Effort, *, with_import: bool
) -> Iterator[Row]:
    if with_import:
        yield imports.row(effort.least_rounds * 2)
    limit = options.seconds
    if limit is None:
        limit = math.inf if options.device == "cpu" else ON_DEVICE_SECONDS
    end = perf_counter() + limit
    # A process for each framework at a time, and no idle ones beside it.
    for framework in dict.fromkeys(case.framework for case in cases):
        with Bench(options.device, busy=options.busy, effort=effort) as bench:
            for case in cases:
                if case.framework == framework and perf_counter() < end:
                    yield bench.row(case)


def _summary(row: Row) -> str:
    if row.get("ours_ms") is None:
        return f"{row['case']}: {row['note']}"
    ratio = "" if row.get("ratio") is None else f", {row['ratio']:.3g}x"
    peak = "" if row.get("ours_mb") is None else f", {row['ours_mb']:.4g} MB"
    speed = "" if row.get("copy_gbs") is None else f", {results.bandwidth(row)}"
    mark = " !" if row["holds"] == "no" else ""  # over its limit
    return f"{row['case']}: {row['ours_ms']:.4g} ms{ratio}{peak}{speed}{mark}"


if __name__ == "__main__":
    raise SystemExit(main())
