"""MLX: what differs from an array-API namespace."""

import math
from typing import Any

import mlx.core as mx
import numpy as np

from unified_loss._backends._array_ops import ArrayOps
from unified_loss._shapes import kept
from unified_loss._sums import Sums
from unified_loss._types import Array, Form, Head, Operands, Plan

MANY = 2**7  # numbers, of which adding one by one would lose digits


@mx.custom_function
def _selected(condition: Array, a: Array, b: Array) -> Array:
    """A selection between arrays of one shape.

    The derivative of MLX's own is a product with 0, which keeps NaN and infinities.
    """
    return mx.where(condition, a, b)


@_selected.vjp
def _selected_vjp(primals: Any, cotangent: Array, _: Array) -> tuple[Array, Array, Array]:
    condition, nothing = primals[0], mx.zeros_like(cotangent)
    a, b = _selected(condition, cotangent, nothing), _selected(condition, nothing, cotangent)
    return mx.zeros_like(condition), a, b


@_selected.jvp
def _selected_jvp(primals: Any, tangents: Any) -> Array:
    condition, *values = primals
    a, b = (
        mx.zeros_like(value) if tangent is None else tangent
        for value, tangent in zip(values, tangents[1:], strict=True)
    )
    return _selected(condition, a, b)


def _is_placeholder(array: Array) -> bool:
    """Whether an array stands for others, as in `mx.compile`."""
    try:
        mx.eval(array)  # labels are data: there is nothing to wait for but themselves
    except (RuntimeError, ValueError):
        return True
    return False


@_selected.vmap
def _selected_vmap(primals: Any, axes: Any) -> tuple[Array, int]:
    size = next(x.shape[axis] for x, axis in zip(primals, axes, strict=True) if axis is not None)
    parts = (
        mx.broadcast_to(mx.expand_dims(x, 0), (size, *x.shape))
        if axis is None
        else mx.moveaxis(x, axis, 0)
        for x, axis in zip(primals, axes, strict=True)
    )
    return _selected(*parts), 0


class MlxOps(ArrayOps):
    """MLX differentiates, and takes no Python integer beyond 63 bits.

    ``mx.compile(shapeless=True)`` runs its first program for all other sizes, and tells nobody. So
    sizes are counted and given to no operation; one row and a number an example cost little.
    """

    _is_compiled = False

    def isfinite(self, x: Array) -> Array:
        return mx.isfinite(mx.stop_gradient(x))  # its derivative is a product with 0, too

    def loss(self, plan: Plan, operands: Operands) -> Array:
        self._is_compiled = _is_placeholder(operands.labels)
        return super().loss(plan, operands)

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        self._is_compiled = _is_placeholder(operands.labels)
        return super().loss_and_gradient(plan, operands)

    def linear_loss(self, form: Form, head: Head, operands: Operands) -> Array:
        self._is_compiled = _is_placeholder(operands.labels)
        return super().linear_loss(form, head, operands)

    def linear_loss_and_gradients(
        self, form: Form, head: Head, operands: Operands
    ) -> tuple[Array, Head]:
        self._is_compiled = _is_placeholder(operands.labels)
        return super().linear_loss_and_gradients(form, head, operands)

    def linear_sums(self, form: Form, head: Head, operands: Operands) -> Sums:
        self._is_compiled = _is_placeholder(operands.labels)
        return super().linear_sums(form, head, operands)

    def hollow(self, plan: Plan, hidden: Array, weight: Array) -> Array:
        # Lazy: nothing computes it, nor a gradient, which would be 0 times what hidden holds.
        return mx.stop_gradient(self.affine(hidden, weight, None))

    def sums(self, plan: Plan, operands: Operands) -> Sums:
        self._is_compiled = _is_placeholder(operands.labels)
        return super().sums(plan, operands)

    def send(self, numbers: Sums) -> Any | None:
        try:
            mx.async_eval(*numbers)  # or their graph would hold the logits
        except ValueError:  # traced by `mx.compile` or a transform
            return None
        return numbers

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        if self._is_compiled:  # a program without shapes can hold no function of ours
            return mx.where(condition, a, b)
        a, b = (x if isinstance(x, mx.array) else mx.array(x, y.dtype) for x, y in ((a, b), (b, a)))
        return _selected(*mx.broadcast_arrays(condition, a, b))

    def size(self, x: Array, axis: int) -> Any:
        if not x.size:  # no row is first
            return super().size(x, axis)
        return mx.sum(self._ones(x, axis), axis=axis, keepdims=True)

    def count_rows(self, logits: Array, axis: int, dtype: str) -> Any:
        if not logits.size:
            return super().count_rows(logits, axis, dtype)
        return self.count(self._like(mx.array(1), self._first(logits, axis)), dtype)

    def classes(self, like: Array, axis: int) -> Array:
        return mx.cumsum(self._ones(like, axis), axis=axis) - 1

    def along(self, vector: Array, like: Array, axis: int) -> Array:
        return mx.expand_dims(vector, [i for i in range(like.ndim) if i != axis])

    def repeat(self, weights: Array, like: Array, axis: int) -> Array:
        return self._like(weights, self._first(like, axis))

    def pick_class(self, weights: Array, ids: Array) -> Array:
        ids = mx.expand_dims(ids, -1)
        weights = self.along(weights, ids, ids.ndim - 1)
        return mx.squeeze(mx.take_along_axis(weights, ids, axis=-1), axis=-1)

    def _ones(self, like: Array, axis: int) -> Array:
        """A one for each class, laid along the class axis."""
        ones = self._like(mx.array(1), like)
        for other in range(like.ndim):
            ones = ones if other == axis else self._first(ones, other)
        return ones

    def _first(self, x: Array, axis: int) -> Array:
        """The first entries along an axis; `take` and slices keep the sizes that they saw."""
        zero = mx.zeros((1,) * x.ndim, dtype=mx.int32)
        return mx.take_along_axis(mx.stop_gradient(x), zero, axis=axis)

    def _like(self, x: Array, other: Array) -> Array:
        """`x`, repeated to the shape of `other`."""
        return mx.broadcast_arrays(x, mx.stop_gradient(other))[0]

    # Where an axis is empty, MLX reduces what its memory held before, and may never end.
    def max(self, x: Array, axis: int) -> Array:
        return super().max(x, axis) if x.size else self._nothing(x, axis)

    def sum(self, x: Array, axis: int) -> Array:
        return super().sum(x, axis) if x.size else self._nothing(x, axis)

    def any(self, x: Array, axis: int) -> Array:
        return super().any(x, axis) if x.size else self._nothing(x != 0, axis)

    def _nothing(self, x: Array, axis: int) -> Array:
        return mx.zeros(kept(x.shape, axis), dtype=x.dtype)

    def total(self, x: Array) -> Array:
        if not x.size:
            return mx.zeros((), dtype=x.dtype)
        if self._is_compiled or x.size < MANY:
            return mx.sum(x)
        # On a processor MLX adds one by one, and what is lost of each number is lost of the sum.
        flat = x.reshape(-1)
        row = math.isqrt(x.size)
        whole = x.size // row * row
        total = mx.sum(mx.sum(flat[:whole].reshape(-1, row), axis=1))
        return total + mx.sum(flat[whole:]) if whole < x.size else total

    def to_numpy(self, array: Array) -> Any:
        is_bfloat16 = array.dtype == mx.bfloat16
        try:
            return np.asarray(array.astype(mx.float32) if is_bfloat16 else array)
        except ValueError:  # traced by `mx.compile`
            return None

    def from_numpy(self, values: Any, like: Array) -> Array:
        return mx.array(values)

    def as_index(self, x: Array) -> Array:
        # A gather refuses indices that depend on a differentiated array, on weights here.
        return mx.stop_gradient(self.cast(x, "int64"))

    def equals(self, labels: Array, value: int) -> Array:
        name = str(labels.dtype).rpartition(".")[2]
        return labels == mx.array(np.asarray(value, name))

    def stop_gradient(self, x: Array) -> Array:
        return mx.stop_gradient(x)

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(getattr(self.xp, dtype))

    def cast_like(self, x: Array, like: Array) -> Array:
        return x.astype(like.dtype)
