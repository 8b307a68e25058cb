"""One meaning everywhere: the backends agree with one another."""

import itertools

import pytest
from hypothesis import given
from numpy.random import Generator

from tests.helpers.accuracy import assert_close
from tests.helpers.backends import Backend
from tests.helpers.problems import Problem, sample
from tests.helpers.reference import evaluate
from tests.helpers.strategies import problems
from tests.helpers.variants import KINDS, REDUCTIONS, VARIANTS


def assert_agreement(backends: list[Backend], problem: Problem, dtype: str) -> None:
    """Every pair within 4 ulp of the larger magnitude."""
    able = [backend for backend in backends if dtype in backend.floats]
    results = [backend.closed_form(problem, dtype) for backend in able]
    truth = evaluate(problem)
    compute = "float64" if dtype == "float64" else "float32"
    for (loss, slope), (loss_2, slope_2) in itertools.combinations(results, 2):
        assert_close(loss, loss_2, compute, scale=truth.loss_scale.astype(float))
        assert_close(slope, slope_2, dtype, scale=truth.gradient_scale.astype(float))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_backends_agree(installed: list[Backend], variant: str, dtype: str, rng: Generator) -> None:
    """R10 to R14, R20, R22: loss and gradient of every pair of backends within 4 ulp."""
    for kind, reduction in itertools.product(KINDS, REDUCTIONS):
        problem = sample(rng, kind, reduction=reduction, **VARIANTS[variant])
        assert_agreement(installed, problem, dtype)


def test_backends_agree_on_any_call(installed: list[Backend]) -> None:
    """R10 to R16, R20: any legal call means the same on every pair of backends."""

    @given(problem=problems())
    def agree(problem: Problem) -> None:
        assert_agreement(installed, problem, "float32")

    agree()
