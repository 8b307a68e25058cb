"""MLX: lazy, with autodiff, and a compiler that may not look at sizes."""

from typing import Any

import numpy as np

from unified_loss import _rules as rules
from unified_loss._backends.array_api import ArrayOps
from unified_loss._types import Array


class MlxOps(ArrayOps):
    """MLX differentiates, and takes no Python integer beyond 63 bits.

    ``mx.compile(shapeless=True)`` runs its first program for all other sizes, and tells nobody. So
    sizes are counted and given to no operation; one row and a number an example cost little.
    """

    def size(self, x: Array, axis: int) -> Any:
        return self.xp.sum(self._ones(x, axis), axis=axis, keepdims=True)

    def examples(self, logits: Array, axis: int, dtype: str) -> Any:
        if not logits.size:
            return super().examples(logits, axis, dtype)
        return self.count(self._like(self.xp.array(1), self._first(logits, axis)), dtype)

    def classes(self, like: Array, axis: int) -> Array:
        return self.xp.cumsum(self._ones(like, axis), axis=axis) - 1

    def along(self, vector: Array, like: Array, axis: int) -> Array:
        return self.xp.expand_dims(vector, [i for i in range(like.ndim) if i != axis])

    def repeat(self, weights: Array, like: Array, axis: int) -> Array:
        return self._like(weights, self._first(like, axis))

    def pick_class(self, weights: Array, ids: Array) -> Array:
        ids = self.xp.expand_dims(ids, -1)
        weights = self.along(weights, ids, ids.ndim - 1)
        return self.xp.squeeze(self.xp.take_along_axis(weights, ids, axis=-1), axis=-1)

    def _ones(self, like: Array, axis: int) -> Array:
        """A one for each class, laid along the class axis."""
        ones = self._like(self.xp.array(1), like)
        for other in range(like.ndim):
            ones = ones if other == axis else self._first(ones, other)
        return ones

    def _first(self, x: Array, axis: int) -> Array:
        """The first entries along an axis; `take` and slices keep the sizes that they saw."""
        zero = self.xp.zeros((1,) * x.ndim, dtype=self.xp.int32)
        return self.xp.take_along_axis(self.xp.stop_gradient(x), zero, axis=axis)

    def _like(self, x: Array, other: Array) -> Array:
        """`x`, repeated to the shape of `other`."""
        return self.xp.broadcast_arrays(x, self.xp.stop_gradient(other))[0]

    # Where an axis is empty, MLX reduces what its memory held before, and may never end.
    def max(self, x: Array, axis: int) -> Array:
        return super().max(x, axis) if x.size else self._nothing(x, axis)

    def sum(self, x: Array, axis: int) -> Array:
        return super().sum(x, axis) if x.size else self._nothing(x, axis)

    def any(self, x: Array, axis: int) -> Array:
        return super().any(x, axis) if x.size else self._nothing(x != 0, axis)

    def _nothing(self, x: Array, axis: int) -> Array:
        return self.xp.zeros(rules.kept(x.shape, axis), dtype=x.dtype)

    def total(self, x: Array) -> Array:
        return self.xp.sum(x) if x.size else self.xp.zeros((), dtype=x.dtype)

    def to_numpy(self, array: Array) -> Any:
        is_bfloat16 = array.dtype == self.xp.bfloat16
        try:
            return np.asarray(array.astype(self.xp.float32) if is_bfloat16 else array)
        except ValueError:  # traced by `mx.compile`
            return None

    def from_numpy(self, values: Any, like: Array) -> Array:
        return self.xp.array(values)

    def as_index(self, x: Array) -> Array:
        # A gather refuses indices that depend on a differentiated array, on weights here.
        return self.xp.stop_gradient(self.cast(x, "int64"))

    def equals(self, labels: Array, value: int) -> Array:
        name = str(labels.dtype).rpartition(".")[2]
        return labels == self.xp.array(np.asarray(value, name))

    def stop_gradient(self, x: Array) -> Array:
        return self.xp.stop_gradient(x)

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(getattr(self.xp, dtype))

    def cast_like(self, x: Array, like: Array) -> Array:
        return x.astype(like.dtype)
