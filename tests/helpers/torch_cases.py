"""The calls that every transformation of PyTorch is tried on."""

from collections.abc import Callable
from typing import Any

from tests.helpers.backends import BACKENDS
from tests.helpers.jax_cases import CASES, EVERYTHING, problem_of
from tests.helpers.problems import Problem
from unified_loss import cross_entropy

__all__ = ["CASES", "EVERYTHING", "TORCH", "loss_in", "problem_of"]

TORCH = BACKENDS["torch"]


def loss_in(
    problem: Problem, *names: str, dtype: str = "float32", **options: Any
) -> tuple[Callable[..., Any], list[Any]]:
    """The loss as a function of the arguments `names`, and their values."""
    arrays = TORCH.place(problem, dtype)

    def loss(*values: Any) -> Any:
        given = arrays | dict(zip(names, values, strict=True))
        return cross_entropy(**given, **problem.options | options)

    return loss, [TORCH.asarray(problem.arrays[name], dtype) for name in names]
