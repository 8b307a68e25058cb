"""Calls of the linear form as data, and what the contract says of them in long double.

The logits are made here, and their loss and gradient are those of `tests.helpers.reference`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

import unified_loss
from tests.helpers.backends import Backend
from tests.helpers.problems import Array, LabelKind, Problem, on_grid, sample
from tests.helpers.reference import evaluate

HEAD = ("hidden", "weight", "bias")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Linear:
    """The arguments of one call; `problem` has all but hidden, weight, bias and cap."""

    problem: Problem
    hidden: Array
    weight: Array
    bias: Array | None = None
    softcap: float | None = None

    def but(self, **changes: Any) -> "Linear":
        """The same call with other parts."""
        own = {name: changes.pop(name) for name in (*HEAD, "softcap") if name in changes}
        return dataclasses.replace(self, problem=self.problem.but(**changes), **own)

    @property
    def arrays(self) -> dict[str, Array]:
        """The array arguments that are given."""
        head = {name: getattr(self, name) for name in HEAD if getattr(self, name) is not None}
        rest = {name: one for name, one in self.problem.arrays.items() if name != "logits"}
        return head | rest

    @property
    def options(self) -> dict[str, Any]:
        """The static arguments."""
        options = {name: one for name, one in self.problem.options.items() if name != "axis"}
        return options | {"softcap": self.softcap}


class Truth(NamedTuple):
    """The loss, and the gradients of its sum."""

    loss: Array
    hidden: Array
    weight: Array
    bias: Array


def truth(case: Linear, factor: Any = 1.0) -> Truth:
    """What the contract says; `factor` is what autodiff multiplies the loss by."""
    hidden, weight = (np.asarray(part, np.longdouble) for part in (case.hidden, case.weight))
    with np.errstate(all="ignore"):
        x = hidden @ weight.T
        if case.bias is not None:
            x = x + case.bias
        slope_of_cap: Any = 1
        if case.softcap is not None:
            x = np.tanh(x / case.softcap) * case.softcap
            slope_of_cap = 1 - (x / case.softcap) ** 2
        found = evaluate(case.problem.but(logits=x))
        g = found.gradient * np.expand_dims(np.asarray(factor, np.longdouble), -1) * slope_of_cap
        g = np.where(found.gradient == 0, 0, g)
        rows, features = g.reshape(-1, g.shape[-1]), hidden.reshape(-1, hidden.shape[-1])
        features = np.where((rows == 0).all(-1, keepdims=True), 0, features)
        return Truth(found.loss, g @ weight, rows.T @ features, rows.sum(0))


def linear(
    rng: Generator,
    kind: LabelKind = "index",
    *,
    batch: tuple[int, ...] = (6,),
    classes: int = 5,
    features: int = 3,
    bias: bool = False,
    softcap: float | None = None,
    **options: Any,
) -> Linear:
    """A random call, on a grid that every floating dtype holds."""
    problem = sample(rng, kind, batch=batch, classes=classes, **options)
    hidden = on_grid(2 * rng.standard_normal((*batch, features)), 1 / 4)
    weight = on_grid(rng.standard_normal((classes, features)), 1 / 4)
    return Linear(
        problem, hidden, weight, on_grid(rng.standard_normal(classes)) if bias else None, softcap
    )


def place(backend: Backend, case: Linear, dtype: str) -> dict[str, Any]:
    """The array arguments, hidden, weight and bias in `dtype`."""
    return {
        name: backend.asarray(values, dtype if name in HEAD else None)
        for name, values in case.arrays.items()
    }


def loss(backend: Backend, case: Linear, dtype: str, mode: str = "eager") -> Array:
    """The loss in float64."""
    with backend.precision(dtype):
        function = unified_loss.linear_cross_entropy
        return backend.to_numpy(
            backend.on_arrays(function, place(backend, case, dtype), mode, **case.options)
        )


def closed_form(backend: Backend, case: Linear, dtype: str, mode: str = "eager") -> list[Array]:
    """The loss and the gradients of `linear_cross_entropy_with_grad` in float64."""
    with backend.precision(dtype):
        arrays = place(backend, case, dtype)
        value, gradients = backend.on_arrays(
            unified_loss.linear_cross_entropy_with_grad, arrays, mode, **case.options
        )
        for part, name in zip(gradients, HEAD, strict=True):
            assert (part is None) == (name not in arrays)
            if part is not None:
                assert backend.dtype_name(part) == dtype
        parts = [part for part in gradients if part is not None]
        return [backend.to_numpy(part) for part in (value, *parts)]


def autodiff(
    backend: Backend,
    case: Linear,
    dtype: str,
    mode: str = "eager",
    wrt: Sequence[str] | None = None,
    factor: Array | None = None,
) -> list[Array]:
    """The gradients of the loss, times a factor a row and summed, by autodiff, in float64."""
    with backend.precision(dtype):
        arrays = place(backend, case, dtype)
        names = tuple(arrays)
        compute = "float64" if dtype == "float64" else "float32"
        scale = None if factor is None else backend.asarray(factor, compute)

        def total(*values: Any) -> Any:
            given = dict(zip(names, values, strict=True))
            value = unified_loss.linear_cross_entropy(**given, **case.options)
            return backend.library.sum(value if scale is None else value * scale)

        wrt = [name for name in HEAD if name in arrays] if wrt is None else wrt
        places = [names.index(name) for name in wrt]
        function = backend.trace(total) if mode == "traced" else total
        _, slopes = backend.library.value_and_gradients(function, places)(*arrays.values())
        return [backend.to_numpy(slope) for slope in slopes]


ROUNDING = {"float64": 1e-13, "float32": 3e-6, "float16": 1e-3, "bfloat16": 8e-3}


def assert_near(ours: Array, true: Array, dtype: str) -> None:
    """R32: equal up to rounding, in norm; NaN and infinities at the same places."""
    ours, true = np.asarray(ours, np.float64), np.asarray(true, np.float64)
    assert ours.shape == true.shape
    finite = np.isfinite(true)
    np.testing.assert_array_equal(np.where(finite, 0, ours), np.where(finite, 0, true))
    error = np.linalg.norm((ours - true)[finite])
    assert error <= ROUNDING[dtype] * max(1e-2, np.linalg.norm(true[finite])), (ours, true)


def assert_all_near(found: Sequence[Array], case: Linear, dtype: str, factor: Any = 1.0) -> None:
    """The gradients of hidden, weight and bias, after the loss if that is there."""
    true = truth(case, factor)
    gradients = true[1:] if case.bias is not None else true[1:3]
    if len(found) > len(gradients):
        assert_near(found[0], true.loss, "float64" if dtype == "float64" else "float32")
    for ours, one in zip(found[-len(gradients) :], gradients, strict=True):
        assert_near(ours, one, dtype)


EVERYTHING: dict[str, Any] = {
    "bias": True,
    "softcap": 2.5,
    "class_weight": True,
    "sample_weight": "full",
    "label_smoothing": 0.25,
    "z_loss": 0.125,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias_and_cap": {"bias": True, "softcap": 1.5, "batch": (2, 3)},
    "unbatched": {"batch": (), "bias": True},
    "class_weight": {"class_weight": True, "bias": True},
    "first_weight": {"batch": (3, 2), "sample_weight": "first", "softcap": 2.0},
    "mask": {"sample_weight": "mask", "z_loss": 0.25, "softcap": 3.0},
    "smoothing": {"label_smoothing": 0.125, "bias": True},
    "one_total": {"ignore_index": None, "class_weight": True, "label_smoothing": 0.25},
    "all_smoothing": {"label_smoothing": 1.0, "class_weight": True},
    "normalizer": {"z_loss": 0.5, "sample_weight": "full", "normalizer": 3.5},
    "everything": {"batch": (3, 4)} | EVERYTHING,
}
KINDS: tuple[LabelKind, ...] = ("index", "kept", "dense")
REDUCTIONS = ("none", "sum", "mean")


def cases(rng: Generator, backend: Backend, mode: str, dtype: str, variant: str) -> list[Linear]:
    """A variant with label kinds and reductions: all, or one pair where every call compiles."""
    pairs = [(kind, reduction) for kind in KINDS for reduction in REDUCTIONS]
    if mode in backend.compiles:
        turn = list(VARIANTS).index(variant) + 2 * backend.floats.index(dtype)
        pairs = [pairs[turn % len(pairs)]]
    found = []
    for kind, reduction in pairs:
        options = dict(VARIANTS[variant])
        if reduction != "mean":
            options.pop("normalizer", None)
        case = linear(rng, kind, reduction=reduction, **options)
        if kind != "dense" and case.problem.labels.size > 1 and case.problem.ignore_index:
            case.problem.labels.reshape(-1)[:1] = -100
        found.append(case)
    return found
