"""An array library that stands for CuPy: its arrays are as if on a GPU, and nobody may wait.

They are NumPy's inside, and tell how large the arrays are that a call makes. Whatever asks Python
for a value raises.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

BINARY = ("add", "sub", "mul", "truediv", "and_", "or_", "eq", "ne", "lt", "le", "gt", "ge")
REFLECTED = ("add", "sub", "mul", "truediv", "and_", "or_")
UNARY = ("neg", "invert", "abs")
READS = ("bool", "float", "int", "index", "complex", "iter", "array")


class RemoteArray:
    """An array whose values Python cannot see."""

    made: ClassVar[list[int] | None] = None  # the sizes of arrays, while they are counted
    device = "remote:0"

    def __init__(self, host: Any) -> None:
        self._host = np.asarray(host)

    def __array_namespace__(self, **_: Any) -> Any:
        """The functions."""
        return Namespace()

    def __getattr__(self, name: str) -> Any:
        if name in {"dtype", "ndim", "shape", "size"}:
            return getattr(self._host, name)
        if name in {"T", "reshape", "swapaxes"}:
            return remote(getattr(self._host, name))
        raise AttributeError(name)

    def __getitem__(self, place: Any) -> "RemoteArray":
        return remote(self._host[home(place)])

    def __setitem__(self, place: Any, value: Any) -> None:
        self._host[home(place)] = home(value)


RemoteArray.__module__ = "cupy"  # the package whose way through the backend they take


class Namespace:
    """NumPy's functions on such arrays."""

    __name__ = "remote"

    def __getattr__(self, name: str) -> Any:
        if name == "astype":
            return remote(lambda x, dtype, **options: x.astype(dtype, **options))
        return remote(getattr(np, name))


def home(value: Any) -> Any:
    """What NumPy knows it as."""
    if isinstance(value, tuple | list):
        return type(value)(map(home, value))
    return value._host if isinstance(value, RemoteArray) else value


def remote(value: Any) -> Any:
    """An array, or a function of arrays, as this library has it."""
    if isinstance(value, np.ndarray | np.generic):
        made = np.asarray(value)
        if RemoteArray.made is not None and made.base is None:  # no view
            RemoteArray.made.append(made.size)
        return RemoteArray(made)
    if isinstance(value, type) or not callable(value):
        return value

    def function(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        return remote(value(*home(args), **{name: home(each) for name, each in kwargs.items()}))

    return function


@contextmanager
def sizes_made() -> Iterator[list[int]]:
    """The sizes of all arrays that are made meanwhile, in the order of making."""
    RemoteArray.made = found = []
    try:
        yield found
    finally:
        RemoteArray.made = None


def _operation(name: str, *, reflected: bool = False) -> Callable[..., Any]:
    do = remote(getattr(operator, name))
    return lambda *args: do(*(reversed(args) if reflected else args))


def _refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a value was looked at")


for each in (*BINARY, *UNARY):
    setattr(RemoteArray, f"__{each.rstrip('_')}__", _operation(each))
for each in REFLECTED:
    setattr(RemoteArray, f"__r{each.rstrip('_')}__", _operation(each, reflected=True))
for each in READS:
    setattr(RemoteArray, f"__{each}__", _refuse)
RemoteArray.item = RemoteArray.get = RemoteArray.tolist = _refuse
