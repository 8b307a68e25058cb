"""Causes: values of labels that are none, and values that are suspicious under ``check=True``."""

from unified_loss._diagnosis._facts import Facts, Values
from unified_loss._diagnosis._fixes import Step, fix, outside, two_scores
from unified_loss._diagnosis._table import Reading, Readings, Score, cause
from unified_loss._shapes import fits_as_index
from unified_loss._shown import shown_integer, shown_value

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
    "single_output_unit_with_categorical_loss",
    "a single output unit",
    "values",
    "labels",
    example="np.zeros((3, 1)), [0, 1, 1]",
)
def single_output_unit_with_categorical_loss(facts: Facts) -> Readings:
    """One output unit in a softmax loss."""
    if facts.equal(facts.classes, 1):
        alike = facts.equal(facts.labels, facts.logits)
        yield Reading(
            Score.STRONG if alike or (facts.integer and facts.fits(facts.labels, facts.batch))
            else Score.GUESS,
            f"the class axis {facts.axis} has size 1: a softmax over one class is always 1, the "
            "loss always zero (and NaN for any id but 0, where ids are not read).",
            (
                outside("use a binary (sigmoid) loss, or two output units (two classes, one-hot or "
                        "ids)"),
                *two_scores(facts),
            ),
        )  # fmt: skip


@cause(
    "label_out_of_range_negative_sentinel",
    "a negative label",
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
        fixes = [*fix(facts, "map them to 0 and 1, zero-based", *steps,
                      given="-1 and 1 are the two classes"), *fixes]  # fmt: skip
    elif values.above_low is None or values.above_low < 0:
        fixes = [outside("several negative ids are no classes: mask them by sample_weight=")]
    else:
        fixes.append(outside("map the labels to start at 0, if it is a class (a name missing "
                             "from the class list?)"))  # fmt: skip
    yield Reading(
        Score.STRONG,
        f"labels contain {shown_integer(low)}, which is no class id (as padding often "
        f"has): ignore_index is {shown_value(facts.problem.options.ignore_index)}.",
        tuple(fixes),
    )


@cause(
    "label_out_of_range_one_based",
    "labels that start at 1",
    "values",
    example="np.zeros((3, 4)), [1, 4, 2]",
)
def label_out_of_range_one_based(facts: Facts) -> Readings:
    """Class ids that start at 1."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or values.low != 1 or not classes <= values.high <= classes + 1:
        return
    low, high = values.low, values.high
    fits = high == classes
    allowed = (
        "one class allows 0" if classes == 1 else f"{classes} classes allow 0 to {classes - 1}"
    )
    yield Reading(
        Score.STRONG,
        f"labels run from {low} to {high}; {allowed}. As 0 never occurs, they look one-based, not "
        "zero-based.",
        (
            *fix(facts, "subtract 1, so that they start at 0", Step("labels", "subtract", 1),
                 given="the first class is 1"),
            outside(f"{facts.units(high + fits)}" if fits else f"and {facts.units(high)}"),
        ),
    )  # fmt: skip


@cause(
    "too_few_output_units",
    "too few classes in the last layer",
    "values",
    example="np.zeros((3, 4)), [0, 9, 2]",
)
def too_few_output_units(facts: Facts) -> Readings:
    """Class ids from 0 on, and too few output units for them."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or values.high < classes:
        return
    low, high = values.low, values.high
    if high > MOST_CLASSES:
        todo = outside(f"map the labels to 0..{classes - 1}")
        yield Reading(Score.LIKELY, f"label {shown_integer(high)} can be no class id.", (todo,))
        return
    short = high + 1 - classes
    others = (outside(f"map the labels to 0..{classes - 1}"),) if classes > 1 else ()
    yield Reading(
        Score.STRONG if short == 1 and low == 0 else Score.LIKELY,
        f"label {high} needs at least {high + 1} classes, but {facts.holder}"
        + (": the last layer is one unit short." if short == 1 else "."),
        (outside(facts.units(high + 1)), *others),
    )  # fmt: skip


@cause(
    "label_out_of_range_special_id",
    "one special id",
    "values",
    example="np.zeros((3, 4)), [0, 7, 2]",
)
def label_out_of_range_special_id(facts: Facts) -> Readings:
    """One id beyond the classes, and all others within: a mark, or a class that was forgotten."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or values.low < 0 or values.high < classes or values.below_high is None:
        return
    if values.below_high >= classes or values.high > MOST_CLASSES or classes == 1:
        return
    high = values.high
    yield Reading(
        Score.LIKELY,
        f"{high} alone is out of range for {classes} classes, all other labels are within.",
        (
            outside(f"{facts.units(high + 1)}, if it is a class"),
            *fix(facts, "ignore it", Step("ignore_index", "set", high),
                 given=f"{high} marks padding or pixels without a label"),
        ),
    )  # fmt: skip


@cause(
    "label_out_of_range_void",
    "255 for pixels without a label",
    "values",
    example="np.zeros((3, 4)), [0, 255, 2]",
)
def label_out_of_range_void(facts: Facts) -> Readings:
    """255 as the mark of void pixels."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or values.high != GREY or values.low < 0 or classes > GREY:
        return
    if values.below_high is None or values.below_high < classes:
        yield Reading(
            Score.STRONG if values.below_high else Score.LIKELY,
            "255 alone is out of range: it usually marks pixels without a label (void).",
            (
                *fix(
                    facts,
                    "ignore it",
                    Step("ignore_index", "set", GREY),
                    given="255 marks pixels without a label",
                ),
                outside("map it to a class, if it is one (a foreground that is stored as 255)"),
            ),
        )


@cause(
    "label_out_of_range_raw_pixels",
    "grey values instead of class ids",
    "values",
    example="np.zeros((3, 2)), [0, 255, 128]",
)
def label_out_of_range_raw_pixels(facts: Facts) -> Readings:
    """Grey values or undecoded bytes as labels."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or not classes < values.high <= GREY or values.low < 0:
        return
    is_mask = len(facts.labels) > 2
    two_valued = values.high == GREY and values.below_high == 0 == values.low
    if not (is_mask or values.high == GREY or (classes <= 8 and values.high >= 64)):
        return
    scale = [*fix(facts, "map 255 to 1", Step("labels", "divide", GREY),
                  given="255 is the foreground")] if two_valued else []  # fmt: skip
    yield Reading(
        Score.LIKELY if values.high < classes * 2 and not two_valued else Score.STRONG,
        f"labels go up to {values.high} for {classes} classes: raw pixel (grey) values 0-255 of a "
        "mask image?",
        (*scale, outside(f"map grey values to class ids (class indices) 0..{classes - 1}")),
    )


@cause(
    "hidden_states_not_logits",
    "hidden states instead of scores",
    "values",
    example="np.zeros((3, 768)), [0, 29000, 17]",
)
def hidden_states_not_logits(facts: Facts) -> Readings:
    """Hidden states where scores are wanted."""
    values, classes = _ids(facts) or (None, 0)
    if values is None or classes not in HIDDEN_SIZES or values.high < classes:
        return
    high = shown_integer(values.high)
    yield Reading(
        Score.STRONG if values.high >= 2 * classes else Score.GUESS,
        f"label {high} with {classes} classes, and {classes} is a usual hidden size: these look "
        "like hidden states, not logits.",
        (outside("project them to the vocabulary first (output projection, LM head)"),),
    )


@cause(
    "log_probabilities_as_labels",
    "log-probabilities as labels",
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
            Score.STRONG,
            f"no dense label is above 0 (they run from {values.low:g} to {values.high:g}): "
            "log-probabilities, where probabilities are wanted.",
            tuple(fix(facts, "take the exponential", Step("labels", "exp"))),
        )


@cause(
    "dense_labels_no_probabilities",
    "numbers that are no probabilities",
    "values",
    example="np.zeros((1, 2)), np.array([[np.inf, 0.0]]), check=True",
)
def dense_labels_no_probabilities(facts: Facts) -> Readings:
    """Dense labels that are negative, infinite or NaN."""
    if facts.values is not None and _ids(facts) is None:
        low, high = facts.values.low, facts.values.high
        yield Reading(
            Score.GUESS,
            f"dense labels run from {low:g} to {high:g}; probabilities are finite, not negative.",
            (outside("give probabilities, one for each class"),),
        )


@cause(
    "double_softmax",
    "softmax applied twice",
    "softmax",
    example="np.full((2, 4), 0.25), [0, 1], check=True",
)
def double_softmax(facts: Facts) -> Readings:
    """Softmax output as logits."""
    yield Reading(
        Score.CERTAIN,
        f"the logits are all in [0, 1] and sum to 1 over axis {facts.axis}: they look like softmax "
        "output, and this loss applies softmax itself.",
        (outside("remove the softmax (log_softmax) layer, and pass raw scores (logits)"),),
    )


@cause(
    "rows_do_not_sum_to_one",
    "rows that do not sum to 1",
    "rows",
    example="np.zeros((1, 3)), np.array([[0.5, 0.1, 0.1]]), check=True",
)
def rows_do_not_sum_to_one(_: Facts) -> Readings:
    """Dense labels whose rows are no distribution over the classes."""
    yield Reading(
        Score.GUESS,
        "they are no distribution over the classes.",
        (outside("normalize the rows, if probabilities are meant"),),
    )


@cause(
    "all_labels_ignored_nan",
    "nothing but ignored labels",
    "ignored",
    example="np.zeros((2, 3)), [-100, -100], check=True",
)
def all_labels_ignored_nan(facts: Facts) -> Readings:
    """Nothing is left to average."""
    yield Reading(
        Score.CERTAIN,
        f"all labels equal ignore_index={shown_value(facts.problem.options.ignore_index)}: nothing "
        "is left to average, and the mean is 0 (not NaN).",
        (outside("skip such empty batches, if that is not meant"),),
    )
