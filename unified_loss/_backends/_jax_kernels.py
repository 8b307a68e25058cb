"""The functions of JAX that have derivatives of their own.

What the derivative of a call keeps for its backward are the logits and a few numbers a row, from
which arrays of their size are made again, where they fuse with what follows.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.lax import optimization_barrier

from unified_loss._backends._jax_operands import layout, split
from unified_loss._ops import INFINITY
from unified_loss._types import Array

_remade = partial(jax.checkpoint, prevent_cse=False, static_argnums=0)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def log_sum_exp(
    axis: int,
    is_apart: bool,  # noqa: FBT001 (custom_jvp knows no keywords)
    x: Array,
    m: Array,
    dropped: Array | None,
) -> Array:
    """Log sum exp(x - m), with m a constant, and without a slope where dropped and not finite.

    That is seen in the sum, as a maximum may have lost a NaN (`Ops.maxima_lose_nan`).
    `is_apart`: another sum needs x - m as well, which XLA on a processor would write out.
    """
    if is_apart:
        m = jax.lax.platform_dependent(m, cpu=optimization_barrier, default=lambda same: same)
    return jnp.log(jnp.sum(jnp.exp(x - m), axis, keepdims=True))


@log_sum_exp.defjvp
def _log_sum_exp_jvp(axis: int, is_apart: bool, primals: Any, tangents: Any) -> Any:  # noqa: FBT001
    x, m, dropped = primals
    l = log_sum_exp(axis, is_apart, *primals)
    dead = None if dropped is None else dropped & ~jnp.isfinite(l)
    scale = jnp.exp(-l if dead is None else jnp.where(dead, 0.0, -l))
    return l, scale * _remade(_exp_times)(axis, x, m, dead, tangents[0])


@jax.custom_jvp
def factors(x: Array, m: Array, lost: Array) -> Array:
    """The factors x - m, which are 0 and have a slope of 1 where lost (`SplitOps.factors`)."""
    return jnp.where(lost, 0.0, x - m)


@factors.defjvp
def _factors_jvp(primals: Any, tangents: Any) -> Any:
    return factors(*primals), tangents[0]


@jax.custom_jvp
def apart(rows: Array) -> Array:
    """`rows`, which XLA on a processor writes out by one loop.

    A choice keeps them out of the sum that follows, which would else take all arithmetic along,
    and leave a loop for each choice that it is made of.
    """
    return jax.lax.platform_dependent(rows, cpu=_chosen, default=lambda same: same)


@apart.defjvp
def _apart_jvp(primals: Any, tangents: Any) -> Any:
    return apart(*primals), tangents[0]


def _chosen(rows: Array) -> Array:
    return jnp.where(jnp.isnan(rows), jnp.nan, rows)


def _exp_times(axis: int, x: Array, m: Array, dead: Array | None, dx: Array) -> Array:
    return jnp.sum(_exp(x, m, dead) * dx, axis, keepdims=True)


@jax.custom_jvp
def _exp(x: Array, m: Array, dead: Array | None) -> Array:
    """exp(x - m), and 0 in rows that are `dead`, in all derivatives too."""
    e = jnp.exp(x - m)  # as in the forward, which a compiler sees
    return e if dead is None else jnp.where(dead, 0.0, e)


@_exp.defjvp
def _exp_jvp(primals: Any, tangents: Any) -> Any:
    e = _exp(*primals)
    return e, e * tangents[0]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def weighted_sum(
    axis: int, weights: Array, x: Array, m: Array, dead: Array | None, silent: Array | None
) -> Array:
    """Sum of weights times x - m, a -inf as 0 at a weight of 0; in silent rows finite, or 0.

    Its slopes ask nothing of the sum, so that a gradient alone does not compute it.
    """
    by_product, by_selection = (
        partial(sum_, axis) for sum_ in (_sum_by_product, _sum_by_selection)
    )
    total = jax.lax.platform_dependent(weights, x, m, cpu=by_product, default=by_selection)
    return total if silent is None else jnp.where(silent & ~jnp.isfinite(total), 0.0, total)


@partial(weighted_sum.defjvp, symbolic_zeros=True)
def _weighted_sum_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    value = weighted_sum(axis, *primals)
    slope = jnp.zeros_like(value)
    for kernel, tangent in zip((_slope_in_weights, _slope_in_x), tangents, strict=False):
        if not isinstance(tangent, SymbolicZero):
            slope += _remade(kernel)(axis, *primals, tangent)
    return value, slope


def _sum_by_selection(axis: int, weights: Array, x: Array, m: Array) -> Array:
    f = x - m
    f = jnp.where((weights == 0) & (f == -INFINITY), 0.0, f)
    return jnp.sum(weights * f, axis, keepdims=True)


def _sum_by_product(axis: int, weights: Array, x: Array, m: Array) -> Array:
    """The same of factors up to 0; a selection in a sum takes XLA four times as long here.

    A factor falls as far as to 0 at a weight of 0, and to -inf at others. Two products get there;
    XLA would make one of them, by infinity, but for what stands between.
    """
    weights, x, m = optimization_barrier((weights, x, m))  # or it writes out what sums share
    largest = jnp.finfo(x.dtype).max
    lowest = jnp.abs(weights * largest) * -largest
    return jnp.sum(weights * jnp.maximum(x - m, lowest), axis, keepdims=True)


def _slope_in_weights(axis: int, *operands: Any) -> Array:
    *primals, tangent = operands
    _, x, m, _, _ = primals
    return jnp.sum(tangent * jnp.where(_is_muted(*primals), 0.0, x - m), axis, keepdims=True)


def _slope_in_x(axis: int, *operands: Any) -> Array:
    *primals, tangent = operands
    weights = primals[0]
    return jnp.sum(weights * jnp.where(_is_muted(*primals), 0.0, tangent), axis, keepdims=True)


def _is_muted(
    weights: Array, x: Array, m: Array, dead: Array | None, silent: Array | None
) -> Array:
    f = x - m
    muted = (weights == 0) & (f == -INFINITY)
    if silent is not None:
        muted = muted | (silent & ~jnp.isfinite(f))
    return muted if dead is None else muted | dead


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def pick(axis: int, x: Array, ids: Array) -> Array:
    """The entry of `x` at `ids`; its gradient is a comparison, which fuses, and no scatter."""
    if split(x) == split(ids):
        return jnp.take_along_axis(x, ids, axis, mode="promise_in_bounds")
    return compare_and_sum(axis, x, ids)  # nothing gathers along an axis that is split


@pick.defjvp
def _pick_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    x, ids = primals
    return pick(axis, x, ids), _remade(compare_and_sum)(axis, tangents[0], ids)


def compare_and_sum(axis: int, x: Array, ids: Array) -> Array:
    """`pick` by a comparison."""
    return jnp.sum(jnp.where(is_at(ids, x, axis), x, 0.0), axis, keepdims=True)


def is_at(ids: Array, like: Array, axis: int) -> Array:
    """Where the entries of `like` at `ids` are."""
    where = layout(like, *split(like))
    return ids == jax.lax.broadcasted_iota(ids.dtype, like.shape, axis, out_sharding=where)
