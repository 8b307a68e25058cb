"""What is said of each array library."""

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from unified_loss._libraries._dialect import Dialect
from unified_loss._types import Array

HostArray = npt.NDArray[Any]
Function = Callable[..., Any]


class Library:
    """An array library; as it stands here, any that has the names of the array API, and no more."""

    module: ClassVar[str | None] = None  # where the array names are, if not in the package itself
    floats: tuple[str, ...] = ("float32", "float64")  # the dtypes in which losses are right
    # What a dtype of them needs beside the library as it comes.
    needs: ClassVar[Mapping[str, str]] = MappingProxyType({})
    index_dtype: ClassVar[str] = "int64"  # of the class ids that people have there
    has_autodiff: ClassVar[bool] = False
    is_lazy: ClassVar[bool] = False  # even eager values exist only when asked for, and are not read
    needs_gpu: ClassVar[bool] = False
    compiler: ClassVar[str | None] = None  # what a call can go through, as people name it
    compiles_operations: ClassVar[bool] = False  # eager ones too, for every new shape
    # How people write the operations of a fix; empty: a fix is told in words alone.
    dialect: ClassVar[Dialect] = {}
    aliases: ClassVar[Mapping[str, str]] = MappingProxyType({})  # the modules that they write

    def __init__(self, name: str, device: str | None = None) -> None:
        self.name = name
        self.chosen_device = device

    def is_installed(self) -> bool:
        """Whether the library can be found, without importing it."""
        return importlib.util.find_spec(self.name) is not None

    @cached_property
    def xp(self) -> Any:
        """The module that has the array names, imported when it is first asked for."""
        return importlib.import_module(self.module or self.name)

    @property
    def package(self) -> Any:
        """The package itself."""
        return importlib.import_module(self.name)

    @property
    def version(self) -> str:
        """The installed version."""
        holder = self.package if hasattr(self.package, "__version__") else self.xp
        return str(getattr(holder, "__version__", "unknown"))

    def has_dtype(self, dtype: str) -> bool:
        """Whether losses are right in this dtype, with nothing installed or set for it."""
        return dtype in self.floats and dtype not in self.needs

    def precision(self, dtype: str) -> contextlib.AbstractContextManager[Any]:  # noqa: ARG002
        """A context in which the library can compute in this dtype."""
        return contextlib.nullcontext()

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """An array of this library that shares no memory with `values`."""
        return self.xp.asarray(np.array(values), dtype=dtype and getattr(self.xp, dtype))

    def to_numpy(self, array: Array) -> HostArray:
        """Any array of this library as float64 NumPy."""
        return np.asarray(array).astype(np.float64)

    def device(self, array: Array) -> str:  # noqa: ARG002
        """Where the array is."""
        return "cpu"

    def mapped(self, array: Array) -> tuple[int, ...]:  # noqa: ARG002
        """The sizes of the axes that a function which is mapped does not see, where it can tell."""
        return ()

    def sum(self, array: Array, axis: int | None = None) -> Array:
        """The sum along an axis, or of all entries."""
        return self.xp.sum(array, axis=axis)

    def transposed(self, matrix: Array) -> Array:
        """A matrix with its axes swapped."""
        return matrix.T

    def computed(self, *arrays: Array) -> tuple[Array, ...]:
        """Arrays that hold values, and no longer how they come about."""
        return arrays

    def compiled(self, function: Function, **options: Any) -> Function:
        """The function as the compiler of this library runs it, with options of that compiler."""
        raise NotImplementedError

    def value_and_gradients(self, function: Function, places: Sequence[int] = (0,)) -> Function:
        """The function that returns a scalar function's value, and a sequence of gradients.

        They are by the autodiff of this library, in the arguments at `places`.
        """
        raise NotImplementedError
