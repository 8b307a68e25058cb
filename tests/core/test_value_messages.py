"""The words of every error about options and label values, and of the warnings, in full."""

import re
import warnings
from typing import Any

import numpy as np
import pytest

from tests.core.test_messages import ids, scores
from tests.helpers.backends import Backend
from unified_loss import (
    LabelError,
    LossInputWarning,
    OptionError,
    SingleClassWarning,
    cross_entropy,
    explain,
)

OPTIONS = {
    "label_smoothing": (1.5, "label_smoothing must be a number in [0, 1], but is 1.5."),
    "label_smoothing_of_numpy": (
        np.float32(1.5),
        f"label_smoothing must be a number in [0, 1], but is {np.float32(1.5)!r}.",
    ),
    "label_smoothing_as_array": (
        np.zeros(1),
        "label_smoothing must be a number in [0, 1], but is a numpy.ndarray.",
    ),
    "z_loss": (-1, "z_loss must be a finite number >= 0, but is -1."),
    "z_loss_of_many_digits": (
        10**5000,
        "z_loss must be a finite number >= 0, but is an integer of 16610 bits.",
    ),
    "reduction": ("rms", 'reduction must be "none", "mean" or "sum", but is \'rms\'.'),
    "reduction_as_elsewhere": (
        "avg",
        (
            'reduction must be "none", "mean" or "sum", but is \'avg\'.\n'
            "  hint: if the mean over the examples that count is meant, say so: reduction='mean'"
        ),
    ),
    "check": (1, 'check must be "auto", True or False, but is 1.'),
    "ignore_index": (1.5, "ignore_index must be an integer or None, but is 1.5."),
    "normalizer": (-2, "normalizer must be a number > 0, but is -2.0."),
    "normalizer_of_nothing": (
        0,
        (
            "normalizer must be a number > 0, but is 0.0.\n"
            "  hint: where a step may have nothing that counts: normalizer=max(count, 1)."
        ),
    ),
    "normalizer_as_text": ("N", "normalizer must be a number > 0, but is 'N'."),
    "normalizer_as_array": (
        np.ones(2),
        "normalizer must be a positive number or a real 0-d array, but is numpy float64[2].",
    ),
}
LABELS = {
    "one_too_few_classes": (
        [0, 3],
        (
            "1 of 2 are not, the first at position 1; they range from 0 to 3.\n"
            "  logits: numpy float32[2, 3]   labels: python int64[2]   axis: -1 (given)\n"
            "  perhaps: too few classes in the last layer (too_few_output_units): label 3 needs at "
            "least 4 classes, but logits have 3 on axis 1: the last layer is one unit short.\n"
            "    elsewhere: give the last layer 4 output units (num_classes=4)\n"
            "    elsewhere: map the labels to 0..2\n"
            "  perhaps: one special id (label_out_of_range_special_id): 3 alone is out of range "
            "for "
            "3 classes, all other labels are within.\n"
            "    elsewhere: give the last layer 4 output units (num_classes=4), if it is a class\n"
            "    if 3 marks padding or pixels without a label, ignore it: ignore_index=3"
        ),
    ),
    "padding": (
        [-1, 0, 2, -1],
        (
            "2 of 4 are not, the first at position 0; they range from -1 to 2.\n"
            "  logits: numpy float32[4, 3]   labels: python int64[4]   axis: -1 (given)\n"
            "  perhaps: a negative label (label_out_of_range_negative_sentinel): labels contain "
            "-1, "
            "which is no class id (as padding often has): ignore_index is -100.\n"
            "    if -1 marks padding, ignore (mask) it: ignore_index=-1\n"
            "    elsewhere: map the labels to start at 0, if it is a class (a name missing from "
            "the "
            "class list?)"
        ),
    ),
    "one_based": (
        [1, 2, 3],
        (
            "1 of 3 are not, the first at position 2; they range from 1 to 3.\n"
            "  logits: numpy float32[3, 3]   labels: python int64[3]   axis: -1 (given)\n"
            "  perhaps: labels that start at 1 (label_out_of_range_one_based): labels run from "
            "1 to "
            "3; 3 classes allow 0 to 2. As 0 never occurs, they look one-based, not zero-based.\n"
            "    if the first class is 1, subtract 1, so that they start at 0: labels = "
            "np.asarray(labels) - 1\n"
            "    elsewhere: give the last layer 4 output units (num_classes=4)\n"
            "  perhaps: too few classes in the last layer (too_few_output_units): label 3 needs at "
            "least 4 classes, but logits have 3 on axis 1: the last layer is one unit short.\n"
            "    elsewhere: give the last layer 4 output units (num_classes=4)\n"
            "    elsewhere: map the labels to 0..2\n"
            "  perhaps: one special id (label_out_of_range_special_id): 3 alone is out of range "
            "for "
            "3 classes, all other labels are within.\n"
            "    elsewhere: give the last layer 4 output units (num_classes=4), if it is a class\n"
            "    if 3 marks padding or pixels without a label, ignore it: ignore_index=3"
        ),
    ),
    "one_based_and_one_short": (
        [1, 4, 2],
        (
            "1 of 3 are not, the first at position 1; they range from 1 to 4.\n"
            "  logits: numpy float32[3, 3]   labels: python int64[3]   axis: -1 (given)\n"
            "  perhaps: labels that start at 1 (label_out_of_range_one_based): labels run from "
            "1 to "
            "4; 3 classes allow 0 to 2. As 0 never occurs, they look one-based, not zero-based.\n"
            "    elsewhere: subtract 1, so that they start at 0, and give the last layer 4 output "
            "units\n"
            "    elsewhere: and give the last layer 4 output units (num_classes=4)\n"
            "  perhaps: too few classes in the last layer (too_few_output_units): label 4 needs at "
            "least 5 classes, but logits have 3 on axis 1.\n"
            "    elsewhere: give the last layer 5 output units (num_classes=5)\n"
            "    elsewhere: map the labels to 0..2\n"
            "  perhaps: one special id (label_out_of_range_special_id): 4 alone is out of range "
            "for "
            "3 classes, all other labels are within.\n"
            "    elsewhere: give the last layer 5 output units (num_classes=5), if it is a class\n"
            "    if 4 marks padding or pixels without a label, ignore it: ignore_index=4"
        ),
    ),
    "negative": (
        [0, -5],
        (
            "1 of 2 are not, the first at position 1; they range from -5 to 0.\n"
            "  logits: numpy float32[2, 3]   labels: python int64[2]   axis: -1 (given)\n"
            "  perhaps: a negative label (label_out_of_range_negative_sentinel): labels contain "
            "-5, "
            "which is no class id (as padding often has): ignore_index is -100.\n"
            "    if -5 marks padding, ignore (mask) it: ignore_index=-5\n"
            "    elsewhere: map the labels to start at 0, if it is a class (a name missing from "
            "the "
            "class list?)"
        ),
    ),
    "several_negative": (
        [0, -5, -7],
        (
            "2 of 3 are not, the first at position 1; they range from -7 to 0.\n"
            "  logits: numpy float32[3, 3]   labels: python int64[3]   axis: -1 (given)\n"
            "  perhaps: a negative label (label_out_of_range_negative_sentinel): labels contain "
            "-7, "
            "which is no class id (as padding often has): ignore_index is -100.\n"
            "    elsewhere: several negative ids are no classes: mask them by sample_weight="
        ),
    ),
    "void": (
        [0, 1, 255],
        (
            "1 of 3 are not, the first at position 2; they range from 0 to 255.\n"
            "  logits: numpy float32[3, 3]   labels: python int64[3]   axis: -1 (given)\n"
            "  perhaps: 255 for pixels without a label (label_out_of_range_void): 255 alone is out "
            "of range: it usually marks pixels without a label (void).\n"
            "    if 255 marks pixels without a label, ignore it: ignore_index=255\n"
            "    elsewhere: map it to a class, if it is one (a foreground that is stored as 255)\n"
            "  perhaps: grey values instead of class ids (label_out_of_range_raw_pixels): "
            "labels go "
            "up to 255 for 3 classes: raw pixel (grey) values 0-255 of a mask image?\n"
            "    elsewhere: map grey values to class ids (class indices) 0..2\n"
            "  perhaps: too few classes in the last layer (too_few_output_units): label 255 needs "
            "at least 256 classes, but logits have 3 on axis 1.\n"
            "    elsewhere: give the last layer 256 output units (num_classes=256)\n"
            "    elsewhere: map the labels to 0..2"
        ),
    ),
    "grey": (
        [0, 128, 255],
        (
            "2 of 3 are not, the first at position 1; they range from 0 to 255.\n"
            "  logits: numpy float32[3, 3]   labels: python int64[3]   axis: -1 (given)\n"
            "  perhaps: grey values instead of class ids (label_out_of_range_raw_pixels): "
            "labels go "
            "up to 255 for 3 classes: raw pixel (grey) values 0-255 of a mask image?\n"
            "    elsewhere: map grey values to class ids (class indices) 0..2\n"
            "  perhaps: too few classes in the last layer (too_few_output_units): label 255 needs "
            "at least 256 classes, but logits have 3 on axis 1.\n"
            "    elsewhere: give the last layer 256 output units (num_classes=256)\n"
            "    elsewhere: map the labels to 0..2"
        ),
    ),
    "large": (
        [0, 7, 2],
        (
            "1 of 3 are not, the first at position 1; they range from 0 to 7.\n"
            "  logits: numpy float32[3, 3]   labels: python int64[3]   axis: -1 (given)\n"
            "  perhaps: too few classes in the last layer (too_few_output_units): label 7 needs at "
            "least 8 classes, but logits have 3 on axis 1.\n"
            "    elsewhere: give the last layer 8 output units (num_classes=8)\n"
            "    elsewhere: map the labels to 0..2\n"
            "  perhaps: one special id (label_out_of_range_special_id): 7 alone is out of range "
            "for "
            "3 classes, all other labels are within.\n"
            "    elsewhere: give the last layer 8 output units (num_classes=8), if it is a class\n"
            "    if 7 marks padding or pixels without a label, ignore it: ignore_index=7"
        ),
    ),
    "huge": (
        [0, 10**5000],
        (
            "1 of 2 are not, the first at position 1; they range from 0 to an integer of 16610 "
            "bits.\n"
            "  logits: numpy float32[2, 3]   labels: python int[2]   axis: -1 (given)\n"
            "  perhaps: too few classes in the last layer (too_few_output_units): label an integer "
            "of 16610 bits can be no class id.\n"
            "    elsewhere: map the labels to 0..2"
        ),
    ),
    "grid": (
        [[0, 1], [9, 9]],
        (
            "2 of 4 are not, the first at position (1, 0); they range from 0 to 9.\n"
            "  logits: numpy float32[2, 2, 3]   labels: python int64[2, 2]   axis: -1 (given)\n"
            "  perhaps: too few classes in the last layer (too_few_output_units): label 9 needs at "
            "least 10 classes, but logits have 3 on axis 2.\n"
            "    elsewhere: give the last layer 10 output units (num_classes=10)\n"
            "    elsewhere: map the labels to 0..2\n"
            "  perhaps: one special id (label_out_of_range_special_id): 9 alone is out of range "
            "for "
            "3 classes, all other labels are within.\n"
            "    elsewhere: give the last layer 10 output units (num_classes=10), if it is a "
            "class\n"
            "    if 9 marks padding or pixels without a label, ignore it: ignore_index=9"
        ),
    ),
    "scalar": (
        7,
        (
            "1 of 1 are not; they range from 7 to 7.\n"
            "  logits: numpy float32[3]   labels: python int64[]   axis: -1 (given)\n"
            "  perhaps: too few classes in the last layer (too_few_output_units): label 7 needs at "
            "least 8 classes, but logits have 3 on axis 0.\n"
            "    elsewhere: give the last layer 8 output units (num_classes=8)\n"
            "    elsewhere: map the labels to 0..2"
        ),
    ),
    "ignored_apart": (
        [-100, 0, 4],
        (
            "1 of 3 are not, the first at position 2; they range from 0 to 4.\n"
            "  logits: numpy float32[3, 3]   labels: python int64[3]   axis: -1 (given)\n"
            "  perhaps: too few classes in the last layer (too_few_output_units): label 4 needs at "
            "least 5 classes, but logits have 3 on axis 1.\n"
            "    elsewhere: give the last layer 5 output units (num_classes=5)\n"
            "    elsewhere: map the labels to 0..2\n"
            "  perhaps: one special id (label_out_of_range_special_id): 4 alone is out of range "
            "for "
            "3 classes, all other labels are within.\n"
            "    elsewhere: give the last layer 5 output units (num_classes=5), if it is a class\n"
            "    if 4 marks padding or pixels without a label, ignore it: ignore_index=4"
        ),
    ),
}

AXES = {
    "1.5": 1.5,
    "'1'": "1",
    "[0, 1, 2, 3, 4, 5, ...]": list(range(99)),
}


@pytest.mark.parametrize("shown", AXES)
def test_message_of_an_axis(shown: str) -> None:
    """R8: the exact text: what an axis is, and that it may be left out."""
    with pytest.raises(OptionError) as caught:
        cross_entropy(scores(2, 3), ids(2), axis=AXES[shown])
    assert str(caught.value) == (
        f"axis must be one integer or None, but is {shown}.\n"
        f"  logits: numpy float32[2, 3]   labels: numpy int64[2]   axis: {shown} (given)\n"
        "  cause: no axis of the logits (class_axis_argument_invalid): the class axis is one "
        "integer, from -2 to 1 for logits (2, 3).\n"
        "    fix: leave axis= out: axis=None\n"
        "    elsewhere: pass one integer as axis="
    )


def test_message_of_an_axis_that_is_an_array() -> None:
    """R8: it may be any, so nothing is said to mean the same."""
    with pytest.raises(OptionError) as caught:
        cross_entropy(scores(2, 3), ids(2), axis=np.arange(9))
    assert str(caught.value).partition("(given)\n")[2] == (
        "  cause: no axis of the logits (class_axis_argument_invalid): the class axis is one "
        "integer of Python, from -2 to 1.\n"
        "    elsewhere: pass a number that is part of the program, and no array, as axis="
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_message_of_an_option(name: str) -> None:
    """R8: the exact text: option, range and value, but never the values of an array."""
    value, text = OPTIONS[name]
    option = re.split(r"_(?:as|of)_", name)[0]
    with pytest.raises(OptionError) as caught:
        cross_entropy(scores(2, 3), ids(2), **{option: value})
    assert str(caught.value) == text


@pytest.mark.parametrize("name", LABELS)
def test_message_of_labels_out_of_range(name: str) -> None:
    """R17: the exact text: how many, the first, smallest and largest, and what it may be."""
    labels, text = LABELS[name]
    logits = scores(*np.shape(np.array(labels, dtype=object)), 3)
    with pytest.raises(LabelError) as caught:
        cross_entropy(logits, labels, axis=-1)
    assert str(caught.value) == f"labels must be class ids in [0, 3), but {text}"


def test_label_errors_carry_their_facts() -> None:
    """R17: count, first position, smallest and largest are attributes too."""
    with pytest.raises(LabelError) as caught:
        cross_entropy(scores(2, 2, 3), [[0, 5], [-1, -100]], axis=-1)
    error = caught.value
    assert (error.count, error.first, error.smallest, error.largest) == (2, (0, 1), -1, 5)


def test_dropped_labels_do_not_mislead() -> None:
    """R16, R17: what a zero weight drops is neither counted nor in the range."""
    with pytest.raises(LabelError) as caught:
        cross_entropy(scores(3, 3), [-1, 7, 1], sample_weight=[0, 1, 1])
    error = caught.value
    assert (error.count, error.first, error.smallest, error.largest) == (1, (1,), 1, 7)


def test_unprintable_options_are_named() -> None:
    """R25: an error in `repr` never hides the error of the call."""

    class Unprintable:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(OptionError, match=r"reduction must be .*, but is <Unprintable instance at"):
        cross_entropy(scores(2, 3), ids(2), reduction=Unprintable())


def warning_of(*arguments: Any, **options: Any) -> Any:
    """The one warning of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cross_entropy(*arguments, **options)
    (found,) = caught
    assert found.filename == __file__  # it points at the caller
    return found


def test_warning_of_a_single_class() -> None:
    """R9: the exact text, at the line of the call."""
    found = warning_of(scores(2, 1), ids(2))
    assert found.category is SingleClassWarning
    assert str(found.message) == (
        "the class axis of logits (2, 1) has size 1, so the loss of class id 0 is always 0, and "
        "any other id is out of range. For one score per example use a binary (sigmoid) "
        "cross-entropy, or give two classes."
    )


SUSPICIONS = {
    "rows_do_not_sum_to_one": (
        scores(2, 3),
        np.array([[0.5, 0.5, 0], [1, 2.5, 0]]),
        (
            "they are no distribution over the classes. Fix: normalize the rows, if "
            "probabilities are meant."
        ),
    ),
    "multi_hot_given_to_single_label_loss": (
        scores(2, 3),
        np.array([[1.0, 1, 0], [1, 0, 0]]),
        (
            "0/1 labels shaped like the logits are multi-hot if several classes can hold at once; "
            "softmax takes one. Fix: for multi-label data use a binary (sigmoid) loss for "
            "each class; for one class index each, one-hot rows or argmax."
        ),
    ),
    "class_axis_not_where_expected": (
        scores(2, 4),
        np.full((2, 4), 0.5),
        "label rows do sum to 1 over axis 0. Fix: if the classes are there, say so: axis=0.",
    ),
    "argmax_passed_as_logits": (
        scores(4),
        np.array([3, 0, 2, 1]),
        (
            "labels (4,) hold class ids, and logits have the same shape: predicted class ids "
            "(argmax) lack the class axis that class scores have. Fix: pass the class scores "
            "(logits with a class axis); argmax is for metrics only."
        ),
    ),
}


@pytest.mark.parametrize("cause", SUSPICIONS)
def test_warning_of_rows_that_do_not_sum_to_one(cause: str) -> None:
    """R17: the exact text, at the line of the call, with the pattern if there is one."""
    logits, labels, text = SUSPICIONS[cause]
    found = warning_of(logits, labels, check=True, axis=-1)
    assert found.category is LossInputWarning
    assert found.message.cause == cause
    assert found.message.fixes
    assert str(found.message) == (
        f"dense label rows do not sum to 1 over the class axis {logits.ndim - 1}, and the loss is "
        f"-sum(t log p) of the rows as they are. Perhaps: {text}"
    )


@pytest.mark.parametrize("dtype", ["int64", "bool", "uint8"])
@pytest.mark.parametrize("check", ["auto", True])
def test_warning_of_rows_with_several_ones(dtype: str, check: Any) -> None:
    """R17: of integers and booleans on the host without being asked, on every call anew."""
    rows = np.array([[1, 1, 0], [1, 0, 0]]).astype(dtype)
    assert not told_of_rows(rows[1:].repeat(2, 0), check=check)
    found = warning_of(scores(2, 3), rows, check=check)
    assert found.message.cause == "multi_hot_given_to_single_label_loss"
    assert str(found.message) == (
        "rows of labels (2, 3) have several ones over the class axis 1: several classes in one "
        "example. 0/1 labels shaped like the logits are multi-hot if several classes can hold at "
        "once; softmax takes one. Fix: for multi-label data use a binary (sigmoid) loss for "
        "each class; for one class index each, one-hot rows or argmax."
    )


@pytest.mark.parametrize("options", [{"check": False}, {"sample_weight": [0, 1]}])
def test_no_warning_of_rows_that_do_not_count(options: dict[str, Any]) -> None:
    """R16, R17: nor of rows that are not to be looked at; counts are no multi-hot rows."""
    assert not told_of_rows(np.array([[1, 1, 0], [1, 0, 0]]), **options)
    assert not told_of_rows(np.array([[1, 2, 0], [1, 0, 0]]))


ROWS = {  # of one score for each example
    "scores_of_a_binary_loss": ([1.0, 0, 1, 1], [0.3, 0.9, 0.8, 0.1]),
    "regression_target_with_classification_loss": ([3.5, 0.5, 1, 2], [0.5, 3, 2, 0]),
}


@pytest.mark.parametrize("cause", ROWS)
def test_warning_of_labels_of_a_batch(backend: Backend, cause: str) -> None:
    """R4, R17: floating labels beside 1-D logits, if it is asked for a look, and else nothing."""
    logits = backend.asarray(np.arange(4, dtype=np.float32))
    for row in ROWS[cause]:
        told = [cause] if backend.name != "dask" else ["rows_do_not_sum_to_one"]
        assert causes_of(logits, row, check=True) == told
        assert not causes_of(logits, row)
        assert causes_of(logits, row, check=True, axis=0) == ["rows_do_not_sum_to_one"]
        assert not causes_of(logits, row, check=True, sample_weight=np.float32(0))


def causes_of(*arguments: Any, **options: Any) -> list[str | None]:
    """What a call warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cross_entropy(*arguments, **options)
    return [getattr(one.message, "cause", None) for one in caught]


def told_of_rows(rows: Any, **options: Any) -> list[Any]:
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cross_entropy(scores(*rows.shape), rows, **options)
    return caught


def test_warning_of_softmax_output() -> None:
    """R17: probabilities as logits."""
    found = warning_of(np.array([[0.25, 0.75], [0.5, 0.5]]), ids(2), check=True)
    assert found.category is LossInputWarning
    assert str(found.message) == (
        "the logits are all in [0, 1] and sum to 1 over axis 1: they look like softmax output, and "
        "this loss applies softmax itself. Fix: remove the softmax (log_softmax) layer, and pass "
        "raw scores (logits)."
    )


def test_warning_of_swapped_dense_arguments() -> None:
    """R17: scores as label rows, beside logits that are label rows; told without being asked."""
    logits, rows = scores(3, 13) - 5, np.eye(13)[[0, 2, 1]]  # no call like it came before
    found = warning_of(rows, logits)
    assert found.category is LossInputWarning
    assert found.message.cause == "arguments_swapped"
    assert found.message.fixes
    assert np.isfinite(cross_entropy(logits, rows))
    assert np.isfinite(cross_entropy(logits, rows - 0.1))  # negative rows alone may be meant


def test_swapped_dense_arguments_are_told_each_time() -> None:
    """R17: a cell that is run again warns again, and a report never depends on earlier calls."""
    logits, rows = scores(3, 17) - 5, np.eye(17)[[0, 2, 1]]  # no call like it came before
    for _ in range(2):
        assert explain(rows, logits).warnings
        assert warning_of(rows, logits).message.cause == "arguments_swapped"
    assert np.isfinite(cross_entropy(logits, rows))
    assert explain(rows, logits).warnings


def test_warning_of_nothing_but_ignored_labels() -> None:
    """R15, R17: it is legal, and the mean is 0; asked for, the check says so."""
    found = warning_of(scores(2, 3), [-100, -100], check=True)
    assert found.category is LossInputWarning
    assert str(found.message) == (
        "all labels equal ignore_index=-100: nothing is left to average, and the mean is 0 (not "
        "NaN). Fix: skip such empty batches, if that is not meant."
    )


def test_one_site_warns_once(recwarn: pytest.WarningsRecorder) -> None:
    """R17: batch after batch, whatever its size, with the filters that Python starts with."""
    warnings.simplefilter("default")
    for n in range(2, 6):
        cross_entropy(np.full((n, 4), 0.25), np.zeros(n, int), check=True)
        cross_entropy(scores(n, 3), np.full(n, -100), check=True)
        cross_entropy(scores(n, 3), np.full((n, 3), n / 10 + 0.25), check=True)
    assert len(recwarn) == 3
