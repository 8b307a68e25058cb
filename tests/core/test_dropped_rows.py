"""R15, R16: dropped examples that hold anything, and what their weights and labels learn."""

from typing import Any

import numpy as np
import pytest

from tests.helpers.accuracy import assert_everything
from tests.helpers.backends import Backend
from tests.helpers.problems import Array, Problem
from tests.helpers.reference import central_differences

INF, NAN = np.inf, np.nan
HUGE = float(np.finfo(np.float32).max)

GARBAGE = {
    "nan": [NAN, 1, 2],
    "inf": [INF, 0, 1],
    "both infinities": [INF, -INF, 0],
    "all masked": [-INF] * 3,
    "huge": [HUGE, 0, 0],
    "huge and below": [HUGE, -HUGE, 1],
    "hugely negative": [-HUGE, 0, -HUGE],
}
WITHOUT_LSE = ("nan", "inf", "both infinities", "all masked")
WAYS = ("ignored", "weight", "mask", "class", "row")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.25},
    "z-loss": {"z_loss": 0.5},
    "class weights": {"class_weight": np.array([0.5, 2, 3], np.float32)},
    "negative class weights": {
        "class_weight": np.array([0.5, -2, 3], np.float32),
        "label_smoothing": 0.25,
    },
    "everything": {
        "class_weight": np.array([0.5, 2, 3], np.float32),
        "label_smoothing": 0.25,
        "z_loss": 0.5,
    },
}


def dropped(way: str, garbage: list[list[float]], options: dict[str, Any], form: str) -> Problem:
    """Three rows that count, then rows of garbage that are dropped in one way."""
    logits = np.array([[0, 1, 2], [2, 1, 0], [-1, 0.5, 3], *garbage], np.float32)
    gone = np.arange(len(logits)) >= 3
    ids = np.array([0, 2, 1] + [1] * len(garbage))
    problem = Problem(logits, ids, 1, -1, **options)
    if form == "one-hot":
        problem = problem.one_hot()
    if way == "ignored":
        return problem.but(labels=np.where(gone, -100, ids))
    if way == "weight":
        return problem.but(sample_weight=np.where(gone, 0, [1, 0.5, 2] + [1] * len(garbage)))
    if way == "mask":
        return problem.but(sample_weight=~gone)
    if way == "class":
        weight = np.array([0.5, 0, 3], np.float32)
        ids = np.where(gone, 1, [0, 2, 0] + [1] * len(garbage))
        return problem.but(labels=ids, class_weight=weight, label_smoothing=0.0)
    return problem.but(labels=np.where(gone[:, None], 0, problem.labels))


def learning(problem: Problem) -> list[str]:
    """The arguments with gradients, in their order."""
    is_index = problem.has_index_labels
    return [name for name in problem.arrays if name != "labels" or not is_index]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_dropped_rows_of_garbage_cost_nothing(
    backend: Backend, mode: str, way: str, options: str
) -> None:
    """R16: loss and gradient of a dropped row are exactly 0, under every option."""
    form = {"row": "one-hot", "mask": "one-hot"}.get(way, "index")
    problem = dropped(way, list(GARBAGE.values()), OPTIONS[options], form)
    assert_everything(backend, mode, problem, "float32")
    _, slope = backend.closed_form(problem.but(reduction="sum"), "float32", mode)
    np.testing.assert_array_equal(slope[3:], 0)


def with_one_nan_each(form: str, reduction: str) -> Problem:
    """Rows that a compiler shares out to threads, every other one with a weight of 0."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((59, 70)).astype(np.float32)
    gone = np.arange(59) % 2 == 1
    logits[gone, (7 * np.arange(59) % 70)[gone]] = NAN
    ids = rng.integers(0, 70, 59)
    weight = np.where(gone, 0, 1).astype(np.float32)
    problem = Problem(logits, ids, 1, -1, sample_weight=weight, reduction=reduction)
    return problem.one_hot() if form == "one-hot" else problem


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("form", ["index", "one-hot"])
def test_a_nan_anywhere_costs_nothing(
    backend: Backend, mode: str, form: str, reduction: str
) -> None:
    """R16: the maxima of XLA on a processor lose one, and its sums do not."""
    assert_everything(backend, mode, with_one_nan_each(form, reduction), "float32")


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("z_loss", [0, 0.5])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("form", ["index", "one-hot"])
def test_weights_learn_nothing_from_a_nan_anywhere(
    backend: Backend, mode: str, form: str, reduction: str, z_loss: float
) -> None:
    """R16: through the denominator and the squared log-sum-exp neither."""
    problem = with_one_nan_each(form, reduction).but(z_loss=z_loss)
    (slope,) = backend.gradients(problem, "float32", mode, ["sample_weight"])
    assert np.all(slope[1::2] == 0)
    assert np.all(np.isfinite(slope))


def test_no_mass_beside_an_overflow_is_nothing(backend: Backend, mode: str) -> None:
    """R14: 0 times the squared log-sum-exp, which float32 cannot hold, is 0."""
    logits = np.array([[HUGE, HUGE, 0], [0, 1, 2]], np.float32)
    weight = np.array([0, 2, 1], np.float32)
    options = {"class_weight": weight, "z_loss": 0.5, "label_smoothing": 0.25}
    problem = Problem(logits, np.array([0, 2]), 1, -1, reduction="none", **options)
    assert np.all(np.isfinite(backend.loss(problem, "float32", mode)[1]))
    assert not np.any(np.isnan(backend.loss(problem, "float32", mode)))


def test_labels_whose_sums_overflow_cost_nothing(backend: Backend, mode: str) -> None:
    """R16: labels that a weight of 0 drops, each of which is finite."""
    logits = np.array([[NAN, NAN], [0, 1]], np.float32)
    labels = np.array([[-HUGE, 0], [1, 0]], np.float32)
    options = {"class_weight": np.array([0, 3], np.float32), "label_smoothing": 1.0}
    kept = np.array([0, 1], np.float32)
    problem = Problem(logits, labels, 1, -1, sample_weight=kept, reduction="sum", **options)
    assert np.isfinite(backend.loss(problem, "float32", mode))


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("row", [[NAN, 0, 0.25], [0, NAN, 0.25], [-INF, 0, INF]])
def test_a_weight_learns_nothing_where_a_label_of_zero_hides_the_garbage(
    backend: Backend, mode: str, row: list[float]
) -> None:
    """R16: the rest of the row is finite, and so is what a label multiplies."""
    labels = np.where(np.isfinite(row), [[-1, 3, 7]], 0).astype(np.float32)
    for options in ({}, {"label_smoothing": 0.25, "class_weight": np.where(labels[0], 2.0, 0)}):
        problem = Problem(
            np.array([row], np.float32),
            labels,
            1,
            -1,
            sample_weight=np.zeros(1, np.float32),
            reduction="sum",
            **options,
        )
        (slope,) = backend.gradients(problem, "float32", mode, ["sample_weight"])
        np.testing.assert_array_equal(slope, 0)


@pytest.mark.needs_autodiff
def test_huge_labels_that_are_dropped_keep_their_mass(backend: Backend, mode: str) -> None:
    """R16: what a mean divides by has its gradient, whatever the loss beside it comes to."""
    logits = np.array([[0, 1, 2], [3, 1, 0], [1, 0, 2]], np.float32)
    labels = np.array([[0.5, 0.5, 0], [0, -3e38, 7], [3e38, 3e38, 3e38]], np.float32)
    weight = np.array([1, 0, 0], np.float32)
    problem = Problem(logits, labels, 1, -1, sample_weight=weight)
    slopes = backend.gradients(problem, "float32", mode, ["logits", "sample_weight"])
    small = problem.but(labels=np.where(np.abs(labels) > 1e30, 0, labels))
    loss = backend.loss(small, "float32", mode)
    assert_everything(backend, mode, problem, "float32")
    # The own loss of the third does not exist; its mass does.
    np.testing.assert_allclose(slopes[1][2], -loss, rtol=1e-5)
    np.testing.assert_array_equal(slopes[0][1:], 0)


@pytest.mark.parametrize("name", GARBAGE)
def test_each_garbage_alone_costs_nothing(backend: Backend, name: str) -> None:
    """R16: no garbage hides another."""
    for way, form in (("ignored", "index"), ("weight", "index"), ("row", "one-hot")):
        problem = dropped(way, [GARBAGE[name]], OPTIONS["everything"], form)
        assert_everything(backend, "eager", problem, "float32")


def test_extremes_of_every_dtype_cost_nothing(backend: Backend, dtype: str) -> None:
    """R16: the largest and the smallest numbers of each dtype too."""
    largest = {
        "float16": 65504.0,
        "bfloat16": float(np.finfo(np.float32).max) * (1 - 2**-8),
        "float32": HUGE,
        "float64": float(np.finfo(np.float64).max),
    }[dtype]
    garbage = [[largest, 0, -largest], [-largest, -largest, 0], [largest] * 3]
    for way, form in (("ignored", "index"), ("weight", "one-hot"), ("row", "one-hot")):
        problem = dropped(way, [[0, 0, 0]] * 3, OPTIONS["everything"], form)
        logits = problem.logits.astype(np.float64)
        logits[3:] = garbage
        assert_everything(backend, "eager", problem.but(logits=logits), dtype)


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("form", ["index", "one-hot"])
@pytest.mark.parametrize("options", OPTIONS)
def test_weights_learn_nothing_from_rows_without_an_lse(
    backend: Backend, mode: str, options: str, form: str, reduction: str
) -> None:
    """R16: gradients in weights and labels are 0 there, and true in all other rows."""
    garbage = [GARBAGE[name] for name in WITHOUT_LSE]
    problem = dropped("weight", garbage, OPTIONS[options], form).but(reduction=reduction)
    problem.sample_weight[1] = 0
    names = [name for name in learning(problem) if name != "logits"]
    slopes = backend.gradients(problem, "float32", mode, names)
    rest = problem.but(
        logits=problem.logits[:3],
        labels=problem.labels[:3],
        sample_weight=problem.sample_weight[:3],
    )
    for name, slope in zip(names, slopes, strict=True):
        truth = central_differences(rest, name)
        close = {"rtol": 1e-5, "atol": 2e-6 * max(1, np.abs(truth).max())}
        if name == "class_weight":
            np.testing.assert_allclose(slope, truth, **close)
        else:
            np.testing.assert_allclose(slope[:3], truth, **close)
            np.testing.assert_array_equal(slope[3:], 0)


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("label", [-1, 3, 100])
def test_weights_learn_nothing_from_labels_that_are_no_class(
    backend: Backend, mode: str, label: int, reduction: str
) -> None:
    """R16: a weight of 0 drops a label out of range, whose loss does not exist."""
    problem = dropped("weight", [[3, 0, 0]], OPTIONS["everything"], "index")
    problem = problem.but(reduction=reduction)
    problem.labels[3] = label
    classes, weights = backend.gradients(
        problem, "float32", mode, ["class_weight", "sample_weight"], check=False
    )
    rest = problem.but(
        logits=problem.logits[:3], labels=problem.labels[:3], sample_weight=np.array([1, 0.5, 2])
    )
    np.testing.assert_array_equal(weights[3], 0)
    for slope, name in ((weights[:3], "sample_weight"), (classes, "class_weight")):
        truth = central_differences(rest, name)
        np.testing.assert_allclose(slope, truth, rtol=1e-5, atol=2e-6 * np.abs(truth).max())


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("smoothing", [0.0, 0.25, 1.0])
def test_rows_of_zeros_learn_under_any_smoothing(
    backend: Backend, mode: str, smoothing: float
) -> None:
    """R16: a row of zeros is dropped, and its labels get the true gradient."""
    problem = dropped("row", [[0, -0.5, 1]], {"label_smoothing": smoothing}, "one-hot")
    (slope,) = backend.gradients(problem, "float32", mode, ["labels"])
    truth = central_differences(problem.but(reduction="sum"), "labels") / 3
    np.testing.assert_allclose(slope, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_half_precision_class_weights_add_up_in_the_compute_dtype(
    backend: Backend, mode: str, precision: str
) -> None:
    """R7, R20: the slope of a weight is rounded once, not once an example."""
    logits = np.random.default_rng(1).normal(size=(4_000, 2)).astype(np.float32)
    problem = Problem(logits, np.zeros(4_000, np.int32), 1, -1, reduction="sum")
    losses = central_differences(problem.but(class_weight=np.ones(2)), "class_weight")
    problem = problem.but(class_weight=np.ones(2, precision))
    (slope,) = backend.gradients(problem, "float32", mode, ["class_weight"])
    np.testing.assert_allclose(slope[0], losses[0], rtol=2e-3)


def nothing_left() -> dict[str, Problem]:
    """Calls with nothing to average, whose labels are dense and whose weights are floating."""
    logits = np.array([[-2, 10, 0], [1, 2, 0.5]], np.float32)
    zeros = Problem(logits, np.zeros((2, 3), np.float32), 1, -1, class_weight=np.ones(3))
    ids = Problem(logits, np.array([0, 2]), 1, -1, sample_weight=np.zeros(2))
    return {
        "rows of zeros": zeros.but(class_weight=None),
        "weighted rows of zeros": zeros,
        "smoothed rows of zeros": zeros.but(label_smoothing=0.25, z_loss=0.5),
        "weights of 0": ids,
        "weights of 0, dense": ids.one_hot().but(z_loss=0.5, class_weight=np.ones(3)),
        "weights that cancel": ids.but(sample_weight=np.array([1.0, -1])),
        "masses that cancel": ids.but(
            sample_weight=np.array([1.0, 0.5]), class_weight=np.array([1.0, 1, -2])
        ),
        "ignored": ids.but(labels=np.array([-100, -100]), class_weight=np.ones(3)),
        "class weights of 0": ids.but(
            sample_weight=np.ones(2), class_weight=np.array([0.0, 1, 0]), label_smoothing=0.25
        ),
    }


# Their rows count, and only their masses add up to 0.
NOT_DROPPED = {"weights that cancel", "masses that cancel", "class weights of 0"}


def slopes_of_sum(problem: Problem, name: str) -> Array:
    """The gradient of the sum, without the mean's rule for nothing."""
    return central_differences(problem.but(reduction="sum", normalizer=None), name)


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("what", sorted(set(nothing_left()) - NOT_DROPPED))
def test_normalizer_gives_the_mean_of_nothing_its_gradients(
    backend: Backend, mode: str, what: str
) -> None:
    """R15: with a normalizer, those of R16 in weights and labels, as nothing else is divided by."""
    problem = nothing_left()[what].but(normalizer=4.0)
    np.testing.assert_array_equal(backend.loss(problem, "float32", mode), 0)
    names = learning(problem)
    logits, *slopes = backend.gradients(problem, "float32", mode, names)
    np.testing.assert_array_equal(logits, 0)
    for name, slope in zip(names[1:], slopes, strict=True):
        truth = slopes_of_sum(problem, name) / 4
        np.testing.assert_allclose(slope, truth, rtol=1e-5, atol=1e-5, err_msg=name)
