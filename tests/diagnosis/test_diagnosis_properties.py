"""What holds of every diagnosis, whatever the mistake."""

import contextlib
import subprocess
import sys
import tracemalloc
import warnings
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers.backends import Backend
from tests.helpers.plans import FLOATING, INTEGER, M, N, problem
from tests.helpers.support import calls_of
from unified_loss import LossInputError, LossInputWarning, cross_entropy
from unified_loss._diagnosis import (
    CAUSES,
    SHOWN_FIXES,
    SHOWN_READINGS,
    Fix,
    Values,
    diagnose,
    values_of,
)
from unified_loss._diagnosis._facts import LOOK, LOOK_AGAIN
from unified_loss._plan import make_plan
from unified_loss._types import Problem

SIZES = st.sampled_from([0, 1, 1, 2, 3, 4, 5, 7, 8, 12, 16, 20, 49, 64, 255, 768, 10**9])
UNKNOWN = st.sampled_from([None, M, N])
NUMBERS = st.integers(-300, 300) | st.floats(-2, 2)
WEIGHT = st.tuples(
    st.lists(SIZES, max_size=3).map(tuple), st.sampled_from(["float32", "bool", "int8"])
)


def shapes(sizes: Any) -> Any:
    """Shapes of up to 6 axes, or an unknown rank."""
    return st.lists(sizes, max_size=6).map(tuple) | st.none()


@st.composite
def related(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two shapes of which one is the other with some steps of people's mistakes."""
    logits = draw(st.lists(SIZES | UNKNOWN, min_size=1, max_size=5))
    labels = list(logits)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, max(len(labels) - 1, 0)))
        kind = draw(st.sampled_from(["drop", "insert", "change", "scale", "swap", "flatten"]))
        if kind == "insert":
            labels.insert(place, draw(SIZES))
        elif not labels:
            continue
        elif kind == "drop":
            labels.pop(place)
        elif kind == "change":
            labels[place] = draw(SIZES | UNKNOWN)
        elif kind == "scale" and isinstance(labels[place], int):
            labels[place] = labels[place] * draw(st.integers(1, 9)) + draw(st.integers(-1, 1))
            labels[place] = max(labels[place], 0)
        elif kind == "swap":
            labels[place], labels[0] = labels[0], labels[place]
        elif kind == "flatten" and all(isinstance(size, int) for size in labels):
            labels = [int(np.prod(labels, dtype=object))]
    pair = tuple(logits), tuple(labels)
    return pair if draw(st.booleans()) else pair[::-1]


@st.composite
def values(draw: st.DrawFn) -> Values | None:
    """What the labels may hold, or that they cannot be read."""
    inner = sorted(draw(st.lists(NUMBERS, min_size=1, max_size=4, unique=True)))
    if draw(st.booleans()):
        return None
    integral = all(number == int(number) for number in inner)
    numbers = [int(number) for number in inner] if integral else inner
    more = len(numbers) > 1
    axes = draw(st.sampled_from([(), (0,), (1,), (0, 1), (2,)]))
    return Values(
        numbers[0],
        numbers[-1],
        numbers[1] if more else None,
        numbers[-2] if more else None,
        whole=integral,
        unit_axes=axes,
    )


@st.composite
def calls(draw: st.DrawFn) -> Problem:
    """Any call, right or wrong."""
    logits, labels = draw(related() | st.tuples(shapes(SIZES | UNKNOWN), shapes(SIZES | UNKNOWN)))
    labels_dtype = draw(st.sampled_from([*INTEGER, *FLOATING, "bool", "complex64", "object"]))
    return problem(
        logits,
        labels,
        f"{draw(st.sampled_from([*FLOATING, *FLOATING, 'int32', 'bool']))} {labels_dtype}",
        axis=draw(st.none() | st.none() | st.integers(-4, 4) | st.sampled_from([(0, 1), 1.5, "1"])),
        class_weight=draw(st.none() | WEIGHT),
        sample_weight=draw(st.none() | WEIGHT),
        ignore_index=draw(st.sampled_from([-100, None, 0, -1, 255])),
        check=draw(st.sampled_from(["auto", True])),
    )


@given(calls(), values())
@settings(max_examples=600)
def test_no_call_crashes_the_diagnosis(call: Problem, seen: Values | None) -> None:
    """R25: at most 12 lines, and each sufficient fix makes the call valid."""
    error = error_of(call)
    if error is None:
        return
    found = diagnose(call, error, seen)
    text = str(found)
    assert text.splitlines()[0] == str(error).splitlines()[0]
    assert len(text.splitlines()) <= 12
    assert len(found.readings) <= SHOWN_READINGS
    scores = [reading.score for reading in found.readings]
    assert scores == sorted(scores, reverse=True)
    for reading in found.readings:
        assert reading.tag in CAUSES
        assert 1 <= len(reading.fixes) <= SHOWN_FIXES
    for fix in found.fixes:
        assert fix.text.startswith("if ") is (fix.kind == "conditional")
        assert bool(fix.steps) is (fix.kind != "elsewhere")
        make_plan(fix.applied_to(call)) if fix.steps else None


def error_of(call: Problem) -> LossInputError | None:
    """What is wrong with a call, if something is."""
    try:
        make_plan(call)
    except LossInputError as error:
        return error
    return None


SMALL = st.sampled_from([1, 2, 3, 4, 6])


def arrays_of(
    logits: tuple[int, ...], labels: tuple[int, ...], kind: str, seed: int
) -> tuple[Any, Any]:
    """Arrays of two shapes, the labels of a kind."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(logits).astype(np.float32)
    if kind == "probabilities":
        return scores, rng.random(labels).astype(np.float32)
    if kind == "one-hot":
        width = labels[-1] if labels else 1
        return scores, np.eye(width, dtype=np.float32)[rng.integers(0, width, labels[:-1])]
    high = {"ids": min(logits, default=2), "float ids": min(logits, default=2), "far ids": 300}
    ids = rng.integers(-1 if kind == "far ids" else 0, high.get(kind, 2), labels)
    dtype = {"float ids": np.float32, "zeros and ones": np.uint8, "booleans": bool}
    return scores, ids.astype(dtype.get(kind, np.int32))


KINDS = st.sampled_from(
    ["ids", "far ids", "float ids", "zeros and ones", "booleans", "probabilities"]
)


@given(
    logits=st.lists(SMALL, min_size=1, max_size=4).map(tuple),
    data=st.data(),
    kind=KINDS,
    seed=st.integers(0, 9),
)
@settings(max_examples=50)
def test_code_does_what_the_fix_claims(
    backend: Backend, logits: tuple[int, ...], data: st.DataObject, kind: str, seed: int
) -> None:
    """R25: on arrays of every library, the code of each fix makes the call valid."""
    labels = data.draw(labels_beside(logits))
    axis = data.draw(st.none() | st.integers(0, len(logits) - 1))
    arrays = tuple(map(backend.asarray, arrays_of(logits, labels, kind, seed)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for fix in fixes_of(arrays, axis):
            if fix.code:
                cross_entropy(**fix.apply(*arrays, axis=axis))


@st.composite
def labels_beside(draw: st.DrawFn, logits: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that is that of logits with up to two axes inserted, dropped or changed."""
    labels = list(logits)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(labels)))
        labels[place : place + draw(st.integers(0, 1))] = draw(st.lists(SMALL, max_size=1))
    return tuple(labels)


def fixes_of(arrays: tuple[Any, Any], axis: int | None) -> tuple[Fix, ...]:
    """The fixes of a call."""
    try:
        cross_entropy(*arrays, axis=axis)
    except LossInputError as error:
        return error.fixes
    return ()


@given(
    logits=st.lists(SMALL, min_size=1, max_size=4).map(tuple),
    data=st.data(),
    kind=KINDS | st.just("one-hot"),
    seed=st.integers(0, 9),
)
@settings(max_examples=600)
@pytest.mark.filterwarnings("ignore::unified_loss.LossInputWarning")
def test_the_same_meaning_keeps_every_label(
    logits: tuple[int, ...], data: st.DataObject, kind: str, seed: int
) -> None:
    """R25: nothing is dropped, repeated, changed or moved to other logits: entries have tags."""
    labels = data.draw(labels_beside(logits))
    axis = data.draw(st.none() | st.integers(0, len(logits) - 1))
    arrays = arrays_of(logits, labels, kind, seed)
    for fix in fixes_of(arrays, axis):
        if fix.kind == "same meaning":
            assert_keeps(fix, arrays)


def assert_keeps(fix: Fix, arrays: tuple[Any, Any]) -> None:
    """The entries of logits and labels are all there, in their order."""
    for place, name in enumerate(("logits", "labels")):
        steps = {step.operation: step.value for step in fix.steps if step.argument == name}
        tagged: list[Any] = [*arrays]
        if steps.keys() & {"argmax", "one_hot"}:
            after = fix.apply(*tagged)[name]
            rows, ids = (tagged[1], after) if "argmax" in steps else (after, tagged[1])
            axis = steps.get("argmax", rows.ndim - 1)
            expected = np.eye(rows.shape[axis])[np.asarray(ids, int).reshape(
                np.delete(rows.shape, axis))]  # fmt: skip
            np.testing.assert_array_equal(np.moveaxis(rows, axis, -1), expected)
            continue
        tags = np.arange(tagged[place].size, dtype=np.float64).reshape(tagged[place].shape)
        tagged[place] = tags
        applied = fix.apply(*tagged)
        after = applied[("labels", "logits")[place] if "swap" in steps else name]
        order = steps.get("permute")
        before = tags if order is None else tags.transpose(order)
        np.testing.assert_array_equal(np.asarray(after).ravel(), before.ravel())
        if order is not None:
            sizes = [size for size in tags.shape if size > 1]
            assert len(set(sizes)) == len(sizes) or _keeps_neighbors(tags.shape, order)


def _keeps_neighbors(shape: tuple[int, ...], order: tuple[int, ...]) -> bool:
    """Whether axes of one size follow each other, before and after, but for the first."""
    pairs = [(i, j) for i in range(len(shape)) for j in range(i) if shape[i] == shape[j]]
    return all(j > 0 and order.index(j) > 0 and order.index(i) > order.index(j) for i, j in pairs)


@given(related())
@example(((None, 3, None), None))
@example(((N, 3), (M, 4)))
@settings(max_examples=200)
def test_unknown_sizes_are_not_blamed(pair: tuple[Any, Any]) -> None:
    """R25: a size that is unknown may fit: no reading shows a symbol as a number."""
    call = problem(*pair)
    error = error_of(call)
    if error is not None:
        assert not any("object at" in fix.code for fix in diagnose(call, error).fixes)


GOOD_CALLS = """
import sys, numpy as np
from unified_loss import cross_entropy, cross_entropy_with_grad
logits = np.random.default_rng(0).normal(size=(4, 3))
for check in ("auto", True, False):
    cross_entropy(logits, [0, 2, 1, -100], check=check)
    cross_entropy_with_grad(logits, np.eye(3)[[0, 1, 2, 2]], check=check)
assert not [name for name in sys.modules if name.startswith("unified_loss._diagnosis")]
"""


def test_good_calls_do_not_import_it() -> None:
    """R26: it costs nothing where nothing is wrong, be the values looked at or not."""
    subprocess.run([sys.executable, "-c", GOOD_CALLS], check=True)


def test_it_is_little_work() -> None:
    """R26: a warm failure runs a few thousand Python functions, which take less than 5 ms."""
    cases = [
        (np.zeros((1568, 31), np.float32), np.zeros(32, np.int64)),
        (np.zeros((32, 2, 64, 64), np.float32), np.zeros(32, np.int64)),
        (np.zeros((16, 9, 180), np.float32), np.zeros((16, 9, 180), np.int64)),
        (np.zeros((64, 10), np.float32), np.full(64, 10)),
        (np.zeros((42, 23, 1, 256), np.float32), np.zeros((42, 24, 1, 256), np.float32)),
    ]

    def fail(arrays: Any) -> None:
        with pytest.raises(LossInputError):
            cross_entropy(*arrays)

    for arrays in cases:
        fail(arrays)
        assert calls_of(lambda arrays=arrays: fail(arrays)) < 5000


def test_large_labels_are_neither_copied_nor_walked() -> None:
    """R25: what takes too long to look at takes no time; one object an entry is slow sooner."""
    wide = np.zeros((128, LOOK_AGAIN // 32), np.int8)[:, ::2].T
    walked = mock.Mock(side_effect=AssertionError)
    for labels in (wide, np.broadcast_to(np.array(1, object), (2 * LOOK,))):
        tracemalloc.start()
        try:
            with mock.patch("unified_loss._rules.is_integer", walked):
                assert values_of(labels, within=(0, 1)) is None
            assert tracemalloc.get_traced_memory()[1] < labels.size
        finally:
            tracemalloc.stop()


def valid_calls(rng: np.random.Generator) -> Any:
    """Legal calls of every kind, small, of NumPy."""
    while True:
        batch = tuple(rng.integers(0, 4, rng.integers(0, 4)))
        classes, axis = int(rng.integers(2, 5)), int(rng.integers(0, len(batch) + 1))
        shape = (*batch[:axis], classes, *batch[axis:])
        kind = rng.integers(0, 4)
        if kind == 0:
            labels: Any = rng.random(shape)
        elif kind == 1:
            labels = rng.integers(0, 2, shape)
        else:
            labels = rng.integers(0, classes, batch)
            labels = np.where(rng.random(batch) < 0.1, -100, labels)
            if kind == 2:
                labels = np.expand_dims(labels, axis)
        yield rng.standard_normal(shape), labels, axis


DONE = contextlib.nullcontext()


@pytest.mark.slow
def test_no_false_alarm() -> None:
    """R17, R26: 100,000 valid calls, and not one error or warning but of rows with several ones."""
    calls = valid_calls(np.random.default_rng(5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100_000):
            logits, labels, axis = next(calls)
            is_multi_hot = labels.shape == logits.shape and labels.dtype.kind == "i"
            expected = is_multi_hot and bool((labels.sum(axis) > 1).any())
            with pytest.warns(LossInputWarning, match="several ones") if expected else DONE:
                cross_entropy(logits, labels, axis=axis, reduction="sum")


def test_plans_are_not_diagnosed() -> None:
    """R25: the plan raises its one line; the call adds the rest."""
    call = problem((4, 3), (5,))
    with pytest.raises(LossInputError) as caught:
        make_plan(call)
    assert "\n" not in str(caught.value)
    assert caught.value.cause is None


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("batch", [(7,), (8, 6), (3, 4, 6)])
@pytest.mark.parametrize("places", [(1, -1), (-1, 1)])
def test_label_rows_along_another_axis_keep_their_classes(
    places: tuple[int, int], batch: tuple[int, ...], *, soft: bool
) -> None:
    """R25: values tell where the classes of the labels are, before and after their axes move."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, *batch, 5)).astype(np.float32)
    ids = rng.integers(0, 5, (2, *batch))
    targets = rng.dirichlet(np.ones(5), ids.shape).astype(np.float32) if soft else np.eye(5)[ids]
    logits, labels = (
        np.moveaxis(array, -1, place) for array, place in zip((rows, targets), places, strict=True)
    )
    with pytest.raises(LossInputError) as told:
        cross_entropy(logits, labels)
    same = [fix for fix in told.value.fixes if fix.kind == "same meaning"]
    assert same
    for fix in same:
        ours = cross_entropy(**fix.apply(logits, labels))
        np.testing.assert_allclose(ours, cross_entropy(rows, targets, axis=-1), rtol=1e-6)
