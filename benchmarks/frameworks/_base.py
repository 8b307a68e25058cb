"""What a benchmark asks of a framework, beside what its `Library` tells."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from benchmarks.cases import BOTH, OURS, PLAIN, Case
from benchmarks.inputs import HostInputs
from benchmarks.memory import host_peak
from benchmarks.timers import EventTimer, WallTimer
from unified_loss import cross_entropy, linear_cross_entropy
from unified_loss._libraries import Library

Loss = Callable[..., Any]  # of logits and labels, or of hidden states, a weight and labels
Step = Callable[[], Any]

MODEL = 256  # rows and columns of a product that all cores share


class Inputs(NamedTuple):
    """The arguments of a case as arrays of a framework."""

    logits: Any
    labels: Any
    axis: int
    is_dense: bool
    options: Mapping[str, Any]  # keywords of `cross_entropy`; only those that the case has
    ignores: bool  # some labels mark examples that do not count
    weight: Any = None  # of the layer that makes logits; then `logits` are hidden states
    upstream: Any = None  # what each loss is multiplied by, where they are not reduced

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What a step is called with; the labels come last, and gradients are in the others."""
        if self.weight is None:
            return self.logits, self.labels
        return self.logits, self.weight, self.labels

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but logits and labels."""
        return not (self.options or self.ignores)


def ours(inputs: Inputs) -> Loss:
    """The loss of this library; a plain function as all are, since compilers dislike partials."""
    axis, options, upstream = inputs.axis, inputs.options, inputs.upstream

    def loss(logits: Any, labels: Any) -> Any:
        return cross_entropy(logits, labels, axis=axis, **options)

    def linear(hidden: Any, weight: Any, labels: Any) -> Any:
        return linear_cross_entropy(hidden, weight, labels, **options)

    def of_each(hidden: Any, weight: Any, labels: Any) -> Any:
        losses = linear_cross_entropy(hidden, weight, labels, reduction="none", **options)
        return (losses * upstream).sum()

    if inputs.weight is None:
        return loss
    return linear if upstream is None else of_each


def two_steps(loss: Loss) -> Loss:
    """A loss of hidden states and a weight: the logits, and a loss of them."""
    return lambda hidden, weight, labels: loss(hidden @ weight.T, labels)


class Framework:
    """The methods fit a library whose calls return when they are done."""

    packages: tuple[str, ...] = ()  # whose versions belong to a result
    compiled_modes: tuple[str, ...] = ()
    peers: ClassVar[Mapping[str, Callable[[Inputs], Loss]]] = {}
    overwrites: ClassVar[frozenset[str]] = frozenset()  # the peers that do so with their logits

    def __init__(self, library: Library, device: str) -> None:
        self.library, self.device = library, device

    def compiled(self, function: Loss, mode: str) -> Loss:  # noqa: ARG002
        """The function as the framework's compiler runs it."""
        return self.library.compiled(function)

    def traced(self, loss: Loss, inputs: Inputs, mode: str) -> Step:
        """A step that does what precedes the compilation of loss and gradient, as if for once."""
        raise NotImplementedError

    def wait(self, result: Any) -> None:
        """Return when the result is there."""

    @cached_property
    def timer(self) -> WallTimer | EventTimer:
        """What tells how long calls take."""
        return WallTimer(self.wait)

    @property
    def counts_peaks(self) -> bool:
        """Whether `peak` is that of a call, whatever the process did before."""
        return False

    def copied(self, logits: Any) -> Any:
        """The logits once more."""
        raise NotImplementedError

    def copy(self, inputs: Inputs) -> Step:
        """A step that copies the logits on their device, to where there is room already."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what the framework keeps of earlier cases."""

    def inputs(self, case: Case, host: HostInputs) -> Inputs:
        """The arguments of a case."""
        weights = {"class_weight": host.class_weight, "sample_weight": host.sample_weight}
        numbers = {"label_smoothing": host.label_smoothing, "z_loss": host.z_loss}
        array = self.library.asarray
        options = {k: array(v, "float32") for k, v in weights.items() if v is not None}
        is_dense = case.labels == "dense"
        logits = array(host.logits, case.dtype)
        return Inputs(
            logits if case.layout == "contiguous" else self.laid_out(logits, case),
            array(host.labels, "float32" if is_dense else self.library.index_dtype),
            case.axis,
            is_dense,
            options | {name: number for name, number in numbers.items() if number},
            "ignored" in case.options,
            None if host.weight is None else array(host.weight, case.dtype),
            None if host.upstream is None else array(host.upstream, "float32"),
        )

    def laid_out(self, logits: Any, case: Case) -> Any:
        """The same logits, in memory as the case has them."""
        raise NotImplementedError

    @cached_property
    def factor(self) -> Any:
        """What `multiply` multiplies."""
        return self.library.asarray(np.ones((MODEL, MODEL)), "float32")

    def multiply(self) -> None:
        """A product of matrices, as a model has in front of its loss."""
        self.wait(self.factor @ self.factor)

    def loss(self, name: str, inputs: Inputs) -> Loss:
        """A loss by its name in the table of cases."""
        return ours(inputs) if name in {OURS, PLAIN} else self.peers[name](inputs)

    def step(self, case: Case, name: str, inputs: Inputs) -> Step:
        """One call, as a case wants it; it returns what the call returns."""
        loss = self.loss(name, inputs)
        if case.kind == "tracing":
            return self.traced(loss, inputs, case.mode)
        if name in self.overwrites:
            inputs = inputs._replace(logits=self.copied(inputs.logits))
        return partial(self.assembled(loss, case), *inputs.arrays)

    def assembled(self, loss: Loss, case: Case) -> Loss:
        """The function of a case: differentiated, compiled, both or neither."""
        function = self.differentiated(loss, case) if case.direction == BOTH else loss
        return function if case.mode == "eager" else self.compiled(function, case.mode)

    def differentiated(self, loss: Loss, case: Case) -> Loss:
        """The value, and the gradients in all that is no label."""
        return self.library.value_and_gradients(loss, (0, 1) if case.features else (0,))

    def value(self, result: Any) -> float:
        """The loss in the result of a step."""
        return float(result[0] if isinstance(result, list | tuple) else result)

    def peak(self, step: Step) -> int:
        """The extra bytes that a step takes at its peak, its result included."""
        return host_peak(step)

    def device_name(self) -> str:
        """What computes."""
        return cpu_name()

    def versions(self) -> str:
        """Of all that has part in the numbers."""
        names = ("unified_loss", "numpy", *self.packages)
        found = {"python": platform.python_version()} | dict(_versions(names))
        return "; ".join(f"{name} {version}" for name, version in found.items())


def _versions(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    from unified_loss import __version__

    for name in dict.fromkeys(names):
        try:
            yield name, __version__ if name == "unified_loss" else metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def cpu_name() -> str:
    """The processor, and how many cores of it the process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.exists():
        lines = described.read_text("utf-8").splitlines()
        name = next((n.partition(":")[2].strip() for n in lines if "model name" in n), name)
    return f"{name}, {cores} cores"
