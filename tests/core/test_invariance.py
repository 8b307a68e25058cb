"""What must not change the loss."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate, assert_close, compute_dtype, ulp
from tests.helpers.backends import Backend
from tests.helpers.problems import Problem, sample
from tests.helpers.reference import evaluate, total_mass
from tests.helpers.strategies import problems
from tests.helpers.variants import VARIANTS, combinations, holds_for_any
from unified_loss import cross_entropy, cross_entropy_with_grad


def assert_same(ours: Backend, one: Problem, other: Problem, dtype: str = "float32") -> None:
    """Two calls with one meaning have the same loss and gradient, up to rounding."""
    truth = evaluate(one)
    (loss, slope), (loss_2, slope_2) = (ours.closed_form(each, dtype) for each in (one, other))
    scales = truth.loss_scale.astype(float), truth.gradient_scale.astype(float)
    assert_close(loss, loss_2, compute_dtype(dtype), scale=scales[0])
    assert_close(slope, slope_2, dtype, scale=scales[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_index_form_is_one_hot_form(
    backend: Backend, mode: str, dtype: str, variant: str, rng: Generator
) -> None:
    """R14: index labels and the same labels as one-hot rows cost the same under every option."""
    for reduction in {pair[1] for pair in combinations(backend, mode, dtype, variant)}:
        problem = sample(rng, reduction=reduction, **VARIANTS[variant])
        one, other = (backend.loss(each, dtype, mode) for each in (problem, problem.one_hot()))
        scale = evaluate(problem).loss_scale.astype(float)
        assert_close(one, other, compute_dtype(dtype), scale=scale)


def test_index_form_is_one_hot_form_of_any_call(backend: Backend) -> None:
    """R14, R16: index labels are their one-hot rows, ignored ones a sample weight of 0."""

    def check(problem: Problem) -> None:
        assume(problem.has_index_labels and problem.axis is not None)
        assert_same(backend, problem, problem.one_hot())

    holds_for_any(backend, "eager", check, problem=problems())


def test_sum_and_mean_are_the_reduced_none(backend: Backend) -> None:
    """R14, R15: "sum" adds the weighted examples of "none"; "mean" divides that by the mass."""

    def check(problem: Problem) -> None:
        examples = backend.loss(problem, "float32")
        total, native = examples.sum(), backend.summed(examples.astype(np.float32), None)
        scale = float(evaluate(problem.but(reduction="sum")).loss_scale)
        summed = backend.loss(problem.but(reduction="sum"), "float32")
        assert_close(summed, total, "float32", scale=scale, native=native)
        mass = total_mass(problem)
        for normalizer in (None, 3.0):
            divisor = (normalizer or mass) if mass else np.inf
            reduced = problem.but(reduction="mean", normalizer=normalizer)
            assert_close(
                backend.loss(reduced, "float32"),
                total / divisor,
                "float32",
                scale=scale / divisor,
                native=native / divisor,
            )

    holds_for_any(backend, "eager", check, problem=problems(reduction="none"))


def test_moving_the_class_axis_changes_nothing(backend: Backend) -> None:
    """R3: a class axis anywhere is `moveaxis` to the end."""

    def check(problem: Problem, data: st.DataObject) -> None:
        ndim = problem.logits.ndim
        target = data.draw(st.integers(0, ndim - 1))
        moved, labels = np.moveaxis(problem.logits, problem.class_axis, target), problem.labels
        if labels.ndim == ndim:
            labels = np.moveaxis(labels, problem.class_axis, target)
        there = problem.but(logits=moved, labels=labels, class_axis=target, axis=target)
        loss, slope = backend.closed_form(problem, "float32")
        loss_2, slope_2 = backend.closed_form(there, "float32")
        truth = evaluate(problem)
        assert_close(loss, loss_2, "float32", scale=truth.loss_scale.astype(float))
        slope_2 = np.moveaxis(slope_2, target, problem.class_axis)
        assert_close(slope, slope_2, "float32", scale=truth.gradient_scale.astype(float))

    holds_for_any(backend, "eager", check, problem=problems(), data=st.data())


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_shift_changes_nothing(backend: Backend, mode: str, dtype: str, kind: str) -> None:
    """R19: `[o, o]` costs log 2, and `[o, o + k]` what `[0, k]` costs, in each dtype."""
    limit = 6e4 if dtype == "float16" else np.inf
    offsets = np.clip([1e2, -1e2, 1e4, 1e6, -1e6], -limit, limit)
    with backend.precision(dtype):
        held = backend.to_numpy(backend.asarray(offsets, dtype))
    gaps = ulp(held, dtype)
    flat = np.concatenate([[[0, 0], [0, gap]] for gap in gaps])
    labels = np.arange(len(flat)) % 2
    base = Problem(flat, labels.astype(np.int32), 1, -1, reduction="none")
    base = base if kind == "index" else base.one_hot()
    for smoothing in (0.0, 0.5):
        still = base.but(label_smoothing=smoothing)
        moved = still.but(logits=flat + held.repeat(2)[:, None])
        loss, slope = backend.closed_form(moved, dtype, mode)
        assert_accurate(loss, still, dtype)
        assert_accurate(slope, still, dtype, "gradient")
        assert_accurate(backend.loss(moved, dtype, mode), still, dtype)


@pytest.mark.parametrize("largest", [-1e38, 1e38])
def test_huge_logits_do_not_overflow(backend: Backend, mode: str, largest: float) -> None:
    """R19: equal logits cost log C for every finite number."""
    problem = Problem(np.full((2, 4), largest, np.float32), np.array([0, 3]), 1, -1)
    assert_close(backend.loss(problem, "float32", mode), np.asarray(np.log(4)), "float32")


def test_permuting_classes_changes_nothing(backend: Backend) -> None:
    """R10, R11: the loss does not know the order of the classes."""

    def check(problem: Problem, data: st.DataObject) -> None:
        if problem.has_index_labels:
            problem = problem.one_hot()
        assume(problem.axis is not None)
        order = np.array(data.draw(st.permutations(range(problem.num_classes))))
        weight = problem.class_weight
        permuted = problem.but(
            logits=np.take(problem.logits, order, problem.class_axis),
            labels=np.take(problem.labels, order, problem.class_axis),
            class_weight=None if weight is None else weight[order],
        )
        one, other = (backend.loss(each, "float32") for each in (problem, permuted))
        assert_close(one, other, "float32", scale=evaluate(problem).loss_scale.astype(float))

    holds_for_any(backend, "eager", check, problem=problems(), data=st.data())


@pytest.mark.parametrize("how", ["ignore_index", "zero weight", "mask"])
@pytest.mark.parametrize("variant", ["plain", "loaded"])
def test_dropping_is_leaving_out(
    backend: Backend, mode: str, how: str, variant: str, rng: Generator
) -> None:
    """R16: a dropped example costs nothing, whatever it holds, and the mean does not count it."""
    loaded = {"class_weight": True, "label_smoothing": 0.25, "z_loss": 0.5}
    for reduction in ("sum", "mean"):
        full = sample(rng, reduction=reduction, **(loaded if variant == "loaded" else {}))
        rest = full.but(logits=full.logits[2:], labels=full.labels[2:])
        full.logits[0], full.logits[1] = np.nan, np.inf
        if how == "ignore_index":
            full.labels[:2] = -100
        else:
            full.labels[:2] = -7
            weight = np.ones(len(full.labels), bool if how == "mask" else np.float32)
            weight[:2] = 0
            full = full.but(sample_weight=weight)
        loss, slope = backend.closed_form(full, "float32", mode)
        loss_2, slope_2 = backend.closed_form(rest, "float32", mode)
        truth = evaluate(rest)
        assert_close(loss, loss_2, "float32", scale=float(truth.loss_scale))
        np.testing.assert_array_equal(slope[:2], 0)
        assert_close(slope[2:], slope_2, "float32", scale=truth.gradient_scale.astype(float))
        if backend.has_autodiff:
            (slope,) = backend.gradients(full, "float32", mode)
            np.testing.assert_array_equal(slope[:2], 0)
            assert_close(slope[2:], slope_2, "float32", scale=truth.gradient_scale.astype(float))


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_weight_two_is_the_example_twice(backend: Backend, kind: str, rng: Generator) -> None:
    """R12, R13, R14: an integer sample weight repeats its example."""
    counts = np.array([2, 1, 0, 3])
    for reduction, class_weight in itertools.product(("sum", "mean"), (False, True)):
        problem = sample(
            rng, kind, batch=(4,), class_weight=class_weight, reduction=reduction, z_loss=0.25,
            label_smoothing=0.125,
        )  # fmt: skip
        repeated = problem.but(
            logits=problem.logits.repeat(counts, 0), labels=problem.labels.repeat(counts, 0)
        )
        one = backend.loss(problem.but(sample_weight=counts), "float32")
        other = backend.loss(repeated, "float32")
        assert_close(one, other, "float32", scale=float(evaluate(repeated).loss_scale))


def test_normalizer_of_the_batch_size_is_the_plain_mean(backend: Backend, rng: Generator) -> None:
    """R14: `normalizer=N` divides the weighted sum by N, as other libraries do."""
    problem = sample(rng, class_weight=True, sample_weight="full", normalizer=6)
    summed = problem.but(normalizer=None, reduction="sum")
    truth = evaluate(problem)
    one, other = backend.loss(problem, "float32"), backend.loss(summed, "float32") / 6
    assert_close(one, other, "float32", scale=float(truth.loss_scale))


@given(problem=problems())
def test_numpy_inputs_are_not_written_to(problem: Problem) -> None:
    """R21: read-only inputs work, and hold what they held."""
    before = {name: values.copy() for name, values in problem.arrays.items()}
    for values in problem.arrays.values():
        values.flags.writeable = False
    cross_entropy(**problem.arrays, **problem.options)
    cross_entropy_with_grad(**problem.arrays, **problem.options)
    for name, values in problem.arrays.items():
        np.testing.assert_array_equal(values, before[name])


def test_inputs_keep_their_values(backend: Backend, rng: Generator) -> None:
    """R21: after a call the arrays hold what they held, on every backend."""
    problem = sample(rng, "dense", class_weight=True, sample_weight="full")
    arrays = backend.place(problem, "float32")
    before = {name: backend.to_numpy(array).copy() for name, array in arrays.items()}
    backend.to_numpy(backend.on_arrays(cross_entropy, arrays, "eager", axis=-1))
    backend.to_numpy(backend.on_arrays(cross_entropy_with_grad, arrays, "eager", axis=-1)[1])
    for name, array in arrays.items():
        np.testing.assert_array_equal(backend.to_numpy(array), before[name])


def test_equal_calls_give_equal_bits(backend: Backend, mode: str, rng: Generator) -> None:
    """R21: two equal calls agree in every bit."""
    problem = sample(rng, "dense", batch=(40,), classes=30, sample_weight="full")
    first, second = (backend.closed_form(problem, "float32", mode) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
