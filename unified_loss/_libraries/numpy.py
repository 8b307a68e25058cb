"""NumPy."""

import importlib.util
from typing import Any, ClassVar

import numpy as np

from unified_loss._libraries._dialect import NUMPY
from unified_loss._libraries._library import Library
from unified_loss._types import Array


class NumPy(Library):
    """NumPy; with ml_dtypes it has bfloat16 too."""

    floats: tuple[str, ...] = ("float16", "float32", "float64")
    needs: ClassVar = {"bfloat16": "with `ml_dtypes`"}
    dialect = NUMPY
    aliases: ClassVar = {"np": "numpy"}

    def __init__(self, name: str, device: str | None = None) -> None:
        super().__init__(name, device)
        if importlib.util.find_spec("ml_dtypes"):
            self.floats = ("bfloat16", *self.floats)

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """A copy."""
        if dtype == "bfloat16":
            import ml_dtypes

            return np.array(values, ml_dtypes.bfloat16)
        return np.array(values, dtype)


LIBRARY = NumPy
