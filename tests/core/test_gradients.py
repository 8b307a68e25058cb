"""Gradients against the reference, and against differences of the returned value."""

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate, assert_close
from tests.helpers.backends import Backend
from tests.helpers.problems import Problem, sample
from tests.helpers.reference import central_differences, evaluate
from tests.helpers.strategies import dtypes, problems
from tests.helpers.variants import REDUCTIONS, VARIANTS, combinations, holds_for_any


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_is_the_formula(
    backend: Backend, mode: str, dtype: str, variant: str, rng: Generator
) -> None:
    """R10, R13, R14, R20, R22: autodiff gives the true gradient, rows that sum to 1 or not."""
    for kind, reduction in combinations(backend, mode, dtype, variant):
        problem = sample(rng, kind, reduction=reduction, **VARIANTS[variant])
        if kind != "dense":
            problem.labels.reshape(-1)[:1] = -100
        (slope,) = backend.gradients(problem, dtype, mode)
        assert_accurate(slope, problem, dtype, "gradient")


@pytest.mark.parametrize("variant", VARIANTS)
def test_closed_form_is_the_formula(
    backend: Backend, mode: str, dtype: str, variant: str, rng: Generator
) -> None:
    """R10, R13, R14, R20: `cross_entropy_with_grad` gives loss and gradient on every backend."""
    for kind, reduction in combinations(backend, mode, dtype, variant):
        problem = sample(rng, kind, reduction=reduction, **VARIANTS[variant])
        loss, slope = backend.closed_form(problem, dtype, mode)
        assert_accurate(loss, problem, dtype)
        assert_accurate(slope, problem, dtype, "gradient")


def test_closed_form_is_the_formula_for_any_call(backend: Backend, mode: str) -> None:
    """R10 to R16: any legal call has the gradient of the formula."""

    def check(problem: Problem, dtype: str) -> None:
        loss, slope = backend.closed_form(problem, dtype, mode)
        assert_accurate(loss, problem, dtype)
        assert_accurate(slope, problem, dtype, "gradient")

    holds_for_any(backend, mode, check, problem=problems(), dtype=dtypes(backend))


@pytest.mark.needs_autodiff
def test_gradient_is_the_formula_for_any_call(backend: Backend, mode: str) -> None:
    """R10 to R16, R22, R23: any legal call has the autodiff gradient of the formula."""

    def check(problem: Problem, dtype: str) -> None:
        (slope,) = backend.gradients(problem, dtype, mode)
        assert_accurate(slope, problem, dtype, "gradient")

    holds_for_any(backend, mode, check, problem=problems(), dtype=dtypes(backend))


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.skip_backend("mlx", reason="its float64 is no more precise than float32")
def test_closed_form_is_the_slope_of_the_returned_value(
    backend: Backend, kind: str, rng: Generator
) -> None:
    """R10, R14: in float64 the gradient is the slope of the loss that the call itself returns."""
    for reduction in REDUCTIONS:
        problem = sample(
            rng, kind, batch=(2,), classes=3, class_weight=True, sample_weight="full",
            label_smoothing=0.25, z_loss=0.125, reduction=reduction,
        )  # fmt: skip
        if kind == "dense":
            problem.labels[0] = [0, 0, 0.5]
        slopes = central_differences(
            problem, "logits", lambda changed: backend.loss(changed, "float64")
        )
        _, ours = backend.closed_form(problem, "float64")
        np.testing.assert_allclose(ours, slopes, rtol=1e-8, atol=1e-8)


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("name", ["labels", "class_weight", "sample_weight"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_of_labels_and_weights_are_true(
    backend: Backend, mode: str, name: str, reduction: str, rng: Generator
) -> None:
    """R22: gradients flow to floating dense labels and both weights, through the mean's mass."""
    for kind, smoothing in (("dense", 0.0), ("dense" if name == "labels" else "index", 0.25)):
        problem = sample(
            rng, kind, batch=(3,), classes=4, class_weight=True, sample_weight="full",
            label_smoothing=smoothing, z_loss=0.125, reduction=reduction,
        )  # fmt: skip
        truth = central_differences(problem, name)
        (slope,) = backend.gradients(problem, "float32", mode, [name])
        np.testing.assert_allclose(slope, truth, rtol=2e-6, atol=2e-6 * np.abs(truth).max())


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("garbage", [np.nan, np.inf])
@pytest.mark.parametrize("beside", [0, 1])
def test_zero_weights_still_learn(
    backend: Backend, mode: str, beside: int, garbage: float, rng: Generator
) -> None:
    """R16: a weight of 0 gets its true gradient, and 0 where the row's lse is not finite."""
    problem = sample(rng, batch=(3,), classes=4, sample_weight="full", reduction="sum")
    problem.sample_weight[:2] = 0
    losses = evaluate(problem.but(sample_weight=None, reduction="none")).loss.astype(float)
    problem.logits[1, (problem.labels[1] + beside) % 4] = garbage
    losses[1] = 0
    logits, weights = backend.gradients(problem, "float32", mode, ["logits", "sample_weight"])
    np.testing.assert_array_equal(logits[:2], 0)
    assert_close(weights, losses, "float32", scale=1)


@pytest.mark.needs_autodiff
def test_zero_class_weight_of_garbage_learns_nothing(backend: Backend, mode: str) -> None:
    """R16: the gradient in a class weight of 0 is 0 where the lse of its only row is not finite."""
    problem = Problem(
        np.array([[2, np.nan], [0, 1]], np.float32),
        np.array([0, 1], np.int32),
        1,
        -1,
        class_weight=np.array([0, 1], np.float32),
        reduction="sum",
    )
    (weights,) = backend.gradients(problem, "float32", mode, ["class_weight"])
    assert_close(weights, np.array([0, np.log1p(np.exp(-1))]), "float32", scale=1)


@pytest.mark.needs_autodiff
def test_zero_class_weight_still_learns(backend: Backend, mode: str) -> None:
    """R16: a class weight of 0 drops its examples, and still gets the gradient of their loss."""
    problem = Problem(
        np.array([[0, 1, 2], [2, 1, 0]], np.float32),
        np.array([0, 1], np.int32),
        1,
        -1,
        class_weight=np.array([0, 1, 1], np.float32),
        reduction="sum",
    )
    logits, weights = backend.gradients(problem, "float32", mode, ["logits", "class_weight"])
    losses = evaluate(problem.but(class_weight=None, reduction="none")).loss.astype(float)
    np.testing.assert_array_equal(logits[0], 0)
    assert_close(weights, np.array([losses[0], losses[1], 0]), "float32", scale=1)


@pytest.mark.needs_autodiff
def test_zero_label_rows_still_learn(backend: Backend, mode: str) -> None:
    """R16: a dense row of zeros is dropped, and its labels still get −log p."""
    problem = Problem(
        np.array([[0, 1, 2], [2, 1, 0]], np.float32),
        np.array([[0, 0, 0], [0.5, 0.5, 0]], np.float32),
        1,
        -1,
        reduction="sum",
    )
    logits, labels = backend.gradients(problem, "float32", mode, ["logits", "labels"])
    log_p = problem.logits - np.log(np.exp(problem.logits).sum(1, keepdims=True))
    np.testing.assert_array_equal(logits[0], 0)
    assert_close(labels, -log_p.astype(np.float64), "float32", scale=2)


def test_gradient_has_the_dtype_of_the_logits(
    backend: Backend, mode: str, dtype: str, rng: Generator
) -> None:
    """R20: the gradient comes back in the logits' dtype and shape, the loss in float32 or wider."""
    from unified_loss import cross_entropy_with_grad

    problem = sample(rng, batch=(2, 3), class_axis=1, sample_weight="full")
    _, gradient = backend.call(problem, dtype, mode, cross_entropy_with_grad)
    assert backend.dtype_name(gradient) == dtype
    assert tuple(gradient.shape) == problem.logits.shape
