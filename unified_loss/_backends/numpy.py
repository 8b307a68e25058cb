"""NumPy."""

from typing import Any

import numpy as np
import numpy.typing as npt

from unified_loss import _host as host
from unified_loss import _rules as rules
from unified_loss._backends.array_api import ArrayOps
from unified_loss._statistics import loss_and_gradient_of, loss_of
from unified_loss._types import Array, Operands, Plan, Size, Spec

NAME = "numpy"


class NumpyOps(ArrayOps):
    """`Ops` on NumPy; totals are accumulated in float64."""

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(dtype, copy=False)

    def cast_like(self, x: Array, like: Array) -> Array:
        return x.astype(like.dtype, copy=False)

    def total(self, x: Array) -> Array:
        return x.sum(dtype=np.float64).astype(x.dtype)


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
    return values.astype(dtype, copy=False)


def loss(plan: Plan, operands: Operands) -> Array:
    with np.errstate(all="ignore"):
        return loss_of(OPS, plan, _plain(operands))


def loss_and_gradient(plan: Plan, operands: Operands) -> tuple[Array, Array]:
    with np.errstate(all="ignore"):
        return loss_and_gradient_of(OPS, plan, _plain(operands))


def kernel(plan: Plan, operands: Operands) -> str:
    return "row statistics (NumPy)"


def _plain(operands: Operands) -> Operands:
    """Without subclasses, whose operators could mean something else."""
    return operands._replace(logits=np.asarray(operands.logits))
