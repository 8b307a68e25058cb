"""The calls that every transformation of PyTorch is tried on."""

from collections.abc import Callable
from typing import Any

from tests.helpers.backends import BACKENDS
from tests.helpers.jax_cases import CASES, EVERYTHING, problem_of
from tests.helpers.problems import Problem
from unified_loss import cross_entropy

__all__ = [
    "CASES",
    "EVERYTHING",
    "TORCH",
    "assert_differentiable_twice",
    "loss_in",
    "problem_of",
]

TORCH = BACKENDS["torch"]


def loss_in(
    problem: Problem, *names: str, dtype: str = "float32", **options: Any
) -> tuple[Callable[..., Any], list[Any]]:
    """The loss as a function of the arguments `names`, and their values."""
    arrays = TORCH.place(problem, dtype)

    def loss(*values: Any) -> Any:
        given = {**arrays, **dict(zip(names, values, strict=True))}
        return cross_entropy(**given, **problem.options | options)

    return loss, [TORCH.asarray(problem.arrays[name], dtype) for name in names]


def assert_differentiable_twice() -> None:
    """A loss with a dropped row has the first and second derivatives of its differences."""
    import torch

    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, -100, 4])

    def loss(x: torch.Tensor) -> torch.Tensor:
        return cross_entropy(x, labels, label_smoothing=0.25, z_loss=0.5)

    assert torch.autograd.gradcheck(loss, x)
    assert torch.autograd.gradgradcheck(loss, x)
