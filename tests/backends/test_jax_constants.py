"""R24 on JAX: operands that a jitted function closes over stay operands to XLA.

It computes whatever depends on constants alone while it compiles, entry by entry: seconds for a
sum over labels of a batch. What it has computed is missing from the program.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS
from unified_loss import cross_entropy

jax = pytest.importorskip("jax")
jnp = jax.numpy

ROWS, CLASSES = 64, 50
RNG = np.random.default_rng(7)
LABELS = RNG.random((ROWS, CLASSES), np.float32)
WEIGHTS = {
    "class_weight": RNG.random(CLASSES, np.float32),
    "sample_weight": RNG.random(ROWS, np.float32),
}
CONSTANTS: dict[str, dict[str, Any]] = {
    "dense": {"labels": LABELS},
    "boolean": {"labels": LABELS > 0.5},
    "integer": {"labels": (LABELS > 0.5).astype(np.int8)},
    "weighted": {"labels": LABELS, **WEIGHTS},
    "smoothed": {"labels": LABELS, **WEIGHTS, "label_smoothing": 0.25},
    "masked": {"labels": LABELS, "sample_weight": LABELS[:, 0] > 0.5},
    "index": {"labels": RNG.integers(0, CLASSES, ROWS), **WEIGHTS, "label_smoothing": 0.25},
    "ignored": {"labels": RNG.integers(-1, CLASSES, ROWS), "ignore_index": -1},
}


@pytest.fixture(autouse=True)
def _selected(installed: list[Any]) -> None:
    if BACKENDS["jax"] not in installed:
        pytest.skip("jax is not under test")


def reductions(function: Callable[..., Any], *arguments: Any) -> int:
    """How many of them the optimized program holds."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return len(re.findall(r" reduce(?:-window)?\(", text))


@pytest.mark.parametrize("derivative", [lambda f: f, jax.grad])
@pytest.mark.parametrize("case", CONSTANTS)
def test_constants_are_not_computed_with_while_xla_compiles(
    case: str, derivative: Callable[..., Any]
) -> None:
    """R24: a program with constants computes all that it computes with arguments."""
    logits = jnp.asarray(LABELS)
    arguments = CONSTANTS[case]
    options = {name: arguments[name] for name in arguments if np.ndim(arguments[name]) == 0}
    constants = {n: jnp.asarray(x) for n, x in arguments.items() if n not in options}

    def loss(logits: Any, given: dict[str, Any]) -> Any:
        return cross_entropy(logits, **given, **options, check=False)

    wanted = reductions(derivative(loss), logits, constants)
    assert reductions(derivative(lambda x: loss(x, constants)), logits) == wanted
    nested = jax.jit(loss)
    assert reductions(derivative(lambda x: nested(x, constants)), logits) == wanted


@pytest.mark.parametrize("derivative", [lambda f: f, jax.grad])
def test_labels_made_of_one_number_are_not_computed_with(derivative: Callable[..., Any]) -> None:
    """R24: nor are labels that are filled in the jitted function."""
    logits = jnp.asarray(LABELS)

    def filled(logits: Any) -> Any:
        return cross_entropy(logits, jnp.full(logits.shape, 1 / CLASSES))

    assert reductions(derivative(filled), logits) == reductions(
        derivative(cross_entropy), logits, logits
    )
