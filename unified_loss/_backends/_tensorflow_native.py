"""TensorFlow's own losses, where they do what a call asks for and prove that nothing needed care.

They serve eager calls on a processor alone, where labels and losses are read without waiting.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from unified_loss._ops import INFINITY
from unified_loss._shapes import without
from unified_loss._types import Array, Operands, Plan

_IDS = frozenset({tf.int32, tf.int64})  # what the loss of class ids takes
_FEW_BITS = frozenset({"int4", "uint4"})  # which can become integers alone
LONG = 2**17  # classes, whose shares of smoothing lose digits where they are added to a whole label


def cast(x: Array, dtype: str) -> Array:
    """`x` as a tensor of `dtype`."""
    if x.dtype.name in _FEW_BITS:
        x = tf.cast(x, tf.int8)
    return x if x.dtype == dtype else tf.cast(x, dtype)


def has_native_loss(plan: Plan) -> bool:
    """Whether TensorFlow's own losses can say what the plan says."""
    if plan.z_loss or (plan.normalizer and (plan.class_weight or plan.sample_weight != "none")):
        return False  # which they have not; whether weights add up to nothing is told by their sum
    if plan.label_kind == "dense" and plan.label_smoothing == 1:
        return False  # which leaves nothing of the labels but their sums
    if plan.label_kind == "index" and plan.label_smoothing and plan.num_classes > LONG:
        return False
    return not (plan.below or plan.above)  # an error of TensorFlow's


def native_loss(plan: Plan, operands: Operands) -> Array | None:
    """TensorFlow's own loss; None unless it proves that nothing needed care.

    What does is never a finite sum of losses above 0, since what does not count is multiplied by
    0: NaN and infinities, in dropped rows too, and where nothing counts.
    """
    logits = _as_rows(plan, cast(operands.logits, plan.compute_dtype))
    if plan.label_kind == "dense":
        weighed = _loss_of_rows(plan, operands, logits)
        if not weighed.losses.numpy().all():
            return None  # a row of which nothing counts costs nothing, and has no mass
    else:
        weighed = _loss_of_ids(plan, operands, logits)
    value = _reduced(plan, operands, weighed)
    found = value.numpy()
    if plan.reduction == "none":
        if np.signbit(found).any():
            return None  # perhaps of a 0
        found = found.sum()
    return value if 0 < found < INFINITY else None


class _Weighed(NamedTuple):
    """The losses of a call, and what they weigh; None: 1 each.

    Both are tensors, or of NumPy where they say no more than which examples are not ignored.
    """

    losses: Array  # one an example
    factor: Any  # what each is multiplied by
    mass: Any  # what adds up to the divisor of their mean


def _loss_of_ids(plan: Plan, operands: Operands, logits: Array) -> _Weighed:
    """The losses of class ids, which are no class ids where they are ignored."""
    w, s, dtype = operands.class_weight, _of_examples(plan, operands), plan.compute_dtype
    ids, kept = _ids(plan, operands.labels)
    if w is not None:
        # The gradient of a reshape is dense, that of a gather alone is not.
        w = tf.reshape(cast(w, dtype), [-1])
    if not plan.label_smoothing:
        losses, _ = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=ids)
        mass = _product(None if w is None else tf.gather(w, ids), s, kept)
        return _Weighed(losses, mass, mass)
    share = plan.label_smoothing / plan.num_classes
    whole = 1 - plan.label_smoothing + share
    k = tf.one_hot(ids, plan.num_classes, -whole, -share, dtype=dtype)
    factor = mass = _product(s, kept)
    if w is not None:
        k = k * w
        if plan.reduction == "mean" and s is not None:
            mass = tf.gather(w, ids) * factor
        elif plan.reduction == "mean":
            mass = w * np.bincount(ids.numpy(), kept, plan.num_classes).astype(dtype)
    return _Weighed(tf.reduce_sum(k * tf.nn.log_softmax(logits), 1), factor, mass)


def _ids(plan: Plan, labels: Array) -> tuple[Array, Any]:
    """Class ids, 0 for what is ignored, and 1 or 0 for each: whether it is not; None: all are 1.

    What labels alone say is found by NumPy, whose operations take less to start.
    """
    if plan.ignore_index is None:
        ids = labels if labels.dtype in _IDS else tf.cast(labels, tf.int64)
        return ids if ids.shape.rank == 1 else tf.reshape(ids, [-1]), None
    values = labels.numpy().reshape(-1)
    kept = values != plan.ignore_index
    ids = tf.constant(np.where(kept, values, 0).astype(np.int64, copy=False))
    return ids, kept.astype(plan.compute_dtype)


def _loss_of_rows(plan: Plan, operands: Operands, logits: Array) -> _Weighed:
    """The losses of dense labels, by log-softmax, since TensorFlow's own means something else."""
    w, s, dtype = operands.class_weight, _of_examples(plan, operands), plan.compute_dtype
    k = labels = _as_rows(plan, cast(operands.labels, dtype))
    mass = s
    if plan.label_smoothing:
        share = plan.label_smoothing / (1 - plan.label_smoothing) / plan.num_classes
        k = labels + share * tf.reduce_sum(labels, 1, keepdims=True)
    if w is not None:
        w = cast(w, dtype)
        k = k * w
        if plan.reduction == "mean":
            own = labels * w if plan.label_smoothing else k
            mass = _product(tf.reduce_sum(own, 1), s)
    losses = (plan.label_smoothing - 1) * tf.reduce_sum(k * tf.nn.log_softmax(logits), 1)
    return _Weighed(losses, s, mass)


def _reduced(plan: Plan, operands: Operands, weighed: _Weighed) -> Array:
    """The losses, weighted and reduced."""
    losses, factor, mass = weighed
    is_divided = plan.reduction == "mean" and not plan.normalizer
    if is_divided and mass is None:
        return tf.reduce_mean(losses)
    if is_divided and isinstance(mass, np.ndarray):  # then it is the factor, and counts examples
        return tf.reduce_sum(losses * (mass / max(1, mass.sum())))
    losses = losses if factor is None else losses * factor
    if plan.reduction == "none":
        shape = without(tuple(operands.logits.shape), plan.axis)
        return losses if len(shape) == 1 else tf.reshape(losses, shape)
    total = tf.reduce_sum(losses)
    if is_divided:
        return total / tf.reduce_sum(mass)
    return total / cast(operands.normalizer, plan.compute_dtype) if plan.normalizer else total


def _product(*factors: Any) -> Any:
    """The product of those that are there."""
    found = None
    for factor in factors:
        if factor is not None:
            found = factor if found is None else found * factor
    return found


def _as_rows(plan: Plan, x: Array) -> Array:
    """An array of the logits' shape as a matrix, one row an example."""
    if plan.axis + 1 != plan.ndim:
        if math.prod(x.shape[plan.axis + 1 :]) != 1:
            axes = tuple(range(x.shape.rank))
            x = tf.transpose(x, [*without(axes, plan.axis), plan.axis])
    elif plan.ndim == 2:
        return x
    return tf.reshape(x, [-1, plan.num_classes])


def _of_examples(plan: Plan, operands: Operands) -> Array | None:
    """One weight an example, of weights of the batch or of its first axis."""
    s = operands.sample_weight
    if s is None:
        return None
    s = cast(s, plan.compute_dtype)
    if s.shape.rank == 1:
        if plan.ndim == 2:
            return s
        batch = without(tuple(operands.logits.shape), plan.axis)
        s = tf.broadcast_to(tf.reshape(s, [-1] + [1] * (len(batch) - 1)), batch)
    return tf.reshape(s, [-1])
