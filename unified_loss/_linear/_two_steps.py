"""The linear form in two steps: the logits, then their loss. For few logits."""

from unified_loss._examples import examples_and_divisor
from unified_loss._ops import LinearOps
from unified_loss._types import Array, Form, Head, Operands, Plan


def logits_of(ops: LinearOps, form: Form, head: Head, operands: Operands) -> Array:
    """The logits, in the compute dtype; those of dropped rows are finite where hidden is not."""
    hidden, weight, bias = in_compute_dtype(ops, form.plan, head)
    hidden = without_garbage(ops, form.plan, hidden, weight, operands)
    return capped(ops, form.softcap, ops.affine(hidden, weight, bias))


def gradients_of(
    ops: LinearOps, form: Form, head: Head, operands: Operands, x: Array, slope: Array
) -> Head:
    """The gradients of hidden, weight and bias, from that of the logits `x`."""
    hidden, weight, bias = in_compute_dtype(ops, form.plan, head)
    hidden = without_garbage(ops, form.plan, hidden, weight, operands)
    return cast_like(ops, pulled_back(ops, form, Head(hidden, weight, bias), x, slope), head)


def pulled_back(ops: LinearOps, form: Form, head: Head, x: Array, slope: Array) -> Head:
    """The same in the compute dtype, of a head that is in it."""
    hidden, weight, bias = head
    if form.softcap is not None:
        slope = ops.where(slope == 0, 0.0, slope * (1 - (x / form.softcap) * (x / form.softcap)))
    rows, features = (ops.as_matrix(part) for part in (slope, hidden))
    dh = ops.reshape_like(ops.product(rows, weight), hidden)
    dw = ops.product(ops.transposed(rows), features)
    return Head(dh, dw, None if bias is None else ops.sum_of_rows(rows))


def cast_like(ops: LinearOps, found: Head, head: Head) -> Head:
    """Gradients in the dtype of what each is of."""
    return Head._make(
        None if part is None else ops.cast_like(part, like)
        for part, like in zip(found, head, strict=True)
    )


def in_compute_dtype(ops: LinearOps, plan: Plan, head: Head) -> Head:
    """Hidden, weight and bias as they are computed with."""
    return Head(*(None if part is None else ops.cast(part, plan.compute_dtype) for part in head))


def capped(ops: LinearOps, softcap: float | None, u: Array) -> Array:
    """Logits that stay below their cap; NaN has no slope, and so no part in a sum of them."""
    if softcap is None:
        return u
    lost = u != u  # noqa: PLR0124 (isnan() is not in every library)
    return ops.where(lost, u, softcap * ops.tanh(ops.where(lost, 0.0, u) / softcap))


def can_drop(plan: Plan) -> bool:
    """Whether there may be examples that do not count."""
    is_weighted = plan.class_weight or plan.sample_weight != "none"
    return plan.label_kind == "dense" or plan.ignore_index is not None or is_weighted


def without_garbage(
    ops: LinearOps, plan: Plan, hidden: Array, weight: Array, operands: Operands
) -> Array:
    """R30: hidden states, 0 in dropped rows that are not finite: 0 times NaN would be NaN."""
    if not can_drop(plan):
        return hidden
    hollow = ops.hollow(plan, hidden, weight)
    examples, _ = examples_and_divisor(ops, plan, operands._replace(logits=hollow))
    if examples.dropped is None:
        return hidden
    # Where the weights have a gradient, rows with finite numbers have a say in it (R16).
    dead = examples.dropped & ops.any(~ops.isfinite(hidden), plan.axis)
    return ops.where(dead, 0.0, hidden)
