"""Times and peaks of our loss and its peer in turn, in the processes of their frameworks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from statistics import median
from time import perf_counter
from typing import NamedTuple, Self

import numpy as np

from benchmarks import memory, worker
from benchmarks.cases import COMPILED, COPY, FLOAT, OURS, PACKAGES, PLAIN, Case
from benchmarks.frameworks import is_installed
from benchmarks.limits import limit_of
from benchmarks.results import Row, judged
from benchmarks.worker import Worker

MEGABYTE = 10**6
FEW = 3  # rounds are enough for a point of a line
BLOCK_SECONDS = 2e-3  # one measurement takes at least that long, in as many calls as that needs
# Losses in the precision of float32 or better, of at most a billion logits; and those that are
# rounded to bfloat16.
AGREEMENT = 1e-3
AGREEMENT_OF_HALVES = 2e-2


class Effort(NamedTuple):
    """How long to measure one case."""

    seconds: float = 1.0
    least_rounds: int = 5
    most_rounds: int = 100


QUICK = Effort(0.3, 3)
DRAWN = Effort(0.6, 5, 300)  # for a random case
ON_DEVICE = Effort(0.3, 5, 200)  # all of its cases have eight minutes


class DisagreementError(RuntimeError):
    """Two losses that should be the same have different values."""


class Bench:
    """Measures cases, with one process for each framework that they need.

    Parameters
    ----------
    device : {"cpu", "cuda"}
        Where to compute.
    busy : bool
        Whether limits are those for a machine that is doing something else as well.
    effort : Effort
        How long each case may take.

    Examples
    --------
    >>> with Bench(effort=Effort(seconds=0.01, least_rounds=2)) as bench:
    ...     row = bench.row(Case("time", "numpy", (128, 10), "scipy"))
    >>> row["ours_ms"] > 0 and row["peer_ms"] > 0
    True
    """

    def __init__(
        self, device: str = "cpu", *, busy: bool = False, effort: Effort | None = None
    ) -> None:
        self.device = device
        self.busy = busy
        self.effort = effort or Effort()
        self._workers: dict[str, Worker] = {}
        self._described: dict[str, Row] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._workers.values():
            process.close()

    def row(self, case: Case) -> Row:
        """All that is measured of a case; what goes wrong is in its note."""
        found: Row = {
            "case": case.name,
            "kind": case.kind,
            "framework": case.framework,
            "mode": case.mode,
            "direction": case.direction,
            "shape": "x".join(map(str, case.shape)),
            "axis": case.axis,
            "dtype": case.dtype,
            "layout": case.layout,
            "labels": case.labels,
            "options": "+".join(case.options),
            "peer": case.peer,
            "logits_mb": case.logits_bytes / MEGABYTE,
            "date": datetime.now(UTC).date().isoformat(),
        }
        homes = {case.home(name) for name in (OURS, case.peer)}
        missing = [home for home in sorted(homes) if not is_installed(home)]
        if (package := PACKAGES.get(case.peer)) and find_spec(package) is None:
            missing.append(package)
        if missing:
            return found | {"note": f"not installed: {', '.join(missing)}"}
        try:
            found |= self._description(homes) | self._times(case)
            if case.memory:
                found |= self._peaks(case)
        except Exception as error:  # noqa: BLE001 (one case must not stop the others)
            self._restart()
            text = " ".join(str(error).split())
            found["note"] = f"{type(error).__name__}: {text[:200]}"
        return judged(found, limit_of(case, busy=self.busy))

    def _restart(self) -> None:
        """A process that ran out of memory is gone, one that failed may be in any state."""
        for process in self._workers.values():
            process.close()
        self._workers.clear()

    def _worker(self, framework: str) -> Worker:
        if framework not in self._workers:
            self._workers[framework] = Worker(framework, self.device)
        return self._workers[framework]

    def _description(self, homes: set[str]) -> Row:
        """The device of the first, and the versions of all."""
        for framework in homes - self._described.keys():
            self._described[framework] = self._worker(framework).call(worker.described)
        found = [self._described[framework] for framework in sorted(homes)]
        versions = dict.fromkeys(v for each in found for v in each["versions"].split("; "))
        return found[0] | {"versions": "; ".join(versions)}

    def _times(self, case: Case) -> Row:
        names = _affordable(case)
        homes = {name: self._worker(case.home(name)) for name in names}
        for process in set(self._workers.values()):
            process.call(worker.forget, case)
        values = [homes[name].call(worker.prepare, case, name) for name in names]
        _check_agreement(case, values)
        if case.kind == "grid":
            return _quartiles(*self._after_products(names, homes))
        least = self.effort.least_rounds
        if case.kind == "scaling":
            least = min(least, FEW)
        if case.kind == "device":
            homes[COPY] = homes[OURS]
            homes[COPY].call(worker.prepare_copy, case)
        seconds = self._in_turn(homes, least)
        ours, *others = (median(seconds[name]) * 1e3 for name in names)
        times: Row = {"ours_ms": ours, "rounds": len(seconds[OURS])}
        for peer in others:
            times |= {"peer_ms": peer, "ratio": ours / peer, "added_us": (ours - peer) * 1e3}
        if COPY in seconds:
            copied = 2 * case.logits_bytes / median(seconds[COPY])
            times |= {"ours_gbs": case.moved_bytes / ours / 1e6, "copy_gbs": copied / 1e9}
        return times

    def _in_turn(self, homes: dict[str, Worker], least: int) -> dict[str, list[float]]:
        """A B A B: what happens to the machine happens to both."""
        numbers = {
            name: home.call(worker.calls_in, name, BLOCK_SECONDS) for name, home in homes.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in homes}
        end = perf_counter() + self.effort.seconds
        for rounds in range(self.effort.most_rounds):
            if rounds >= least and perf_counter() > end:
                break
            for name, home in homes.items():
                seconds[name].append(home.call(worker.seconds, name, numbers[name]))
        return seconds

    def _after_products(
        self, names: Sequence[str], homes: dict[str, Worker]
    ) -> tuple[list[float], ...]:
        """Of random cases, whose losses run in one process."""
        found = homes[OURS].call(worker.in_turns, names, *self.effort)
        return tuple(found)

    def _peaks(self, case: Case) -> Row:
        if self.device == "cpu" and not memory.is_measurable():
            return {}
        columns = {OURS: "ours_mb", case.peer: "peer_mb"}
        return {
            columns[name]: (self._peak(case, name) - case.result_bytes) / MEGABYTE
            for name in _affordable(case)
        }

    def _peak(self, case: Case, name: str) -> int:
        if self._worker(case.home(name)).call(worker.counts_peaks):
            return self._worker(case.home(name)).call(worker.peak_bytes_here, name)
        process = Worker(case.home(name), self.device)
        try:
            return process.call(worker.peak_bytes, case, name)
        finally:
            process.close()


def _affordable(case: Case) -> tuple[str, ...]:
    """The losses whose arrays fit into the memory that is left: ours, and if it does the peer.

    A peer has up to four arrays of the logits' size, and in a process of its own it has them
    beside our two.
    """
    arrays = 4.0 if case.home(case.peer) == case.framework else 6.2
    if arrays * case.logits_bytes < memory.available():
        return OURS, case.peer
    return (OURS,)


def _quartiles(ours: Sequence[float], peer: Sequence[float]) -> Row:
    """Medians and lower quartiles, and the ratios of both."""
    found: Row = {"rounds": len(ours)}
    for name, share in (("", 50), ("low_", 25)):
        mine, other = (float(np.percentile(each, share)) * 1e3 for each in (ours, peer))
        found |= {f"ours_{name}ms": mine, f"peer_{name}ms": other, f"{name}ratio": mine / other}
    return found


def _check_agreement(case: Case, values: Sequence[float]) -> None:
    """Speed at another task would say nothing. An option changes the value, and is meant to."""
    if case.peer == PLAIN:
        return
    is_rounded = case.dtype == "bfloat16" and case.peer not in {FLOAT, COMPILED}
    tolerance = AGREEMENT_OF_HALVES if is_rounded else AGREEMENT
    if not all(math.isclose(value, values[0], rel_tol=tolerance) for value in values):
        message = f"{case.name}: the losses are {values}"
        raise DisagreementError(message)


@contextmanager
def kept_busy() -> Iterator[BaseProcess]:
    """A process that keeps one core at work, as a loader of training data does."""
    process = get_context("spawn").Process(target=_work, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join()


def _work() -> None:
    block = np.linspace(0, 1, 2**16)
    while True:
        np.exp(block)
        sum(range(2**12))
