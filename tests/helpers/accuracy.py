"""R20 as one assertion: at most the native error plus 4 ulp of the larger magnitude."""

import sys
from typing import Any, Literal

import numpy as np

from tests.helpers.backends import Backend
from tests.helpers.problems import Array, Problem
from tests.helpers.reference import Result, evaluate

PRECISIONS = {"float16": (10, -24), "bfloat16": (7, -133), "float32": (23, -149)}
PRECISIONS["float64"] = (52, -1074)


def compute_dtype(dtype: str) -> str:
    """R20: what a loss of logits of this dtype is computed and returned in."""
    return "float64" if dtype == "float64" else "float32"


def ulp(magnitude: Any, dtype: str) -> Array:
    """The distance from `magnitude` to the next number of a dtype."""
    bits, smallest = PRECISIONS[dtype]
    exponent = np.frexp(np.asarray(magnitude, np.float64))[1] - 1
    return np.ldexp(1.0, np.maximum(exponent - bits, smallest))


def assert_close(
    ours: Array, truth: Array, dtype: str, *, scale: Any = 0.0, native: Any = None, ulps: float = 4
) -> None:
    """Equal shape, NaN and inf; the rest within the worst native error in ulp, plus `ulps`."""
    ours, truth = np.asarray(ours), np.asarray(truth)
    assert ours.shape == truth.shape
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(
        np.where(finite, 0, ours), np.where(finite, 0, truth), "where the reference is not finite"
    )
    shown = {"ours": ours, "truth": truth}
    assert np.isfinite(ours[finite]).all(), shown
    with np.errstate(invalid="ignore"):
        error = np.abs(ours - truth)
        magnitude = np.maximum(np.maximum(np.abs(ours), np.abs(truth)), scale)
        unit = ulp(np.where(finite, magnitude, 0), dtype)
        if native is not None:
            native_ulps = np.abs(native - truth) / unit
            ulps += np.max(native_ulps[np.isfinite(native_ulps)], initial=0)
        bound = ulps * unit
    assert (error <= bound)[finite].all(), shown | {"error": error, "bound": bound}


def assert_accurate(
    ours: Array,
    problem: Problem,
    dtype: str,
    what: Literal["loss", "gradient"] = "loss",
    *,
    backend: Backend | None = None,
) -> None:
    """R20: hold a loss, or a gradient in the logits, of logits of `dtype` to the reference.

    With a backend, the native error is that of the backend's own arithmetic, where it has one;
    torch has a loss of its own.
    """
    truth, compute, own = evaluate(problem), compute_dtype(dtype), None
    if backend is not None and backend.name != "torch" and what == "loss":
        own = native_loss(problem, compute, backend)
    assert_close(
        ours,
        getattr(truth, what),
        compute if what == "loss" else dtype,
        scale=getattr(truth, f"{what}_scale"),
        native=getattr(native_result(problem, compute), what) if own is None else own,
    )


def native_loss(problem: Problem, dtype: str, backend: Backend) -> Array:
    """The loss of a problem without options, all its sums done by the backend."""
    dense = problem.one_hot() if problem.has_index_labels else problem
    x, t = (
        np.moveaxis(values, problem.class_axis, -1).astype(dtype)
        for values in (problem.logits, dense.labels)
    )
    x = x - x.max(-1, keepdims=True)
    log_p = x - np.log(backend.summed(np.exp(x), -1))[..., None]
    losses = backend.summed(-t * log_p, -1)
    if problem.reduction == "none":
        return losses
    divisor = losses.size if problem.reduction == "mean" else 1
    return backend.summed(losses, None) / np.array(divisor, dtype)


def native_result(problem: Problem, dtype: str) -> Result:
    """The framework's own loss: torch's in float32 where it can say it, else the plain formula."""
    if dtype == "float32" and "torch" in sys.modules and torch_can_say(problem):
        return torch_result(problem)
    return evaluate(problem, getattr(np, dtype))


def torch_result(problem: Problem) -> Result:
    """`torch.nn.functional.cross_entropy` in float32."""
    import torch

    def rows(values: Array) -> Any:
        moved = np.moveaxis(values, problem.class_axis, -1).reshape(-1, problem.num_classes)
        return torch.tensor(moved, dtype=torch.float32)

    logits, weight = rows(problem.logits).requires_grad_(), problem.class_weight
    index = problem.has_index_labels
    loss = torch.nn.functional.cross_entropy(
        logits,
        torch.tensor(problem.ids.reshape(-1), dtype=torch.int64) if index else rows(problem.labels),
        weight=None if weight is None else torch.tensor(weight, dtype=torch.float32),
        reduction=problem.reduction,
        label_smoothing=float(problem.label_smoothing),
    )
    loss.sum().backward()
    shape = (*problem.batch_shape, problem.num_classes)
    return Result(
        loss.detach().numpy().reshape(problem.batch_shape if problem.reduction == "none" else ()),
        np.moveaxis(logits.grad.numpy().reshape(shape), -1, problem.class_axis),
        np.array(0),
        np.array(0),
    )


def torch_can_say(problem: Problem) -> bool:
    """Whether torch means the same by a call, and can express it."""
    unsaid = problem.sample_weight is not None or problem.z_loss or problem.normalizer is not None
    if unsaid or not problem.logits.size:
        return False
    if not problem.has_index_labels:
        # torch smooths as if rows summed to 1, and divides by N whatever the class weights.
        weighted_mean = problem.reduction == "mean" and problem.class_weight is not None
        return not weighted_mean and not problem.label_smoothing
    ids = problem.ids.astype(object)
    if problem.ignore_index != -100 and np.any((ids == -100) | (ids == problem.ignore_index)):
        return False
    return bool(np.all((ids == -100) | ((ids >= 0) & (ids < problem.num_classes))))


def assert_everything(backend: Backend, mode: str, problem: Problem, dtype: str) -> None:
    """Loss and gradient are the reference's; the closed form too, unless that means compiling."""
    assert_accurate(backend.loss(problem, dtype, mode), problem, dtype)
    if backend.has_autodiff:
        (slope,) = backend.gradients(problem, dtype, mode)
        assert_accurate(slope, problem, dtype, "gradient")
    if not backend.has_autodiff or mode not in backend.compiles:
        loss, slope = backend.closed_form(problem, dtype, mode)
        assert_accurate(loss, problem, dtype)
        assert_accurate(slope, problem, dtype, "gradient")
