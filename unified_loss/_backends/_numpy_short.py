"""Losses of up to a million logits, in few calls of NumPy and without a walk.

A call costs a microsecond whatever it does, and threads that share blocks tens of them.

The arithmetic is that of `_statistics`, without its care for what is not finite: what is not makes
the sum of the losses so. Rows of few classes are laid side by side, since reductions are faster
over contiguous rows of many examples.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from unified_loss._blocks import LONG
from unified_loss._types import Array, Operands, Plan

FEW_CLASSES = 64
FAR = 16
ONE = 1.0


def along_rows(ufunc: Any, x: Array, axis: int) -> Array:
    """A sum or a maximum along an axis, which stays.

    Where an axis comes after it, NumPy takes one entry of each row after the other: short pieces
    of memory, and sums that lose digits. Entries that are far apart go first, a few at a time.
    """
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    if math.prod(after) > 1 and x.shape[axis] > FEW_CLASSES:
        there = (slice(None),) * axis
        while x.shape[axis] > FAR:
            near = x.shape[axis] // FAR
            whole, rest = (
                x[(*there, part)] for part in (slice(FAR * near), slice(FAR * near, None))
            )
            found = ufunc.reduce(whole.reshape(*before, FAR, near, *after), axis)
            x = np.concatenate([found, rest], axis)
    return ufunc.reduce(x, axis, keepdims=True)


class Short(NamedTuple):
    """A loss, and what was asked for beside it."""

    loss: Array
    gradient: Array | None
    p: Array  # f_y of class ids without options
    s: Array  # sum exp f


class Told(NamedTuple):
    """What labels and weights say, in the letters of `_statistics`: numbers of rows, or `ONE`."""

    p: Array
    mass: Any
    total: Any
    number: int | None  # of rows that count; None: they have to be looked at
    places: tuple[Array, Array] | None  # of the labels, where they are class ids
    k: Array | None  # K, where they are dense


class Layout(NamedTuple):
    """How arrays of the shape (before, C, after) are laid out as matrices."""

    shape: tuple[int, ...]
    axis: int
    is_last: bool
    side_by_side: bool  # (C, N), else (N, C)

    @property
    def flat(self) -> tuple[int, int, int]:
        """The sizes before the class axis, along it, and after it."""
        shape, axis = self.shape, self.axis
        return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])

    def matrix(self, array: Array) -> Array:
        """An array of all classes; perhaps a view."""
        if self.is_last:
            rows = array.reshape(-1, self.shape[-1])
            return rows.T if self.side_by_side else rows
        blocks = array.reshape(self.flat)
        if self.side_by_side:
            return blocks.transpose(1, 0, 2).reshape(self.shape[self.axis], -1)
        return blocks.transpose(0, 2, 1).reshape(-1, self.shape[self.axis])

    def back(self, matrix: Array) -> Array:
        """What `matrix` made a matrix of, in C order."""
        if self.is_last:
            rows = matrix.T if self.side_by_side else matrix
            return np.ascontiguousarray(rows).reshape(self.shape)
        before, classes, after = self.flat
        if self.side_by_side:
            blocks = matrix.reshape(classes, before, after).transpose(1, 0, 2)
        else:
            blocks = matrix.reshape(before, after, classes).transpose(0, 2, 1)
        return np.ascontiguousarray(blocks).reshape(self.shape)

    def of_rows(self, numbers: Any) -> Any:
        """Numbers of rows against a matrix."""
        is_array = not self.side_by_side and isinstance(numbers, np.ndarray)
        return numbers[:, None] if is_array else numbers

    def of_classes(self, numbers: Array) -> Array:
        """Numbers of classes against a matrix."""
        return numbers[:, None] if self.side_by_side else numbers


def serves(plan: Plan) -> bool:
    """Whether a plan has nothing but what is computed here."""
    is_other = plan.z_loss or plan.normalizer or plan.below or plan.above
    is_whole = plan.reduction != "none" and plan.sample_weight == "none"
    return is_whole and not is_other and plan.compute_dtype == plan.logits_dtype


def short(plan: Plan, operands: Operands, *, with_gradient: bool) -> Short | None:
    """The loss, and its gradient; None if that takes care."""
    x, labels, class_weight, *_ = operands
    is_few = plan.num_classes < FEW_CLASSES
    side_by_side = is_few or _lie_side_by_side(plan, x)
    layout = Layout(x.shape, plan.axis, plan.axis + 1 == plan.ndim, side_by_side)
    along = 0 if side_by_side else 1
    sums = np.add.reduce if is_few else _sums
    f = layout.matrix(x)
    if side_by_side:
        f = np.array(f, order="C")
        f -= np.maximum.reduce(f, 0) if is_few else along_rows(np.maximum, f, 0)
    else:
        f = np.subtract(f, np.maximum.reduce(f, 1, keepdims=True), order="C")
    w = None if class_weight is None else class_weight.astype(x.dtype, copy=False)
    told = _of_ids(plan, layout, f, labels, w) if plan.label_kind == "index" else None
    told = told or _of_rows(layout, f, labels, w, sums)
    coefficients = _coefficients(plan, told, w)
    a, b, c = coefficients
    q = None
    if c is not None:
        q = sums(f, along) if w is None else w @ f if side_by_side else f @ w
    e = np.exp(f, out=f)
    s = sums(e, along)
    unit = np.log(s)
    if a is b:
        unit -= told.p
        unit = unit if a is ONE else a * unit
    else:
        unit *= a
        unit -= told.p if b is ONE else b * told.p
    if q is not None:
        unit -= c * q
    loss = np.add.reduce(unit, dtype=np.float64)
    divisor = _divisor(plan, told, w)
    if not (loss and divisor and math.isfinite(loss) and math.isfinite(divisor)):  # never -0
        return None
    slope = _gradient(layout, told, coefficients, w, e, s, 1 / divisor) if with_gradient else None
    return Short(x.dtype.type(loss / divisor), slope, told.p, s)


def bare(plan: Plan, operands: Operands) -> Short | None:
    """The same of class ids without options, along the last axis: lse(x) - x_y."""
    x, ids = operands.logits, operands.labels.ravel()
    classes, numbers = plan.num_classes, np.arange(ids.size)
    rows = x.reshape(ids.size, classes)
    if classes < FEW_CLASSES:
        f = np.array(rows.T, order="C")
        f -= np.maximum.reduce(f, 0)
        p, along = f[ids, numbers], 0
    else:
        f = rows - np.maximum.reduce(rows, 1, keepdims=True)
        p, along = f[numbers, ids], 1
    s = np.add.reduce(np.exp(f, out=f), along)
    loss = np.add.reduce(np.log(s) - p, dtype=np.float64)
    if not 0 < loss < math.inf:
        return None
    return Short(x.dtype.type(loss / ids.size if plan.reduction == "mean" else loss), None, p, s)


def _sums(x: Array, along: int) -> Array:
    return along_rows(np.add, x, along).squeeze(along)


def _lie_side_by_side(plan: Plan, x: Array) -> bool:
    """Whether rows of many classes lie side by side in memory, as pixels do."""
    return plan.num_classes <= LONG and math.prod(x.shape[plan.axis + 1 :]) >= FEW_CLASSES


def _of_ids(plan: Plan, layout: Layout, f: Array, labels: Array, w: Array | None) -> Told:
    ids, kept = labels.ravel(), None
    count = ids.size
    if plan.ignore_index is not None:
        kept = ids != plan.ignore_index
        count = np.count_nonzero(kept)
        ids = np.where(kept, ids, 0)
    numbers = np.arange(ids.size)
    places = (ids, numbers) if layout.side_by_side else (numbers, ids)
    total = mass = ONE if kept is None else kept.astype(f.dtype)
    if w is not None:
        mass = w[ids] if kept is None else w[ids] * total
    return Told(f[places], mass, total, count, places, None)


def _of_rows(layout: Layout, f: Array, labels: Array, w: Array | None, sums: Any) -> Told:
    """Where rows have no mass, nothing counts them: they may be nothing but zeros."""
    along = 0 if layout.side_by_side else 1
    k = np.asarray(layout.matrix(labels), f.dtype, order="C")
    mass = total = sums(k, along)
    if w is not None:
        k = k * layout.of_classes(w)
        mass = sums(k, along)
    count = mass.size if mass.all() else None
    p = sums(k * f, 0) if layout.side_by_side else np.vecdot(k, f)
    return Told(p, mass, total, count, None, k)


def _coefficients(plan: Plan, told: Told, w: Array | None) -> tuple[Any, Any, Any]:
    """An example costs a l - b p - c q; c is None without smoothing."""
    a, b, epsilon = told.mass, told.mass if told.k is None else ONE, plan.label_smoothing
    if not epsilon:
        return a, b, None
    c = epsilon / plan.num_classes * told.total
    weight = plan.num_classes if w is None else np.add.reduce(w)
    return (1 - epsilon) * a + c * weight, (1 - epsilon) * b, c


def _divisor(plan: Plan, told: Told, w: Array | None) -> float:
    """What the sum is divided by; 0 where that takes care."""
    if told.number is None:
        return 0
    if plan.reduction == "sum":
        return 1
    return told.number if w is None else float(np.add.reduce(told.mass, dtype=np.float64))


def _gradient(
    layout: Layout,
    told: Told,
    coefficients: tuple[Any, Any, Any],
    w: Array | None,
    e: Array,
    s: Array,
    scale: float,
) -> Array:
    """The gradient in the logits; `e` is given away."""
    a, b, c = (None if each is None else each * scale for each in coefficients)
    e *= layout.of_rows(a / s)
    if told.k is None:
        e[told.places] -= b
    else:
        e -= b * told.k
    if c is not None:
        c = layout.of_rows(c)
        e -= c if w is None else c * layout.of_classes(w)
    return layout.back(e)
