"""What a tile of logits adds to the statistics of its rows, and what its gradient is.

Sums of exponentials are kept beside the maximum m that they are taken from, and never their
logarithm with m, so that a constant in all logits changes nothing (R19, R32).
"""

from typing import Any, NamedTuple

from unified_loss._examples import Examples, either, examples_and_divisor
from unified_loss._ops import INFINITY, LinearOps
from unified_loss._statistics import Coefficients, Statistics, settled_sum
from unified_loss._types import Array, Operands, Plan


class Sums(NamedTuple):
    """The statistics of the classes seen so far, one number a row; absent parts are None."""

    m: Array  # the maximum; -inf before the first class
    s: Array  # sum exp(x - m)
    p: Array | None  # of index labels x_y itself, else sum K (x - m)
    q: Array | None  # sum w (x - m)
    mass: Array | None  # sum K
    weight: Any  # sum w, one for all rows
    top: Array | None = None  # the largest logit in a place of a largest label


class Labels(NamedTuple):
    """The labels and weights of a tile."""

    ids: Array | None  # within the tile; 0 for rows whose label is in another one
    inside: Array | None  # the rows whose label is in this one
    k: Array | None  # K, for dense labels
    w: Array | None  # class weights along the class axis
    count: Any  # of the classes
    top: Array | None = None  # where dense labels are the largest of their row


def nothing(plan: Plan, like: Array, *, has_top: bool = False) -> Sums:
    """The sums before the first class; `like` has an entry, 0, a row."""
    has_p, has_q = plan.label_smoothing != 1, plan.label_smoothing != 0
    is_dense = has_p and plan.label_kind == "dense"
    return Sums(
        like - INFINITY,
        like,
        like if has_p else None,
        like if has_q else None,
        like if is_dense else None,
        0.0 if has_q else None,
        like - INFINITY if has_top else None,
    )


def added(ops: LinearOps, sums: Sums, x: Array, labels: Labels) -> Sums:
    """The sums with those of a tile of logits, which are given away."""
    highest = ops.stop_gradient(ops.max(x, 1))
    m = ops.where(highest > sums.m, highest, sums.m)
    if not ops.maxima_lose_nan:
        m = ops.where(highest == highest, m, highest)  # noqa: PLR0124 (NaN stays)
    shift = ops.where(m == -INFINITY, 0.0, m)
    moved = ops.where(sums.m == m, 0.0, sums.m - shift)  # both may be infinite
    p, q, mass, weight = sums.p, sums.q, sums.mass, sums.weight
    if labels.ids is not None and p is not None:
        p = p + ops.where(labels.inside, ops.pick(x, labels.ids, 1), 0.0)
    top = sums.top
    if top is not None:
        own = ops.stop_gradient(ops.max(ops.where(labels.top, x, -INFINITY), 1))
        top = ops.where(own > top, own, top)
    f = ops.subtracted(x, shift)
    if labels.k is not None and p is not None:
        p = p + _times(ops, mass, moved) + _weighted(ops, labels.k, f)
        mass = mass + ops.sum(labels.k, 1)
    if q is not None:
        q = q + _times(ops, weight, moved)
        q = q + (ops.sum(f, 1) if labels.w is None else _weighted(ops, labels.w, f))
        weight = weight + (labels.count if labels.w is None else ops.sum(labels.w, 1))
    s = sums.s * ops.exp(moved) + ops.sum(ops.exponential(f), 1)
    return Sums(m, s, p, q, mass, weight, top)


def _times(ops: LinearOps, coefficient: Any, moved: Array) -> Array:
    """The product; 0 where the coefficient is, though the other be -inf."""
    if isinstance(coefficient, float):
        return coefficient * moved if coefficient else 0.0
    # Not the product is 0, which would have no slope in a coefficient that is 0.
    return coefficient * ops.where((coefficient == 0) & (moved == -INFINITY), 0.0, moved)


def _weighted(ops: LinearOps, weights: Array, f: Array) -> Array:
    """The sum of weights times factors; a -inf counts as 0 where its weight is 0."""
    return ops.sum(weights * ops.where((weights == 0) & (f == -INFINITY), 0.0, f), 1)


def finished(ops: LinearOps, plan: Plan, examples: Examples, sums: Sums) -> Statistics:
    """The statistics of all classes, finite where they have no influence."""
    return settled(ops, plan, examples, statistics_of(ops, examples, sums))


def statistics_of(ops: LinearOps, examples: Examples, sums: Sums) -> Statistics:
    """The statistics of all classes."""
    m = ops.where(sums.m == -INFINITY, 0.0, sums.m)
    p = sums.p
    if p is not None and examples.ids is not None:
        p = p - m
    return Statistics(m, ops.log(sums.s), p, sums.q)


def judged(
    ops: LinearOps, plan: Plan, examples: Examples, known: Operands, found: Statistics
) -> tuple[Examples, Array | None, Statistics]:
    """What counts of the examples, which come of `known`, what "mean" divides by, and statistics.

    These are those that were found, but finite where they have no influence.
    """
    seen, divisor = examples_and_divisor(ops, plan, known, found.m + found.l)
    return seen, divisor, settled(ops, plan, examples, found)


def settled(ops: LinearOps, plan: Plan, examples: Examples, found: Statistics) -> Statistics:
    """The statistics, finite where they have no influence."""
    (m, l, p, q), dropped = found, examples.dropped
    if ops.maxima_lose_nan:
        lse = ops.stop_gradient(l)
        m = ops.where(lse == lse, m, lse)  # noqa: PLR0124 (NaN stays)
    dead = None if dropped is None else dropped & ~ops.isfinite(m + l)
    if dead is not None:
        m, l = (ops.where(dead, 0.0, part) for part in (m, l))
    is_apart = examples.ids is not None and plan.class_weight and plan.label_smoothing
    p = settled_sum(ops, p, either(dropped, examples.label_mass == 0 if is_apart else None), dead)
    total = examples.label_total
    is_dense = examples.ids is None and not isinstance(total, float)
    q = settled_sum(ops, q, either(dropped, total == 0 if is_dense else None), dead)
    return Statistics(m, l, p, q)


def terms_of_tiles(plan: Plan, sums: Sums, statistics: Statistics) -> tuple[Array, Array]:
    """What `_sums.own_terms` has, from the sums under `plan_of_own` and the statistics."""
    if plan.label_kind == "index":
        u = sums.p - statistics.m
        return u, u == 0
    return sums.p, sums.top == sums.m


def slope_of(
    ops: LinearOps,
    x: Array,
    m: Array,
    l: Array,
    slopes: Coefficients,
    labels: Labels,
    dropped: Array | None,
    softcap: float | None,
) -> Array:
    """The gradient of a tile of logits: a softmax(x) - b K - c w, and through the cap.

    The logits are given away, unless there is a cap.
    """
    a, b, c, _ = slopes
    f = ops.subtracted(x, m) if softcap is None else x - m
    found = ops.scaled(ops.exponential(ops.subtracted(f, l)), a)
    if b is not None and labels.ids is not None:
        found = ops.subtract_at(found, labels.ids, ops.cast_like(labels.inside, x) * b, 1)
    elif b is not None:
        found = found - b * labels.k
    if c is not None:
        found = found - (c if labels.w is None else c * labels.w)
    if softcap is not None:
        found = found * (1 - (x / softcap) * (x / softcap))
    return found if dropped is None else ops.where(dropped, 0.0, found)
