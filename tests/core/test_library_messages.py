"""The words of every error about libraries, and of some others, in full."""

import numpy as np
import pytest

from tests.core.test_messages import case, check, ids, scores
from unified_loss import BackendError, LabelError, OptionError, cross_entropy

CASES = {
    "normalizer_without_mean": case(
        OptionError,
        "normalizer goes with reduction=\"mean\" alone, but reduction is 'sum'.",
        call=(scores(2, 3), ids(2)),
        reduction="sum",
        normalizer=2,
    ),
    "ignore_index_with_dense_labels": case(
        OptionError,
        "ignore_index applies to index labels, but is 1 with dense labels of shape (2, 3).",
        "  hint: drop examples with sample_weight=, a boolean mask of the batch shape.",
        call=(scores(2, 3), scores(2, 3)),
        ignore_index=1,
    ),
    "bad_probabilities": case(
        LabelError,
        "dense labels must be finite and non-negative, but 1 of 6 entries are not, the first "
        "at (1, 0); log-probabilities and logits are not.",
        "  logits: numpy float32[2, 3]   labels: numpy float64[2, 3]   axis: 1 (inferred)",
        "  perhaps: labels first and logits second (arguments_swapped): dense labels run from -1 "
        "to 2, negative ones among them: scores, not probabilities, as if swapped (inverted); the "
        "order is (logits, labels).",
        "    if the labels came first, swap them: logits, labels = labels, logits",
        "  perhaps: numbers that are no probabilities (dense_labels_no_probabilities): dense "
        "labels run from -1 to 2; probabilities are finite, not negative.",
        "    elsewhere: give probabilities, one for each class",
        "  not: do not shift or scale scores into probabilities.",
        call=(scores(2, 3), np.array([[0.5, 0.5, 0], [-1, 2, 0]])),
        check=True,
    ),
    "masked_logits": case(
        BackendError,
        "logits must be an ordinary dense array, not numpy.ma.MaskedArray: its mask would be lost.",
        "  hint: if classes are masked, fill them: logits = logits.filled(-np.inf)",
        "  hint: if examples are masked, classes are on the last axis, and there is no other "
        "sample_weight, give them no weight: logits, sample_weight = logits.data, "
        "~np.ma.getmaskarray(logits).any(-1)",
        call=(np.ma.masked_array(scores(2, 3)), [0, 1]),
    ),
    "ragged_labels": case(
        BackendError,
        "labels must be an ordinary dense array, not a nested list: its rows have different "
        "lengths.",
        call=(scores(2, 3), [[0], [1, 2]]),
    ),
    "no_labels": case(
        BackendError,
        "labels must be of the logits' library (numpy), or host data (numbers, lists, NumPy "
        "arrays), but are of type NoneType.",
        "  hint: give numbers, lists of numbers or an array.",
        call=(scores(2, 3), None),
    ),
    "list_of_texts": case(
        BackendError,
        "labels cannot be read from a list: it holds text.",
        "  cause: class names instead of class ids (string_labels): labels are class names (text): "
        "each name needs a class id, a number from 0.",
        "    elsewhere: encode them once, over the whole data set (names, ids = "
        "np.unique(all_names, return_inverse=True)), and map the names of each batch to these ids: "
        "ids = {name: i for i, name in enumerate(names)}",
        "    if these are the names of the whole data set, number them: labels = np.unique(labels, "
        "return_inverse=True)[1]",
        "  not: do not number the names of each batch by itself: ids would change.",
        call=(scores(2, 3), ["cat", "dog"]),
    ),
    "set_as_weight": case(
        BackendError,
        "class_weight must be of the logits' library (numpy), or host data (numbers, lists, NumPy "
        "arrays), but is of type set.",
        "  hint: give numbers, lists of numbers or an array.",
        call=(scores(2, 3), [0, 1]),
        class_weight={1.0},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_message_of_a_mistake(name: str) -> None:
    """R25: the exact text."""
    check(CASES[name])


def test_message_of_a_list_as_logits() -> None:
    """R2: what is supported, what is installed, and the code that makes an array."""
    with pytest.raises(BackendError) as caught:
        cross_entropy([[0.0, 1.0]], [0])
    first, supported, installed, hint = str(caught.value).splitlines()
    assert first == "logits must be an array of a supported library, but are of type list."
    assert supported.startswith("  supported: numpy, torch, ")
    assert installed.startswith("  installed: numpy")
    code = "logits = np.asarray(logits, float)"
    assert hint == f"  hint: if these are scores, make an array of them: {code}"
    (fix,) = caught.value.fixes
    assert (caught.value.cause, fix.code) == ("array_of_another_kind", code)
