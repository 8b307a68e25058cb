"""The contract's formulas, one example at a time, sharing no code with the package."""

from typing import Any, NamedTuple

import numpy as np

from tests.helpers.problems import Array, Problem


class Result(NamedTuple):
    """A loss and its gradient, and the magnitude of the terms that each is summed from."""

    loss: Array
    gradient: Array  # of the summed loss, in the logits
    loss_scale: Array
    gradient_scale: Array


class Example(NamedTuple):
    """R10 to R13 for one example."""

    loss: Any
    gradient: Array
    mass: Any
    loss_scale: Any = 0.0
    gradient_scale: Any = 0.0


def evaluate(problem: Problem, dtype: Any = np.longdouble) -> Result:
    """What the contract says of a call."""
    axis, classes, batch = problem.class_axis, problem.num_classes, problem.batch_shape
    logits = np.moveaxis(problem.logits, axis, -1).reshape(-1, classes).astype(dtype)
    if problem.has_index_labels:
        labels = problem.ids.reshape(-1)
    else:
        labels = np.moveaxis(problem.labels, axis, -1).reshape(-1, classes).astype(dtype)
    weights = problem.example_weights().reshape(-1).astype(dtype)
    with np.errstate(all="ignore"):
        examples = [
            _example(problem, dtype, *row) for row in zip(logits, labels, weights, strict=True)
        ]
        return _reduced(problem, dtype, examples, batch, axis)


def total_mass(problem: Problem) -> float:
    """R12: what the mean divides by."""
    ones = problem.but(logits=np.zeros_like(problem.logits), reduction="sum", z_loss=0.0)
    halves = (ones.but(z_loss=z) for z in (1.0, 0.0))
    loaded, plain = (evaluate(each).loss for each in halves)
    return float((loaded - plain) / np.log(np.longdouble(problem.num_classes)) ** 2)


def _example(problem: Problem, dtype: Any, x: Array, label: Any, s: Any) -> Example:
    classes, zero, nothing = len(x), dtype(0), np.zeros_like(x)
    t = label
    if problem.has_index_labels:
        if s == 0 or int(label) == problem.ignore_index:
            return Example(zero, nothing, zero)
        if not 0 <= int(label) < classes:
            return Example(dtype(np.nan), nothing + dtype(np.nan), s)
        t = np.zeros_like(x)
        t[int(label)] = 1
    w = np.ones_like(x) if problem.class_weight is None else problem.class_weight.astype(dtype)
    epsilon, z = dtype(problem.label_smoothing), dtype(problem.z_loss)
    k = w * ((1 - epsilon) * t + t.sum() * epsilon / dtype(classes))
    w_t = (w * t).sum()
    if s == 0 or (w_t == 0 and not k.any()):
        return Example(zero, nothing, zero)
    mass = s if problem.class_weight is None else s * w_t
    peak = x.max()
    log_sum = np.log(np.exp(x - peak).sum())
    lse, log_p = peak + log_sum, x - peak - log_sum
    p = np.exp(log_p)
    terms = np.where(k == 0, np.where(np.isnan(log_p), log_p, 0), -k * log_p)
    loss = s * terms.sum()
    gradient = s * (k.sum() * p - k)
    reach = np.maximum(1, np.where(np.isfinite(log_p), np.abs(log_p), 1))
    loss_scale = np.abs(s) * (np.abs(k) * reach).sum()
    gradient_scale = np.abs(s) * np.abs(k).sum()
    if z:
        loss = loss + mass * z * lse**2
        gradient = gradient + 2 * mass * z * lse * p
        loss_scale = loss_scale + np.abs(mass) * z * lse**2
        gradient_scale = gradient_scale + 2 * np.abs(mass) * z * np.abs(lse)
    return Example(loss, gradient, mass, loss_scale, gradient_scale)


def _reduced(
    problem: Problem, dtype: Any, examples: list[Example], batch: tuple[int, ...], axis: int
) -> Result:
    columns = zip(*examples, strict=True) if examples else [[]] * len(Example._fields)
    losses, gradients, masses, loss_scales, gradient_scales = (
        np.array(list(column), dtype) for column in columns
    )
    gradients = gradients.reshape(-1, problem.num_classes)
    divisor = dtype(1)
    if problem.reduction == "mean":
        total = masses.sum()
        if total == 0:
            losses, gradients = np.zeros_like(losses), np.zeros_like(gradients)
        else:
            divisor = total if problem.normalizer is None else dtype(problem.normalizer)
    if problem.reduction == "none":
        loss, loss_scale = losses.reshape(batch), loss_scales.reshape(batch)
    else:
        loss, loss_scale = losses.sum() / divisor, loss_scales.sum() / np.abs(divisor)
    shape = (*batch, problem.num_classes)
    return Result(
        np.asarray(loss),
        np.moveaxis((gradients / divisor).reshape(shape), -1, axis),
        np.asarray(loss_scale),
        np.expand_dims((gradient_scales / np.abs(divisor)).reshape(batch), axis),
    )


def central_differences(
    problem: Problem, name: str, function: Any = None, step: float = 1e-5
) -> Array:
    """The derivative of the summed loss in one array argument, by finite differences."""

    def default(changed: Problem) -> Any:
        return evaluate(changed).loss

    function = function or default
    values = getattr(problem, name)
    wide = values.astype(np.longdouble if function is default else np.float64)
    slopes = np.zeros(values.shape)
    for position in np.ndindex(values.shape):
        ends = []
        for sign in (1, -1):
            moved = wide.copy()
            moved[position] += sign * step
            ends.append((moved[position], np.sum(function(problem.but(**{name: moved})))))
        (right, high), (left, low) = ends
        slopes[position] = (high - low) / (right - left)
    return slopes
