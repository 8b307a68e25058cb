"""Causes: labels that were made for another loss, another output or another list of classes."""

import math

from unified_loss import _rules as rules
from unified_loss._diagnosis._facts import PAIR, Facts, count, ratio, without_ones
from unified_loss._diagnosis._fixes import Fix, Step, fix, outside
from unified_loss._diagnosis._table import Reading, Readings, Score, cause
from unified_loss._offered import WHOLE
from unified_loss._shown import shown, shown_size

WHOLE_BUT_MISSING = f"{WHOLE} and examples without a name do not count"
FEW = 8  # ids of one example; more are rather the steps of a sequence


@cause("string_labels", "class names instead of class ids", "options", example='np.zeros((2, 3)), np.array(["cat", "dog"])')  # fmt: skip # noqa: E501
def string_labels(facts: Facts) -> Readings:
    """Names of classes, or other objects, where class ids are wanted."""
    dtype, values = facts.problem.labels.dtype, facts.values
    if not dtype.startswith(("str", "bytes", "object")) or (values and values.whole):
        return
    given, mark, is_readable = WHOLE, None, values is None or values.sortable
    if values and values.missing:
        given, mark = WHOLE_BUT_MISSING, rules.integer(facts.problem.options.ignore_index)
        is_class = (
            isinstance(mark, int) and isinstance(facts.classes, int) and (0 <= mark < facts.classes)
        )
        is_readable = (
            values.sortable and len(facts.labels) == 1 and mark is not None and not is_class
        )
    number = Step("labels", "number", mark)
    yield Reading(
        Score.CERTAIN if dtype != "object" else Score.LIKELY,
        f"labels {shown(facts.problem.labels.shape)} are "
        f"{'objects, such as class names' if dtype == 'object' else 'class names (text)'}: "
        "each name needs a class id, a number from 0.",
        (
            *named(facts.problem.logits.library),
            *(fix(facts, "number them", number, given=given) if is_readable else ()),
        ),
        "do not number the names of each batch by itself: ids would change.",
    )


def named(library: str) -> tuple[Fix, ...]:
    """How names become ids over a whole data set, in the words of a framework."""
    look_up = {
        "tensorflow": "keras.layers.StringLookup(vocabulary=names, num_oov_indices=0)",
        "torch": "ids = {name: i for i, name in enumerate(names)}",
    }.get(library, "ids = {name: i for i, name in enumerate(names)}")
    return (
        outside("encode them once, over the whole data set (names, ids = np.unique(all_names, "
                f"return_inverse=True)), and map the names of each batch to these ids: {look_up}"),
    )  # fmt: skip


@cause(
    "labels_missing_values",
    "missing values among the labels",
    "options",
    "labels",
    example="np.zeros((4, 3)), np.array([0, 2, np.nan, 1])",
)
def labels_missing_values(facts: Facts) -> Readings:
    """Class ids some of which are missing: NaN among floating numbers, None among objects."""
    values, dtype = facts.values, facts.problem.labels.dtype
    if not values or not values.missing or not values.whole or facts.equal(facts.classes, 1):
        return
    if not facts.equal(without_ones(facts.labels), without_ones(facts.batch)):
        return
    numbers = [Step("labels", "cast", "float64")] if dtype == "object" else []
    mark = rules.integer(facts.problem.options.ignore_index)
    fill = [] if mark is None else fix(
        facts, "mark them with ignore_index", *numbers, Step("labels", "fill", mark),
        given="examples without a label do not count",
    )  # fmt: skip
    are = "is" if values.missing == 1 else "are"
    yield Reading(
        Score.CERTAIN,
        f"{values.missing} of {count(facts.labels)} labels {are} missing "
        f"({'None or ' if numbers else ''}NaN); class ids are integers, which hold no such value.",
        (*fill, outside("leave out the examples without a label, where the data are made")),
        "do not cast NaN to integers: what it becomes is any number.",
    )


@cause("one_hot_applied_twice", "one-hot applied twice", "labels", example="np.zeros((2, 5, 3)), np.zeros((2, 5, 3, 3))")  # fmt: skip # noqa: E501
def one_hot_applied_twice(facts: Facts) -> Readings:
    """One-hot rows of one-hot rows."""
    logits, labels, classes = facts.logits, facts.labels, facts.classes
    if not facts.equal(labels[:-1], logits) or len(labels) != len(logits) + 1:
        return
    if facts.fractional or not (facts.equal(labels[-1], classes) or facts.equal(labels[-1], PAIR)):
        return
    if facts.equal(classes, 1):
        return
    yield Reading(
        Score.STRONG,
        f"labels {shown(labels)} have the shape {shown(logits)} of the logits and one axis of "
        f"{shown_size(labels[-1])} more: rows that were already one-hot became one-hot again.",
        (
            outside("make them one-hot once, where the data are made"),
            *fix(facts, "undo the second one-hot", Step("labels", "pick", (len(logits), 1)),
                 given="the entry 1 of the last axis stands for a one"),
        ),
    )  # fmt: skip


@cause(
    "label_id_lists_instead_of_multi_hot",
    "lists of class ids, several per example",
    "labels",
    example="np.zeros((2, 5)), np.array([[0, 3], [2, 4]])",
)
def label_id_lists_instead_of_multi_hot(facts: Facts) -> Readings:
    """Several class ids for each example, where a loss takes one."""
    logits, labels, values = facts.logits, facts.labels, facts.values
    if not (len(logits) == len(labels) == 2 and facts.equal(logits[0], labels[0])):
        return
    columns, classes = labels[1], facts.classes
    known = isinstance(columns, int) and isinstance(classes, int)
    if not facts.integer or not known or not 1 < columns < classes or facts.axis != 1:
        return
    if values is not None and (values.low < -1 or values.high > classes or facts.rows_of_ones):
        return
    if values is not None and values.binary and columns > PAIR:
        return
    yield Reading(
        Score.STRONG if columns <= FEW else Score.LIKELY,
        f"labels {shown(labels)} have {columns} ids for each example of {classes} classes: several "
        "class ids per example, if an example has several classes.",
        (
            outside(f"make multi-hot rows {shown(logits)} of them, with a 1 for each id, and take "
                    f"a multi-label ({facts.term('sigmoid')}) loss"),
            outside(f"give one class id per example: {shown(facts.batch)}"),
        ),
    )  # fmt: skip


@cause(
    "first_column_never_occurs",
    "a column for class 0, which never occurs",
    "labels",
    example="np.zeros((2, 3)), np.eye(4)[[1, 3]]",
)
def first_column_never_occurs(facts: Facts) -> Readings:
    """One-hot rows of class ids that start at 1 have a column too many."""
    logits, labels, axis, values = facts.logits, facts.labels, facts.axis, facts.values
    if len(labels) != len(logits) or facts.differing(logits, labels) != (axis,) or not values:
        return
    classes, columns = facts.classes, labels[axis]
    is_one_more = isinstance(classes, int) and isinstance(columns, int) and columns == classes + 1
    if not is_one_more or axis not in values.empty_axes or axis not in values.unit_axes:
        return
    yield Reading(
        Score.STRONG,
        f"label rows have {columns} columns for {classes} classes, and the first is 0 in all: they "
        "look like one-hot rows of ids that start at 1.",
        (
            *fix(facts, "drop the empty column", Step("labels", "cut", (axis, 1, None)),
                 given="no class has the id 0"),
            outside(f"{facts.units(columns)}"),
        ),
    )  # fmt: skip


@cause("multi_output_targets_mixed_up", "labels of another output", "labels", example="np.zeros((8, 1)), np.eye(4)[[0, 1, 2, 3] * 2]")  # fmt: skip # noqa: E501
def multi_output_targets_mixed_up(facts: Facts) -> Readings:
    """A model with several outputs, whose labels are in another order."""
    logits, labels = facts.logits, facts.labels
    if len(labels) != len(logits) or facts.differing(logits, labels) != (facts.axis,):
        return
    one_unit = facts.equal(facts.classes, 1)
    if not one_unit and not (facts.rows_of_ones and facts.equal(labels[facts.axis], 1)):
        return
    yield Reading(
        Score.STRONG if one_unit and facts.rows_of_ones else Score.LIKELY,
        f"rows of {shown_size(labels[facts.axis])} columns beside "
        f"{shown_size(facts.classes)} output unit may belong to another output, if the model has "
        "several outputs (heads).",
        (
            outside("give each output its own labels, by name or in the same order"),
            outside(facts.units(shown_size(labels[facts.axis])) + ", if there is one output"),
        ),
    )


@cause(
    "several_heads_in_one_axis",
    "several heads in one axis",
    "labels",
    example="np.zeros((2, 12)), np.eye(4)[[1, 3]]",
)
def several_heads_in_one_axis(facts: Facts) -> Readings:
    """A last layer that is a multiple of the columns of the labels."""
    logits, labels, axis = facts.logits, facts.labels, facts.axis
    if len(labels) != len(logits) or facts.differing(logits, labels) != (axis,) or facts.integer:
        return
    heads = ratio(facts.classes, labels[axis])
    if heads is None or facts.equal(labels[axis], 1):
        return
    width = shown_size(labels[axis])
    yield Reading(
        Score.GUESS,
        f"{shown_size(facts.classes)} outputs = {heads} x {width}: {heads} heads (anchors, boxes) "
        f"of {width} classes may share the class axis.",
        (
            outside(f"give each head an axis: logits (..., {heads}, {width}), and labels for each "
                    "of them"),
        ),
    )  # fmt: skip


@cause("binary_target_many_outputs", "a binary target for many outputs", "labels", example="np.zeros((8, 50)), np.array([0., 1.] * 4)")  # fmt: skip # noqa: E501
def binary_target_many_outputs(facts: Facts) -> Readings:
    """Floating labels of nothing but 0 and 1 beside many outputs, as for a discriminator."""
    if not facts.binary_target or score_map(facts):
        return
    yield Reading(
        Score.STRONG,
        f"labels {shown(facts.labels)} are only 0 and 1 beside {facts.classes} outputs: a binary "
        "target.",
        (outside("use one output unit and a binary (sigmoid) loss"),),
        "do not cast them to class ids, unless they are ids of which only 0 and 1 occur.",
    )


def score_map(facts: Facts) -> int | None:
    """The side of a square map of scores whose pixels are taken for classes."""
    if not isinstance(facts.classes, int) or len(facts.logits) != 2:
        return None
    side = math.isqrt(facts.classes)
    return side if side > PAIR and side * side == facts.classes else None
