"""What derivatives are held to."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

from tests.helpers.backends import BACKENDS
from tests.helpers.problems import Array, LabelKind, Problem, sample
from tests.helpers.reference import evaluate
from unified_loss import cross_entropy


def weighted(rng: Generator, kind: LabelKind = "index", **options: Any) -> Problem:
    """A problem with everything that can be differentiated."""
    settings = {"class_weight": True, "sample_weight": "full", "label_smoothing": 0.25}
    return sample(rng, kind, batch=(3,), classes=4, z_loss=0.125, **(settings | options))


def loss_of_logits(problem: Problem, name: str) -> Callable[[Any], Any]:
    """The loss as a function of the logits alone."""
    arrays = BACKENDS[name].place(problem, "float32")
    arrays.pop("logits")
    return lambda logits: cross_entropy(logits, **arrays, **problem.options)


def hessian(problem: Problem) -> Array:
    """Second derivatives of the reference's loss, from differences of its gradient."""
    step = np.longdouble(1e-5)
    wide = problem.logits.astype(np.longdouble)
    result = np.zeros(wide.shape * 2)
    for position in np.ndindex(wide.shape):
        ends = []
        for sign in (1, -1):
            moved = wide.copy()
            moved[position] += sign * step
            ends.append(evaluate(problem.but(logits=moved)).gradient)
        result[(..., *position)] = (ends[0] - ends[1]) / (2 * step)
    return result
