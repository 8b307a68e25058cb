"""Problem in, plan or error out: dtypes, the class axis and label kinds. No array is needed."""

import pickle
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from tests.helpers.plans import FLOATING, INTEGER, Indexed, M, N, Shape, plan, problem
from unified_loss import AmbiguousAxisError, DTypeError, LossInputError, OptionError, ShapeError
from unified_loss._plan import make_plan
from unified_loss._shapes import same_shape, same_size
from unified_loss._types import Problem


@pytest.mark.parametrize("dtype", FLOATING)
def test_half_precision_is_computed_in_float32(dtype: str) -> None:
    """R1, R20: floating logits are accepted; 16 bits are computed in 32."""
    found = plan(dtypes=f"{dtype} int64")
    assert found.logits_dtype == dtype
    assert found.compute_dtype == ("float64" if dtype == "float64" else "float32")


@pytest.mark.parametrize("dtype", [*INTEGER, "bool", "complex64", "float8_e4m3fn", "float128"])
def test_other_logits_are_refused(dtype: str) -> None:
    """R1: logits of any other dtype are a `DTypeError` that names it."""
    with pytest.raises(DTypeError, match=f"logits must be floating, but are {dtype}"):
        plan(dtypes=f"{dtype} int64")


@pytest.mark.parametrize(
    ("logits", "labels", "dtypes", "swapped"),
    [
        ((4,), (4, 3), "int64 float32", True),
        ((), (3,), "uint8 bfloat16", True),
        ((4, 5), (4, 5, 3), "int32 float64", True),
        ((4, 3), (4, 3), "int64 float32", False),
        ((4, 3), (4,), "int64 float32", False),
        ((4,), (4, 3), "int64 int64", False),
        ((4,), (4, 3), "bool float32", False),
        (None, (4, 3), "int64 float32", False),
        ((4,), None, "int64 float32", False),
    ],
)
def test_swapped_arguments_get_a_hint(
    logits: Shape,
    labels: Shape,
    dtypes: str,
    swapped: bool,  # noqa: FBT001
) -> None:
    """R1: only integers before floats of one more axis look swapped."""
    with pytest.raises(DTypeError) as caught:
        plan(logits, labels, dtypes)
    assert ("swapped" in str(caught.value)) is swapped


@pytest.mark.parametrize(
    ("logits", "labels", "axis"),
    [
        ((3,), (), 0),
        ((4, 3), (4,), 1),
        ((3, 3), (3,), 1),
        ((3, 3), (3, 3), 1),
        ((2, 3, 4), (2, 4), 1),
        ((2, 3, 4), (2, 3), 2),
        ((2, 3, 4), (2, 1, 4), 1),
        ((2, 3, 4), (2, 3, 1), 2),
        ((2, 3, 4, 5), (2, 4, 5), 1),
        ((2, 3, 4, 5), (2, 3, 4), 3),
        ((1, 2, 3, 4, 5), (1, 3, 4, 5), 1),
    ],
)
def test_class_axis_is_inferred(logits: Shape, labels: Shape, axis: int) -> None:
    """R3: the last axis of 1-D and 2-D logits, then axis 1 or the last, whichever fits."""
    assert plan(logits, labels).axis == axis


@pytest.mark.parametrize(
    ("logits", "labels", "axis"),
    [
        # One provable fit is taken, whatever else is possible.
        ((N, 3, M), (N, M), 1),
        ((N, M, 3), (N, M), 2),
        ((N, 3, 4), (N, 4), 1),
        # None is provable: the only possible one.
        ((None, 3, None), (None, 5), 1),
        ((None, 3, 4), (None, 4), 1),
        ((N, 3, 4), (M, 3), 2),
        ((None, 3, 4, 5), (None, None, 5), 1),
        # Beside a known size an unknown one is that of no classes, equal today or not ...
        ((None, None, 3), (None, None), 2),
        ((None, 3, None), (None, None), 1),
        ((N, M, 3), (M, N), 2),
        ((N, 3, M), (M, None), 1),
        ((None, None, 3), (None, 3), 2),
        ((None, None, None, 3), (None, None, None), 3),
        ((None, None, 3), (None, None, 3), 2),
        ((N, 3, M), (N, 3, M), 1),
        ((None, None, 3), (None, None, 1), 2),
        # ... unless the labels cannot be those of the known one.
        ((None, 3, 4, None), (None, 3, 4), 3),
    ],
)
def test_unknown_sizes_fit_what_is_provable_or_alone_possible(
    logits: Shape, labels: Shape, axis: int
) -> None:
    """R3: an unknown size provably equals only itself."""
    assert plan(logits, labels).axis == axis


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        ((2, 5, 5), (2, 5)),
        ((2, 3, 3, 3), (2, 3, 3)),
        ((2, 3, 4), (2, 3, 4)),
        ((2, 1, 1), (2, 1)),
        ((None, None, None), (None, None)),
        ((N, M, M), (N, M)),
        # The known size might be that of the classes, the other one provably is.
        ((N, 3, M), (N, 3)),
        ((2, None, 3), (2, 3)),
        ((N, 3, M), (N, 3, 1)),
        ((None, 3, 4), (None, 3, 4)),
        ((2, 3, 4), None),
        ((None, 3, 4), None),
    ],
)
def test_two_readings_are_refused(logits: Shape, labels: Shape) -> None:
    """R3: where both candidates fit, provably or possibly, `axis` is asked for."""
    with pytest.raises(AmbiguousAxisError, match=r"axis=1 .* or axis=-1"):
        plan(logits, labels)


def test_unknown_rank_needs_an_axis() -> None:
    """R3: with it, integer labels are index labels, wherever the classes are."""
    with pytest.raises(AmbiguousAxisError, match="unknown rank"):
        plan(None, (4,))
    for axis in (0, 1, -1):
        found = plan(None, None, axis=axis)
        assert (found.axis, found.label_kind, found.num_classes) == (axis, "index", None)
        assert found.labels_keep_axis is None
    assert plan(None, (4, 3), "float32 float32", axis=-1).label_kind == "dense"
    assert plan((4, 3), None).label_kind == "index"


@pytest.mark.parametrize("ndim", [1, 2, 3, 4, 5])
def test_explicit_axis_is_obeyed(ndim: int) -> None:
    """R3: any axis, negative or not, whatever the sizes suggest."""
    for axis in range(-ndim, ndim):
        found = plan((3,) * ndim, (3,) * (ndim - 1), axis=axis)
        assert (found.axis, found.num_classes) == (axis % ndim, 3)
    for axis in (-ndim - 1, ndim, 10**5000):
        with pytest.raises(ShapeError, match="axis must be in") as caught:
            plan((3,) * ndim, (3,) * (ndim - 1), axis=axis)
        assert caught.value.axis == axis


@pytest.mark.parametrize(
    "axis", [1.0, np.float32(1), "1", b"1", [1], (1,), np.array(1), np.array([1]), int, 1j, "last"]
)
def test_axis_that_is_no_integer_is_an_option_error(axis: Any) -> None:
    """R3: it is refused, and never rounded."""
    with pytest.raises(OptionError, match="axis must be one integer or None"):
        plan(axis=axis)


@pytest.mark.parametrize("axis", [np.int8(1), np.uint64(1), Indexed()])
def test_axis_is_anything_with_an_index(axis: Any) -> None:
    """R8: NumPy's integers are integers."""
    assert plan(axis=axis).axis == 1


@pytest.mark.parametrize(
    ("logits", "labels", "dtypes", "kind", "keeps"),
    [
        ((4, 3), (4,), "float32 uint8", "index", False),
        ((4, 3), (4, 1), "float32 int8", "index", True),
        ((4, 1), (4, 1), "float32 int64", "index", True),
        ((4, 1), (4,), "float32 int64", "index", False),
        ((3,), (), "float32 int64", "index", False),
        ((3,), (1,), "float32 int64", "index", True),
        ((1,), (1,), "float32 int64", "index", True),
        ((3, 3), (3,), "float32 int64", "index", False),
        ((3, 3), (3, 3), "float32 int64", "dense", False),
        ((4, 3), (4, 3), "float32 bool", "dense", False),
        ((4, 3), (4, 3), "float16 float64", "dense", False),
        ((4, 1), (4, 1), "float32 float32", "dense", False),
        ((4, 1), (4, 1), "float32 bool", "dense", False),
        ((None, 3), (None,), "float32 int64", "index", False),
        ((None, 3), (None, 3), "float32 int64", "dense", False),
        ((N, 3), (M, 1), "float32 int64", "index", True),
        ((N, 3), (M, 3), "float32 float32", "dense", False),
        ((N, 3), (N, 3), "float32 int64", "dense", False),
    ],
)
def test_label_kind_by_shape_then_dtype(
    logits: Shape,
    labels: Shape,
    dtypes: str,
    kind: str,
    keeps: bool,  # noqa: FBT001
) -> None:
    """R4: never by value; one class and square batches change nothing."""
    found = plan(logits, labels, dtypes)
    assert (found.label_kind, found.labels_keep_axis) == (kind, keeps)
    assert found.labels_have_axis is (kind == "dense" or keeps)


def test_integer_labels_of_unknown_kind_are_refused() -> None:
    """R3: a class axis of unknown size could be kept or one-hot."""
    with pytest.raises(AmbiguousAxisError, match="class ids or one-hot rows"):
        plan((4, 3), (4, None))


@pytest.mark.parametrize("dtype", ["float32", "bool", "bfloat16"])
def test_index_labels_must_be_integers(dtype: str) -> None:
    """R4: a floating or boolean dtype is not taken for class ids."""
    with pytest.raises(DTypeError, match=f"must be integer class ids, but are {dtype}"):
        plan((4, 3), (4,), f"float32 {dtype}")


@pytest.mark.parametrize("dtype", ["complex64", "object", "str", "float128"])
def test_labels_must_be_numbers(dtype: str) -> None:
    """R4: labels of any other dtype are a `DTypeError` that names it."""
    with pytest.raises(DTypeError, match=f"but are {dtype}"):
        plan(dtypes=f"float32 {dtype}")


sizes = st.integers(1, 3)
shapes = st.lists(sizes, max_size=4).map(tuple)
dtypes = st.sampled_from(["int64", "float32", "bool"])


def fits(logits: tuple[int, ...], labels: tuple[int, ...], axis: int) -> bool:
    """Whether labels fit as class ids."""
    batch = logits[:axis] + logits[axis + 1 :]
    return labels in {batch, (*logits[:axis], 1, *logits[axis + 1 :])}


def verdict(logits: tuple[int, ...], labels: tuple[int, ...], dtype: str, axis: int) -> Any:
    """What R4 and R5 say, in the plainest words."""
    if dtype == "int64" and fits(logits, labels, axis):
        return "index"
    if labels == logits:
        return "dense"
    return DTypeError if labels == logits[:axis] + logits[axis + 1 :] else ShapeError


def outcome(*arguments: Any, **given: Any) -> Any:
    """The label kind, or the type of the error."""
    try:
        return plan(*arguments, **given).label_kind
    except LossInputError as error:
        return type(error)


@given(logits=shapes.filter(len), labels=shapes, dtype=dtypes,
       data=st.data())  # fmt: skip
def test_shapes_never_broadcast(
    logits: tuple[int, ...], labels: tuple[int, ...], dtype: str, data: st.DataObject
) -> None:
    """R4, R5: a shape is one of those named, or a `ShapeError` that carries both."""
    axis = data.draw(st.integers(-len(logits), len(logits) - 1))
    wanted = verdict(logits, labels, dtype, axis % len(logits))
    assert outcome(logits, labels, f"float32 {dtype}", axis=axis) == wanted


@given(logits=st.lists(sizes, min_size=3, max_size=4).map(tuple), labels=shapes)
@example(logits=(1, 1, 1), labels=(1, 1, 1))
def test_inferred_axis_is_the_only_reading(
    logits: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    """R3: without `axis`, exactly one candidate fits or the call is refused."""
    readings = [axis for axis in (1, len(logits) - 1) if fits(logits, labels, axis)]
    found = outcome(logits, labels)
    if labels == logits or len(readings) == 2:
        assert found is AmbiguousAxisError
    elif readings:
        assert found == "index"
        assert plan(logits, labels).axis == readings[0]
    else:
        assert found is ShapeError


def test_symbolic_comparisons() -> None:
    """R3: equal, unequal, or unknown; integers never are unknown."""
    pairs = [(2, 2), (2, 3), (None, 2), (2, None), (None, None), (M, M), (M, N), (M, 2), (2, M)]
    verdicts = [True, False, None, None, None, True, None, None, None]
    assert [same_size(a, b) for a, b in pairs] == verdicts
    assert same_shape((M, 2), (M, 3), same_size) is False
    assert same_shape((M, 2), (N, 2), same_size) is None
    assert same_shape((2, 2), (2,), same_size) is False


SHAPE_ERRORS = [
    (problem((4, 3), (5,)), 1),
    (problem((4, 3), (5,), axis=-1), 1),
    (problem((2, 5, 5), (2, 5)), None),
    (problem((2, 3, 4), (7,)), None),
    (problem((4, 3), (4,), axis=7), 7),
    (problem((4, 3), (4,), axis=0), 0),
    (problem((4, 3), (4,), class_weight=((4,), "float32")), 1),
    (problem((4, 3), (4,), sample_weight=((3,), "float32")), 1),
    (problem((4, 0), (4,)), 1),
    (problem((), ()), None),
    (problem(None, (4,)), None),
]


@pytest.mark.parametrize(("wrong", "axis"), SHAPE_ERRORS)
def test_shape_errors_carry_their_facts(wrong: Problem, axis: int | None) -> None:
    """R25: both shapes and the axis taken, also after pickling."""
    with pytest.raises(ShapeError) as caught:
        make_plan(wrong)
    error = caught.value
    for one in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own bytes
        assert type(one) is type(error)
        assert str(one) == str(error)
        assert (one.logits_shape, one.labels_shape) == (wrong.logits.shape, wrong.labels.shape)
        assert one.axis == axis
        assert (one.cause, one.fixes) == (None, ())
