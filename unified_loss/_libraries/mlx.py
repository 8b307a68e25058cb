"""MLX."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from unified_loss._libraries._dialect import functions
from unified_loss._libraries._library import Function, HostArray, Library
from unified_loss._types import Array


class Mlx(Library):
    """MLX, whose `mx.compile` is not tried: on a CPU it runs a C++ compiler for each call."""

    module = "mlx.core"
    floats = ("float16", "bfloat16", "float32")  # its float64 has an `exp` of float32 precision
    has_autodiff = True
    is_lazy = True
    dialect = functions(
        "mx",
        cast=lambda x, dtype: f"{x}.astype(mx.{dtype})",
        one_hot=lambda x, classes: f"mx.eye({classes})[{x}]",
    )
    aliases: ClassVar = {"mx": "mlx.core"}

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """An array of the dtype of `values`, float64 too, which MLX would make float32."""
        values = np.asarray(values)
        if values.dtype == np.float64:
            dtype = dtype or "float64"
        return self.xp.array(values, dtype and getattr(self.xp, dtype))

    def to_numpy(self, array: Array) -> HostArray:
        """NumPy cannot read MLX's bfloat16."""
        if array.dtype == self.xp.bfloat16:
            array = array.astype(self.xp.float32)
        return np.array(array).astype(np.float64)

    def device(self, array: Array) -> str:  # noqa: ARG002
        """MLX places operations, not arrays."""
        return str(self.xp.default_device().type).rpartition(".")[2]

    def sum(self, array: Array, axis: int | None = None) -> Array:
        """Where an axis is empty, MLX adds up what its memory held, and may never end."""
        if array.size:
            return self.xp.sum(array, axis=axis)
        shape = () if axis is None else np.empty(array.shape).sum(axis).shape
        return self.xp.zeros(shape, dtype=array.dtype)

    def computed(self, *arrays: Array) -> tuple[Array, ...]:
        """Evaluated."""
        self.xp.eval(*arrays)
        return arrays

    def compiled(self, function: Function, **options: Any) -> Function:
        """By `mx.compile`."""
        fused: Function = self.xp.compile(function, **options)
        return fused

    def value_and_gradients(self, function: Function, places: Sequence[int] = (0,)) -> Function:
        """By `mx.value_and_grad`, which makes no tuple of a single gradient."""
        both: Function = self.xp.value_and_grad(function, list(places))
        if len(places) > 1:
            return both

        def with_tuple(*arrays: Array) -> tuple[Array, Sequence[Array]]:
            value, gradient = both(*arrays)
            return value, (gradient,)

        return with_tuple


LIBRARY = Mlx
