"""The words of every error about shapes and dtypes, in full."""

import re
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.helpers.plans import M, N, problem
from unified_loss import (
    AmbiguousAxisError,
    DTypeError,
    LossInputError,
    ShapeError,
    cross_entropy,
)
from unified_loss._diagnosis import diagnose
from unified_loss._plan import make_plan


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
        "logits must be floating, but are int64: the arguments look swapped, the order is "
        "(logits, labels).",
        "  logits: numpy int64[2]   labels: numpy float32[2, 3]   axis: not given",
        "  cause: labels first and logits second (arguments_swapped): the first argument is "
        "int64, as class ids are, the second float32, as scores are.",
        "    fix: swap the arguments, logits first: logits, labels = labels, logits",
        call=(ids(2), scores(2, 3)),
    ),
    "integer_logits": case(
        DTypeError,
        "logits must be floating, but are bool.",
        "  logits: numpy bool[2, 3]   labels: python int64[2]   axis: not given",
        "  perhaps: logits that are no floating scores (logits_of_another_kind): booleans are what "
        "is left of scores after a comparison, or a mask.",
        "    elsewhere: pass the scores themselves, before they are compared with a threshold",
        call=(scores(2, 3) > 0, [0, 1]),
    ),
    "axis_out_of_range": case(
        ShapeError,
        "axis must be in [-2, 1] for logits of shape (2, 3), but is 2.",
        "  logits: numpy float32[2, 3]   labels: numpy int64[2]   axis: 2 (given)",
        "  cause: no axis of the logits (class_axis_argument_invalid): the class axis is one "
        "integer, from -2 to 1 for logits (2, 3).",
        "    fix: leave axis= out: axis=None",
        "    elsewhere: pass one integer as axis=",
        call=(scores(2, 3), ids(2)),
        axis=2,
    ),
    "no_class_axis": case(
        ShapeError,
        "logits must have a class axis, but have shape ().",
        "  logits: numpy float32[]   labels: python int64[]   axis: not given",
        "  cause: one number instead of scores (logits_missing_class_axis): logits are one "
        "number (), as after a squeeze or a mean: there is no axis of classes.",
        "    elsewhere: give the scores of all classes: (C,) for one example, (N, C) for a batch",
        call=(scores(), 0),
    ),
    "no_classes": case(
        ShapeError,
        "logits must have at least one class, but the class axis 1 has size 0.",
        "  logits: numpy float32[2, 0]   labels: numpy int64[2]   axis: 1 (inferred)",
        call=(scores(2, 0), ids(2)),
    ),
    "ambiguous_index": case(
        AmbiguousAxisError,
        "the class axis is ambiguous: labels of shape (2, 5) fit logits of shape (2, 5, 5) with "
        "the classes on axis 1 (size 5) and on axis 2 (size 5): pass axis=1 (channels first) or "
        "axis=-1 (channels last).",
        "  logits: numpy float32[2, 5, 5]   labels: numpy int64[2, 5]   axis: not given",
        "  perhaps: classes on another axis (class_axis_not_where_expected): labels (2, 5) fit "
        "if the classes are on axis 1 (size 5) and axis 2 (size 5) of the logits.",
        "    if the classes are on axis 1, say so, or transpose: axis=1",
        "    if the classes are on axis 2, say so, or transpose: axis=2",
        call=(scores(2, 5, 5), ids(2, 5)),
    ),
    "ambiguous_dense": case(
        AmbiguousAxisError,
        "the class axis is ambiguous: labels of shape (2, 3, 4) fit logits of shape (2, 3, 4) "
        "with the classes on axis 1 (size 3) and on axis 2 (size 4): pass axis=1 (channels "
        "first) or axis=-1 (channels last).",
        "  logits: numpy float32[2, 3, 4]   labels: numpy float32[2, 3, 4]   axis: not given",
        "  perhaps: classes on another axis (class_axis_not_where_expected): labels shaped like "
        "the logits (2, 3, 4) leave open which axis the classes are on.",
        "    if the classes are on axis 1, say so (channels first): axis=1",
        "    if the classes are on axis 2, say so (channels last): axis=2",
        "  perhaps: several classes in one example (multi_hot_given_to_single_label_loss): 0/1 "
        "labels shaped like the logits are multi-hot if several classes can hold at once; "
        "softmax takes one.",
        "    elsewhere: for multi-label data use a binary (sigmoid) loss for each class; "
        "for one class index each, one-hot rows or argmax",
        call=(scores(2, 3, 4), scores(2, 3, 4)),
    ),
    "no_axis_fits": case(
        ShapeError,
        "labels must have shape (2, 4, 5) with the classes on axis 1 (size 3), (2, 3, 4) with "
        "the classes on axis 3 (size 5), or the whole shape (2, 3, 4, 5) of the logits, but "
        "have shape (2, 3, 6).",
        "  logits: numpy float32[2, 3, 4, 5]   labels: numpy int64[2, 3, 6]   axis: not given",
        "  perhaps: images of two sizes (spatial_size_mismatch): logits are 4x5, labels 3x6 "
        "(height x width).",
        "    elsewhere: resize (interpolate) the logits to the labels' size, or fix stride, "
        "padding or downsampling",
        "  perhaps: sequences of two lengths (sequence_length_differs): logits have 4 steps, "
        "labels 6: padding, truncation, or two lengths.",
        "    elsewhere: pad both to one length, and mask the padding with ignore_index, or cut "
        "both before the model",
        "    if the end is padding, cut it off the labels: labels = labels[:, :, :4]",
        call=(scores(2, 3, 4, 5), ids(2, 3, 6)),
    ),
    "middle_axis_fits": case(
        ShapeError,
        "labels must have shape (2, 4, 5) with the classes on axis 1 (size 3), (2, 3, 4) with "
        "the classes on axis 3 (size 5), or the whole shape (2, 3, 4, 5) of the logits, but "
        "have shape (2, 3, 5).",
        "  logits: numpy float32[2, 3, 4, 5]   labels: numpy int64[2, 3, 5]   axis: not given",
        "  cause: classes on another axis (class_axis_not_where_expected): labels (2, 3, 5) fit "
        "if the classes are on axis 2 (size 4) of the logits.",
        "    fix: say that the classes are on axis 2, or transpose: axis=2",
        call=(scores(2, 3, 4, 5), ids(2, 3, 5)),
    ),
    "another_axis_fits": case(
        ShapeError,
        "labels must have shape (8, 32), the shape of logits (8, 32, 10) without the class axis "
        "2 (size 10), or the logits' whole shape, but have shape (8, 10).",
        "  logits: numpy float32[8, 32, 10]   labels: numpy int64[8, 10]   axis: -1 (given)",
        "  cause: classes on another axis (class_axis_not_where_expected): labels (8, 10) fit "
        "if the classes are on axis 1 (size 32) of the logits.",
        "    fix: say that the classes are on axis 1, or transpose: axis=1",
        call=(scores(8, 32, 10), ids(8, 10)),
        axis=-1,
    ),
    "labels_without_batch_axis": case(
        ShapeError,
        "labels must have shape (32,), the shape of logits (32, 10) without the class axis 1 "
        "(size 10), or the logits' whole shape, but have shape (10, 10).",
        "  logits: numpy float32[32, 10]   labels: numpy float32[10, 10]   axis: 1 (inferred)",
        "  perhaps: labels without a batch axis (labels_missing_batch_axis): labels (10, 10) "
        "have one row per class, as np.eye(10) has, not one per example: logits have 32 on axis "
        "0.",
        "    elsewhere: index the rows with the class ids: np.eye(10)[ids]",
        "  perhaps: batches of two sizes (last_batch_smaller): logits have 32 examples on axis "
        "0, labels 10: in the last batch, something has a fixed batch size.",
        "    elsewhere: give inputs and labels of the same length (10 or 32; leave the "
        "last, smaller one out)",
        call=(scores(32, 10), scores(10, 10)),
    ),
    "wrong_number_of_classes": case(
        ShapeError,
        "labels must have shape (4,), the shape of logits (4, 3) without the class axis 1 (size "
        "3), or the logits' whole shape, but have shape (4, 5).",
        "  logits: numpy float32[4, 3]   labels: numpy bool[4, 5]   axis: 1 (inferred)",
        "  perhaps: another number of classes in the labels "
        "(output_units_differ_from_label_width): logits have 3 classes on axis 1, label rows "
        "have 5 columns there.",
        "    elsewhere: give the last layer 5 output units (num_classes=5), if the labels have "
        "all classes",
        "    elsewhere: build the labels with num_classes=3",
        call=(scores(4, 3), ids(4, 5) > 0),
    ),
    "wrong_batch": case(
        ShapeError,
        "labels must have shape (4, 5), the shape of logits (4, 5, 3) without the class axis 2 "
        "(size 3), or the logits' whole shape, but have shape (6, 7).",
        "  logits: numpy float32[4, 5, 3]   labels: numpy int64[6, 7]   axis: 2 (given)",
        "  perhaps: labels of another shape (labels_unrelated): labels (6, 7) and the wanted "
        "(4, 5) disagree on axis 0 (4 in logits, 6 in labels), axis 1 (5 in logits, 7 in "
        "labels).",
        "    elsewhere: give one class id for each example of the batch (4, 5), or rows (4, 5, 3)",
        call=(scores(4, 5, 3), ids(6, 7)),
        axis=2,
    ),
    "axes_of_size_one": case(
        ShapeError,
        "labels must have shape (4,), the shape of logits (4, 3) without the class axis 1 (size "
        "3), or the logits' whole shape, but have shape (1, 4).",
        "  logits: numpy float32[4, 3]   labels: numpy int64[1, 4]   axis: 1 (inferred)",
        "  perhaps: labels with an axis of size 1 too many (labels_trailing_singleton): labels "
        "(1, 4) have an axis of size 1 that is not the class axis; wanted is (4,).",
        "    fix: squeeze it (reshape): labels = np.squeeze(labels, axis=0)",
        "  perhaps: logits without a batch axis (logits_missing_batch_axis): logits (4, 3) have "
        "no batch axis, labels have one.",
        "    fix: add the batch axis of one example: logits = np.expand_dims(logits, axis=0)",
        call=(scores(4, 3), ids(1, 4)),
    ),
    "dense_axes_of_size_one": case(
        ShapeError,
        "labels must have shape (4,), the shape of logits (4, 3) without the class axis 1 (size "
        "3), or the logits' whole shape, but have shape (4, 3, 1).",
        "  logits: numpy float32[4, 3]   labels: numpy float32[4, 3, 1]   axis: 1 (inferred)",
        "  perhaps: labels with an axis of size 1 too many (labels_trailing_singleton): labels "
        "(4, 3, 1) have a trailing axis of size 1 that is not the class axis; wanted is (4, 3).",
        "    fix: squeeze it (reshape): labels = np.squeeze(labels, axis=2)",
        call=(scores(4, 3), scores(4, 3, 1)),
    ),
    "one_row_of_probabilities": case(
        ShapeError,
        "labels must have shape (4,), the shape of logits (4, 3) without the class axis 1 (size "
        "3), or the logits' whole shape, but have shape (3,).",
        "  logits: numpy float32[4, 3]   labels: numpy float32[3]   axis: 1 (inferred)",
        "  perhaps: labels without a batch axis (labels_missing_batch_axis): labels (3,) have "
        "no batch axis: one label for all 4 examples?",
        "    elsewhere: give one for each example, with a batch axis: (4, 3)",
        "    if all examples share it, repeat it: labels = np.broadcast_to(labels, (4, 3))",
        "  perhaps: batches of two sizes (last_batch_smaller): logits have 4 examples on axis "
        "0, labels 3: in the last batch, something has a fixed batch size.",
        "    elsewhere: give inputs and labels of the same length (3 or 4; leave the last, "
        "smaller one out)",
        "  perhaps: classes on another axis (class_axis_not_where_expected): labels (3,) fit if "
        "the classes are on axis 0 (size 4) of the logits.",
        "    if the classes are on axis 0, say so, or transpose: axis=0; labels = "
        "np.asarray(labels, np.int64)",
        call=(scores(4, 3), scores(3)),
    ),
    "one_class_id": case(
        ShapeError,
        "labels must have shape (4,), the shape of logits (4, 3) without the class axis 1 (size "
        "3), or the logits' whole shape, but have shape ().",
        "  logits: numpy float32[4, 3]   labels: python int64[]   axis: 1 (inferred)",
        "  perhaps: one label for a whole batch (labels_scalar_python_list): labels are one "
        "scalar () for a batch of (4,) predictions.",
        "    elsewhere: give an array of shape (4,); a Python list may be taken apart: pass a "
        "NumPy array",
        call=(scores(4, 3), 1),
    ),
    "floating_class_ids": case(
        DTypeError,
        "labels of shape (4,), without the class axis 1 (size 3), must be integer class ids, "
        "but are float32.",
        "  logits: numpy float32[4, 3]   labels: numpy float32[4]   axis: 1 (inferred)",
        "  perhaps: class ids of a floating type (float_labels): labels (4,) have one float32 "
        "number per example: class ids need an integer dtype.",
        "    fix: cast them to integers: labels = np.asarray(labels, np.int64)",
        "  perhaps: class ids where rows were expected (integer_labels_given_to_dense_loss): "
        "labels (4,) hold one number for each example, not a row of 3 probabilities: class ids "
        "are integers, and need no one-hot here.",
        "    fix: make integer class ids of them: labels = np.asarray(labels, np.int64)",
        "    fix: make one-hot rows of them: labels = np.eye(3, "
        "dtype=np.float32)[np.asarray(labels, np.int64)]",
        "  not: do not cast probabilities or real-valued targets to integers.",
        call=(scores(4, 3), scores(4)),
    ),
    "complex_labels": case(
        DTypeError,
        "labels must be integers (class ids), booleans (one-hot) or floating (probabilities),"
        " but are complex128.",
        "  logits: numpy float32[4, 3]   labels: numpy complex128[4]   axis: 1 (inferred)",
        call=(scores(4, 3), np.zeros(4, complex)),
    ),
    "class_weight_shape": case(
        ShapeError,
        "class_weight must have shape (3,), one weight per class of axis 1 (size 3), but has "
        "shape (4,).",
        "  logits: numpy float32[2, 3]   labels: numpy int64[2]   axis: 1 (inferred)",
        "  cause: weights of another shape (weight_shape_wrong): class_weight has shape (4,), "
        "for 3 classes.",
        "    elsewhere: give one weight per class: shape (3,)",
        call=(scores(2, 3), ids(2)),
        class_weight=np.ones(4),
    ),
    "sample_weight_shape": case(
        ShapeError,
        "sample_weight must have shape (2, 4) or (2,), one weight per example, but has shape (4,).",
        "  logits: numpy float32[2, 3, 4]   labels: numpy int64[2, 4]   axis: 1 (inferred)",
        "  cause: weights of another shape (weight_shape_wrong): sample_weight has shape (4,), "
        "for the batch (2, 4).",
        "    elsewhere: give one weight per example: shape (2, 4)",
        call=(scores(2, 3, 4), ids(2, 4)),
        sample_weight=np.ones(4),
    ),
    "sample_weight_shape_of_one_axis": case(
        ShapeError,
        "sample_weight must have shape (2,), one weight per example, but has shape ().",
        "  logits: numpy float32[2, 3]   labels: numpy int64[2]   axis: 1 (inferred)",
        "  cause: weights of another shape (weight_shape_wrong): sample_weight has shape (), "
        "for the batch (2,).",
        "    elsewhere: give one weight per example: shape (2,)",
        call=(scores(2, 3), ids(2)),
        sample_weight=2.0,
    ),
    "class_weight_dtype": case(
        DTypeError,
        "class_weight must have a real number dtype, but is python bool[3].",
        "  logits: numpy float32[2, 3]   labels: numpy int64[2]   axis: 1 (inferred)",
        call=(scores(2, 3), ids(2)),
        class_weight=[True, False, True],
    ),
    "sample_weight_dtype": case(
        DTypeError,
        "sample_weight must have a real or boolean dtype, but is numpy complex128[2].",
        "  logits: numpy float32[2, 3]   labels: numpy int64[2]   axis: 1 (inferred)",
        call=(scores(2, 3), ids(2)),
        sample_weight=np.ones(2, complex),
    ),
}


def check(case: Case) -> None:
    """The exact text, of the exact type, and a first line that is one whole sentence."""
    with pytest.raises(case.error) as caught:
        cross_entropy(*case.arguments, **case.options)
    assert type(caught.value) is case.error
    assert str(caught.value) == case.text
    first, *others = case.text.splitlines()
    assert first.endswith(".")
    assert re.match(
        r"(the class axis|(dense )?labels|logits|axis|[a-z]+_[a-z]+|normalizer) ", first
    )
    assert all(line.startswith("  ") for line in others)
    assert len(others) < 12


@pytest.mark.parametrize("name", SHAPES)
def test_message_of_a_mistake(name: str) -> None:
    """R25: the exact text: what was expected, what was passed, what it may be, what mends it."""
    check(SHAPES[name])


UNKNOWN = {
    "rank": (
        (None, (4,)),
        (
            "the class axis cannot be inferred from logits of unknown rank: pass axis=.\n"
            "  logits: numpy float32[...]   labels: numpy int64[4]   axis: not given\n"
            "  perhaps: sizes that are not known here (unknown_shape): sizes that are unknown here "
            "leave more than one reading.\n"
            "    if the classes are on axis -1, say so: axis=-1"
        ),
    ),
    "axis": (
        ((None, 3, None), None),
        (
            "the class axis is ambiguous: labels of shape (unknown rank) fit logits of shape "
            "(?, 3, "
            "?) with the classes on axis 1 (size 3) and on axis 2 (size ?): pass axis=1 (channels "
            "first) or axis=-1 (channels last).\n"
            "  logits: numpy float32[?, 3, ?]   labels: numpy int64[...]   axis: not given\n"
            "  perhaps: sizes that are not known here (unknown_shape): sizes that are unknown here "
            "leave more than one reading.\n"
            "    if the classes are on axis 1, say so: axis=1\n"
            "    if the classes are on axis -1, say so: axis=-1"
        ),
    ),
    "kind": (
        ((None, 3), (None, None)),
        (
            "integer labels of shape (?, ?) can be class ids or one-hot rows, since their size "
            "along the class axis 1 is unknown.\n"
            "  logits: numpy float32[?, 3]   labels: numpy int64[?, ?]   axis: 1 (inferred)\n"
            "  perhaps: sizes that are not known here (unknown_shape): sizes that are unknown here "
            "leave more than one reading.\n"
            "    if labels are one-hot rows, cast them to floating: labels = np.asarray(labels, "
            "np.float32)\n"
            "  perhaps: labels of another shape (labels_unrelated): labels (?, ?) are neither one "
            "per example nor rows of the logits.\n"
            "    elsewhere: give one class id for each example of the batch (?,), or rows (?, 3)"
        ),
    ),
}


@pytest.mark.parametrize(("shapes", "text"), UNKNOWN.values(), ids=UNKNOWN)
def test_message_of_unknown_shapes(shapes: Any, text: str) -> None:
    """R3: unknown sizes are question marks."""
    assert text_of(*shapes) == text


@pytest.mark.parametrize(
    ("logits", "labels", "sentence"),
    [
        ((None, 3), (None, 4), "logits have 3 classes on axis 1, label rows have 4 columns there."),
        ((N, 3), (M, 4), "logits have 3 classes on axis 1, label rows have 4 columns there."),
        ((None, 4, 3), (None, 5), "labels are one step longer than logits (5 against 4)"),
    ],
)
def test_unknown_sizes_are_not_blamed(logits: Any, labels: Any, sentence: str) -> None:
    """R25: a size that is unknown may fit, so the readings are about those that cannot."""
    assert sentence in text_of(logits, labels, axis=-1)


def text_of(*shapes: Any, **options: Any) -> str:
    """All that is said of a call by its shapes."""
    call = problem(*shapes, **options)
    with pytest.raises(LossInputError) as caught:
        make_plan(call)
    return str(diagnose(call, caught.value))
