"""What labels and weights say of each example, before any logit is looked at but their maximum.

In the letters of `_statistics`: K = w t, and the sums M = sum K and T = sum t of a label row t.
"""

from typing import Any, NamedTuple

from unified_loss._ops import INFINITY, Ops
from unified_loss._types import Array, Operands, Plan

NAN = float("nan")

SMALL = 2.0**-64  # any number of finite numbers, times this, have a finite sum


class Examples(NamedTuple):
    """One number for each example, with the class axis kept; absent parts are None."""

    num_classes: Any  # C: an int, a symbolic size or a 0-d integer array
    ids: Array | None  # index labels, made safe to gather with
    weighted_labels: Array | None  # K, for dense labels; see `examples_of` for smoothed ones
    class_weight: Array | None  # w along the class axis
    sample_weight: Array | None  # s
    label_mass: Array  # M, NaN for a label that is no class id; 1.0 where it is 1 everywhere
    label_total: Array  # T; 1.0 where it is 1 everywhere
    dropped: Array | None  # nothing of the example counts
    mass: Array | None  # None: 1 for each example; with "mean" over a count, nothing asks for it
    weight_total: Array | None = None  # W, where the class weights are not all here


class Weights(NamedTuple):
    """The number of classes, and the weights along the axes of the logits."""

    num_classes: Any
    class_weight: Array | None
    sample_weight: Array | None


def examples_and_divisor(
    ops: Ops, plan: Plan, operands: Operands, m: Array | None = None, *, smoothed: bool = False
) -> tuple[Examples, Array | None]:
    """What labels and weights say of each example, and what "mean" divides by.

    `m`, the largest logit of each row, is needed where weights or labels have gradients.
    `smoothed`: see `examples_of`.
    """
    examples = examples_of(ops, plan, operands, smoothed=smoothed)
    if m is not None and examples.dropped is not None and examples.mass is not None:
        constant = ops.stop_gradient(examples.mass)
        if constant is not examples.mass:
            # R16: no gradient where lse is not finite.
            dead = ~ops.isfinite(m)
            if ops.maxima_lose_nan:
                dead = dead | ops.any(operands.logits != operands.logits, plan.axis)
            dead = examples.dropped & dead
            examples = examples._replace(mass=ops.where(dead, constant, examples.mass))
    return with_divisor(ops, plan, operands, examples)


def examples_of(
    ops: Ops, plan: Plan, operands: Operands, *, plain: bool = False, smoothed: bool = False
) -> Examples:
    """What labels and weights say of each example.

    `plain`: without care for dense label rows that are all zero or not finite. `smoothed`: K is
    w (t + eps T / (C (1 - eps))), and p = sum K f holds the share of smoothing that q has
    otherwise. What a class of -inf costs then has one sign, that of its smoothed label: p and q
    may be infinities of both where a label is negative.
    """
    weights = weights_of(ops, plan, operands)
    if plan.label_kind == "index":
        return _of_index_labels(ops, plan, operands, weights)
    return _of_dense_labels(ops, plan, operands, weights, plain=plain, smoothed=smoothed)


def has_smoothed_labels(plan: Plan) -> bool:
    """Whether examples can be `smoothed`: if not, all or nothing is, or labels are class ids."""
    return plan.label_kind == "dense" and 0 < plan.label_smoothing < 1


def weights_of(ops: Ops, plan: Plan, operands: Operands) -> Weights:
    """The weights, cast and laid along the axes of the logits."""
    w = s = None
    if plan.class_weight:
        w = ops.cast(operands.class_weight, plan.compute_dtype)
        w = ops.along(w, operands.logits, plan.axis)
    if plan.sample_weight != "none":
        s = ops.cast(operands.sample_weight, plan.compute_dtype)
        s = ops.extend(s, operands.logits, plan.axis)
    return Weights(ops.size(operands.logits, plan.axis), w, s)


def _of_index_labels(ops: Ops, plan: Plan, operands: Operands, weights: Weights) -> Examples:
    ids, ignored, foreign = safe_ids(ops, plan, operands.labels, weights.num_classes)
    weight = nothing = None
    w = weights.class_weight
    if w is not None:
        # Cast first: the slopes of all examples of a class add up in the dtype that is picked from.
        weight = ops.pick_class(ops.cast(operands.class_weight, plan.compute_dtype), ids)
        nothing = weight == 0
        if plan.label_smoothing:
            nothing = ~ops.any(ops.stop_gradient(w), plan.axis)
    return examples_of_ids(ops, plan, weights, ids, ignored, foreign, weight, nothing)


def examples_of_ids(
    ops: Ops,
    plan: Plan,
    weights: Weights,
    ids: Array,
    ignored: Array | None,
    foreign: Array | None,
    weight: Array | None,
    nothing: Array | None,
) -> Examples:
    """What class ids say of each example, by the weight of each and where no class has any."""
    dtype = plan.compute_dtype
    num_classes, w, s = weights
    if s is not None:
        unlearnt = ignored
        if foreign is not None and plan.sample_weight == "weight":
            unlearnt = either(ignored, foreign & (s == 0))  # R16: no gradient, as no class id
        s = s if unlearnt is None else ops.where(unlearnt, 0.0, s)
    dropped = ignored if s is None else s == 0
    poisoned = foreign
    if foreign is not None and dropped is not None:
        poisoned = foreign & ~dropped
    label_mass: Array = 1.0
    mass = s
    if w is not None:
        label_mass = weight
        dropped = either(dropped, nothing if poisoned is None else nothing & ~poisoned)
        mass = label_mass if poisoned is None else ops.where(poisoned, 1.0, label_mass)
        mass = mass if s is None else s * mass
    label_total: Array = 1.0
    if ignored is not None:
        label_total = ops.cast(~ignored, dtype)
        label_mass = label_total if w is None else ops.where(ignored, 0.0, label_mass)
        mass = None if mass is None else ops.where(ignored, 0.0, mass)
    if poisoned is not None:
        if isinstance(label_mass, float):
            label_mass = ops.cast(~poisoned, dtype)
        label_mass = ops.where(poisoned, NAN, label_mass)
    return Examples(num_classes, ids, None, w, s, label_mass, label_total, dropped, mass)


def safe_ids(
    ops: Ops, plan: Plan, labels: Array, num_classes: Any
) -> tuple[Array, Array | None, Array | None]:
    """Ids to gather with, and which labels are ignored and which are no class ids."""
    if not plan.labels_keep_axis:
        labels = ops.expand(labels, plan.axis)
    ignored = None if plan.ignore_index is None else ops.equals(labels, plan.ignore_index)
    foreign = labels < 0 if plan.below else None
    if plan.above:
        foreign = either(foreign, labels >= num_classes)
    unsafe = either(ignored, foreign)
    if unsafe is not None:
        labels = ops.where(unsafe, 0, labels)
    return ops.as_index(labels), ignored, foreign


def _of_dense_labels(
    ops: Ops, plan: Plan, operands: Operands, weights: Weights, *, plain: bool, smoothed: bool
) -> Examples:
    axis = plan.axis
    num_classes, w, s = weights
    t = ops.cast(operands.labels, plan.compute_dtype)
    counted, garbage = s, None
    if not plain and plan.labels_dtype.startswith(("float", "bfloat")):
        constant = ops.stop_gradient(t)
        if constant is not t:
            # A zero label on a masked class has no influence, and no gradient.
            t = ops.where((t == 0) & (operands.logits == -INFINITY), constant, t)
        if s is not None:
            garbage, infinite = _garbage(ops, plan, t, weights)
            t, counted = ops.where(garbage, 0.0, t), ops.where(infinite, 0.0, s)
            s = ops.where(garbage, 0.0, s)
    k = t if w is None else w * t
    label_total = ops.sum(t, axis)
    label_mass = label_total if w is None else ops.sum(k, axis)
    if smoothed and has_smoothed_labels(plan):
        share = plan.label_smoothing / (1 - plan.label_smoothing)
        k = t + share / ops.cast_size(num_classes, plan.compute_dtype) * label_total
        k = k if w is None else w * k
    examples = _of_sums(Weights(num_classes, w, s), k, label_total, label_mass, counted)
    if plain:
        return examples
    silent = _is_silent(ops, plan, t, examples)
    return _without(ops, examples, silent if garbage is None else silent & ~garbage)


def examples_of_sums(
    ops: Ops, plan: Plan, operands: Operands, total: Array, mass: Array, low: Array, high: Array
) -> Examples:
    """What dense labels say of each example, by the sums T and M of their rows.

    `low` and `high` are the extremes of t over the classes with a weight that is not 0; without
    smoothing `high` is that of w t over all classes. Nothing asks for `low` without both.
    """
    num_classes, w, s = weights = weights_of(ops, plan, operands)
    if s is not None:  # whatever such labels hold, NaN included
        total, mass = ops.where(s == 0, 0.0, total), ops.where(s == 0, 0.0, mass)
    if w is not None and plan.label_smoothing:
        share = plan.label_smoothing / ops.cast_size(num_classes, plan.compute_dtype) * total
        left = 1 - plan.label_smoothing
        silent = (low > high) | ((left * low == -share) & (left * high == -share))
    elif plan.label_smoothing:
        silent = (1 - plan.label_smoothing) * high == 0
    else:
        silent = high == 0
    return _without(ops, _of_sums(weights, None, total, mass, s), silent & (mass == 0))


def examples_of_rows(
    ops: Ops,
    weights: Weights,
    k: Array,
    total: Array,
    mass: Array,
    silent: Array,
) -> Examples:
    """What dense labels say of each example, by their products and sums, and which are nothing."""
    return _without(ops, _of_sums(weights, k, total, mass, weights.sample_weight), silent)


def _of_sums(
    weights: Weights, k: Array | None, total: Array, mass: Array, counted: Array | None
) -> Examples:
    """Dense labels by K, T and M, none of whose rows is silent.

    `counted` are the sample weights that are masses where there are no class weights.
    """
    num_classes, w, s = weights
    if w is not None:
        counted = mass if s is None else s * mass
    return Examples(
        num_classes,
        ids=None,
        weighted_labels=k,
        class_weight=w,
        sample_weight=s,
        label_mass=mass,
        label_total=total,
        dropped=None if s is None else s == 0,
        mass=counted,
    )


def _without(ops: Ops, examples: Examples, silent: Array) -> Examples:
    """Dense labels, with rows dropped of which nothing counts."""
    mass = examples.mass
    if examples.class_weight is None and mass is not None:
        mass = ops.where(silent, 0.0, mass)
    return examples._replace(dropped=either(silent, examples.dropped), mass=mass)


def _is_silent(ops: Ops, plan: Plan, t: Array, examples: Examples) -> Array:
    """Rows of dense labels of which nothing counts: all zeros, smoothed and weighted."""
    axis, w = plan.axis, examples.class_weight
    if w is not None and plan.label_smoothing:
        share = plan.label_smoothing / ops.cast_size(examples.num_classes, plan.compute_dtype)
        share = share * examples.label_total
        counts = ~((1 - plan.label_smoothing) * t == -share) & (w != 0)  # see `DTensorOps.pick`
        return ~ops.any(counts, axis) & (examples.label_mass == 0)
    terms = (1 - plan.label_smoothing) * t if plan.label_smoothing else examples.weighted_labels
    # All are 0 if none is above and their sum is.
    return (ops.max(ops.stop_gradient(terms), axis) == 0) & (examples.label_mass == 0)


def _garbage(ops: Ops, plan: Plan, t: Array, weights: Weights) -> tuple[Array, Array]:
    """Which labels a weight of 0 drops whose loss does not exist, and which of them are not finite.

    A loss multiplies the sums of labels, and these may overflow where the labels are finite.
    """
    _, w, s = weights
    sizes = abs(ops.stop_gradient(t))
    total = ops.sum(sizes, plan.axis)
    if w is not None:  # products with class weights, and with their sum, may overflow as well
        total = total * (1 + ops.sum(abs(ops.stop_gradient(w)), plan.axis))
    if has_smoothed_labels(plan):
        total = total / (1 - plan.label_smoothing)
    is_finite = ops.isfinite(ops.sum(sizes * SMALL, plan.axis))
    is_dropped = s == 0
    return is_dropped & ~ops.isfinite(total), is_dropped & ~is_finite


def with_divisor(
    ops: Ops, plan: Plan, operands: Operands, examples: Examples
) -> tuple[Examples, Array | None]:
    """The examples that count, and what "mean" divides by: infinity if there is no mass.

    Then the loss and all gradients are 0; and examples that are not dropped, whose masses cancel,
    are dropped too. If none had to be, a normalizer divides as ever, for those of weights.
    """
    dtype = plan.compute_dtype
    if plan.z_loss and examples.mass is None and examples.dropped is not None:
        examples = examples._replace(mass=ops.cast(~examples.dropped, dtype))
    if plan.reduction != "mean":
        return examples, None
    dropped = examples.dropped
    if examples.mass is not None and not plan.counts:
        total = ops.total(examples.mass)
        examples = _without_cancelled(ops, plan, examples, total == 0)
    elif dropped is None:
        total = ops.count_rows(operands.logits, plan.axis, dtype)
    else:
        total = ops.count(~dropped, dtype)
    if plan.normalizer:
        divisor = ops.cast(operands.normalizer, dtype)
        return examples, _normalizer(ops, dtype, divisor, total, dropped)
    if isinstance(total, int):
        return examples, total or INFINITY
    return examples, ops.where(total == 0, INFINITY, total)


def _normalizer(ops: Ops, dtype: str, divisor: Array, total: Any, dropped: Array | None) -> Array:
    """The normalizer; infinity where masses cancel, and where it is no divisor of nothing."""
    if isinstance(total, int):
        return divisor if total else INFINITY
    is_empty = total == 0
    if dropped is not None:
        is_empty = is_empty & ~((divisor > 0) & (ops.count(~dropped, dtype) == 0))
    return ops.where(is_empty, INFINITY, divisor)


def _without_cancelled(ops: Ops, plan: Plan, examples: Examples, empty: Array) -> Examples:
    """The examples, none of which counts where their masses add up to 0."""
    if examples.dropped is None:
        cancelled = dropped = empty
    else:
        cancelled, dropped = empty & ~examples.dropped, examples.dropped | empty
    weight, label_mass = examples.sample_weight, examples.label_mass
    if weight is None:
        weight = ops.cast(~cancelled, plan.compute_dtype)
    else:
        weight = ops.where(cancelled, 0.0, weight)
    if not isinstance(label_mass, float):
        label_mass = ops.where(cancelled, 0.0, label_mass)
    mass = ops.where(cancelled, 0.0, examples.mass)
    return examples._replace(
        sample_weight=weight, label_mass=label_mass, dropped=dropped, mass=mass
    )


def either(a: Array | None, b: Array | None) -> Array | None:
    """Where one of two conditions holds; None is one that never does."""
    if a is None or b is None:
        return b if a is None else a
    return a | b
