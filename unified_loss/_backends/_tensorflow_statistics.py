"""The row statistics of TensorFlow, with a backward made by hand that keeps graphs small."""

from typing import Any, NamedTuple

import tensorflow as tf

from unified_loss._ops import Ops
from unified_loss._statistics import INFINITY, Rows, Statistics
from unified_loss._types import Array, Plan


def row_statistics(ops: Ops, plan: Plan, x: Array, rows: Rows) -> Statistics:
    """What `_statistics.row_statistics` computes, in fewer arrays of the logits' size.

    What is not finite and does not count is replaced in the statistics, which are few, not in the
    logits; and `multiply_no_nan` is a product in which zeros of the second factor win. The
    backward is differentiable itself: second derivatives and forward mode go through it.
    """
    targeted, smoothed = plan.label_smoothing != 1, plan.label_smoothing != 0
    if not targeted:
        rows = rows._replace(ids=None, k=None)
    kernel = _Kernel(ops, plan.axis, rows, rows.w if smoothed else None, smoothed)

    @tf.custom_gradient
    def statistics(x: Array, *_: Array) -> Any:
        results, kept = kernel.forward(x)
        return results, lambda *slopes: kernel.backward(kept, *slopes[1:])

    m, l, p, q = statistics(x, *kernel.weights)
    return Statistics(m, l, p if targeted else None, q if smoothed else None)


class _Kept(NamedTuple):
    """What the backward needs of the forward."""

    f: Array
    e: Array  # exp f
    total: Array
    l: Array


class _Kernel(NamedTuple):
    ops: Ops
    axis: int
    rows: Rows
    w: Array | None  # class weights, if they are needed for each class
    smoothed: bool

    @property
    def weights(self) -> list[Array]:
        """The factors of f, which have gradients of their own."""
        return [weight for weight in (self.rows.k, self.w) if weight is not None]

    def forward(self, x: Array) -> tuple[tuple[Array, Array, Array, Array], _Kept]:
        """The statistics m, l, p and q; 0 for those that nobody asked for."""
        ops, axis, rows = self.ops, self.axis, self.rows
        m = tf.stop_gradient(tf.reduce_max(x, axis, keepdims=True))
        m = ops.where(m == -INFINITY, 0.0, m)  # such a row gives log 0, not inf - inf
        f = x - m
        e = tf.exp(f)
        total = ops.sum(e, axis)
        l = tf.math.log(total)
        p = q = tf.zeros_like(l)
        if rows.ids is not None:
            p = self._settled(_pick(ops, f, rows.ids, axis), rows.m)
        elif rows.k is not None:
            p = self._settled(self._weighted_sum(f, rows.k))
        if self.smoothed:
            q = self._settled(self._weighted_sum(f, self.w), rows.t)
        return (self._settled(m), self._settled(l), p, q), _Kept(f, e, total, l)

    def backward(self, kept: _Kept, dl: Array, dp: Array, dq: Array) -> list[Array]:
        """The slopes in the logits and in the weights, from those in the statistics."""
        ops, rows, w = self.ops, self.rows, self.w
        dx = tf.math.multiply_no_nan(kept.e, self._undropped(dl / kept.total))
        if self.smoothed:
            dq_x = self._undropped(dq)
            dx += dq_x if w is None else dq_x * w
        if rows.ids is not None:
            dx = _add_at(ops, dx, rows.ids, self._undropped(dp), self.axis)
        elif rows.k is not None:
            dx += self._undropped(dp) * rows.k
        return [dx, *self._weight_slopes(kept, dp, dq)]

    def _weight_slopes(self, kept: _Kept, dp: Array, dq: Array) -> list[Array]:
        ops, dropped, k, w = self.ops, self.rows.dropped, self.rows.k, self.w
        if dropped is not None:
            lost = dropped & ~ops.isfinite(kept.l)
            dp, dq = (ops.where(lost, 0.0, slope) for slope in (dp, dq))
        slopes = []
        if k is not None:
            # Without class weights, `_dense_rows` mutes zero labels on masked classes.
            f = kept.f if self.rows.w is None else _finite_where_zero(ops, kept.f, k)
            slopes.append(tf.math.multiply_no_nan(f, dp))
        if w is not None:
            f = _finite_where_zero(ops, kept.f, w)
            slopes.append(_sum_to(w, tf.math.multiply_no_nan(f, dq)))
        return slopes

    def _weighted_sum(self, f: Array, weight: Array | None) -> Array:
        product = f if weight is None else tf.math.multiply_no_nan(f, weight)
        return self.ops.sum(product, self.axis)

    def _settled(self, value: Array, coefficient: Any = None) -> Array:
        """0 in place of what is not finite and does not count."""
        idle = self.rows.dropped
        if tf.is_tensor(coefficient):
            idle = coefficient == 0 if idle is None else idle | (coefficient == 0)
        if idle is None:
            return value
        return self.ops.where(idle & ~self.ops.isfinite(value), 0.0, value)

    def _undropped(self, slope: Array) -> Array:
        dropped = self.rows.dropped
        return slope if dropped is None else self.ops.where(dropped, 0.0, slope)


def _pick(ops: Ops, x: Array, ids: Array, axis: int) -> Array:
    """The entry of `x` at `ids` along `axis`."""
    if x.shape.rank is None:
        return ops.sum(ops.where(_hit(ops, x, ids, axis), x, 0.0), axis)
    return tf.gather_nd(x, _places(ids, axis))


def _add_at(ops: Ops, x: Array, ids: Array, b: Array, axis: int) -> Array:
    """`x`, plus `b` at `ids` along `axis`."""
    if x.shape.rank is None:
        return ops.where(_hit(ops, x, ids, axis), x + b, x)
    places = _places(ids, axis)
    # `vectorized_map` knows updates, not additions.
    return tf.tensor_scatter_nd_update(x, places, tf.gather_nd(x, places) + b)


def _places(ids: Array, axis: int) -> Array:
    """The coordinates of the entries at `ids`; `vectorized_map` knows those in 32 bits only."""
    sizes = tf.unstack(tf.shape(ids))
    grid = tf.meshgrid(*(tf.range(size) for size in sizes), indexing="ij")
    grid[axis] = tf.cast(ids, tf.int32)
    return tf.stack(grid, -1)


def _hit(ops: Ops, x: Array, ids: Array, axis: int) -> Array:
    classes = tf.range(tf.cast(ops.size(x, axis), ids.dtype))
    return ids == ops.along(classes, x, axis)


def _finite_where_zero(ops: Ops, f: Array, weight: Array) -> Array:
    """`f` with 0 in place of a -inf that a zero weight multiplies."""
    return ops.where((weight == 0) & (f == -INFINITY), 0.0, f)


def _sum_to(like: Array, x: Array) -> Array:
    """The gradient of broadcasting `like` to the shape of `x`."""
    axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(like), s1=tf.shape(x))
    return tf.reshape(tf.reduce_sum(x, axes), tf.shape(like))
