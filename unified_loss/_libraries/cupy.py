"""CuPy."""

from typing import ClassVar

import numpy as np

from unified_loss._libraries._dialect import functions
from unified_loss._libraries._library import HostArray, Library
from unified_loss._types import Array


class Cupy(Library):  # pragma: no cover (needs a GPU)
    """CuPy."""

    floats = ("float16", "float32", "float64")
    needs_gpu = True
    dialect = functions(
        "cp",
        cast=lambda x, dtype: f"{x}.astype(cp.{dtype})",
        one_hot=lambda x, classes: f"cp.eye({classes}, dtype=cp.float32)[{x}]",
    )
    aliases: ClassVar = {"cp": "cupy"}

    def to_numpy(self, array: Array) -> HostArray:
        """CuPy copies to the host only when told to."""
        return np.asarray(self.xp.asnumpy(array), np.float64)

    def device(self, array: Array) -> str:
        """A number to CuPy."""
        return f"cuda:{array.device.id}"


LIBRARY = Cupy
