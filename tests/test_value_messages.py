"""The words of every error about options and label values, and of the warnings, in full."""

import re
import warnings
from typing import Any

import numpy as np
import pytest

from tests.test_messages import ids, scores
from unified_loss import (
    LabelError,
    LossInputWarning,
    OptionError,
    SingleClassWarning,
    cross_entropy,
)

OPTIONS = {
    "axis": (1.5, "axis must be one integer or None, but is 1.5."),
    "axis_as_text": ("1", "axis must be one integer or None, but is '1'."),
    "axis_as_array": (np.arange(9), "axis must be one integer or None, but is a numpy.ndarray."),
    "axis_as_long_list": (
        list(range(99)),
        "axis must be one integer or None, but is [0, 1, 2, 3, 4, 5, ...].",
    ),
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
    "reduction": ("avg", 'reduction must be "none", "mean" or "sum", but is \'avg\'.'),
    "check": (1, 'check must be "auto", True or False, but is 1.'),
    "ignore_index": (1.5, "ignore_index must be an integer or None, but is 1.5."),
    "normalizer": (-2, "normalizer must be a number > 0, but is -2.0."),
    "normalizer_as_text": ("N", "normalizer must be a number > 0, but is 'N'."),
    "normalizer_as_array": (
        np.ones(2),
        "normalizer must be a positive number or a real 0-d array, but is numpy float64[2].",
    ),
}
TOO_FEW_CLASSES = "the largest label needs more classes than the 3 of the logits."
LABELS = {
    "one_too_few_classes": (
        [0, 3],
        "1 of 2 are not, the first at position 1; they range from 0 to 3.",
        "label 3 needs 4 classes: the last layer is one unit short.",
    ),
    "padding": (
        [-1, 0, 2, -1],
        "2 of 4 are not, the first at position 0; they range from -1 to 2.",
        "-1 usually marks padding or unknown labels: pass ignore_index=-1 to drop them.",
    ),
    "one_based": (
        [1, 2, 3],
        "1 of 3 are not, the first at position 2; they range from 1 to 3.",
        "0 never occurs, so the labels look one-based: subtract 1.",
    ),
    "negative": (
        [0, -5],
        "1 of 2 are not, the first at position 1; they range from -5 to 0.",
        "negative ids are no classes; ignore_index is -100.",
    ),
    "void": (
        [0, 255],
        "1 of 2 are not, the first at position 1; they range from 0 to 255.",
        "255 usually marks void pixels (pass ignore_index=255) or raw grey values.",
    ),
    "large": (
        [0, 7, 2],
        "1 of 3 are not, the first at position 1; they range from 0 to 7.",
        TOO_FEW_CLASSES,
    ),
    "huge": (
        [0, 10**5000],
        "1 of 2 are not, the first at position 1; they range from 0 to an integer of 16610 bits.",
        TOO_FEW_CLASSES,
    ),
    "grid": (
        [[0, 1], [9, 9]],
        "2 of 4 are not, the first at position (1, 0); they range from 0 to 9.",
        TOO_FEW_CLASSES,
    ),
    "scalar": (7, "1 of 1 are not; they range from 7 to 7.", TOO_FEW_CLASSES),
    "ignored_apart": (
        [-100, 1, 4],
        "1 of 3 are not, the first at position 2; they range from 1 to 4.",
        TOO_FEW_CLASSES,
    ),
}


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
    """R17: the exact text: how many, the first, smallest and largest, and the usual meaning."""
    labels, text, hint = LABELS[name]
    logits = scores(*np.shape(np.array(labels, dtype=object)), 3)
    with pytest.raises(LabelError) as caught:
        cross_entropy(logits, labels, axis=-1)
    assert str(caught.value) == f"labels must be class ids in [0, 3), but {text}\n  hint: {hint}"


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
        "the class axis of logits (2, 1) has size 1, so the loss is always 0. For one score per "
        "example use a binary (sigmoid) cross-entropy, or give two classes."
    )


def test_warning_of_rows_that_do_not_sum_to_one() -> None:
    """R17: the exact text, at the line of the call."""
    found = warning_of(scores(2, 3), np.array([[0.5, 0.5, 0], [1, 2, 0]]), check=True)
    assert found.category is LossInputWarning
    assert str(found.message) == (
        "1 of 2 label rows do not sum to 1 (the first sums to 3); the loss is -sum(t log p) of the "
        "rows as they are."
    )
