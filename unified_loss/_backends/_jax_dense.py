"""The loss of dense labels, which XLA on a processor computes in one pass where all is finite.

A loss that is not, or whose examples do not all count, is computed again with care. Derivatives
are always those of the careful one, and so is what is mapped or split over devices.
"""

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
    careful = partial(_careful, ops, plan)
    hopeful = custom_vmap(partial(_hopeful, ops, plan))

    @hopeful.def_vmap
    def _mapped(_: int, are_mapped: list[bool], *arrays: Array) -> tuple[Array, bool]:
        axes = [0 if is_mapped else None for is_mapped in are_mapped]
        return jax.vmap(careful, in_axes=axes)(*arrays), True  # a branch would be a choice

    return jax.lax.platform_dependent(logits, labels, cpu=hopeful, default=careful)


@partial(_loss.defjvp, symbolic_zeros=True)
def _loss_jvp(ops: KernelOps, plan: Plan, primals: Any, tangents: Any) -> Any:
    moving = [i for i, each in enumerate(tangents) if not isinstance(each, SymbolicZero)]

    def of(*chosen: Array) -> Array:
        arrays = dict(enumerate(primals)) | dict(zip(moving, chosen, strict=True))
        return _careful(ops, plan, *arrays.values())

    return jax.jvp(of, [primals[i] for i in moving], [tangents[i] for i in moving])


def _careful(ops: KernelOps, plan: Plan, logits: Array, labels: Array) -> Array:
    return careful_loss_of(ops, plan, Operands(logits, labels, None, None, None))


def _hopeful(ops: KernelOps, plan: Plan, logits: Array, labels: Array) -> Array:
    """By log-probabilities, so that rows of zeros cost 0: where none does, all of them count."""
    axis, dtype, epsilon = plan.axis, plan.compute_dtype, plan.label_smoothing
    x, t = ops.cast(logits, dtype), ops.cast(labels, dtype)
    f = x - ops.max(x, axis)
    log_p = f - jnp.log(ops.sum(jnp.exp(f), axis))
    if epsilon:
        t = (1 - epsilon) * t + epsilon / x.shape[axis] * ops.sum(t, axis)
    gains = kernels.apart(ops.sum(t * log_p, axis))
    total = -jnp.sum(gains)  # negated by the row, they take XLA twice as long

    rows = ops.count_rows(logits, axis, dtype)

    def over_all(logits: Array, labels: Array, total: Array) -> Array:
        return total / rows

    def over_some(logits: Array, labels: Array, total: Array) -> Array:
        number = ops.count(ops.any(labels != 0, axis), dtype)
        return total / jnp.where(number == 0, INFINITY, number)

    def again(logits: Array, labels: Array, total: Array) -> Array:
        return _careful(ops, plan, logits, labels)

    is_finite = jnp.isfinite(total)
    if plan.reduction == "sum":
        return jax.lax.cond(is_finite, lambda *all_of: all_of[-1], again, logits, labels, total)
    all_cost = ops.count(gains != 0, dtype) == rows
    case = jnp.where(is_finite, jnp.where(all_cost, 0, 1), 2)
    return jax.lax.switch(case, (over_all, over_some, again), logits, labels, total)
