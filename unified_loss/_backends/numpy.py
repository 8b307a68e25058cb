"""NumPy."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unified_loss import _blocks as blocks
from unified_loss import _host as host
from unified_loss import _rules as rules
from unified_loss._backends.array_api import ArrayOps
from unified_loss._statistics import loss_and_gradient_of, loss_of
from unified_loss._threads import for_each
from unified_loss._types import Array, Operands, Plan, Shape, Size, Spec

NAME = "numpy"


# Thresholds, in logits. Below SMALL one pass over whole arrays is faster than any walk. With few
# classes a block is turned, so that the reductions run over contiguous rows of many examples; with
# many it stays in the second-level cache. Threads pay from PARALLEL on.
SMALL = 2**15
FEW_CLASSES = 64
TURNED_BLOCK = 2**15
BLOCK = 2**17
PARALLEL = 2**18


class Walk(NamedTuple):
    """How to go through the logits."""

    size: int
    turned: bool
    parallel: bool


def walk(plan: Plan, size: int) -> Walk | None:
    """The way through `size` logits, None for all at once."""
    if size <= SMALL:
        return None
    turned = plan.num_classes < FEW_CLASSES and plan.axis + 1 == plan.ndim
    return Walk(TURNED_BLOCK if turned else BLOCK, turned, size >= PARALLEL)


class NumpyOps(ArrayOps):
    """`Ops` on NumPy; totals are accumulated in float64."""

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(dtype, copy=False)

    def cast_like(self, x: Array, like: Array) -> Array:
        return x.astype(like.dtype, copy=False)

    def total(self, x: Array) -> Array:
        return x.sum(dtype=np.float64).astype(x.dtype)

    def max(self, x: Array, axis: int) -> Array:
        return x.max(axis, keepdims=True)

    def sum(self, x: Array, axis: int) -> Array:
        return x.sum(axis, keepdims=True)

    def log_sum_exp(self, f: Array, axis: int) -> Array:
        return np.log(np.exp(f).sum(axis, keepdims=True))

    def subtract_at(self, x: Array, ids: Array, b: Array, axis: int) -> Array:
        np.put_along_axis(x, ids, np.take_along_axis(x, ids, axis) - b, axis)
        return x

    def empty(self, shape: Shape, dtype: str, like: Array) -> Array:
        return np.empty(shape, like.dtype if dtype == like.dtype.name else dtype)

    def broadcast(self, x: Array, shape: Shape) -> Array:
        return np.broadcast_to(x, shape)

    def arranged(self, x: Array, *, turned: bool) -> Array:
        return np.ascontiguousarray(x.swapaxes(0, 2)) if turned else x


OPS = NumpyOps(np)


def owns(value: object) -> bool:
    return isinstance(value, np.ndarray | np.generic)


def refusal(array: Array) -> str | None:
    return host.refusal(array)


def in_graph() -> None:
    return None


def spec(array: Array) -> Spec:
    return Spec(NAME, array.shape, array.dtype.name)


def same_size(a: Size, b: Size) -> bool | None:
    return rules.same_size(a, b)


def combinable(logits: Array, other: Array) -> str | None:
    return None


def convert(name: str) -> str:
    return f"np.asarray({name})"


def move(name: str) -> str:  # pragma: no cover (all arrays of NumPy are in one place)
    return convert(name)


def read(array: Array, *, wait: bool) -> npt.NDArray[Any]:
    return np.asarray(array)


def from_host(values: Any, logits: Array, dtype: str) -> Array:
    # Class ids may keep their integer dtype.
    if dtype == "int32":
        return values
    with np.errstate(over="ignore"):  # a weight beyond the compute dtype is infinite
        return values.astype(dtype, copy=False)


def loss(plan: Plan, operands: Operands) -> Array:
    return _evaluate(plan, operands, with_gradient=False)[0]


def loss_and_gradient(plan: Plan, operands: Operands) -> tuple[Array, Array]:
    return _evaluate(plan, operands, with_gradient=True)


def kernel(plan: Plan, operands: Operands) -> str:
    way = walk(plan, operands.logits.size)
    if way is None:
        return "row statistics"
    return f"row statistics in {'turned ' if way.turned else ''}blocks"


def _evaluate(plan: Plan, operands: Operands, *, with_gradient: bool) -> tuple[Array, Any]:
    # Subclasses have operators that could mean something else.
    operands = operands._replace(logits=np.asarray(operands.logits))
    way = walk(plan, operands.logits.size)
    with np.errstate(all="ignore"):
        if way is not None:
            return blocks.evaluate(
                OPS,
                plan,
                operands,
                size=way.size,
                turned=way.turned,
                with_gradient=with_gradient,
                for_each=_in_threads if way.parallel else _in_turn,
            )
        if with_gradient:
            return loss_and_gradient_of(OPS, plan, operands)
        return loss_of(OPS, plan, operands), None


def _in_turn(fill: Callable[[blocks.Cut], None], cuts: Iterable[blocks.Cut]) -> None:
    for cut in cuts:
        fill(cut)


def _in_threads(fill: Callable[[blocks.Cut], None], cuts: Iterable[blocks.Cut]) -> None:
    # NumPy's error state belongs to a thread.
    for_each(np.errstate(all="ignore")(fill), cuts)
