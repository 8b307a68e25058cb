"""R35 one example at a time, sharing no code with the package."""

from typing import Any, NamedTuple

import numpy as np

from tests.helpers.problems import Array, Problem
from tests.helpers.reference import evaluate, total_mass


class Expected(NamedTuple):
    """The fields of `Totals`, in float64."""

    loss: float
    mass: float
    nll: float
    weight: float
    correct: float
    confidence: float
    count: int


def expected(problem: Problem) -> Expected:
    """What the contract says of a call."""
    problem = problem.but(reduction="sum", normalizer=None)
    axis, classes = problem.class_axis, problem.num_classes
    rows = np.moveaxis(problem.logits, axis, -1).reshape(-1, classes).astype(np.float64)
    weights = problem.example_weights().reshape(-1).astype(np.float64)
    if problem.has_index_labels:
        ids = problem.ids.reshape(-1)
        kept = np.array([int(y) != problem.ignore_index for y in ids], bool)
        labels = (ids[:, None] == np.arange(classes)).astype(np.float64)
    else:
        kept = np.ones(len(rows), bool)
        labels = np.moveaxis(problem.labels, axis, -1).reshape(-1, classes).astype(np.float64)
    sums = np.zeros(4)
    count = 0
    for x, t, s, keep in zip(rows, labels, weights, kept, strict=True):
        if not keep or s == 0 or _is_silent(problem, t):
            continue
        e = np.exp(x - x.max())
        p = e / e.sum()
        nll = -sum(t[c] * np.log(p[c]) for c in range(classes) if t[c])
        is_correct = any(t[c] == t.max() and x[c] == x.max() for c in range(classes))
        sums += s * np.array([nll, 1, is_correct, p.max()])
        count += 1
    loss = float(evaluate(problem).loss)
    return Expected(loss, total_mass(problem), *sums[:2], *sums[2:], count)


def _is_silent(problem: Problem, t: Array) -> bool:
    """R16: M and every w_c t'_c are 0."""
    w = np.ones_like(t) if problem.class_weight is None else problem.class_weight.astype(float)
    smoothed = (1 - problem.label_smoothing) * t + t.sum() * problem.label_smoothing / len(t)
    return bool((w * t).sum() == 0 and not (w * smoothed).any())


def options_of(problem: Problem) -> dict[str, Any]:
    """The options that `cross_entropy_totals` takes."""
    return {
        name: value
        for name, value in problem.options.items()
        if name not in {"reduction", "normalizer"}
    }
