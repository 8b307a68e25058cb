"""Dask."""

from typing import Any, ClassVar

import numpy as np

from unified_loss._libraries._dialect import functions
from unified_loss._libraries._library import Library
from unified_loss._types import Array


class Dask(Library):
    """Dask's arrays, one chunk each."""

    module = "dask.array"
    floats = ("float16", "float32", "float64")
    is_lazy = True
    compiler = "lazy, never computed"
    compiles_operations = True  # each call makes a graph
    dialect = functions(
        "da",
        cast=lambda x, dtype: f'{x}.astype("{dtype}")',
        one_hot=lambda x, classes: f'({x}[..., None] == da.arange({classes})).astype("float32")',
    )
    aliases: ClassVar = {"da": "dask.array"}

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """Dask's dtypes are NumPy's."""
        return self.xp.from_array(np.array(values, dtype), chunks=-1)

    def computed(self, *arrays: Array) -> tuple[Array, ...]:
        """Whose graph has ended."""
        found: tuple[Array, ...] = self.package.persist(*arrays)
        return found


LIBRARY = Dask
