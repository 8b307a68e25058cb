"""From row statistics to the loss and its gradient: the arithmetic, written once for all backends.

With m the maximum of a row of logits x, f = x - m, t its label row, w the class weights, and
K = w t (index labels: w_y at the label), a kernel computes

    l = log sum exp f        p = sum K f (index labels: f_y)        q = sum w f

and, with eps the label smoothing and the coefficients M = sum K, T = sum t, W = sum w, one example
costs A l - (1 - eps) p - (eps / C) T q, where A = (1 - eps) M + (eps / C) T W.

A zero coefficient times anything is 0, so a factor f of -inf is replaced by 0 where its
coefficient is 0. The coefficients stay as they are: they carry the gradients of labels and
weights. Every array of this module keeps the class axis, with one entry where an array holds one
number an example, so everything broadcasts at equal rank.
"""

from typing import Any, NamedTuple

from unified_loss._ops import INFINITY, Factors, KernelOps, Ops
from unified_loss._types import Array, Operands, Plan

NAN = float("nan")


class Rows(NamedTuple):
    """What labels and weights say of each example; absent parts are None."""

    classes: Any  # C: an int, a symbolic size or a 0-d integer array
    ids: Array | None  # index labels, made safe to gather with
    k: Array | None  # K, for dense labels
    w: Array | None  # class weights along the class axis
    s: Array | None  # sample weight
    m: Array  # M, NaN for a label that is no class id
    t: Array  # T
    dropped: Array | None  # nothing of the example counts
    mass: Array | None  # None: 1 for each example; with "mean" over a count, nothing asks for it


class Statistics(NamedTuple):
    """What a kernel computes of each row; absent parts are None."""

    m: Array
    l: Array
    p: Array | None
    q: Array | None


class Coefficients(NamedTuple):
    """One example costs a l - b p - c q + z (m + l)^2; absent parts are None."""

    a: Array
    b: Array | None
    c: Array | None
    z: Array | None


def loss_of(ops: KernelOps, plan: Plan, operands: Operands) -> Array:
    """The loss of a call."""
    x = ops.cast(operands.logits, plan.compute_dtype)
    m = row_maximum(ops, plan, x)
    rows, denominator = examples(ops, plan, operands, m)
    statistics = row_statistics(ops, plan, x, m, rows)
    return combine(ops, plan, rows, statistics, denominator)


def loss_and_gradient_of(ops: KernelOps, plan: Plan, operands: Operands) -> tuple[Array, Array]:
    """The loss of a call and, in closed form, the gradient of its sum in the logits."""
    x = ops.cast(operands.logits, plan.compute_dtype)
    m = row_maximum(ops, plan, x)
    rows, denominator = examples(ops, plan, operands, m)
    statistics = row_statistics(ops, plan, x, m, rows)
    loss = combine(ops, plan, rows, statistics, denominator)
    slope = careful_gradient(ops, plan, x, rows, statistics, None, denominator)
    return loss, ops.cast_like(slope, operands.logits)


def row_maximum(ops: Ops, plan: Plan, x: Array) -> Array:
    """The largest entry of each row, a constant to autodiff; finite wherever lse(x) is."""
    return ops.stop_gradient(ops.max(x, plan.axis))


def row_statistics(ops: KernelOps, plan: Plan, x: Array, m: Array, rows: Rows) -> Statistics:
    """The kernel that any library can run, and differentiate; `m` is the `row_maximum`."""
    axis = plan.axis
    dead = None if rows.dropped is None else rows.dropped & ~ops.isfinite(m)
    m = ops.where(_either(m == -INFINITY, dead), 0.0, m)  # log 0, and not inf - inf
    p = q = None
    if rows.k is None and plan.label_smoothing != 1:
        p = ops.pick(x, rows.ids, axis) - m  # not from f, so that no compiler keeps it
        is_weighted_apart = rows.w is not None and plan.label_smoothing
        idle = _either(rows.dropped, rows.m == 0 if is_weighted_apart else None)
        p = _settled(ops, p, idle, dead)
    f = None
    if rows.k is not None or plan.label_smoothing:
        f = x - m
        if plan.label_smoothing and rows.w is None:
            q = ops.sum(f, axis)
            q = _settled(ops, q, _either(rows.dropped, None if rows.k is None else rows.t == 0))
        f = f if dead is None else ops.where(dead, 0.0, f)
    factors = Factors(x, m, dead, f)
    if rows.k is not None and plan.label_smoothing != 1:
        p = ops.weighted_sum(rows.k, factors, rows.dropped, axis)
        p = _settled(ops, p, rows.dropped)
    if plan.label_smoothing and rows.w is not None:
        idle = _either(rows.dropped, None if isinstance(rows.t, float) else rows.t == 0)
        q = _settled(ops, ops.weighted_sum(rows.w, factors, idle, axis), idle)
    l = ops.log_sum_exp(factors, axis)
    return Statistics(m, l if dead is None else ops.where(dead, 0.0, l), p, q)


def plain_statistics(ops: KernelOps, plan: Plan, x: Array, rows: Rows) -> Statistics:
    """`row_statistics` without its care for what is not finite: right wherever all of it is."""
    axis = plan.axis
    m = ops.max(x, axis)
    p = q = None
    if rows.k is None and plan.label_smoothing != 1:
        p = ops.pick(x, rows.ids, axis) - m
    f = None
    if rows.k is not None or plan.label_smoothing:
        f = x - m
        if rows.k is not None:
            p = ops.sum(rows.k * f, axis)
        if plan.label_smoothing:
            q = ops.sum(f if rows.w is None else rows.w * f, axis)
    return Statistics(m, ops.log_sum_exp(Factors(x, m, None, f), axis), p, q)


def is_plain(ops: Any, rows: Rows, statistics: Statistics) -> bool:
    """Whether plain rows and statistics are right: nothing is infinite or NaN, and no M is 0.

    An M of 0 is asked for in dense rows alone. `ops` has values to look at: `BlockOps`.
    """
    parts = (*statistics[1:], rows.m, rows.s)
    if not all(ops.is_finite(p) for p in parts if p is not None and type(p) is not float):
        return False
    return rows.k is None or ops.all(rows.m)


def _settled(ops: KernelOps, linear: Array, idle: Array | None, dead: Array | None = None) -> Array:
    """Numbers of rows, linear in the logits, with 0 where dead, or where idle and not finite."""
    if idle is None:
        return linear
    return ops.where(_either(idle & ~ops.isfinite(linear), dead), 0.0, linear)


def combine(
    ops: Ops, plan: Plan, rows: Rows, statistics: Statistics, denominator: Array | None
) -> Array:
    """The loss, from the statistics of all rows."""
    m, l, p, q = statistics
    a, b, c, z = _coefficients(ops, plan, rows)
    unit = a * l
    if p is not None:
        unit = unit - b * p
    if q is not None:
        unit = unit - c * q
    if z is not None:
        square = (m + l) * (m + l)
        if rows.dropped is not None:
            square = ops.where(rows.dropped & ~ops.isfinite(square), 0.0, square)
        unit = unit + z * square
    loss = ops.squeeze(unit, plan.axis) if plan.reduction == "none" else ops.total(unit)
    if denominator is not None:
        loss = loss / denominator
    return loss + 0.0  # never -0


def gradient(
    ops: KernelOps,
    plan: Plan,
    rows: Rows,
    statistics: Statistics,
    softmax: Array,
    factor: Array | None,
    denominator: Array | None,
) -> Array:
    """The gradient of the loss: its slopes in the statistics, times their Jacobian.

    `softmax` is the caller's to give away. `factor` is what autodiff multiplies the gradient by.
    """
    m, l, p, q = statistics
    a, b, c, z = _coefficients(ops, plan, rows)
    if z is not None:
        a = a + 2 * z * (m + l)
    if factor is not None:
        a, b, c = (None if part is None else part * factor for part in (a, b, c))
    if denominator is not None:
        a, b, c = (None if part is None else part / denominator for part in (a, b, c))
    slope = ops.scaled(softmax, a)
    if p is not None:
        if rows.k is None:
            slope = ops.subtract_at(slope, rows.ids, b, plan.axis)
        else:
            slope = slope - b * rows.k
    if q is not None:
        slope = slope - (c if rows.w is None else c * rows.w)
    return slope if rows.dropped is None else ops.where(rows.dropped, 0.0, slope)


def careful_gradient(
    ops: KernelOps,
    plan: Plan,
    x: Array,
    rows: Rows,
    statistics: Statistics,
    factor: Array | None,
    denominator: Array | None,
) -> Array:
    """The gradient where the statistics are those of `row_statistics`."""
    softmax = ops.exp(x - statistics.m - statistics.l)
    return gradient(ops, plan, rows, statistics, softmax, factor, denominator)


def _coefficients(ops: Ops, plan: Plan, rows: Rows) -> Coefficients:
    epsilon = plan.label_smoothing
    a = rows.m
    b = 1.0 if rows.ids is None else rows.m
    c = z = None
    if epsilon:
        classes = ops.cast_size(rows.classes, plan.compute_dtype)
        weight = classes if rows.w is None else ops.sum(rows.w, plan.axis)
        c = epsilon / classes * rows.t
        a = (1 - epsilon) * a + c * weight
        b = (1 - epsilon) * b
    if rows.s is not None:
        a, b, c = (None if part is None else rows.s * part for part in (a, b, c))
    if plan.z_loss:
        z = plan.z_loss * (1.0 if rows.mass is None else rows.mass)
    return Coefficients(a, b, c, z)


def examples(
    ops: Ops, plan: Plan, operands: Operands, m: Array | None = None
) -> tuple[Rows, Array | None]:
    """What labels and weights say of each example, and what "mean" divides by.

    `m`, the `row_maximum`, is needed where weights or labels have gradients.
    """
    rows = rows_of(ops, plan, operands)
    if m is not None and rows.dropped is not None and rows.mass is not None:
        constant = ops.stop_gradient(rows.mass)
        if constant is not rows.mass:
            # R16: no gradient where lse is not finite.
            dead = rows.dropped & ~ops.isfinite(m)
            rows = rows._replace(mass=ops.where(dead, constant, rows.mass))
    return denominator(ops, plan, operands, rows)


def rows_of(ops: Ops, plan: Plan, operands: Operands, *, plain: bool = False) -> Rows:
    """What labels and weights say of each example.

    `plain`: without care for dense label rows that are all zero or not finite.
    """
    weights = weights_of(ops, plan, operands)
    if plan.label_kind == "index":
        return _index_rows(ops, plan, operands, *weights)
    return (_plain_dense_rows if plain else _dense_rows)(ops, plan, operands, *weights)


def weights_of(ops: Ops, plan: Plan, operands: Operands) -> tuple[Any, Array | None, Array | None]:
    """C, the class weights w along the class axis, and the sample weights s."""
    w = s = None
    if plan.class_weight:
        w = ops.cast(operands.class_weight, plan.compute_dtype)
        w = ops.along(w, operands.logits, plan.axis)
    if plan.sample_weight != "none":
        s = ops.cast(operands.sample_weight, plan.compute_dtype)
        s = ops.extend(s, operands.logits, plan.axis)
    return ops.size(operands.logits, plan.axis), w, s


def _index_rows(
    ops: Ops, plan: Plan, operands: Operands, classes: Any, w: Array | None, s: Array | None
) -> Rows:
    dtype = plan.compute_dtype
    ids, ignored, foreign = _safe_ids(ops, plan, operands.labels, classes)
    if s is not None:
        unlearnt = ignored
        if foreign is not None and plan.sample_weight == "weight":
            unlearnt = _either(ignored, foreign & (s == 0))  # R16: no gradient, as no class id
        s = s if unlearnt is None else ops.where(unlearnt, 0.0, s)
    dropped = ignored if s is None else s == 0
    poisoned = foreign
    if foreign is not None and dropped is not None:
        poisoned = foreign & ~dropped
    m: Array = 1.0
    mass = s
    if w is not None:
        m = ops.cast(ops.pick_class(operands.class_weight, ids), dtype)
        idle = ~ops.any(w, plan.axis) if plan.label_smoothing else m == 0
        if poisoned is not None:
            idle = idle & ~poisoned
        dropped = _either(dropped, idle)
        mass = m if poisoned is None else ops.where(poisoned, 1.0, m)
        mass = mass if s is None else s * mass
    if ignored is not None:
        kept = ops.cast(~ignored, dtype)
        m = kept if w is None else ops.where(ignored, 0.0, m)
        mass = None if mass is None else ops.where(ignored, 0.0, mass)
        t = kept
    else:
        t = 1.0
    if poisoned is not None:
        m = ops.cast(~poisoned, dtype) if isinstance(m, float) else m
        m = ops.where(poisoned, NAN, m)
    return Rows(classes, ids, None, w, s, m, t, dropped, mass)


def _safe_ids(
    ops: Ops, plan: Plan, labels: Array, classes: Any
) -> tuple[Array, Array | None, Array | None]:
    """Ids to gather with, and which labels are ignored and which are no class ids."""
    if not plan.labels_keep_axis:
        labels = ops.expand(labels, plan.axis)
    ignored = None if plan.ignore_index is None else ops.equals(labels, plan.ignore_index)
    foreign = labels < 0 if plan.below else None
    if plan.above:
        foreign = _either(foreign, labels >= classes)
    unsafe = _either(ignored, foreign)
    if unsafe is not None:
        labels = ops.where(unsafe, 0, labels)
    return ops.as_index(labels), ignored, foreign


def _dense_rows(
    ops: Ops, plan: Plan, operands: Operands, classes: Any, w: Array | None, s: Array | None
) -> Rows:
    axis = plan.axis
    t = ops.cast(operands.labels, plan.compute_dtype)
    if plan.labels_dtype.startswith(("float", "bfloat")):
        constant = ops.stop_gradient(t)
        if constant is not t:
            # A zero label on a masked class has no influence, and no gradient.
            muted = (t == 0) & (operands.logits == -INFINITY)
            t = ops.where(muted, constant, t)
        if s is not None:
            t = ops.where((s == 0) & ~ops.isfinite(t), 0.0, t)
    k = t if w is None else w * t
    total = ops.sum(t, axis)
    m = total if w is None else ops.sum(k, axis)
    if w is not None and plan.label_smoothing:
        share = plan.label_smoothing / ops.cast_size(classes, plan.compute_dtype)
        live = ((1 - plan.label_smoothing) * t != -share * total) & (w != 0)
        zero = ~ops.any(live, axis) & (m == 0)
    else:
        live = (1 - plan.label_smoothing) * t if plan.label_smoothing else k
        live = ops.stop_gradient(live)
        zero = (ops.max(live, axis) == 0) & (m == 0)  # all are 0 if none is above and their sum is
    mass = s
    if w is not None:
        mass = m if s is None else s * m
    elif s is not None:
        mass = ops.where(zero, 0.0, s)
    dropped = zero if s is None else zero | (s == 0)
    return Rows(classes, None, k, w, s, m, total, dropped, mass)


def _plain_dense_rows(
    ops: Ops, plan: Plan, operands: Operands, classes: Any, w: Array | None, s: Array | None
) -> Rows:
    """`_dense_rows` where labels are finite, and no M is 0."""
    t = ops.cast(operands.labels, plan.compute_dtype)
    k = t if w is None else w * t
    total = ops.sum(t, plan.axis)
    m = total if w is None else ops.sum(k, plan.axis)
    mass = s
    if w is not None:
        mass = m if s is None else s * m
    return Rows(classes, None, k, w, s, m, total, None if s is None else s == 0, mass)


def denominator(ops: Ops, plan: Plan, operands: Operands, rows: Rows) -> tuple[Rows, Array | None]:
    """What "mean" divides by: an infinite number where there is nothing to average.

    Then the loss and all gradients are 0, but with a normalizer, which divides as ever, those of
    weights and labels; and rows that are not dropped, whose masses cancel, are dropped too.
    """
    if plan.z_loss and rows.mass is None and rows.dropped is not None:
        rows = rows._replace(mass=ops.cast(~rows.dropped, plan.compute_dtype))
    if plan.reduction != "mean":
        return rows, None
    dtype = plan.compute_dtype
    if rows.mass is not None and not plan.counts:
        total = ops.total(rows.mass)
        rows = _without_cancelled(ops, plan, rows, total == 0)
    elif rows.dropped is None:
        total = ops.examples(operands.logits, plan.axis, dtype)
    else:
        total = ops.count(~rows.dropped, dtype)
    if not plan.normalizer:
        if isinstance(total, int):
            return rows, total or INFINITY
        return rows, ops.where(total == 0, INFINITY, total)
    divisor = ops.cast(operands.normalizer, dtype)
    if isinstance(total, int):
        return rows, divisor if total else INFINITY
    return rows, ops.where((total == 0) & ~(divisor > 0), INFINITY, divisor)


def _without_cancelled(ops: Ops, plan: Plan, rows: Rows, empty: Array) -> Rows:
    """The rows, of which none is left where their masses add up to 0."""
    if rows.dropped is None:
        cancelled = dropped = empty
    else:
        cancelled, dropped = empty & ~rows.dropped, rows.dropped | empty
    return rows._replace(
        s=ops.cast(~cancelled, plan.compute_dtype)
        if rows.s is None
        else ops.where(cancelled, 0.0, rows.s),
        m=rows.m if isinstance(rows.m, float) else ops.where(cancelled, 0.0, rows.m),
        dropped=dropped,
        mass=ops.where(cancelled, 0.0, rows.mass),
    )


def _either(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return b if a is None else a
    return a | b
