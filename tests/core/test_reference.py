"""The reference itself: its gradient against differences, and its value against torch."""

import numpy as np
import pytest
from hypothesis import given
from numpy.random import Generator

from tests.helpers.accuracy import assert_close, torch_can_say, torch_result
from tests.helpers.problems import Problem, sample
from tests.helpers.reference import central_differences, evaluate
from tests.helpers.strategies import problems
from tests.helpers.variants import KINDS, VARIANTS


@given(problem=problems(max_batch=2))
def test_reference_gradient_is_the_slope_of_its_loss(problem: Problem) -> None:
    """R10, R13: the closed form of the gradient is what central differences give."""
    slopes = central_differences(problem, "logits")
    truth = evaluate(problem)
    atol = 1e-8 * (1 + float(truth.gradient_scale.max(initial=0)))
    np.testing.assert_allclose(truth.gradient.astype(float), slopes, rtol=1e-8, atol=atol)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "weight" not in name])
@pytest.mark.parametrize("kind", KINDS)
def test_reference_is_torch_where_torch_says_the_same(
    kind: str, variant: str, rng: Generator
) -> None:
    """R27: where torch can say a call, the contract's number is torch's, today and later."""
    pytest.importorskip("torch")
    for reduction in ("none", "sum", "mean"):
        problem = sample(rng, kind, reduction=reduction, **VARIANTS[variant])
        if torch_can_say(problem):
            native, truth = torch_result(problem), evaluate(problem)
            assert_close(native.loss, truth.loss, "float32", scale=truth.loss_scale)
            assert_close(native.gradient, truth.gradient, "float32", scale=truth.gradient_scale)
