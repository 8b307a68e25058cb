"""The walks, where arrays have values: for NumPy, torch on its own, and the array API.

The products are the library's; all that is done to a block or tile is shared out to threads, each
of which has some of its rows. Dropped rows take part in nothing (R30).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

from unified_loss._blocks import Walk, walk_loss_and_gradient
from unified_loss._examples import Examples
from unified_loss._linear._tiles import (
    Labels,
    Sums,
    added,
    finished,
    nothing,
    slope_of,
    terms_of_tiles,
)
from unified_loss._linear._walks import Flat, Tour, examples_in, of_rows
from unified_loss._ops import LinearOps
from unified_loss._statistics import Coefficients, Statistics, combine, scaled, slopes_of
from unified_loss._sums import Sums as Totals
from unified_loss._sums import added_up, plan_of_own
from unified_loss._threads import for_each
from unified_loss._types import Array, Head, Operands, Plan, Shape


class WalkOps(LinearOps, Protocol):
    """What the walks need beside the arithmetic of tiles."""

    compacts: ClassVar[bool]  # whether rows that are dropped can be left out for free

    def zeros(self, shape: Shape, dtype: str, like: Array) -> Array:
        """An array of zeros, where `like` is."""

    def places(self, dropped: Array) -> Array | None:
        """The places of rows that are not dropped; None if no row is."""

    def affine_into(self, scratch: Any, hidden: Array, weight: Array, bias: Array | None) -> Array:
        """`affine`, in scratch that is used again."""

    def scratch(self, size: int, dtype: str, like: Array) -> Any:
        """Room for so many numbers."""

    def cap(self, x: Array, softcap: float) -> Array:
        """The logits `x`, which are given away, below their cap."""

    def add_product(self, total: Array, place: Any, a: Array, b: Array) -> None:
        """Add a product to some rows of a total."""

    def added_over_members(self, plan: Plan, x: Array) -> Array:
        """The sum over the members of the group that the classes are split over."""


class Wanted(NamedTuple):
    """Which gradients are asked for."""

    hidden: bool
    weight: bool
    bias: bool


NONE = Wanted(hidden=False, weight=False, bias=False)


def all_of(head: Head) -> Wanted:
    """The gradients of all parts that are there."""
    return Wanted(hidden=True, weight=True, bias=head.bias is not None)


class Field(NamedTuple):
    """A call and its way."""

    ops: Any  # WalkOps, and for rows BlockOps
    flat: Flat
    tour: Tour
    walk: Walk  # how a block is shared out to threads
    examples: Examples  # those that count
    divisor: Array | None
    places: Array | None  # of those that count; None: all rows are gone through
    highest: Array | None = None  # the largest of each label row, where the totals ask for it

    @property
    def number(self) -> int:
        """How many examples count."""
        known = self.flat.head.hidden if self.places is None else self.places
        number: int = known.shape[0]
        return number

    def place(self, rows: slice) -> Any:
        """Where the rows of a block are among all."""
        return rows if self.places is None else self.places[rows]

    def rows(self, array: Array, rows: slice) -> Array:
        """The rows of a block."""
        if self.places is None:
            return array[rows] if array.ndim == 1 else array[rows, :]
        return self.ops.taken(array, self.places[rows])

    def hidden(self, rows: slice) -> Array:
        """The hidden states of a block."""
        found = self.ops.cast(self.rows(self.flat.head.hidden, rows), self.dtype)
        dropped = self.examples.dropped
        if dropped is None:
            return found
        return self.ops.where(_of_part(dropped, rows), 0.0, found)

    @property
    def dtype(self) -> str:
        """What is computed in."""
        return self.flat.plan.compute_dtype

    def logits(self, scratch: Any, hidden: Array, classes: slice) -> Array:
        """The logits of a tile, not yet below their cap."""
        _, weight, bias = self.flat.head
        weight = self.ops.cast(weight[classes, :], self.dtype)
        if bias is not None:
            bias = self.ops.cast(bias[classes], self.dtype)
        return self.ops.affine_into(scratch, hidden, weight, bias)

    def capped(self, x: Array) -> Array:
        """Logits below their cap."""
        softcap = self.flat.form.softcap
        return x if softcap is None else self.ops.cap(x, softcap)

    def scratch(self) -> Any:
        """Room for a block or tile."""
        size = min(self.tour.rows, self.number) * self.tour.classes
        return self.ops.scratch(size, self.dtype, self.flat.head.hidden)

    def labels(self, rows: slice, classes: slice, part: slice) -> Labels:
        """The labels of some rows of a block, as those of a tile."""
        ops, plan, examples = self.ops, self.flat.plan, self.examples
        w = examples.class_weight
        w = None if w is None else w[:, classes]
        whole = slice(rows.start + part.start, rows.start + part.stop)
        count = float(classes.stop - classes.start)
        if examples.ids is not None:
            ids = examples.ids[whole, :] - classes.start
            inside = (ids >= 0) & (ids < classes.stop - classes.start)
            return Labels(ops.where(inside, ids, 0), inside, None, w, count)
        k = top = None
        if plan.label_smoothing != 1:
            t = self.rows(self.flat.operands.labels, whole)[:, classes]
            t = ops.cast(t, self.dtype)
            k = t if w is None else w * t
            top = None if self.highest is None else t == self.highest[whole, :]
        return Labels(None, None, k, w, count, top)

    def share(self, number: int, work: Callable[[int, slice], None]) -> None:
        """Do `work` for each part of the rows of a block."""
        step = max(1, self.walk.size // self.tour.classes)
        parts = [slice(i, min(i + step, number)) for i in range(0, number, step)]
        items = list(enumerate(parts))
        threads, around = self.walk.threads, self.walk.around
        for_each(lambda item: work(*item), items, threads=threads, around=around)


def field_of(ops: Any, flat: Flat, tour: Tour, walk: Walk) -> Field:
    """The way of a call, without the examples that are dropped, where that can be seen for free."""
    return field_with(ops, flat, tour, walk, *examples_in(ops, flat, tour))


def field_with(
    ops: Any, flat: Flat, tour: Tour, walk: Walk, examples: Examples, divisor: Array | None
) -> Field:
    """The same, of examples that are known."""
    places = None
    if examples.dropped is not None and ops.compacts and flat.plan.device is None:
        places = ops.places(examples.dropped)
        if places is not None:
            examples = of_rows(examples, places)
        examples = examples._replace(dropped=None)
    return Field(ops, flat, tour, walk, examples, divisor, places)


def statistics_of(field: Field) -> Statistics:
    """The statistics of the examples that count, by tiles."""
    return finished(field.ops, field.flat.plan, field.examples, sums_of_tiles(field))


def totals_of(field: Field) -> Totals:
    """What `Totals` holds, by tiles."""
    ops, plan = field.ops, field.flat.plan
    own = plan_of_own(plan)
    first = field
    if own is not plan:
        form = field.flat.form._replace(plan=own)
        examples = field.examples._replace(class_weight=None)
        first = field._replace(flat=field.flat._replace(form=form), examples=examples)
    if plan.label_kind == "dense":
        first = first._replace(highest=_largest_labels(field))
    sums = sums_of_tiles(first)
    found = finished(
        ops, plan, field.examples, sums if first.flat is field.flat else sums_of_tiles(field)
    )
    return added_up(ops, plan, field.examples, found, *terms_of_tiles(plan, sums, found))


def _largest_labels(field: Field) -> Array:
    """The largest label of each row, read a block at a time."""
    ops = field.ops
    parts = [
        ops.max(ops.cast(field.rows(field.flat.operands.labels, rows), field.dtype), 1)
        for rows in field.tour.blocks(field.number)
    ]
    return ops.concatenated(parts or [ops.zeros((0, 1), field.dtype, field.flat.head.hidden)])


def sums_of_tiles(field: Field) -> Sums:
    """The sums over all classes of the examples that count."""
    ops, plan = field.ops, field.flat.plan
    scratch = field.scratch()
    found: list[Sums] = []
    for rows in field.tour.blocks(field.number):
        hidden = field.hidden(rows)
        sums: dict[int, Sums] = {}
        for classes in field.tour.tiles(field.flat.sizes[1]):
            _add_tile(field, scratch, sums, hidden, rows, classes)
        found += (sums[number] for number in sorted(sums))
    if not found:  # no rows, or no classes
        zero = ops.zeros((field.number, 1), field.dtype, field.flat.head.hidden)
        found = [nothing(plan, zero, has_top=field.highest is not None)]
    return Sums(*(_joined(ops, parts) for parts in zip(*found, strict=True)))


# What is done to a tile or a block is a function of its own, so that its logits are gone before
# the next ones are made.


def _add_tile(
    field: Field,
    scratch: Any,
    sums: dict[int, Sums],
    hidden: Array,
    rows: slice,
    classes: slice,
) -> None:
    """Add what a tile holds to the sums of its rows."""
    x = field.logits(scratch, hidden, classes)
    field.share(rows.stop - rows.start, partial(_add, field, sums, x, rows, classes))


def _add(
    field: Field,
    sums: dict[int, Sums],
    x: Array,
    rows: slice,
    classes: slice,
    number: int,
    part: slice,
) -> None:
    """Add what a tile holds to the sums of some of its rows."""
    ops, plan = field.ops, field.flat.plan
    before = sums.get(number)
    if before is None:
        shape = part.stop - part.start, 1
        zero = ops.zeros(shape, field.dtype, field.flat.head.hidden)
        before = nothing(plan, zero, has_top=field.highest is not None)
    labels = field.labels(rows, classes, part)
    sums[number] = added(ops, before, field.capped(x[part, :]), labels)


def _joined(ops: Any, parts: tuple[Any, ...]) -> Any:
    if getattr(parts[0], "shape", ()) == ():  # one for all rows
        return parts[0]
    return ops.concatenated(list(parts))


def loss_of(field: Field, statistics: Statistics) -> Array:
    """The loss, in the batch shape under "none"."""
    ops, flat = field.ops, field.flat
    value = combine(ops, flat.plan, field.examples, statistics, field.divisor)
    if flat.plan.reduction != "none":
        return value
    if field.places is not None:
        whole = ops.zeros((flat.sizes[0],), field.dtype, flat.head.hidden)
        whole[field.places] = value
        value = whole
    return ops.reshaped(value, flat.batch)


def gradients_of(
    field: Field, statistics: Statistics, wanted: Wanted, factor: Array | None = None
) -> Head:
    """The gradients, times `factor` of the loss's shape, by tiles that are made again."""
    ops, flat = field.ops, field.flat
    number, classes_, features = flat.sizes
    if factor is not None and flat.plan.reduction == "none":
        factor = ops.reshaped(factor, (number, 1))
        factor = factor if field.places is None else ops.taken(factor, field.places)
    slopes = slopes_of(ops, flat.plan, field.examples, statistics)
    slopes = scaled(slopes, factor, field.divisor)
    total: Any = _totals(field, wanted)
    fill = partial(_fill, field, statistics, slopes)
    scratch = field.scratch()
    for classes in field.tour.tiles(classes_):
        weight = ops.cast(flat.head.weight[classes, :], field.dtype)
        share = None
        if wanted.weight:
            share = ops.zeros((classes.stop - classes.start, features), field.dtype, weight)
        parts = total._replace(weight=share)
        for rows in field.tour.blocks(field.number):
            hidden = field.hidden(rows)
            _add_gradients_of_tile(field, scratch, fill, hidden, weight, parts, rows, classes)
        if share is not None:
            total.weight[classes, :] = ops.cast_like(share, total.weight)
    return _returned(field, total)


def _add_gradients_of_tile(
    field: Field,
    scratch: Any,
    fill: Callable[..., None],
    hidden: Array,
    weight: Array,
    parts: Head,
    rows: slice,
    classes: slice,
) -> None:
    """Add the gradients of a tile, in whose logits' place `fill` puts theirs, to `parts`."""
    x = field.logits(scratch, hidden, classes)
    field.share(rows.stop - rows.start, partial(fill, x, rows, classes))
    _add_products(field, parts, x, hidden, weight, rows, classes)


def _add_products(
    field: Field,
    total: Any,
    x: Array,
    hidden: Array,
    weight: Array,
    rows: slice,
    classes: slice,
) -> None:
    """Add the gradients in hidden states, weight and bias that come of those in logits, `x`.

    The total of the weight is that of the classes, the others are those of all.
    """
    ops = field.ops
    if total.weight is not None:
        ops.add_product(total.weight, slice(None), ops.transposed(x), hidden)
    if total.hidden is not None:
        ops.add_product(total.hidden, field.place(rows), x, weight)
    if total.bias is not None:
        total.bias[classes] += ops.sum_of_rows(x)


def _fill(
    field: Field,
    statistics: Statistics,
    slopes: Coefficients,
    x: Array,
    rows: slice,
    classes: slice,
    _: int,
    part: slice,
) -> None:
    """Put the gradient of some rows of a tile in the place of the logits."""
    whole = slice(rows.start + part.start, rows.start + part.stop)
    own = Coefficients(*(_of_part(one, whole) for one in slopes))
    m, l = statistics.m[whole, :], statistics.l[whole, :]
    mine = field.capped(x[part, :])
    dropped = _of_part(field.examples.dropped, whole)
    labels, softcap = field.labels(rows, classes, part), field.flat.form.softcap
    found = slope_of(field.ops, mine, m, l, own, labels, dropped, softcap)
    if found is not mine:
        x[part, :] = found


def _of_part(value: Any, rows: slice) -> Any:
    is_one_each = getattr(value, "ndim", 0) == 2 and value.shape[0] != 1
    return value[rows, :] if is_one_each else value


def _totals(field: Field, wanted: Wanted) -> Head:
    """Where gradients are added up: those of hidden and bias in the compute dtype."""
    hidden, weight, _ = field.flat.head
    ops: Any = field.ops
    return Head(
        ops.zeros(hidden.shape, field.dtype, hidden) if wanted.hidden else None,
        ops.zeros_like(weight) if wanted.weight else None,
        ops.zeros((weight.shape[0],), field.dtype, hidden) if wanted.bias else None,
    )


def _returned(field: Field, total: Head) -> Head:
    """The gradients in the shapes and dtypes of what they are of."""
    ops, flat = field.ops, field.flat
    if total.hidden is not None and flat.plan.class_group is not None:
        total = total._replace(hidden=ops.added_over_members(flat.plan, total.hidden))
    found = [
        None if part is None else ops.cast_like(part, like)
        for part, like in zip(total, flat.head, strict=True)
    ]
    if found[0] is not None:
        found[0] = ops.reshaped(found[0], (*flat.batch, flat.head.hidden.shape[-1]))
    return Head(*found)


def loss_and_gradients_in_one_pass(field: Field, wanted: Wanted) -> tuple[Array, Head]:
    """The loss, one number, and the gradients, by rows of whole logits."""
    ops: Any = field.ops
    flat = field.flat
    plan = flat.plan._replace(axis=1, reduction="sum", normalizer=False)
    factor = None if field.divisor is None else 1 / field.divisor
    if isinstance(factor, float):
        factor = ops.as_number(factor, field.dtype, flat.head.hidden)
    total = _totals(field, wanted)
    scratch = field.scratch()
    value = None
    for rows in field.tour.blocks(field.number):
        loss = _loss_of_block(field, scratch, plan, factor, total, rows)
        value = loss if value is None else value + loss
    if value is None:
        value = ops.as_number(0.0, field.dtype, flat.head.hidden)
    value = value if field.divisor is None else value / field.divisor
    return value + 0.0, _returned(field, total)


def _loss_of_block(
    field: Field, scratch: Any, plan: Plan, factor: Array | None, total: Head, rows: slice
) -> Array:
    """The sum of the losses of a block, whose gradients are added to the total."""
    ops, softcap, operands = field.ops, field.flat.form.softcap, field.flat.operands
    hidden, every = field.hidden(rows), slice(0, field.flat.sizes[1])
    x = field.logits(scratch, hidden, every)
    if softcap is not None:
        field.share(x.shape[0], partial(_cap, field, x))
    weight = operands.sample_weight
    some = Operands(
        x,
        field.rows(operands.labels, rows),
        operands.class_weight,
        None if weight is None else field.rows(weight, rows),
        None,
    )
    # What is read of a block is read before its gradient takes its place.
    into = x if softcap is None else None
    loss, g = walk_loss_and_gradient(ops, field.walk, plan, some, factor, into)
    if softcap is not None:
        _through_cap(field, x, g, softcap)
    _add_products(field, total, g, hidden, field.flat.head.weight, rows, every)
    return loss


def _cap(field: Field, x: Array, _: int, part: slice) -> None:
    field.capped(x[part, :])


def _through_cap(field: Field, x: Array, g: Array, softcap: float) -> None:
    def multiply(_: int, part: slice) -> None:
        ratio = x[part, :] / softcap
        g[part, :] *= 1 - ratio * ratio

    field.share(x.shape[0], multiply)
