"""Any library with an array-API namespace: array-api-strict, CuPy, Dask, MLX, and those to come."""

import sys
from itertools import groupby
from typing import Any

import array_api_compat
import numpy as np

from unified_loss import _host as host
from unified_loss import _messages as messages
from unified_loss import _rules as rules
from unified_loss._backend import Backend, LinearRoute, Route
from unified_loss._backends._array_ops import ArrayOps, CupyOps, OtherOps, StrictOps
from unified_loss._rules import package_of
from unified_loss._sums import Sums
from unified_loss._types import Array, Form, Head, Operands, Plan, Spec
from unified_loss.exceptions import BackendError


def _dask_ops(xp: Any) -> ArrayOps:
    from unified_loss._backends._dask import DaskOps

    return DaskOps(xp)


def _mlx_ops(xp: Any) -> ArrayOps:
    from unified_loss._backends._mlx import MlxOps

    return MlxOps(xp)


OPS = {"array_api_strict": StrictOps, "cupy": CupyOps, "dask": _dask_ops, "mlx": _mlx_ops}


def _ops(array: Array) -> ArrayOps:
    try:
        xp = array_api_compat.array_namespace(array)
    except Exception:  # noqa: BLE001 - what an object's own method raises
        raise BackendError(messages.no_array(array)) from None
    return OPS.get(package_of(type(array)), OtherOps)(xp)


_ROWS = Route("row statistics (array API)")


class ArrayApiBackend(Backend):
    """Any library with an array-API namespace."""

    name = "array-api"

    def owns(self, value: object) -> bool:
        if isinstance(value, np.ndarray | np.generic):
            return False  # host data beside the logits
        if isinstance(value, type) or hasattr(type(value), "__jax_array__"):
            return False  # a parameter of Flax answers to all names of the array that it holds
        # Of the class: an object may answer to any name, or raise whatever it is asked.
        try:
            is_array = array_api_compat.is_array_api_obj(value)
        except Exception:  # noqa: BLE001 - what an object's own methods raise
            is_array = False
        return is_array or hasattr(type(value), "__array_namespace__")

    def refusal(self, array: Array) -> str | None:
        chunk = rules.attribute(array, "_meta")  # what Dask's chunks are like
        if type(chunk).__name__ == "MaskedArray":
            return "its chunks are masked, and the mask would be lost"
        if hasattr(type(array), "todense"):
            return "it is sparse; call .todense() if that is meant"
        if hasattr(type(chunk), "todense"):
            return "its chunks are sparse; map .todense() over its blocks if that is meant"
        return None

    def spec(self, array: Array) -> Spec:
        try:
            dtype = str(array.dtype).rpartition(".")[2].removesuffix("_")
            # Dask's unknown sizes are NaN, the standard's are None.
            shape = tuple(size if isinstance(size, int) else None for size in array.shape)
            is_possible = max((size or 0 for size in shape), default=0) <= sys.maxsize
        except Exception:  # noqa: BLE001 - what an object's own attributes raise
            is_possible = False
        if not is_possible:
            raise BackendError(messages.no_array(array))
        return Spec(package_of(type(array)), shape, dtype)

    def combinable(self, logits: Array, other: Array) -> str | None:
        here, there = package_of(type(logits)), package_of(type(other))
        if here != there:
            return f"it is of {there}, the logits of {here}"
        device, others = (rules.attribute(array, "device") for array in (logits, other))
        return None if device == others else f"it is on {others}, the logits on {device}"

    def convert(self, name: str) -> str:
        return f"xp.asarray({name}) with the logits' namespace xp"

    def move(self, name: str) -> str:
        return f"xp.asarray({name}, device=logits.device) with the logits' namespace xp"

    def read(self, array: Array, *, wait: bool) -> Any | None:
        ops = _ops(array)
        return ops.to_numpy(array) if wait or ops.reads_freely(array) else None

    def from_host(self, values: Any, logits: Array, dtype: str) -> Array:
        return _ops(logits).from_numpy(host.cast(values, dtype), logits)

    def device(self, logits: Array) -> str | None:
        """CuPy, whose arrays are on an accelerator; the others are taken to be on the processor."""
        library = package_of(type(logits))
        return library if library == "cupy" else None

    def route(self, plan: Plan, size: int) -> Route:
        walk = CupyOps.walk(size) if plan.device == "cupy" else None
        return _ROWS if walk is None else Route(_ROWS.name + ", in blocks", walk=walk)

    def loss(self, plan: Plan, operands: Operands) -> Array:
        ops = _ops(operands.logits)
        with np.errstate(all="ignore"):
            return ops.loss(plan, operands)

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        ops = _ops(operands.logits)
        with np.errstate(all="ignore"):
            return ops.loss_and_gradient(plan, operands)

    def linear_route(self, form: Form, head: Head) -> LinearRoute:
        library = head.hidden.library
        tour_of = getattr(OPS.get(library), "tour", None)  # of a class that is loaded
        tour = None if tour_of is None else tour_of(form, head)
        return LinearRoute(tour, tour, tiles=(3, 3), is_lazy=library == "dask")

    def linear_loss(self, form: Form, head: Head, operands: Operands) -> Array:
        ops = _ops(head.hidden)
        with np.errstate(all="ignore"):
            return ops.linear_loss(form, head, operands)

    def linear_loss_and_gradients(
        self, form: Form, head: Head, operands: Operands
    ) -> tuple[Array, Head]:
        ops = _ops(head.hidden)
        with np.errstate(all="ignore"):
            return ops.linear_loss_and_gradients(form, head, operands)

    def linear_sums(self, form: Form, head: Head, operands: Operands) -> Sums:
        ops = _ops(head.hidden)
        with np.errstate(all="ignore"):
            return ops.linear_sums(form, head, operands)

    def sums(self, plan: Plan, operands: Operands) -> Sums:
        ops = _ops(operands.logits)
        with np.errstate(all="ignore"):
            return ops.sums(plan, operands)

    def send(self, numbers: tuple[Array, ...]) -> Any | None:
        return _ops(numbers[0]).send(numbers)

    def has_arrived(self, sent: Any) -> bool | None:
        return _ops(sent[0]).has_arrived(sent)

    def receive(self, sent: list[Any]) -> list[list[float]]:
        by_library = (list(each) for _, each in groupby(sent, lambda each: type(each[0])))
        return [numbers for each in by_library for numbers in _ops(each[0][0]).receive(each)]


BACKEND = ArrayApiBackend()
