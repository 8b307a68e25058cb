"""The linear form on JAX, of classes that are split over mesh axes inside `jax.shard_map`.

All members have hidden, each of which makes something else of it. It is told to differ between
them before the walk, so that its gradient is added up once, and not in each block.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unified_loss._backends import _jax_kernels as kernels
from unified_loss._backends._jax_groups import refuse_replicas, varied
from unified_loss._backends._jax_linear import Given, Layout, hollow_of, statistics
from unified_loss._linear import _split as split
from unified_loss._linear import _two_steps as two_steps
from unified_loss._linear import _walks as walks
from unified_loss._linear._tiles import Sums as TileSums
from unified_loss._ops import INFINITY
from unified_loss._split_classes import (
    Part,
    Sums,
    highest_label,
    labels_of,
    of_all,
    part_of,
    silent_rows,
    sums_of_labels,
    without_broken,
)
from unified_loss._statistics import combine
from unified_loss._types import Array, Form, Head, Operands, Plan


class Call(NamedTuple):
    """A call laid out flat, in the compute dtype."""

    layout: Layout
    plan: Plan
    head: Head
    operands: Operands
    batch: tuple[int, ...]
    ids: Array | None  # less the first class here; -1 for all that are not here
    labels: Array | None  # dense ones
    silent: Array | None


def loss_of(ops: Any, layout: Layout, form: Form, head: Head, operands: Operands) -> Array:
    """The loss, differentiable in every argument."""
    call = _call_of(ops, layout, form, head, operands)
    found = _walk(ops, call, call.head)
    part, high = _part_of(ops, call, found)
    total, number = ops.added_over_all(call.plan, _sums(ops, call, part, found), layout.classes)
    return _value(ops, call, part, high, total, number)


def loss_and_gradients_of(
    ops: Any, layout: Layout, form: Form, head: Head, operands: Operands
) -> tuple[Array, Head]:
    """The loss and the gradients of its sum.

    The slopes go back from what all members know, so that it does not matter what JAX takes the
    transpose of a sum over members for.
    """
    call = _call_of(ops, layout, form, head, operands)
    found, pull_walk = jax.vjp(lambda head: _walk(ops, call, head), call.head)
    part, high = _part_of(ops, call, found)
    own, pull_sums = jax.vjp(lambda found: _sums(ops, call, part, found), found)
    total, number = ops.added_over_all(call.plan, own, layout.classes)
    value, pull = jax.vjp(lambda total: _value(ops, call, part, high, total, number), total)
    names = call.plan.class_group
    slopes = jax.tree.map(lambda slope: varied(slope, names), *pull(jnp.ones_like(value)))
    (slopes,) = pull_walk(*pull_sums(slopes))
    slopes = slopes._replace(hidden=jax.lax.psum(slopes.hidden, names).reshape(head.hidden.shape))
    return value, two_steps.cast_like(ops, slopes, head)


def _call_of(ops: Any, layout: Layout, form: Form, head: Head, operands: Operands) -> Call:
    names = form.plan.class_group
    refuse_replicas(head.weight, names, "weight")
    flat = walks.flattened(ops, form, head, operands)
    plan = flat.plan
    hidden, weight, bias = two_steps.in_compute_dtype(ops, plan, flat.head)
    known = flat.operands._replace(logits=hollow_of(form, Head(hidden, weight, bias)))
    ids = labels = None
    if plan.label_kind == "index":
        start = jax.lax.axis_index(names) * layout.classes
        ids = ops.less(ops.expand(known.labels, 1), start)
        ids = jnp.where((ids >= 0) & (ids < layout.classes), ids, -1)
    else:
        labels = labels_of(ops, plan, known, known.logits)
    head = Head(varied(hidden, names), weight, bias)
    return Call(layout, plan, head, known, flat.batch, ids, labels, silent_rows(ops, plan, known))


def _walk(ops: Any, call: Call, head: Head) -> TileSums:
    """The statistics of the classes here, with p of class ids less their own maximum."""
    layout, plan = call.layout, call.plan
    hidden, weight, bias = head
    if two_steps.can_drop(plan):
        hidden = kernels.factors(hidden, jnp.zeros((), hidden.dtype), _lost(ops, hidden))
    t = w = None
    if plan.class_weight:
        w = jnp.asarray(call.operands.class_weight, plan.compute_dtype)
    if call.labels is not None and layout.has_p:
        part = Part(call.labels, call.labels, w, None, None, None, call.silent)
        t, _ = without_broken(ops, plan, part)
    given = Given(hidden, weight, bias, t, w if layout.has_q or t is not None else None)
    (m, l, p, q), _ = statistics(layout, given, call.ids if layout.has_p else None, call.silent)
    m = jnp.where(l == -INFINITY, -INFINITY, jax.lax.stop_gradient(m))
    return TileSums(m, jnp.exp(l), p, q, None, None)


def _lost(ops: Any, hidden: Array) -> Array:
    """Rows that are not finite, whose logits are NaN; which of them are dropped all must tell."""
    return ops.any(~ops.isfinite(jax.lax.stop_gradient(hidden)), 1)


def _part_of(ops: Any, call: Call, found: TileSums) -> tuple[Part, Array | None]:
    plan = call.plan
    high = None
    if call.labels is not None:
        high = highest_label(ops, plan, call.operands, call.labels)
    m = split.highest_of(ops, found)
    if two_steps.can_drop(plan):
        m = jnp.where(_lost(ops, call.head.hidden), INFINITY, m)
    return part_of(ops, plan, call.operands, m, call.labels, high)


def _sums(ops: Any, call: Call, part: Part, found: TileSums) -> Sums:
    known = sums_of_labels(ops, call.plan, part)
    return split.sums_of_walk(ops, call.plan, part, known, found)


def _value(ops: Any, call: Call, part: Part, high: Array | None, total: Sums, number: Any) -> Array:
    plan = call.plan
    known = of_all(ops, plan, call.operands, part, high, total, number)
    value = combine(ops, plan, *known)
    return value.reshape(call.batch) if plan.reduction == "none" else value
