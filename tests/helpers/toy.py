"""An array-API library on NumPy that nothing knows of: this module is its namespace."""

import sys
from typing import Any

from numpy import bool, float32, float64, int32, int64  # noqa: A004, F401 - its dtypes

from tests import pico


class Array(pico.Array):
    """An array of this library."""

    __module__ = __name__

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.size, self.device = self.data.size, "toy"

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return sys.modules[__name__]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.data


pico.furnish(Array, globals())
