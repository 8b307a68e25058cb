"""From logits and labels to the loss: row statistics and their arithmetic, once for all backends.

Every array of this module keeps the class axis: arrays of the logits' size have C entries there,
arrays of one number an example have one. So everything broadcasts at equal rank.

With m the maximum of a row, F = x - m and K = w t (index labels: w_y at the label), the loss of
one example is A l - (1 - eps) p - (eps / C) T q, with

    l = log sum exp F      p = sum K F      q = sum w F
    M = sum K    T = sum t    W = sum w    A = (1 - eps) M + (eps / C) T W

A zero coefficient times anything is 0, so a factor F of -inf is replaced by 0 where its
coefficient is 0. The coefficients stay as they are: they carry the gradients of labels and
weights.
"""

from typing import Any, NamedTuple, Protocol

from unified_loss._types import Array, Operands, Plan

INFINITY = float("inf")
NAN = float("nan")


class Ops(Protocol):
    """The few array functions that the arithmetic needs. Reductions over an axis keep it."""

    def cast(self, x: Array, dtype: str) -> Array:
        """`x` as an array of `dtype`."""

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        """Choose between two operands, one of which may be a Python scalar."""

    def exp(self, x: Array) -> Array:
        """Exponential."""

    def log(self, x: Array) -> Array:
        """Natural logarithm; -inf at 0."""

    def isfinite(self, x: Array) -> Array:
        """Whether neither infinite nor NaN."""

    def max(self, x: Array, axis: int) -> Array:
        """Maximum over an axis; NaN where the row holds one."""

    def sum(self, x: Array, axis: int) -> Array:
        """Sum over an axis."""

    def any(self, x: Array, axis: int) -> Array:
        """Whether any entry along an axis is true."""

    def total(self, x: Array) -> Array:
        """Sum of all entries."""

    def count(self, x: Array, dtype: str) -> Array:
        """Number of true entries, counted in integers, as a 0-d array of `dtype`."""

    def examples(self, x: Array, dtype: str) -> Array:
        """Number of entries of `x`, as a 0-d array of `dtype`."""

    def length(self, x: Array, axis: int) -> Any:
        """Size of an axis: an int, a symbolic size or a 0-d integer array."""

    def stop_gradient(self, x: Array) -> Array:
        """`x` as a constant to autodiff."""

    def expand(self, x: Array, axis: int) -> Array:
        """Insert an axis of size 1."""

    def squeeze(self, x: Array, axis: int) -> Array:
        """Remove an axis of size 1."""

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        """Another shape; -1 stands for one size."""

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        """The entry of `x` at `ids` along `axis`, where `ids` has size 1."""

    def pick_class(self, weights: Array, ids: Array) -> Array:
        """The weight of each class id."""

    def one_hot(self, ids: Array, like: Array, axis: int) -> Array:
        """Whether a class of `like` is the one of `ids`."""


class Rows(NamedTuple):
    """What labels and weights say of each example; absent parts are None."""

    ids: Array | None  # index labels, made safe to gather with
    ignored: Array | None  # the label has the value `ignore_index`
    poisoned: Array | None  # the label is no class id, and the example not dropped
    dropped: Array | None  # nothing of the example counts
    s: Array | None  # sample weight
    m: Array | None  # M, for index labels without poison and zero only where w_y is
    t: Array | None  # T
    mass: Array | None  # None: 1 for each example that is not dropped


def loss_of(ops: Ops, plan: Plan, operands: Operands) -> Array:
    """The loss of a call."""
    return _evaluate(ops, plan, operands, with_gradient=False)[0]


def loss_and_gradient_of(ops: Ops, plan: Plan, operands: Operands) -> tuple[Array, Array]:
    """The loss of a call and, in closed form, the gradient of its sum in the logits."""
    loss, gradient = _evaluate(ops, plan, operands, with_gradient=True)
    return loss, ops.cast(gradient, plan.logits_dtype)


def _evaluate(
    ops: Ops, plan: Plan, operands: Operands, *, with_gradient: bool
) -> tuple[Array, Array]:
    axis, epsilon = plan.axis, plan.label_smoothing
    x = ops.cast(operands.logits, plan.compute_dtype)
    classes = ops.length(x, axis)
    share = 0.0
    if epsilon:
        share = epsilon / ops.cast(classes, plan.compute_dtype)

    m = ops.stop_gradient(ops.max(x, axis))
    usable = ops.isfinite(m)
    m = ops.where(m == -INFINITY, 0.0, m)  # such a row gives log 0, not inf - inf
    f = x - m

    w = t = k = None
    if plan.class_weight:
        shape = tuple(-1 if i == axis else 1 for i in range(plan.ndim))
        w = ops.reshape(ops.cast(operands.class_weight, plan.compute_dtype), shape)
    s = _sample_weight(ops, plan, operands)
    if plan.label_kind == "index":
        rows = _index_rows(ops, plan, operands, classes, w, s)
    else:
        t = ops.cast(operands.labels, plan.compute_dtype)
        if plan.labels_dtype.startswith(("float", "bfloat")):
            # A zero label on a masked class has no influence, and no gradient.
            t = ops.where((t == 0) & (f == -INFINITY), 0.0, t)
        k = t if w is None else w * t
        rows = _dense_rows(ops, plan, w, t, k, s, share)
    denominator = None
    if plan.reduction == "mean":
        rows, denominator = _denominator(ops, plan, operands, rows, m)

    if rows.dropped is not None:
        dead = rows.dropped & ~usable
        m = ops.where(dead, 0.0, m)
        f = ops.where(dead, 0.0, f)
    e = ops.exp(f)
    z = ops.sum(e, axis)
    l = ops.log(z)

    big_m, big_t = rows.m, rows.t
    if k is None:
        big_m, big_t = _index_coefficients(ops, plan, rows)
        p = big_m * _live(ops, ops.pick(f, rows.ids, axis), rows.dropped, big_m)
    else:
        p = ops.sum(k * _live(ops, f, rows.dropped, k), axis)
    if epsilon:
        big_w = ops.cast(classes, plan.compute_dtype) if w is None else ops.sum(w, axis)
        factors = _live(ops, f, rows.dropped, big_t if w is None else w * big_t)
        q = ops.sum(factors if w is None else w * factors, axis)
        a = (1 - epsilon) * big_m + share * big_t * big_w
        unit = a * l - share * big_t * q
        if epsilon != 1:
            unit = unit - (1 - epsilon) * p
    else:
        a = big_m
        unit = a * l - p

    if rows.s is not None:
        unit = rows.s * ops.where(rows.dropped & ~ops.isfinite(unit), 0.0, unit)
        a = rows.s * a
    if plan.z_loss:
        z_mass = plan.z_loss * _mass(ops, plan, rows)
        square = (m + l) * (m + l)
        if rows.dropped is not None:
            square = ops.where(rows.dropped & ~ops.isfinite(square), 0.0, square)
        unit = unit + z_mass * square
        a = a + 2 * z_mass * (m + l)

    loss = ops.squeeze(unit, axis) if plan.reduction == "none" else ops.total(unit)
    if denominator is not None:
        loss = loss / denominator
    if not with_gradient:
        return loss, None

    if k is None:
        k = big_m * ops.cast(ops.one_hot(rows.ids, x, axis), plan.compute_dtype)
    if epsilon:
        k = (1 - epsilon) * k + share * big_t * (1.0 if w is None else w)
    slope = a * (e / z) - (k if rows.s is None else rows.s * k)
    if rows.dropped is not None:
        slope = ops.where(rows.dropped, 0.0, slope)
    if denominator is not None:
        slope = slope / denominator
    return loss, slope


def _live(ops: Ops, f: Array, dropped: Array | None, coefficient: Array) -> Array:
    """The factors `f`, with 0 in place of a -inf that a zero coefficient would multiply."""
    idle = coefficient == 0
    if dropped is not None:
        idle = idle | dropped
    if isinstance(idle, bool):
        return f
    return ops.where(idle & (f == -INFINITY), 0.0, f)


def _sample_weight(ops: Ops, plan: Plan, operands: Operands) -> Array | None:
    if plan.sample_weight == "none":
        return None
    s = ops.cast(operands.sample_weight, plan.compute_dtype)
    if len(s.shape) != plan.ndim - 1:  # one weight along the first axis, extended to the right
        s = ops.reshape(s, (-1,) + (1,) * (plan.ndim - 2))
    return ops.expand(s, plan.axis)


def _index_rows(
    ops: Ops, plan: Plan, operands: Operands, classes: Any, w: Array | None, s: Array | None
) -> Rows:
    labels = operands.labels
    if not plan.labels_keep_axis:
        labels = ops.expand(labels, plan.axis)
    ignored = poisoned = None
    if not operands.clean:
        if plan.ignore_index is not None:
            ignored = labels == plan.ignore_index
        if plan.below:
            poisoned = labels < 0
        if plan.above:
            poisoned = _either(poisoned, labels >= classes)
    dropped = ignored if s is None else _either(ignored, s == 0)
    unsafe = _either(dropped, poisoned)
    if unsafe is not None:
        labels = ops.where(unsafe, 0, labels)
    if poisoned is not None and dropped is not None:
        poisoned = poisoned & ~dropped
    ids = ops.cast(labels, "int64")

    m = mass = None
    if w is not None:
        m = mass = ops.pick_class(operands.class_weight, ids)
        m = mass = ops.cast(m, plan.compute_dtype)
        idle = m == 0
        if plan.label_smoothing:
            idle = ~ops.any(w != 0, plan.axis)
        dropped = _either(dropped, idle if poisoned is None else idle & ~poisoned)
        if poisoned is not None:
            mass = ops.where(poisoned, 1.0, mass)
        mass = mass if s is None else s * mass
    elif s is not None:
        mass = s
    if ignored is not None and mass is not None:
        mass = ops.where(ignored, 0.0, mass)
    return Rows(ids, ignored, poisoned, dropped, s, m, None, mass)


def _index_coefficients(ops: Ops, plan: Plan, rows: Rows) -> tuple[Array, Array]:
    """M and T of index labels: 0 where ignored; M is NaN where the label is no class id."""
    m: Array = 1.0 if rows.m is None else rows.m
    t: Array = 1.0
    if rows.ignored is not None:
        t = ops.cast(~rows.ignored, plan.compute_dtype)
        m = t if rows.m is None else ops.where(rows.ignored, 0.0, m)
    if rows.poisoned is not None:
        if rows.m is None and rows.ignored is None:
            m = ops.cast(~rows.poisoned, plan.compute_dtype)
        m = ops.where(rows.poisoned, NAN, m)
    return m, t


def _dense_rows(
    ops: Ops, plan: Plan, w: Array | None, t: Array, k: Array, s: Array | None, share: Any
) -> Rows:
    axis = plan.axis
    big_t = ops.sum(t, axis)
    big_m = big_t if w is None else ops.sum(k, axis)
    if plan.label_smoothing:
        smoothed = (1 - plan.label_smoothing) * t + share * big_t
        live = smoothed != 0
        zero = (big_m == 0) & ~ops.any(live if w is None else live & (w != 0), axis)
    else:
        zero = ~ops.any(k != 0, axis)
    mass = s
    if w is not None:
        mass = big_m if s is None else s * big_m
    elif s is not None:
        mass = ops.where(zero, 0.0, s)
    dropped = zero if s is None else zero | (s == 0)
    return Rows(None, None, None, dropped, s, big_m, big_t, mass)


def _denominator(
    ops: Ops, plan: Plan, operands: Operands, rows: Rows, m: Array
) -> tuple[Rows, Array]:
    """What "mean" divides by; where there is nothing to average, every row is dropped instead."""
    dtype = plan.compute_dtype
    if rows.mass is not None and not plan.counts:
        total = ops.total(rows.mass)
        empty = total == 0
        # Masses that cancel leave rows that are not dropped.
        poisoned = None if rows.poisoned is None else rows.poisoned & ~empty
        s = ops.cast(~empty, dtype)
        if rows.s is not None:
            s = ops.where(empty, 0.0, rows.s)
        rows = rows._replace(
            poisoned=poisoned,
            dropped=rows.dropped | empty,
            s=s,
            mass=ops.where(empty, 0.0, rows.mass),
        )
    elif rows.dropped is None:
        total = ops.examples(m, dtype)
    else:
        total = ops.count(~rows.dropped, dtype)
    divisor = operands.normalizer if plan.normalizer else total
    return rows, ops.where(total == 0, 1.0, ops.cast(divisor, dtype))


def _mass(ops: Ops, plan: Plan, rows: Rows) -> Array:
    if rows.mass is not None:
        return rows.mass
    return 1.0 if rows.dropped is None else ops.cast(~rows.dropped, plan.compute_dtype)


def _either(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return b if a is None else a
    return a | b
