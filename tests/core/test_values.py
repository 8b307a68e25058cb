"""The loss against the float64 reference, on every backend."""

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate, assert_close, compute_dtype, native_loss
from tests.helpers.backends import BACKENDS, Backend
from tests.helpers.problems import LabelKind, Problem, sample
from tests.helpers.strategies import dtypes, problems
from tests.helpers.variants import REDUCTIONS, VARIANTS, combinations, holds_for_any


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_is_the_formula(
    backend: Backend, mode: str, dtype: str, variant: str, rng: Generator
) -> None:
    """R10, R11, R12, R13, R14, R20: every kind, reduction, weight and option is the formula."""
    for kind, reduction in combinations(backend, mode, dtype, variant):
        problem = sample(rng, kind, reduction=reduction, **VARIANTS[variant])
        if kind != "dense":
            problem.labels.reshape(-1)[:1] = -100
        assert_accurate(backend.loss(problem, dtype, mode), problem, dtype)


def test_loss_is_the_formula_for_any_call(backend: Backend, mode: str) -> None:
    """R3, R4, R7, R10 to R16: any legal call has the loss of the formula."""

    def check(problem: Problem, dtype: str) -> None:
        assert_accurate(backend.loss(problem, dtype, mode), problem, dtype)

    holds_for_any(backend, mode, check, problem=problems(), dtype=dtypes(backend))


def scattered(problem: Problem, backend: Backend, dtype: str, rng: Generator) -> Problem:
    """The problem with arbitrary logits of a dtype, and label rows that sum to 1."""
    logits = (5 * rng.standard_normal(problem.logits.shape)).astype(np.float32)
    with backend.precision(dtype):
        held = backend.to_numpy(backend.asarray(logits, dtype))
    labels = problem.labels
    if not problem.has_index_labels:
        labels = labels / labels.sum(problem.class_axis, keepdims=True)
    return problem.but(logits=held, labels=labels)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_error_is_at_most_the_native_one(
    backend: Backend, dtype: str, kind: LabelKind, classes: int, rng: Generator
) -> None:
    """R20: with arbitrary float32 numbers the error is the native one plus at most 4 ulp."""
    for reduction in REDUCTIONS:
        problem = sample(rng, kind, batch=(20,), classes=classes, reduction=reduction)
        problem = scattered(problem, backend, dtype, rng)
        assert_accurate(backend.loss(problem, dtype), problem, dtype, backend=backend)


def test_error_of_heavy_rows_is_at_most_the_native_one(backend: Backend, rng: Generator) -> None:
    """R20: the same for multi-hot rows whose labels sum to hundreds."""
    for dtype in backend.floats:
        problem = sample(rng, "dense", batch=(20,), classes=1000, reduction="none")
        problem = scattered(problem, backend, dtype, rng).but(labels=problem.labels)
        assert_accurate(backend.loss(problem, dtype), problem, dtype, backend=backend)


def test_result_has_the_promised_dtype_library_and_shape(
    backend: Backend, mode: str, dtype: str, rng: Generator
) -> None:
    """R20, R21: halves give float32, the rest their own dtype; shape B, or () when reduced."""
    cases = ("kept", "none", (3, 2)), ("index", "sum", ()), ("dense", "mean", ())
    for kind, reduction, shape in cases:
        loss = backend.call(sample(rng, kind, batch=(3, 2), reduction=reduction), dtype, mode)
        assert backend.owns(loss)
        assert backend.dtype_name(loss) == compute_dtype(dtype)
        assert tuple(loss.shape) == shape


def test_wide_labels_and_weights_do_not_widen_the_result(backend: Backend, rng: Generator) -> None:
    """R4, R7, R21: labels and weights are cast to the compute dtype; the logits alone decide."""
    problem = sample(rng, "dense", class_weight=True, sample_weight="full")
    for dtype in {"float64", "int64", "uint8", "float32"} & {*backend.floats, "int64", "uint8"}:
        wide = problem.but(
            labels=problem.labels.astype(dtype),
            class_weight=problem.class_weight.astype(dtype),
            sample_weight=problem.sample_weight.astype(dtype),
        )
        loss = backend.call(wide, "float32")
        assert backend.dtype_name(loss) == "float32"
        assert_accurate(backend.to_numpy(loss), wide, "float32")


def test_numpy_gives_its_scalar(rng: Generator) -> None:
    """R21: a reduced NumPy loss is NumPy's scalar."""
    from unified_loss import cross_entropy

    problem = sample(rng)
    assert isinstance(cross_entropy(problem.logits, problem.labels), np.float32)


def test_mean_divides_by_the_mass_or_the_normalizer(backend: Backend, mode: str) -> None:
    """R12, R14: by Σ s·w_y; a normalizer, number or 0-d array, takes its place."""
    problem = Problem(
        np.zeros((3, 2), np.float32),
        np.array([0, 1, 1]),
        1,
        -1,
        class_weight=np.array([1, 3], np.float32),
        sample_weight=np.array([2, 1, 0], np.float32),
    )
    total, mass = np.log(2) * (2 * 1 + 1 * 3), 2 * 1 + 1 * 3
    assert_close(backend.loss(problem, "float32", mode), np.asarray(total / mass), "float32")
    by_number = problem.but(normalizer=8)
    assert_close(backend.loss(by_number, "float32", mode), np.asarray(total / 8), "float32")
    arrays = backend.place(problem, "float32") | {
        "normalizer": backend.asarray(np.array(8, np.float32))
    }
    from unified_loss import cross_entropy

    loss = backend.to_numpy(backend.on_arrays(cross_entropy, arrays, mode))
    assert_close(loss, np.asarray(total / 8), "float32")


def test_smoothing_weights_each_class_by_its_own(backend: Backend, mode: str) -> None:
    """R11: every class gets ε/C, C the size of the class axis, weighted by its own w_c."""
    weight = np.array([1, 2, 5], np.float32)
    problem = Problem(
        np.zeros((1, 3, 2), np.float32),
        np.array([[0, 1]]),
        1,
        1,
        class_weight=weight,
        label_smoothing=0.5,
        reduction="none",
    )
    own, spread = 0.5 * weight[:2], 0.5 / 3 * weight.sum()
    truth = (own + spread) * np.log(3)
    assert_close(backend.loss(problem, "float32", mode), truth[None], "float32", scale=1)


def test_large_sums_do_not_drift(backend: Backend, dtype: str) -> None:
    """R20: a half-precision sum of 10,000 examples neither overflows nor stagnates."""
    logits = np.tile(np.array([[0, 8]], np.float32), (10_000, 1))
    compute = compute_dtype(dtype)
    for reduction in ("sum", "mean"):
        problem = Problem(logits, np.zeros(len(logits), int), 1, -1, reduction=reduction)
        one = 8 + np.log1p(np.exp(np.longdouble(-8)))
        truth = one * len(logits) if reduction == "sum" else one
        native = native_loss(problem, compute, backend)
        assert_close(backend.loss(problem, dtype), truth, compute, native=native)


def test_mlx_float64_has_float32_precision(rng: Generator, installed: list[Backend]) -> None:
    """R20: MLX's `exp` rounds float64 to float32's precision; a float64 loss is as good as that."""
    mlx = BACKENDS["mlx"]
    if mlx not in installed:
        pytest.skip("mlx is not under test")
    problem = sample(rng, reduction="none")
    loss = mlx.call(problem, "float64")
    assert mlx.dtype_name(loss) == "float64"
    assert_accurate(mlx.to_numpy(loss), problem, "float32")
    exact = np.exp(np.float64(0.3))
    assert mlx.to_numpy(mlx.library.xp.exp(mlx.asarray(np.float64(0.3)))) != pytest.approx(
        exact, 1e-10
    )
