"""What the linear form refuses, and what it says then."""

from importlib import import_module
from types import SimpleNamespace
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
    linear_cross_entropy,
    linear_cross_entropy_with_grad,
)
from unified_loss._diagnosis._operations import aliases
from unified_loss._linear import _walks as walks
from unified_loss._types import Form
from unified_loss.exceptions import ArgumentError


def arrays(backend: Backend, *shapes: tuple[int, ...]) -> list[Any]:
    """Hidden, weight and bias of zeros."""
    return [backend.asarray(np.zeros(shape, np.float32), "float32") for shape in shapes]


def ids(backend: Backend, *shape: int) -> Any:
    """Labels of zeros."""
    return backend.asarray(np.zeros(shape, np.int32))


CAUSES = {
    "weight_transposed": ([(4, 3), (3, 7), (7,)], (4,), "weight"),
    "labels_shifted": ([(2, 5, 3), (7, 3)], (2, 4), "labels"),
    "hidden_not_flattened": ([(2, 5, 3), (7, 3)], (10,), "labels"),
    "bias_not_per_class": ([(4, 3), (7, 3), (1, 7)], (4,), "bias"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_causes_have_fixes_that_work(backend: Backend, cause: str) -> None:
    """R25, R28: the message has all shapes; the fix, applied, makes the call valid."""
    shapes, labels_shape, changed = CAUSES[cause]
    hidden, weight, *bias = arrays(backend, *shapes)
    labels = ids(backend, *labels_shape)
    options = {"bias": bias[0]} if bias else {}
    with pytest.raises(ShapeError) as caught:
        linear_cross_entropy(hidden, weight, labels, **options)
    error = caught.value
    assert error.cause == cause
    for name in ("hidden", "weight", "labels"):
        assert f"{name}: " in str(error)
    (fix,) = error.fixes
    kind = "conditional" if cause == "labels_shifted" else "same meaning"
    assert fix.kind == kind
    assert fix.code.startswith(f"{changed} = ")
    given = fix.apply(labels=labels, hidden=hidden, weight=weight, **options)
    assert given.keys() == {"hidden", "weight", "labels", *options}
    linear_cross_entropy(**given)
    pasted = {"labels": labels, "hidden": hidden, "weight": weight, **options}
    exec(fix.code, {n: import_module(m) for n, m in aliases(fix.code).items()}, pasted)  # noqa: S102
    linear_cross_entropy(**pasted)


WHICH: dict[str, tuple[tuple[int, int], tuple[int, int], Any, dict[str, Any], list[str]]] = {
    # hidden, weight, labels and options: the causes, the best first
    "either": ((4, 3), (3, 7), [0, 2, 1, 0], {}, ["weight_transposed", "logits_not_hidden"]),
    "features as usual": ((4, 10), (10, 768), [0, 9, 1, 0], {},
                          ["logits_not_hidden", "weight_transposed"]),
    "a class beyond hidden": ((4, 3), (3, 7), [0, 6, 1, 0], {}, ["weight_transposed"]),
    "a class beyond weight": ((4, 7), (7, 3), [0, 6, 1, 0], {}, ["logits_not_hidden"]),
    "bias of columns": ((4, 3), (3, 7), [0, 2, 1, 0], {"bias": np.zeros(7)}, ["weight_transposed"]),
    "bias of rows": ((4, 3), (3, 7), [0, 2, 1, 0], {"bias": np.zeros(3)}, ["logits_not_hidden"]),
    "rows of columns": ((4, 3), (3, 7), np.eye(7)[:4], {}, ["weight_transposed"]),
    "rows of rows": ((4, 3), (3, 7), np.eye(4, 3), {}, ["logits_not_hidden"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WHICH)
def test_logits_in_place_of_hidden(backend: Backend, case: str) -> None:
    """R25, R28: a weight is turned for sure where nothing else is possible, and only there."""
    *shapes, labels, options, causes = WHICH[case]
    hidden, weight = arrays(backend, *shapes)
    with pytest.raises(ShapeError) as caught:
        linear_cross_entropy(hidden, weight, labels, **options)
    error = caught.value
    assert [reading.tag for reading in error.readings] == causes
    kinds = {fix.kind for fix in error.fixes if fix.code}
    if causes == ["weight_transposed"]:
        assert kinds == {"same meaning"}
    else:
        assert kinds == ({"conditional"} if "weight_transposed" in causes else set())
    assert str(error).count("cause: ") == (len(causes) == 1)


def test_missing_labels_say_nothing_of_the_weight(backend: Backend) -> None:
    """R25, R28: no class is known to be beyond the features where no label is known."""
    hidden, weight = arrays(backend, (4, 3), (3, 7))
    for labels in (np.array([0, None, 1, 0]), np.full(4, np.nan)):
        with pytest.raises(ShapeError) as caught:
            linear_cross_entropy(hidden, weight, labels)
        tags = [reading.tag for reading in caught.value.readings]
        assert tags == ["weight_transposed", "logits_not_hidden"]


def test_errors_are_in_words_of_the_linear_form(backend: Backend) -> None:
    """R25, R28: no logits, which nobody has seen, and no axis, which nobody has given."""
    hidden, weight, bias = arrays(backend, (4, 3), (7, 3), (7,))
    host = np.array([0, 9, 2, 1])  # which is read, wherever hidden is
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (host, {}, "label 9 needs at least 10 classes, but weight has 7 rows"),
        (np.array([0, -1, 2, 1]), {"bias": bias}, "ignore_index=-1"),
        (np.array([0.0, 1, 2, 1]), {}, "that of hidden without its features"),
        (np.zeros((4, 7)) - 1, {"check": True}, "no dense label is above 0"),
        (np.zeros(5, int), {}, "the shape of hidden (4, 3) without its features"),
        (host % 7, {"class_weight": np.ones(4)}, "one weight per row of weight (7, 3)"),
        (object(), {}, "hidden's library"),
    ]
    for labels, options, words in wrong:
        with pytest.raises(LossInputError) as caught:
            linear_cross_entropy(hidden, weight, labels, **options)
        text = str(caught.value).replace("log-probabilities and logits are not", "")
        assert words in text
        assert "logits" not in text
        assert "axis" not in text
        if labels is not wrong[-1][0]:
            assert "\n  hidden: " in text
            assert "   weight: " in text
            assert ("   bias: " in text) is ("bias" in options)
    with pytest.raises(ShapeError, match=r"weight \(0, 3\) has no row"):
        linear_cross_entropy(hidden, arrays(backend, (0, 3))[0], host)
    with pytest.warns(SingleClassWarning, match=r"weight \(1, 3\) has one row"):
        linear_cross_entropy(hidden, arrays(backend, (1, 3))[0], np.zeros(4, int))


@pytest.mark.filterwarnings("ignore::unified_loss.SingleClassWarning")
def test_causes_of_logits_are_not_those_of_a_head() -> None:
    """R25, R28: nothing that only an array of logits could be."""
    hidden, labels = np.zeros((4, 3)), np.array([0, 29000, 0, 0])
    for weight, given in ((np.zeros((768, 3)), labels), (np.zeros((1, 3)), [0, 1, 0, 1])):
        with pytest.raises(LabelError) as caught:
            linear_cross_entropy(hidden, weight, given)
        tags = {reading.tag for reading in caught.value.readings}
        assert not tags & {"hidden_states_not_logits", "binary_trailing_axis_broadcast"}
    with pytest.raises(LabelError) as caught:
        cross_entropy(np.zeros((4, 768)), labels)
    assert caught.value.cause == "hidden_states_not_logits"


def test_labels_that_cannot_be_ignored_are_not_padded() -> None:
    """R25: no unsigned label of 8 bits is -100."""
    hidden, weight = np.zeros((2, 5, 3)), np.zeros((7, 3))
    with pytest.raises(ShapeError) as caught:
        linear_cross_entropy(hidden, weight, np.zeros((2, 4), np.uint8))
    assert (caught.value.cause, caught.value.fixes) == ("labels_shifted", ())


def test_square_weight_is_not_guessed(backend: Backend) -> None:
    """R28: a row per class, whatever the sizes allow."""
    rng = np.random.default_rng(0)
    hidden, weight = rng.random((4, 3)), rng.random((3, 3))
    labels = np.array([0, 1, 2, 0])
    placed = [backend.asarray(part, "float32") for part in (hidden, weight)]
    found = backend.to_numpy(linear_cross_entropy(*placed, backend.asarray(labels)))
    x = hidden @ weight.T
    wanted = np.log(np.exp(x).sum(1)) - x[np.arange(4), labels]
    np.testing.assert_allclose(found, wanted.mean(), rtol=1e-6)


@pytest.mark.parametrize("cap", [0, -1.0, np.inf, np.nan, "2", None, 1e-50, [1.0]])
def test_softcap_is_a_positive_number(cap: Any) -> None:
    """R8, R28: finite, and above 0 in the compute dtype as well."""
    hidden, weight = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)
    if cap is None:
        assert linear_cross_entropy(hidden, weight, [0, 1], softcap=cap) > 0
        return
    with pytest.raises(OptionError, match="softcap"):
        linear_cross_entropy(hidden, weight, [0, 1], softcap=cap)


@pytest.mark.parametrize("name", ["hidden", "weight", "bias"])
def test_parts_are_floating(backend: Backend, name: str) -> None:
    """R1, R28: integers are none."""
    parts = {"hidden": (2, 3), "weight": (4, 3), "bias": (4,)}
    given = dict(zip(parts, arrays(backend, *parts.values()), strict=True))
    given[name] = ids(backend, *parts[name])
    with pytest.raises(DTypeError, match=f"{name} must be floating"):
        linear_cross_entropy(**given, labels=ids(backend, 2))


def test_labels_are_checked(backend: Backend) -> None:
    """R17, R28: out of range is an error where it can be seen."""
    hidden, weight = arrays(backend, (2, 3), (4, 3))
    if not backend.reads_labels:
        pytest.skip("labels are not read")
    with pytest.raises(LabelError) as caught:
        linear_cross_entropy(hidden, weight, backend.asarray(np.array([4, 1])))
    assert caught.value.count == 1


@pytest.mark.parametrize(
    ("shapes", "labels", "text"),
    [
        ([(), (4, 3)], (), "hidden must have an axis of features"),
        ([(2, 3), (4,)], (2,), "weight must have shape"),
        ([(2, 3), (4, 5)], (2,), "weight must have shape"),
        ([(2, 3), (4, 3), (5,)], (2,), "bias must have shape"),
        ([(2, 3), (4, 3)], (5,), "labels must have shape"),
        ([(2, 3), (0, 3)], (2,), "at least one class"),
    ],
)
def test_shapes_are_refused(backend: Backend, shapes: Any, labels: Any, text: str) -> None:
    """R5, R28: nothing is broadcast."""
    hidden, weight, *bias = arrays(backend, *shapes)
    for function in (linear_cross_entropy, linear_cross_entropy_with_grad):
        with pytest.raises(ShapeError, match=text):
            function(hidden, weight, ids(backend, *labels), bias=bias[0] if bias else None)


def test_other_libraries_are_refused() -> None:
    """R2, R28: hidden decides."""
    torch = pytest.importorskip("torch")
    with pytest.raises(BackendError, match="weight"):
        linear_cross_entropy(np.zeros((2, 3)), torch.zeros((4, 3)), [0, 1])
    with pytest.raises(BackendError, match="hidden"):
        linear_cross_entropy([[0.0]], np.zeros((4, 1)), [0])


def test_host_weights_are_moved(backend: Backend) -> None:
    """R2, R28: weight and bias may be host data."""
    hidden = backend.asarray(np.ones((2, 3)), "float32")
    weight, bias = np.ones((4, 3), np.float32), np.zeros(4, np.float32)
    value = linear_cross_entropy(hidden, weight, [0, 1], bias=bias)
    assert backend.owns(value)
    np.testing.assert_allclose(backend.to_numpy(value), np.log(4), rtol=1e-6)


def test_words_are_refused() -> None:
    """R8: there is no axis, and a missing argument is named."""
    with pytest.raises(ArgumentError, match="axis"):
        linear_cross_entropy(np.zeros((2, 3)), np.zeros((4, 3)), [0, 1], axis=1)
    with pytest.raises(ArgumentError, match="hidden"):
        linear_cross_entropy(np.zeros((2, 3)))
    with pytest.raises(ArgumentError, match="missing"):
        linear_cross_entropy_with_grad()


def test_float64_of_either(backend: Backend) -> None:
    """R28: the compute dtype is float64 if hidden or weight is."""
    if "float64" not in backend.floats:
        pytest.skip("no float64")
    with backend.precision("float64"):
        hidden = backend.asarray(np.ones((2, 3)), "float32")
        weight = backend.asarray(np.ones((4, 3)), "float64")
        value = linear_cross_entropy(hidden, weight, [0, 1])
        assert backend.dtype_name(value) == "float64"
        _, gradients = linear_cross_entropy_with_grad(hidden, weight, [0, 1])
        assert backend.dtype_name(gradients.hidden) == "float32"
        assert backend.dtype_name(gradients.weight) == "float64"


def test_errors_are_of_the_family(backend: Backend) -> None:
    """R25: whatever is wrong."""
    hidden, weight = arrays(backend, (2, 3), (4, 3))
    for labels in ("ab", None, object(), np.zeros((2, 4), complex)):
        with pytest.raises(LossInputError):
            linear_cross_entropy(hidden, weight, labels)


def test_rows_are_looked_at() -> None:
    """R17, R28: rows that do not sum to 1 under ``check=True``, and rows of several ones."""
    hidden, weight = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)
    with pytest.warns(LossInputWarning, match="sum to 1"):
        linear_cross_entropy(hidden, weight, np.full((2, 4), 0.5), check=True)
    with pytest.raises(LabelError):
        linear_cross_entropy(hidden, weight, np.full((2, 4), -0.5), check=True)


def test_many_rows_of_few_classes_are_few_tiles() -> None:
    """R29: a tile has as many rows as it can hold."""
    tour = walks.tour_of(some_form(), 10**7, 2, 8, in_one_pass=False)
    assert tour is not None
    assert len(tour.blocks(10**7)) * len(tour.tiles(2)) < 10


def some_form() -> Form:
    """A form of which the dtype and the cap alone are asked for."""
    plan: Any = SimpleNamespace(compute_dtype="float32")
    return Form(plan, None)
