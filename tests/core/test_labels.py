"""Label kinds, label dtypes, and labels that are no class ids."""

import warnings
from typing import Literal

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate, assert_everything
from tests.helpers.backends import BACKENDS, INTEGERS, Backend
from tests.helpers.problems import Problem, sample
from tests.helpers.reference import evaluate
from tests.helpers.variants import warned_of_one_class
from unified_loss import (
    DTypeError,
    LabelError,
    LossInputWarning,
    ShapeError,
    cross_entropy,
)

never_computed = pytest.mark.skip_backend("dask", reason="a lazy graph is never computed")


def problem_with(
    labels: object, dtype: str = "int32", classes: int = 4, **options: object
) -> Problem:
    """A problem with these labels and simple logits."""
    array = np.array(labels, dtype)
    logits = np.arange(array.size * classes, dtype=np.float32).reshape(-1, classes) % 5
    return Problem(logits, array, 1, -1, **options)


@pytest.mark.parametrize("integer", INTEGERS)
@pytest.mark.parametrize("kind", ["index", "kept", "dense"])
def test_every_integer_dtype_works(
    backend: Backend, mode: str, kind: str, integer: str, rng: Generator
) -> None:
    """R4: labels of any integer dtype, signed or not, as ids or as one-hot rows."""
    problem = sample(rng, "index" if kind == "dense" else kind, reduction="none")
    if kind == "dense":
        problem = problem.one_hot()
    problem = problem.but(labels=problem.labels.astype(integer))
    assert_accurate(backend.loss(problem, "float32", mode), problem, "float32")


def test_boolean_rows_are_one_hot(backend: Backend, mode: str, rng: Generator) -> None:
    """R4: boolean labels of the logits' shape are one-hot or multi-hot rows."""
    problem = sample(rng, "dense", reduction="none")
    problem = problem.but(labels=problem.labels > 0.5)
    assert_accurate(backend.loss(problem, "float32", mode), problem, "float32")


@pytest.mark.parametrize("given", ["float32", "bool"])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_ids_must_be_integers(backend: Backend, shape: tuple[int, ...], given: str) -> None:
    """R4, R5: floating or boolean labels of the batch shape are refused, never guessed at."""
    problem = problem_with(np.zeros(shape), given)
    with pytest.raises(DTypeError if shape == (3,) else ShapeError):
        backend.loss(problem, "float32")


def test_one_column_means_ids_when_integer(backend: Backend, mode: str) -> None:
    """R4, R9: with C = 1, integers of shape (N, 1) are class ids, and floats are dense."""
    logits = np.array([[3], [5]], np.float32)
    ids = Problem(logits, np.array([[0], [0]]), 1, -1, reduction="none", z_loss=1.0)
    rows = ids.but(labels=np.array([[0], [1]], np.float32))
    with warned_of_one_class(mode):
        np.testing.assert_array_equal(backend.loss(ids, "float32", mode), [9, 25])
    with warned_of_one_class(mode):
        np.testing.assert_array_equal(backend.loss(rows, "float32", mode), [0, 25])


BAD = (4, -1, -4, 2**31 - 1, -(2**31), -101)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("kind", ["index", "kept"])
def test_bad_label_that_can_be_read_raises(
    backend: Backend, kind: str, place: int, bad: int, rng: Generator
) -> None:
    """R17: an error with how many, the first position, the smallest and the largest value."""
    if not backend.reads_labels:
        pytest.skip("labels are not read")
    problem = sample(rng, kind, batch=(3,), classes=4)
    problem.labels[place] = bad
    with pytest.raises(LabelError) as caught:
        backend.loss(problem, "float32")
    assert caught.value.count == 1
    assert caught.value.first == (place,)
    low, high = problem.labels.min(), problem.labels.max()
    assert (caught.value.smallest, caught.value.largest) == (low, high)


@pytest.mark.parametrize("kind", ["index", "kept"])
def test_bad_label_that_cannot_be_read_poisons_its_row_only(
    backend: Backend, mode: str, kind: str, rng: Generator
) -> None:
    """R17: loss and gradient row are NaN, and the rows beside it as if nothing were wrong."""
    if not backend.poisons(mode):
        pytest.skip(f"{backend.name} reads labels when {mode}")
    problem = sample(rng, kind, batch=(3 * len(BAD),), classes=4, reduction="none")
    problem.labels.reshape(-1)[1::3] = BAD
    assert np.isnan(evaluate(problem).loss).tolist() == [False, True, False] * len(BAD)
    assert_everything(backend, mode, problem, "float32")


@pytest.mark.parametrize(
    "options",
    [
        {"class_weight": True},
        {"class_weight": True, "sample_weight": "full", "label_smoothing": 0.25, "z_loss": 0.5},
        {"sample_weight": "mask", "label_smoothing": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_unread_bad_label_poisons_under_every_option(
    backend: Backend, mode: str, reduction: str, options: dict[str, object], rng: Generator
) -> None:
    """R12, R16, R17: with `check=False` a bad label is NaN, counts with mass s, or is dropped."""
    problem = sample(rng, batch=(2, 3), classes=4, reduction=reduction, **options)
    problem.labels[0, 1], problem.labels[1, 2] = 4, -1
    loss, slope = backend.closed_form(problem, "float32", mode, check=False)
    assert_accurate(loss, problem, "float32")
    assert_accurate(slope, problem, "float32", "gradient")
    if backend.has_autodiff:
        (slope,) = backend.gradients(problem, "float32", mode, check=False)
        assert_accurate(slope, problem, "float32", "gradient")


def test_bad_label_of_a_dropped_example_is_fine(backend: Backend, mode: str) -> None:
    """R16, R17: a sample weight of 0 or False drops an example whatever its label holds."""
    for weight in (np.array([1, 0, 1], np.float32), np.array([True, False, True])):
        problem = problem_with([1, 99, 2], sample_weight=weight)
        assert_accurate(backend.loss(problem, "float32", mode), problem, "float32")


def test_zero_class_weight_does_not_excuse_a_bad_label(backend: Backend) -> None:
    """R16, R17: w_y of a label out of range does not exist, so the label is still an error."""
    problem = problem_with([4, -1, 1], class_weight=np.array([0, 1, 1, 0], np.float32))
    if backend.reads_labels:
        with pytest.raises(LabelError):
            backend.loss(problem, "float32")
    else:
        assert np.isnan(backend.loss(problem, "float32"))


def test_void_pixels_of_uint8_are_ignored(backend: Backend, mode: str) -> None:
    """R6: `uint8` works with `ignore_index=255`."""
    problem = problem_with([255, 1, 2], "uint8", ignore_index=255)
    assert_accurate(backend.loss(problem, "float32", mode), problem, "float32")


def test_uint8_ignores_nothing_with_minus_100(backend: Backend, mode: str) -> None:
    """R6: −100 is no `uint8`; its wrapped twin 156 is a class id like any other."""
    problem = problem_with([156, 1], "uint8", classes=200)
    assert_accurate(backend.loss(problem, "float32", mode), problem, "float32")


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_ignore_index_may_be_a_class(backend: Backend, mode: str, reduction: str) -> None:
    """R16: any integer can be ignored, a class id too; None ignores nothing."""
    for ignored in (1, 3, None):
        problem = problem_with([1, 3, 2], ignore_index=ignored, reduction=reduction)
        assert_accurate(backend.loss(problem, "float32", mode), problem, "float32")


@pytest.mark.parametrize("ignored", [2**40, -(2**70), 300])
def test_unreachable_ignore_index_ignores_nothing(
    backend: Backend, mode: str, ignored: int
) -> None:
    """R6: an `ignore_index` outside the labels' dtype is compared by value, and matches nothing."""
    problem = problem_with([0, 1, 2], "int8", ignore_index=ignored)
    assert_accurate(backend.loss(problem, "float32", mode), problem, "float32")


HUGE = {
    "uint32 2**31": (2**31, "uint32"),
    "uint32 -100": (2**32 - 100, "uint32"),
    "uint64 -100": (2**64 - 100, "uint64"),
    "uint64 2**32+1": (2**32 + 1, "uint64"),
    "int64 2**32+1": (2**32 + 1, "int64"),
    "int64 2**32-100": (2**32 - 100, "int64"),
    "int64 -2**32": (-(2**32), "int64"),
}


@pytest.mark.parametrize(("label", "integer"), HUGE.values(), ids=HUGE)
def test_huge_labels_never_wrap(backend: Backend, label: int, integer: str) -> None:
    """R6, R17: a huge label is out of range, and never wraps into a class or `ignore_index`."""
    problem = problem_with([label, 1, 0], integer, reduction="none")
    on_host = isinstance(backend.place(problem, "float32")["labels"], np.ndarray)
    if backend.reads_labels or on_host:
        with pytest.raises(LabelError) as caught:
            backend.loss(problem, "float32")
        assert caught.value.first == (0,)
    loss, slope = backend.closed_form(problem, "float32", check=False)
    assert_accurate(loss, problem, "float32")
    assert_accurate(slope, problem, "float32", "gradient")


@pytest.mark.parametrize("integer", ["uint32", "int64", "uint64"])
def test_host_labels_are_always_read(backend: Backend, integer: str) -> None:
    """R6, R17: NumPy labels and Python lists are checked whatever the logits are."""
    logits = backend.asarray(np.zeros((2, 4), np.float32))
    for labels in (np.array([0, 2**31 + 1], integer), [0, 2**31 + 1], [0, 2**70], [-1, 0]):
        with pytest.raises(LabelError):
            cross_entropy(logits, labels)


def test_class_ids_never_pass_through_a_float(backend: Backend, mode: str) -> None:
    """R6: 257 in a bfloat16 model is class 257, and 2049 in a float16 model class 2049."""
    dtype = next(name for name in ("bfloat16", "float16", "float32") if name in backend.floats)
    logits = np.zeros((2, 3000), np.float32)
    logits[0, 257], logits[1, 2049] = 8, 8
    problem = Problem(logits, np.array([257, 2049], np.int32), 1, -1, reduction="none")
    for ignored in (-100, 256):
        ignoring = problem.but(ignore_index=ignored)
        loss = backend.loss(ignoring, dtype, mode)
        assert_accurate(loss, ignoring, dtype, backend=backend)


@never_computed
def test_check_true_reads_labels_everywhere(backend: Backend) -> None:
    """R17: `check=True` looks even where that costs, as with MLX."""
    with pytest.raises(LabelError):
        backend.loss(problem_with([0, 4, 1]), "float32", check=True)


def test_check_true_computes_no_dask_graph(installed: list[Backend]) -> None:
    """R17, R23: a lazy graph is never computed, so `check=True` gives NaN there."""
    if BACKENDS["dask"] not in installed:
        pytest.skip("dask is not under test")
    problem = problem_with([0, 4, 1], reduction="none")
    loss = BACKENDS["dask"].loss(problem, "float32", check=True)
    assert np.isnan(loss).tolist() == [False, True, False]


def test_check_false_never_looks(backend: Backend, mode: str) -> None:
    """R17: `check=False` gives NaN for a bad label, and the true numbers beside it."""
    problem = problem_with([0, 4, 1], reduction="none")
    loss = backend.loss(problem, "float32", mode, check=False)
    assert np.isnan(loss).tolist() == [False, True, False]
    assert_accurate(loss, problem, "float32")


@never_computed
@pytest.mark.parametrize("bad", [-0.5, np.nan, np.inf])
def test_check_true_refuses_rows_that_are_no_probabilities(backend: Backend, bad: float) -> None:
    """R17: under `check=True` dense entries must be finite and not negative."""
    rows = np.array([[0.5, 0.5, 0], [0.5, bad, 0.5]], np.float32)
    problem = Problem(np.zeros((2, 3), np.float32), rows, 1, -1)
    with pytest.raises(LabelError):
        backend.loss(problem, "float32", check=True)


@never_computed
def test_check_true_warns_of_rows_that_do_not_sum_to_one(backend: Backend) -> None:
    """R17: under `check=True` such rows are legal and suspicious; rounding alone is neither."""
    rows = np.array([[0.5, 0.5, 0], [0.5, 0, 0.25]], np.float32)
    problem = Problem(np.zeros((2, 3), np.float32), rows, 1, -1)
    with pytest.warns(LossInputWarning):
        backend.loss(problem, "float32", check=True)
    fine = problem.but(labels=np.full((2, 3), 1 / 3, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error", LossInputWarning)
        backend.loss(fine, "float32", check=True)
        backend.loss(problem, "float32", check="auto")


LARGEST = 1e308  # of each dtype something like its own


@pytest.mark.parametrize("check", ["auto", True])
@pytest.mark.parametrize("garbage", [[np.nan], [np.inf, np.nan, -np.inf], [np.inf], [LARGEST]])
def test_a_look_says_nothing_but_what_it_found(
    backend: Backend, dtype: str, garbage: list[float], check: Literal["auto", True]
) -> None:
    """R17: NumPy does not warn of what is not finite, nor is that taken for probabilities."""
    for classes in (3, 17):
        logits = np.resize(garbage, (5, classes))
        logits[logits == LARGEST] = {"float16": 6e4, "float64": LARGEST}.get(dtype, 3e38)
        logits[::2, 0] = 1
        labels = np.where(
            np.arange(classes) == 0, -1.0, np.abs(np.nan_to_num(logits, posinf=3, neginf=3))
        )
        weight = np.zeros(5)  # R16: nothing of it counts
        for labels_now in (labels, labels.clip(0, 1), np.zeros(5, np.int64)):
            problem = Problem(logits, labels_now, 1, -1, sample_weight=weight)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", LossInputWarning)
                assert backend.loss(problem, dtype, check=check) == 0
