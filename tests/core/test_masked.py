"""Logits that are not finite, sizes of 0 and 1, and averages of nothing."""

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_close, assert_everything
from tests.helpers.backends import Backend
from tests.helpers.problems import Array, Problem, sample
from tests.helpers.reference import evaluate
from tests.helpers.variants import KINDS, REDUCTIONS, warned_of_one_class
from unified_loss import ShapeError

INF = np.inf


def masked(form: str = "index", **options: object) -> Problem:
    """Three rows: a masked class beside the label, two of them, none."""
    problem = Problem(
        np.array([[2, -INF, 1, 0], [-INF, 1, -INF, 0.5], [0, 1, 2, 3]], np.float32),
        np.array([0, 3, 1], np.int32),
        1,
        -1,
        **options,
    )
    return problem if form == "index" else problem.one_hot()


@pytest.mark.parametrize("form", ["index", "one-hot"])
def test_masked_classes_beside_the_label_cost_nothing(
    backend: Backend, mode: str, dtype: str, form: str
) -> None:
    """R10, R18: logits of −inf without probability there are fine: 0 · log 0 = 0."""
    problem = masked(form, reduction="none", z_loss=0.25)
    assert np.isfinite(evaluate(problem).loss).all()
    assert_everything(backend, mode, problem, dtype)


@pytest.mark.parametrize("form", ["index", "one-hot"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_target_on_a_masked_class_costs_infinity(
    backend: Backend, mode: str, form: str, reduction: str
) -> None:
    """R18: with probability on a masked class the loss is +inf, with the finite gradient of R10."""
    problem = masked("index", reduction=reduction)
    problem.labels[0] = 1
    problem = problem if form == "index" else problem.one_hot()
    truth = evaluate(problem)
    assert np.isposinf(truth.loss).any()
    assert np.isfinite(truth.gradient).all()
    assert_everything(backend, mode, problem, "float32")


@pytest.mark.parametrize("form", ["index", "one-hot"])
def test_smoothing_puts_probability_on_masked_classes(
    backend: Backend, mode: str, form: str
) -> None:
    """R11, R18: smoothing makes masked rows +inf, unless the masked class has weight 0."""
    problem = masked(form, label_smoothing=0.25, reduction="none")
    assert np.isposinf(evaluate(problem).loss).tolist() == [True, True, False]
    assert_everything(backend, mode, problem, "float32")
    weighted = problem.but(class_weight=np.array([1, 0, 1, 2], np.float32))
    assert np.isposinf(evaluate(weighted).loss).tolist() == [False, True, False]
    assert_everything(backend, mode, weighted, "float32")


@pytest.mark.parametrize("weight", [None, np.array([1, 2, 0.5, 1], np.float32)], ids=str)
def test_smoothed_label_of_a_masked_class_has_the_sign(
    backend: Backend, mode: str, weight: Array | None
) -> None:
    """R10, R11: what a masked class costs has the sign of its smoothed label, and is no NaN."""
    labels = np.array([[0.75, -1, 0.5, 0.25], [0.5, 0.5, -0.01, 1], [0, 1, 0, 0]], np.float32)
    logits = np.array([[2, -INF, 1, 0], [1, 1, -INF, 0.5], [0, 1, 2, 3]], np.float32)
    problem = Problem(
        logits, labels, 1, -1, class_weight=weight, label_smoothing=0.1, reduction="none"
    )
    truth = evaluate(problem)
    assert truth.loss[0] == -INF
    assert truth.loss[1] == INF
    assert_everything(backend, mode, problem, "float32")


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_zero_class_weight_hides_a_masked_target(
    backend: Backend, mode: str, smoothing: float
) -> None:
    """R16, R18: a label on a masked class of weight 0 costs nothing there."""
    weight = np.array([1, 0, 1, 1], np.float32)
    problem = masked(class_weight=weight, reduction="none", label_smoothing=smoothing)
    problem.labels[0] = 1
    assert_everything(backend, mode, problem, "float32")


@pytest.mark.needs_autodiff
def test_zero_label_on_a_masked_class_has_no_gradient(backend: Backend, mode: str) -> None:
    """R18, R22: for a zero label on a masked class the gradient in that label is 0."""
    problem = masked("one-hot", reduction="sum")
    (slope,) = backend.gradients(problem, "float32", mode, ["labels"])
    with np.errstate(divide="ignore"):
        p = np.exp(problem.logits.astype(np.float64))
        log_p = np.log(p / p.sum(1, keepdims=True))
    assert_close(slope, np.where(np.isinf(log_p), 0, -log_p), "float32", scale=3)


@pytest.mark.parametrize("form", ["index", "one-hot"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.5, "z_loss": 0.5}], ids=str)
def test_unusable_rows_are_nan(
    backend: Backend, mode: str, dtype: str, form: str, options: dict[str, float]
) -> None:
    """R18: rows of −inf alone, or with NaN or +inf, are NaN in loss and gradient; no others."""
    unusable = [[-INF] * 3, [0, np.nan, 1], [0, INF, 1], [INF, 0, 0], [INF] * 3, [-INF, np.nan, 0]]
    logits = np.array([*unusable, [0, 1, 2]], np.float32)
    problem = Problem(logits, np.array([0] * 6 + [2]), 1, -1, reduction="none", **options)
    problem = problem if form == "index" else problem.one_hot()
    truth = evaluate(problem)
    assert np.isnan(truth.loss).tolist() == [True] * 6 + [False]
    assert np.isnan(truth.gradient).all(1).tolist() == [True] * 6 + [False]
    assert_everything(backend, mode, problem, dtype)


@pytest.mark.parametrize("way", ["ignored", "weight", "mask", "class", "row"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_dropped_rows_may_hold_anything(
    backend: Backend, mode: str, reduction: str, way: str
) -> None:
    """R16: loss and gradient of a dropped example are exactly 0, whatever its logits hold."""
    gone = np.array([False, True, False, True, True, True, False])
    base = sample(np.random.default_rng(3), classes=3, batch=(7,), reduction=reduction, z_loss=0.5)
    ids = np.where(base.labels == 1, 2, base.labels)
    base.logits[gone] = [[np.nan] * 3, [INF] * 3, [-INF] * 3, [INF, np.nan, 0]]
    problem = base.but(
        **{
            "ignored": {"labels": np.where(gone, -100, ids)},
            "weight": {"sample_weight": np.where(gone, 0, 2).astype(np.float32)},
            "mask": {"sample_weight": ~gone},
            "class": {
                "labels": np.where(gone, 1, ids),
                "class_weight": np.array([1, 0, 2], np.float32),
            },
            "row": {"labels": np.where(gone[:, None], 0, np.eye(3)[ids]).astype(np.float32)},
        }[way]
    )
    assert_everything(backend, mode, problem, "float32")
    _, slope = backend.closed_form(problem, "float32", mode)
    np.testing.assert_array_equal(slope[gone], 0)


def _nothing_left() -> dict[str, Problem]:
    logits = np.array([[0, 1, np.nan], [2, 1, 0]], np.float32)
    ids = np.array([0, 2])
    base = Problem(logits, ids, 1, -1)
    finite = base.but(logits=np.array([[0, 1, 2], [2, 1, 0]], np.float32))
    return {
        "no example": base.but(logits=logits[:0], labels=ids[:0]),
        "all ignored": base.but(labels=np.array([-100, -100])),
        "zero weights": base.but(sample_weight=np.zeros(2, np.float32)),
        "masked out": base.but(sample_weight=np.zeros(2, bool), label_smoothing=0.5),
        "zero classes": base.but(class_weight=np.array([0, 1, 0], np.float32)),
        "zero rows": base.but(labels=np.zeros((2, 3), np.float32)),
        "masses cancel": finite.but(sample_weight=np.array([1, -1], np.float32), z_loss=0.5),
        "masses cancel over NaN": base.but(sample_weight=np.array([1, -1], np.float32)),
        "all ignored, normalizer": base.but(labels=np.array([-100, -100]), normalizer=4.0),
    }


@pytest.mark.parametrize("what", _nothing_left())
def test_mean_of_nothing_is_zero(backend: Backend, mode: str, what: str) -> None:
    """R15: the mean of nothing is exactly 0, and so is its gradient, connected to the graph."""
    problem = _nothing_left()[what]
    zeros = np.zeros(problem.logits.shape)
    np.testing.assert_array_equal(backend.loss(problem, "float32", mode), 0)
    loss, slope = backend.closed_form(problem, "float32", mode)
    np.testing.assert_array_equal(loss, 0)
    np.testing.assert_array_equal(slope, zeros)
    if backend.has_autodiff:
        (slope,) = backend.gradients(problem, "float32", mode)
        np.testing.assert_array_equal(slope, zeros)


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_no_example_is_fine(
    backend: Backend, mode: str, kind: str, shape: tuple[int, ...], rng: Generator
) -> None:
    """R9: N = 0 gives an empty loss, a sum of 0 and a gradient of the logits' shape."""
    for reduction in REDUCTIONS:
        problem = sample(rng, kind, batch=shape, sample_weight="full", reduction=reduction)
        assert_everything(backend, mode, problem, "float32")


def test_no_class_is_an_error(backend: Backend) -> None:
    """R9: C = 0 is a `ShapeError`, with and without examples."""
    for n in (0, 3):
        problem = Problem(np.zeros((n, 0), np.float32), np.zeros(n, np.int32), 1, -1)
        with pytest.raises(ShapeError):
            backend.loss(problem, "float32")


def test_single_class_costs_plus_zero_and_warns(backend: Backend, mode: str, dtype: str) -> None:
    """R9: with C = 1 the loss is +0, never −0, and a warning says that a binary loss is meant."""
    logits = np.array([[3], [-2]], np.float32)
    problem = Problem(logits, np.zeros(2, np.int32), 1, -1, reduction="none")
    with warned_of_one_class(mode):
        loss = backend.loss(problem, dtype, mode)
    np.testing.assert_array_equal(loss, 0)
    assert not np.signbit(loss).any()


@pytest.mark.parametrize("axis", [0, -1, None])
def test_unbatched_logits_work(
    backend: Backend, mode: str, axis: int | None, rng: Generator
) -> None:
    """R3, R9: logits `(C,)` take a scalar label, a `(1,)` label, or a dense row."""
    for kind in KINDS:
        problem = sample(rng, kind, batch=()).but(axis=axis)
        assert_everything(backend, mode, problem, "float32")


def test_square_batch_changes_nothing(backend: Backend, mode: str, rng: Generator) -> None:
    """R3, R5: with N = C index labels stay index labels, and 2-D logits keep their last axis."""
    problem = sample(rng, batch=(4,), classes=4, reduction="none").but(axis=None)
    assert_everything(backend, mode, problem, "float32")
