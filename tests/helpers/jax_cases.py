"""The calls that every transformation of JAX is tried on."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

from tests.helpers.backends import BACKENDS
from tests.helpers.problems import Problem, sample
from unified_loss import cross_entropy

JAX = BACKENDS["jax"]
EVERYTHING = {
    "class_weight": True,
    "sample_weight": "full",
    "label_smoothing": 0.25,
    "z_loss": 0.125,
    "normalizer": 3.5,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"ignored": 1},
    "everything": {"ignored": 1} | EVERYTHING,
    "channels_first": {"batch": (2, 3), "class_axis": 1, "sample_weight": "first"},
    "mask": {"kind": "kept", "sample_weight": "mask", "reduction": "sum"},
    "masked_class": {"classes": 4},
    "dense": {"kind": "dense"},
    "dense_everything": {"kind": "dense"} | EVERYTHING,
    "dense_masked_class": {"kind": "dense", "classes": 4, "sample_weight": "full"},
}


def problem_of(case: str, rng: Generator) -> Problem:
    """One of `CASES`; in a masked one, the last class has logits of -inf and no label."""
    problem = sample(rng, **{"batch": (4,)} | CASES[case])
    if "masked_class" not in case:
        return problem
    logits, labels = problem.logits.copy(), problem.labels.copy()
    logits[:, -1] = -np.inf
    if problem.has_index_labels:
        labels %= problem.num_classes - 1
    else:
        labels[:, -1] = 0
    return problem.but(logits=logits, labels=labels)


def loss_in(problem: Problem, *names: str, **options: Any) -> tuple[Callable[..., Any], list[Any]]:
    """The summed loss as a function of the arguments `names`, and their values."""
    arrays = JAX.place(problem, "float32")

    def total(*values: Any) -> Any:
        given = arrays | dict(zip(names, values, strict=True))
        return cross_entropy(**given, **problem.options | options).sum()

    return total, [arrays[name].astype("float32") for name in names]
