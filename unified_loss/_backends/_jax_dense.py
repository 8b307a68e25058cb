"""The loss of dense labels, which XLA on a processor computes in few passes where all is finite.

A loss that is not, or whose examples do not all count, is computed again with care. So is its
gradient in the logits. All other derivatives are those of the careful one, and so is what is
mapped or split over devices.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero

from unified_loss._backends import _jax_kernels as kernels
from unified_loss._backends._jax_operands import split
from unified_loss._ops import INFINITY, KernelOps
from unified_loss._statistics import loss_of as careful_loss_of
from unified_loss._types import Array, Operands, Plan


def serves(plan: Plan, operands: Operands) -> bool:
    """Whether a plan has nothing but what is computed here, on one device as far as is known."""
    is_other = plan.class_weight or plan.z_loss or plan.normalizer or plan.class_group
    is_dense = plan.label_kind == "dense" and plan.sample_weight == "none"
    is_whole = jax.sharding.get_abstract_mesh().empty and not any(split(operands.logits))
    return is_dense and is_whole and plan.reduction != "none" and not is_other


def loss_of(ops: KernelOps, plan: Plan, operands: Operands) -> Array:
    """The loss of a call."""
    return _loss(ops, plan, operands.logits, operands.labels)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _loss(ops: KernelOps, plan: Plan, logits: Array, labels: Array) -> Array:
    return _where_it_may(_hopeful, _careful, ops, plan, logits, labels)


@partial(_loss.defjvp, symbolic_zeros=True)
def _loss_jvp(ops: KernelOps, plan: Plan, primals: Any, tangents: Any) -> Any:
    moving = [i for i, each in enumerate(tangents) if not isinstance(each, SymbolicZero)]
    if moving == [0]:
        value, slope = _loss_and_slope(ops, plan, *primals)
        return value, jnp.sum(slope * ops.cast(tangents[0], plan.compute_dtype))

    def of(*chosen: Array) -> Array:
        arrays = dict(enumerate(primals)) | dict(zip(moving, chosen, strict=True))
        return _careful(ops, plan, *arrays.values())

    return jax.jvp(of, [primals[i] for i in moving], [tangents[i] for i in moving])


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _loss_and_slope(
    ops: KernelOps, plan: Plan, logits: Array, labels: Array
) -> tuple[Array, Array]:
    return _where_it_may(_hopeful_with_slope, _careful_with_slope, ops, plan, logits, labels)


@_loss_and_slope.defjvp
def _loss_and_slope_jvp(ops: KernelOps, plan: Plan, primals: Any, tangents: Any) -> Any:
    return jax.jvp(partial(_careful_with_slope, ops, plan), primals, tangents)


def _where_it_may(
    hope: Callable[..., Any], care: Callable[..., Any], ops: KernelOps, plan: Plan, *arrays: Array
) -> Any:
    """What `hope` finds on a processor; what `care` does elsewhere, and for each of many."""
    careful = partial(care, ops, plan)
    hopeful = custom_vmap(partial(hope, ops, plan))

    @hopeful.def_vmap
    def _mapped(_: int, are_mapped: list[bool], *arrays: Array) -> tuple[Any, Any]:
        axes = [0 if is_mapped else None for is_mapped in are_mapped]
        found = jax.vmap(careful, in_axes=axes)(*arrays)  # a branch would be a choice
        return found, jax.tree.map(lambda _: True, found)

    return jax.lax.platform_dependent(*arrays, cpu=hopeful, default=careful)


def _careful(ops: KernelOps, plan: Plan, logits: Array, labels: Array) -> Array:
    return careful_loss_of(ops, plan, Operands(logits, labels, None, None, None))


def _careful_with_slope(
    ops: KernelOps, plan: Plan, logits: Array, labels: Array
) -> tuple[Array, Array]:
    value, slope = jax.value_and_grad(partial(_careful, ops, plan))(logits, labels)
    return value, ops.cast(slope, plan.compute_dtype)


def _hopeful(ops: KernelOps, plan: Plan, logits: Array, labels: Array) -> Array:
    """By log-probabilities, so that rows of zeros cost 0: where none does, all of them count."""

    def over(divisor: Any, _: Array, __: Array, total: Array, *___: Array) -> Array:
        return total / divisor

    return _over_what_counts(over, _careful, ops, plan, logits, labels)


def _hopeful_with_slope(
    ops: KernelOps, plan: Plan, logits: Array, labels: Array
) -> tuple[Array, Array]:
    def over(
        divisor: Any, logits: Array, labels: Array, total: Array, m: Array, sums: Array
    ) -> tuple[Array, Array]:
        x, t = ops.cast(logits, plan.compute_dtype), _smoothed(ops, plan, logits, labels)
        of_row = ops.sum(t, plan.axis) / (divisor * sums)
        return total / divisor, of_row * jnp.exp(x - m) - t / divisor

    return _over_what_counts(over, _careful_with_slope, ops, plan, logits, labels)


def _over_what_counts(
    over: Callable[..., Any],
    care: Callable[..., Any],
    ops: KernelOps,
    plan: Plan,
    logits: Array,
    labels: Array,
) -> Any:
    """What `over` makes of a divisor, logits, labels, the sum of the losses and the softmax's.

    What `care` makes of logits and labels, if that sum is not finite.
    """
    axis, dtype = plan.axis, plan.compute_dtype
    x, t = ops.cast(logits, dtype), _smoothed(ops, plan, logits, labels)
    m = ops.max(x, axis)
    f = x - m
    sums = ops.sum(jnp.exp(f), axis)
    gains = kernels.apart(ops.sum(t * (f - jnp.log(sums)), axis))
    total = -jnp.sum(gains)  # negated by the row, they take XLA twice as long

    rows = ops.count_rows(logits, axis, dtype)

    def over_some(*known: Array) -> Any:
        number = ops.count(ops.any(known[1] != 0, axis), dtype)
        return over(jnp.where(number == 0, INFINITY, number), *known)

    def again(logits: Array, labels: Array, *_: Array) -> Any:
        return care(ops, plan, logits, labels)

    is_finite, known = jnp.isfinite(total), (logits, labels, total, m, sums)
    if plan.reduction == "sum":
        return jax.lax.cond(is_finite, partial(over, 1), again, *known)
    all_cost = ops.count(gains != 0, dtype) == rows
    case = jnp.where(is_finite, jnp.where(all_cost, 0, 1), 2)
    return jax.lax.switch(case, (partial(over, rows), over_some, again), *known)


def _smoothed(ops: KernelOps, plan: Plan, logits: Array, labels: Array) -> Array:
    """The label rows with their share of smoothing."""
    t, epsilon = ops.cast(labels, plan.compute_dtype), plan.label_smoothing
    if not epsilon:
        return t
    return (1 - epsilon) * t + epsilon / logits.shape[plan.axis] * ops.sum(t, plan.axis)
