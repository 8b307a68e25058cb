"""The way of a call: what is looked at, what is moved, and what a failure leaves behind."""

import warnings
from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import Backend
from unified_loss import (
    BackendError,
    DTypeError,
    LabelError,
    LossInputError,
    LossInputWarning,
    OptionError,
    ShapeError,
    SingleClassWarning,
    cross_entropy,
)
from unified_loss import _host as host
from unified_loss import _plan as plans

LOGITS = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
LABELS = np.array([0, 2])
LOSS = cross_entropy(LOGITS, LABELS)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """The one cache, empty."""
    fresh: dict[Any, Any] = {}
    monkeypatch.setattr(plans, "_SEEN", fresh)
    return fresh


def test_equal_calls_share_a_plan(cache: dict[Any, Any]) -> None:
    """R26: shapes, dtypes and options are judged once."""
    for _ in range(2):
        cross_entropy(LOGITS, LABELS)
        cross_entropy(LOGITS[:1], LABELS[:1])
    assert len(cache) == 2


def test_equal_options_of_other_types_have_their_own_plan(cache: dict[Any, Any]) -> None:
    """R8: True is no check of 1, whichever came first."""
    cross_entropy(LOGITS, LABELS, check=True)
    with pytest.raises(OptionError):
        cross_entropy(LOGITS, LABELS, check=1)
    with pytest.raises(OptionError):
        cross_entropy(LOGITS, LABELS, axis=1.0)
    cross_entropy(LOGITS, LABELS, axis=1)
    with pytest.raises(OptionError):
        cross_entropy(LOGITS, LABELS, axis=1.0)


def test_unhashable_calls_are_planned_too(cache: dict[Any, Any]) -> None:
    """R8: options that cannot be a key are judged like any other."""
    for value in ([0.1], {}, np.zeros(1), np.timedelta64(2)):
        with pytest.raises(OptionError, match="label_smoothing"):
            cross_entropy(LOGITS, LABELS, label_smoothing=value)
    assert not cache


def test_plan_cache_has_a_limit(cache: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """R26: ever new shapes do not fill the memory."""
    monkeypatch.setattr(plans, "_SIZE", 3)
    for size in range(1, 10):
        cross_entropy(np.zeros((size, 3)), np.zeros(size, int))
        assert len(cache) <= 3


def test_failed_call_leaves_nothing_behind(cache: dict[Any, Any]) -> None:
    """R26: no plan, no changed input, and the next call is as if it never was."""
    arguments = {"logits": LOGITS.copy(), "labels": np.array([0, 3])}
    for options in ({}, {"axis": 9}, {"class_weight": [1, 2]}, {"z_loss": -1}):
        with pytest.raises(LossInputError):
            cross_entropy(**arguments, **options)
    np.testing.assert_array_equal(arguments["logits"], LOGITS)
    assert not cache
    assert cross_entropy(LOGITS, LABELS) == LOSS
    with pytest.raises(ShapeError):
        cross_entropy(LOGITS, np.array([0]))
    assert len(cache) == 1


@pytest.mark.parametrize(
    "labels",
    [[0, 2], (0, 2), range(0, 4, 2), [np.int8(0), np.uint64(2)], [np.array(0), np.array(2)],
     np.array([0, 2], object), np.array([0, 2], "u8"), np.array([[0], [2]]), [[0], [2]],
     np.array([0, 9, 2])[::2]],
)  # fmt: skip
def test_host_data_may_be_of_any_kind(backend: Backend, labels: Any) -> None:
    """R2: numbers in sequences, of Python's or NumPy's making."""
    found = cross_entropy(backend.asarray(LOGITS), labels)
    assert backend.owns(found)
    assert float(backend.to_numpy(found)) == pytest.approx(float(LOSS), rel=1e-6)


def test_scalars_are_host_data(backend: Backend) -> None:
    """R2, R9: the label of an unbatched call, and its weight, may be numbers."""
    logits = backend.asarray(LOGITS[0])
    plain = backend.to_numpy(cross_entropy(logits, 2))
    for label in (np.int16(2), np.array(2), [2]):
        assert backend.to_numpy(cross_entropy(logits, label)) == plain
    total = cross_entropy(logits, 2, sample_weight=2, reduction="sum")
    assert float(backend.to_numpy(total)) == pytest.approx(2 * float(plain))


def test_empty_list_is_no_floats() -> None:
    """R9: it has no dtype of its own, so it can be class ids or weights."""
    assert cross_entropy(LOGITS[:0], []) == 0
    assert cross_entropy(LOGITS[:0], [], sample_weight=[]) == 0


@pytest.mark.parametrize("value", [2**31, 2**32 + 1, 2**63, 2**64, 2**70, -(2**70)])
def test_label_beyond_any_integer_dtype_is_out_of_range(backend: Backend, value: int) -> None:
    """R6, R17: compared by value, and never wrapped into a class."""
    with pytest.raises(LabelError) as caught:
        cross_entropy(backend.asarray(LOGITS), [value, 0])
    assert {caught.value.smallest, caught.value.largest} == {value, 0}
    poisoned = cross_entropy(backend.asarray(LOGITS), [value, 0], check=False, reduction="none")
    found = backend.to_numpy(poisoned)
    assert np.isnan(found[0])
    assert np.isfinite(found[1])


def test_ignore_index_beyond_any_integer_dtype_drops() -> None:
    """R6: a huge label that is `ignore_index` is dropped like any other."""
    loss = cross_entropy(LOGITS, [2**70, 2], ignore_index=2**70, reduction="none")
    assert loss[0] == 0
    assert loss[1] > 0


@pytest.mark.parametrize("labels", [[[0], [1, 2]], [[], [1]], [[[0, 1], [2]], [[1, 2], [0, 1]]]])
def test_ragged_lists_are_refused(labels: Any) -> None:
    """R2: nothing is padded on the quiet."""
    with pytest.raises(BackendError, match="rows have different lengths"):
        cross_entropy(LOGITS, labels)


@pytest.mark.parametrize("labels", [None, "02", {0, 2}, {0: 2}, iter([0, 2]), ["a", "b"], [None, 0],
                                    [[0], "x"], object()])  # fmt: skip
def test_other_objects_are_refused(labels: Any) -> None:
    """R2: they are no host data; names are told apart."""
    told = "labels (must be of the logits' library|cannot be read from a list: it holds text)"
    with pytest.raises(BackendError, match=told):
        cross_entropy(LOGITS, labels)


@pytest.mark.parametrize("labels", [[0.0, 2.0], [2**70, 0.5], np.array(["a", "b"]), [1j, 0],
                                    np.array([0, 1.5], object), np.array([None, 0])])  # fmt: skip
def test_host_labels_that_are_no_integers_are_refused(labels: Any) -> None:
    """R4: floats, texts and objects are no class ids."""
    with pytest.raises(DTypeError):
        cross_entropy(LOGITS, labels)


BAD = np.array([0, 3])


def test_check_says_whether_labels_are_looked_at(backend: Backend) -> None:
    """R17: True always looks, False never, "auto" where it is free."""
    logits, labels = backend.asarray(LOGITS), backend.asarray(BAD.astype(np.int32))
    for check in (True, "auto"):
        with pytest.raises(LabelError):
            cross_entropy(logits, BAD, check=check)  # host data
    looks = backend.name != "dask"  # where no values exist yet, True acts as False
    for check, raises in [(True, looks), ("auto", backend.reads_labels), (False, False)]:
        if raises:
            with pytest.raises(LabelError):
                cross_entropy(logits, labels, check=check)
            continue
        loss = backend.to_numpy(cross_entropy(logits, labels, check=check, reduction="none"))
        assert np.isfinite(loss[0])
        assert np.isnan(loss[1])


def test_labels_that_are_dropped_may_hold_anything(backend: Backend) -> None:
    """R16, R17: a zero weight drops the example before its label is judged."""
    logits = backend.asarray(LOGITS)
    for weight in ([1, 0], [True, False], [1.0, -0.0]):
        loss = cross_entropy(logits, BAD, sample_weight=weight, check=True)
        wanted = cross_entropy(LOGITS[:1], LABELS[:1])
        assert float(backend.to_numpy(loss)) == pytest.approx(float(wanted), rel=1e-6)
    with pytest.raises(LabelError):
        cross_entropy(logits, BAD, sample_weight=[0, 1])
    with pytest.raises(LabelError):
        cross_entropy(logits, [[0], [3]], sample_weight=[0, 1])


def test_weights_that_cannot_be_read_leave_labels_to_the_kernel() -> None:
    """R17, R26: a default call does not wait for weights to find out what they drop."""
    da = pytest.importorskip("dask.array")
    weight = da.from_array(np.array([1.0, 0.0]))
    loss = cross_entropy(da.from_array(LOGITS), BAD, sample_weight=weight)
    assert float(loss) == pytest.approx(float(cross_entropy(LOGITS[:1], LABELS[:1])), rel=1e-6)
    wrong = cross_entropy(da.from_array(LOGITS), BAD, sample_weight=1 + weight, reduction="none")
    assert np.isnan(wrong.compute()).tolist() == [False, True]


def test_weights_of_the_first_axis_drop_whole_rows() -> None:
    """R7, R17: `(N,)` extends to the right, for labels too."""
    logits = np.zeros((2, 4, 3), np.float32)
    labels = np.array([[0, 1, 2, 0], [9, 9, 9, 9]])
    assert cross_entropy(logits, labels, sample_weight=[1, 0]) == pytest.approx(np.log(3))
    kept = np.expand_dims(labels, -1)
    assert cross_entropy(logits, kept, sample_weight=[1, 0], axis=-1) == pytest.approx(np.log(3))
    with pytest.raises(LabelError) as caught:
        cross_entropy(logits, labels, sample_weight=[0, 1])
    assert (caught.value.count, caught.value.first) == (4, (1, 0))


def test_checked_rows_are_finite_and_not_negative(backend: Backend) -> None:
    """R17: `check=True` refuses other dense labels, but not in dropped rows."""
    logits = backend.asarray(LOGITS)
    for wrong in (-0.5, np.nan, np.inf):
        rows = np.array([[1, 0, 0], [wrong, 1, 0]], np.float32)
        with pytest.raises(LabelError) as caught:
            cross_entropy(logits, rows, check=True)
        assert (caught.value.count, caught.value.first) == (1, (1, 0))
        cross_entropy(logits, rows, check=True, sample_weight=[1, 0])
        cross_entropy(logits, rows)
    first_axis = np.array([[1.0, -1.0], [0.0, 2.0]])
    with pytest.raises(LabelError) as caught:
        cross_entropy(first_axis, first_axis, axis=0, check=True)
    assert caught.value.first == (0, 1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_checked_rows_should_sum_to_one(dtype: str) -> None:
    """R17: within C eps of their dtype there is no warning, beyond it there is one."""
    rows = np.full((2, 7), 1 / 7).astype(dtype) if dtype[0] == "f" else np.eye(7)[:2].astype(dtype)
    cross_entropy(np.zeros((2, 7)), rows, check=True)
    twice = np.concatenate([rows[:1] + rows[:1] + np.eye(7)[1].astype(dtype), rows[1:]])
    with pytest.warns(LossInputWarning, match="label rows do not sum to 1"):
        cross_entropy(np.zeros((2, 7)), twice, check=True)
    cross_entropy(np.zeros((2, 7)), twice)
    cross_entropy(np.zeros((2, 7)), twice, check=True, sample_weight=[0, 1])


@pytest.mark.parametrize("value", [0, -1, 0.0, np.float32(-2), float("nan"), np.array(0)])
def test_normalizer_is_positive_where_it_can_be_read(backend: Backend, value: Any) -> None:
    """R8: numbers and NumPy's 0-d arrays are read on every backend."""
    with pytest.raises(OptionError, match="normalizer must be a number > 0"):
        cross_entropy(backend.asarray(LOGITS), LABELS, normalizer=value)


def test_normalizer_of_the_library_is_read_where_that_is_free(backend: Backend) -> None:
    """R8: elsewhere it is left alone."""
    logits, zero = backend.asarray(LOGITS), backend.asarray(np.array(0, np.float32))
    if backend.reads_labels:
        with pytest.raises(OptionError, match="normalizer"):
            cross_entropy(logits, LABELS, normalizer=zero)
    else:
        assert backend.owns(cross_entropy(logits, LABELS, normalizer=zero))
    two = backend.asarray(np.array(2, np.float32))
    found = cross_entropy(logits, LABELS, normalizer=two)
    assert float(backend.to_numpy(found)) == pytest.approx(float(LOSS), rel=1e-6)


def test_a_single_class_warns_on_every_call() -> None:
    """R9: also on the second, when the plan is known."""
    for _ in range(2):
        with pytest.warns(SingleClassWarning):
            cross_entropy(np.zeros((2, 1)), [0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cross_entropy(np.zeros((2, 2)), [0, 0])


def test_encoded_labels_keep_what_they_mean() -> None:
    """R6: class ids stay, and all else becomes one of two codes that no class has."""
    labels = np.array([0, 2, 3, -1, -100, 2**70], object)
    dropped, out = host.DROPPED, host.OUT_OF_RANGE
    assert host.encoded(labels, 3, -100).tolist() == [0, 2, out, out, dropped, out]
    assert host.encoded(labels, 3, None).tolist() == [0, 2, out, out, out, out]
    assert host.encoded(np.array([2**31, 5]), None, 5).tolist() == [out, dropped]
    assert host.encoded(np.array(2, np.uint8), 3, 255).dtype == np.int32


def test_no_ignore_index_leaves_every_label_to_be_judged() -> None:
    """R6, R17: without one, the default value is a label like any other."""
    assert cross_entropy(LOGITS, [0, -100]) == cross_entropy(LOGITS[:1], [0])
    with pytest.raises(LabelError) as caught:
        cross_entropy(LOGITS, [0, -100], ignore_index=None)
    assert (caught.value.count, caught.value.smallest) == (1, -100)


def test_rows_that_unreadable_weights_may_drop_are_not_judged() -> None:
    """R16, R17: `check=True` refuses no row that could be a dropped one."""
    da = pytest.importorskip("dask.array")
    rows = np.array([[1, 0, 0], [np.nan, 2, 0]], np.float32)
    weight = da.from_array(np.array([1.0, 0.0]))
    loss = cross_entropy(da.from_array(LOGITS), rows, sample_weight=weight, check=True)
    assert float(loss) == pytest.approx(float(cross_entropy(LOGITS[:1], [0])), rel=1e-6)
    with pytest.raises(LabelError):
        cross_entropy(da.from_array(LOGITS), rows, sample_weight=[1, 1], check=True)


def test_warnings_name_the_line_of_the_caller(torch_is_under_test: None) -> None:
    """R9, R17: through the integrations too, or Python would show them once a process."""
    import torch

    from unified_loss.integrations.torch import CrossEntropyLoss

    logits, labels = torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)
    model = torch.nn.Sequential(torch.nn.Identity())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cross_entropy(np.zeros((2, 1)), [0, 0])
        cross_entropy(np.full((2, 2), 0.5), [0, 0], check=True)
        CrossEntropyLoss()(model(logits), labels)
    lines = [warning.lineno for warning in caught]
    assert {warning.filename for warning in caught} == {__file__}
    assert lines == list(range(lines[0], lines[0] + 3))


def test_no_way_to_host_data_loses_a_mask() -> None:
    """R2: the calls of the integrations take it as well."""
    with pytest.raises(BackendError, match="mask would be lost"):
        host.as_numpy(np.ma.masked_array([1.0, 2.0], [False, True]), "class_weight")
