"""One adapter per backend: how to make, read, trace and differentiate its arrays."""

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import unified_loss
from tests.problems import Array, Problem

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


class Backend:
    """What the tests need of a library; the attributes and methods below fit NumPy."""

    name = "numpy"
    module = "numpy"
    modes: tuple[str, ...] = ("eager",)
    floats: tuple[str, ...] = ("float16", "float32", "float64")
    integers = INTEGERS
    has_autodiff = False
    reads_labels = True  # eager label values are read, and bad ones raise
    compiles: tuple[str, ...] = ("traced",)  # modes in which every new call costs a compilation

    def is_installed(self) -> bool:
        """Whether the library can be imported, without importing it."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def library(self) -> Any:
        """The library, imported when a test first needs it."""
        return importlib.import_module(self.module)

    def precision(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        """A context in which the library can compute in `dtype`."""
        return contextlib.nullcontext()

    def asarray(self, values: Any, dtype: str | None = None) -> Any:
        """An array of the library."""
        return np.array(values, dtype)

    def to_numpy(self, array: Any) -> Array:
        """The values of a floating array in float64, where each has its place."""
        return np.asarray(array).astype(np.float64)

    def dtype_name(self, array: Any) -> str:
        """The dtype of an array, as NumPy names it."""
        dtype = array.dtype
        return getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]

    def owns(self, array: Any) -> bool:
        """Whether a result is of the library."""
        return isinstance(array, np.ndarray | np.generic)

    def total(self, array: Any, axis: int | None = None) -> Any:
        """The sum over an axis, or of all entries."""
        return array.sum(axis)

    def trace(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as the library's compiler runs it."""
        raise NotImplementedError

    def differentiate(
        self, function: Callable[..., Any], places: Sequence[int], arrays: Sequence[Any]
    ) -> Sequence[Any]:
        """The gradient of a scalar function in the arguments at `places`."""
        raise NotImplementedError

    def poisons(self, mode: str) -> bool:
        """Whether a bad label gives NaN, as its value cannot be read."""
        return mode == "traced" or not self.reads_labels

    def summed(self, values: Array, axis: int | None) -> Array:
        """`values` summed by the library in their own dtype."""
        with self.precision(values.dtype.name):
            array = self.asarray(values, values.dtype.name)
            return self.to_numpy(self.total(array, axis)).astype(values.dtype)

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
                return self.total(loss)

            function = self.trace(total) if mode == "traced" else total
            places = [names.index(name) for name in wrt]
            slopes = self.differentiate(function, places, list(arrays.values()))
            return [self.to_numpy(slope) for slope in slopes]


class NumPy(Backend):
    """NumPy; with ml_dtypes it has bfloat16 too."""

    def __init__(self) -> None:
        if importlib.util.find_spec("ml_dtypes"):
            self.floats = ("bfloat16", *self.floats)

    def asarray(self, values: Any, dtype: str | None = None) -> Any:
        """A NumPy array."""
        if dtype == "bfloat16":
            import ml_dtypes

            return np.array(values, ml_dtypes.bfloat16)
        return np.array(values, dtype)


class Torch(Backend):
    """PyTorch, traced by `torch.compile` into one graph."""

    name = module = "torch"
    modes = ("eager", "traced")
    floats = ("float16", "bfloat16", "float32", "float64")
    has_autodiff = True

    def asarray(self, values: Any, dtype: str | None = None) -> Any:
        """A tensor."""
        return self.library.tensor(np.asarray(values), dtype=dtype and getattr(self.library, dtype))

    def to_numpy(self, array: Any) -> Array:
        """The values without their graph."""
        return array.detach().double().numpy()

    def owns(self, array: Any) -> bool:
        """A tensor."""
        return isinstance(array, self.library.Tensor)

    def trace(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Dynamo's graph, run eagerly: inductor costs seconds a shape."""
        self.library._dynamo.reset()
        return self.library.compile(function, backend="eager", fullgraph=True, dynamic=False)

    def differentiate(
        self, function: Callable[..., Any], places: Sequence[int], arrays: Sequence[Any]
    ) -> Sequence[Any]:
        """By a backward pass."""
        chosen = [arrays[place].requires_grad_() for place in places]
        return self.library.autograd.grad(function(*arrays), chosen)


class Jax(Backend):
    """JAX in its default 32 bits; float64 problems run with 64."""

    name = module = "jax"
    modes = compiles = ("eager", "traced")
    floats = ("float16", "bfloat16", "float32", "float64")
    has_autodiff = True

    def precision(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        """64 bits for float64."""
        return self.library.enable_x64(dtype == "float64")

    def asarray(self, values: Any, dtype: str | None = None) -> Any:
        """An array; what 32 bits cannot hold stays in NumPy."""
        values = np.asarray(values)
        if values.dtype.kind in "iu" and values.itemsize == 8 and not self._has_64_bits():
            return values
        return self.library.numpy.asarray(values, dtype)

    def _has_64_bits(self) -> bool:
        return self.library.config.jax_enable_x64

    def owns(self, array: Any) -> bool:
        """A JAX array."""
        return isinstance(array, self.library.Array)

    def trace(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`jax.jit`."""
        return self.library.jit(function)

    def differentiate(
        self, function: Callable[..., Any], places: Sequence[int], arrays: Sequence[Any]
    ) -> Sequence[Any]:
        """`jax.grad`."""
        return self.library.grad(function, tuple(places))(*arrays)


class TensorFlow(Backend):
    """TensorFlow, traced by `tf.function`."""

    name = module = "tensorflow"
    modes = ("eager", "traced")
    floats = ("float16", "bfloat16", "float32", "float64")
    has_autodiff = True

    def asarray(self, values: Any, dtype: str | None = None) -> Any:
        """A tensor."""
        tensor = self.library.constant(np.asarray(values))
        return tensor if dtype is None else self.library.cast(tensor, dtype)

    def to_numpy(self, array: Any) -> Array:
        """The values; the gradient of a gather is made dense."""
        return self.library.convert_to_tensor(array).numpy().astype(np.float64)

    def owns(self, array: Any) -> bool:
        """A tensor."""
        return isinstance(array, self.library.Tensor)

    def total(self, array: Any, axis: int | None = None) -> Any:
        """The sum over an axis, or of all entries."""
        return self.library.reduce_sum(array, axis)

    def trace(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`tf.function`."""
        return self.library.function(function)

    def differentiate(
        self, function: Callable[..., Any], places: Sequence[int], arrays: Sequence[Any]
    ) -> Sequence[Any]:
        """By a tape."""
        chosen = [arrays[place] for place in places]
        with self.library.GradientTape() as tape:
            tape.watch(chosen)
            value = function(*arrays)
        return tape.gradient(value, chosen)


class ArrayApiStrict(Backend):
    """The array API, and nothing beside it."""

    name = module = "array_api_strict"
    floats = ("float32", "float64")

    def asarray(self, values: Any, dtype: str | None = None) -> Any:
        """An array."""
        return self.library.asarray(np.array(values), dtype=dtype and getattr(self.library, dtype))

    def owns(self, array: Any) -> bool:
        """An array of the library."""
        return type(array).__module__.startswith(self.name)

    def total(self, array: Any, axis: int | None = None) -> Any:
        """The sum over an axis, or of all entries."""
        return self.library.sum(array, axis=axis)


class Dask(Backend):
    """Dask: always lazy; "traced" means many chunks, along the classes too."""

    name = "dask"
    module = "dask.array"
    modes = compiles = ("eager", "traced")
    reads_labels = False

    def is_installed(self) -> bool:
        """Whether Dask can be imported."""
        return importlib.util.find_spec("dask") is not None

    def asarray(self, values: Any, dtype: str | None = None) -> Any:
        """An array in one chunk."""
        return self.library.from_array(np.array(values, dtype), chunks=-1)

    def to_numpy(self, array: Any) -> Array:
        """The computed values."""
        return np.asarray(array.compute(scheduler="synchronous")).astype(np.float64)

    def owns(self, array: Any) -> bool:
        """A lazy array."""
        return isinstance(array, self.library.Array)

    def on_arrays(
        self, function: Callable[..., Any], arrays: dict[str, Any], mode: str, **options: Any
    ) -> Any:
        """Build the graph; computing anything meanwhile is an error."""
        if mode == "traced":
            arrays = {name: array.rechunk(_thirds(array)) for name, array in arrays.items()}
        with importlib.import_module("dask").config.set(scheduler=_refuse_to_compute):
            return function(**arrays, **options)


def _thirds(array: Any) -> tuple[int, ...]:
    return tuple(max(1, -(-size // 3)) for size in array.shape)


def _refuse_to_compute(*_: Any, **__: Any) -> None:
    message = "a lazy graph was computed"
    raise AssertionError(message)


class Mlx(Backend):
    """MLX: lazy, so label values are not read; `mx.compile` runs a C++ compiler for each call."""

    name = "mlx"
    module = "mlx.core"
    floats = ("float16", "bfloat16", "float32")  # its float64 has an `exp` of float32 precision
    has_autodiff = True
    reads_labels = False

    def is_installed(self) -> bool:
        """Whether MLX can be imported."""
        return importlib.util.find_spec("mlx") is not None

    def asarray(self, values: Any, dtype: str | None = None) -> Any:
        """An array; float64 stays float64 only when asked for."""
        values = np.asarray(values)
        if values.dtype == np.float64:
            return self.library.array(values, getattr(self.library, dtype or "float64"))
        return self.library.array(values, dtype and getattr(self.library, dtype))

    def total(self, array: Any, axis: int | None = None) -> Any:
        """Where an axis is empty, MLX adds up what its memory held, and may never end."""
        if array.size:
            return self.library.sum(array, axis=axis)
        shape = () if axis is None else np.empty(array.shape).sum(axis).shape
        return self.library.zeros(shape, dtype=array.dtype)

    def to_numpy(self, array: Any) -> Array:
        """The values; NumPy cannot read MLX's bfloat16."""
        if self.dtype_name(array) == "bfloat16":
            array = array.astype(self.library.float32)
        return np.array(array).astype(np.float64)

    def owns(self, array: Any) -> bool:
        """An MLX array."""
        return isinstance(array, self.library.array)

    def differentiate(
        self, function: Callable[..., Any], places: Sequence[int], arrays: Sequence[Any]
    ) -> Sequence[Any]:
        """`mx.grad`."""
        slopes = self.library.grad(function, list(places))(*arrays)
        return slopes if isinstance(slopes, tuple | list) else [slopes]


BACKENDS = {
    backend.name: backend
    for backend in (NumPy(), Torch(), Jax(), TensorFlow(), ArrayApiStrict(), Dask(), Mlx())
}
