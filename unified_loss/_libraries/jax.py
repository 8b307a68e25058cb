"""JAX."""

import contextlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from unified_loss._libraries._dialect import functions
from unified_loss._libraries._library import Function, Library
from unified_loss._types import Array


class Jax(Library):
    """JAX in its default 32 bits, 64 where they are switched on."""

    module = "jax.numpy"
    floats = ("float16", "bfloat16", "float32", "float64")
    needs: ClassVar = {"float64": "with `jax_enable_x64`"}
    index_dtype = "int32"
    has_autodiff = True
    compiler = "`jax.jit`"
    compiles_operations = True
    dialect = functions(
        "jnp",
        cast=lambda x, dtype: f"{x}.astype(jnp.{ {'int64': 'int32'}.get(dtype, dtype) })",
        one_hot=lambda x, classes: f"jax.nn.one_hot({x}, {classes})",
        stack=lambda x, _: f"jnp.asarray({x})",  # which reads nested ones, too
        resize=lambda x, value: f'jax.image.resize({x}, {value[2]}, "nearest")',
    )
    aliases: ClassVar = {"jnp": "jax.numpy", "jax": "jax"}

    def has_dtype(self, dtype: str) -> bool:
        """JAX has 64 bits only where they are switched on."""
        return dtype in self.floats and (dtype != "float64" or self._has_64_bits())

    def _has_64_bits(self) -> bool:
        return bool(self.package.config.jax_enable_x64)

    def precision(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        """64 bits for float64."""
        context: contextlib.AbstractContextManager[Any]
        context = self.package.enable_x64(dtype == "float64")
        return context

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """An array; integers that 32 bits cannot hold stay in NumPy."""
        values = np.asarray(values)
        wanted = values.dtype if dtype is None else self.xp.dtype(dtype)
        if wanted.kind in "iu" and wanted.itemsize == 8 and not self._has_64_bits():
            return values.astype(wanted)
        return self.xp.asarray(values, dtype)

    def device(self, array: Array) -> str:
        """As JAX names its platform."""
        (device,) = array.devices()
        return f"{device.platform}:{device.id}"

    def mapped(self, array: Array) -> tuple[int, ...]:
        """By `jax.vmap`, the innermost last; inside of a `jax.jit` there nobody knows."""
        sizes: list[int] = []
        while type(array).__name__ == "BatchTracer" or hasattr(array, "primal"):
            if hasattr(array, "primal"):  # of a gradient
                array = array.primal
                continue
            if isinstance(array.batch_dim, int):
                sizes.append(array.val.shape[array.batch_dim])
            array = array.val
        return tuple(sizes[::-1])

    def compiled(self, function: Function, **options: Any) -> Function:
        """By `jax.jit`."""
        jitted: Function = self.package.jit(function, **options)
        return jitted

    def value_and_gradients(self, function: Function, places: Sequence[int] = (0,)) -> Function:
        """By `jax.value_and_grad`."""
        both: Function = self.package.value_and_grad(function, tuple(places))
        return both


LIBRARY = Jax
