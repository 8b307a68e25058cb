"""The sums over examples that `Totals` holds, from the same row statistics as the loss.

With m, l and the letters of `_statistics`, u is sum_c t_c f_c (index labels: f_y), without weights
and smoothing. An example costs T l - u without options, its largest probability is exp(-l), and of
a class id y the logit is the largest where u is 0.
"""

from unified_loss._examples import NAN, Examples, examples_and_divisor
from unified_loss._ops import Factors, KernelOps, Ops
from unified_loss._statistics import Statistics, combine, row_maximum, row_statistics
from unified_loss._types import Array, Operands, Plan

Sums = tuple[Array, ...]  # the fields of `Totals`, in their order
FLOATS = 6  # of them; the last is an integer


def sums_of(ops: KernelOps, plan: Plan, operands: Operands) -> Sums:
    """The sums of a call."""
    x = ops.cast(operands.logits, plan.compute_dtype)
    m = row_maximum(ops, plan, x)
    examples, _ = examples_and_divisor(ops, plan, operands, m, smoothed=True)
    statistics = row_statistics(ops, plan, x, m, examples)
    terms = own_terms(ops, plan, operands, examples, statistics)
    return added_up(ops, plan, examples, statistics, *terms)


def own_terms(
    ops: Ops, plan: Plan, operands: Operands, examples: Examples, statistics: Statistics
) -> tuple[Array, Array]:
    """u, and where the label's logit is the largest; ties count."""
    m, _, p, _ = statistics
    axis, dtype = plan.axis, plan.compute_dtype
    weighs = plan.class_weight and plan.label_smoothing  # p is 0 where it has no influence
    if plan.label_kind == "index":
        if p is None or weighs:
            p = ops.cast(ops.pick(operands.logits, examples.ids, axis), dtype) - m
        return p, p == 0
    x, t = ops.cast(operands.logits, dtype), ops.cast(operands.labels, dtype)
    hit = ops.any((t == ops.max(t, axis)) & (x == m), axis)
    if p is None or plan.class_weight or plan.label_smoothing:
        dropped = examples.dropped
        dead = None if dropped is None else dropped & ~ops.isfinite(m)
        f = x - m if dead is None else ops.where(dead, 0.0, x - m)
        p = ops.weighted_sum(t, Factors(x, m, dead, dropped, f), dropped, axis)
    return p, hit


def plan_of_own(plan: Plan) -> Plan:
    """A plan for the statistics of a walk over tiles, of which p is u: that of the call, if it is.

    The statistics that the loss needs then take a walk of their own.
    """
    if plan.label_smoothing == 1 or (plan.label_kind == "dense" and plan.class_weight):
        return plan._replace(class_weight=False, label_smoothing=0.0)
    return plan


def added_up(
    ops: Ops, plan: Plan, examples: Examples, statistics: Statistics, u: Array, hit: Array
) -> Sums:
    """The sums, from what is known of each row."""
    m, l, *_ = statistics
    dropped, s = examples.dropped, examples.sample_weight
    lost = ~ops.isfinite(l)
    confidence = ops.where(lost, NAN, ops.exp(-l))
    nll = l - u if plan.label_kind == "index" else examples.label_total * l - u
    if plan.label_kind == "index" and not isinstance(examples.label_mass, float):
        lost = lost | ~(examples.label_mass == examples.label_mass)  # NaN of what is no class id
    nll = ops.where(lost, NAN, nll)
    correct = ops.where(lost, NAN, ops.cast(hit, plan.compute_dtype))

    def total(rows: Array, weight: Array | None) -> Array:
        rows = rows if weight is None else weight * rows
        return ops.total(rows if dropped is None else ops.where(dropped, 0.0, rows))

    seen = ops.isfinite(m) | ~ops.isfinite(m)  # all rows, of a number that may be known later
    seen = seen if dropped is None else seen & ~dropped  # which can be one answer for all
    count = ops.number(seen)
    counted = ops.cast(count, plan.compute_dtype)
    return (
        combine(ops, plan, examples, statistics, None),
        counted if examples.mass is None else total(examples.mass, None),
        total(nll, s),
        counted if s is None else total(s, None),
        total(correct, s),
        total(confidence, s),
        count,
    )
