"""NumPy."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from unified_loss import _blocks as blocks
from unified_loss import _host as host
from unified_loss import _rules as rules
from unified_loss._backends.array_api import ArrayOps
from unified_loss._statistics import loss_and_gradient_of, loss_of
from unified_loss._types import Array, Operands, Plan, Shape, Size, Spec

NAME = "numpy"


# Logits of a block. With few classes, a block is turned so that the reductions run over
# contiguous rows of many examples; with many, it stays in the second-level cache.
FEW_CLASSES = 64
BLOCK_OF_FEW = 2**15
BLOCK = 2**17


class NumpyOps(ArrayOps):
    """`Ops` on NumPy; totals are accumulated in float64."""

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(dtype, copy=False)

    def cast_like(self, x: Array, like: Array) -> Array:
        return x.astype(like.dtype, copy=False)

    def total(self, x: Array) -> Array:
        return x.sum(dtype=np.float64).astype(x.dtype)

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


def is_tracing() -> bool:
    return False


def spec(array: Array) -> Spec:
    return Spec(NAME, array.shape, array.dtype.name)


def same_size(a: Size, b: Size) -> bool | None:
    return rules.same_size(a, b)


def combinable(logits: Array, other: Array) -> str | None:
    return None


def convert(name: str) -> str:
    return f"np.asarray({name})"


def move(name: str) -> str:
    return convert(name)


def read(array: Array, *, wait: bool) -> npt.NDArray[Any]:
    return np.asarray(array)


def from_host(values: Any, logits: Array, dtype: str) -> Array:
    # Class ids may keep their integer dtype.
    return values if dtype == "int32" else values.astype(dtype, copy=False)


def loss(plan: Plan, operands: Operands) -> Array:
    return _evaluate(plan, operands, with_gradient=False)[0]


def loss_and_gradient(plan: Plan, operands: Operands) -> tuple[Array, Array]:
    return _evaluate(plan, operands, with_gradient=True)


def kernel(plan: Plan, operands: Operands) -> str:
    if operands.logits.size <= BLOCK_OF_FEW:
        return "row statistics"
    return (
        "row statistics in turned blocks"
        if _is_turned(plan, operands)
        else ("row statistics in blocks")
    )


def _evaluate(plan: Plan, operands: Operands, *, with_gradient: bool) -> tuple[Array, Any]:
    # Subclasses have operators that could mean something else.
    operands = operands._replace(logits=np.asarray(operands.logits))
    with np.errstate(all="ignore"):
        if operands.logits.size <= BLOCK_OF_FEW:
            if with_gradient:
                return loss_and_gradient_of(OPS, plan, operands)
            return loss_of(OPS, plan, operands), None
        turned = _is_turned(plan, operands)
        return blocks.evaluate(
            OPS, plan, operands, size=BLOCK_OF_FEW if turned else BLOCK, turned=turned,
            with_gradient=with_gradient, for_each=_one_by_one,
        )  # fmt: skip


def _is_turned(plan: Plan, operands: Operands) -> bool:
    return plan.num_classes < FEW_CLASSES and plan.axis == operands.logits.ndim - 1


def _one_by_one(fill: Callable[[blocks.Cut], None], cuts: Iterable[blocks.Cut]) -> None:
    for cut in cuts:
        fill(cut)
