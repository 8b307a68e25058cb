"""The linear form in two steps: the logits, then their loss. For few logits."""

from unified_loss._examples import examples_of, weights_of, with_divisor
from unified_loss._ops import LinearOps
from unified_loss._types import Array, Form, Head, Operands, Plan

ROOM = 2.0**64  # where hidden states times this are finite, so are their products with weights


def with_logits(
    ops: LinearOps, form: Form, head: Head, operands: Operands
) -> tuple[Plan, Operands]:
    """The call of the logits, which are in the compute dtype."""
    hidden, weight, bias = in_compute_dtype(ops, form.plan, head)
    plan = form.plan
    if can_drop(plan):
        known = operands._replace(logits=ops.hollow(plan, hidden, weight))
        plan, hidden, operands = without_garbage(ops, plan, hidden, known)
    x = capped(ops, form.softcap, ops.affine(hidden, weight, bias))
    return plan, operands._replace(logits=x)


def gradients_of(ops: LinearOps, form: Form, head: Head, operands: Operands, slope: Array) -> Head:
    """The gradients of hidden, weight and bias, from that of the logits in `operands`."""
    hidden, weight, bias = in_compute_dtype(ops, form.plan, head)
    _, hidden, _ = without_garbage(ops, form.plan, hidden, operands)
    head_ = Head(hidden, weight, bias)
    return cast_like(ops, pulled_back(ops, form, head_, operands.logits, slope), head)


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
    ops: LinearOps, plan: Plan, hidden: Array, known: Operands
) -> tuple[Plan, Array, Operands]:
    """R16, R30: the call, with hidden states of 0 in dropped rows that are not finite.

    0 times NaN would be NaN. The logits that come of it are finite, so such rows have no gradient
    in any weight or label; others that are dropped have. Of logits the shape is asked for.
    """
    if not can_drop(plan):
        return plan, hidden, known
    examples = examples_of(ops, plan, known)
    if examples.dropped is None:
        return plan, hidden, known
    lost = ops.any(~ops.isfinite(ops.stop_gradient(hidden) * ROOM), plan.axis)
    counted, _ = with_divisor(ops, plan, known, examples)
    hidden = ops.where(counted.dropped & lost, 0.0, hidden)
    # Not where masses cancel: nothing counts then, which a mass that is another would undo.
    plan, known = _unlearnt(ops, plan, known, examples.dropped & lost)
    return plan, hidden, known


def _unlearnt(ops: LinearOps, plan: Plan, operands: Operands, rows: Array) -> tuple[Plan, Operands]:
    """The call, without gradients in weights and labels in some of the rows that are dropped.

    A sample weight that is a constant of 0 leaves none to anything, and labels of 0 are few steps
    where there are no sample weights.
    """
    dtype, is_dense = plan.compute_dtype, plan.label_kind == "dense"
    learnt = [operands.class_weight] if plan.class_weight else []
    if plan.sample_weight == "weight":
        learnt.append(operands.sample_weight)
    if is_dense and plan.labels_dtype.startswith(("float", "bfloat")):
        learnt.append(operands.labels)
    if all(ops.stop_gradient(one) is one for one in learnt):
        return plan, operands
    s = weights_of(ops, plan, operands).sample_weight
    if s is not None:
        s = ops.where(rows, 0.0, s)
    elif is_dense:
        labels = ops.where(rows, 0.0, ops.cast(operands.labels, dtype))
        return plan, operands._replace(labels=labels)
    else:
        plan, s = plan._replace(sample_weight="mask"), ops.cast(~rows, dtype)
    return plan, operands._replace(sample_weight=ops.squeeze(s, plan.axis))
