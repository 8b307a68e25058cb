"""Columns of pandas, polars, pyarrow and xarray, and buffers, as labels and weights."""

import array
from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS, Backend
from unified_loss import (
    BackendError,
    DTypeError,
    LossInputError,
    OptionError,
    cross_entropy,
    explain,
    linear_cross_entropy,
)

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")
xr = pytest.importorskip("xarray")

LOGITS = np.array([[1, 2, 4], [0, 3, 1], [2, 2, 0]], np.float32)
IDS = [2, 0, 1]
WEIGHTS = [0.5, 2.0, 1.0]
COLUMNS = {
    "pandas": pd.Series,
    "pandas nullable": lambda values: pd.Series(pd.array(values)),
    "pandas array": pd.array,
    "pandas index": pd.Index,
    "pandas of pyarrow": lambda values: pd.Series(pa.array(values).to_pandas()),
    "pandas sparse": lambda values: pd.Series(pd.arrays.SparseArray(values)),
    "polars": pl.Series,
    "pyarrow": pa.array,
    "pyarrow in chunks": lambda values: pa.chunked_array([values[:1], values[1:]]),
    "xarray": lambda values: xr.DataArray(values, dims="n"),
    "buffer": lambda values: array.array("q" if isinstance(values[0], int) else "d", values),
    "memory": lambda values: memoryview(np.array(values)),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_is_host_data(backend: Backend, kind: str) -> None:
    """R2: labels and both weights, beside logits of any library."""
    column, logits = COLUMNS[kind], backend.asarray(LOGITS)
    found = cross_entropy(
        logits, column(IDS), class_weight=column(WEIGHTS), sample_weight=column(WEIGHTS)
    )
    wanted = cross_entropy(logits, IDS, class_weight=WEIGHTS, sample_weight=WEIGHTS)
    assert backend.to_numpy(found) == backend.to_numpy(wanted)


def test_a_table_of_rows_is_host_data() -> None:
    """R2, R4: one-hot rows, and masks."""
    rows = np.eye(3, dtype=np.int64)[IDS]
    wanted = cross_entropy(LOGITS, IDS)
    for table in (pd.DataFrame(rows), pl.DataFrame(rows)):
        assert cross_entropy(LOGITS, table) == wanted
    mask = [True, False, True]
    masked = cross_entropy(LOGITS, IDS, sample_weight=mask)
    for column in (pd.Series(mask), pl.Series(mask), pa.array(mask)):
        assert cross_entropy(LOGITS, IDS, sample_weight=column) == masked


def test_a_category_of_numbers_is_its_numbers() -> None:
    """R2: nothing is lost."""
    assert cross_entropy(LOGITS, pd.Series(IDS, dtype="category")) == cross_entropy(LOGITS, IDS)


def fix_of(error: Any, place: int = 0) -> Any:
    """The first fix with code, or a later one; all of them are in the text."""
    assert all(str(fix) in str(error) for fix in error.fixes)
    return [fix for fix in error.fixes if fix.code][place]


NAMES = ["c", "a", "b"]
LOST = {
    "pandas text": pd.Series(NAMES),
    "pandas category": pd.Series(NAMES, dtype="category"),
    "polars text": pl.Series(NAMES),
    "polars category": pl.Series(NAMES, dtype=pl.Categorical),
    "pyarrow text": pa.array(NAMES),
    "pyarrow dictionary": pa.array(NAMES).dictionary_encode(),
    "list": NAMES,
    "numpy text": np.array(NAMES),
    "numpy objects": np.array(NAMES, object),
    "pandas index": pd.Index(NAMES),
    "pandas categorical": pd.Categorical(NAMES),
}
GAPS, SOME = [2, None, 1], ["c", None, "b", "a"]
MISSING = {
    "pandas": pd.Series(GAPS, dtype="Int64"),
    "pandas objects": pd.Series(GAPS, dtype=object),
    "pandas category": pd.Series(GAPS, dtype="category"),
    "pandas array": pd.array(GAPS),
    "pandas floats": pd.Series([2.0, np.nan, 1.0]),
    "polars": pl.Series(GAPS),
    "pyarrow": pa.array(GAPS),
    "list": GAPS,
    "numpy objects": np.array(GAPS, object),
    "pandas text": pd.Series(SOME),
    "pandas text objects": pd.Series(SOME, dtype=object),
    "pandas category of text": pd.Series(SOME, dtype="category"),
    "pandas index of text": pd.Index(SOME),
    "pandas categorical of text": pd.Categorical(SOME),
    "polars text": pl.Series(SOME),
    "polars category of text": pl.Series(SOME, dtype=pl.Categorical),
    "pyarrow text": pa.array(SOME),
    "pyarrow text in chunks": pa.chunked_array([SOME[:2], SOME[2:]]),
    "pyarrow dictionary": pa.array(SOME).dictionary_encode(),
    "list of text": SOME,
    "numpy text objects": np.array(SOME, object),
}


@pytest.mark.parametrize("kind", LOST)
def test_what_would_be_lost_has_a_hint_that_runs(kind: str) -> None:
    """R2: text and categories of it; the hint makes the labels that are meant."""
    assert mended(LOGITS, LOST[kind]) == IDS


@pytest.mark.parametrize("kind", LOST)
def test_names_are_those_of_the_whole_data_set(kind: str) -> None:
    """R25: numbered batch by batch, one name would be several classes."""
    with pytest.raises((BackendError, DTypeError)) as caught:
        cross_entropy(LOGITS, LOST[kind])
    has_numbers = getattr(getattr(LOST[kind], "dtype", None), "name", "") == "category"
    assert ("whole data set" in str(caught.value)) is not has_numbers


@pytest.mark.parametrize("kind", MISSING)
def test_missing_labels_have_a_hint_that_runs(kind: str) -> None:
    """R2: numbers and text, some of which are missing; the call is valid then."""
    column = MISSING[kind]
    wanted = [2, -100, 1, 0] if "text" in kind or "dictionary" in kind else [2, -100, 1]
    if "pyarrow" in kind and len(wanted) > 3:
        wanted = [0, -100, 1, 2]  # as they come
    logits = np.zeros((len(wanted), 3))
    assert mended(logits, column) == wanted


def mended(logits: Any, labels: Any) -> list[int]:
    """The labels that the code in the error makes."""
    with pytest.raises((BackendError, DTypeError)) as caught:
        cross_entropy(logits, labels)
    assert caught.value.cause in {"string_labels", "labels_missing_values", "masked_array"}
    arguments = fix_of(caught.value).apply(logits, labels)
    made: list[int] = np.asarray(arguments["labels"]).tolist()
    assert np.isfinite(cross_entropy(**arguments))
    return made


def test_numbers_that_are_objects_are_numbers() -> None:
    """R2, R6: of a table whose columns have no dtype, and of any size."""
    wanted = cross_entropy(LOGITS, IDS, sample_weight=WEIGHTS)
    ids, weights = pd.Series(IDS, dtype=object), pd.Series(WEIGHTS, dtype=object)
    assert cross_entropy(LOGITS, ids, sample_weight=weights) == wanted
    assert cross_entropy(LOGITS, pd.Series([2, 2**70, 1], dtype=object), ignore_index=2**70) > 0


class Derived(pd.Series):  # type: ignore[misc]
    """A column of a class of one's own, as those of other packages are."""


@pytest.mark.parametrize(
    "make",
    [
        pl.Series,
        pa.array,
        lambda values: pd.Series(values, dtype="boolean"),
        lambda values: Derived(values, dtype="boolean"),
    ],
)
def test_missing_weights_have_a_hint_that_runs(make: Any) -> None:
    """R2: masks, where no number may be filled in."""
    mask = make([True, None, True])
    with pytest.raises(BackendError, match="1 entry is missing") as caught:
        cross_entropy(LOGITS, IDS, sample_weight=mask)
    assert cross_entropy(**fix_of(caught.value).apply(LOGITS, IDS, sample_weight=mask)) > 0


MASK = [False, True, False]
MASKED: dict[str, tuple[Any, Any]] = {
    "logits": (LOGITS, [[False] * 3, [True, False, False], [False] * 3]),
    "labels": (np.array(IDS), MASK),
    "class_weight": (np.array(WEIGHTS), MASK),
    "sample_weight": (np.array(WEIGHTS), MASK),
}


@pytest.mark.parametrize("name", MASKED)
def test_masked_arrays_have_a_hint_that_runs(name: str) -> None:
    """R2, R18: a mask drops examples where they are masked, and classes where those are."""
    given: dict[str, Any] = {"logits": LOGITS, "labels": np.array([2, 1, 1])}
    values, mask = MASKED[name]
    given[name] = np.ma.masked_array(values, mask)
    with pytest.raises(BackendError, match="its mask would be lost") as caught:
        cross_entropy(**given)
    assert caught.value.cause == "masked_array"
    made = fix_of(caught.value).apply(**given)
    lost = {"logits": -np.inf, "labels": -100}.get(name, 0)
    np.testing.assert_array_equal(made[name], np.where(mask, lost, values))
    assert np.isfinite(cross_entropy(**made))


NARROW = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


@pytest.mark.parametrize("dtype", NARROW)
def test_the_mark_of_missing_labels_is_no_class(dtype: str) -> None:
    """R2: no dtype takes -100 for a class, such as 156, where the hint puts it."""
    logits = np.zeros((3, 256))
    for labels in (
        np.ma.masked_array(np.array([2, 0, 1], dtype), MASK),
        pa.array(GAPS, dtype),
        pa.chunked_array([pa.array(GAPS, dtype)]),
        pa.DictionaryArray.from_arrays(pa.array(GAPS, dtype), ["a", "b", "c"]),
        pl.Series(GAPS, dtype=getattr(pl, dtype.replace("i", "I").replace("u", "U"))),
        pd.Series(GAPS, dtype=dtype.replace("i", "I").replace("u", "U")),
    ):
        assert mended(logits, labels) == [2, -100, 1]


def test_masked_rows_are_left_out() -> None:
    """R2, R6: rows of probabilities have no mark; the weights of examples tell them."""
    rows = np.ma.masked_array(np.eye(3)[IDS], np.array(MASK)[:, None] | np.zeros(3, bool))
    with pytest.raises(BackendError) as caught:
        cross_entropy(LOGITS, rows)
    wanted = cross_entropy(LOGITS, IDS, sample_weight=[True, False, True])
    assert cross_entropy(**fix_of(caught.value).apply(LOGITS, rows)) == wanted


@pytest.mark.parametrize("name", ["logits", "labels"])
def test_examples_that_are_masked_get_no_weight(name: str) -> None:
    """R2, R16: the other thing that a mask can mean, of scores and of integer rows."""
    mask = np.array(MASK)[:, None] | np.zeros(3, bool)
    arrays = {"logits": LOGITS, "labels": np.eye(3, dtype=int)[IDS]}
    given = arrays | {name: np.ma.masked_array(arrays[name], mask)}
    with pytest.raises(BackendError) as caught:
        cross_entropy(**given)
    wanted = cross_entropy(LOGITS, IDS, sample_weight=[True, False, True])
    assert cross_entropy(**fix_of(caught.value, 1).apply(**given)) == wanted


def test_masked_integers_of_logits_have_no_hint() -> None:
    """R1: they cannot be logits, whatever is filled in."""
    with pytest.raises(BackendError) as caught:
        cross_entropy(np.ma.masked_array([[0, 1]]), [0])
    assert not caught.value.fixes
    assert "hint" not in str(caught.value)


def test_a_list_of_arrays_has_a_hint_that_runs(backend: Backend) -> None:
    """R2: of the library of the logits; NumPy's are host data."""
    logits, wanted = backend.asarray(LOGITS), cross_entropy(LOGITS, IDS, sample_weight=WEIGHTS)
    ids = [backend.asarray(np.int32(one)) for one in IDS]
    weights = [backend.asarray(np.float32(one)) for one in WEIGHTS]
    names: dict[str, Any] = {"labels": ids, "sample_weight": weights}
    if backend.name != "numpy":
        for name, arrays in [*names.items()]:
            others = {"labels": IDS, name: arrays}
            with pytest.raises(BackendError, match=r"of type list of arrays\.") as caught:
                cross_entropy(logits, **others)
            names[name] = fix_of(caught.value).apply(logits, **others)[name]
    found = cross_entropy(logits, **names)
    np.testing.assert_allclose(backend.to_numpy(found), wanted, rtol=1e-6)


def test_a_list_of_arrays_that_cannot_be_stacked(backend: Backend) -> None:
    """R2: no line that fails, for a list that is nested, mixed or of another library."""
    logits, one = backend.asarray(LOGITS), backend.asarray(np.int32(1))
    other = BACKENDS["numpy" if backend.name == "array_api_strict" else "array_api_strict"]
    alien = other.asarray(np.int32(1))
    if backend.name not in {"numpy", "jax"}:  # which read them all
        for labels in ([[one], [one]], [one, 1, 2]):
            with pytest.raises(BackendError, match="hint: give numbers"):
                cross_entropy(logits, labels)
    if other.name != "numpy":
        with pytest.raises(BackendError, match="hint: give numbers"):
            cross_entropy(logits, [alien, alien, alien])


def test_a_list_of_arrays_and_other_things(backend: Backend) -> None:
    """R2: nothing stacks what is neither an array nor a number."""
    logits, one = backend.asarray(LOGITS), backend.asarray(np.int32(1))
    for labels in ([one, None, one], [one, {}, one], [[[[one]]]] * 3):
        with pytest.raises(LossInputError) as caught:
            cross_entropy(logits, labels)
        assert "stack(" not in str(caught.value)
        assert "asarray(" not in str(caught.value)


def test_options_are_no_traced_numbers(backend: Backend) -> None:
    """R8: one that is traced is told how it becomes a constant, the axis, too."""
    if backend.name not in {"jax", "tensorflow"}:
        pytest.skip("no number is traced, or the compiler makes a constant of it")
    logits, number = backend.asarray(LOGITS), backend.asarray(np.int32(1))
    for name in ("axis", "label_smoothing"):
        call = backend.trace(lambda x, n, name=name: cross_entropy(x, IDS, **{name: n}))
        with pytest.raises(OptionError, match=f"{name} must be .* is traced: .* constant") as told:
            call(logits, number)
        assert "axis=None" not in str(told.value)  # which may be another axis


def test_sparse_rows_have_a_hint_that_runs() -> None:
    """R2: a sparse matrix is no 0-d object."""
    sparse = pytest.importorskip("scipy.sparse")
    rows = sparse.csr_matrix(np.eye(3)[IDS])
    with pytest.raises(BackendError, match="sparse") as caught:
        cross_entropy(LOGITS, rows)
    made = fix_of(caught.value).apply(LOGITS, rows)
    assert cross_entropy(**made) == pytest.approx(cross_entropy(LOGITS, IDS))


def test_tables_of_logits_tell_their_arrays() -> None:
    """R1, R2: logits decide the library, and a table is of none."""
    for table in (pd.DataFrame(LOGITS), pl.DataFrame(LOGITS)):
        with pytest.raises(BackendError) as caught:
            cross_entropy(table, IDS)
        made = fix_of(caught.value).apply(table, IDS)
        assert cross_entropy(**made) == cross_entropy(LOGITS, IDS)


@pytest.mark.parametrize("given", ["balanced", {0: 1.0, 1: 2.0, 2: 1.0}])
def test_class_weights_by_name_tell_their_array(given: Any) -> None:
    """R7: what scikit-learn and Keras take, with the line that makes it."""
    with pytest.raises(BackendError, match="must be an array of shape") as caught:
        cross_entropy(LOGITS, IDS, class_weight=given)
    assert caught.value.cause == "class_weight_as_dict"
    made = fix_of(caught.value).apply(LOGITS, IDS, class_weight=given)
    assert list(made["class_weight"]) == ([1, 1, 1] if given == "balanced" else [1, 2, 1])
    assert cross_entropy(**made) > 0  # and no name that the code needed beside the weights


COUNTED = np.array([0, 0, 0, 1, 2, 2])  # balanced: 6 / (3 * [3, 1, 2])
BALANCED: dict[str, tuple[tuple[int, ...], Any, dict[str, Any]]] = {
    "ids": ((6, 3), COUNTED, {}),
    "padding": ((8, 3), np.append(COUNTED, [-100, -100]), {}),
    "another mark": ((8, 3), np.append(COUNTED, [255, 255]), {"ignore_index": 255}),
    "unsigned": ((6, 3), COUNTED.astype(np.uint8), {}),
    "rows": ((6, 3), np.eye(3, dtype=np.float32)[COUNTED], {}),
    "rows of booleans": ((6, 3), np.eye(3, dtype=bool)[COUNTED], {}),
    "classes on axis 1": ((2, 3, 3), COUNTED.reshape(2, 3), {"axis": 1}),
    "rows on axis 0": ((3, 6), np.eye(3, dtype=np.float32)[COUNTED].T, {"axis": 0}),
    "ids with an axis": ((6, 3), COUNTED[:, None], {}),
}


@pytest.mark.parametrize("case", BALANCED)
def test_balanced_weights_are_those_of_scikit_learn(backend: Backend, case: str) -> None:
    """R7: the line in the error, of whatever labels count."""
    shape, labels, options = BALANCED[case]
    logits = backend.asarray(np.zeros(shape, np.float32))
    for given in (labels, backend.asarray(labels)):
        made = balanced(logits, given, **options)
        np.testing.assert_allclose(made, [2 / 3, 2, 1])
        cross_entropy(logits, given, class_weight=made, **options)


def test_balanced_weights_of_rows_in_bfloat16(backend: Backend) -> None:
    """R7: which NumPy cannot read of every library."""
    if not backend.library.has_dtype("bfloat16"):
        pytest.skip(f"{backend.name} has no bfloat16")
    rows = backend.library.asarray(np.eye(3)[COUNTED], "bfloat16")
    made = balanced(backend.asarray(np.zeros((6, 3), np.float32)), rows)
    np.testing.assert_allclose(made, [2 / 3, 2, 1])


def test_balanced_weights_of_a_class_that_is_absent() -> None:
    """R7: finite, as it counts for nothing; the others are those of a list without it."""
    for labels in (COUNTED.tolist(), np.eye(4)[COUNTED]):
        np.testing.assert_allclose(balanced(np.zeros((6, 4)), labels), [1 / 2, 3 / 2, 3 / 4, 3 / 2])
    made = balanced(np.zeros((6, 3)), [0, 0, 1, 2, 2, 2], ignore_index=2)
    np.testing.assert_allclose(made, [1 / 2, 1, 1])


def test_balanced_weights_of_a_head(backend: Backend) -> None:
    """R7, R28: its weight tells how many classes there are."""
    weight = backend.asarray(np.zeros((3, 2), np.float32))
    for batch in ((6,), (1, 2, 3)):
        hidden = backend.asarray(np.zeros((*batch, 2), np.float32))
        ids = COUNTED.reshape(batch)
        for labels in (ids, np.eye(3, dtype=np.float32)[ids]):
            with pytest.raises(BackendError) as caught:
                linear_cross_entropy(hidden, weight, labels, class_weight="balanced")
            given = {"hidden": hidden, "weight": weight, "labels": labels}
            made = fix_of(caught.value).apply(**given, class_weight="balanced")
            np.testing.assert_allclose(made["class_weight"], [2 / 3, 2, 1])
            linear_cross_entropy(**made)


def test_balanced_weights_of_shapes() -> None:
    """R7: `explain` knows the classes and the kind of the labels, if they are told."""
    calls: tuple[tuple[Any, dict[str, Any]], ...] = (
        ((6, 3), {}),
        (("?", "?"), {}),
        ((6, 2), {"weight": (3, 2)}),
        (("?", 2), {"weight": ("?", 2)}),
    )
    arrays = {"logits": np.zeros((6, 3)), "weight": np.zeros((3, 2))}
    for shape, options in calls:
        error = explain(shape, (6,), class_weight="balanced", **options).error
        assert isinstance(error, BackendError)
        made = fix_of(error).apply(labels=COUNTED, **arrays)
        np.testing.assert_allclose(made["class_weight"], [2 / 3, 2, 1])
    labels = pd.Series(COUNTED)
    assert "bincount" in str(explain((6, 3), labels, class_weight="balanced").error)


def test_balanced_weights_of_labels_that_do_not_fit() -> None:
    """R7: there is nothing to count, and no line that fails."""
    with pytest.raises(BackendError, match="with the counts of each class: class_weight ="):
        cross_entropy(LOGITS, np.zeros((5, 5), int), class_weight="balanced")


def balanced(logits: Any, labels: Any, **options: Any) -> Any:
    """The weights that the line in the error makes."""
    with pytest.raises(BackendError) as caught:
        cross_entropy(logits, labels, class_weight="balanced", **options)
    made = fix_of(caught.value).apply(logits, labels, class_weight="balanced", **options)
    cross_entropy(**made)
    return made["class_weight"]


def test_explain_takes_columns() -> None:
    """R2: as the call does, beside arrays and beside shapes."""
    assert explain(LOGITS, pd.Series(IDS)).label_kind == "index"
    assert explain("float32[3, 3]", pl.Series(IDS)).label_kind == "index"
