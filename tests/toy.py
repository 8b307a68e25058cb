"""An array-API library on NumPy that nothing knows of: this module is its namespace."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import bool, float32, float64, int32, int64  # noqa: A004, F401 - its dtypes

FUNCTIONS = (
    "arange",
    "asarray",
    "astype",
    "exp",
    "expand_dims",
    "isfinite",
    "log",
    "max",
    "reshape",
    "squeeze",
    "sum",
    "take",
    "take_along_axis",
    "any",
    "where",
)
OPERATORS = ("add", "sub", "mul", "truediv", "radd", "rsub", "rmul", "neg")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "invert")


class Array:
    """An array of this library."""

    def __init__(self, data: Any) -> None:
        self.data = np.asarray(data)
        self.shape, self.dtype, self.ndim = self.data.shape, self.data.dtype, self.data.ndim
        self.size, self.device = self.data.size, "toy"

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return sys.modules[__name__]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.data


def lifted(function: Callable[..., Any]) -> Callable[..., Array]:
    """A NumPy function on the arrays of this library."""

    @functools.wraps(function)
    def call(*arguments: Any, device: str = "toy", **options: Any) -> Array:
        data = (one.data if isinstance(one, Array) else one for one in arguments)
        return Array(function(*data, **options))

    return call


for name in OPERATORS + COMPARISONS:
    setattr(Array, f"__{name}__", lifted(getattr(np.ndarray, f"__{name}__")))
globals().update({name: lifted(getattr(np, name)) for name in FUNCTIONS})
