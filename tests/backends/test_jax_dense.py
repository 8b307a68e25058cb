"""The loss of dense labels on JAX: one pass where all is finite, and care where it is not."""

import numpy as np
import pytest

from tests.helpers.accuracy import assert_accurate
from tests.helpers.backends import BACKENDS
from tests.helpers.problems import sample
from unified_loss import cross_entropy

jax = pytest.importorskip("jax")
JAX = BACKENDS["jax"]

ROWS = {
    "all count": lambda logits, labels: None,
    "some are nothing": lambda logits, labels: labels.__setitem__(slice(3), 0),
    "none counts": lambda logits, labels: labels.__setitem__(slice(None), 0),
    "some cost nothing": lambda logits, labels: (
        labels.__setitem__(0, np.eye(labels.shape[1])[1]),
        logits.__setitem__((0, 1), 200),
    ),
    "masked": lambda logits, labels: (
        labels.__setitem__((slice(None), 2), 0),
        logits.__setitem__((slice(None), 2), -np.inf),
    ),
    "garbage is dropped": lambda logits, labels: (
        labels.__setitem__(0, 0),
        logits.__setitem__(0, np.nan),
    ),
}


@pytest.fixture(autouse=True)
def _selected(installed):
    if JAX not in installed:
        pytest.skip("jax is not under test")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("rows", ROWS)
def test_rows_that_take_care_are_accurate(rows, reduction, rng):
    """R14 to R16, R18: whether or not one pass proves enough."""
    problem = sample(rng, "dense", batch=(8,), classes=5, reduction=reduction)
    ROWS[rows](problem.logits, problem.labels)
    loss = JAX.loss(problem, "float32")
    assert_accurate(loss, problem, "float32")
    assert loss != 0 or not np.signbit(loss)


def test_mapped_losses_are_those_of_each(rng):
    """R22: by the careful way, since a branch for each would be both for all."""
    logits, labels = rng.random((2, 3, 8, 5), dtype=np.float32)
    labels[1, 2] = 0
    each = [cross_entropy(x, t) for x, t in zip(jax.numpy.asarray(logits), labels, strict=True)]
    for one, other, axes in ((logits, labels, 0), (logits, labels[0], (0, None))):
        mapped = jax.jit(jax.vmap(cross_entropy, in_axes=axes))(one, other)
        alone = each if axes == 0 else [cross_entropy(jax.numpy.asarray(x), other) for x in one]
        np.testing.assert_allclose(mapped, alone, rtol=1e-6)
