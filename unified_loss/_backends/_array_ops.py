"""`Ops` on an array-API namespace, for the libraries that have one, and what differs from it."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import array_api_compat
import numpy as np

from unified_loss import _messages as messages
from unified_loss._blocks import Walk, walk_loss, walk_loss_and_gradient, walk_sums
from unified_loss._linear import _eager as eager
from unified_loss._linear import _two_steps as two_steps
from unified_loss._linear import _walks as walks
from unified_loss._ops import Factors, LinearOps
from unified_loss._shapes import kept
from unified_loss._statistics import loss_and_gradient_of, loss_of
from unified_loss._sums import Sums, sums_of
from unified_loss._threads import as_it_is
from unified_loss._types import Array, Form, Head, Operands, Plan, Shape
from unified_loss.exceptions import BackendError, LossInputError

# Of CuPy, in logits: a few operations on so many take longer than it takes to launch them.
WALK = Walk(2**23, transposed=False, threads=1, around=as_it_is)


class ArrayOps(LinearOps):
    """`Ops` on an array-API namespace, and the way between it and NumPy."""

    # Whether the linear form walks: arrays have values, can be written to, and have no autodiff.
    goes_by_tiles: ClassVar[bool] = False
    compacts: ClassVar[bool] = False  # whether rows that are dropped can be left out for free

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    def reads_freely(self, array: Array) -> bool:
        """Whether the values are on the host, so that reading them waits for nothing."""
        return False

    def to_numpy(self, array: Array) -> Any | None:
        """The values, None where there are none yet."""
        return array.get() if hasattr(array, "get") else np.asarray(array)

    def from_numpy(self, values: Any, like: Array) -> Array:
        """An array beside `like`."""
        return self.xp.asarray(values, device=array_api_compat.device(like))

    def loss(self, plan: Plan, operands: Operands) -> Array:
        """The loss."""
        return loss_of(self, plan, operands)

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        """The loss and its gradient."""
        return loss_and_gradient_of(self, plan, operands)

    def linear_loss(self, form: Form, head: Head, operands: Operands) -> Array:
        """The loss of the linear form."""
        tour = self.tour(form, head)
        if tour is not None:
            field = self._field(tour, form, head, operands)
            return eager.loss_of(field, eager.statistics_of(field))
        return self.loss(*two_steps.with_logits(self, form, head, operands))

    def linear_loss_and_gradients(
        self, form: Form, head: Head, operands: Operands
    ) -> tuple[Array, Head]:
        """The loss of the linear form and its gradients."""
        tour = self.tour(form, head)
        if tour is not None:
            field = self._field(tour, form, head, operands)
            statistics = eager.statistics_of(field)
            loss = eager.loss_of(field, statistics)
            return loss, eager.gradients_of(field, statistics, eager.all_of(head))
        plan, operands = two_steps.with_logits(self, form, head, operands)
        loss, slope = self.loss_and_gradient(plan, operands)
        return loss, two_steps.gradients_of(self, form, head, operands, slope)

    def linear_sums(self, form: Form, head: Head, operands: Operands) -> Sums:
        """What `Totals` holds of the linear form."""
        tour = self.tour(form, head)
        if tour is not None:
            return eager.totals_of(self._field(tour, form, head, operands))
        return self.sums(*two_steps.with_logits(self, form, head, operands))

    @classmethod
    def tour(cls, form: Form, head: Head) -> walks.Tour | None:
        """The walk of a head of arrays or `Spec`s, by classes; None for two steps."""
        sizes = (*head.hidden.shape, *head.weight.shape)
        if not cls.goes_by_tiles or not all(isinstance(size, int) for size in sizes):
            return None
        return walks.tour_of(form, *walks.sizes_of(head), in_one_pass=False)

    def _field(self, tour: walks.Tour, form: Form, head: Head, operands: Operands) -> eager.Field:
        flat = walks.flattened(self, form, head, operands)
        walk = Walk(2**62, transposed=False, threads=1, around=as_it_is)
        return eager.field_of(self, flat, tour, walk)

    def sums(self, plan: Plan, operands: Operands) -> Sums:
        """What `Totals` holds."""
        return sums_of(self, plan, operands)

    def send(self, numbers: Sums) -> Any | None:
        """See `Backend`."""
        return numbers

    def has_arrived(self, sent: Any) -> bool | None:
        """See `Backend`; also None where the library cannot tell."""
        return True if self.reads_freely(sent[0]) else None

    def receive(self, sent: list[Any]) -> list[list[float]]:
        """See `Backend`."""
        return [[np.asarray(self.to_numpy(number)).item() for number in each] for each in sent]

    def cast(self, x: Array, dtype: str) -> Array:
        return self.xp.astype(x, getattr(self.xp, dtype), copy=False)

    def cast_like(self, x: Array, like: Array) -> Array:
        return self.xp.astype(x, like.dtype, copy=False)

    def cast_size(self, size: Any, dtype: str) -> Any:
        return size if isinstance(size, int) else self.cast(size, dtype)

    def as_index(self, x: Array) -> Array:
        return self.cast(x, "int64")

    def equals(self, labels: Array, value: int) -> Array:
        return labels == value

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return self.xp.where(condition, a, b)

    def exp(self, x: Array) -> Array:
        return self.xp.exp(x)

    def log(self, x: Array) -> Array:
        return self.xp.log(x)

    def isfinite(self, x: Array) -> Array:
        return self.xp.isfinite(x)

    def max(self, x: Array, axis: int) -> Array:
        return self.xp.max(x, axis=axis, keepdims=True)

    def sum(self, x: Array, axis: int) -> Array:
        return self.xp.sum(x, axis=axis, keepdims=True)

    def any(self, x: Array, axis: int) -> Array:
        return self.xp.any(x, axis=axis, keepdims=True)

    def log_sum_exp(self, factors: Factors, axis: int) -> Array:
        f = self.differences(factors)
        return self.xp.log(self.sum(self.xp.exp(f), axis))

    def total(self, x: Array) -> Array:
        return self.xp.sum(x)

    def number(self, x: Array) -> Array:
        return self.total(self.cast(x, "int64"))

    def count(self, x: Array, dtype: str) -> Array:
        return self.cast(self.number(x), dtype)

    def count_rows(self, logits: Array, axis: int, dtype: str) -> Any:
        return math.prod(logits.shape[:axis] + logits.shape[axis + 1 :])

    def size(self, x: Array, axis: int) -> Any:
        return x.shape[axis]

    def stop_gradient(self, x: Array) -> Array:
        return x

    def expand(self, x: Array, axis: int) -> Array:
        return self.xp.expand_dims(x, axis=axis)

    def squeeze(self, x: Array, axis: int) -> Array:
        return self.xp.squeeze(x, axis=axis)

    def along(self, vector: Array, like: Array, axis: int) -> Array:
        shape = [1] * like.ndim
        shape[axis] = -1
        return self.xp.reshape(vector, tuple(shape))

    def extend(self, weights: Array, like: Array, axis: int) -> Array:
        missing = like.ndim - 1 - weights.ndim
        for _ in range(missing):
            weights = self.xp.expand_dims(weights, axis=-1)
        weights = self.expand(weights, axis)
        return self.repeat(weights, like, axis) if missing else weights

    def repeat(self, weights: Array, like: Array, axis: int) -> Array:
        """Weights repeated along the other axes of `like`."""
        return self.xp.broadcast_to(weights, kept(like.shape, axis))

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        return self.xp.take_along_axis(x, ids, axis=axis)

    def pick_class(self, weights: Array, ids: Array) -> Array:
        return self.xp.reshape(self.xp.take(weights, self.xp.reshape(ids, (-1,))), ids.shape)

    def classes(self, like: Array, axis: int) -> Array:
        """The class ids laid along the class axis."""
        return self.along(self.arange(like.shape[axis], like), like, axis)

    def arange(self, size: int, like: Array) -> Array:
        """The integers below `size`, where `like` is."""
        return self.xp.arange(size, device=array_api_compat.device(like))

    def scaled(self, x: Array, a: Array) -> Array:
        return x * a

    def subtract_at(self, x: Array, ids: Array, b: Array, axis: int) -> Array:
        return self.xp.where(ids == self.classes(x, axis), x - b, x)

    # Of the linear form.

    def tanh(self, x: Array) -> Array:
        return self.xp.tanh(x)

    def affine(self, hidden: Array, weight: Array, bias: Array | None) -> Array:
        found = self.product(hidden, weight.T)
        return found if bias is None else found + bias

    def product(self, a: Array, b: Array) -> Array:
        return self.xp.matmul(a, b)

    def transposed(self, x: Array) -> Array:
        return x.T

    def as_matrix(self, x: Array) -> Array:
        return self.xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))

    def reshape_like(self, x: Array, like: Array) -> Array:
        return self.xp.reshape(x, like.shape)

    def reshaped(self, x: Array, shape: Shape) -> Array:
        return self.xp.reshape(x, shape)

    def concatenated(self, parts: list[Array]) -> Array:
        return self.xp.concat(parts, axis=0)

    def taken(self, x: Array, places: Array) -> Array:
        return self.xp.take(x, places, axis=0)

    def zeros(self, shape: Shape, dtype: str, like: Array) -> Array:
        device = array_api_compat.device(like)
        return self.xp.zeros(shape, dtype=getattr(self.xp, dtype), device=device)

    def scratch(self, size: int, dtype: str, like: Array) -> Any:
        """None: room is made by each product."""

    def affine_into(self, scratch: Any, hidden: Array, weight: Array, bias: Array | None) -> Array:
        return self.affine(hidden, weight, bias)

    def cap(self, x: Array, softcap: float) -> Array:
        return two_steps.capped(self, softcap, x)

    def add_product(self, total: Array, place: Any, a: Array, b: Array) -> None:
        total[place, :] = total[place, :] + self.product(a, b)

    def zeros_like(self, x: Array) -> Array:
        return self.xp.zeros_like(x)

    def as_number(self, value: float, dtype: str, like: Array) -> Array:
        return self.zeros((), dtype, like) + value

    def sum_of_rows(self, x: Array) -> Array:
        return self.squeeze(self.sum(x, 0), 0)

    def hollow(self, plan: Plan, hidden: Array, weight: Array) -> Array:
        zero = self.xp.zeros((), dtype=hidden.dtype, device=array_api_compat.device(hidden))
        return self.xp.broadcast_to(zero, (*hidden.shape[:-1], weight.shape[0]))


class CupyOps(ArrayOps):
    """CuPy: large problems go in blocks, and nothing waits for the device."""

    goes_by_tiles = True
    reads_values = False  # and of `BlockOps` it has what is asked for then

    @staticmethod
    def walk(size: int) -> Walk | None:
        """The blocks for so many logits; None: all at once."""
        return WALK if size > WALK.size else None

    def loss(self, plan: Plan, operands: Operands) -> Array:
        walk = self.walk(operands.logits.size)
        if walk is None:
            return super().loss(plan, operands)
        ops: Any = self
        return walk_loss(ops, walk, plan, operands)[0]

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        walk = self.walk(operands.logits.size)
        if walk is None:
            return super().loss_and_gradient(plan, operands)
        ops: Any = self
        return walk_loss_and_gradient(ops, walk, plan, operands)

    def sums(self, plan: Plan, operands: Operands) -> Sums:
        walk = self.walk(operands.logits.size)
        if walk is None:
            return super().sums(plan, operands)
        ops: Any = self
        return walk_sums(ops, walk, plan, operands)

    def empty(self, shape: Shape, dtype: str, like: Array) -> Array:
        device = array_api_compat.device(like)
        return self.xp.empty(shape, dtype=getattr(self.xp, dtype), device=device)

    def broadcast(self, x: Array, shape: Shape) -> Array:
        return self.xp.broadcast_to(x, shape)


class StandardOps(ArrayOps):
    """A library of which only the standard is known: its release 2022.12 is enough."""

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        a, b = (self._beside(x, other) for x, other in ((a, b), (b, a)))
        return self.xp.where(condition, a, b)

    def _beside(self, x: Any, other: Array) -> Array:
        if hasattr(x, "dtype"):
            return x
        return self.xp.asarray(x, dtype=other.dtype, device=array_api_compat.device(other))

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        try:
            return super().pick(x, ids, axis)
        except (AttributeError, RuntimeError):  # `take_along_axis` is of 2024.12
            return self.sum(self.where(ids == self.classes(x, axis), x, 0.0), axis)

    # Sizes that are not known before a lazy array is computed are None, and have to be counted.
    def size(self, x: Array, axis: int) -> Any:
        size = x.shape[axis]
        return self.sum(self._ones(x), axis) if size is None else size

    def count_rows(self, logits: Array, axis: int, dtype: str) -> Any:
        if None in logits.shape:
            return self.count(self._ones(self.max(logits, axis)), dtype)
        return super().count_rows(logits, axis, dtype)

    def classes(self, like: Array, axis: int) -> Array:
        if like.shape[axis] is None:
            return self.xp.cumulative_sum(self._ones(like), axis=axis) - 1
        return super().classes(like, axis)

    def pick_class(self, weights: Array, ids: Array) -> Array:
        if None not in ids.shape:
            return super().pick_class(weights, ids)
        shape = tuple(-1 if size is None else size for size in ids.shape)
        return self.xp.reshape(self.xp.take(weights, self.xp.reshape(ids, (-1,))), shape)

    def repeat(self, weights: Array, like: Array, axis: int) -> Array:
        if None in like.shape:
            return self.xp.broadcast_arrays(weights, self.max(like, axis))[0]
        return super().repeat(weights, like, axis)

    def _ones(self, like: Array) -> Array:
        return self.xp.ones_like(like, dtype=self.xp.int64)


class OtherOps(StandardOps):
    """A library that was never tried: what it cannot do is told in our words."""

    def to_numpy(self, array: Array) -> Any:
        return self._told(super().to_numpy, array)

    def from_numpy(self, values: Any, like: Array) -> Array:
        return self._told(super().from_numpy, values, like)

    def loss(self, plan: Plan, operands: Operands) -> Array:
        return self._told(super().loss, plan, operands)

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        return self._told(super().loss_and_gradient, plan, operands)

    def linear_loss(self, form: Form, head: Head, operands: Operands) -> Array:
        return self._told(super().linear_loss, form, head, operands)

    def linear_loss_and_gradients(
        self, form: Form, head: Head, operands: Operands
    ) -> tuple[Array, Head]:
        return self._told(super().linear_loss_and_gradients, form, head, operands)

    def linear_sums(self, form: Form, head: Head, operands: Operands) -> Sums:
        return self._told(super().linear_sums, form, head, operands)

    def sums(self, plan: Plan, operands: Operands) -> Sums:
        return self._told(super().sums, plan, operands)

    def _told(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (LossInputError, MemoryError):
            raise
        except Exception as error:
            library = getattr(self.xp, "__name__", type(self.xp).__name__)
            raise BackendError(messages.library_fails(library, error)) from error


class StrictOps(StandardOps):
    """The reference implementation of the standard is NumPy inside."""

    goes_by_tiles = True

    def reads_freely(self, array: Array) -> bool:
        return array.device == self.xp.Device("CPU_DEVICE")

    def to_numpy(self, array: Array) -> Any:
        return np.asarray(array.to_device(self.xp.Device("CPU_DEVICE")))

    def sum(self, x: Array, axis: int) -> Array:
        # Along any axis but the last one NumPy adds one by one; in float64 that is good enough.
        return self.xp.astype(
            self.xp.sum(x, axis=axis, keepdims=True, dtype=self.xp.float64), x.dtype
        )
