"""The sums of a call, on every backend."""

from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import compute_dtype
from tests.helpers.backends import Backend
from tests.helpers.problems import LabelKind, Problem, sample
from tests.helpers.strategies import dtypes, problems
from tests.helpers.totals import Expected, expected, options_of
from tests.helpers.variants import VARIANTS, holds_for_any
from unified_loss import ArgumentError, LossInputError, Totals, cross_entropy, cross_entropy_totals

KINDS: tuple[LabelKind, ...] = ("index", "kept", "dense")


def totals(
    backend: Backend, problem: Problem, dtype: str = "float32", mode: str = "eager"
) -> Totals:
    """The totals as arrays of the library."""
    with backend.precision(dtype):
        arrays = backend.place(problem, dtype)
        return backend.on_arrays(cross_entropy_totals, arrays, mode, **options_of(problem))


def numbers(backend: Backend, found: Totals, dtype: str = "float32") -> Expected:
    """The same in float64."""
    with backend.precision(dtype):
        return Expected(*(float(backend.to_numpy(each)) for each in found))


def assert_agree(found: Expected, problem: Problem, dtype: str) -> None:
    """The formula, to rounding."""
    eps = np.finfo(compute_dtype(dtype)).eps
    if dtype == "float64":
        eps = max(eps, 2.0**-50)
    size = max(1, problem.logits.size)
    np.testing.assert_allclose(found, expected(problem), rtol=64 * eps, atol=64 * size * eps)
    assert found.count == expected(problem).count


@pytest.mark.parametrize("variant", VARIANTS)
def test_totals_are_the_formula(
    backend: Backend, mode: str, dtype: str, variant: str, rng: Generator
) -> None:
    """R35: every kind of label, weight and option."""
    turn = list(VARIANTS).index(variant) + backend.floats.index(dtype)
    for kind in KINDS if mode not in backend.compiles else KINDS[turn % 3 :][:1]:
        problem = sample(rng, kind, **VARIANTS[variant])
        if kind != "dense":
            problem.labels.reshape(-1)[:1] = -100
        reference = "float32" if backend.name == "mlx" else dtype  # of which `exp` is as good
        assert_agree(
            numbers(backend, totals(backend, problem, dtype, mode), dtype), problem, reference
        )


def test_totals_are_the_formula_for_any_call(backend: Backend, mode: str) -> None:
    """R35: any legal call."""

    def check(problem: Problem, dtype: str) -> None:
        reference = "float32" if backend.name == "mlx" else dtype
        assert_agree(
            numbers(backend, totals(backend, problem, dtype, mode), dtype), problem, reference
        )

    holds_for_any(backend, mode, check, problem=problems(reduction="sum"), dtype=dtypes(backend))


def test_totals_have_the_library_of_the_logits(backend: Backend, mode: str, dtype: str) -> None:
    """R21, R35: 0-d arrays, of the loss's dtype but for the count."""
    problem = sample(np.random.default_rng(0), batch=(3, 2), ignored=1)
    found = totals(backend, problem, dtype, mode)
    assert isinstance(found, Totals)
    for each in found:
        assert tuple(each.shape) == ()
        assert backend.owns(each)
    assert {backend.dtype_name(each) for each in found[:-1]} == {compute_dtype(dtype)}
    assert backend.dtype_name(found.count) in {"int32", "int64"}


def test_loss_and_mass_are_those_of_the_loss(backend: Backend, mode: str, rng: Generator) -> None:
    """R13, R14, R35: their quotient is the mean."""
    problem = sample(rng, "dense", **VARIANTS["everything"])
    loss, mass, *_ = numbers(backend, totals(backend, problem, mode=mode))
    mean = backend.loss(problem.but(reduction="mean"), "float32", mode)
    assert loss / mass == pytest.approx(float(mean), 1e-5)


def test_dropped_rows_add_nothing(backend: Backend, mode: str, rng: Generator) -> None:
    """R16, R35: whatever they hold."""
    for kind in KINDS if mode not in backend.compiles else KINDS[:1]:
        problem = sample(rng, kind, batch=(5,), sample_weight="full", class_weight=True)
        problem = problem.but(label_smoothing=0.125, z_loss=0.5)
        problem.sample_weight[:3] = 0
        problem.logits[:3] = np.array([[np.nan], [np.inf], [-np.inf]])
        if kind == "dense":
            problem.labels[0, 0] = np.nan
        else:
            problem.labels.reshape(-1)[0] = 77
        kept = problem.but(
            **{name: getattr(problem, name)[3:] for name in ("logits", "labels", "sample_weight")}
        )
        found = numbers(backend, totals(backend, problem, mode=mode))
        assert_agree(found, kept, "float32")


def test_rows_without_a_loss_are_no_numbers(backend: Backend, mode: str) -> None:
    """R18, R35: NaN for rows of nothing but -inf and for NaN; +inf at a masked class."""
    bad = np.array([[-np.inf, -np.inf], [np.nan, 0], [np.inf, 0]], np.float32)
    for row in bad if mode not in backend.compiles else bad[:1]:
        problem = Problem(row[None], np.array([0]), 1, -1)
        found = numbers(backend, totals(backend, problem, mode=mode))
        assert np.isnan([found.loss, found.nll, found.correct, found.confidence]).all()
        assert (found.mass, found.weight, found.count) == (1, 1, 1)
    masked = Problem(np.array([[0, -np.inf]], np.float32), np.array([1]), 1, -1)
    found = numbers(backend, totals(backend, masked, mode=mode))
    assert found == Expected(np.inf, 1, np.inf, 1, 0, 1, 1)


def test_nll_counts_a_masked_class_of_weight_zero(backend: Backend) -> None:
    """R35: the options have no part in it, where they take the loss of the label away."""
    problem = Problem(
        np.array([[0, 0, -np.inf]], np.float32),
        np.array([2]),
        1,
        -1,
        class_weight=np.array([1, 1, 0], np.float32),
        label_smoothing=0.5,
    )
    found = numbers(backend, totals(backend, problem))
    assert np.isfinite(found.loss)
    assert found[2:] == (np.inf, 1, 0, 0.5, 1)


def test_class_ids_out_of_range_are_no_numbers(backend: Backend, mode: str) -> None:
    """R17, R35: an error where they are read, else NaN, and they count."""
    problem = Problem(np.zeros((2, 3), np.float32), np.array([0, 3]), 1, -1)
    if not backend.poisons(mode):
        with pytest.raises(LossInputError, match=r"class ids in \[0, 3\)"):
            totals(backend, problem, mode=mode)
        return
    found = numbers(backend, totals(backend, problem, mode=mode))
    assert np.isnan([found.loss, found.nll, found.correct]).all()
    assert (found.mass, found.weight, found.count) == (2, 2, 2)
    assert found.confidence == pytest.approx(2 / 3)


def test_all_rows_are_counted(backend: Backend, mode: str) -> None:
    """R35: also where class weights alone say whether they are dropped."""
    weight = np.array([0, 0.5, 0], np.float32)
    problem = Problem(
        np.zeros((4, 3), np.float32), np.array([0, 0, 1, 2]), 1, -1, class_weight=weight
    )
    for each in (problem.but(label_smoothing=0.5), problem):
        for weights in (weight, 0 * weight) if mode not in backend.compiles else (weight,):
            assert_agree(
                numbers(backend, totals(backend, each.but(class_weight=weights), mode=mode)),
                each.but(class_weight=weights),
                "float32",
            )


def test_ties_are_correct(backend: Backend, mode: str) -> None:
    """R35: where the label's logit is the largest, alone or not."""
    logits = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1 + 2**-7], [2, 2, 2]], np.float32)
    ids = Problem(logits, np.array([0, 2, 1, 2]), 1, -1)
    assert numbers(backend, totals(backend, ids, mode=mode)).correct == 2
    rows = np.array([[0.5, 0.5, 0], [0, 0, 1], [0.25, 0.5, 0.25], [0, 0.5, 0.5]], np.float32)
    dense = ids.but(labels=rows)
    assert numbers(backend, totals(backend, dense, mode=mode)).correct == 2


def test_shifts_and_large_logits_change_nothing(backend: Backend) -> None:
    """R19, R35: no probability is computed that underflows."""
    logits = np.array([[0, 120], [30000, 29880]], np.float32)
    found = numbers(backend, totals(backend, Problem(logits, np.array([0, 1]), 1, -1)))
    assert found == Expected(240, 2, 240, 2, 0, 2, 2)


def test_nothing_is_zero(backend: Backend, mode: str) -> None:
    """R15, R35: without examples, and with all of them dropped."""
    dropped = Problem(np.full((2, 3), np.nan, np.float32), np.array([-100, -100]), 1, -1)
    for problem in (dropped, dropped.but(logits=dropped.logits[:0], labels=dropped.labels[:0])):
        if problem.logits.size or mode not in backend.compiles:
            assert numbers(backend, totals(backend, problem, mode=mode)) == (0,) * 7


def test_parts_add_up_to_the_whole(backend: Backend, mode: str, rng: Generator) -> None:
    """R34, R35: entry by entry, by `+` and by `sum`."""
    problem = sample(rng, batch=(8,), class_weight=True, sample_weight="full", ignored=2)
    names = ("logits", "labels", "sample_weight")
    parts = []
    for part in (slice(2), slice(2, 5), slice(5, 8)):
        piece = problem.but(**{name: getattr(problem, name)[part] for name in names})
        parts.append(totals(backend, piece, mode=mode))
    whole = numbers(backend, totals(backend, problem, mode=mode))
    for added in (parts[0] + parts[1] + parts[2], sum(parts), sum(parts, Totals.zero())):
        assert isinstance(added, Totals)
        np.testing.assert_allclose(numbers(backend, added), whole, rtol=1e-6)


def test_totals_compute_numbers_of_python(backend: Backend, rng: Generator) -> None:
    """R35, R36: loss, perplexity, accuracy, confidence, count and mass."""
    problem = sample(rng, class_weight=True, ignored=1, label_smoothing=0.125)
    found = totals(backend, problem).compute()
    truth = expected(problem)
    assert found.loss == pytest.approx(truth.loss / truth.mass, 1e-5)
    assert found.perplexity == pytest.approx(np.exp(truth.nll / truth.weight), 1e-5)
    assert found.accuracy == pytest.approx(truth.correct / truth.weight)
    assert found.confidence == pytest.approx(truth.confidence / truth.weight, 1e-5)
    assert (found.count, found.mass) == (5, pytest.approx(truth.mass))
    assert [type(each) for each in found] == [float] * 4 + [int, float]


def test_totals_add_to_totals_alone() -> None:
    """R25, R35: a tuple is not joined to them."""
    one = cross_entropy_totals(np.zeros((2, 3)), np.array([0, 1]))
    mistakes: tuple[Any, ...] = ((1, 2), 1, None)
    for other in mistakes:
        with pytest.raises(ArgumentError, match="Totals add to Totals, not"):
            one + other
    with pytest.raises(ArgumentError, match="not int"):
        1 + one
    with pytest.raises(ArgumentError, match="cross_entropy_totals has no argument 'reduction'"):
        cross_entropy_totals(np.zeros((2, 3)), [0, 1], reduction="mean")
    with pytest.raises(ArgumentError, match="class_weight=, a weight for each class"):
        cross_entropy_totals(np.zeros((2, 3)), [0, 1], weight=[1, 2, 3])


@pytest.mark.parametrize("classes", [5, 2000])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_add_up(backend: Backend, kind: LabelKind, classes: int, rng: Generator) -> None:
    """R29, R35: large problems are the formula, whatever they are cut into."""
    rows = 70_000 // classes
    problem = sample(
        rng, kind, batch=(rows,), classes=classes, sample_weight="full", class_weight=True,
        label_smoothing=0.25,
    )  # fmt: skip
    found = numbers(backend, totals(backend, problem))
    np.testing.assert_allclose(found, expected(problem), rtol=1e-5)


@pytest.mark.needs_autodiff
def test_loss_and_nll_are_differentiable(backend: Backend, mode: str, rng: Generator) -> None:
    """R22, R35: their gradients are those of the loss, with its options and without."""
    problem = sample(rng, class_weight=True, sample_weight="full", ignored=1, z_loss=0.5)
    plain = problem.but(class_weight=None, z_loss=0.0)
    for field, like in (("loss", problem), ("nll", plain)):
        with backend.precision("float32"):
            arrays = backend.place(problem, "float32")
            names = tuple(arrays)

            def one(*values: Any, field: str = field, names: Any = names) -> Any:
                given = dict(zip(names, values, strict=True))
                return getattr(cross_entropy_totals(**given, **options_of(problem)), field)

            function = backend.trace(one) if mode == "traced" else one
            slopes = backend.library.value_and_gradients(function, [0])(*arrays.values())[1]
            found = backend.to_numpy(slopes[0])
        (truth,) = backend.gradients(like.but(reduction="sum"), "float32", wrt=("logits",))
        np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-6)


def test_parts_with_one_normalizer_add_up(backend: Backend, mode: str, rng: Generator) -> None:
    """R34: loss and gradient of parts, by "sum" and by "mean" over one normalizer."""
    problem = sample(rng, batch=(6,), sample_weight="full", ignored=1)
    names = ("logits", "labels", "sample_weight")
    pieces = [
        problem.but(**{name: getattr(problem, name)[part] for name in names})
        for part in (slice(3), slice(3, 6))
    ]
    mass = float(expected(problem).mass)
    for options in ({"reduction": "sum"}, {"reduction": "mean", "normalizer": mass}):
        whole = problem.but(**options)
        parts = [backend.closed_form(piece.but(**options), "float32", mode) for piece in pieces]
        loss, gradient = backend.closed_form(whole, "float32", mode)
        np.testing.assert_allclose(sum(part[0] for part in parts), loss, rtol=1e-6)
        np.testing.assert_allclose(
            np.concatenate([part[1] for part in parts]), gradient, rtol=1e-6, atol=1e-7
        )
    mean = backend.loss(problem.but(reduction="mean"), "float32", mode)
    np.testing.assert_allclose(loss, mean, rtol=1e-6)


def test_count_and_weight_are_exact(backend: Backend) -> None:
    """R35, R36: the count is an integer, whatever the floats are."""
    problem = sample(np.random.default_rng(0), batch=(4099,), classes=3, ignored=7)
    found = totals(backend, problem, "float32")
    assert numbers(backend, found).count == 4092
    assert numbers(backend, found).correct == expected(problem).correct


def test_cross_entropy_is_the_quotient() -> None:
    """R14, R35: on NumPy, where results are its scalars."""
    logits = np.array([[1.0, 2.0, 3.0]])
    found = cross_entropy_totals(logits, [1])
    assert found.loss / found.mass == cross_entropy(logits, [1])
    assert all(isinstance(each, np.generic) for each in found)
