"""R16, R18: what weights and labels learn of dropped rows and masked classes."""

from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.backends import Backend
from tests.helpers.reference import central_differences
from tests.linear.cases import Linear, assert_all_near, autodiff, closed_form, linear
from tests.linear.conftest import by_classes

KEPT = 3  # rows; all others are dropped, and hold garbage
GARBAGE = ([np.nan, 1, 2], [0, np.inf, 1], [3e38, -3e38, 3e38])


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk by classes."""
    by_classes(monkeypatch)


@pytest.fixture(params=["two_steps", "classes"])
def way(request: pytest.FixtureRequest) -> None:
    """Both ways of a call whose weights have gradients."""
    if request.param == "classes":
        request.getfixturevalue("tiles")


def dropped(rng: Generator, kind: Any, by: str, **options: Any) -> Linear:
    """A call whose last rows are dropped, each in one of the ways that the options have."""
    case = linear(rng, kind, bias=True, class_weight="class" in by, **options)
    hidden, weight = case.hidden.copy(), 8 * case.weight
    hidden[KEPT:] = GARBAGE
    labels, ids = case.problem.labels.copy(), [0, 1, 3, 2, 2, 2]
    labels[...] = np.eye(5)[ids] if kind == "dense" else ids
    case = case.but(hidden=hidden, weight=weight, labels=labels)
    if "class" in by:
        case.problem.class_weight[2] = 0
    if "sample" in by:
        case = case.but(sample_weight=np.array([1, 0, 2, 0, 1, 1], np.float32))
    if "label" in by:
        labels[-1] = 0 if kind == "dense" else -100
    if by == "label":
        labels[KEPT:] = 0
    return case


def of_rows(case: Linear, rows: slice) -> Any:
    """The problem of the logits of some rows."""
    x = case.hidden[rows].astype(np.longdouble) @ case.weight.T + case.bias
    per_row = {
        name: getattr(case.problem, name)[rows]
        for name in ("labels", "sample_weight")
        if getattr(case.problem, name) is not None
    }
    return case.problem.but(logits=x, **per_row)


CASES: dict[str, dict[str, Any]] = {
    "sample class label": {"kind": "index", "z_loss": 0.125},
    "class": {"kind": "index", "ignore_index": None, "reduction": "sum"},
    "sample class label, dense": {"kind": "dense", "z_loss": 0.125},
    "label": {"kind": "dense", "label_smoothing": 0.25},
}


@pytest.mark.needs_autodiff
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("by", CASES)
def test_weights_learn_nothing_from_hidden_states_without_an_lse(
    backend: Backend, by: str, rng: Generator
) -> None:
    """R16, R30: they have gradients of 0 there, and true ones in all other rows."""
    case = dropped(rng, by=by, **CASES[by])
    learn = [name for name in case.arrays if name != "labels" or case.problem.labels.ndim == 2]
    slopes = dict(zip(learn, autodiff(backend, case, "float32", wrt=learn), strict=True))
    assert all(np.all(np.isfinite(slope)) for slope in slopes.values())
    rest = of_rows(case, slice(KEPT))
    for name in learn[3:]:
        found = slopes[name] if name == "class_weight" else slopes[name][:KEPT]
        truth = central_differences(rest, name)
        scale = 2e-6 * max(1, np.abs(truth).max())
        np.testing.assert_allclose(found, truth, 2e-5, scale, err_msg=name)
        if name != "class_weight":
            np.testing.assert_array_equal(slopes[name][KEPT:], 0, err_msg=name)
    np.testing.assert_array_equal(slopes["hidden"][KEPT:], 0)


@pytest.mark.needs_autodiff
@pytest.mark.usefixtures("way")
def test_masses_that_cancel_are_nothing_beside_garbage(backend: Backend, rng: Generator) -> None:
    """R15: a row of garbage that counts, beside another one that takes its mass away."""
    case = linear(rng, batch=(2,), class_weight=True, z_loss=0.5)
    case = case.but(labels=np.array([1, 1]), sample_weight=np.array([1, -1], np.float32))
    case.hidden[0] = np.nan
    learn = [name for name in case.arrays if name != "labels"]
    for slope in autodiff(backend, case, "float32", wrt=learn):
        np.testing.assert_array_equal(slope, 0)


@pytest.mark.needs_autodiff
@pytest.mark.usefixtures("tiles")
def test_zero_labels_on_masked_classes_have_no_gradient(backend: Backend, rng: Generator) -> None:
    """R18: of a bias of -inf; through what the mean divides by neither."""
    case = linear(rng, "dense", bias=True, class_weight=True)
    case.bias[3], case.problem.labels[:, 3] = -np.inf, 0
    others = [0, 1, 2, 4]
    problem = of_rows(case, slice(None))
    problem = problem.but(
        logits=problem.logits[:, others],
        labels=problem.labels[:, others],
        class_weight=problem.class_weight[others],
    )
    labels, weights = autodiff(backend, case, "float32", wrt=["labels", "class_weight"])
    np.testing.assert_array_equal(labels[:, 3], 0)
    assert weights[3] == 0
    for found, name in ((labels[:, others], "labels"), (weights[others], "class_weight")):
        np.testing.assert_allclose(found, central_differences(problem, name), 2e-5, 1e-5)


@pytest.mark.usefixtures("tiles")
def test_masked_classes_of_no_weight_cost_nothing(backend: Backend, rng: Generator) -> None:
    """R16, R18: a label there, smoothed, costs what the other classes have."""
    case = linear(rng, bias=True, class_weight=True, label_smoothing=0.25, reduction="sum")
    case.bias[2], case.problem.class_weight[2], case.problem.labels[0] = -np.inf, 0, 2
    assert_all_near(closed_form(backend, case, "float32"), case, "float32")
