"""Logits of which each member of a group holds some of the classes: a kernel for any library.

Two reductions over the group, of a few numbers a row, make the statistics of whole rows. Then each
member knows what the loss asks for, and the slopes of its own classes.

The first reduction is the maximum m. Relative to it the sums over classes of `_statistics` add up
over the members: sum exp f, p, q, and those of labels and weights. In rows that are *lost*, whose m
is not finite, these have no value; there they count what tells whether the row is dropped (R16),
which would else take numbers of its own.

Derivatives go through the second reduction alone. All members go on to compute the same, so each
takes the slope that comes back as it is. Where the slopes that members have alone meet, as in a
second derivative, they are added up (`SplitOps.shared`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from unified_loss import _statistics as whole
from unified_loss._examples import (
    NAN,
    Examples,
    Weights,
    either,
    examples_of_ids,
    examples_of_rows,
    safe_ids,
    weights_of,
    with_divisor,
)
from unified_loss._ops import INFINITY, Factors, LinearOps
from unified_loss._statistics import Coefficients, Statistics, settled_sum
from unified_loss._types import Array, Operands, Plan


class Part(NamedTuple):
    """What a member holds of each row; m and all after it are constants to autodiff.

    Parts that are absent are None.
    """

    logits: Array
    labels: Array  # dense ones, in the compute dtype; of the linear form they may be elsewhere
    weight: Array  # the class weights, in the compute dtype
    m: Array  # of the whole row; 0 where it is lost
    lost: Array
    ids: Array  # index labels less the first class here; not all are classes here
    silent: Array  # rows that are seen to be dropped


class Sums(NamedTuple):
    """Sums over the classes of a member, or over all; absent parts are None."""

    e: Array  # sum exp f; in lost rows the number of classes whose (1 - eps) w t is not 0, or 0
    p: Array  # in lost rows 0
    q: Array  # in lost rows with weights the number of classes with a w but 0
    mass: Array  # M, but of index labels without weights; NaN if `without_broken` took some
    total: Array  # T, where it is asked for and is not M
    weight: Array  # W, one number for all rows, where it is asked for


class SplitOps(LinearOps, Protocol):
    """What the kernel needs beside `LinearOps`."""

    def maxima_of_all(
        self, plan: Plan, rows: list[Array], size: int | None
    ) -> tuple[list[Array], Any]:
        """The maxima over the members; and the id of the first class here, if this is their number.

        The rows are never NaN.
        """

    def sums_of_all(self, plan: Plan, part: Part) -> tuple[Sums, Any]:
        """The `local_sums` of all members, and the number of all classes."""

    def added_over_all(self, plan: Plan, sums: Sums, size: int) -> tuple[Sums, Any]:
        """The same of sums that are known."""

    def shared(self, plan: Plan, rows: Array) -> Array:
        """`rows`, which all members have; what each makes of them has a slope of its own."""

    def less(self, ids: Array, start: Any) -> Array:
        """Class ids less another one, in a signed dtype."""

    def factors(self, x: Array, m: Array, lost: Array) -> Array:
        """The factors x - m, which are 0 and have a slope of 1 where lost: a NaN passes back."""


def loss_of(ops: SplitOps, plan: Plan, operands: Operands) -> Array:
    """The loss of a call, whose classes may be split."""
    if plan.class_group is None:
        return whole.loss_of(ops, plan, operands)
    examples, statistics, divisor = _known(ops, plan, operands)
    return whole.combine(ops, plan, examples, statistics, divisor)


def loss_and_gradient_of(ops: SplitOps, plan: Plan, operands: Operands) -> tuple[Array, Array]:
    """The loss of a call and the gradient of its sum in the logits that are here."""
    if plan.class_group is None:
        return whole.loss_and_gradient_of(ops, plan, operands)
    examples, statistics, divisor = _known(ops, plan, operands)
    loss = whole.combine(ops, plan, examples, statistics, divisor)
    slopes = whole.scaled(whole.slopes_of(ops, plan, examples, statistics), None, divisor)
    slopes = Coefficients._make(
        part if part is None or isinstance(part, float) else ops.shared(plan, part)
        for part in slopes
    )
    x = ops.cast(operands.logits, plan.compute_dtype)
    softmax = ops.exp(x - statistics.m - ops.shared(plan, statistics.l))
    slope = whole.sloped(ops, plan, examples, slopes, softmax)
    return loss, ops.cast_like(slope, operands.logits)


def _known(
    ops: SplitOps, plan: Plan, operands: Operands
) -> tuple[Examples, Statistics, Array | None]:
    """What is known of whole rows, and what "mean" divides by."""
    x = ops.stop_gradient(ops.cast(operands.logits, plan.compute_dtype))
    m = _highest(ops, x, plan.axis)
    lost = m != m  # noqa: PLR0124 (NaN)
    if ops.maxima_lose_nan:
        lost = lost | ops.any(x != x, plan.axis)  # noqa: PLR0124 (NaN)
    t = high = None
    if plan.label_kind == "dense":
        t = labels_of(ops, plan, operands, x)
        high = highest_label(ops, plan, operands, t)
    part, high = part_of(ops, plan, operands, ops.where(lost, INFINITY, m), t, high)
    return of_all(ops, plan, operands, part, high, *ops.sums_of_all(plan, part))


def part_of(
    ops: SplitOps, plan: Plan, operands: Operands, m: Array, labels: Array, high: Array | None
) -> tuple[Part, Array | None]:
    """What this member holds, and the largest label of each whole row: the first reduction.

    `m` and `high` are those of this member, m with infinity where a logit is NaN. Of the logits
    the shape is asked for.
    """
    rows = [m]
    if high is not None:
        rows.append(ops.where(high != high, INFINITY, high))  # noqa: PLR0124 (NaN)
    ids = None
    is_index = plan.label_kind == "index"
    size = ops.size(operands.logits, plan.axis) if is_index else None
    (m, *highs), start = ops.maxima_of_all(plan, rows, size)
    if is_index:
        ids = ops.less(_with_axis(ops, plan, operands.labels), start)
    lost = ~ops.isfinite(m)
    w = ops.cast(operands.class_weight, plan.compute_dtype) if plan.class_weight else None
    silent = silent_rows(ops, plan, operands)
    part = Part(operands.logits, labels, w, ops.where(lost, 0.0, m), lost, ids, silent)
    return part, highs[0] if highs else None


def silent_rows(ops: SplitOps, plan: Plan, operands: Operands) -> Array | None:
    """The rows that every member sees to be dropped."""
    s = weights_of(ops, plan, operands).sample_weight
    silent = None if s is None else s == 0
    if plan.label_kind == "index" and plan.ignore_index is not None:
        labels = _with_axis(ops, plan, operands.labels)
        silent = either(silent, ops.equals(labels, plan.ignore_index))
    return silent


def _with_axis(ops: SplitOps, plan: Plan, ids: Array) -> Array:
    return ids if plan.labels_keep_axis else ops.expand(ids, plan.axis)


def of_all(
    ops: SplitOps,
    plan: Plan,
    operands: Operands,
    part: Part,
    high: Array | None,
    sums: "Sums",
    num_classes: Any,
) -> tuple[Examples, Statistics, Array | None]:
    """What is known of whole rows, and what "mean" divides by, after both reductions."""
    weights = weights_of(ops, plan, operands)._replace(num_classes=num_classes)
    if plan.label_kind == "index":
        examples = _of_ids(ops, plan, operands, weights, part, sums)
    else:
        examples = _of_rows(ops, weights, part, sums, high)
    dropped, mass = examples.dropped, examples.mass
    if dropped is not None and mass is not None:  # R16: no gradient where lse is not finite
        mass = ops.where(dropped & part.lost, ops.stop_gradient(mass), mass)
    examples = examples._replace(mass=mass, weight_total=sums.weight)
    examples, divisor = with_divisor(ops, plan, operands, examples)
    return examples, _statistics(ops, plan, examples, part, sums), divisor


def highest_label(ops: SplitOps, plan: Plan, operands: Operands, t: Array) -> Array | None:
    """The largest label of each row here, where that tells whether all of it is nothing."""
    w = operands.class_weight if plan.class_weight else None
    if w is not None and plan.label_smoothing:
        return None
    if w is None:
        k = (1 - plan.label_smoothing) * t
    else:
        k = ops.along(ops.cast(w, plan.compute_dtype), t, plan.axis) * t
    return _highest(ops, ops.stop_gradient(k), plan.axis)


def _highest(ops: SplitOps, x: Array, axis: int) -> Array:
    """The largest entry of each row; -inf of none."""
    return ops.sum(x, axis) - INFINITY if ops.size(x, axis) == 0 else ops.max(x, axis)


def labels_of(ops: SplitOps, plan: Plan, operands: Operands, x: Array) -> Array:
    """Dense labels; a zero label on a masked class has no influence, and no gradient (R18)."""
    t = ops.cast(operands.labels, plan.compute_dtype)
    constant = ops.stop_gradient(t)
    return t if constant is t else ops.where((t == 0) & (x == -INFINITY), constant, t)


def local_sums(ops: SplitOps, plan: Plan, part: Part) -> Sums:
    """The sums over the classes of one member."""
    axis = plan.axis
    x = ops.cast(part.logits, plan.compute_dtype)
    m, lost, silent = part.m, part.lost, part.silent
    w = None if part.weight is None else ops.along(part.weight, x, axis)
    f = ops.factors(x, m, lost)
    factors = Factors(x, m, lost, silent, f)
    known = sums_of_labels(ops, plan, part)
    q = None
    if part.ids is not None:
        p = here(ops, plan, part, lambda ids: ops.where(lost, 0.0, ops.pick(x, ids, axis) - m))
    else:
        t, _ = without_broken(ops, plan, part)
        p = ops.weighted_sum(t if w is None else w * t, factors, silent, axis)
    if plan.label_smoothing:
        q = ops.sum(f, axis) if w is None else ops.weighted_sum(w, factors, silent, axis)
    # In lost rows this is the number of classes, with the slopes of a sum.
    e = ops.sum(ops.exponential(f), axis)
    return summed(ops, plan, part, known, e - ops.where(lost, ops.size(x, axis), 0.0 * m), p, q)


class LabelSums(NamedTuple):
    """Sums of labels and weights over the classes of a member; absent parts are None."""

    mass: Array  # as in `Sums`, and so are the two below
    total: Array
    weight: Array
    counting: Array  # the number of classes whose (1 - eps) w t is not 0, where it is asked for
    weighing: Array  # the number of classes with a w but 0, where it is asked for


def sums_of_labels(ops: SplitOps, plan: Plan, part: Part) -> LabelSums:
    """The sums that no logit is asked for."""
    axis, dtype = plan.axis, plan.compute_dtype
    w = None if part.weight is None else ops.along(part.weight, part.logits, axis)
    mass = total = weight = counting = weighing = None
    if part.ids is not None and w is not None:
        mass = here(ops, plan, part, lambda ids: ops.pick_class(part.weight, ids))
    elif part.ids is None:
        t, broken = without_broken(ops, plan, part)
        mass = ops.sum(t if w is None else w * t, axis)
        if broken is not None:
            mass = mass + ops.where(ops.any(broken, axis), NAN, 0.0 * part.m)
        if w is not None and plan.label_smoothing:
            counts = (w != 0) & ((1 - plan.label_smoothing) * t != 0)
            counting = ops.sum(ops.cast(counts, dtype), axis)
            total = ops.sum(t, axis)
    if w is not None and plan.label_smoothing:
        weighing = ops.sum(ops.cast(w != 0, dtype), axis)
        weight = ops.sum(w, axis)
    return LabelSums(mass, total, weight, counting, weighing)


def summed(
    ops: SplitOps,
    plan: Plan,
    part: Part,
    known: LabelSums,
    e: Array,
    p: Array | None,
    q: Array | None,
) -> Sums:
    """The sums of one member, with what they hold in lost rows, where e is 0."""
    lost = part.lost
    if known.counting is not None:
        e = e + ops.where(lost, known.counting, 0.0 * part.m)
    p = None if p is None or plan.label_smoothing == 1 else ops.where(lost, 0.0, p)
    if q is not None:
        q = ops.where(lost, 0.0 if known.weighing is None else known.weighing, q)
    return Sums(e, p, q, *known[:3])


def here(ops: SplitOps, plan: Plan, part: Part, entry: Callable[[Array], Array]) -> Array:
    """The entry at the label of each row; 0 where that is a class of another member."""
    size = ops.size(part.logits, plan.axis)
    if size == 0:
        return 0.0 * part.m
    inside = (part.ids >= 0) & (part.ids < size)
    return ops.where(inside, entry(ops.as_index(ops.where(inside, part.ids, 0))), 0.0)


def without_broken(ops: SplitOps, plan: Plan, part: Part) -> tuple[Array, Array | None]:
    """Dense labels without those that are not finite in dropped rows, and where these are."""
    t = part.labels
    if part.silent is None or not plan.labels_dtype.startswith(("float", "bfloat")):
        return t, None
    k = t if part.weight is None else ops.along(part.weight, t, plan.axis) * t
    broken = part.silent & ~ops.isfinite(ops.stop_gradient(k))
    return ops.where(broken, 0.0, t), broken


def _of_ids(
    ops: SplitOps, plan: Plan, operands: Operands, weights: Weights, part: Part, sums: Sums
) -> Examples:
    """What class ids say of each example."""
    labels = ops.as_index(operands.labels)
    _, ignored, foreign = safe_ids(ops, plan, labels, weights.num_classes)
    nothing = None
    if plan.class_weight:
        nothing = part.lost & (sums.q == 0) if plan.label_smoothing else sums.mass == 0
    return examples_of_ids(ops, plan, weights, part.ids, ignored, foreign, sums.mass, nothing)


def _of_rows(
    ops: SplitOps, weights: Weights, part: Part, sums: Sums, high: Array | None
) -> Examples:
    """What dense labels say of each example."""
    mass, total = sums.mass, sums.mass if sums.total is None else sums.total
    _, w, s = weights
    if s is not None:
        garbage = (s == 0) & ~(ops.isfinite(mass) & ops.isfinite(total))
        mass, total = (ops.where(garbage, 0.0, each) for each in (mass, total))
        weights = weights._replace(sample_weight=ops.where(garbage, 0.0, s))
    if high is not None:
        silent = high == 0
    else:
        silent = part.lost & ((sums.q == 0) | ((sums.e == 0) & (total == 0)))
    k = part.labels if w is None or part.labels is None else w * part.labels
    return examples_of_rows(ops, weights, k, total, mass, silent & (mass == 0))


def _statistics(
    ops: SplitOps, plan: Plan, examples: Examples, part: Part, sums: Sums
) -> Statistics:
    """The statistics of whole rows: 0 in dropped rows that are lost, NaN in others that are."""
    dropped, lost = examples.dropped, part.lost
    dead = None if dropped is None else dropped & lost
    alive = lost if dropped is None else lost & ~dropped
    e = sums.e + ops.where(alive, NAN, 0.0 * part.m)
    l = ops.log(e if dead is None else ops.where(dead, 1.0, e))
    weighs_apart = part.ids is not None and plan.class_weight and plan.label_smoothing
    silent = either(dropped, examples.label_mass == 0 if weighs_apart else None)
    p = settled_sum(ops, sums.p, silent, dead)
    total = examples.label_total
    silent = either(dropped, None if isinstance(total, float) else total == 0)
    return Statistics(part.m, l, p, settled_sum(ops, sums.q, silent, dead))
