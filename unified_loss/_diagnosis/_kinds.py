"""Causes: labels or logits of another kind than the loss wants."""

from dataclasses import replace

from unified_loss import _rules as rules
from unified_loss._diagnosis._facts import Facts, without_ones
from unified_loss._diagnosis._fixes import Step, fix, outside
from unified_loss._diagnosis._table import CERTAIN, Reading, Readings, cause
from unified_loss._messages import shown, shown_size
from unified_loss._shapes import fits_as_index


def argmax(facts: Facts, axis: int) -> tuple[Step, ...]:
    """The steps from one-hot rows to class ids; no library takes the argmax of booleans."""
    whole = Step("labels", "argmax", axis)
    if facts.problem.labels.dtype == "bool":
        return Step("labels", "cast", "int64"), whole
    return (whole,)


@cause("arguments_swapped", "logits", "values", example="np.array([2, 0]), np.zeros((2, 3))")
def arguments_swapped(facts: Facts) -> Readings:
    """Labels came first and logits second; the order is (logits, labels)."""
    logits, labels, values = facts.problem.logits, facts.problem.labels, facts.values
    fixes = tuple(fix(facts, "swap the arguments, logits first", Step("logits", "swap")))
    if not fixes or labels.dtype not in rules.FLOATING:
        return
    if logits.dtype not in rules.FLOATING:
        ranks = None not in {logits.shape, labels.shape} and len(labels.shape) - len(logits.shape)
        yield Reading(
            CERTAIN if ranks == 1 else 85,
            f"the first argument is {logits.dtype}, as class ids are, the second {labels.dtype}, "
            "as scores are.",
            fixes,
        )
    elif values and values.low < 0 < values.high and not values.integral:
        yield Reading(
            88,
            f"dense labels run from {values.low:g} to {values.high:g}, negative ones among them: "
            "scores, not probabilities, as if swapped (inverted); the order is (logits, labels).",
            tuple(replace(found, sufficient=False) for found in fixes),
            "do not shift or scale scores into probabilities.",
        )


@cause("argmax_passed_as_logits", "logits", "labels", "rows", example="np.array([0, 2]), [0, 1]")
def argmax_passed_as_logits(facts: Facts) -> Readings:
    """The logits are predicted class ids, one number per example, and no scores."""
    logits, labels = facts.problem.logits, facts.problem.labels
    like = logits.shape is not None and logits.shape == labels.shape
    whole = f"logits {shown(logits.shape)} are {logits.dtype}, as after an argmax"
    if logits.dtype not in rules.FLOATING:
        score = 90 if like else 60
    elif like and facts.integer and not facts.binary:
        score = 80 if facts.values and len(logits.shape) != 2 else 30
        whole = f"labels {shown(labels.shape)} hold class ids, and logits have the same shape"
    else:
        return
    yield Reading(
        score,
        f"{whole}: predicted class ids (argmax) lack the class axis that class scores have.",
        (outside("pass the class scores (logits with a class axis); argmax is for metrics only"),),
    )


@cause("integer_logits", "logits", example="np.array([[2, 0, 1]]), np.array([2])")
def integer_logits(facts: Facts) -> Readings:
    """Scores of an integer dtype."""
    if facts.problem.logits.dtype in rules.INTEGER:
        yield Reading(
            50,
            f"{facts.problem.logits.dtype} numbers that are scores need a floating dtype.",
            tuple(fix(facts, "cast the scores", Step("logits", "cast", "float32"))),
        )


@cause(
    "one_hot_given_to_sparse_loss",
    "labels",
    example="np.zeros((2, 3, 3)), np.zeros((2, 3, 3), int)",
)
def one_hot_given_to_sparse_loss(facts: Facts) -> Readings:
    """Labels with one value per class where class ids, one per example, are wanted."""
    logits, labels = facts.logits, facts.labels
    if facts.fractional or len(labels) != len(logits) or len(logits) < 3:
        return
    order = facts.same_multiset(logits, labels)
    if not facts.equal(labels, logits) and order is None:
        return
    if facts.values is not None and not facts.binary:
        return
    here = facts.axis if order is None else order[facts.axis]
    is_guess = facts.values is None and order is None and facts.problem.options.axis is None
    whether = f", if the classes are on axis {here}" if is_guess else ""
    yield Reading(
        75 if facts.binary else 60 if facts.integer else 55,
        f"labels {shown(labels)} have one value per class, as one-hot rows do: class ids (class "
        f"indices) have one per example, {shown(facts.batch)}.",
        tuple(fix(facts, f"take the class ids of the one-hot rows{whether}", *argmax(facts, here))),
        "do not reshape one-hot rows.",
    )


@cause(
    "multi_hot_given_to_single_label_loss",
    "labels",
    "rows",
    example="np.zeros((2, 3, 4)), np.ones((2, 3, 4), int)",
)
def multi_hot_given_to_single_label_loss(facts: Facts) -> Readings:
    """Rows with several ones: a problem of several labels per example."""
    if not facts.equal(facts.labels, facts.logits) or (facts.values and not facts.binary):
        return
    if facts.values is None and not facts.integer and facts.problem.labels.dtype != "bool":
        return
    one_hot = facts.values is not None and facts.axis in facts.values.unit_axes
    yield Reading(
        65 if one_hot else 70 if facts.values else 40,
        "0/1 labels shaped like the logits are multi-hot if several classes can hold at once; "
        "softmax takes one.",
        (outside("for multi-label data use a sigmoid (BCE, binary) loss for each class; for one "
                 "class index each, one-hot rows or argmax"),),
    )  # fmt: skip


@cause("float_labels", "labels", example="np.zeros((4, 3)), np.array([0., 2., 1., 1.])")
def float_labels(facts: Facts) -> Readings:
    """Class ids of a floating dtype."""
    labels = facts.labels
    if (
        facts.integer
        or facts.fractional
        or not fits_as_index(facts.logits, labels, facts.axis, facts.problem.same)
    ):
        return
    exact = facts.equal(labels, facts.batch) and not (len(labels) > 1 and facts.rows_of_ones)
    yield Reading(
        95 if exact and facts.whole else 85 if exact else 60,
        f"labels {shown(labels)} have one {facts.problem.labels.dtype} number per example: class "
        "ids need an integer dtype.",
        tuple(fix(facts, "cast class ids to integers", Step("labels", "cast", "int64"))),
        "do not cast probabilities or real-valued targets to integers.",
    )


@cause(
    "integer_labels_given_to_dense_loss",
    "labels",
    example="np.zeros((4, 3)), np.array([[0.], [2.], [1.], [1.]])",
)
def integer_labels_given_to_dense_loss(facts: Facts) -> Readings:
    """Class ids, one per example, in the dtype or the shape of a loss on rows of probabilities."""
    labels, batch, classes = facts.labels, facts.batch, facts.classes
    same = facts.equal(without_ones(labels), without_ones(batch)) and len(batch) > 0
    if not same or facts.integer or facts.fractional or facts.equal(classes, 1):
        return
    if len(labels) > 1 and facts.rows_of_ones:
        return
    ids = () if facts.equal(labels, batch) else (Step("labels", "reshape", batch),)
    one_hot = (Step("labels", "cast", "int64"), *ids, Step("labels", "one_hot", classes))
    is_last = facts.axis == len(facts.logits) - 1
    yield Reading(
        82 if facts.whole else 65,
        f"labels {shown(labels)} hold one number for each example, not a row of "
        f"{shown_size(classes)} probabilities: class ids are integers, and need no one-hot here.",
        (
            *fix(facts, "make integer class ids of them (a sparse loss)", *ids),
            *(fix(facts, "or one-hot rows (categorical)", *one_hot) if is_last else ()),
        ),
    )


@cause(
    "regression_target_with_classification_loss",
    "labels",
    example="np.zeros((2, 3)), np.array([0.25, 1.5])",
)
def regression_target_with_classification_loss(facts: Facts) -> Readings:
    """Real-valued targets."""
    values = facts.values
    if facts.integer or facts.problem.labels.dtype == "bool" or (values and values.integral):
        return
    one_each = facts.equal(without_ones(facts.labels), without_ones(facts.batch))
    beyond = values is not None and not 0 <= values.low <= values.high <= 1
    if not one_each and not beyond:
        return
    seen = f" (between {values.low:g} and {values.high:g})" if values else ""
    yield Reading(
        (90 if one_each else 70) if beyond else 75 if values else 45,
        f"real numbers{seen} are a regression target, if they are no class ids.",
        (outside("use a squared-error (MSE) loss and one output unit, or integer class ids"),),
        "do not cast real-valued targets to integers.",
    )


@cause(
    "soft_labels_unsupported",
    "labels",
    example="np.zeros((2, 3)), np.array([0.5, 0.25])",
)
def soft_labels_unsupported(facts: Facts) -> Readings:
    """Probabilities that lack the class axis."""
    values = facts.values
    one_each = facts.equal(without_ones(facts.labels), without_ones(facts.batch))
    is_probability = facts.fractional and values and 0 <= values.low <= values.high <= 1
    if not (one_each and is_probability) or facts.equal(facts.classes, 1):
        return
    yield Reading(
        78,
        f"labels {shown(facts.labels)} hold one number in [0, 1] per example: class probabilities "
        f"(soft labels) need one for each of the {shown_size(facts.classes)} classes.",
        (outside(f"give rows of probabilities of shape {shown(facts.logits)}"),),
        "do not cast probabilities to integers.",
    )


@cause(
    "output_units_differ_from_label_width",
    "labels",
    example="np.zeros((4, 3)), np.zeros((4, 5))",
)
def output_units_differ_from_label_width(facts: Facts) -> Readings:
    """A last layer with another number of units than the label rows have columns."""
    logits, labels, axis = facts.logits, facts.labels, facts.axis
    if len(labels) != len(logits) or facts.differing(logits, labels) != (axis,):
        return
    classes, width = shown_size(facts.classes), shown_size(labels[axis])
    if width == "1":
        return
    rows = not facts.integer
    sums = facts.values.unit_axes if facts.values else ()
    if facts.integer and facts.values:
        rows = facts.binary and axis in sums
    if (facts.integer and facts.values and not rows) or (sums and axis not in sums):
        return
    trailing = 10 if axis == len(logits) - 1 or not facts.equal(labels[axis], 3) else 0
    yield Reading(
        82 + trailing if rows else 50,
        f"logits have {classes} classes on axis {axis}, label rows have {width} columns there.",
        (
            outside(f"give the last layer {width} output units (channels, num_classes={width})"),
            outside(f"or build the labels with num_classes={classes}"),
        ),
        "do not reshape the labels." if facts.integer else None,
    )


@cause("binary_trailing_axis_broadcast", "labels", "values", example="np.zeros((4, 1)), np.ones(4)")
def binary_trailing_axis_broadcast(facts: Facts) -> Readings:
    """A binary loss on (N, 1) against (N,), or (N, k) against (N, 1), which would broadcast."""
    logits, labels, batch = facts.logits, facts.labels, facts.batch
    column = len(logits) == 1 and len(labels) == 2 and facts.equal(labels, (*logits, 1))
    if column and not facts.equal(labels[0], 1):
        yield Reading(
            95,
            f"logits {shown(logits)} and labels {shown(labels)} would broadcast in a binary loss; "
            "here they are the scores of one example.",
            (outside("use a binary (sigmoid) loss on the same shape: squeeze the labels, or "
                     "unsqueeze the logits"),),
        )  # fmt: skip
    elif facts.equal(facts.classes, 1) and facts.equal(labels, batch):
        yield Reading(
            97,
            f"one output unit {shown(logits)} against labels {shown(labels)}: a binary loss would "
            "broadcast them; they need the same shape, and here one class always has loss 0.",
            (
                outside("use a binary (sigmoid) loss, or two output units"),
                *fix(facts, "or unsqueeze the labels", Step("labels", "insert", facts.axis)),
            ),
        )
    elif (
        len(labels) == len(logits) == 2
        and facts.equal(labels[0], logits[0])
        and not facts.integer
        and (facts.equal(labels[1], 1) or facts.equal(logits[1], 1))
    ):
        yield Reading(
            80 if facts.fractional or facts.equal(facts.classes, 1) else 75 if facts.binary else 50,
            f"logits {shown(logits)} and labels {shown(labels)} would broadcast in a binary loss, "
            "which is never meant: they need the same shape.",
            (outside("use as many output units as there are label columns, of the same shape"),),
        )


@cause(
    "scores_of_a_binary_loss",
    "labels",
    example="np.array([0.3, -1.2, 2.0]), np.array([1, 0, 1])",
)
def scores_of_a_binary_loss(facts: Facts) -> Readings:
    """One score for each example, as a binary classifier gives, in a loss of several classes."""
    if not _are_alike_without_a_batch(facts):
        return
    yield Reading(
        95,
        "one score for each example: a binary loss; a softmax would compare the examples.",
        (outside("use a binary (sigmoid) loss, or give two scores for each example, (N, 2)"),),
        "do not add a class axis of size 1.",
    )


@cause("one_example_with_many_labels", "labels", example="np.zeros(3), np.array([0, 0, 1])")
def one_example_with_many_labels(facts: Facts) -> Readings:
    """The scores of one example, and integers where its label is one number or one row."""
    if not _are_alike_without_a_batch(facts):
        return
    row = fix(facts, "if the labels are its one-hot row", Step("axis", "set", 0))
    yield Reading(
        90,
        f"one example with {shown_size(facts.classes)} classes: its label is one class id, a 0-d "
        "label.",
        (outside("give its class id alone: labels of shape ()"), *row),
    )


def _are_alike_without_a_batch(facts: Facts) -> bool:
    whole = facts.integer or facts.problem.labels.dtype == "bool"
    return whole and len(facts.logits) == 1 and facts.fits(facts.labels, facts.logits)
