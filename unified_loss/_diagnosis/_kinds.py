"""Causes: labels or logits of another kind than the loss wants."""

from unified_loss import _rules as rules
from unified_loss._diagnosis._facts import Facts, without_ones
from unified_loss._diagnosis._fixes import Fix, Step, fix, outside, two_scores
from unified_loss._diagnosis._table import Reading, Readings, Score, cause
from unified_loss._shapes import fits_as_index
from unified_loss._shown import shown, shown_dtype, shown_size


def argmax(facts: Facts, axis: int) -> tuple[Step, ...]:
    """The steps from one-hot rows to class ids; no library takes the argmax of booleans."""
    whole = Step("labels", "argmax", axis)
    if facts.problem.labels.dtype == "bool":
        return Step("labels", "cast", "int64"), whole
    return (whole,)


@cause(
    "arguments_swapped",
    "labels first and logits second",
    "logits",
    "values",
    example="np.array([2, 0]), np.zeros((2, 3))",
)
def arguments_swapped(facts: Facts) -> Readings:
    """Labels came first and logits second; the order is (logits, labels)."""
    logits, labels, values = facts.problem.logits, facts.problem.labels, facts.values
    swap = Step("logits", "swap")
    fixes = tuple(fix(facts, "swap the arguments, logits first", swap))
    if not fixes or labels.dtype not in rules.FLOATING:
        return
    if logits.dtype not in rules.FLOATING:
        ranks = None not in {logits.shape, labels.shape} and len(labels.shape) - len(logits.shape)
        yield Reading(
            Score.CERTAIN if ranks == 1 else Score.LIKELY,
            f"the first argument is {logits.dtype}, as class ids are, the second {labels.dtype}, "
            "as scores are.",
            fixes,
        )
    elif values and values.low < 0 < values.high and not values.integral:
        yield Reading(
            Score.STRONG,
            f"dense labels run from {values.low:g} to {values.high:g}, negative ones among them: "
            "scores, not probabilities, as if swapped (inverted); the order is (logits, labels).",
            tuple(fix(facts, "swap them", swap, given="the labels came first")),
            "do not shift or scale scores into probabilities.",
        )


@cause(
    "argmax_passed_as_logits",
    "predicted classes instead of scores",
    "logits",
    "labels",
    "rows",
    example="np.array([0, 2]), [0, 1]",
)
def argmax_passed_as_logits(facts: Facts) -> Readings:
    """The logits are predicted class ids, one number per example, and no scores."""
    logits, labels = facts.problem.logits, facts.problem.labels
    like = logits.shape is not None and logits.shape == labels.shape
    whole = f"logits {shown(logits.shape)} are {logits.dtype}, as after an argmax"
    if logits.dtype in rules.INTEGER:
        score = Score.STRONG if like else Score.GUESS
    elif logits.dtype not in rules.FLOATING:
        return
    elif like and facts.integer and not facts.binary:
        score = Score.LIKELY if facts.values and len(logits.shape) != 2 else Score.LAST
        whole = f"labels {shown(labels.shape)} hold class ids, and logits have the same shape"
    else:
        return
    yield Reading(
        score,
        f"{whole}: predicted class ids (argmax) lack the class axis that class scores have.",
        (outside("pass the class scores (logits with a class axis); argmax is for metrics only"),),
    )


@cause(
    "integer_logits",
    "scores of an integer type",
    "logits",
    example="np.array([[2, 0, 1]]), np.array([2])",
)
def integer_logits(facts: Facts) -> Readings:
    """Scores of an integer dtype."""
    if facts.problem.logits.dtype in rules.INTEGER:
        yield Reading(
            Score.GUESS,
            f"{facts.problem.logits.dtype} numbers that are scores need a floating dtype.",
            tuple(fix(facts, "cast the scores", Step("logits", "cast", "float32"))),
        )


@cause(
    "logits_of_another_kind",
    "logits that are no floating scores",
    "logits",
    example="np.array([[True, False, True]]), np.array([2])",
)
def logits_of_another_kind(facts: Facts) -> Readings:
    """Logits that are booleans, complex numbers, text, or of a dtype that only stores numbers."""
    dtype = facts.problem.logits.dtype
    if dtype in rules.FLOATING | rules.INTEGER:
        return
    sentence = f"scores are no {shown_dtype(dtype)}."
    fixes: tuple[Fix, ...] = (outside("give floating scores"),)
    if dtype == "bool":
        sentence = "booleans are what is left of scores after a comparison, or a mask."
        fixes = (outside("pass the scores themselves, before they are compared with a threshold"),)
    elif dtype.startswith("complex"):
        sentence = "complex numbers have no order, and no softmax."
        fixes = (outside("make real scores in the model, as of absolute values"),)
    elif dtype in rules.REAL:
        sentence = f"{dtype} stores numbers, and nothing is computed in it."
        fixes = tuple(fix(facts, "cast the scores", Step("logits", "cast", "float32")))
    yield Reading(Score.LIKELY, sentence, fixes)


@cause(
    "one_hot_given_to_sparse_loss",
    "one-hot rows where class ids were expected",
    "labels",
    example="np.zeros((2, 3, 3)), np.eye(3)[[[0, 0, 1], [2, 2, 1]]]",
)
def one_hot_given_to_sparse_loss(facts: Facts) -> Readings:
    """Labels with one value per class where class ids, one per example, are wanted."""
    logits, labels = facts.logits, facts.labels
    if facts.fractional or len(labels) != len(logits) or len(logits) < 3:
        return
    order = facts.same_multiset(logits, labels)
    if not facts.equal(labels, logits) and order is None:
        return
    if facts.values is not None and not (facts.binary and facts.values.unit_axes):
        return
    here = facts.axis if order is None else order[facts.axis]
    is_guess = order is None and facts.problem.options.axis is None
    given = f"each row is one-hot over axis {here}" if is_guess else ""
    yield Reading(
        Score.LIKELY if facts.binary else Score.GUESS,
        f"labels {shown(labels)} have one value per class, as one-hot rows do: class ids (class "
        f"indices) have one per example, {shown(facts.batch)}.",
        tuple(fix(facts, "take their class ids", *argmax(facts, here), given=given)),
        "do not reshape one-hot rows.",
    )


@cause(
    "multi_hot_given_to_single_label_loss",
    "several classes in one example",
    "labels",
    "rows",
    "several",
    example="np.zeros((2, 4)), np.array([[1, 0, 1, 0], [0, 1, 0, 0]])",
)
def multi_hot_given_to_single_label_loss(facts: Facts) -> Readings:
    """Rows with several ones: a problem of several labels per example."""
    if not facts.equal(facts.labels, facts.logits) or (facts.values and not facts.binary):
        return
    if facts.values is None and not facts.integer and facts.problem.labels.dtype != "bool":
        return
    ones = facts.values.most_ones[facts.axis] if facts.values and facts.values.most_ones else 0
    score = Score.GUESS
    if ones > 1:
        score = Score.LIKELY if facts.values and facts.values.unit_axes else Score.STRONG
    how = "shaped like the logits" if facts.problem.head is None else "with a row of all classes"
    yield Reading(
        score,
        f"0/1 labels {how} are multi-hot if several classes can hold at once; softmax takes one.",
        (outside(f"for multi-label data use a binary ({facts.term('sigmoid')}) loss for each "
                 "class; for one class index each, one-hot rows or argmax"),),
    )  # fmt: skip


@cause(
    "binary_trailing_axis_broadcast",
    "shapes that a binary loss would broadcast",
    "labels",
    "values",
    example="np.zeros((4, 1)), np.ones(4)",
)
def binary_trailing_axis_broadcast(facts: Facts) -> Readings:
    """A binary loss on (N, 1) against (N,), or (N, k) against (N, 1), which would broadcast."""
    logits, labels, batch = facts.logits, facts.labels, facts.batch
    column = len(logits) == 1 and len(labels) == 2 and facts.equal(labels, (*logits, 1))
    if column and not facts.equal(labels[0], 1):
        yield Reading(
            Score.STRONG,
            f"logits {shown(logits)} and labels {shown(labels)} would broadcast in a binary loss; "
            "here they are the scores of one example.",
            (
                outside("use a binary (sigmoid) loss on the same shape: squeeze the labels, or "
                        f"{facts.term('unsqueeze the')} logits"),
                *two_scores(facts),
            ),
        )  # fmt: skip
    elif facts.equal(facts.classes, 1) and facts.equal(labels, batch):
        yield Reading(
            Score.LIKELY if facts.integer else Score.STRONG,
            f"one output unit {shown(logits)} against labels {shown(labels)}: a binary loss would "
            "broadcast them; they need the same shape, and here one class always has loss 0.",
            (
                outside(
                    "use a binary (sigmoid) loss on the same shape (squeeze the logits, or "
                    f"{facts.term('unsqueeze the')} labels), or two output units"
                ),
            ),
        )
    elif (
        len(labels) == len(logits) == 2
        and facts.equal(labels[0], logits[0])
        and not facts.integer
        and (facts.equal(labels[1], 1) or facts.equal(logits[1], 1))
    ):
        yield Reading(
            Score.LIKELY if facts.fractional or facts.equal(facts.classes, 1) else Score.GUESS,
            f"logits {shown(logits)} and labels {shown(labels)} would broadcast in a binary loss, "
            "which is never meant: they need the same shape.",
            (outside("use as many output units as there are label columns, of the same shape"),),
        )


@cause(
    "integer_labels_given_to_dense_loss",
    "class ids where rows were expected",
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
    sparse, categorical = (
        (" (as for a sparse loss)", " (categorical)") if facts.tensorflow else ("", "")
    )
    yield Reading(
        (Score.STRONG if ids and not facts.binary_target else Score.LIKELY)
        if facts.whole
        else Score.GUESS,
        f"labels {shown(labels)} hold one number for each example, not a row of "
        f"{shown_size(classes)} probabilities: class ids are integers, and need no one-hot here.",
        (
            *fix(facts, f"make integer class ids of them{sparse}", *ids),
            *(fix(facts, f"make one-hot rows of them{categorical}", *one_hot) if is_last else ()),
        ),
    )


@cause(
    "float_labels",
    "class ids of a floating type",
    "labels",
    example="np.zeros((4, 3)), np.array([0., 2., 1., 1.])",
)
def float_labels(facts: Facts) -> Readings:
    """Class ids of a floating dtype."""
    labels = facts.labels
    if (
        facts.integer
        or facts.fractional
        or facts.equal(facts.classes, 1)
        or not fits_as_index(facts.logits, labels, facts.axis, facts.problem.same)
    ):
        return
    exact = facts.equal(labels, facts.batch) and not (len(labels) > 1 and facts.rows_of_ones)
    score = Score.GUESS
    if exact and not facts.binary_target:
        score = Score.STRONG if facts.whole else Score.LIKELY
    yield Reading(
        score,
        f"labels {shown(labels)} have one {facts.problem.labels.dtype} number per example: class "
        "ids need an integer dtype.",
        tuple(fix(facts, "cast them to integers", Step("labels", "cast", "int64"))),
        "do not cast probabilities or real-valued targets to integers.",
    )  # fmt: skip


@cause(
    "regression_target_with_classification_loss",
    "real numbers to be predicted",
    "labels",
    "one row",
    example="np.zeros((2, 3)), np.array([0.25, 1.5])",
)
def regression_target_with_classification_loss(facts: Facts) -> Readings:
    """Real-valued targets."""
    values = facts.values
    is_row = _are_alike_without_a_batch(facts)
    if facts.integer or facts.problem.labels.dtype == "bool":
        return
    if values and values.whole and not is_row:
        return
    one_each = facts.equal(without_ones(facts.labels), without_ones(facts.batch)) or is_row
    beyond = values is not None and not facts.in_unit_interval
    if not beyond and (is_row or not one_each):
        return
    seen = f" (between {values.low:g} and {values.high:g})" if values and not is_row else ""
    yield Reading(
        Score.STRONG if beyond and one_each else Score.LIKELY if values else Score.GUESS,
        f"real numbers{seen} are a regression target, if they are no class ids.",
        (
            outside("use a squared-error (MSE) loss and one output unit, or integer class ids"),
            *(_row_of_one_example(facts) if is_row else ()),
        ),
        "do not cast real-valued targets to integers.",
    )


@cause(
    "soft_labels_unsupported",
    "probabilities without a class axis",
    "labels",
    example="np.zeros((2, 3)), np.array([0.5, 0.25])",
)
def soft_labels_unsupported(facts: Facts) -> Readings:
    """Probabilities that lack the class axis."""
    one_each = facts.equal(without_ones(facts.labels), without_ones(facts.batch))
    is_probability = facts.has_fractions and facts.in_unit_interval
    if not (one_each and is_probability) or facts.equal(facts.classes, 1):
        return
    yield Reading(
        Score.LIKELY,
        f"labels {shown(facts.labels)} hold one number in [0, 1] per example: class probabilities "
        f"(soft labels) need one for each of the {shown_size(facts.classes)} classes.",
        (outside(f"give rows of probabilities of shape {shown(facts.logits)}"),),
        "do not cast probabilities to integers.",
    )


@cause(
    "output_units_differ_from_label_width",
    "another number of classes in the labels",
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
    counted = "one class" if classes == "1" else f"{classes} classes"
    is_inner = axis < len(logits) - 1
    may_be_colors = is_inner and facts.equal(labels[axis], 3)
    one_step = is_inner and facts.problem.same(labels[axis], facts.classes + 1) is True
    may_be_other = may_be_colors or one_step or facts.equal(facts.classes, 1)
    yield Reading(
        (Score.LIKELY if may_be_other else Score.STRONG) if rows else Score.GUESS,
        f"logits have {counted} on axis {axis}, label rows have {width} columns there.",
        (
            outside(f"{facts.units(width)}, if the labels have all classes"),
            *(two_scores(facts) if classes == "1"
              else (outside(f"build the labels with num_classes={classes}"),)),
        ),
        "do not reshape the labels." if facts.integer else None,
    )  # fmt: skip


@cause(
    "scores_of_a_binary_loss",
    "one score per example",
    "labels",
    "one row",
    example="np.array([0.3, -1.2, 2.0]), np.array([1, 0, 1])",
)
def scores_of_a_binary_loss(facts: Facts) -> Readings:
    """One score for each example, as a binary classifier gives, in a loss of several classes."""
    is_outcome = facts.values is None or facts.binary
    if not facts.integer and facts.values is not None:  # probabilities of one outcome
        is_outcome = facts.in_unit_interval
    if not _are_alike_without_a_batch(facts) or not is_outcome:
        return
    yield Reading(
        Score.STRONG,
        "one score for each example: a binary loss; a softmax would compare the examples.",
        (
            outside("use a binary (sigmoid) loss, or give two scores for each example, (N, 2)"),
            *two_scores(facts),
            *_row_of_one_example(facts),
        ),
        "do not add a class axis of size 1.",
    )


@cause(
    "one_example_with_many_labels",
    "several labels for one example",
    "labels",
    example="np.zeros(3), np.array([0, 0, 1])",
)
def one_example_with_many_labels(facts: Facts) -> Readings:
    """The scores of one example, and integers where its label is one number or one row."""
    if not _are_alike_without_a_batch(facts):
        return
    yield Reading(
        Score.LIKELY,
        f"one example with {shown_size(facts.classes)} classes: its label is one class id, a 0-d "
        "label.",
        (outside("give its class id alone: labels of shape ()"), *_row_of_one_example(facts)),
    )


def _are_alike_without_a_batch(facts: Facts) -> bool:
    return len(facts.logits) == 1 and facts.fits(facts.labels, facts.logits)


def _row_of_one_example(facts: Facts) -> tuple[Fix, ...]:
    given = "the labels are the row of one example"
    return tuple(fix(facts, "say so", Step("axis", "set", 0), given=given))
