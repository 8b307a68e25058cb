"""The row statistics of TensorFlow, with a backward made by hand that keeps graphs small."""

from typing import Any, NamedTuple

import tensorflow as tf

from unified_loss._examples import Examples, either, has_smoothed_labels
from unified_loss._ops import INFINITY, Ops
from unified_loss._statistics import Statistics
from unified_loss._types import Array, Plan


def row_statistics(
    ops: Ops, plan: Plan, x: Array, m: Array, examples: Examples, *, apart: bool = False
) -> Statistics:
    """What `_statistics.row_statistics` computes, in fewer arrays of the logits' size.

    Without options l - p stands for l, unless they are asked for `apart`.

    What is not finite and does not count is replaced in the statistics, which are few, not in the
    logits; and `multiply_no_nan` is a product in which zeros of the second factor win. The
    backward is differentiable itself: second derivatives and forward mode go through it.
    """
    targeted = plan.label_smoothing != 1
    smoothed = plan.label_smoothing != 0 and not has_smoothed_labels(plan)
    factors = examples.weighted_labels, examples.class_weight, examples.sample_weight
    teaches = any(factor is not None for factor in factors)
    if not targeted:
        examples = examples._replace(ids=None, weighted_labels=None)
    merged = examples.ids is not None and not (smoothed or plan.z_loss or apart)
    w = examples.class_weight if smoothed else None
    kernel = _Kernel(ops, plan.axis, examples, w, smoothed, merged, teaches)
    m = tf.maximum(m, x.dtype.min)  # a row of -inf gives log 0, not inf - inf

    @tf.custom_gradient
    def statistics(x: Array, *_: Array) -> Any:
        results, kept = kernel.forward(x, m)
        return results, lambda *slopes: kernel.backward(kept, slopes)

    l, *others = statistics(x, *kernel.weights)
    if merged:
        return Statistics(m, l, None, None)
    return Statistics(m, l, others[0] if targeted else None, others[-1] if smoothed else None)


class _Kept(NamedTuple):
    """What the backward needs of the forward."""

    f: Array
    e: Array  # exp f
    total: Array  # 1 in lost rows
    lost: Array | None  # examples that do not count, and have no finite l
    muted: list[Array | None]  # where each statistic is 0, for want of a finite number


class _Kernel(NamedTuple):
    ops: Ops
    axis: int
    examples: Examples
    w: Array | None  # class weights, if they are needed for each class
    smoothed: bool
    merged: bool  # l and p have the same coefficient, and l - p stands for l
    teaches: bool  # statistics of dropped examples are the gradients of weights or labels

    @property
    def weights(self) -> list[Array]:
        """The factors of f, which have gradients of their own."""
        return [weight for weight in (self.examples.weighted_labels, self.w) if weight is not None]

    def forward(self, x: Array, m: Array) -> tuple[list[Array], _Kept]:
        """The statistics l (or l - p), p and q, as far as they are asked for."""
        ops, axis, examples = self.ops, self.axis, self.examples
        f = x - m
        e = _exp(f)
        total = ops.sum(e, axis)
        lost = None
        if examples.dropped is not None:
            lost = examples.dropped & ~((total > 0) & (total < INFINITY))
            total = ops.where(lost, 1.0, total)
        l = tf.math.log(total)  # 0 where lost
        settled = [(l, lost)]
        if self.merged:
            settled = [self._settled(lost, l - pick(ops, f, examples.ids, axis))]
        elif examples.ids is not None:
            # Smoothing keeps examples whose own class has weight 0.
            weight = None if self.w is None else examples.label_mass
            settled.append(self._settled(lost, pick(ops, f, examples.ids, axis), weight))
        elif examples.weighted_labels is not None:
            settled.append(self._settled(lost, self._weighted_sum(f, examples.weighted_labels)))
        if self.smoothed:
            q = self._weighted_sum(f, self.w)
            settled.append(self._settled(lost, q, examples.label_total))
        results, muted = map(list, zip(*settled, strict=True))
        return results, _Kept(f, e, total, lost, muted)

    def backward(self, kept: _Kept, slopes: tuple[Array, ...]) -> list[Array]:
        """The slopes in the logits and in the weights, from those in the statistics."""
        ops, examples, w = self.ops, self.examples, self.w
        if kept.lost is not None:
            # The slopes of other dropped examples are 0, and carry the gradients of their weights.
            slopes = tuple(ops.where(kept.lost, 0.0, slope) for slope in slopes)
        dl, dp, dq = slopes[0], -slopes[0] if self.merged else slopes[1], slopes[-1]
        dx = tf.math.multiply_no_nan(kept.e, dl / kept.total)
        target, shift = dp, None
        if self.smoothed:
            shift = dq if w is None else dq * w
        if examples.weighted_labels is not None:
            dx += target * examples.weighted_labels
        elif examples.ids is not None and (self.smoothed or dx.shape.rank is None):
            # A comparison fuses with the addition.
            hit = _hit(ops, kept.f, examples.ids, self.axis)
            shift = 0.0 if shift is None else shift
            shift = ops.where(hit, shift + target, shift)
        elif examples.ids is not None:
            # `vectorized_map` knows updates, not additions, and those at places of 32 bits alone.
            entries = pick(ops, dx, examples.ids, self.axis) + target
            places = _coordinates(ops, tf.cast(examples.ids, tf.int32), self.axis)
            if len(places) > 2:
                places = [tf.broadcast_to(place, tf.shape(examples.ids)) for place in places]
            dx = tf.tensor_scatter_nd_update(dx, tf.stack(places, -1), entries)
        if shift is not None:
            dx += shift
        return [dx, *self._weight_slopes(kept, dp, dq)]

    def _weight_slopes(self, kept: _Kept, dp: Array, dq: Array) -> list[Array]:
        k, w = self.examples.weighted_labels, self.w
        slopes = []
        if k is not None:
            # Without class weights, `_of_dense_labels` mutes zero labels on masked classes.
            zero = None if self.examples.class_weight is None else k == 0
            f = masked_as_zero(kept.f, either(zero, kept.muted[1]))
            slopes.append(tf.math.multiply_no_nan(f, dp))
        if w is not None:
            f = masked_as_zero(kept.f, either(w == 0, kept.muted[-1]))
            slopes.append(_sum_to(w, tf.math.multiply_no_nan(f, dq)))
        return slopes

    def _weighted_sum(self, f: Array, weight: Array | None) -> Array:
        product = f if weight is None else tf.math.multiply_no_nan(f, weight)
        return self.ops.sum(product, self.axis)

    def _settled(
        self, lost: Array | None, value: Array, coefficient: Any = None
    ) -> tuple[Array, Array | None]:
        """0 in place of what is not finite and does not count, and where l is lost; and where.

        There a sum may be finite: XLA loses NaN in maxima, and zeros of weights win over the rest.
        """
        if not self.teaches:
            return self._undropped(value), lost
        silent = self.examples.dropped
        if tf.is_tensor(coefficient):
            silent = either(silent, coefficient == 0)
        if silent is None:
            return value, None
        muted = either(lost, silent & ~self.ops.isfinite(value))
        return self.ops.where(muted, 0.0, value), muted

    def _undropped(self, value: Array) -> Array:
        dropped = self.examples.dropped
        return value if dropped is None else self.ops.where(dropped, 0.0, value)


@tf.custom_gradient
def _exp(f: Array) -> Any:
    """The exponential; where no slope arrives none leaves, NaN or not."""
    e = tf.exp(f)
    return e, lambda slope: tf.math.multiply_no_nan(e, slope)


def pick(ops: Ops, x: Array, ids: Array, axis: int) -> Array:
    """The entry of `x` at `ids` along `axis`."""
    rank = x.shape.rank
    if rank is None:
        return ops.sum(ops.where(_hit(ops, x, ids, axis), x, 0.0), axis)
    if axis == rank - 1:
        return tf.gather(x, ids, axis=axis, batch_dims=axis)
    # `vectorized_map` knows gathers by coordinates only where the logits differ as well.
    places, *others = _coordinates(ops, ids, axis)
    for i, coordinates in enumerate(others, 1):
        places = places * tf.cast(ops.size(x, i), ids.dtype) + coordinates
    return tf.gather(tf.reshape(x, [-1]), places)


def _coordinates(ops: Ops, ids: Array, axis: int) -> list[Array]:
    """The coordinates of the entries at `ids`, which broadcast."""
    sizes = [tf.cast(ops.size(ids, i), ids.dtype) for i in range(ids.shape.rank)]
    return [ids if i == axis else ops.along(tf.range(size), ids, i) for i, size in enumerate(sizes)]


def _hit(ops: Ops, x: Array, ids: Array, axis: int) -> Array:
    classes = tf.range(tf.cast(ops.size(x, axis), ids.dtype))
    return ids == ops.along(classes, x, axis)


def masked_as_zero(f: Array, where: Array | None) -> Array:
    """`f` with 0 in place of a -inf, where that has no influence."""
    return f if where is None else tf.where(where & (f == -INFINITY), tf.zeros([], f.dtype), f)


def _sum_to(like: Array, x: Array) -> Array:
    """The gradient of broadcasting `like` to the shape of `x`."""
    axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(like), s1=tf.shape(x))
    return tf.reshape(tf.reduce_sum(x, axes), tf.shape(like))
