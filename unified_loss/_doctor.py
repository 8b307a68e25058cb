"""`doctor`: what is installed, whether it computes the right numbers, and with which kernel."""

import argparse
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from unified_loss import _libraries as libraries
from unified_loss._cross_entropy import cross_entropy, cross_entropy_with_grad, kernel_of
from unified_loss._libraries import HostArray, Library
from unified_loss._types import Array

EPS = {"bfloat16": 2**-7, "float16": 2**-10, "float32": 2**-23, "float64": 2**-52}
SLACK = 8  # an error of this many EPS, relative to the largest number, is rounding
HEADINGS = ("case", "kernel", "loss", "gradient", "autodiff")
IGNORED = -100


class Case(NamedTuple):
    """One kind of call."""

    name: str
    shape: tuple[int, ...] = (16, 10)
    axis: int = -1
    dtype: str = "float32"
    dense: bool = False
    padded: bool = False
    weighted: bool = False
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def loss_tolerance(self) -> float:
        """The largest error of the loss that passes for rounding."""
        return SLACK * min(EPS[self.dtype], EPS["float32"])

    @property
    def gradient_tolerance(self) -> float:
        """The same for the gradient, which comes back in the dtype of the logits."""
        return max(self.loss_tolerance, EPS[self.dtype])


CASES = (
    Case("index labels"),
    Case("index labels, many classes", shape=(64, 50_000)),
    Case("index labels, classes on axis 1", shape=(2, 10, 4, 3), axis=1),
    Case("index labels, padded", padded=True),
    Case("index labels, class weights", weighted=True),
    Case("index labels, smoothed", options={"label_smoothing": 0.1}),
    Case("dense labels", dense=True),
    Case("dense labels, many classes", shape=(64, 50_000), dense=True),
    Case("float16", dtype="float16"),
    Case("bfloat16", dtype="bfloat16"),
    Case("float64", dtype="float64"),
)


class Call(NamedTuple):
    """The float64 arrays of a case."""

    logits: HostArray
    labels: HostArray
    label_rows: HostArray  # the labels once more: dense, with the classes on the last axis
    class_weight: HostArray | None


class Finding(NamedTuple):
    """What a case gave: a line of the table, and whether it is right."""

    cells: tuple[str, ...]
    right: bool


def add_command(commands: Any) -> None:
    """Add `doctor` to the command line."""
    parser = commands.add_parser(
        "doctor",
        help="check every installed library, and show which kernel serves which case",
        description="Checks loss and gradient of every installed library against a float64 "
        "reference, and shows its version, its device and the kernel that serves each case. "
        "Exits with 1 if a library disagrees or cannot be imported.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    """Examine every installed library."""
    installed = tuple(libraries.installed_names())
    print("Errors are relative to a float64 reference.\n")
    healthy = [examine(name) for name in installed]
    missing = [name for name in libraries.known_names() if name not in installed]
    if missing:
        print(f"not installed: {', '.join(missing)}")
    print(f"{sum(healthy)} of {len(installed)} installed libraries are right.")
    return 0 if all(healthy) else 1


def examine(name: str) -> bool:
    """Print a library's table; whether everything in it is right."""
    try:
        library = libraries.load(name)
    except Exception as error:  # noqa: BLE001 - an import can fail in any way
        print(f"{name}: CANNOT BE IMPORTED\n  {_one_line(error)}\n")
        return False
    findings = [check(library, case) for case in CASES if library.has_dtype(case.dtype)]
    right = all(finding.right for finding in findings)
    device = library.device(library.asarray(np.zeros(1), "float32"))
    print(f"{name} {library.version} on {device}: {'ok' if right else 'WRONG'}")
    print(_table([HEADINGS, *(finding.cells for finding in findings)]))
    return right


def check(library: Library, case: Case) -> Finding:
    """Hold loss and gradient of one case to the reference."""
    call = _call(case)
    true_loss, true_gradient = reference(call, case)
    try:
        logits = library.asarray(call.logits, case.dtype)
        labels = library.asarray(call.labels, "float32" if case.dense else "int32")
        options = {"axis": case.axis, "class_weight": call.class_weight, **case.options}

        def loss_of(logits: Array) -> Array:
            return cross_entropy(logits, labels, **options)

        kernel = kernel_of(logits, labels, **options)
        loss = loss_of(logits)
        gradients = [cross_entropy_with_grad(logits, labels, **options)[1]]
        if library.has_autodiff:
            gradients += library.value_and_gradients(loss_of)(logits)[1]
        loss_error = _error(library.to_numpy(loss), true_loss)
        gradient_errors = [_error(library.to_numpy(found), true_gradient) for found in gradients]
    except Exception as error:  # noqa: BLE001 - a finding like any other
        return Finding((case.name, _one_line(error)), right=False)
    right = loss_error <= case.loss_tolerance and all(
        error <= case.gradient_tolerance for error in gradient_errors
    )
    errors = [f"{error:.0e}" for error in (loss_error, *gradient_errors)]
    return Finding((case.name, kernel, *errors, *([] if right else ["WRONG"])), right)


def reference(call: Call, case: Case) -> tuple[HostArray, HostArray]:
    """Mean loss and its gradient in float64, straight from the definition."""
    logits = np.moveaxis(call.logits, case.axis, -1)
    weight = np.ones(logits.shape[-1]) if call.class_weight is None else call.class_weight
    smoothing = case.options.get("label_smoothing", 0.0)
    uniform = call.label_rows.sum(axis=-1, keepdims=True) / logits.shape[-1]
    target = weight * ((1 - smoothing) * call.label_rows + smoothing * uniform)
    mass = (weight * call.label_rows).sum()

    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    gradient = target.sum(axis=-1, keepdims=True) * np.exp(log_softmax) - target
    return -(target * log_softmax).sum() / mass, np.moveaxis(gradient / mass, -1, case.axis)


def _call(case: Case) -> Call:
    """Random inputs, all of them numbers that every dtype holds exactly."""
    draw = np.random.default_rng(0)
    num_classes = case.shape[case.axis]
    logits: HostArray = draw.integers(-16, 17, case.shape) / 4
    labels: HostArray = draw.integers(0, num_classes, np.moveaxis(logits, case.axis, -1).shape[:-1])
    label_rows = np.zeros((*labels.shape, num_classes))
    np.put_along_axis(label_rows, labels[..., None], 1.0, axis=-1)
    if case.dense:
        label_rows = (label_rows + np.roll(label_rows, 1, axis=-1)) / 2
        labels = np.moveaxis(label_rows, -1, case.axis)
    if case.padded:
        label_rows[::2] = 0
        labels[::2] = IGNORED
    class_weight = draw.integers(1, 9, num_classes) / 4 if case.weighted else None
    return Call(logits, labels, label_rows, class_weight)


def _error(found: HostArray, true: HostArray) -> float:
    """The largest error relative to the largest number; NaN if there is a NaN."""
    return float(np.abs(found - true).max() / np.abs(true).max())


def _one_line(error: Exception) -> str:
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    case_width = max(len(case) for case, *_ in rows)
    kernel_width = max(len(kernel) for _, kernel, *errors in rows if errors)
    return "".join(
        f"  {case:{case_width}}  {kernel:{kernel_width}}"
        + "".join(f"{error:>10}" for error in errors)
        + "\n"
        for case, kernel, *errors in rows
    )
