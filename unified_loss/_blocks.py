"""Walk over a large problem in blocks that stay in cache, with the arithmetic of `_statistics`.

Rows are independent, so a block is a small problem of its own: the same functions run on slices
of the logits, labels and weights, and no array of the logits' size is made but the gradient.

Most blocks are plain: their statistics are finite, and then the plain arithmetic was right. Only
one that is not is computed again, with care for what is infinite or NaN and does not count. Where
a look at the statistics would wait for an accelerator, every block is computed with care.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from unified_loss._examples import (
    Examples,
    examples_of,
    has_smoothed_labels,
    weights_of,
    with_divisor,
)
from unified_loss._ops import KernelOps
from unified_loss._shapes import without
from unified_loss._statistics import (
    Statistics,
    careful_gradient,
    combine,
    gradient,
    is_plain,
    row_maximum,
    row_statistics,
    scaled,
    sloped,
    slopes_of,
)
from unified_loss._sums import FLOATS, Sums, sums_of
from unified_loss._threads import Around, for_each
from unified_loss._types import Array, Operands, Plan, Shape

LONG = 1000  # classes, of which adding one by one in float32 would lose digits
COLUMNS = 32  # neighbors that a block has at least: memory is read in lines of so many bytes

Cut = tuple[slice, slice, slice]
Item = tuple[int, Cut]  # a block and its number


class BlockOps(KernelOps, Protocol):
    """What blocks need beside the arithmetic.

    Only where values are read are the last five functions needed, and a layout only where a walk
    is transposed.
    """

    def empty(self, shape: Shape, dtype: str, like: Array) -> Array:
        """An array to be filled, where `like` is."""

    def broadcast(self, x: Array, shape: Shape) -> Array:
        """A view of another shape."""

    def contiguous(self, x: Array) -> Array:
        """`x` laid out in the order of its axes."""

    def plain_statistics(self, plan: Plan, x: Array, examples: Examples) -> Statistics:
        """The statistics, if all of them are finite."""

    def plain_exponentials(
        self, plan: Plan, x: Array, examples: Examples
    ) -> tuple[Statistics, Array, Any]:
        """The same, and the softmax as exponentials and what each row of them is divided by."""

    def softmax(self, x: Array, statistics: Statistics, axis: int) -> Array:
        """The softmax of rows whose statistics are finite."""

    def is_finite(self, x: Array) -> bool:
        """Whether all of `x` is finite; False also where its sum is not."""

    def all(self, x: Array) -> bool:
        """Whether all of `x` is true, or a number but 0."""


class Walk(NamedTuple):
    """How to go through the logits."""

    size: int  # of a block, in logits
    transposed: bool  # swap a block's first and last axis, to reduce over rows of many examples
    threads: int
    around: Around  # what each thread works in


class Kept(NamedTuple):
    """What the gradient needs of the walk for the loss, beside the operands."""

    examples: Examples | None  # None: the operands tell them again
    statistics: Statistics
    divisor: Array | None  # None also where the operands tell it again
    careful: frozenset[int]  # the numbers of the blocks that are not plain
    all_dropped: bool

    def without_operands(self, plan: Plan) -> "Kept":
        """What is no view of an operand, so that those may move elsewhere until then."""
        examples = self.examples
        divisor = None if plan.normalizer else self.divisor
        if plan.label_kind == "index" or examples is None:
            return self._replace(examples=None, divisor=divisor)
        examples = examples._replace(class_weight=None, sample_weight=None)
        return self._replace(examples=examples, divisor=divisor)


class Scale(NamedTuple):
    """What a gradient is multiplied by and divided by; None is 1."""

    factor: Array | None  # a number, or one for each example
    divisor: Any


class Rows(NamedTuple):
    """What is known of the examples of a block once its logits were read."""

    examples: Examples
    statistics: Statistics
    slope: Array | None  # the gradient, if it was asked for
    is_plain: bool  # by plain arithmetic


class Field(NamedTuple):
    """A problem whose logits have the axes (before, C, after), and its blocks."""

    ops: BlockOps
    walk: Walk
    plan: Plan
    operands: Operands
    shape: Shape

    @property
    def row_shape(self) -> Shape:
        """The shape of one number for each example."""
        before, _, after = self.shape
        return before, 1, after

    def go(self, work: Callable[[Item], None]) -> None:
        """Do `work` for each block."""
        blocks = list(enumerate(cuts(self.shape, self.walk.size)))
        for_each(work, blocks, threads=self.walk.threads, around=self.walk.around)

    def logits(self, cut: Cut) -> Array:
        """The logits of a block."""
        return self.ops.cast(self.part(self.operands.logits, cut), self.plan.compute_dtype)

    def part(self, array: Array, cut: Cut) -> Array:
        """The slice of an array that belongs to a block."""
        part = array[cut]
        return self.ops.contiguous(part.swapaxes(0, 2)) if self.walk.transposed else part

    def fill(self, array: Array, part: Any, cut: Cut) -> None:
        """Put what was computed of a block to its place."""
        is_array = self.walk.transposed and not isinstance(part, bool | float)
        array[cut] = part.swapaxes(0, 2) if is_array else part

    def parts(self, arrays: Any, cut: Cut) -> Iterator[Any]:
        """The slices of those that have one number for each example."""
        for array in arrays:
            is_one_each = getattr(array, "shape", None) == self.row_shape
            yield self.part(array, cut) if is_one_each else array

    def empty(self, dtype: str | None = None) -> Array:
        """An array for one number for each example."""
        like = self.operands.logits
        return self.ops.empty(self.row_shape, dtype or self.plan.compute_dtype, like)

    def examples(self, cut: Cut, x: Array, known: Examples, *, plain: bool = False) -> Examples:
        """What labels and weights say of the examples of a block, whose logits are `x`."""
        if self.plan.label_kind == "index":
            return Examples(*self.parts(known, cut))
        block = self.block(cut, x)
        return examples_of(self.ops, self.plan, block, plain=plain, smoothed=not plain)

    def rows(self, cut: Cut, x: Array, known: Examples, scale: Scale | None) -> Rows:
        """What a block tells; with a `scale`, its gradient too."""
        found = self._plain_rows(cut, x, known, scale) if self.ops.reads_values else None
        return found or self._careful_rows(cut, x, known, scale)

    def _plain_rows(self, cut: Cut, x: Array, known: Examples, scale: Scale | None) -> Rows | None:
        """The same by plain arithmetic; None unless that is known to do."""
        ops, plan = self.ops, self.plan
        mine = self.examples(cut, x, known, plain=True)
        if scale is None:
            found = ops.plain_statistics(plan, x, mine)
            does = is_plain(ops, mine, found)
            return Rows(mine, found, None, is_plain=True) if does else None
        found, exponentials, sums = ops.plain_exponentials(plan, x, mine)
        if not is_plain(ops, mine, found):
            return None
        certain = mine._replace(dropped=None)  # rows that are have coefficients of 0
        slopes = scaled(slopes_of(ops, plan, certain, found), *self.scale(cut, scale))
        slopes = slopes._replace(a=slopes.a / sums)
        slope = sloped(ops, plan, certain, slopes, exponentials)
        return Rows(mine, found, slope, is_plain=True)

    def _careful_rows(self, cut: Cut, x: Array, known: Examples, scale: Scale | None) -> Rows:
        """The same with care for what is infinite or NaN and does not count."""
        ops, plan = self.ops, self.plan
        mine = self.examples(cut, x, known)
        found = row_statistics(ops, plan, x, row_maximum(ops, plan, x), mine)
        slope = None
        if scale is not None:
            slope = careful_gradient(ops, plan, x, mine, found, *self.scale(cut, scale))
        return Rows(mine, found, slope, is_plain=False)

    def scale(self, cut: Cut, scale: Scale) -> Scale:
        """That of a block."""
        (factor,) = self.parts([scale.factor], cut)
        return scale._replace(factor=factor)

    def block(self, cut: Cut, x: Array) -> Operands:
        """The operands of a block, whose logits are `x`."""
        _, labels, _, weight, _ = self.operands
        is_dense = self.plan.label_kind == "dense"
        return self.operands._replace(
            logits=x,
            labels=self.part(labels, cut) if is_dense else self._one_each(labels, cut),
            sample_weight=None if weight is None else self._one_each(weight, cut),
        )

    def _one_each(self, array: Array, cut: Cut) -> Array:
        """The slice of an array without a class axis."""
        rows, _, columns = cut
        part = array[rows, columns]
        return part.swapaxes(0, 1) if self.walk.transposed else part


def walk_loss(ops: BlockOps, walk: Walk, plan: Plan, operands: Operands) -> tuple[Array, Kept]:
    """The loss, and what to keep for `walk_gradient`."""
    field = _flattened(ops, walk, plan, operands)
    loss, kept = _walk(field, *_known_before(field))
    return _in_shape(plan, operands, loss), kept


def walk_loss_and_gradient(
    ops: BlockOps,
    walk: Walk,
    plan: Plan,
    operands: Operands,
    factor: Array | None = None,
    into: Array | None = None,
) -> tuple[Array, Array]:
    """The loss, and its gradient as `walk_gradient` has it: in one walk if that is possible.

    It is where what the mean divides by is known before. Beside dense labels without weights
    that is the number of rows, unless one of them turns out to hold nothing.
    """
    field = _flattened(ops, walk, plan, operands)
    examples, divisor = _known_before(field)
    is_guess = plan.reduction == "mean" and plan.label_kind == "dense"
    if is_guess and (examples.mass is not None or into is not None or not ops.reads_values):
        loss, kept = walk_loss(ops, walk, plan, operands)
        return loss, walk_gradient(ops, walk, plan, operands, kept, factor, into)
    if is_guess:
        _, divisor = with_divisor(ops, field.plan, field.operands, examples._replace(dropped=None))
    slope = _room(field, into)
    loss, kept = _walk(field, examples, divisor, _scale(field, factor, divisor), slope)
    loss = _in_shape(plan, operands, loss)
    if is_guess and kept.careful:
        return loss, walk_gradient(ops, walk, plan, operands, kept, factor)
    return loss, slope.reshape(operands.logits.shape)


def _known_before(field: Field) -> tuple[Examples, Array | None]:
    """The examples as far as no block has to be read, and the divisor if it is known then."""
    if field.plan.label_kind == "dense":
        return _unread(field), None
    ops, plan, operands = field.ops, field.plan, field.operands
    return with_divisor(ops, plan, operands, examples_of(ops, plan, operands))


def _walk(
    field: Field,
    examples: Examples,
    divisor: Array | None,
    scale: Scale | None = None,
    slope: Array | None = None,
) -> tuple[Array, Kept]:
    """The loss, and what to keep for its gradient; with a `scale`, that is put into `slope`."""
    ops, _, plan, operands, _ = field
    is_dense = plan.label_kind == "dense"
    parts = (True, True, plan.label_smoothing != 1, plan.label_smoothing != 0)
    statistics = Statistics(*(field.empty() if part else None for part in parts))
    careful: set[int] = set()

    def look_at(item: Item) -> None:
        number, cut = item
        rows = field.rows(cut, field.logits(cut), examples, scale)
        mine = rows.examples
        if not rows.is_plain:
            careful.add(number)
        if slope is not None:
            field.fill(slope, rows.slope, cut)
        for array, part in zip(statistics, rows.statistics, strict=True):
            if array is not None:
                field.fill(array, 0.0 if part is None else part, cut)
        if is_dense:
            field.fill(examples.label_mass, mine.label_mass, cut)
            field.fill(examples.label_total, mine.label_total, cut)
            field.fill(examples.dropped, False if mine.dropped is None else mine.dropped, cut)
            if examples.mass is not None:
                field.fill(examples.mass, mine.mass, cut)

    field.go(look_at)
    if is_dense:
        examples, divisor = with_divisor(ops, plan, operands, examples)
    dropped = examples.dropped
    all_dropped = dropped is not None and ops.reads_values and ops.all(dropped)
    if dropped is not None and all_dropped:
        nothing = ops.cast(~dropped, plan.compute_dtype)
        statistics = Statistics(*(None if part is None else nothing for part in statistics))
    loss = combine(ops, plan, examples, statistics, divisor)
    return loss, Kept(examples, statistics, divisor, frozenset(careful), all_dropped)


def _in_shape(plan: Plan, operands: Operands, loss: Array) -> Array:
    """The loss, one number or one of each example."""
    if plan.reduction != "none":
        return loss
    return loss.reshape(without(tuple(operands.logits.shape), plan.axis))


def _scale(field: Field, factor: Array | None, divisor: Any) -> Scale:
    """What the gradient is multiplied by, as the loss has it, and divided by."""
    if factor is not None and field.plan.reduction == "none":
        factor = factor.reshape(field.row_shape)
    return Scale(factor, divisor)


def _room(field: Field, into: Array | None) -> Array:
    """Where the gradient goes."""
    if into is None:
        into = field.ops.empty(field.shape, field.plan.logits_dtype, field.operands.logits)
    return into.reshape(field.shape)


def walk_gradient(
    ops: BlockOps,
    walk: Walk,
    plan: Plan,
    operands: Operands,
    kept: Kept,
    factor: Array | None = None,
    into: Array | None = None,
) -> Array:
    """The gradient of the loss that was computed, times `factor` of the loss's shape.

    `into`: where it goes; the logits themselves can be given away so.
    """
    shape = operands.logits.shape
    field = _flattened(ops, walk, plan, operands)
    plan = field.plan
    slope = _room(field, into)
    if kept.all_dropped:
        slope[...] = 0
        return slope.reshape(shape)
    examples, divisor = _known_again(field, kept)
    scale = _scale(field, factor, divisor)

    def of_careful_block(x: Array, cut: Cut) -> Array:
        mine = field.examples(cut, x, examples)
        found = Statistics(*field.parts(kept.statistics, cut))
        if has_smoothed_labels(plan):
            found = found._replace(q=None)  # which is a part of p
        return careful_gradient(ops, plan, x, mine, found, *field.scale(cut, scale))

    def of_plain_block(x: Array, cut: Cut) -> Array:
        mine = Examples(*field.parts(examples, cut))._replace(dropped=None)
        if plan.label_kind == "dense":
            t = ops.cast(field.part(field.operands.labels, cut), plan.compute_dtype)
            w = mine.class_weight
            mine = mine._replace(weighted_labels=t if w is None else w * t)
        found = Statistics(*field.parts(kept.statistics, cut))
        softmax = ops.softmax(x, found, plan.axis)
        return gradient(ops, plan, mine, found, softmax, *field.scale(cut, scale))

    def fill(item: Item) -> None:
        number, cut = item
        find = of_careful_block if number in kept.careful else of_plain_block
        field.fill(slope, find(field.logits(cut), cut), cut)

    field.go(fill)
    return slope.reshape(shape)


def walk_sums(ops: BlockOps, walk: Walk, plan: Plan, operands: Operands) -> Sums:
    """What `Totals` holds: the sums of the blocks, added up."""
    field = _flattened(ops, walk, plan, operands)
    blocks = sum(1 for _ in cuts(field.shape, walk.size))
    dtypes = (*(plan.compute_dtype,) * FLOATS, "int64")
    found = [ops.empty((blocks,), dtype, operands.logits) for dtype in dtypes]

    def add_up(item: Item) -> None:
        number, cut = item
        block = field.block(cut, field.part(field.operands.logits, cut))
        for array, value in zip(found, sums_of(ops, field.plan, block), strict=True):
            array[number] = value

    field.go(add_up)
    return tuple(map(ops.total, found))


def _flattened(ops: BlockOps, walk: Walk, plan: Plan, operands: Operands) -> Field:
    """Views of the operands with the axes around the class axis flattened."""
    shape, axis = operands.logits.shape, plan.axis
    batch = without(tuple(shape), axis)
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    flat = before, shape[axis], after
    weight = operands.sample_weight
    if weight is not None:
        weight = weight.reshape((*weight.shape, *(1,) * (len(batch) - weight.ndim)))
        weight = ops.broadcast(weight, batch).reshape((before, after))
    operands = operands._replace(
        logits=operands.logits.reshape(flat),
        labels=operands.labels.reshape((before, after) if plan.label_kind == "index" else flat),
        sample_weight=weight,
    )
    plan = plan._replace(axis=1, ndim=3, labels_keep_axis=False)
    return Field(ops, walk, plan, operands, flat)


def _unread(field: Field) -> Examples:
    """The examples of dense labels, which the walk will read."""
    num_classes, w, s = weights_of(field.ops, field.plan, field.operands)
    mass = None if w is None and s is None else field.empty()
    return Examples(
        num_classes,
        ids=None,
        weighted_labels=None,
        class_weight=w,
        sample_weight=s,
        label_mass=field.empty(),
        label_total=field.empty(),
        dropped=field.empty("bool"),
        mass=mass,
    )


def _known_again(field: Field, kept: Kept) -> tuple[Examples, Array | None]:
    """The examples of the walk for the loss, and what it divided by."""
    ops, plan, operands = field.ops, field.plan, field.operands
    if kept.examples is None:
        examples, divisor = with_divisor(ops, plan, operands, examples_of(ops, plan, operands))
        return examples, divisor if plan.normalizer else kept.divisor
    examples, divisor = kept.examples, kept.divisor
    if plan.label_kind == "dense":
        _, w, s = weights_of(ops, plan, operands)
        examples = examples._replace(class_weight=w, sample_weight=s)
    if plan.normalizer and divisor is None:
        # Some example counts, or there would be no walk: it is the normalizer, or no divisor.
        _, divisor = with_divisor(ops, plan, operands, examples)
    return examples, divisor


def cuts(shape: Shape, size: int) -> Iterator[Cut]:
    """Slices of (before, C, after) in the order of memory: `size` elements, or long rows a few."""
    before, classes, after = shape
    rows = max(1, size // (classes * after))
    columns = after if classes * after <= size else max(COLUMNS, size // classes)
    for row in range(0, before, rows):
        for column in range(0, after, columns):
            yield slice(row, row + rows), slice(None), slice(column, column + columns)
