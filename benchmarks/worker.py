"""A process of one framework: it prepares losses and times or weighs them when told to."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from benchmarks.cases import COPY, PLAIN, Case
from benchmarks.inputs import host_inputs

if TYPE_CHECKING:
    from benchmarks.frameworks._base import Framework, Inputs, Step

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """A process that has one framework, and answers calls one at a time."""

    def __init__(self, framework: str, device: str) -> None:
        self._process = ProcessPoolExecutor(
            1, get_context("spawn"), initializer=Desk.open, initargs=(framework, device)
        )

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a function of this module, run there."""
        return self._process.submit(function, *args, **kwargs).result()

    def close(self) -> None:
        """End the process."""
        self._process.shutdown(cancel_futures=True)


class Desk:
    """What lies before a worker."""

    framework: ClassVar["Framework"]
    prepared: ClassVar["dict[Case, Inputs]"] = {}
    steps: ClassVar["dict[str, Step]"] = {}

    @classmethod
    def open(cls, framework: str, device: str) -> None:
        """Import the framework, on one device."""
        if device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["JAX_PLATFORMS"] = device
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # or all memory is in use at once
        from benchmarks.frameworks import load

        cls.framework = load(framework, device)

    @classmethod
    def inputs(cls, case: Case) -> "Inputs":
        """The arguments of a case; two losses of one case share them."""
        if case.data not in cls.prepared:
            cls.prepared[case.data] = cls.framework.inputs(case, host_inputs(case))
        return cls.prepared[case.data]

    @classmethod
    def step(cls, case: Case, loss: str) -> "Step":
        """One call of a loss."""
        if loss == PLAIN:
            case = case._replace(options=())
        return cls.framework.step(case, loss, cls.inputs(case))


def forget(case: Case) -> None:
    """Free what belongs to the cases before, and not to this one."""
    Desk.steps.clear()
    kept = {data: inputs for data, inputs in Desk.prepared.items() if data == case.data}
    Desk.prepared.clear()
    Desk.prepared.update(kept)
    Desk.framework.forget()


def prepare_copy(case: Case) -> None:
    """Make ready what a loss is compared with: the logits copied on their device."""
    Desk.steps[COPY] = Desk.framework.copy(Desk.inputs(case))


def prepare(case: Case, loss: str) -> float:
    """Make a loss ready to be timed, and return its value."""
    step = Desk.step(case, loss)
    result = step()
    Desk.framework.wait(result)
    Desk.steps[loss] = step
    return Desk.framework.value(result)


def seconds(loss: str, number: int) -> float:
    """The time of one call, over `number` of them one after the other."""
    return Desk.framework.timer.seconds(Desk.steps[loss], number)


def in_turns(losses: Sequence[str], duration: float, least: int, most: int) -> list[list[float]]:
    """The times of single calls of some losses, in turns.

    Each follows a product of matrices: a loss follows a model, whose threads still spin.
    """
    framework = Desk.framework
    found: list[list[float]] = [[] for _ in losses]
    end = perf_counter() + duration
    for rounds in range(most):
        if rounds >= least and perf_counter() > end:
            break
        for loss, times in zip(losses, found, strict=True):
            step, wait = Desk.steps[loss], framework.wait
            framework.multiply()
            start = perf_counter()
            wait(step())
            times.append(perf_counter() - start)
    return found


def calls_in(loss: str, duration: float) -> int:
    """How many calls fit into some seconds, at least one."""
    once = seconds(loss, 1)
    if once < duration:  # the first one may be slow still
        once = min(once, seconds(loss, 1))
    return max(1, math.ceil(duration / max(once, 1e-9)))


def peak_bytes(case: Case, loss: str) -> int:
    """The extra memory of one call at its peak, in a process that did nothing else.

    On a CPU, a compiler's own memory does not count: the call has run before. Elsewhere what has
    run before is a smaller call, which loads the same libraries; if the framework or the loss
    keeps memory for later calls, it counts. XLA in TensorFlow keeps all, so that its second call
    seems to take nothing: the table of cases does not ask for it.
    """
    framework = Desk.framework
    compiles = framework.device == "cpu" and case.mode in framework.compiled_modes
    step = Desk.step(case, loss)
    rehearsal = step if compiles else Desk.step(case.small(), loss)
    for _ in range(2):  # the second call may compile once more
        framework.wait(rehearsal())
    return framework.peak(step)


def counts_peaks() -> bool:
    """Whether `peak_bytes_here` tells the memory of a call alone."""
    return Desk.framework.counts_peaks


def peak_bytes_here(loss: str) -> int:
    """The same in this process, whose framework counts each call's memory by itself."""
    return Desk.framework.peak(Desk.steps[loss])


def described() -> dict[str, Any]:
    """The columns that say what computes."""
    return {
        "device": Desk.framework.device_name(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all cores"),
        "versions": Desk.framework.versions(),
    }
