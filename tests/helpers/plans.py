"""Problems by their shapes, for tests that need no array."""

from typing import Any

from unified_loss._plan import make_plan
from unified_loss._shapes import same_size
from unified_loss._types import Options, Plan, Problem, Spec

Shape = tuple[Any, ...] | None
DEFAULTS = {
    "axis": None,
    "ignore_index": -100,
    "label_smoothing": 0.0,
    "z_loss": 0.0,
    "reduction": "mean",
    "check": "auto",
}
FLOATING = ("float16", "bfloat16", "float32", "float64")
INTEGER = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


class Symbol:
    """A size that a tracer knows by name alone: it equals itself, and perhaps others."""


M, N = Symbol(), Symbol()


class Indexed:
    """A number by `__index__` alone."""

    def __index__(self) -> int:
        return 1


class Floated:
    """A number by `__float__` alone."""

    def __float__(self) -> float:
        return 0.25


def problem(logits: Shape = (4, 3), labels: Shape = (4,), dtypes: str = "float32 int64",
            **given: Any) -> Problem:  # fmt: skip
    """A call by its shapes; weights and normalizer are given as `(shape, dtype)`."""
    logits_dtype, labels_dtype = dtypes.split()
    arrays = [given.pop(name, None) for name in ("class_weight", "sample_weight", "normalizer")]
    options = {**DEFAULTS, **given}
    return Problem(
        Spec("numpy", logits, logits_dtype),
        Spec("numpy", labels, labels_dtype),
        *(array and Spec("numpy", *array) for array in arrays),
        options=Options(**options),
        same=same_size,
    )


def plan(*arguments: Any, **given: Any) -> Plan:
    """The plan of `problem`."""
    return make_plan(problem(*arguments, **given))
