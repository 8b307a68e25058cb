"""Problem in, plan or error out: weights, options and sizes. No array is needed."""

import itertools
import math
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from tests.helpers.plans import FLOATING, INTEGER, Floated, Indexed, N, plan
from unified_loss import DTypeError, OptionError, ShapeError

sizes = st.integers(1, 3)
shapes = st.lists(sizes, max_size=4).map(tuple)
HUGE = 10**5000  # Python refuses to print it


@pytest.mark.parametrize(
    ("dtype", "value", "kept"),
    [
        ("uint8", 255, 255),
        ("uint8", 256, None),
        ("uint8", -100, None),
        ("int8", -100, -100),
        ("int8", -129, None),
        ("int8", 128, None),
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("int64", 2**63, None),
        ("int64", -(2**63), -(2**63)),
        pytest.param("int32", HUGE, None, id="huge"),
        ("int32", None, None),
        ("int32", np.int8(-1), -1),
        ("int32", Indexed(), 1),
    ],
)
def test_ignore_index_is_compared_by_value(dtype: str, value: Any, kept: int | None) -> None:
    """R6: a value that no label of the dtype can have ignores nothing, and never wraps."""
    assert plan(dtypes=f"float32 {dtype}", ignore_index=value).ignore_index == kept


@pytest.mark.parametrize(
    ("dtype", "classes", "below", "above"),
    [
        ("int64", 3, True, True),
        ("int8", 127, True, True),
        ("int8", 128, True, False),
        ("uint8", 255, False, True),
        ("uint8", 256, False, False),
        ("uint64", 2**40, False, True),
        ("uint8", None, False, True),
        ("uint8", N, False, True),
    ],
)
def test_only_bounds_that_labels_can_break_are_watched(
    dtype: str,
    classes: Any,
    below: bool,  # noqa: FBT001
    above: bool,  # noqa: FBT001
) -> None:
    """R6, R17: what the dtype rules out needs no comparison."""
    found = plan((4, classes), (4,), f"float32 {dtype}")
    assert (found.below, found.above) == (below, above)


def test_dense_labels_take_the_default_ignore_index_alone() -> None:
    """R8: with dense labels it is -100 or None, and means nothing."""
    for value in (-100, None, np.int64(-100)):
        assert plan((4, 3), (4, 3), ignore_index=value).ignore_index is None
    for value in (0, -1, HUGE):
        with pytest.raises(OptionError, match="ignore_index applies to index labels"):
            plan((4, 3), (4, 3), ignore_index=value)


@pytest.mark.parametrize("dtype", [*FLOATING, *INTEGER])
def test_weights_are_real(dtype: str) -> None:
    """R7: any real dtype, integers among them."""
    found = plan(class_weight=((3,), dtype), sample_weight=((4,), dtype))
    assert found.class_weight
    assert found.sample_weight == "weight"
    assert not found.counts


def test_boolean_sample_weight_is_a_mask() -> None:
    """R7: and a boolean class weight is an error, like any other dtype."""
    found = plan(sample_weight=((4,), "bool"))
    assert found.sample_weight == "mask"
    assert found.counts
    assert plan().sample_weight == "none"
    for name, dtype in itertools.product(
        ("class_weight", "sample_weight"), ("complex64", "object")
    ):
        with pytest.raises(DTypeError, match=f"{name} must have a real"):
            plan(**{name: ((3,), dtype)})
    with pytest.raises(DTypeError, match="class_weight must have a real"):
        plan(class_weight=((3,), "bool"))


@given(shape=shapes, data=st.data())
def test_weights_never_broadcast(shape: tuple[int, ...], data: st.DataObject) -> None:
    """R7: `(C,)`, and B or `(N,)`; every other shape is a `ShapeError` with the axis taken."""
    logits = data.draw(st.lists(sizes, min_size=1, max_size=4).map(tuple))
    axis = data.draw(st.integers(0, len(logits) - 1))
    batch = logits[:axis] + logits[axis + 1 :]
    allowed = {"class_weight": {(logits[axis],)}, "sample_weight": {batch, batch[:1]}}
    for name, fitting in allowed.items():
        given_weight = {name: (shape, "float32"), "axis": axis}
        if shape in fitting:
            plan(logits, batch, **given_weight)
            continue
        with pytest.raises(ShapeError, match=f"{name} must have shape") as caught:
            plan(logits, batch, **given_weight)
        assert caught.value.axis == axis


def test_weights_of_unknown_shape_are_accepted() -> None:
    """R3, R7: unknown sizes and ranks may fit."""
    for shape in (None, (None,)):
        plan((None, 3), (None,), class_weight=(shape, "float32"), sample_weight=(shape, "float32"))
    plan(None, None, axis=-1, class_weight=((3,), "float32"), sample_weight=((4,), "float32"))


NO_NUMBERS = ["0.1", None, b"0.1", bytearray(b"0.1"), 0.1j, np.complex64(0.1), [0.1], {}, object(),
              int, np.array(0.1), np.array([0.1]), np.zeros((2, 0))]  # fmt: skip
OUT_OF_RANGE = [
    -0.1,
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    pytest.param(HUGE, id="huge"),
    pytest.param(-HUGE, id="-huge"),
]


@pytest.mark.parametrize(
    "value", [*NO_NUMBERS, *OUT_OF_RANGE, 1.0001, 2, np.float32(1.5)], ids=type
)
def test_label_smoothing_is_in_the_unit_interval(value: Any) -> None:
    """R8: anything else is an `OptionError` that names the option and the range."""
    with pytest.raises(OptionError, match=r"label_smoothing must be a number in \[0, 1\]"):
        plan(label_smoothing=value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, *OUT_OF_RANGE, -1, np.int8(-1)])
def test_z_loss_is_finite_and_not_negative(value: Any) -> None:
    """R8: anything else is an `OptionError` that names the option and the range."""
    with pytest.raises(OptionError, match="z_loss must be a finite number >= 0"):
        plan(z_loss=value)


@pytest.mark.parametrize("value", [0, 1, 0.25, np.float16(0.25), np.int8(1), Fraction(1, 4),
                                   Floated(), Indexed(), np.float64(1), -0.0])  # fmt: skip
def test_numbers_are_anything_that_converts_to_float(value: Any) -> None:
    """R8: `__float__` or `__index__` make a number, NumPy's scalars among them."""
    found = plan(label_smoothing=value, z_loss=value)
    assert found.label_smoothing == found.z_loss == float(value)
    assert type(found.label_smoothing) is float


@pytest.mark.parametrize(
    "value", ["avg", "Mean", b"mean", None, True, 0, np.array("mean"), ["sum"]]
)
def test_reduction_is_one_of_three(value: Any) -> None:
    """R8, R14: "none", "mean" or "sum", and no alias."""
    with pytest.raises(OptionError, match='reduction must be "none", "mean" or "sum"'):
        plan(reduction=value)


@pytest.mark.parametrize("value", ["none", "mean", "sum", np.str_("sum")])
def test_reductions_are_strings(value: Any) -> None:
    """R8: NumPy's strings are strings."""
    assert plan(reduction=value).reduction == value


@pytest.mark.parametrize("value", ["yes", "AUTO", None, 1, 0, 1.0, [], np.array([True])])
def test_check_is_one_of_three(value: Any) -> None:
    """R8: "auto", True or False; numbers are no booleans."""
    with pytest.raises(OptionError, match='check must be "auto", True or False'):
        plan(check=value)


@pytest.mark.parametrize("value", ["auto", True, False])
def test_check_is_kept(value: Any) -> None:
    """R17: the plan says whether label values are looked at."""
    assert plan(check=value).check is value


@pytest.mark.parametrize("value", [1.0, "1", np.float32(1), np.array(1), np.array([1]), [1], int])
def test_ignore_index_is_an_integer_or_none(value: Any) -> None:
    """R8: anything else is an `OptionError`."""
    with pytest.raises(OptionError, match="ignore_index must be an integer or None"):
        plan(ignore_index=value)


def test_normalizer_is_a_real_scalar_of_the_mean() -> None:
    """R8: with another reduction, another shape or another dtype it is an `OptionError`."""
    for shape, dtype in [((), "float32"), ((), "int64"), (None, "float32")]:
        assert plan(normalizer=(shape, dtype)).normalizer
    for shape, dtype in [((1,), "float32"), ((), "bool"), ((), "complex64")]:
        with pytest.raises(OptionError, match="normalizer must be a positive number"):
            plan(normalizer=(shape, dtype))
    for reduction in ("none", "sum"):
        with pytest.raises(OptionError, match='normalizer goes with reduction="mean" alone'):
            plan(normalizer=((), "float32"), reduction=reduction)


def test_sizes_of_zero() -> None:
    """R9: no examples are fine, no classes are not, and one class is for the caller to warn of."""
    assert plan((0, 3), (0,)).num_classes == 3
    assert plan((0, 1), (0,)).num_classes == 1
    for logits, labels in [((4, 0), (4,)), ((0,), ()), ((0, 0), (0,))]:
        with pytest.raises(ShapeError, match="at least one class") as caught:
            plan(logits, labels)
        assert caught.value.axis == len(logits) - 1
    with pytest.raises(ShapeError, match="must have a class axis"):
        plan((), ())
