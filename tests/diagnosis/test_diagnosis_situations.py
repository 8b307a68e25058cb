"""Situations that each cause is known from, by shapes: logits, labels, and what these hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.reports import one_hot
from unified_loss import DTypeError, LossInputError, cross_entropy

TEXT = (Path(__file__).parents[1] / "data" / "situations.txt").read_text(encoding="utf-8")


def situations() -> list[tuple[str, str]]:
    """Pairs of a cause and a line."""
    pairs, cause = [], ""
    for line in TEXT.splitlines():
        if line.startswith(" "):
            pairs.append((cause, line.strip()))
        else:
            cause = line
    return pairs


def shape(text: str) -> tuple[int, ...]:
    """The shape that is written ``2x3``, or ``-`` if it has no axis."""
    return () if text == "-" else tuple(map(int, text.split("x")))


def labels(size: tuple[int, ...], dtype: str, holding: str, rest: list[str]) -> np.ndarray:
    """Labels that hold one-hot rows, real numbers or whole numbers in a range."""
    rng = np.random.default_rng(3)
    if holding == "one-hot":
        return one_hot(rng, size, int(rest[0])).astype(dtype)
    if holding == "real":
        return rng.standard_normal(size).astype(dtype)
    low, high = holding.split("..")
    if "." in low:
        return rng.uniform(float(low), float(high), size).astype(dtype)
    ids = rng.integers(int(low), int(high) + 1, size)
    if ids.size > 1:
        ids.reshape(-1)[[0, -1]] = int(low), int(high)
    return np.asarray(ids).astype(dtype)


@pytest.mark.filterwarnings("ignore::unified_loss.SingleClassWarning")
@pytest.mark.parametrize(("cause", "line"), situations())
def test_cause_is_among_the_readings(cause: str, line: str) -> None:
    """R25: the cause is shown, first or as another reading."""
    logits, dtype, size, holding, *rest = line.split()
    weights: dict[str, Any] = {}
    if "weight" in rest:
        weights["class_weight"] = np.ones(shape(rest[-1]))
    given = labels(shape(size), dtype, holding, rest)
    with pytest.raises(LossInputError) as caught:
        cross_entropy(np.zeros(shape(logits), np.float32), given, check=True, **weights)
    assert cause in [reading.tag for reading in caught.value.readings], str(caught.value)


def test_bfloat16_labels_are_looked_at() -> None:
    """R17: NumPy has no name for their kind of number."""
    dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(DTypeError) as caught:
        cross_entropy(np.zeros((3, 4)), np.array([0.5, 2.5, 1], dtypes.bfloat16))
    assert caught.value.cause == "regression_target_with_classification_loss"
