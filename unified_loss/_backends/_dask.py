"""Dask: blocks computed later, by NumPy, in silence; sizes can be unknown (NaN)."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np

from unified_loss._backends._array_ops import ArrayOps
from unified_loss._examples import examples_and_divisor
from unified_loss._linear import _two_steps as two_steps
from unified_loss._offered import hinted
from unified_loss._ops import Factors
from unified_loss._shapes import Axes, kept, operand_axes, sizes_along, without
from unified_loss._statistics import loss_and_gradient_of, loss_of
from unified_loss._sums import Sums
from unified_loss._types import Array, Form, Head, Operands, Plan
from unified_loss.exceptions import ShapeError


class Lazy:
    """A Dask array whose arithmetic stays silent when the blocks are computed.

    The arithmetic of `_statistics` passes through inf - inf and log 0 where that does not count,
    and what silences NumPy while a graph is built is gone when it runs.
    """

    __array_ufunc__ = None

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype


def _operator(function: Callable[..., Any], *, reflected: bool = False) -> Callable[..., Array]:
    def method(self: Lazy, *others: Any) -> Array:
        operands = (self, *others)
        return elementwise(function, *(operands[::-1] if reflected else operands))

    return method


for _name in ("add", "sub", "mul", "truediv", "and", "or"):
    _function = getattr(operator, f"__{_name}__")
    setattr(Lazy, f"__{_name}__", _operator(_function))
    setattr(Lazy, f"__r{_name}__", _operator(_function, reflected=True))
for _name in ("eq", "ne", "lt", "gt", "ge", "invert", "neg", "abs"):
    setattr(Lazy, f"__{_name}__", _operator(getattr(operator, f"__{_name}__")))


def quietly(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call without NumPy's warnings."""
    with np.errstate(all="ignore"):
        return function(*args, **options)


def elementwise(function: Callable[..., Any], *operands: Any) -> Array:
    """A function of whole blocks, broadcast."""
    arrays = (part.array if isinstance(part, Lazy) else part for part in operands)
    return Lazy(da.core.elemwise(functools.partial(quietly, function), *arrays))


def reduction(function: Callable[..., Any], x: Array, axis: int | None, dtype: Any = None) -> Array:
    """A reduction over one axis, which stays, or over all."""
    chunk = functools.partial(quietly, function)
    keepdims = axis is not None
    dtype = dtype or x.dtype
    return Lazy(da.reduction(x.array, chunk, chunk, axis=axis, keepdims=keepdims, dtype=dtype))


def _sum(x: Any, axis: Any, *, keepdims: bool) -> Any:
    # Along any axis but the last one NumPy adds one by one; in float64 that is good enough.
    wide = np.float64 if x.dtype.kind == "f" else None
    return np.sum(x, axis, wide, keepdims=keepdims).astype(x.dtype)


class DaskOps(ArrayOps):
    """Ops on lazy arrays. Dask gathers nothing along an axis."""

    def to_numpy(self, array: Array) -> None:
        """Nothing is computed here (R23)."""

    def from_numpy(self, values: Any, like: Array) -> Array:
        return da.from_array(values, chunks=-1)

    def loss(self, plan: Plan, operands: Operands) -> Array:
        operands = self._ready(plan, operands)
        if plan.reduction != "mean" or plan.label_kind != "dense":
            return loss_of(self, plan, operands).array
        # What the mean divides by needs all labels, so the sum comes first: no block waits for it.
        total = loss_of(self, plan._replace(reduction="sum"), operands)
        examples, divisor = examples_and_divisor(self, plan, operands)
        dropped: Array = examples.dropped
        kept = self.count(~dropped, plan.compute_dtype)
        return self.where(kept == 0, 0.0, total / divisor).array

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        loss, slope = loss_and_gradient_of(self, plan, self._ready(plan, operands))
        return loss.array, slope.array

    def sums(self, plan: Plan, operands: Operands) -> Sums:
        return tuple(total.array for total in super().sums(plan, self._ready(plan, operands)))

    def has_arrived(self, sent: Any) -> bool:
        """Nothing is on its way until it is asked for."""
        return False

    def receive(self, sent: list[Any]) -> list[list[float]]:
        return [[number.item() for number in each] for each in dask.compute(*sent)]

    def _ready(self, plan: Plan, operands: Operands) -> Operands:
        """The operands in the logits' chunks."""
        axes = operand_axes(plan, operands)
        ready = {
            name: _like(name, getattr(operands, name), getattr(axes, name), plan, operands.logits)
            for name in ("labels", "class_weight", "sample_weight")
            if getattr(operands, name) is not None
        }
        operands = operands._replace(**ready)
        return Operands(*(None if array is None else Lazy(array) for array in operands))

    def linear_loss(self, form: Form, head: Head, operands: Operands) -> Array:
        _, wrapped = self._with_logits(form, head, operands)
        return self.loss(form.plan, operands._replace(logits=wrapped.logits.array))

    def linear_sums(self, form: Form, head: Head, operands: Operands) -> Sums:
        _, wrapped = self._with_logits(form, head, operands)
        return self.sums(form.plan, operands._replace(logits=wrapped.logits.array))

    def linear_loss_and_gradients(
        self, form: Form, head: Head, operands: Operands
    ) -> tuple[Array, Head]:
        lazy, wrapped = self._with_logits(form, head, operands)
        known = operands._replace(logits=wrapped.logits.array)
        loss, slope = self.loss_and_gradient(form.plan, known)
        found = two_steps.gradients_of(self, form, lazy, wrapped, Lazy(slope))
        return loss, Head(*(None if part is None else part.array for part in found))

    def _with_logits(self, form: Form, head: Head, operands: Operands) -> tuple[Head, Operands]:
        """Lazy parts, features in one chunk; the operands in the chunks of the logits."""
        hidden, weight, bias = head
        hidden, weight = hidden.rechunk({hidden.ndim - 1: -1}), weight.rechunk({1: -1})
        if bias is not None:
            bias = bias.rechunk((weight.chunks[0],))
        logits = da.matmul(hidden, weight.T)
        ready = self._ready(form.plan, operands._replace(logits=logits))
        lazy = Head(*(None if part is None else Lazy(part) for part in (hidden, weight, bias)))
        return lazy, two_steps.with_logits(self, form, lazy, ready)[1]

    def tanh(self, x: Array) -> Array:
        return elementwise(np.tanh, x)

    def product(self, a: Array, b: Array) -> Array:
        return Lazy(quietly(da.matmul, a.array, b.array))

    def transposed(self, x: Array) -> Array:
        return Lazy(x.array.T)

    def affine(self, hidden: Array, weight: Array, bias: Array | None) -> Array:
        found = self.product(hidden, self.transposed(weight))
        return found if bias is None else found + bias

    def as_matrix(self, x: Array) -> Array:
        return Lazy(_as_matrix(x.array))

    def reshape_like(self, x: Array, like: Array) -> Array:
        return Lazy(x.array.reshape(like.shape).rechunk(like.array.chunks))

    def hollow(self, plan: Plan, hidden: Array, weight: Array) -> Array:
        return self.affine(hidden, weight, None)  # lazy: nothing computes it

    def cast(self, x: Array, dtype: str) -> Array:
        return x if x.dtype == dtype else elementwise(operator.methodcaller("astype", dtype), x)

    def cast_like(self, x: Array, like: Array) -> Array:
        return self.cast(x, like.dtype)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return elementwise(np.where, condition, a, b)

    def exp(self, x: Array) -> Array:
        return elementwise(np.exp, x)

    def log(self, x: Array) -> Array:
        return elementwise(np.log, x)

    def isfinite(self, x: Array) -> Array:
        return elementwise(np.isfinite, x)

    def max(self, x: Array, axis: int) -> Array:
        return reduction(functools.partial(np.max, initial=-np.inf), x, axis)

    def sum(self, x: Array, axis: int) -> Array:
        return reduction(_sum, x, axis)

    def any(self, x: Array, axis: int) -> Array:
        return reduction(np.any, x, axis, bool)

    def log_sum_exp(self, factors: Factors, axis: int) -> Array:
        f = self.differences(factors)
        return self.log(self.sum(self.exp(f), axis))

    def total(self, x: Array) -> Array:
        return reduction(_sum, x, None)

    def count_rows(self, logits: Array, axis: int, dtype: str) -> Any:
        batch = without(tuple(range(logits.ndim)), axis)
        if not any(math.isnan(logits.shape[i]) for i in batch):
            return super().count_rows(logits, axis, dtype)
        return self.cast(self.total(Lazy(_sizes(logits.array, batch))), dtype)

    def size(self, x: Array, axis: int) -> Any:
        size = x.shape[axis]
        return self.total(Lazy(_sizes(x.array, (axis,)))) if math.isnan(size) else size

    def expand(self, x: Array, axis: int) -> Array:
        return Lazy(x.array[(*[slice(None)] * axis, None)])

    def squeeze(self, x: Array, axis: int) -> Array:
        return Lazy(da.squeeze(x.array, axis))

    def along(self, vector: Array, like: Array, axis: int) -> Array:
        return Lazy(
            vector.array[tuple(slice(None) if i == axis else None for i in range(like.ndim))]
        )

    def extend(self, weights: Array, like: Array, axis: int) -> Array:
        missing = like.ndim - 1 - weights.ndim
        weights = self.expand(Lazy(weights.array[(..., *[None] * missing)]), axis)
        if not missing:
            return weights
        first = _first(like.array, without(tuple(range(like.ndim)), axis))
        chunks = kept(first.chunks, axis)
        return weights * Lazy(first.map_blocks(_ones, axis=axis, dtype=np.int8, chunks=chunks))

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        return self.sum(elementwise(_entry_or_zero, x, ids, self.classes(x, axis)), axis)

    def pick_class(self, weights: Array, ids: Array) -> Array:
        every = tuple(range(ids.ndim))
        blocks = (ids.array, every, weights.array, (ids.ndim,))
        picked = da.blockwise(_pick_class, every, *blocks, concatenate=True, dtype=weights.dtype)
        return Lazy(picked)

    def subtract_at(self, x: Array, ids: Array, b: Any, axis: int) -> Array:
        return elementwise(_subtract_at, x, ids, self.classes(x, axis), b)

    def classes(self, like: Array, axis: int) -> Array:
        chunks = like.array.chunks[axis]
        if not math.isnan(like.shape[axis]):
            return self.along(Lazy(da.arange(like.shape[axis], chunks=(chunks,))), like, axis)
        sizes = _sizes(like.array, (axis,))
        every = tuple(range(like.ndim))
        counted = da.blockwise(
            _count_from,
            every,
            da.cumsum(sizes, axis) - sizes,
            every,
            _first(like.array, (axis,)),
            every,
            axis=axis,
            dtype=np.int64,
            align_arrays=False,
            adjust_chunks={i: chunks if i == axis else (1,) for i in every},
        )
        return Lazy(counted)


def _like(name: str, array: Array, axes: Axes, plan: Plan, logits: Array) -> Array:
    """An operand that runs along `axes` of the logits, in their chunks.

    Where sizes are unknown, blocks must pair up; that each pair fits is checked when it is there.
    """
    wanted = {i: (1,) if axis is None else logits.chunks[axis] for i, axis in enumerate(axes)}
    unknown = {i for i, sizes in wanted.items() if math.isnan(sum(sizes) + array.shape[i])}
    array = array.rechunk({i: sizes for i, sizes in wanted.items() if i not in unknown})
    if not unknown:
        return array
    for i in unknown:
        if array.numblocks[i] != len(wanted[i]):
            text = (
                f"{name} and logits have unknown sizes, so their chunks must pair up, but along "
                f"axis {i} {name} has {array.numblocks[i]} of them and the logits "
                f"{len(wanted[i])}."
            )
            raise ShapeError(hinted(text, "call compute_chunk_sizes() on both"))
    own = tuple(plan.axis if axis is None else axis for axis in axes)
    return da.blockwise(
        _checked,
        own,
        array,
        own,
        _first(logits, axes),
        tuple(range(logits.ndim)),
        axes=axes,
        argument=name,
        concatenate=True,
        align_arrays=False,
        adjust_chunks={axis: wanted[i] for i, axis in enumerate(own)},
        dtype=array.dtype,
        meta=array._meta,  # noqa: SLF001  (`_checked` cannot run on it)
    )


def _as_matrix(array: Array) -> Array:
    """The array with all axes but the last one made one."""
    if array.ndim == 2:
        return array
    return array.reshape((-1 if array.size else 0, array.shape[-1]))


def _first(array: Array, axes: Axes) -> Array:
    """The first block along every axis but `axes`."""
    return array.blocks[tuple(slice(None if i in axes else 1) for i in range(array.ndim))]


def _sizes(array: Array, axes: tuple[int, ...]) -> Array:
    """The size of each block along some axes, an entry a block."""
    first = _first(array, axes)
    chunks = tuple((1,) * count for count in first.numblocks)
    return first.map_blocks(_size, axes=axes, dtype=np.int64, chunks=chunks)


# What runs on blocks.


def _checked(block: Array, logits: Array, axes: Axes, argument: str) -> Array:
    wanted = sizes_along(axes, logits.shape)
    if block.shape != wanted:
        text = (
            f"a chunk of {argument} has shape {block.shape}, that of the logits asks for {wanted}."
        )
        raise ShapeError(text)
    return block


def _size(block: Array, axes: tuple[int, ...]) -> Array:
    return np.full((1,) * block.ndim, math.prod(block.shape[axis] for axis in axes))


def _ones(block: Array, axis: int) -> Array:
    return np.ones(kept(block.shape, axis), np.int8)


def _count_from(start: Array, block: Array, axis: int) -> Array:
    shape = tuple(-1 if i == axis else 1 for i in range(block.ndim))
    return start + np.arange(block.shape[axis]).reshape(shape)


def _entry_or_zero(x: Array, ids: Array, classes: Array) -> Array:
    return np.where(ids == classes, x, 0.0)


def _subtract_at(x: Array, ids: Array, classes: Array, b: Array) -> Array:
    return np.where(ids == classes, x - b, x)


def _pick_class(ids: Array, weights: Array) -> Array:
    return weights[ids]
