"""From row statistics to the loss and its gradient: the arithmetic, written once for all backends.

With m the maximum of a row of logits x, f = x - m, t its label row, w the class weights, and
K = w t (index labels: w_y at the label), a kernel computes

    l = log sum exp f        p = sum K f (index labels: f_y)        q = sum w f

and, with eps the label smoothing and the coefficients M = sum K, T = sum t, W = sum w, one example
costs A l - (1 - eps) p - (eps / C) T q, where A = (1 - eps) M + (eps / C) T W. Where K is of
`smoothed` labels, p has the part of q as well, and q is None.

A zero coefficient times anything is 0, so a factor f of -inf is replaced by 0 where its
coefficient is 0. The coefficients stay as they are: they carry the gradients of labels and
weights. Every array of this module keeps the class axis, with one entry where an array holds one
number an example, so everything broadcasts at equal rank.

Five kernels compute statistics, each in the way that is fast for it:

    row_statistics                      m, l, p, q, with care for what is not finite
    NumpyOps.plain_exponentials         the same, right where all is finite; NumPy's blocks
    _torch_blocks.plain_statistics      by log-softmax: l is 0, f are log-probabilities, and m
                                        is lse, or None where nothing asks for it
    _tensorflow_statistics              like `row_statistics`, with a backward made by hand;
                                        without options l is l - p, and p None
    _numpy_short                        those of few logits, right where all is finite
"""

from typing import Any, NamedTuple

from unified_loss._examples import (
    Examples,
    either,
    examples_and_divisor,
    has_smoothed_labels,
)
from unified_loss._ops import INFINITY, Factors, KernelOps, Ops
from unified_loss._types import Array, Operands, Plan


class Statistics(NamedTuple):
    """What a kernel computes of each row; absent parts are None."""

    m: Array
    l: Array
    p: Array | None
    q: Array | None


class Part(NamedTuple):
    """The statistics of some of the classes of each row, and what moves p and q with m."""

    statistics: Statistics
    mass: Array | None  # sum K of these classes; of index labels 1 where the label is one of them
    weight: Array | None  # sum w of these classes


class Coefficients(NamedTuple):
    """One example costs a l - b p - c q + z (m + l)^2; absent parts are None."""

    a: Array
    b: Array | None
    c: Array | None
    z: Array | None


def loss_of(ops: KernelOps, plan: Plan, operands: Operands) -> Array:
    """The loss of a call."""
    x = ops.cast(operands.logits, plan.compute_dtype)
    m = row_maximum(ops, plan, x)
    examples, divisor = examples_and_divisor(ops, plan, operands, m, smoothed=True)
    statistics = row_statistics(ops, plan, x, m, examples)
    return combine(ops, plan, examples, statistics, divisor)


def loss_and_gradient_of(ops: KernelOps, plan: Plan, operands: Operands) -> tuple[Array, Array]:
    """The loss of a call and, in closed form, the gradient of its sum in the logits."""
    x = ops.cast(operands.logits, plan.compute_dtype)
    m = row_maximum(ops, plan, x)
    examples, divisor = examples_and_divisor(ops, plan, operands, m, smoothed=True)
    statistics = row_statistics(ops, plan, x, m, examples)
    loss = combine(ops, plan, examples, statistics, divisor)
    slope = careful_gradient(ops, plan, x, examples, statistics, None, divisor)
    return loss, ops.cast_like(slope, operands.logits)


def row_maximum(ops: Ops, plan: Plan, x: Array) -> Array:
    """The largest entry of each row, a constant to autodiff; finite wherever lse(x) is."""
    return ops.stop_gradient(ops.max(x, plan.axis))


def row_statistics(
    ops: KernelOps, plan: Plan, x: Array, m: Array, examples: Examples
) -> Statistics:
    """The kernel that any library can run, and differentiate; `m` is the `row_maximum`.

    Dense labels are `smoothed`.
    """
    axis = plan.axis
    k, w = examples.weighted_labels, examples.class_weight
    has_q = plan.label_smoothing and not has_smoothed_labels(plan)
    dead = None if examples.dropped is None else examples.dropped & ~ops.isfinite(m)
    if not ops.derivatives_mend:
        m = ops.where(either(m == -INFINITY, dead), 0.0, m)  # log 0, and not inf - inf
    p = q = None
    if k is None and plan.label_smoothing != 1:
        p = ops.pick(x, examples.ids, axis) - m  # not from f, so that no compiler keeps it
        is_weighted_apart = w is not None and has_q
        silent = either(examples.dropped, examples.label_mass == 0 if is_weighted_apart else None)
        p = settled_sum(ops, p, silent, dead)
    f = None
    if k is not None or has_q:
        f = x - m
        if has_q and w is None:
            q = ops.sum(f, axis)
            q = settled_sum(
                ops, q, either(examples.dropped, None if k is None else examples.label_total == 0)
            )
        f = f if dead is None else ops.where(dead, 0.0, f)
    factors = Factors(x, m, dead, examples.dropped, f)
    if k is not None and plan.label_smoothing != 1:
        p = ops.weighted_sum(k, factors, examples.dropped, axis)
    if has_q and w is not None:
        total = examples.label_total
        silent = either(examples.dropped, None if isinstance(total, float) else total == 0)
        q = ops.weighted_sum(w, factors, silent, axis)
    l = ops.log_sum_exp(factors, axis)
    if ops.maxima_lose_nan:
        return without_lost(ops, examples, Statistics(m, l, p, q))
    return Statistics(m, l if dead is None else ops.where(dead, 0.0, l), p, q)


def without_lost(ops: Ops, examples: Examples, statistics: Statistics) -> Statistics:
    """Statistics, 0 in dropped rows that are not finite, which a maximum does not always tell."""
    if examples.dropped is None:
        return statistics
    return _cleared(ops, statistics, examples.dropped & ~ops.isfinite(statistics.l))


def _cleared(ops: Ops, statistics: Statistics, rows: Array) -> Statistics:
    """Statistics, 0 in some rows."""
    return Statistics._make(
        None if part is None else ops.where(rows, 0.0, part) for part in statistics
    )


def merge(ops: KernelOps, one: Part, other: Part) -> Part:
    """The statistics of the classes of both; associative, and it does not matter which is first."""
    (m1, l1, p1, q1), (m2, l2, p2, q2) = one.statistics, other.statistics
    # A part of -inf alone has an m of 0, which is none of its entries.
    is_first = (l2 == -INFINITY) | ((l1 != -INFINITY) & (m1 >= m2))
    m = ops.where(is_first, m1, m2)
    d1, d2 = (ops.where(mine == m, 0.0, mine - m) for mine in (m1, m2))  # both may be +inf
    l = ops.log(ops.exp(l1 + d1) + ops.exp(l2 + d2))

    def moved(linear: Array, coefficient: Array, d: Array) -> Array:
        return linear + ops.where(coefficient == 0, 0.0, coefficient * d)  # d may be -inf

    p = q = mass = weight = None
    if one.mass is not None and other.mass is not None:
        p = moved(p1, one.mass, d1) + moved(p2, other.mass, d2)
        mass = one.mass + other.mass
    if one.weight is not None and other.weight is not None:
        q = moved(q1, one.weight, d1) + moved(q2, other.weight, d2)
        weight = one.weight + other.weight
    return Part(Statistics(m, l, p, q), mass, weight)


def is_plain(ops: Any, examples: Examples, statistics: Statistics) -> bool:
    """Whether plain statistics are right: nothing is infinite or NaN, and no M is 0.

    An M of 0 is asked for in dense rows alone. `ops` has values to look at: `BlockOps`.
    """
    _, l, p, q = statistics
    parts = (l, p, q, examples.label_mass, examples.sample_weight)
    if not all(ops.is_finite(p) for p in parts if p is not None and type(p) is not float):
        return False
    return examples.weighted_labels is None or ops.all(examples.label_mass)


def settled_sum(
    ops: Ops, linear: Array | None, silent: Array | None, dead: Array | None = None
) -> Array | None:
    """Numbers of rows, linear in the logits, with 0 where dead, or where silent and not finite."""
    if linear is None or silent is None:
        return linear
    return ops.where(either(silent & ~ops.isfinite(linear), dead), 0.0, linear)


def settled(ops: KernelOps, plan: Plan, examples: Examples, statistics: Statistics) -> Statistics:
    """Statistics by a kernel that knows of index labels which rows are dropped, and no sums.

    What has no influence becomes finite, as `row_statistics` has it.
    """
    m, l, p, q = statistics
    if examples.ids is not None:
        if p is not None and plan.class_weight and plan.label_smoothing:
            p = settled_sum(ops, p, examples.label_mass == 0)
        return Statistics(m, l, p, q)
    m, l, p, q = _cleared(ops, statistics, examples.dropped)
    q = settled_sum(ops, q, examples.label_total == 0)
    return Statistics(m, l, p, q)


def combine(
    ops: Ops, plan: Plan, examples: Examples, statistics: Statistics, divisor: Array | None
) -> Array:
    """The loss, from the statistics of all rows."""
    m, l, p, q = statistics
    a, b, c, z = _coefficients(ops, plan, examples)
    unit = a * l
    if p is not None:
        unit = unit - b * p
    if q is not None:
        unit = unit - c * q
    if z is not None:
        square = (m + l) * (m + l)
        if examples.mass is not None:  # beside a mass of 0, whatever the row holds
            square = ops.where((z == 0) & ~ops.isfinite(square), 0.0, square)
        unit = unit + z * square
    loss = ops.squeeze(unit, plan.axis) if plan.reduction == "none" else ops.total(unit)
    if divisor is not None:
        loss = loss / divisor
    return loss + 0.0  # never -0


def gradient(
    ops: KernelOps,
    plan: Plan,
    examples: Examples,
    statistics: Statistics,
    softmax: Array,
    factor: Array | None,
    divisor: Array | None,
) -> Array:
    """The gradient of the loss: its slopes in the statistics, times their Jacobian.

    `softmax` is the caller's to give away. `factor` is what autodiff multiplies the gradient by.
    """
    slopes = scaled(slopes_of(ops, plan, examples, statistics), factor, divisor)
    return sloped(ops, plan, examples, slopes, softmax)


def sloped(
    ops: KernelOps, plan: Plan, examples: Examples, slopes: Coefficients, softmax: Array
) -> Array:
    """The slopes in the statistics times their Jacobian; `softmax` is given away."""
    a, b, c, _ = slopes
    slope = ops.scaled(softmax, a)
    if b is not None:
        if examples.weighted_labels is None:
            slope = ops.subtract_at(slope, examples.ids, b, plan.axis)
        else:
            slope = ops.subtracted(slope, b * examples.weighted_labels)
    if c is not None:
        w = examples.class_weight
        slope = ops.subtracted(slope, c if w is None else c * w)
    return slope if examples.dropped is None else ops.where(examples.dropped, 0.0, slope)


def slopes_of(ops: Ops, plan: Plan, examples: Examples, statistics: Statistics) -> Coefficients:
    """The slopes of the summed loss: one example's in its logits is a softmax(x) - b K - c w."""
    m, l, p, q = statistics
    a, b, c, z = _coefficients(ops, plan, examples)
    if z is not None:
        a = a + 2 * z * (m + l)
    return Coefficients(a, None if p is None else b, None if q is None else c, None)


def scaled(slopes: Coefficients, factor: Array | None, divisor: Array | None) -> Coefficients:
    """The slopes times what autodiff multiplies by, over what the mean divides by."""

    def times(part: Any) -> Any:
        if part is None:
            return None
        part = part if factor is None else part * factor
        return part if divisor is None else part / divisor

    a = times(slopes.a)
    b = a if slopes.b is slopes.a else times(slopes.b)  # one array where labels are class ids
    return Coefficients(a, b, times(slopes.c), times(slopes.z))


def careful_gradient(
    ops: KernelOps,
    plan: Plan,
    x: Array,
    examples: Examples,
    statistics: Statistics,
    factor: Array | None,
    divisor: Array | None,
) -> Array:
    """The gradient where the statistics are those of `row_statistics`."""
    softmax = ops.exp(x - statistics.m - statistics.l)
    return gradient(ops, plan, examples, statistics, softmax, factor, divisor)


def _coefficients(ops: Ops, plan: Plan, examples: Examples) -> Coefficients:
    epsilon, w, s = plan.label_smoothing, examples.class_weight, examples.sample_weight
    a = examples.label_mass
    b = 1.0 if examples.ids is None else examples.label_mass
    c = z = None
    if epsilon:
        classes = ops.cast_size(examples.num_classes, plan.compute_dtype)
        weight = examples.weight_total
        if weight is None:
            weight = classes if w is None else ops.sum(w, plan.axis)
        c = epsilon / classes * examples.label_total
        a = (1 - epsilon) * a + c * weight
        b = (1 - epsilon) * b
    if s is not None:
        a, b, c = s * a, s * b, None if c is None else s * c
    if plan.z_loss:
        z = plan.z_loss * (1.0 if examples.mass is None else examples.mass)
    return Coefficients(a, b, c, z)
