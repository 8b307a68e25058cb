"""What must be refused: shapes that would broadcast, dtypes, libraries and options."""

import itertools
from typing import Any

import numpy as np
import pytest

import unified_loss
from tests.helpers.backends import Backend
from tests.helpers.problems import without
from unified_loss import (
    AmbiguousAxisError,
    BackendError,
    DTypeError,
    LossInputError,
    OptionError,
    ShapeError,
    cross_entropy,
)


def broadcastable_wrong_shapes(
    logits: tuple[int, ...], axis: int, *, integer: bool
) -> list[tuple[int, ...]]:
    """Every shape that broadcasts with the logits or their batch, and is not one that R4 names."""
    batch = without(logits, axis)
    right = {logits}
    if integer:
        right |= {batch, (*logits[:axis], 1, *logits[axis + 1 :])}
    shapes: set[tuple[int, ...]] = set()
    for full in (logits, batch):
        for start in range(len(full) + 1):
            tail = full[start:]
            choices = [{size, 1} for size in tail]
            shapes.update(itertools.product(*choices))
    shapes |= {(1, *logits), (1, *batch), (*batch, 1), (*logits, 1)}
    return sorted(shapes - right)


@pytest.mark.parametrize(
    ("logits", "axis"),
    [((4, 3), 1), ((3, 3), 1), ((4, 3), 0), ((1, 3), 1), ((3,), 0), ((2, 3, 4), 1), ((3, 3, 3), 2)],
)
def test_labels_never_broadcast(backend: Backend, logits: tuple[int, ...], axis: int) -> None:
    """R5: every shape that would broadcast and is none of R4's is refused, square batches too."""
    scores = backend.asarray(np.zeros(logits, np.float32))
    for dtype in ("int32", "float32"):
        for shape in broadcastable_wrong_shapes(logits, axis, integer=dtype == "int32"):
            is_batch_shape = shape == without(logits, axis)
            with pytest.raises(DTypeError if is_batch_shape else ShapeError) as caught:
                cross_entropy(scores, backend.asarray(np.zeros(shape, dtype)), axis=axis)
            if not is_batch_shape:
                assert caught.value.logits_shape == logits
                assert caught.value.labels_shape == shape


@pytest.mark.parametrize("given", ["int32", "float32"])
@pytest.mark.parametrize("shape", [(1, 3), (3,), (3, 1), (5,), (5, 1), (4, 4), (4, 3, 1), ()])
def test_labels_never_broadcast_without_an_axis(
    backend: Backend, shape: tuple[int, ...], given: str
) -> None:
    """R5: logits `(4, 3)` without `axis` take `(4,)`, `(4, 1)` and `(4, 3)` alone."""
    logits = backend.asarray(np.zeros((4, 3), np.float32))
    with pytest.raises(ShapeError):
        cross_entropy(logits, backend.asarray(np.zeros(shape, given)))


@pytest.mark.parametrize("given", ["int32", "bool", "uint8"])
def test_one_score_for_each_example_is_refused(backend: Backend, given: str) -> None:
    """R4: integers beside 1-D logits need ``axis=0``; the error has both readings."""
    scores = backend.asarray(np.array([0.5, -1, 2], np.float32))
    labels = backend.asarray(np.array([0, 1, 0], given))
    with pytest.raises(ShapeError) as caught:
        cross_entropy(scores, labels)
    tags = [reading.tag for reading in caught.value.readings]
    assert tags[:2] == ["scores_of_a_binary_loss", "one_example_with_many_labels"]
    assert "binary" in str(caught.value)
    row = cross_entropy(scores, labels, axis=0)
    one = cross_entropy(scores, np.array(1))
    assert backend.to_numpy(row) == pytest.approx(backend.to_numpy(one))
    floating = backend.asarray(np.array([0, 1, 0], np.float32))
    assert backend.to_numpy(cross_entropy(scores, floating)) == backend.to_numpy(row)


def test_the_scores_of_scikit_learn_are_refused() -> None:
    """R4: `decision_function` of a problem of two classes gives one score for each example."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x = np.linspace(-1, 1, 20)[:, None]
    y = (x[:, 0] > 0).astype(int)
    scores = linear_model.LogisticRegression().fit(x, y).decision_function(x)
    with pytest.raises(ShapeError, match="one score for each example: a binary loss"):
        cross_entropy(scores, y)


@pytest.mark.parametrize("given", ["int32", "int64", "bool", "complex64"])
def test_logits_must_be_floating(backend: Backend, given: str) -> None:
    """R1: integer, boolean and complex logits are a `DTypeError`."""
    with pytest.raises(DTypeError):
        cross_entropy(backend.asarray(np.zeros((2, 3), given)), np.array([0, 1]))


def test_swapped_arguments_are_named(backend: Backend) -> None:
    """R1: integers first, floats with one more axis second: the error says they look swapped."""
    labels, logits = np.array([0, 1], np.int32), np.zeros((2, 3), np.float32)
    with pytest.raises(DTypeError, match="swapped"):
        cross_entropy(backend.asarray(labels), backend.asarray(logits))


@pytest.mark.parametrize("name", ["class_weight", "sample_weight"])
def test_complex_labels_and_weights_are_refused(backend: Backend, name: str) -> None:
    """R4, R7: only real dtypes; a boolean class weight is no weight."""
    logits, labels = backend.asarray(np.zeros((3, 3), np.float32)), np.array([0, 1, 2])
    bad = [np.zeros(3, np.complex64)] + [np.ones(3, bool)] * (name == "class_weight")
    for values in bad:
        with pytest.raises(DTypeError):
            cross_entropy(logits, labels, **{name: backend.asarray(values)})
    with pytest.raises(DTypeError):
        cross_entropy(logits, backend.asarray(np.zeros((3, 3), np.complex64)))


@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (1, 3), (2,)])
def test_class_weight_has_one_weight_per_class(backend: Backend, shape: tuple[int, ...]) -> None:
    """R7: `(C,)`, and no other shape."""
    logits, labels = backend.asarray(np.zeros((2, 4, 3), np.float32)), np.zeros((2, 4), int)
    with pytest.raises(ShapeError):
        cross_entropy(logits, labels, class_weight=backend.asarray(np.ones(shape, np.float32)))


@pytest.mark.parametrize("given", ["float32", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 1), (1, 4), (2, 4, 1), (2, 4, 3), (3,)])
def test_sample_weight_has_one_weight_per_example(
    backend: Backend, shape: tuple[int, ...], given: str
) -> None:
    """R7: B, or `(N,)` for its first axis, and no other shape."""
    logits, labels = backend.asarray(np.zeros((2, 4, 3), np.float32)), np.zeros((2, 4), int)
    with pytest.raises(ShapeError):
        cross_entropy(logits, labels, sample_weight=backend.asarray(np.ones(shape, given)))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        ((2, 5, 5), (2, 5)),
        ((2, 3, 3, 3), (2, 3, 3)),
        ((2, 3, 4), (2, 3, 4)),
        ((2, 5, 5), (2, 5, 5)),
    ],
)
def test_two_readings_need_an_axis(
    backend: Backend, logits: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    """R3: where both candidates fit, or labels are shaped like the logits, `axis` must be given."""
    scores = backend.asarray(np.zeros(logits, np.float32))
    ids = backend.asarray(np.zeros(labels, np.int32))
    with pytest.raises(AmbiguousAxisError, match="axis="):
        cross_entropy(scores, ids)
    assert backend.to_numpy(cross_entropy(scores, ids, axis=1)) >= 0
    assert backend.to_numpy(cross_entropy(scores, ids, axis=-1)) >= 0


@pytest.mark.parametrize(("axis", "error"), [
    (2, ShapeError), (-3, ShapeError), (1.0, OptionError), ("last", OptionError),
    ((0, 1), OptionError), (np.array([1]), OptionError),
])  # fmt: skip
def test_axis_is_one_integer_in_range(backend: Backend, axis: Any, error: type) -> None:
    """R3: a non-integer axis is an `OptionError`, one out of range a `ShapeError`."""
    with pytest.raises(error):
        cross_entropy(backend.asarray(np.zeros((2, 3), np.float32)), [0, 1], axis=axis)


def test_explicit_axis_is_obeyed(backend: Backend) -> None:
    """R3: an explicit axis is never second-guessed, though another would fit."""
    logits = backend.asarray(np.zeros((2, 3, 5), np.float32))
    with pytest.raises(ShapeError):
        cross_entropy(logits, backend.asarray(np.zeros((2, 5), np.int32)), axis=-1)


BAD_OPTIONS = [
    ("label_smoothing", -0.1), ("label_smoothing", 1.5), ("label_smoothing", float("nan")),
    ("label_smoothing", "0.1"), ("label_smoothing", None), ("label_smoothing", np.array([0.1])),
    ("z_loss", -1), ("z_loss", float("inf")), ("z_loss", float("nan")), ("z_loss", np.zeros(1)),
    ("reduction", "average"), ("reduction", None), ("reduction", 1),
    ("ignore_index", 1.0), ("ignore_index", "pad"), ("ignore_index", np.array([1])),
    ("normalizer", 0), ("normalizer", -1.0), ("normalizer", float("nan")), ("normalizer", "N"),
    ("check", "always"), ("check", None), ("check", 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_OPTIONS)
def test_options_outside_their_range_are_refused(backend: Backend, name: str, value: Any) -> None:
    """R8: an `OptionError` names the option."""
    with pytest.raises(OptionError, match=name):
        cross_entropy(backend.asarray(np.zeros((2, 3), np.float32)), [0, 1], **{name: value})


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_normalizer_goes_with_mean_alone(backend: Backend, reduction: str) -> None:
    """R8: a normalizer with another reduction is an `OptionError`."""
    with pytest.raises(OptionError, match="normalizer"):
        cross_entropy(
            backend.asarray(np.zeros((2, 3), np.float32)), [0, 1], reduction=reduction, normalizer=2
        )


def test_ignore_index_goes_with_index_labels_alone(backend: Backend) -> None:
    """R8: with dense labels only the default and None are accepted."""
    logits = backend.asarray(np.zeros((2, 3), np.float32))
    rows = backend.asarray(np.eye(3, dtype=np.float32)[:2])
    for value in (-100, None):
        cross_entropy(logits, rows, ignore_index=value)
    with pytest.raises(OptionError, match="ignore_index"):
        cross_entropy(logits, rows, ignore_index=-1)


def test_number_like_options_are_numbers(backend: Backend) -> None:
    """R8: whatever has `__index__` or `__float__` is a number, NumPy's scalars among them."""
    logits = backend.asarray(np.array([[1, 2, 3], [3, 2, 1]], np.float32))
    plain = cross_entropy(
        logits, [0, 1], axis=1, label_smoothing=0.25, z_loss=1.0, ignore_index=1, normalizer=2.0
    )
    numpy_like = cross_entropy(
        logits, [0, 1], axis=np.int64(1), label_smoothing=np.float32(0.25), z_loss=np.int8(1),
        ignore_index=np.int64(1), normalizer=np.float64(2),
    )  # fmt: skip
    assert backend.to_numpy(plain) == backend.to_numpy(numpy_like)


def test_host_data_is_moved_to_the_logits(backend: Backend) -> None:
    """R2, R21: lists, numbers and NumPy arrays come to the logits' library."""
    logits = backend.asarray(np.array([[1, 2, 3], [3, 2, 1]], np.float32))
    weights = {"class_weight": [1, 2, 3], "sample_weight": (0.5, 2)}
    from_lists = cross_entropy(logits, [0, 2], **weights)
    from_numpy = cross_entropy(
        logits, np.array([0, 2]), **{name: np.array(value) for name, value in weights.items()}
    )
    assert backend.owns(from_lists)
    assert backend.to_numpy(from_lists) == backend.to_numpy(from_numpy)


@pytest.mark.parametrize("name", ["labels", "class_weight", "sample_weight", "normalizer"])
def test_arrays_of_a_third_library_are_refused(
    backend: Backend, installed: list[Backend], name: str
) -> None:
    """R2: they are a `BackendError` that names both libraries."""
    arrays: dict[str, Any] = {
        "labels": np.zeros(3, np.int32),
        "class_weight": np.ones(3, np.float32),
        "sample_weight": np.ones(3, np.float32),
        "normalizer": np.array(2, np.float32),
    }
    logits = backend.asarray(np.zeros((3, 3), np.float32))
    for other in installed:
        if other.name in {backend.name, "numpy"}:
            continue
        foreign = arrays | {name: other.asarray(arrays[name])}
        with pytest.raises(BackendError) as caught:
            cross_entropy(logits, **foreign)
        for library in (backend, other):
            assert library.name in str(caught.value)


@pytest.mark.parametrize(
    "logits", [[[0.0, 1.0]], 1.0, None, "scores", object(), np.ma.masked_array([[0.0, 1.0]])]
)
def test_what_is_no_array_is_refused_as_logits(logits: Any) -> None:
    """R2: logits of no known library, or masked ones, are a `BackendError`."""
    with pytest.raises(BackendError):
        cross_entropy(logits, [0])


def test_masked_and_nested_labels_are_never_stripped() -> None:
    """R2: masked arrays, and lists of unequal lengths, are refused."""
    logits = np.zeros((2, 3), np.float32)
    for labels in (np.ma.masked_array([0, 1], [True, False]), [[0], [1, 2]]):
        with pytest.raises(BackendError):
            cross_entropy(logits, labels)


@pytest.mark.processor(reason="a tensor made in Python stays one")
def test_variables_and_parameters_are_accepted(backend: Backend) -> None:
    """R2: `nn.Parameter` and `tf.Variable` are arrays of their library."""
    values = np.array([[0, 1], [2, 0]], np.float32)
    if backend.name == "torch":
        logits = backend.library.xp.nn.Parameter(backend.asarray(values))
    elif backend.name == "tensorflow":
        logits = backend.library.xp.Variable(values)
    else:
        pytest.skip(f"{backend.name} has no trainable array type")
    plain = cross_entropy(backend.asarray(values), [0, 1])
    assert backend.to_numpy(cross_entropy(logits, [0, 1])) == backend.to_numpy(plain)


def test_sparse_and_ragged_arrays_are_refused(backend: Backend) -> None:
    """R2: they are a `BackendError`, never made dense on the quiet."""
    values = np.array([[0, 1], [2, 0]], np.float32)
    if backend.name == "torch":
        torch = backend.library.xp
        rows = [torch.zeros(2), torch.zeros(3)]
        logits = [
            torch.tensor(values).to_sparse(),
            torch.nested.nested_tensor(rows, layout=torch.jagged),
        ]
    elif backend.name == "tensorflow":
        logits = [
            backend.library.xp.sparse.from_dense(values),
            backend.library.xp.RaggedTensor.from_tensor(values),
        ]
    else:
        pytest.skip(f"{backend.name} has no sparse or ragged arrays")
    for each in logits:
        with pytest.raises(BackendError):
            cross_entropy(each, [0, 1])


def test_failed_call_leaves_nothing_behind(backend: Backend) -> None:
    """R25, R26: an error derives from `LossInputError`, and the next call is as if it never was."""
    logits = backend.asarray(np.zeros((2, 4), np.float32))
    for arguments in (([0, 1, 2],), ([0, 1.5],), ([[0, 1], [1, 0]],)):
        with pytest.raises(LossInputError):
            unified_loss.cross_entropy(logits, *arguments)
    assert np.isclose(backend.to_numpy(cross_entropy(logits, [0, 1])), np.log(4))
