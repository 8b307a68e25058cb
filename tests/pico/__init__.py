"""Pico, an array library on NumPy without a namespace or any protocol.

`pytest -p tests.pico.plugin --backend pico` tests it as the newest backend of this package.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import bool, float32, float64, int32, int64  # noqa: A004, F401 - its dtypes

FUNCTIONS = (
    "any",
    "arange",
    "argmax",
    "asarray",
    "astype",
    "broadcast_to",
    "concatenate",
    "exp",
    "expand_dims",
    "isfinite",
    "isnan",
    "log",
    "matmul",
    "max",
    "mean",
    "reshape",
    "squeeze",
    "stack",
    "sum",
    "take",
    "take_along_axis",
    "tanh",
    "transpose",
    "where",
    "zeros_like",
)
OPERATORS = (
    *("add", "sub", "mul", "truediv", "floordiv", "radd", "rsub", "rmul", "rtruediv", "neg", "abs"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "invert"),
)


class Array:
    """An array of this library."""

    __module__ = "pico"

    def __init__(self, data: Any) -> None:
        self.data = np.asarray(data)
        self.shape, self.dtype, self.ndim = self.data.shape, self.data.dtype, self.data.ndim

    @property
    def T(self) -> "Array":  # noqa: N802 (as all libraries name it)
        """With its axes in the other order."""
        return type(self)(self.data.T)

    def __getitem__(self, place: Any) -> "Array":
        return type(self)(self.data[_bare(place)])


def _bare(argument: Any) -> Any:
    if isinstance(argument, list):
        return [*map(_bare, argument)]
    return argument.data if isinstance(argument, Array) else argument


def furnish(kind: type[Array], namespace: dict[str, Any]) -> None:
    """Give a kind of array the operators of NumPy, and its module NumPy's functions on it."""

    def lifted(function: Callable[..., Any]) -> Callable[..., Array]:
        @functools.wraps(function)
        def call(*arguments: Any, device: object = None, **options: Any) -> Array:
            return kind(function(*map(_bare, arguments), **options))

        return call

    for name in OPERATORS:
        setattr(kind, f"__{name}__", lifted(getattr(np.ndarray, f"__{name}__")))
    namespace |= {name: lifted(getattr(np, name)) for name in FUNCTIONS}


furnish(Array, globals())
