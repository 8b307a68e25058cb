"""Which walk serves a call that has too many logits to make them, and its problem laid out flat.

*Rows*: all classes of a block of examples, whose gradients are made in the same pass; three
products, and scratch of one block. *Classes*: a tile of examples and classes at a time; the
statistics of tiles are added up, and the gradient makes each tile again: four products, and
scratch that does not depend on the number of classes.

What "mean" divides by is known from labels and weights alone, which is why one pass serves every
option.
"""

import math
from typing import Any, Literal, NamedTuple

from unified_loss._examples import Examples, examples_of, with_divisor
from unified_loss._ops import LinearOps
from unified_loss._types import Array, Form, Head, Operands, Plan, Shape

# Up to TWO_STEPS logits the two steps are as fast, and small. A block of rows has ROWS_AT_LEAST of
# them, or ROW_BLOCK logits: fewer rows make products slow, more take memory and no less time. A
# tile has TILE logits, TILE_ROWS of the examples. With few features the products are cheap, and a
# tile that stays in cache wins.
TWO_STEPS = 2**21
ROWS_AT_LEAST = 176
ROW_BLOCK = 11 * 2**19
TILE = 2**22
TILE_ROWS = 2**11
FEW_FEATURES = 128
CLASSES_AT_LEAST = 128  # of a tile of all rows: fewer make products slow
# R29, in bytes: a share of the logits' size within these bounds, less what threads need.
SMALLEST, LARGEST, SHARE, ASIDE = 2**26, 2**29, 4, 2**24


class Tour(NamedTuple):
    """A walk: what it goes by, and the sizes of its blocks or tiles."""

    by: Literal["rows", "classes"]
    rows: int
    classes: int

    def blocks(self, number: int) -> list[slice]:
        """The blocks of so many rows."""
        return [slice(i, min(i + self.rows, number)) for i in range(0, number, self.rows)]

    def tiles(self, number: int) -> list[slice]:
        """The tiles of so many classes."""
        return [slice(i, min(i + self.classes, number)) for i in range(0, number, self.classes)]


def tour_of(
    form: Form, rows: int, classes: int, features: int, *, in_one_pass: bool
) -> Tour | None:
    """The walk of a call, None for two steps.

    `in_one_pass`: the loss is one number, its gradient is asked for, and all sums can be kept in
    the arrays that are returned.
    """
    size = rows * classes
    if size <= TWO_STEPS:
        return None
    if in_one_pass and features >= FEW_FEATURES:
        itemsize = 8 if form.plan.compute_dtype == "float64" else 4
        scratch = max(SMALLEST, min(size * itemsize // SHARE, LARGEST)) - ASIDE
        scratch //= itemsize * (1 if form.softcap is None else 2)
        block = min(rows, max(ROWS_AT_LEAST, ROW_BLOCK // classes))
        if block * classes <= scratch:
            return Tour("rows", block, classes)
    block = min(rows, max(TILE_ROWS, TILE // max(1, classes)))
    return Tour("classes", block, min(classes, max(1, TILE // block)))


def tour_of_part(form: Form, rows: int, classes: int, features: int) -> Tour:
    """The walk over a part of the classes: a gradient needs what all parts know of each row."""
    found = tour_of(form, rows, classes, features, in_one_pass=False)
    return found or Tour("classes", max(rows, 1), max(classes, 1))


def fits_one_pass(plan: Plan, head: Head, compute_dtype: Any) -> bool:
    """Whether gradients can be made in the pass of the loss, on the processor.

    The loss is one number, and nothing is rounded before it is returned, so all sums can be kept
    in the arrays that are. Of the head, arrays or `Spec`s, the dtypes are asked for.
    """
    is_of_one_dtype: bool = head.hidden.dtype == head.weight.dtype == compute_dtype
    return plan.reduction != "none" and plan.device is None and is_of_one_dtype


def classes_of_all_rows(rows: int) -> int:
    """How many classes a tile of all rows has."""
    return max(1, min(CLASSES_AT_LEAST, TILE), TILE // max(1, rows))


class Flat(NamedTuple):
    """A call whose examples have one axis."""

    form: Form
    head: Head
    operands: Operands  # without logits
    batch: Shape

    @property
    def plan(self) -> Plan:
        """The plan for logits (N, C)."""
        return self.form.plan

    @property
    def sizes(self) -> tuple[int, int, int]:
        """N, C and D."""
        hidden, weight, _ = self.head
        return hidden.shape[0], weight.shape[0], weight.shape[1]


def sizes_of(head: Head) -> tuple[int, int, int]:
    """N, C and D."""
    hidden, weight, _ = head
    return math.prod(hidden.shape[:-1]), weight.shape[0], weight.shape[1]


def flattened(ops: LinearOps, form: Form, head: Head, operands: Operands) -> Flat:
    """The call with one axis of examples: views, where the library has them."""
    plan = form.plan
    batch = tuple(head.hidden.shape[:-1])
    rows, classes, _ = sizes_of(head)
    labels, weight = operands.labels, operands.sample_weight
    if plan.label_kind == "index":
        labels = ops.reshaped(labels, (rows,))
    else:
        labels = ops.reshaped(labels, (rows, classes))
    if weight is not None:
        weight = ops.extend(weight, ops.hollow(plan, head.hidden, head.weight), len(batch))
        weight = ops.reshaped(weight, (rows,))
    hidden = ops.reshaped(head.hidden, (rows, head.hidden.shape[-1]))
    plan = plan._replace(axis=1, ndim=2, labels_keep_axis=False)
    operands = operands._replace(labels=labels, sample_weight=weight)
    return Flat(form._replace(plan=plan), head._replace(hidden=hidden), operands, batch)


def examples_in(ops: LinearOps, flat: Flat, tour: Tour) -> tuple[Examples, Array | None]:
    """What labels and weights say of all examples, and the divisor; no array is of the logits'."""
    plan, (hidden, weight, _), operands = flat.plan, flat.head, flat.operands
    if plan.label_kind == "index":
        known = operands._replace(logits=ops.hollow(plan, hidden, weight))
        return with_divisor(ops, plan, known, examples_of(ops, plan, known))
    parts = []
    for rows in tour.blocks(hidden.shape[0]) or [slice(0, 0)]:
        some = operands._replace(
            logits=ops.hollow(plan, hidden[rows, :], weight),
            labels=operands.labels[rows, :],
            sample_weight=None if operands.sample_weight is None else operands.sample_weight[rows],
        )
        parts.append(examples_of(ops, plan, some)._replace(weighted_labels=None))
    examples = joined(ops, parts)
    known = operands._replace(logits=ops.hollow(plan, hidden, weight))
    return with_divisor(ops, plan, known, examples)


def joined(ops: LinearOps, parts: list[Examples]) -> Examples:
    """The examples of blocks of rows as those of all rows."""

    def whole(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return values[0] if values[0] is None else ops.concatenated(values)

    per_row = ("sample_weight", "label_mass", "label_total", "dropped", "mass")
    return parts[0]._replace(**{name: whole(name) for name in per_row})


def of_rows(examples: Examples, rows: Any) -> Examples:
    """What is known of some of the examples."""

    def part(name: str, value: Any) -> Any:
        is_one_each = getattr(value, "ndim", 0) == 2 and name not in {
            "class_weight",
            "weight_total",
        }
        return value[rows, :] if is_one_each else value

    return Examples(*(part(name, value) for name, value in examples._asdict().items()))
