"""Causes: values of labels that are none, and values that are suspicious under ``check=True``."""

from unified_loss._diagnosis._facts import Facts, Values
from unified_loss._diagnosis._fixes import Step, fix, outside
from unified_loss._diagnosis._table import CERTAIN, Reading, Readings, cause
from unified_loss._messages import shown_integer, shown_value
from unified_loss._shapes import fits_as_index

HIDDEN_SIZES = frozenset(
    {128, 256, 300, 312, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1536, 1600, 1792, 2048, 2304}
    | {2560, 3072, 3200, 3584, 3840, 4096, 5120, 6144, 6656, 7168, 8192, 12288, 16384}
)
GREY = 255
MOST_CLASSES = 10**9


def _ids(facts: Facts) -> tuple[Values, int] | None:
    """The values of class ids and the number of classes, if both are known."""
    values, classes = facts.values, facts.classes
    is_index = fits_as_index(facts.logits, facts.labels, facts.axis, facts.problem.same)
    if values is None or not values.integral or not isinstance(classes, int):
        return None
    return None if is_index is False else (values, classes)


@cause(
    "label_out_of_range_negative_sentinel",
    "values",
    "labels",
    example="np.zeros((3, 4)), [0, -1, 3]",
)
def label_out_of_range_negative_sentinel(facts: Facts) -> Readings:
    """A negative id that marks padding or unknown labels."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or values.low >= 0:
        return
    low, high = values.low, values.high
    fixes = list(fix(facts, "ignore (mask) it", Step("ignore_index", "set", int(low))))
    if (low, high, classes) == (-1, 1, 2) and values.above_low == 1:
        steps = (Step("labels", "subtract", -1), Step("labels", "divide", 2))
        fixes = [*fix(facts, "map -1 and 1 to 0 and 1, zero-based", *steps), *fixes]
    elif values.above_low is None or values.above_low < 0:
        fixes = [outside("several negative ids are no classes: mask them by sample_weight=")]
    else:
        fixes.append(outside("or map the labels to start at 0, if it is a class (a name missing "
                             "from the class list?)"))  # fmt: skip
    yield Reading(
        98 if low == -1 else 90,
        f"labels contain {shown_integer(low)}, which is no class id (as padding often "
        f"has): ignore_index is {shown_value(facts.problem.options.ignore_index)}.",
        tuple(fixes),
    )


@cause("label_out_of_range_one_based", "values", example="np.zeros((3, 4)), [1, 4, 2]")
def label_out_of_range_one_based(facts: Facts) -> Readings:
    """Class ids that start at 1."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or values.low < 1 or not classes <= values.high <= classes + 1:
        return
    low, high = values.low, values.high
    fits = high == classes
    yield Reading(
        94 if low == 1 and fits else 88,
        f"labels run from {low} to {high}; {classes} classes allow 0 to {classes - 1}. As 0 never "
        "occurs, they look one-based, not zero-based.",
        (
            *fix(facts, "subtract 1, so that they start at 0", Step("labels", "subtract", 1)),
            outside(f"or give the last layer {high + fits} output units (num_classes={high + fits})"
                    if fits else f"and give the last layer {high} output units "
                    f"(num_classes={high})"),
        ),
    )  # fmt: skip


@cause("too_few_output_units", "values", example="np.zeros((3, 4)), [0, 9, 2]")
def too_few_output_units(facts: Facts) -> Readings:
    """Class ids from 0 on, and too few output units for them."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or values.high < classes:
        return
    low, high = values.low, values.high
    if high > MOST_CLASSES:
        todo = outside(f"map (remap) the labels to 0..{classes - 1}")
        yield Reading(84, f"label {shown_integer(high)} can be no class id.", (todo,))
        return
    short = high + 1 - classes
    yield Reading(
        93 if short == 1 and low == 0 else 84,
        f"label {high} needs at least {high + 1} classes, but logits "
        f"have {classes} on axis {facts.axis}"
        + (": the last layer is one unit short." if short == 1 else "."),
        (
            outside(f"give the last layer {high + 1} output units "
                    f"(num_classes={high + 1})"),
            outside(f"or map (remap) the labels to 0..{classes - 1}"),
        ),
    )  # fmt: skip


@cause("label_out_of_range_void", "values", example="np.zeros((3, 4)), [0, 255, 2]")
def label_out_of_range_void(facts: Facts) -> Readings:
    """255 as the mark of void pixels."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or values.high != GREY or values.low < 0 or classes > GREY:
        return
    if values.below_high is None or values.below_high < classes:
        yield Reading(
            92 if values.below_high else 86,
            "255 alone is out of range: it usually marks void (unlabeled) pixels.",
            tuple(fix(facts, "ignore it", Step("ignore_index", "set", GREY))),
        )


@cause("label_out_of_range_raw_pixels", "values", example="np.zeros((3, 2)), [0, 255, 128]")
def label_out_of_range_raw_pixels(facts: Facts) -> Readings:
    """Grey values or undecoded bytes as labels."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or not classes < values.high <= GREY or values.low < 0:
        return
    is_mask = len(facts.labels) > 2
    two_valued = values.high == GREY and values.below_high == 0 == values.low
    if not (is_mask or values.high == GREY or (classes <= 8 and values.high >= 64)):
        return
    scale = [*fix(facts, "map 255 to 1", Step("labels", "divide", GREY))] if two_valued else []
    yield Reading(
        96
        if two_valued and classes == 2
        else 88
        if values.high >= (2 * classes if is_mask else GREY)
        else 82,
        f"labels go up to {values.high} for {classes} classes: raw pixel (grey) values 0-255 of a "
        "mask image?",
        (*scale, outside(f"map grey values to class ids (class indices) 0..{classes - 1}")),
    )


@cause("hidden_states_not_logits", "values", example="np.zeros((3, 768)), [0, 29000, 17]")
def hidden_states_not_logits(facts: Facts) -> Readings:
    """Hidden states where scores are wanted."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or classes not in HIDDEN_SIZES or values.high < classes:
        return
    high = shown_integer(values.high)
    yield Reading(
        92 if values.high >= 2 * classes else 60,
        f"label {high} with {classes} classes, and {classes} is a usual hidden size: these look "
        "like hidden states, not logits.",
        (outside("project them to the vocabulary first (output projection, LM head)"),),
    )


@cause(
    "single_output_unit_with_categorical_loss",
    "values",
    "labels",
    example="np.zeros((3, 1)), [0, 1, 1]",
)
def single_output_unit_with_categorical_loss(facts: Facts) -> Readings:
    """One output unit in a softmax loss."""
    if facts.equal(facts.classes, 1):
        alike = facts.equal(facts.labels, facts.logits)
        yield Reading(
            97 if alike else 99 if facts.integer and facts.fits(facts.labels, facts.batch) else 74,
            f"the class axis {facts.axis} has size 1: a softmax over one class is always 1, the "
            "loss always zero.",
            (outside("use a binary (sigmoid) loss, or two output units (two classes, one-hot or "
                     "ids)"),),
        )  # fmt: skip


@cause(
    "log_probabilities_as_labels",
    "values",
    example="np.zeros((1, 2)), np.log([[0.25, 0.75]]), check=True",
)
def log_probabilities_as_labels(facts: Facts) -> Readings:
    """Log-probabilities as dense labels."""
    values = facts.values
    if (
        values is not None
        and facts.equal(facts.labels, facts.logits)
        and values.high <= 0 > values.low
    ):
        yield Reading(
            92,
            f"no dense label is above 0 (they run from {values.low:g} to {values.high:g}): "
            "log-probabilities, where probabilities are wanted.",
            tuple(fix(facts, "take the exponential", Step("labels", "exp"))),
        )


@cause(
    "dense_labels_no_probabilities",
    "values",
    example="np.zeros((1, 2)), np.array([[np.inf, 0.0]]), check=True",
)
def dense_labels_no_probabilities(facts: Facts) -> Readings:
    """Dense labels that are negative, infinite or NaN."""
    if facts.values is not None and _ids(facts) is None:
        low, high = facts.values.low, facts.values.high
        yield Reading(
            60,
            f"dense labels run from {low:g} to {high:g}; probabilities are finite, not negative.",
            (outside("give probabilities, one for each class"),),
        )


@cause("double_softmax", "softmax", example="np.full((2, 4), 0.25), [0, 1], check=True")
def double_softmax(facts: Facts) -> Readings:
    """Softmax output as logits."""
    yield Reading(
        CERTAIN,
        f"the logits are all in [0, 1] and sum to 1 over axis {facts.axis}: they look like softmax "
        "output, and this loss applies softmax itself.",
        (outside("remove the softmax (log_softmax) layer, and pass raw scores (logits)"),),
    )


@cause(
    "rows_do_not_sum_to_one",
    "rows",
    example="np.zeros((1, 3)), np.array([[0.5, 0.1, 0.1]]), check=True",
)
def rows_do_not_sum_to_one(_: Facts) -> Readings:
    """Dense labels whose rows are no distribution over the classes."""
    yield Reading(
        50,
        "they are no distribution over the classes.",
        (outside("normalize the rows, if probabilities are meant"),),
    )


@cause("all_labels_ignored_nan", "ignored", example="np.zeros((2, 3)), [-100, -100], check=True")
def all_labels_ignored_nan(facts: Facts) -> Readings:
    """Nothing is left to average."""
    yield Reading(
        CERTAIN,
        f"all labels equal ignore_index={shown_value(facts.problem.options.ignore_index)}: nothing "
        "is left to average, and the mean is 0 (not NaN).",
        (outside("skip such empty batches, if that is not meant"),),
    )
