"""Step 1: the backend."""

from typing import Any

import numpy as np

from tests import pico
from unified_loss import _host as host
from unified_loss._backend import Backend, Route
from unified_loss._backends._array_ops import ArrayOps
from unified_loss._types import Array, Form, Head, Operands, Plan, Spec


class PicoOps(ArrayOps):
    """All arrays are on the host."""

    def sum(self, x: Array, axis: int) -> Array:
        # Along any axis but the last one NumPy adds one by one; in float64 that is good enough.
        total = self.xp.sum(x, axis=axis, keepdims=True, dtype=np.float64)
        return self.xp.astype(total, x.dtype)

    def hollow(self, plan: Plan, hidden: Array, weight: Array) -> Array:
        return self.xp.broadcast_to(hidden[..., :1], (*hidden.shape[:-1], weight.shape[0]))

    def arange(self, size: int, like: Array) -> Array:
        return self.xp.arange(size)


OPS = PicoOps(pico)


class PicoBackend(Backend):
    """Pico."""

    name = "pico"

    def owns(self, value: object) -> bool:
        return isinstance(value, pico.Array)

    def spec(self, array: Array) -> Spec:
        return Spec(self.name, array.shape, array.dtype.name)

    def convert(self, name: str) -> str:
        return f"pico.Array({name})"

    def read(self, array: Array, *, wait: bool) -> Any | None:
        return array.data

    def from_host(self, values: Any, logits: Array, dtype: str) -> Array:
        return pico.Array(host.cast(values, dtype))

    def route(self, plan: Plan, size: int) -> Route:
        return Route("row statistics (pico)")

    def loss(self, plan: Plan, operands: Operands) -> Array:
        with np.errstate(all="ignore"):
            return OPS.loss(plan, operands)

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            return OPS.loss_and_gradient(plan, operands)

    def linear_loss(self, form: Form, head: Head, operands: Operands) -> Array:
        with np.errstate(all="ignore"):
            return OPS.linear_loss(form, head, operands)

    def linear_loss_and_gradients(
        self, form: Form, head: Head, operands: Operands
    ) -> tuple[Array, Head]:
        with np.errstate(all="ignore"):
            return OPS.linear_loss_and_gradients(form, head, operands)

    def sums(self, plan: Plan, operands: Operands) -> tuple[Array, ...]:
        with np.errstate(all="ignore"):
            return OPS.sums(plan, operands)


BACKEND = PicoBackend()
