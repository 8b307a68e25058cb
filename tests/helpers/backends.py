"""What the tests do with each array library, by what its `Library` tells of it."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import unified_loss
from tests.helpers.problems import Array, Problem
from unified_loss import _libraries as libraries
from unified_loss._libraries import Library
from unified_loss._rules import package_of

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


class Backend:
    """A library under test, whose arrays are on one device."""

    def __init__(self, library: Library) -> None:
        self.library, self.name = library, library.name
        self.device = library.chosen_device
        self.floats, self.has_autodiff = library.floats, library.has_autodiff
        self.modes = ("eager", "traced") if library.compiler else ("eager",)
        # Modes in which every new call costs a compilation.
        self.compiles = self.modes if library.compiles_operations else ("traced",)
        # Whether eager label values are read, and bad ones raise.
        self.reads_labels = not library.is_lazy and self.device == "cpu"
        self.is_installed, self.precision = library.is_installed, library.precision
        self.asarray = library.asarray

    def to_numpy(self, array: Any) -> Array:
        """The values of a floating array in float64, where each has its place."""
        return self.library.to_numpy(array)

    def dtype_name(self, array: Any) -> str:
        """The dtype of an array, as NumPy names it."""
        dtype = array.dtype
        return getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]

    def owns(self, array: Any) -> bool:
        """Whether a result is of the library."""
        return package_of(type(array)) == package_of(type(self.asarray(np.zeros(1), "float32")))

    def trace(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as the library's compiler runs it."""
        return self.library.compiled(function)

    def poisons(self, mode: str) -> bool:
        """Whether a bad label gives NaN, as its value cannot be read."""
        return mode == "traced" or not self.reads_labels

    def summed(self, values: Array, axis: int | None) -> Array:
        """`values` summed by the library in their own dtype."""
        with self.precision(values.dtype.name):
            array = self.asarray(values, values.dtype.name)
            return self.to_numpy(self.library.sum(array, axis)).astype(values.dtype)

    def place(self, problem: Problem, dtype: str) -> dict[str, Any]:
        """The array arguments of a problem, the logits in `dtype`."""
        return {
            name: self.asarray(values, dtype if name == "logits" else None)
            for name, values in problem.arrays.items()
        }

    def call(
        self,
        problem: Problem,
        dtype: str,
        mode: str = "eager",
        function: Callable[..., Any] = unified_loss.cross_entropy,
        **options: Any,
    ) -> Any:
        """What `function` returns for a problem, as the library's own array or arrays."""
        with self.precision(dtype):
            arrays = self.place(problem, dtype)
            return self.on_arrays(function, arrays, mode, **problem.options, **options)

    def on_arrays(
        self, function: Callable[..., Any], arrays: dict[str, Any], mode: str, **options: Any
    ) -> Any:
        """Call `function` with keyword arrays, eager or traced."""
        names = tuple(arrays)

        def positional(*values: Any) -> Any:
            return function(**dict(zip(names, values, strict=True)), **options)

        run = self.trace(positional) if mode == "traced" else positional
        return run(*arrays.values())

    def loss(self, problem: Problem, dtype: str, mode: str = "eager", **options: Any) -> Array:
        """The loss in float64."""
        with self.precision(dtype):
            return self.to_numpy(self.call(problem, dtype, mode, **options))

    def closed_form(
        self, problem: Problem, dtype: str, mode: str = "eager", **options: Any
    ) -> tuple[Array, Array]:
        """Loss and gradient of `cross_entropy_with_grad` in float64."""
        function = unified_loss.cross_entropy_with_grad
        with self.precision(dtype):
            loss, gradient = self.call(problem, dtype, mode, function, **options)
            return self.to_numpy(loss), self.to_numpy(gradient)

    def gradients(
        self,
        problem: Problem,
        dtype: str,
        mode: str = "eager",
        wrt: Sequence[str] = ("logits",),
        **options: Any,
    ) -> list[Array]:
        """The gradients of the summed loss by autodiff, in float64."""
        with self.precision(dtype):
            arrays = self.place(problem, dtype)
            names = tuple(arrays)

            def total(*values: Any) -> Any:
                given = dict(zip(names, values, strict=True))
                loss = unified_loss.cross_entropy(**given, **problem.options, **options)
                return self.library.sum(loss)

            function = self.trace(total) if mode == "traced" else total
            places = [names.index(name) for name in wrt]
            _, slopes = self.library.value_and_gradients(function, places)(*arrays.values())
            return [self.to_numpy(slope) for slope in slopes]


class Torch(Backend):
    """Dynamo's graph is run eagerly: inductor costs seconds a shape."""

    def __init__(self, library: Library) -> None:
        super().__init__(library)
        if self.device == "elsewhere":  # which Dynamo cannot fake
            self.modes, self.compiles = ("eager",), ()

    def trace(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """One graph, of this function alone."""
        self.library.xp._dynamo.reset()
        return self.library.compiled(function, backend="eager")


class Dask(Backend):
    """Every call is lazy; "traced" means many chunks, along the classes too."""

    def to_numpy(self, array: Any) -> Array:
        """The values, computed in this thread."""
        with self.library.package.config.set(scheduler="synchronous"):
            return super().to_numpy(array)

    def on_arrays(
        self, function: Callable[..., Any], arrays: dict[str, Any], mode: str, **options: Any
    ) -> Any:
        """Build the graph; computing anything meanwhile is an error."""
        if mode == "traced":
            arrays = {name: array.rechunk(_thirds(array)) for name, array in arrays.items()}
        with self.library.package.config.set(scheduler=_refuse_to_compute):
            return function(**arrays, **options)


def _thirds(array: Any) -> tuple[int, ...]:
    return tuple(max(1, -(-size // 3)) for size in array.shape)


def _refuse_to_compute(*_: Any, **__: Any) -> None:
    message = "a lazy graph was computed"
    raise AssertionError(message)


# These two are tested otherwise than their users use them, for the reasons in their docstrings.
OTHERWISE: dict[str, type[Backend]] = {"torch": Torch, "dask": Dask}
BACKENDS: dict[str, Backend] = {}


def use(device: str) -> None:
    """Put the arrays of the libraries that have the device there, of others on the processor."""
    if device == "cuda":
        os.environ["JAX_PLATFORMS"] = "cuda,cpu"  # the first is where its arrays are
    if device == "elsewhere":
        from tests.helpers import torch_elsewhere

        torch_elsewhere.register()
    BACKENDS.clear()
    for name in libraries.known_names():
        library = libraries.named(name, device if _has(name, device) else "cpu")
        if not library.needs_gpu or library.chosen_device != "cpu":
            BACKENDS[name] = OTHERWISE.get(name, Backend)(library)


def _has(library: str, device: str) -> bool:
    return library == "torch" or (device == "cuda" and library in {"cupy", "jax"})


use("cpu")
