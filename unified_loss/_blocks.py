"""Walk over a large problem in blocks that stay in cache, with the arithmetic of `_statistics`.

Rows are independent, so a block is a small problem of its own: the same functions run on slices
of the logits, labels and weights, and no array of the logits' size is made but the gradient.

Most blocks are plain: their statistics are finite, and then the plain arithmetic was right. Only
one that is not is computed again, with care for what is infinite or NaN and does not count.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Any, NamedTuple, Protocol

from unified_loss._ops import KernelOps
from unified_loss._rules import without
from unified_loss._statistics import (
    Rows,
    Statistics,
    careful_gradient,
    combine,
    denominator,
    gradient,
    is_plain,
    row_statistics,
    rows_of,
    weights_of,
)
from unified_loss._threads import Around, for_each
from unified_loss._types import Array, Operands, Plan, Shape

LONG = 1000  # classes, of which adding one by one in float32 would lose digits

Cut = tuple[slice, slice, slice]
Item = tuple[int, Cut]  # a block and its number


class BlockOps(KernelOps, Protocol):
    """What blocks need beside the arithmetic."""

    def empty(self, shape: Shape, dtype: str, like: Array) -> Array:
        """An array to be filled, where `like` is."""

    def broadcast(self, x: Array, shape: Shape) -> Array:
        """A view of another shape."""

    def contiguous(self, x: Array) -> Array:
        """`x` laid out in the order of its axes."""

    def plain_statistics(self, plan: Plan, x: Array, rows: Rows) -> Statistics:
        """The statistics, if all of them are finite."""

    def softmax(self, x: Array, statistics: Statistics, axis: int) -> Array:
        """The softmax of rows whose statistics are finite."""

    def is_finite(self, x: Array) -> bool:
        """Whether all of `x` is finite; False also where its sum is not."""

    def all(self, x: Array) -> bool:
        """Whether all of `x` is true, or a number but 0."""


class Walk(NamedTuple):
    """How to go through the logits."""

    size: int  # of a block, in logits
    turned: bool  # swap a block's first and last axis, to reduce over rows of many examples
    threads: int
    around: Around  # what each thread works in


class Blocks:
    """One problem in blocks: a walk for the loss, and perhaps another one for the gradient."""

    def __init__(self, ops: BlockOps, walk: Walk, plan: Plan, operands: Operands) -> None:
        self.ops, self.walk = ops, walk
        self.shape, axis = tuple(operands.logits.shape), plan.axis
        self.batch = without(self.shape, axis)
        before, after = math.prod(self.shape[:axis]), math.prod(self.shape[axis + 1 :])
        self.whole, self.each = (before, self.shape[axis], after), (before, 1, after)
        self.plan = plan._replace(axis=1, ndim=3, labels_keep_axis=False)
        self.operands = self._flattened(operands)
        self.careful: set[int] = set()  # the numbers of the blocks that are not plain

    def without_operands(self) -> "Blocks":
        """What to keep for the gradient beside the operands, from which the rows are read again."""
        kept = copy(self)
        del kept.operands
        return kept

    def with_operands(self, operands: Operands) -> "Blocks":
        """The problem again, with the operands that it was made with."""
        whole = copy(self)
        whole.operands = self._flattened(operands)
        if self.plan.label_kind == "index":
            rows = rows_of(self.ops, self.plan, whole.operands)
            whole.rows, _ = denominator(self.ops, self.plan, whole.operands, rows)
        else:
            _, w, s = weights_of(self.ops, self.plan, whole.operands)
            whole.rows = self.rows._replace(w=w, s=s)
        return whole

    def _flattened(self, operands: Operands) -> Operands:
        """Views of the operands with the axes around the class axis flattened."""
        before, _, after = self.whole
        is_index = self.plan.label_kind == "index"
        weight = operands.sample_weight
        if weight is not None:
            weight = weight.reshape((*weight.shape, *(1,) * (len(self.batch) - weight.ndim)))
            weight = self.ops.broadcast(weight, self.batch).reshape((before, after))
        return operands._replace(
            logits=operands.logits.reshape(self.whole),
            labels=operands.labels.reshape((before, after) if is_index else self.whole),
            sample_weight=weight,
        )

    def loss(self) -> Array:
        """The loss."""
        ops, plan = self.ops, self.plan
        parts = (True, True, plan.label_smoothing != 1, plan.label_smoothing != 0)
        statistics = Statistics(*(self._empty() if part else None for part in parts))
        is_index = plan.label_kind == "index"
        self.rows = rows_of(ops, plan, self.operands) if is_index else self._unread_rows()
        self.statistics = statistics
        self._go(self._look_at)
        self.rows, self.denominator = denominator(ops, plan, self.operands, self.rows)
        dropped = self.rows.dropped
        self.is_idle = dropped is not None and ops.all(dropped)
        if dropped is not None and self.is_idle:
            nothing = ops.cast(~dropped, plan.compute_dtype)
            statistics = Statistics(*(None if part is None else nothing for part in statistics))
        loss = combine(ops, plan, self.rows, statistics, self.denominator)
        return loss.reshape(self.batch) if plan.reduction == "none" else loss

    def gradient(self, factor: Array | None = None) -> Array:
        """The gradient of the loss that was computed, times `factor` of the loss's shape."""
        plan = self.plan
        slope = self.ops.empty(self.whole, plan.logits_dtype, self.operands.logits)
        is_one_each = factor is not None and plan.reduction == "none"
        if factor is not None and is_one_each:
            factor = factor.reshape(self.each)

        def fill(item: Item) -> None:
            number, cut = item
            find = self._careful_gradient if number in self.careful else self._plain_gradient
            slope[cut] = self._turned(find(cut, self._cut(factor, cut) if is_one_each else factor))

        if self.is_idle:
            slope[...] = 0
        else:
            self._go(fill)
        return slope.reshape(self.shape)

    def _go(self, work: Callable[[Item], None]) -> None:
        blocks = list(enumerate(cuts(self.whole, self.walk.size)))
        for_each(work, blocks, threads=self.walk.threads, around=self.walk.around)

    def _look_at(self, item: Item) -> None:
        """Keep the statistics of a block, and what dense labels say of its rows."""
        ops, plan = self.ops, self.plan
        number, cut = item
        x = self._logits(cut)
        is_dense = plan.label_kind == "dense"
        rows = self._dense_rows(cut, x, plain=True) if is_dense else self._rows(cut)
        found = ops.plain_statistics(plan, x, rows)
        if not is_plain(ops, rows, found):
            self.careful.add(number)
            rows = self._dense_rows(cut, x) if is_dense else rows
            found = row_statistics(ops, plan, x, rows)
        self._keep(self.statistics, found, cut)
        if is_dense:
            dropped = False if rows.dropped is None else rows.dropped
            self._keep(self.rows[-4:], (rows.m, rows.t, dropped, rows.mass), cut)

    def _keep(self, wholes: Iterable[Array | None], parts: Iterable[Any], cut: Cut) -> None:
        for whole, part in zip(wholes, parts, strict=True):
            if whole is not None and part is not None:
                whole[cut] = part if isinstance(part, bool | float) else self._turned(part)

    def _careful_gradient(self, cut: Cut, factor: Array | None) -> Array:
        ops, plan = self.ops, self.plan
        x = self._logits(cut)
        rows = self._dense_rows(cut, x) if plan.label_kind == "dense" else self._rows(cut)
        found = row_statistics(ops, plan, x, rows)
        return careful_gradient(ops, plan, x, rows, found, factor, self.denominator)

    def _plain_gradient(self, cut: Cut, factor: Array | None) -> Array:
        ops, plan = self.ops, self.plan
        x = self._logits(cut)
        rows = self._rows(cut)._replace(dropped=None)
        if plan.label_kind == "dense":
            t = ops.cast(self._cut(self.operands.labels, cut), plan.compute_dtype)
            rows = rows._replace(k=t if rows.w is None else rows.w * t)
        found = Statistics(*(None if s is None else self._cut(s, cut) for s in self.statistics))
        softmax = ops.softmax(x, found, plan.axis)
        return gradient(ops, plan, rows, found, softmax, factor, self.denominator)

    def _unread_rows(self) -> Rows:
        """The rows of dense labels, which the walk will read."""
        classes, w, s = weights_of(self.ops, self.plan, self.operands)
        mass = None if w is None and s is None else self._empty()
        m, t, dropped = self._empty(), self._empty(), self._empty("bool")
        return Rows(classes, None, None, w, s, m, t, dropped, mass)

    def _empty(self, dtype: str | None = None) -> Array:
        """An array for one number for each example."""
        like = self.operands.logits
        return self.ops.empty(self.each, dtype or self.plan.compute_dtype, like)

    def _logits(self, cut: Cut) -> Array:
        return self.ops.cast(self._cut(self.operands.logits, cut), self.plan.compute_dtype)

    def _rows(self, cut: Cut) -> Rows:
        """What is known of the rows of a block."""
        parts = []
        for part in self.rows[1:]:
            is_one_each = part is not None and type(part) is not float and part.shape == self.each
            parts.append(self._cut(part, cut) if is_one_each else part)
        return Rows(self.rows.classes, *parts)

    def _dense_rows(self, cut: Cut, x: Array, *, plain: bool = False) -> Rows:
        """What the labels of a block say of its rows."""
        rows, _, columns = cut
        weight = self.operands.sample_weight
        if weight is not None:
            weight = weight[rows, columns]
            weight = weight.swapaxes(0, 1) if self.walk.turned else weight
        labels = self._cut(self.operands.labels, cut)
        operands = self.operands._replace(logits=x, labels=labels, sample_weight=weight)
        return rows_of(self.ops, self.plan, operands, plain=plain)

    def _cut(self, array: Array, cut: Cut) -> Array:
        """The slice of an array that belongs to a block."""
        part = array[cut]
        return self.ops.contiguous(part.swapaxes(0, 2)) if self.walk.turned else part

    def _turned(self, x: Array) -> Array:
        return x.swapaxes(0, 2) if self.walk.turned else x


def cuts(shape: Shape, size: int) -> Iterator[Cut]:
    """Slices of about `size` elements of (before, C, after), in the order of memory."""
    before, classes, after = shape
    rows = max(1, size // (classes * after))
    columns = after if classes * after <= size else max(1, size // classes)
    for row in range(0, before, rows):
        for column in range(0, after, columns):
            yield slice(row, row + rows), slice(None), slice(column, column + columns)
