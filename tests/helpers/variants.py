"""The deterministic grid: every label kind, weight and option at least once."""

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
from hypothesis import strategies as st

from tests.helpers.backends import Backend
from tests.helpers.problems import LabelKind
from unified_loss import SingleClassWarning

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "channels_first": {"batch": (2, 3, 2), "class_axis": 1},
    "unbatched": {"batch": ()},
    "class_weight": {"class_weight": True},
    "sample_weight": {"batch": (3, 2), "sample_weight": "first"},
    "mask": {"sample_weight": "mask", "z_loss": 0.25},
    "smoothing": {"label_smoothing": 0.125},
    "all_smoothing": {"label_smoothing": 1.0, "class_weight": True},
    "z_loss": {"z_loss": 0.5, "sample_weight": "full"},
    "everything": {
        "batch": (3, 4),
        "class_axis": 1,
        "class_weight": True,
        "sample_weight": "full",
        "label_smoothing": 0.25,
        "z_loss": 0.125,
    },
}
KINDS: tuple[LabelKind, ...] = ("index", "kept", "dense")
REDUCTIONS = ("none", "sum", "mean")


def combinations(
    backend: Backend, mode: str, dtype: str, variant: str
) -> list[tuple[LabelKind, str]]:
    """Pairs of label kind and reduction: all nine, or a single one where every call compiles.

    Over the variants each dtype meets each pair.
    """
    pairs = list(itertools.product(KINDS, REDUCTIONS))
    if mode not in backend.compiles:
        return pairs
    turn = list(VARIANTS).index(variant) + 2 * backend.floats.index(dtype)
    return [pairs[turn % len(pairs)]]


def holds_for_any(
    backend: Backend, mode: str, check: Callable[..., None], **strategies: st.SearchStrategy[Any]
) -> None:
    """Run a property; where every example compiles something, on a fifth of the examples."""
    examples = hypothesis.settings.default.max_examples
    if mode in backend.compiles:
        examples = max(1, examples // 5)
    hypothesis.settings(max_examples=examples)(hypothesis.given(**strategies)(check))()


@contextlib.contextmanager
def warned_of_one_class(mode: str) -> Iterator[None]:
    """R9's warning: a traced call may give it, an eager one must."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    kinds = {warning.category for warning in caught}
    assert kinds == {SingleClassWarning} or (mode == "traced" and not kinds)
