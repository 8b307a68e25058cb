"""The linear form of classes that are split: a walk over those of a member, as sums for all.

A walk takes its sums from the largest logit that it has seen. When the members know the largest
of all, these are moved there, and add up as those of logits do in `_split_classes`.
"""

from typing import Any

from unified_loss._linear._tiles import Sums as TileSums
from unified_loss._ops import INFINITY
from unified_loss._split_classes import LabelSums, Part, Sums, summed
from unified_loss._types import Array, Plan


def highest_of(ops: Any, sums: TileSums) -> Array:
    """The largest logit of each row here; infinity where that is, or where one is NaN."""
    lost = (sums.m != sums.m) | (sums.s != sums.s)  # NaN, which a maximum may lose
    return ops.where(lost, INFINITY, ops.stop_gradient(sums.m))


def sums_of_walk(ops: Any, plan: Plan, part: Part, known: LabelSums, sums: TileSums) -> Sums:
    """What a member adds, of a walk whose p, of class ids, is x_y less its own maximum.

    That is asked for where the label is a class here.
    """
    lost = part.lost
    base = ops.stop_gradient(ops.where(sums.m == -INFINITY, 0.0, sums.m))
    moved = ops.where(lost, 0.0, base - part.m)
    # In lost rows this is 0, and its slopes are those of a sum.
    e = sums.s * ops.exp(moved) - ops.where(lost, ops.stop_gradient(sums.s), 0.0 * part.m)
    e = ops.where(lost & ~ops.isfinite(e), 0.0, e)
    p = q = None
    if sums.p is not None and part.ids is not None:
        size = ops.size(part.logits, plan.axis)
        p = ops.where((part.ids >= 0) & (part.ids < size), sums.p + moved, 0.0)
    elif sums.p is not None:
        p = sums.p + known.mass * moved
    if sums.q is not None:
        weight = ops.size(part.logits, plan.axis) if known.weight is None else known.weight
        q = sums.q + weight * moved
    return summed(ops, plan, part, known, e, p, q)
