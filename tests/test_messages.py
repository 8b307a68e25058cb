"""The words of every error about shapes, dtypes and libraries, in full."""

import re
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.plans import M, N, plan
from unified_loss import (
    AmbiguousAxisError,
    BackendError,
    DTypeError,
    LabelError,
    LossInputError,
    OptionError,
    ShapeError,
    cross_entropy,
)


def scores(*shape: int) -> Any:
    """Logits."""
    return np.zeros(shape, np.float32)


def ids(*shape: int) -> Any:
    """Class ids."""
    return np.zeros(shape, np.int64)


class Case(NamedTuple):
    """A call, and all that its error says."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]
    error: type[Exception]
    text: str


def case(error: type[Exception], *lines: str, call: tuple[Any, ...], **options: Any) -> Case:
    """A case by its lines."""
    return Case(call, options, error, "\n".join(lines))


SHAPES = {
    "swapped": case(
        DTypeError,
        "logits must be floating, but are int64.",
        "  logits: numpy int64[2]   labels: numpy float32[2, 3]   axis: not given",
        "  hint: the arguments look swapped: the order is (logits, labels).",
        call=(ids(2), scores(2, 3)),
    ),
    "integer_logits": case(
        DTypeError,
        "logits must be floating, but are bool.",
        "  logits: numpy bool[2, 3]   labels: python int64[2]   axis: not given",
        "  hint: pass unnormalised scores, one per class, not class ids or predictions.",
        call=(scores(2, 3) > 0, [0, 1]),
    ),
    "axis_out_of_range": case(
        ShapeError,
        "axis must be in [-2, 1] for logits of shape (2, 3), but is 2.",
        "  logits: numpy float32[2, 3]   labels: numpy int64[2]   axis: 2",
        call=(scores(2, 3), ids(2)),
        axis=2,
    ),
    "no_class_axis": case(
        ShapeError,
        "logits must have a class axis, but have shape ().",
        "  logits: numpy float32[]   labels: python int64[]   axis: not given",
        call=(scores(), 0),
    ),
    "no_classes": case(
        ShapeError,
        "logits must have at least one class, but the class axis 1 has size 0.",
        "  logits: numpy float32[2, 0]   labels: numpy int64[2]   axis: not given",
        call=(scores(2, 0), ids(2)),
    ),
    "ambiguous_index": case(
        AmbiguousAxisError,
        "the class axis is ambiguous: labels of shape (2, 5) fit logits of shape (2, 5, 5) with "
        "the classes on axis 1 (size 5) and on axis 2 (size 5).",
        "  logits: numpy float32[2, 5, 5]   labels: numpy int64[2, 5]   axis: not given",
        "  hint: pass axis=1 (channels first) or axis=-1 (channels last).",
        call=(scores(2, 5, 5), ids(2, 5)),
    ),
    "ambiguous_dense": case(
        AmbiguousAxisError,
        "the class axis is ambiguous: labels of shape (2, 3, 4) fit logits of shape (2, 3, 4) with "
        "the classes on axis 1 (size 3) and on axis 2 (size 4).",
        "  logits: numpy float32[2, 3, 4]   labels: numpy float32[2, 3, 4]   axis: not given",
        "  hint: pass axis=1 (channels first) or axis=-1 (channels last).",
        call=(scores(2, 3, 4), scores(2, 3, 4)),
    ),
    "no_axis_fits": case(
        ShapeError,
        "labels must have shape (2, 4, 5) with the classes on axis 1 (size 3), (2, 3, 4) with the "
        "classes on axis 3 (size 5), or the whole shape (2, 3, 4, 5) of the logits, but have shape "
        "(2, 3, 6).",
        "  logits: numpy float32[2, 3, 4, 5]   labels: numpy int64[2, 3, 6]   axis: not given",
        "  hint: the batch (2, 3, 4) disagrees on axis 2 (4 examples, 6 labels).",
        call=(scores(2, 3, 4, 5), ids(2, 3, 6)),
    ),
    "middle_axis_fits": case(
        ShapeError,
        "labels must have shape (2, 4, 5) with the classes on axis 1 (size 3), (2, 3, 4) with the "
        "classes on axis 3 (size 5), or the whole shape (2, 3, 4, 5) of the logits, but have shape "
        "(2, 3, 5).",
        "  logits: numpy float32[2, 3, 4, 5]   labels: numpy int64[2, 3, 5]   axis: not given",
        "  hint: with axis=2 these shapes fit.",
        call=(scores(2, 3, 4, 5), ids(2, 3, 5)),
    ),
    "another_axis_fits": case(
        ShapeError,
        "labels must have shape (8, 32), the shape of logits (8, 32, 10) without the class axis 2 "
        "(size 10), or the logits' whole shape, but have shape (8, 10).",
        "  logits: numpy float32[8, 32, 10]   labels: numpy int64[8, 10]   axis: -1",
        "  hint: with axis=1 these shapes fit.",
        call=(scores(8, 32, 10), ids(8, 10)),
        axis=-1,
    ),
    "labels_without_batch_axis": case(
        ShapeError,
        "labels must have shape (32,), the shape of logits (32, 10) without the class axis 1 (size "
        "10), or the logits' whole shape, but have shape (10, 10).",
        "  logits: numpy float32[32, 10]   labels: numpy float32[10, 10]   axis: not given",
        "  hint: axis 0 disagrees: logits have 32 there, labels 10.",
        call=(scores(32, 10), scores(10, 10)),
    ),
    "wrong_number_of_classes": case(
        ShapeError,
        "labels must have shape (4,), the shape of logits (4, 3) without the class axis 1 (size "
        "3), or the logits' whole shape, but have shape (4, 5).",
        "  logits: numpy float32[4, 3]   labels: numpy bool[4, 5]   axis: not given",
        "  hint: axis 1 disagrees: logits have 3 there, the number of classes, labels 5.",
        call=(scores(4, 3), ids(4, 5) > 0),
    ),
    "wrong_batch": case(
        ShapeError,
        "labels must have shape (4, 5), the shape of logits (4, 5, 3) without the class axis 2 "
        "(size 3), or the logits' whole shape, but have shape (6, 7).",
        "  logits: numpy float32[4, 5, 3]   labels: numpy int64[6, 7]   axis: 2",
        "  hint: the batch (4, 5) disagrees on axis 0 (4 examples, 6 labels), axis 1 (5 examples, "
        "7 labels).",
        call=(scores(4, 5, 3), ids(6, 7)),
        axis=2,
    ),
    "axes_of_size_one": case(
        ShapeError,
        "labels must have shape (4,), the shape of logits (4, 3) without the class axis 1 (size "
        "3), or the logits' whole shape, but have shape (1, 4).",
        "  logits: numpy float32[4, 3]   labels: numpy int64[1, 4]   axis: not given",
        "  hint: reshape the labels to (4,): they differ in axes of size 1 alone.",
        call=(scores(4, 3), ids(1, 4)),
    ),
    "dense_axes_of_size_one": case(
        ShapeError,
        "labels must have shape (4,), the shape of logits (4, 3) without the class axis 1 (size "
        "3), or the logits' whole shape, but have shape (4, 3, 1).",
        "  logits: numpy float32[4, 3]   labels: numpy float32[4, 3, 1]   axis: not given",
        "  hint: reshape the labels to (4, 3): they differ in axes of size 1 alone.",
        call=(scores(4, 3), scores(4, 3, 1)),
    ),
    "one_row_of_probabilities": case(
        ShapeError,
        "labels must have shape (4,), the shape of logits (4, 3) without the class axis 1 (size "
        "3), or the logits' whole shape, but have shape (3,).",
        "  logits: numpy float32[4, 3]   labels: numpy float32[3]   axis: not given",
        "  hint: float32 labels are one number per class and need the shape (4, 3); class ids are "
        "integers.",
        call=(scores(4, 3), scores(3)),
    ),
    "one_class_id": case(
        ShapeError,
        "labels must have shape (4,), the shape of logits (4, 3) without the class axis 1 (size "
        "3), or the logits' whole shape, but have shape ().",
        "  logits: numpy float32[4, 3]   labels: python int64[]   axis: not given",
        "  hint: give one class id for each example of the batch (4,).",
        call=(scores(4, 3), 1),
    ),
    "floating_class_ids": case(
        DTypeError,
        "labels of shape (4,), without the class axis 1 (size 3), must be integer class ids, but "
        "are float32.",
        "  logits: numpy float32[4, 3]   labels: numpy float32[4]   axis: not given",
        "  hint: if they hold class ids, cast them: np.asarray(labels, np.int64). If they are "
        "probabilities, they need the logits' shape (4, 3); do not cast those.",
        call=(scores(4, 3), scores(4)),
    ),
    "complex_labels": case(
        DTypeError,
        "labels must be integers (class ids), booleans (one-hot) or floating (probabilities), but "
        "are complex128.",
        "  logits: numpy float32[4, 3]   labels: numpy complex128[4]   axis: not given",
        call=(scores(4, 3), np.zeros(4, complex)),
    ),
    "class_weight_shape": case(
        ShapeError,
        "class_weight must have shape (3,), one weight per class of axis 1 (size 3), but has shape "
        "(4,).",
        "  logits: numpy float32[2, 3]   labels: numpy int64[2]   axis: not given",
        call=(scores(2, 3), ids(2)),
        class_weight=np.ones(4),
    ),
    "sample_weight_shape": case(
        ShapeError,
        "sample_weight must have shape (2, 4) or (2,), one weight per example, but has shape (4,).",
        "  logits: numpy float32[2, 3, 4]   labels: numpy int64[2, 4]   axis: not given",
        call=(scores(2, 3, 4), ids(2, 4)),
        sample_weight=np.ones(4),
    ),
    "sample_weight_shape_of_one_axis": case(
        ShapeError,
        "sample_weight must have shape (2,), one weight per example, but has shape ().",
        "  logits: numpy float32[2, 3]   labels: numpy int64[2]   axis: not given",
        call=(scores(2, 3), ids(2)),
        sample_weight=2.0,
    ),
    "class_weight_dtype": case(
        DTypeError,
        "class_weight must have a real number dtype, but is python bool[3].",
        call=(scores(2, 3), ids(2)),
        class_weight=[True, False, True],
    ),
    "sample_weight_dtype": case(
        DTypeError,
        "sample_weight must have a real or boolean dtype, but is numpy complex128[2].",
        call=(scores(2, 3), ids(2)),
        sample_weight=np.ones(2, complex),
    ),
}
ELSEWHERE = {
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
        "  logits: numpy float32[2, 3]   labels: numpy float32[2, 3]   axis: not given",
        "  hint: drop examples with sample_weight=, a boolean mask of the batch shape.",
        call=(scores(2, 3), scores(2, 3)),
        ignore_index=1,
    ),
    "bad_probabilities": case(
        LabelError,
        "dense labels must be finite and non-negative, but 1 of 6 entries are not, the first at "
        "(1, 0).",
        "  hint: pass probabilities, not log-probabilities or logits.",
        call=(scores(2, 3), np.array([[0.5, 0.5, 0], [-1, 2, 0]])),
        check=True,
    ),
    "list_as_logits": case(
        BackendError,
        "logits must be an array of a supported library, but are builtins.list.",
        call=([[0.0, 1.0]], [0]),
    ),
    "masked_logits": case(
        BackendError,
        "logits must be an ordinary dense array, not numpy.ma.MaskedArray: its mask would be lost; "
        "pass the data, and the mask as sample_weight=~array.mask.",
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
        "labels must be of the logits' library (numpy), or host data (numbers, lists, NumPy "
        "arrays), but are of type list, which holds something else.",
        "  hint: convert it first: np.asarray(labels)",
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


@pytest.mark.parametrize("name", [*SHAPES, *ELSEWHERE])
def test_message_of_a_mistake(name: str) -> None:
    """R25: the exact text: what was expected, what was passed, what would fit."""
    arguments, options, error, text = {**SHAPES, **ELSEWHERE}[name]
    with pytest.raises(error) as caught:
        cross_entropy(*arguments, **options)
    assert type(caught.value) is error
    found = str(caught.value)
    assert (found.partition("\n")[0] if name == "list_as_logits" else found) == text


def test_message_of_unknown_shapes() -> None:
    """R3: unknown sizes are question marks."""
    with pytest.raises(AmbiguousAxisError) as caught:
        plan(None, (4,))
    assert str(caught.value) == (
        "the class axis cannot be inferred from logits of unknown rank.\n"
        "  logits: numpy float32[...]   labels: numpy int64[4]   axis: not given\n"
        "  hint: pass axis=, for example axis=-1."
    )
    with pytest.raises(AmbiguousAxisError) as caught:
        plan((None, 3, None), None)
    assert str(caught.value) == (
        "the class axis is ambiguous: labels of shape (unknown rank) fit logits of shape "
        "(?, 3, ?) with the classes on axis 1 (size 3) and on axis 2 (size ?).\n"
        "  logits: numpy float32[?, 3, ?]   labels: numpy int64[...]   axis: not given\n"
        "  hint: pass axis=1 (channels first) or axis=-1 (channels last)."
    )
    with pytest.raises(AmbiguousAxisError) as caught:
        plan((None, 3), (None, None))
    assert str(caught.value) == (
        "integer labels of shape (?, ?) can be class ids or one-hot rows, since their size along "
        "the class axis 1 is unknown.\n"
        "  logits: numpy float32[?, 3]   labels: numpy int64[?, ?]   axis: not given\n"
        "  hint: squeeze the class axis of class ids, or cast one-hot rows to floating."
    )


@pytest.mark.parametrize(
    ("logits", "labels", "hint"),
    [
        ((None, 3), (None, 4), "axis 1 disagrees: logits have 3 there, the number of classes, "),
        ((N, 3), (M, 4), "axis 1 disagrees: logits have 3 there, the number of classes, labels 4."),
        ((None, 4, 3), (None, 5), "the batch (?, 4) disagrees on axis 1 (4 examples, 5 labels)."),
    ],
)
def test_unknown_sizes_are_not_blamed(logits: Any, labels: Any, hint: str) -> None:
    """R25: a size that is unknown may fit, so the hint is about those that cannot."""
    with pytest.raises(ShapeError) as caught:
        plan(logits, labels, axis=-1)
    assert f"hint: {hint}" in str(caught.value)


@pytest.mark.parametrize("case", [*SHAPES.values(), *ELSEWHERE.values()])
def test_first_line_stands_alone(case: Case) -> None:
    """R25: a compiler may keep the first line alone, and it is one whole sentence."""
    with pytest.raises(LossInputError) as caught:
        cross_entropy(*case.arguments, **case.options)
    first, *others = str(caught.value).splitlines()
    assert first.endswith(".")
    assert re.match(r"(the class axis|logits|labels|dense labels|axis|[a-z]+_[a-z]+|normalizer) ",
                    first)  # fmt: skip
    assert all(line.startswith("  ") for line in others)
