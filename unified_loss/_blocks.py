"""Walk over a large problem in blocks that stay in cache, with the arithmetic of `_statistics`.

Rows are independent, so a block is a small problem of its own: the same functions run on slices
of the logits and of what labels and weights say of them, and no array of the logits' size is made
but the gradient.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from unified_loss._ops import KernelOps
from unified_loss._statistics import (
    Rows,
    Statistics,
    combine,
    examples,
    gradient,
    row_statistics,
)
from unified_loss._types import Array, Operands, Plan, Shape

Cut = tuple[slice, slice, slice]
ForEach = Callable[[Callable[[Cut], None], Iterable[Cut]], None]


class BlockOps(KernelOps, Protocol):
    """What blocks need beside the arithmetic."""

    def empty(self, shape: Shape, dtype: str, like: Array) -> Array:
        """An array to be filled, where `like` is."""

    def broadcast(self, x: Array, shape: Shape) -> Array:
        """A view of another shape."""

    def arranged(self, x: Array, *, turned: bool) -> Array:
        """A block ready to reduce over its middle axis; turned: its first and last axis swapped."""


class Problem3(NamedTuple):
    """A problem whose logits are (before, C, after): the class axis in the middle of three."""

    plan: Plan
    operands: Operands
    batch: Shape


def in_three(ops: BlockOps, plan: Plan, operands: Operands) -> Problem3:
    """Views of all operands with the axes before and behind the class axis flattened."""
    shape, axis = tuple(operands.logits.shape), plan.axis
    batch = shape[:axis] + shape[axis + 1 :]
    flat = (math.prod(shape[:axis]), math.prod(shape[axis + 1 :]))
    whole = (flat[0], shape[axis], flat[1])
    weight = operands.sample_weight
    if weight is not None:
        weight = weight.reshape(tuple(weight.shape) + (1,) * (len(batch) - len(weight.shape)))
        weight = ops.broadcast(weight, batch).reshape(flat)
    operands = operands._replace(
        logits=operands.logits.reshape(whole),
        labels=operands.labels.reshape(flat if plan.label_kind == "index" else whole),
        sample_weight=weight,
    )
    return Problem3(plan._replace(axis=1, ndim=3, labels_keep_axis=False), operands, batch)


def cuts(shape: Shape, size: int) -> Iterator[Cut]:
    """Slices of about `size` elements of (before, C, after), in the order of memory."""
    before, classes, after = shape
    rows = max(1, size // (classes * after))
    columns = after if classes * after <= size else max(1, size // classes)
    for row in range(0, before, rows):
        for column in range(0, after, columns):
            yield slice(row, row + rows), slice(None), slice(column, column + columns)


def evaluate(
    ops: BlockOps,
    plan: Plan,
    operands: Operands,
    *,
    size: int,
    turned: bool,
    with_gradient: bool,
    for_each: ForEach,
) -> tuple[Array, Array | None]:
    """The loss, and the gradient if wanted, in blocks of about `size` logits."""
    shape = operands.logits.shape
    plan, operands, batch = in_three(ops, plan, operands)
    logits = operands.logits
    rows, denominator = examples(ops, plan, operands)
    before, _, after = logits.shape
    parts = (True, True, plan.label_smoothing != 1, plan.label_smoothing != 0)
    whole = Statistics(*(
        ops.empty((before, 1, after), plan.compute_dtype, logits) if part else None
        for part in parts
    ))  # fmt: skip
    slope = ops.empty(logits.shape, plan.logits_dtype, logits) if with_gradient else None

    def fill(cut: Cut) -> None:
        x = ops.cast(ops.arranged(logits[cut], turned=turned), plan.compute_dtype)
        block = Rows(rows.classes, *(_cut(ops, part, cut, turned=turned) for part in rows[1:]))
        found = row_statistics(ops, plan, x, block)
        for part, value in zip(whole, found, strict=True):
            if part is not None:
                part[cut] = _turned(value) if turned else value
        if slope is not None:
            value = gradient(ops, plan, x, block, found, denominator)
            slope[cut] = _turned(value) if turned else value

    for_each(fill, cuts(logits.shape, size))
    loss = combine(ops, plan, rows, whole, denominator)
    if plan.reduction == "none":
        loss = loss.reshape(batch)[()]  # NumPy's scalar where there is no batch axis
    return loss, None if slope is None else slope.reshape(shape)


def _cut(ops: BlockOps, part: Any, cut: Cut, *, turned: bool) -> Any:
    """The slice of a part of `Rows` that belongs to a block; numbers belong to all."""
    if len(getattr(part, "shape", ())) != len(cut):
        return part
    here = tuple(slice(None) if n == 1 else s for n, s in zip(part.shape, cut, strict=True))
    return ops.arranged(part[here], turned=turned)


def _turned(x: Array) -> Array:
    return x.swapaxes(0, 2)
